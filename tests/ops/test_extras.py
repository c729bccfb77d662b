import importlib.util
from pathlib import Path
from typing import Any

import pytest

from belvedere.__main__ import main
from callbacks import loggers
from ops import extras
from ops.extras import MissingPackageError, check_installed
from tasks.avalanches import AvalanchesTask
from tests.helpers import SMALL

find = importlib.util.find_spec


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a module look as if it were not installed."""

    def hide(module: str) -> None:
        monkeypatch.setattr(extras, "find_spec", lambda name: None if name == module else find(name))

    return hide


def test_a_missing_package_is_named_with_its_command(without: Any) -> None:
    without("sklearn")
    with pytest.raises(MissingPackageError, match=r"Classifiers need.*pip install scikit-learn.*'classifiers'"):
        check_installed("sklearn", "Classifiers need")
    check_installed("xgboost", "Trees need")


def test_boosted_trees_are_rejected_before_training(without: Any) -> None:
    without("xgboost")
    AvalanchesTask(window=17)
    with pytest.raises(MissingPackageError, match="pip install xgboost-cpu"):
        AvalanchesTask(window=17, xgboost_on="predictions")


def test_a_run_without_wandb_logs_to_the_disk(
    without: Any, avalanches_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked() -> bool:
        raise AssertionError("wandb is used")

    without("wandb")
    monkeypatch.setattr(loggers, "logged_in", asked)  # by WandbLogger; the parser remembers the signatures of classes
    config, *options = SMALL["avalanches"]
    options = [each for each in options if each not in ("--config", "debug")]
    options += ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1", "--data.windows_per_epoch", "64"]
    typed = [
        "fit",
        "--config",
        config,
        "--data.root",
        str(avalanches_root),
        "--output",
        str(tmp_path / "run"),
        *options,
    ]
    assert main(typed) == 0
    assert "val/dice" in (tmp_path / "run" / "metrics.csv").read_text()
