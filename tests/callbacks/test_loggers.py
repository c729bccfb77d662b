import os
from pathlib import Path

import pytest
import yaml

from callbacks.loggers import CSVLogger, WandbLogger, logged_in

CONFIGS = Path(__file__).parents[2] / "configs"
VARIABLES = ("WANDB_MODE", "WANDB_API_KEY", "WANDB_SILENT", "WANDB_DIR", "NETRC", "WANDB_NAME",
             "WANDB_RUN_GROUP")  # fmt: skip


@pytest.fixture(autouse=True)
def stranger(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Somebody who has never used wandb."""
    for name in VARIABLES:
        monkeypatch.setenv(name, "")  # so that what a logger sets is taken back
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
        ({"WANDB_MODE": "disabled"}, False),  # whoever wants nothing gets nothing
    ],
)
def test_who_is_not_logged_in_logs_offline(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], offline: bool
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    logger = WandbLogger("run", "belvedere-clouds", "first")
    assert logger._offline is offline
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
def test_a_study_names_and_groups_its_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_NAME", "vgg10--seed-1")
    monkeypatch.setenv("WANDB_RUN_GROUP", "roads")
    run = WandbLogger(str(tmp_path), "belvedere-roads", "seed-1").experiment
    assert (run.project, run.group, run.name) == ("belvedere-roads", "roads", "vgg10--seed-1")
    run.finish()


@pytest.mark.parametrize("name", ["defaults", "debug"])
def test_a_csv_is_always_written(name: str) -> None:
    loggers = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())["trainer"]["logger"]
    assert loggers[0]["class_path"] == "callbacks.loggers.CSVLogger"


def test_dashboards_are_added_to_it() -> None:
    overlay = yaml.safe_load((CONFIGS / "tensorboard.yaml").read_text())
    assert overlay["trainer"].keys() == {"logger+"}


def test_a_training_that_goes_on_keeps_its_rows(tmp_path: Path) -> None:
    for keep, values in ((False, [1.0, 2.0]), (True, [3.0])):
        logger = CSVLogger(str(tmp_path), keep=keep)
        for value in values:
            logger.log_metrics({"val/dice" if keep else "val/loss": value}, step=int(value))
        logger.save()
    rows = (tmp_path / "metrics.csv").read_text().split()
    assert rows == ["step,val/dice,val/loss", "1,,1.0", "2,,2.0", "3,3.0,"]
    CSVLogger(str(tmp_path)).log_metrics({"val/loss": 4.0}, step=4)
    assert not (tmp_path / "metrics.csv").exists()
    assert [path.name for path in tmp_path.iterdir()] == []


def test_rows_from_a_step_on_and_torn_ones_are_cut(tmp_path: Path) -> None:
    first = CSVLogger(str(tmp_path), keep=True)
    for step in range(4):
        first.log_metrics({"val/loss": step / 2, "epoch": step}, step)
        first.log_metrics({"train/loss": step, "epoch": step}, step)
        first.save()
    path = tmp_path / "metrics.csv"
    with path.open("a") as file:
        file.write("9")  # killed while it wrote
    second = CSVLogger(str(tmp_path), keep=True)
    second.experiment.cut(2)
    second.log_metrics({"train/loss": 7.0, "lr": 0.5, "epoch": 2}, 2)
    second.save()
    header, *rows = path.read_text().splitlines()
    assert header == "epoch,lr,step,train/loss,val/loss"
    assert rows == ["0,,0,,0.0", "0,,0,0,", "1,,1,,0.5", "1,,1,1,", "2,0.5,2,7.0,"]
    second.experiment.cut(0)
    assert path.read_text().splitlines() == ["epoch,lr,step,train/loss,val/loss"]


def test_a_measurement_replaces_the_rows_of_the_one_before(tmp_path: Path) -> None:
    for value in (1.0, 2.0):
        logger = CSVLogger(str(tmp_path))
        logger.log_metrics({"test/loss": value}, 0)
        logger.save()
    assert (tmp_path / "metrics.csv").read_text().splitlines() == ["step,test/loss", "0,2.0"]
    CSVLogger(str(tmp_path / "new"), keep=True).experiment.cut(0)  # where there is nothing
