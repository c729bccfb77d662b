import json
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.utilities import rank_zero_info
from PIL import Image

from belvedere.__main__ import HELP
from belvedere.commandline.options import COMMANDS
from belvedere.commandline.precision import fastest_precision, mixed_precision
from belvedere.quiet import quiet
from ops.errors import DataError
from tests.helpers import ROOT, table

Command = Callable[..., Any]


def test_the_overview_is_printed_without_importing_torch() -> None:
    code = """
import sys
from belvedere.__main__ import main
print(main([]), main(["--help"]), "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"{HELP}\n{HELP}\n0 0 False\n"
    assert all(f"belvedere {command}" in HELP for command in COMMANDS)


def test_python_m_belvedere_is_the_command_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "belvedere", "fti"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2
    assert "Did you mean fit?" in done.stderr
    assert done.stdout == ""


def test_fit_leaves_a_run_behind(fitted: Path, clouds_root: Path) -> None:
    wanted = {"checkpoints/best.ckpt", "checkpoints/last.ckpt", "config.yaml", "curves.png", "metrics.csv",
              "thresholds.csv", "record.json", "panels/epoch_0000.png", "panels/epoch_0001.png"}  # fmt: skip
    assert wanted <= {str(path.relative_to(fitted)) for path in fitted.rglob("*")}
    assert list(fitted.rglob("*.part")) == []
    rows = table(fitted / "metrics.csv")
    assert {row["epoch"] for row in rows} == {"0", "1"}
    assert {"train/loss", "train/dice", "val/loss", "val/dice", "val/auprc", "val/dice_fish"} <= rows[0].keys()
    config = yaml.safe_load((fitted / "config.yaml").read_text())
    assert config["data"]["init_args"]["root"] == str(clouds_root)
    assert config["data"]["init_args"]["size"] == [32, 48]
    runs = {path.name.rpartition("-")[2] for path in (fitted / "wandb").glob("offline-run-*")}
    assert runs == {(fitted / "wandb" / "id.txt").read_text().strip()}
    record = json.loads((fitted / "record.json").read_text())
    assert record["epochs"] == 2
    assert record["best_epoch"] in (0, 1)
    assert record["pictures"] == {"train": 13, "val": 5, "test": 6}
    assert len(record["data_fingerprint"]) == 16


@pytest.mark.parametrize("name", ["best", "last"])
def test_checkpoints_load_safely_and_contain_their_config(fitted: Path, name: str) -> None:
    checkpoint = torch.load(fitted / "checkpoints" / f"{name}.ckpt", weights_only=True)
    assert checkpoint["config"] == (fitted / "config.yaml").read_text()


def test_fit_resumes_from_a_checkpoint(belvedere: Command, tiny: list[str], fitted: Path) -> None:
    shutil.copytree(fitted, "run")
    options = ["--trainer.max_epochs", "3", "--ckpt_path", "run/checkpoints/last.ckpt", "--config", "no_dashboard.yaml"]
    Path("no_dashboard.yaml").write_text("trainer: {logger: false}")
    assert belvedere("fit", *tiny, *options).code == 0
    assert torch.load("run/checkpoints/last.ckpt", weights_only=True)["epoch"] == 3  # epochs that are done
    assert Path("run/panels/epoch_0002.png").exists()


def test_a_diverging_training_stops_with_one_line(belvedere: Command, tiny: list[str]) -> None:
    result = belvedere("fit", *tiny, "--model.optimizer.lr", "1e30", "--trainer.logger", "false", "--output", "run")
    message = result.refusal
    assert re.match(r"Training stopped in epoch 0, step \d: .*loss", message)
    assert len(message.splitlines()) == 1


def test_metrics_of_the_test_are_written_with_intervals(belvedere: Command, fitted: Path) -> None:
    result = belvedere("test", "--ckpt_path", str(fitted / "checkpoints" / "best.ckpt"), "--output", "figures")
    assert result.code == 0
    [row] = table("figures/metrics.csv")
    assert 0 < float(row["test/loss"]) < 5
    assert {"test/dice", "test/auprc", "test/dice_sugar"} <= row.keys()
    assert str(Path("figures/metrics.csv").absolute()) in result.out
    names = ["checkpoints.json", "intervals.csv", "metrics.csv",
             "panel.png", "panels", "score_loss.csv", "score_loss.png", "score_loss_images.csv"]  # fmt: skip
    assert sorted(path.name for path in Path("figures").iterdir()) == names
    intervals = {interval["figure"]: interval for interval in table("figures/intervals.csv")}
    assert intervals.keys() == {name for name in row if name.startswith("test/") and name != "test/loss"}
    assert float(intervals["test/dice"]["low"]) <= float(row["test/dice"]) <= float(intervals["test/dice"]["high"])


def test_validate_gives_the_metrics_of_the_last_epoch(belvedere: Command, fitted: Path) -> None:
    assert belvedere("validate", "--ckpt_path", str(fitted / "checkpoints" / "last.ckpt"), "--output", "out").code == 0
    trained = [row for row in table(fitted / "metrics.csv") if row["val/loss"]][-1]
    [row] = table("out/metrics.csv")
    for name in ("val/loss", "val/auprc", "val/dice"):  # the last epoch's: its thresholds are not fitted
        assert float(row[name]) == pytest.approx(float(trained[name]), abs=1e-5)


def test_predict_writes_the_submission_of_the_dataset(
    belvedere: Command, fitted: Path, clouds_root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    result = belvedere("predict", "--ckpt_path", str(fitted / "checkpoints" / "best.ckpt"), "--output", "out")
    assert result.code == 0
    order = [row["Image_Label"] for row in table(clouds_root / "sample_submission.csv")]
    assert [row["Image_Label"] for row in table("out/submission.csv")] == order
    assert f"Images predicted: {len(order) // 4}." in caplog.text
    assert not Path("out/metrics.csv").exists()


def test_predict_accepts_an_image_of_any_size(belvedere: Command, fitted: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (77, 51, 3), np.uint8)).save("mine.png")
    options = ["--data.pictures", "mine.png", "--data.output_size", "null", "--output", "out"]
    assert belvedere("predict", "--ckpt_path", str(fitted / "checkpoints" / "best.ckpt"), *options).code == 0
    names = [f"mine.png_{name}" for name in ("Fish", "Flower", "Gravel", "Sugar")]
    assert [row["Image_Label"] for row in table("out/submission.csv")] == names
    assert Image.open("out/masks/Fish/mine.png").size == (51, 77)


def test_a_run_is_not_overwritten(belvedere: Command, tiny: list[str], fitted: Path) -> None:
    before = (fitted / "config.yaml").stat().st_mtime_ns
    message = belvedere("fit", *tiny, "--output", str(fitted)).refusal
    assert f"{fitted} already holds a run" in message
    assert "--resume auto" in message
    assert (fitted / "config.yaml").stat().st_mtime_ns == before
    Path("stopped/checkpoints").mkdir(parents=True)  # in its first epoch
    shutil.copy(fitted / "checkpoints" / "last.ckpt", "stopped/checkpoints/preempted.ckpt")
    for options in ([], ["--ckpt_path", str(fitted / "checkpoints" / "last.ckpt")]):
        assert "stopped already holds a run" in belvedere("fit", *tiny, *options, "--output", "stopped").refusal


def test_missing_data_are_reported_before_anything_is_written(belvedere: Command) -> None:
    message = belvedere("fit", "--config", "clouds/demo", "--data.root", "nowhere", "--output", "run").refusal
    assert str(Path("nowhere").absolute()) in message
    assert "train.csv" in message
    assert not Path("run").exists()


@pytest.mark.parametrize(("weights", "message"), [("absent.pt", "no weights file absent.pt"), ("true", "(no network)")])
def test_missing_weights_are_reported_before_images_are_read(
    belvedere: Command, tiny: list[str], monkeypatch: pytest.MonkeyPatch, weights: str, message: str
) -> None:
    monkeypatch.setattr("tasks.networks.weights._online", lambda: False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", "hub")
    monkeypatch.setattr("datamodules.clouds.CloudsDataModule.prepare_data", lambda _: pytest.fail("images were read"))
    found = belvedere("fit", *tiny, "--model.pretrained", weights, "--output", "run").refusal
    assert message in found
    assert len(found.splitlines()) == 1
    assert not Path("run/config.yaml").exists()


def test_describe_lists_all_problems_at_once(belvedere: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    problems = ["row 2 is odd.", "picture a.jpg is empty."]
    monkeypatch.setattr("datamodules.describe.clouds.problems", lambda _: problems)
    monkeypatch.setattr("datamodules.describe.clouds.study", lambda _: pytest.fail("the dataset was described"))
    message = belvedere("describe", "--config", "clouds/demo", "--data.root", "here").refusal
    assert message.splitlines()[1:] == [f"  - {line}" for line in problems]


def test_the_error_of_a_worker_has_no_traceback(
    belvedere: Command, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise DataError("Caught DataError in DataLoader worker process 0.\n  File x\nDataError: a.jpg is truncated.")

    monkeypatch.setattr("datamodules.clouds.CloudsDataModule.prepare_data", fail)
    assert belvedere("fit", *tiny).refusal == "a.jpg is truncated.\n"


@pytest.mark.parametrize(
    ("asked", "accelerator", "gpu", "bfloat16", "fallback"),
    [
        ("bf16-mixed", "gpu", True, True, False),
        ("bf16-mixed", "gpu", True, False, True),
        ("bf16-mixed", "auto", True, False, True),
        ("bf16-mixed", "cpu", True, False, False),
        ("bf16-mixed", "auto", False, False, False),
        ("32-true", "gpu", True, False, False),
        (None, "gpu", True, False, False),
    ],
)
def test_bfloat16_falls_back_to_float16(
    asked: str | None, accelerator: str, gpu: bool, bfloat16: bool, fallback: bool,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def supported(**options: Any) -> bool:
        assert options == {"including_emulation": False}  # slower than single precision
        return bfloat16

    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla V100")
    assert mixed_precision(asked, accelerator) == ("16-mixed" if fallback else asked)
    assert ("Tesla V100" in capsys.readouterr().err) is fallback


@pytest.mark.parametrize("job", [None, "4711"])
def test_missing_srun_is_reported_only_in_a_job(
    job: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "srun").write_text("#!/bin/sh\n")
    (tmp_path / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("SLURM_JOB_ID", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    if job is not None:
        monkeypatch.setenv("SLURM_JOB_ID", job)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        quiet()
        assert not SLURMEnvironment.detect()
    assert sum("`srun`" in str(each.message) for each in caught) == (job is not None)


def test_only_news_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    quiet()
    with caplog.at_level("INFO"):
        for text in ("Restoring states from the checkpoint path at a.ckpt", "Loaded model weights from a.ckpt", "news"):
            rank_zero_info(text)
    assert caplog.messages == ["news"]


@pytest.mark.parametrize(
    ("accelerator", "devices", "times", "expected"),
    [("cpu", 1, [2.0, 1.0], "bf16-mixed"), ("auto", "auto", [1.0, 3.0], "32-true"), ("cpu", 2, [2.0, 1.0], "32-true")],
)
def test_the_cpu_is_timed_for_bfloat16(
    accelerator: str, devices: int | str, times: list[float], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = {torch.float32: times[0], torch.bfloat16: times[1]}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("belvedere.commandline.precision._seconds", seconds.__getitem__)
    assert fastest_precision(accelerator, devices) == expected
    monkeypatch.undo()
    assert fastest_precision("cpu", 1) in ("32-true", "bf16-mixed")
