from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Trainer

from tasks.__main__ import main

TINY = ["--config", "clouds/demo", "--model.architecture", "pspnet", "--data.size", "[32,48]", "--data.output_size",
        "[35,53]", "--trainer.max_epochs", "2", "--panels.pictures", "1"]  # fmt: skip


@dataclass
class Result:
    """What a command ended with.

    Attributes:
        code: Its exit code.
        out: What it wrote to standard output.
        err: What it wrote to standard error.
    """

    code: int
    out: str
    err: str


@pytest.fixture
def make_trainer(tmp_path: Path) -> Callable[..., Trainer]:
    """Makes a quiet trainer on the CPU that writes nothing."""

    def make(**options: Any) -> Trainer:
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
                 "enable_model_summary": False, "num_sanity_val_steps": 0}  # fmt: skip
        return Trainer(accelerator="cpu", default_root_dir=tmp_path, **(quiet | options))

    return make


@pytest.fixture(scope="session")
def tiny(clouds_root: Path) -> list[str]:
    """Options of a small network on small drawn pictures for two epochs."""
    return [*TINY, "--data.root", str(clouds_root)]


@pytest.fixture(scope="session")
def fitted(tiny: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run, fitted once by the command line; tests leave it as it is."""
    folder = tmp_path_factory.mktemp("fitted")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("BELVEDERE_CACHE", str(folder / "cache"))
        assert main(["fit", *tiny, "--output", "run"]) == 0
    return folder / "run"


@pytest.fixture
def belvedere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Result]:
    """Runs a command of the command line in this process and an empty working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BELVEDERE_RUN", "")
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")

    def run(*arguments: str) -> Result:
        monkeypatch.delenv("BELVEDERE_RUN", raising=False)
        capfd.readouterr()
        try:
            code = main(list(arguments))
        except SystemExit as leaving:
            code = int(leaving.code or 0)
        return Result(code, *capfd.readouterr())

    return run
