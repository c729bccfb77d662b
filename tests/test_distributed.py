"""One process against two; run as a script, it is one of the two."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from torch import nn

from belvedere.__main__ import main
from datamodules.clouds import CloudsDataModule
from datamodules.samples.clouds import draw_clouds
from tasks.clouds import CloudsTask
from tests.helpers import ROOT, SMALL, free_ports, metrics

TWO = ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--trainer.accelerator", "cpu"]
COMMANDS = {"validate": ["validate"], "predict": ["predict"],
            "windows": ["predict", "--data.output_size", "null", "--data.window", "[32,48]"]}  # fmt: skip
CLOUDS = ["--config", *SMALL["clouds"], "--trainer.logger", "false", "--trainer.max_epochs", "1"]
TOLERANCE = 1e-6


def train(root: str, folder: Path, devices: int, batch_size: int) -> None:
    """Trains a network without batch normalization, whose statistics differ by process, and saves its weights."""
    seed_everything(0)
    task = CloudsTask(architecture="pspnet", pretrained=False, optimizer=lambda p: torch.optim.NAdam(p, lr=1e-2))
    task.network = nn.Sequential(nn.Conv2d(3, 8, 5, padding=2), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1))
    data = CloudsDataModule(root, size=(32, 48), batch_size=batch_size, num_workers=0)
    trainer = Trainer(accelerator="cpu", devices=devices, strategy="ddp" if devices > 1 else "auto", max_epochs=3,
                      limit_val_batches=0, logger=False, enable_checkpointing=False, enable_progress_bar=False,
                      enable_model_summary=False, use_distributed_sampler=False)  # fmt: skip
    trainer.fit(task, data)
    torch.save(task.network.state_dict(), folder / f"weights-{devices}-{trainer.global_rank}.pt")


def run_python(*arguments: str, times: int = 1, check: bool = True) -> tuple[int, str]:
    """Runs Python once, or as the processes of one job; returns code and errors of the last."""
    port = str(free_ports()[0])
    environment = os.environ | {"PYTHONPATH": str(ROOT), "MASTER_PORT": port}
    for name in ("BELVEDERE_RUN", "PL_GLOBAL_SEED"):
        environment.pop(name, None)
    job = {"MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": str(times), "NODE_RANK": "0"}
    ranks = [job | {"LOCAL_RANK": str(rank)} for rank in range(times)] if times > 1 else [{}]
    command = [sys.executable, *arguments]
    started = [
        subprocess.Popen(command, env=environment | rank, stderr=subprocess.PIPE, text=True, cwd=ROOT) for rank in ranks
    ]
    try:
        for process in started:
            _, errors = process.communicate(timeout=300)
            assert process.returncode == 0 or not check, errors
    finally:
        for process in started:
            process.kill()
    return process.returncode, errors


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """43 synthetic images: 12 for training, 31 for both validation and test; 5 more for prediction."""
    folder = draw_clouds(tmp_path_factory.mktemp("shared") / "clouds", pictures=43, test_pictures=5, size=(64, 96))
    names = sorted(path.name for path in (folder / "train_images").iterdir())
    splits = {name: ["train"] if k < 12 else ["val", "test"] for k, name in enumerate(names)}
    rows = [(name, split) for name in names for split in splits[name]]
    with (folder / "splits.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("name", "split"), *rows])
    return folder


@pytest.fixture(scope="module")
def checkpoint(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network trained for an epoch, with fitted thresholds."""
    run = tmp_path_factory.mktemp("fitted") / "run"
    assert main(["fit", *CLOUDS, "--data.root", str(root), "--output", str(run)]) == 0
    return run / "checkpoints" / "best.ckpt"


@pytest.fixture(scope="module")
def pair(root: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of two processes that were started separately."""
    folder = tmp_path_factory.mktemp("pair")
    run_python(__file__, str(root), str(checkpoint), str(folder), times=2)
    return folder


@pytest.mark.slow
def test_two_processes_train_like_one_with_twice_the_batch_size(root: Path, pair: Path, tmp_path: Path) -> None:
    train(str(root), tmp_path, devices=1, batch_size=6)
    one = torch.load(tmp_path / "weights-1-0.pt", weights_only=True)
    first, second = (torch.load(pair / f"weights-2-{rank}.pt", weights_only=True) for rank in (0, 1))
    for name, value in one.items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], value, atol=1e-5, rtol=0)
    seed_everything(0)
    start = nn.Conv2d(3, 8, 5).weight
    assert (one["0.weight"] - start).abs().max() > 1e-2


@pytest.mark.slow
def test_two_processes_train_a_task_like_one(roads_root: Path, tmp_path: Path) -> None:
    options = ["--config", "roads/vgg10", "--data.root", str(roads_root), "--data.window", "[64,64]", "--data.size",
               "[64,64]", "--trainer.max_epochs", "4", "--trainer.logger", "false", "--panels.pictures", "1",
               "--model.optimizer", "torch.optim.SGD", "--model.optimizer.lr", "0.1"]  # fmt: skip
    run_python("-m", "belvedere", "fit", *options, "--data.batch_size", "24", "--output", str(tmp_path / "one"))
    run_python("-m", "belvedere", "fit", *options, "--data.batch_size", "12", "--output", str(tmp_path / "two"), *TWO)
    one, two = (torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True) for name in ("one", "two"))
    assert one["global_step"] == two["global_step"] == 4
    # RMSprop would divide by tiny gradients and amplify rounding to 2e-5
    for name, value in one["state_dict"].items():
        torch.testing.assert_close(two["state_dict"][name], value, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_two_processes_validate_like_one(checkpoint: Path, pair: Path, tmp_path: Path) -> None:
    assert main(["validate", "--ckpt_path", str(checkpoint), "--output", str(tmp_path)]) == 0
    one, two = metrics(tmp_path / "metrics.csv"), metrics(pair / "validate" / "metrics.csv")
    assert "val/loss" in one  # around gaps
    assert two == pytest.approx(one, abs=TOLERANCE)


@pytest.mark.slow
def test_two_devices_test_31_images_like_one(checkpoint: Path, tmp_path: Path) -> None:
    options = ["--ckpt_path", str(checkpoint), "--data.batch_size", "5", "--data.leave_out_gaps", "false"]
    assert main(["test", *options, "--output", str(tmp_path / "one")]) == 0
    run_python("-m", "belvedere", "test", *options, "--output", str(tmp_path / "two"), *TWO)
    one, two = (metrics(tmp_path / name / "metrics.csv") for name in ("one", "two"))
    assert two == pytest.approx(one, abs=TOLERANCE)
    assert len(one) == 19
    assert 0 < one["test/dice"] < 1
    drawn = [(tmp_path / name / "intervals.csv").read_text() for name in ("one", "two")]
    assert drawn[0] == drawn[1]
    assert drawn[0].count("\n") == 1 + 18  # all figures but the loss


@pytest.mark.slow
def test_two_devices_test_whole_images_in_windows_like_one(
    roads_root: Path, trained: Callable[[str], Path], tmp_path: Path
) -> None:
    options = ["--ckpt_path", str(trained("roads")), "--data.root", str(roads_root), "--model.threshold", "0.3"]
    assert main(["test", *options, "--output", str(tmp_path / "one")]) == 0
    run_python("-m", "belvedere", "test", *options, "--output", str(tmp_path / "two"), *TWO)
    one, two = (metrics(tmp_path / name / "metrics.csv") for name in ("one", "two"))
    assert two == pytest.approx(one, abs=TOLERANCE)
    assert 0 < one["test/dice"] < 1
    drawn = [(tmp_path / name / "intervals.csv").read_text() for name in ("one", "two")]
    assert drawn[0] == drawn[1]
    assert {line.split(",")[-1] for line in drawn[0].splitlines()[1:]} == {"8"}


@pytest.mark.slow
def test_fewer_images_than_processes_are_rejected(checkpoint: Path, root: Path, tmp_path: Path) -> None:
    picture = next((root / "test_images").iterdir())
    options = ["--ckpt_path", str(checkpoint), "--data.pictures", str(picture), "--output", str(tmp_path), *TWO]
    code, errors = run_python("-m", "belvedere", "predict", *options, check=False)
    assert code == 2
    assert "1 images for 2 processes" in errors
    assert "Traceback" not in errors


@pytest.mark.slow
def test_two_processes_write_one_record(root: Path, checkpoint: Path, tmp_path: Path) -> None:
    run_python("-m", "belvedere", "fit", *CLOUDS, "--data.root", str(root), "--output", str(tmp_path), *TWO)
    one, two = (json.loads((run / "record.json").read_text()) for run in (checkpoint.parents[1], tmp_path))
    assert (one["processes"], two["processes"]) == (1, 2)
    assert min(two["seconds"], two["peak_bytes"]) > 0
    of_a_process = {"processes", "seconds", "peak_bytes", "versions"}  # whose commit may change meanwhile
    assert {key: two[key] for key in two if key not in of_a_process} == {
        key: one[key] for key in one if key not in of_a_process
    }


@pytest.mark.slow
def test_two_processes_stop_early_together(root: Path, tmp_path: Path) -> None:
    options = ["--data.root", str(root), "--early_stopping.patience", "2", "--model.optimizer.lr", "0"]
    run_python(
        "-m", "belvedere", "fit", *CLOUDS, *options, "--trainer.max_epochs", "20", "--output", str(tmp_path), *TWO
    )
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["processes"] == 2
    assert record["epochs"] == record["best_epoch"] + 1 + 2 < 20
    best = torch.load(tmp_path / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["epoch"] == record["best_epoch"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["predict", "windows"])
def test_two_processes_predict_every_image_once(name: str, checkpoint: Path, pair: Path, tmp_path: Path) -> None:
    assert main([*COMMANDS[name], "--ckpt_path", str(checkpoint), "--output", str(tmp_path)]) == 0
    one, two = ({str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
                for folder in (tmp_path, pair / name))  # fmt: skip
    assert one["submission.csv"].count(b"\n") == 1 + 4 * 5
    assert two.keys() == one.keys()
    assert {name for name in one if two[name] != one[name]} == set()


@pytest.mark.slow
def test_two_processes_measure_tags_like_one(
    trained: Callable[[str], Path], aesthetics_root: Path, tmp_path: Path
) -> None:
    names = sorted(path.stem for path in (aesthetics_root / "images").iterdir())
    (tmp_path / "test.txt").write_text("\n".join(names[:13]))
    options = ["--ckpt_path", str(trained("aesthetics")), "--data.test_list", str(tmp_path / "test.txt"),
               "--data.batch_size", "3"]  # fmt: skip
    assert main(["test", *options, "--output", str(tmp_path / "one")]) == 0
    run_python("-m", "belvedere", "test", *options, "--output", str(tmp_path / "two"), *TWO)
    one, two = (metrics(tmp_path / name / "metrics.csv") for name in ("one", "two"))
    assert two == pytest.approx(one, abs=TOLERANCE, nan_ok=True)  # the area of a tag with one class is NaN
    assert len([name for name in two if name.startswith("test/balanced_accuracy@")]) > 3
    assert 0 < one["test/emd"] < 1


if __name__ == "__main__":
    data_root, checkpoint_path, output = sys.argv[1:]
    train(data_root, Path(output), devices=2, batch_size=3)
    codes = [main([*command, "--ckpt_path", checkpoint_path, "--output", f"{output}/{name}", *TWO])
             for name, command in COMMANDS.items()]  # fmt: skip
    sys.exit(max(codes))
