import csv
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from callbacks.loggers import ID, CSVLogger, LearningRate, ProgressBar, WandbLogger, dashboards, logged_in
from tests.helpers import ROOT
from tests.scripted import Scripted, fit

CONFIGS = ROOT / "configs"
VARIABLES = ("WANDB_MODE", "WANDB_API_KEY", "WANDB_SILENT", "WANDB_DIR", "NETRC", "WANDB_NAME",
             "WANDB_RUN_GROUP")  # fmt: skip


@pytest.fixture(autouse=True)
def stranger(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A user who has never used wandb."""
    for name in VARIABLES:
        monkeypatch.setenv(name, "")  # restores what a logger sets
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)


def test_a_key_in_the_environment_or_the_netrc_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert not logged_in()
    (tmp_path / ".netrc").write_text("machine github.com\n  login me\n")
    assert not logged_in()
    (tmp_path / ".netrc").write_text("machine api.wandb.ai\n  login user\n  password 0\n")
    assert logged_in()
    monkeypatch.setenv("NETRC", str(tmp_path / "other"))
    assert not logged_in()
    monkeypatch.setenv("WANDB_API_KEY", "0")
    assert logged_in()
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert not logged_in()


@pytest.mark.parametrize(
    ("environment", "offline"),
    [
        ({}, True),
        ({"WANDB_API_KEY": "0"}, False),
        ({"WANDB_API_KEY": "0", "WANDB_MODE": "offline"}, True),
        ({"WANDB_MODE": "disabled"}, False),  # nothing is logged at all
    ],
)
def test_without_a_login_runs_are_logged_offline(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, environment: dict[str, str], offline: bool
) -> None:
    caplog.set_level("INFO")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    logger = WandbLogger("run", "belvedere-clouds", "first")
    assert ("logged offline" in caplog.text) is offline
    assert logger.name == "belvedere-clouds"
    assert os.environ.get("WANDB_MODE") == environment.get("WANDB_MODE")  # until it is used


@pytest.mark.slow
def test_an_offline_run_lies_in_its_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    logger = WandbLogger(str(tmp_path / "run"), "belvedere-clouds", "first", group="study")
    assert "this run is logged offline" in caplog.text
    run = logger.experiment
    logger.log_metrics({"val/dice": 0.5}, step=3)
    assert run.offline
    assert run.summary["val/dice"] == 0.5
    assert (run.project, run.group, run.name) == ("belvedere-clouds", "study", "first")
    assert os.environ["WANDB_MODE"] == "dryrun"
    run.finish()
    [folder] = (tmp_path / "run" / "wandb").glob("offline-run-*")
    assert [path.suffix for path in folder.glob("run-*")] == [".wandb"]


@pytest.mark.slow
def test_a_folder_keeps_the_id_of_its_run(tmp_path: Path) -> None:
    assert dashboards(tmp_path) == []
    first = WandbLogger(str(tmp_path), "belvedere-roads", "first").experiment
    first.finish()
    [found] = dashboards(tmp_path)
    assert found["class_path"].endswith("WandbLogger")
    second = WandbLogger(str(tmp_path), "belvedere-roads", "first").experiment
    assert second.id == first.id
    second.finish()
    other = WandbLogger(str(tmp_path / "other"), "belvedere-roads", "first").experiment
    assert other.id != first.id
    other.finish()
    fresh = WandbLogger(str(tmp_path), "belvedere-roads", "first", keep=False).experiment
    assert fresh.id != first.id
    fresh.finish()
    assert (tmp_path / ID).read_text().strip() == fresh.id


class Decayed(Scripted):
    """Halves the learning rate of two groups after every epoch."""

    def configure_optimizers(self) -> Any:
        groups = [{"params": [self.weight], "lr": 0.5}, {"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 0.25}]
        optimizer = torch.optim.SGD(groups)
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)}


def test_the_learning_rate_is_a_metric_of_every_epoch(tmp_path: Path) -> None:
    fit(tmp_path, Decayed([0.1, 0.2, 0.3]), LearningRate(), logger=CSVLogger(str(tmp_path)))
    with (tmp_path / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["lr"]]
    assert [(float(row["lr"]), float(row["lr_1"])) for row in rows] == [(0.5, 0.25), (0.25, 0.125), (0.125, 0.0625)]


@pytest.mark.slow
def test_a_study_names_and_groups_its_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_NAME", "vgg10--seed-1")
    monkeypatch.setenv("WANDB_RUN_GROUP", "roads")
    run = WandbLogger(str(tmp_path), "belvedere-roads", "seed-1").experiment
    assert (run.project, run.group, run.name) == ("belvedere-roads", "roads", "vgg10--seed-1")
    run.finish()


@pytest.mark.parametrize("name", ["defaults", "debug"])
def test_a_csv_is_always_written_and_dashboards_are_added(name: str) -> None:
    loggers = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())["trainer"]["logger"]
    assert loggers[0]["class_path"] == "callbacks.loggers.CSVLogger"
    assert yaml.safe_load((CONFIGS / "tensorboard.yaml").read_text())["trainer"].keys() == {"logger+"}


def log(folder: Path, *rows: tuple[int, dict[str, Any]], keep: bool = False) -> CSVLogger:
    logger = CSVLogger(str(folder), keep=keep)
    for step, metrics in rows:
        logger.log_metrics(metrics, step)
    return logger


def lines(folder: Path) -> list[str]:
    return (folder / "metrics.csv").read_text().splitlines()


def test_a_resumed_run_keeps_its_rows(tmp_path: Path) -> None:
    log(tmp_path, (1, {"val/loss": 1.0}), (2, {"val/loss": torch.tensor(2.0)}))
    log(tmp_path, (3, {"val/dice": 3.0}), keep=True)
    assert lines(tmp_path) == ["step,val/dice,val/loss", "1,,1.0", "2,,2.0", "3,3.0,"]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]


def test_a_new_measurement_replaces_the_rows_of_an_earlier_one(tmp_path: Path) -> None:
    log(tmp_path, (0, {"val/loss": 1.0}))
    log(tmp_path)
    assert lines(tmp_path) == ["step,val/loss", "0,1.0"]  # until something is logged
    log(tmp_path, (0, {"test/loss": 2.0}))
    assert lines(tmp_path) == ["step,test/loss", "0,2.0"]


def test_rows_from_a_step_on_and_incomplete_ones_are_cut(tmp_path: Path) -> None:
    for step in range(4):
        log(tmp_path, (step, {"val/loss": step / 2, "epoch": step}), (step, {"train/loss": step, "epoch": step}),
            keep=True)  # fmt: skip
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("9")  # killed while it wrote
    logger = CSVLogger(str(tmp_path), keep=True)
    logger.cut(2)
    logger.log_metrics({"train/loss": 7.0, "lr": 0.5, "epoch": 2}, 2)
    header, *rows = lines(tmp_path)
    assert header == "epoch,lr,step,train/loss,val/loss"
    assert rows == ["0,,0,,0.0", "0,,0,0,", "1,,1,,0.5", "1,,1,1,", "2,0.5,2,7.0,"]
    logger.cut(0)
    assert lines(tmp_path) == ["epoch,lr,step,train/loss,val/loss"]
    CSVLogger(str(tmp_path / "new"), keep=True).cut(0)
    assert not (tmp_path / "new").exists()


def test_without_a_terminal_each_epoch_has_a_line_with_its_own_metrics(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    module = Scripted([{"loss": float(epoch), "dice": 0.5} for epoch in range(4)])
    fit(tmp_path, module, ProgressBar(), enable_progress_bar=True, check_val_every_n_epoch=2)
    assert [each for each in caplog.messages if each.startswith("Epoch ")] == [
        "Epoch 0 of 4: ",
        "Epoch 1 of 4: val/loss 1.0000, val/dice 0.5000",
        "Epoch 2 of 4: ",
        "Epoch 3 of 4: val/loss 3.0000, val/dice 0.5000",
    ]
