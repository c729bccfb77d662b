"""Every logger writes into the folder of its command."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., Any]
LOGGERS = {
    "own": ("callbacks.loggers.CSVLogger", "metrics.csv"),
    "Lightning's": ("{class_path: lightning.pytorch.loggers.CSVLogger, init_args: {save_dir: .}}",
                    "lightning_logs/version_0/metrics.csv"),
}  # fmt: skip


@pytest.mark.parametrize("name", LOGGERS)
def test_one_logger_writes_where_a_list_does(belvedere: Command, tiny: list[str], name: str) -> None:
    path, written = LOGGERS[name]
    Path("metrics.csv").write_text("mine")
    options = ["--config", "debug", "--trainer.logger", path, "--output", "run"]
    assert belvedere("fit", *tiny, *options).code == 0
    assert Path("metrics.csv").read_text() == "mine"
    assert len(list(Path("run").glob(written))) == 1
    assert {path.name for path in Path().iterdir()} <= {"run", "metrics.csv"}


def test_one_logger_of_other_commands(belvedere: Command, fitted: Path) -> None:
    Path("metrics.csv").write_text("mine")
    given = ["--ckpt_path", str(fitted / "checkpoints" / "best.ckpt"), "--trainer.logger", LOGGERS["own"][0]]
    assert belvedere("test", *given, "--output", "tested").code == 0
    assert Path("tested/metrics.csv").read_text().count("\n") == 2
    assert belvedere("predict", *given, "--output", "predicted").code == 0
    assert not Path("predicted/metrics.csv").exists()
    assert Path("metrics.csv").read_text() == "mine"


def test_a_test_continues_the_dashboard_of_its_training(belvedere: Command, tiny: list[str]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    options = ["--config", "debug", "--config", "tensorboard", "--output", "run"]
    assert belvedere("fit", *tiny, *options).code == 0
    assert belvedere("test", "--ckpt_path", "run/checkpoints/best.ckpt").code == 0
    assert not Path("run/test/tensorboard").exists()
    events = EventAccumulator("run/tensorboard", size_guidance={"images": 0}).Reload()
    assert {"lr", "train/loss", "val/dice", "test/dice"} <= set(events.Tags()["scalars"])
    assert events.Tags()["images"] == ["panels", "test/panel"]


def test_a_new_run_does_not_add_to_what_an_earlier_one_has_logged(belvedere: Command, tiny: list[str]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    options = ["--config", "debug", "--config", "tensorboard", "--output", "run"]
    assert belvedere("fit", *tiny, *options, "--trainer.max_epochs", "2").code == 0
    drawn = sorted(Path("run/panels").iterdir())
    assert len(drawn) == 2
    Path("run/tensorboard/notes.txt").write_text("mine")
    assert "already holds a run" in belvedere("fit", *tiny, *options).refusal
    assert sorted(Path("run/panels").iterdir()) == drawn
    shutil.rmtree("run/checkpoints")
    assert belvedere("fit", *tiny, *options).code == 0
    events = EventAccumulator("run/tensorboard").Reload()
    assert len(events.Scalars("lr")) == 1
    assert [path.name for path in Path("run/panels").iterdir()] == ["epoch_0000.png"]
    assert belvedere("fit", *tiny, *options, "--trainer.max_epochs", "2", "--resume", "auto").code == 0
    assert len(EventAccumulator("run/tensorboard").Reload().Scalars("lr")) == 2
    assert len(list(Path("run/panels").iterdir())) == 2
    assert Path("run/tensorboard/notes.txt").read_text() == "mine"


@pytest.mark.slow
def test_a_new_run_does_not_continue_the_dashboard_of_another(
    belvedere: Command, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    logger = "[{class_path: callbacks.loggers.WandbLogger}]"
    options = ["--config", "debug", "--trainer.logger", logger, "--output", "run"]
    Path("run/wandb").mkdir(parents=True)
    Path("run/wandb/id.txt").write_text("another1\n")
    assert belvedere("fit", *tiny, *options).code == 0
    own = Path("run/wandb/id.txt").read_text()
    assert own != "another1\n"
    assert belvedere("fit", *tiny, *options, "--trainer.max_epochs", "2", "--resume", "auto").code == 0
    assert Path("run/wandb/id.txt").read_text() == own
