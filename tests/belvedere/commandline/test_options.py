import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from belvedere.commandline.cli import BelvedereCLI
from callbacks.best import mode_of
from tasks.networks.batch_norm import SyncBatchNorm

Command = Callable[..., Any]


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[BelvedereCLI]]:
    """Records command lines that are parsed; none is executed."""
    seen: list[BelvedereCLI] = []
    monkeypatch.setattr(BelvedereCLI, "_run_subcommand", lambda self, _: seen.append(self))
    return seen


def test_a_moved_checkpoint_is_enough(belvedere: Command, fitted: Path, parsed: list[BelvedereCLI]) -> None:
    shutil.copy(fitted / "checkpoints" / "best.ckpt", "moved.ckpt")
    assert belvedere("test", "--ckpt_path", "moved.ckpt").code == 0
    assert list(parsed[0].datamodule.size) == [32, 48]
    assert parsed[0].model.hparams["architecture"] == "pspnet"
    assert parsed[0].folder == Path("test").absolute()


def test_later_commands_have_the_options_of_the_run(
    belvedere: Command, fitted: Path, parsed: list[BelvedereCLI]
) -> None:
    checkpoint = str(fitted / "checkpoints" / "best.ckpt")
    for command in ("validate", "test", "predict"):
        assert belvedere(command, "--ckpt_path", checkpoint).code == 0
        cli = parsed.pop()
        assert cli.folder == fitted / command
        assert cli.datamodule.batch_size == 4
        assert cli.datamodule.leave_out_gaps
        assert cli.model.optimizer([torch.nn.Parameter(torch.zeros(1))]).defaults["lr"] == 2e-3
        assert not cli.model.freeze_encoder
        assert any(type(callback).__name__ == "SegmentationWriter" for callback in cli.trainer.callbacks)


def test_synchronized_batch_normalization_keeps_activations(
    belvedere: Command, tiny: list[str], parsed: list[BelvedereCLI]
) -> None:
    assert belvedere("fit", *tiny, "--trainer.strategy", "ddp", "--trainer.sync_batchnorm", "true").code == 0
    strategy: Any = parsed[0].trainer.strategy
    assert isinstance(strategy._layer_sync, SyncBatchNorm)  # Lightning has no public way to ask


def test_typed_options_override_those_of_the_run(belvedere: Command, fitted: Path, parsed: list[BelvedereCLI]) -> None:
    Path("mine.yaml").write_text("data: {init_args: {flips: false, batch_size: 2}}")
    typed = ["--config", "mine.yaml", "--data.batch_size", "3", "--data.leave_out_gaps", "false",
             "--model.freeze_encoder", "true", "--model.optimizer.lr", "0.5", "--monitor", "val/auprc"]  # fmt: skip
    for command in ("validate", "test", "predict"):
        assert belvedere(command, *typed, "--ckpt_path", str(fitted / "checkpoints" / "best.ckpt")).code == 0
        cli = parsed.pop()
        assert (cli.datamodule.batch_size, cli.datamodule.flips, cli.datamodule.leave_out_gaps) == (3, False, False)
        assert cli.model.freeze_encoder
        assert cli.model.optimizer([torch.nn.Parameter(torch.zeros(1))]).defaults["lr"] == 0.5
        assert cli.model.hparams["architecture"] == "pspnet"  # and the rest is remembered
        assert cli.config[command].monitor == "val/auprc"


@pytest.mark.parametrize(("monitor", "mode"), [("val/auprc", "max"), ("val/loss", "min"), ("val/dice", "max")])
def test_all_callbacks_watch_the_monitor(
    belvedere: Command, tiny: list[str], parsed: list[BelvedereCLI], monitor: str, mode: str
) -> None:
    assert belvedere("fit", *tiny, "--monitor", monitor).code == 0
    watching = {type(callback).__name__: callback for callback in parsed[0].trainer.callbacks
                if hasattr(callback, "monitor") and type(callback).__name__ != "LastCheckpoint"}  # fmt: skip
    assert watching.keys() == {"EarlyStopping", "BestCheckpoint", "FiniteOrStop", "Curves"}
    assert {callback.monitor for callback in watching.values()} == {monitor}
    assert {watching[name].mode for name in ("EarlyStopping", "BestCheckpoint")} == {mode}


def test_losses_and_errors_are_best_at_their_minimum() -> None:
    smallest = ["loss", "mean_absolute_error", "emd", "emd2"]
    largest = ["dice", "auprc", "balanced_accuracy", "auc", "srcc", "plcc"]
    assert {name: mode_of(f"val/{name}") for name in smallest + largest} == (
        dict.fromkeys(smallest, "min") | dict.fromkeys(largest, "max")
    )


def test_own_configs_are_found_by_path(
    belvedere: Command, tiny: list[str], parsed: list[BelvedereCLI], tmp_path: Path
) -> None:
    Path("elsewhere").mkdir()
    Path("elsewhere/mine.yaml").write_text("data: {init_args: {batch_size: 7}}\ntrainer: {max_epochs: 5}")
    for name in ("elsewhere/mine", str(tmp_path / "elsewhere" / "mine.yaml")):
        assert belvedere("fit", *tiny, "--config", name).code == 0
        assert parsed[-1].datamodule.batch_size == 7
        assert parsed[-1].trainer.max_epochs == 5  # the later config wins over the option typed before it
    assert parsed[-1].folder.parent == tmp_path / "runs" / "clouds"


def test_print_config_prints_the_settings_of_the_run(belvedere: Command, tiny: list[str]) -> None:
    result = belvedere("fit", *tiny, "--data.batch_size", "3", "--print_config")
    assert result.code == 0
    config = yaml.safe_load(result.out)
    assert config["data"]["init_args"]["batch_size"] == 3
    assert config["model"]["init_args"]["architecture"] == "pspnet"
    assert config["trainer"]["use_distributed_sampler"] is False
