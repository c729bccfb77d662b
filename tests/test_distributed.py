"""One process against two; run as a script, it is one of the two."""

import csv
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from torch import nn

from belvedere.__main__ import main
from datamodules.clouds import CloudsDataModule
from datamodules.samples.clouds import draw_clouds
from tasks.clouds import CloudsTask

ROOT = Path(__file__).parents[1]
TWO = ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--trainer.accelerator", "cpu"]
COMMANDS = {"validate": ["validate"], "predict": ["predict"],
            "windows": ["predict", "--data.output_size", "null", "--data.window", "[32,48]"]}  # fmt: skip
SMALL = ["--config", "clouds/demo", "--model.architecture", "pspnet", "--data.size", "[32,48]", "--data.output_size",
         "[35,53]", "--trainer.logger", "false", "--trainer.max_epochs", "1", "--panels.pictures", "1"]  # fmt: skip
TOLERANCE = 1e-6  # figures of 31 pictures


def train(root: str, folder: Path, devices: int, batch_size: int) -> None:
    """Trains a network without batch statistics, which every process would have for itself, and keeps its weights."""
    seed_everything(0)
    task = CloudsTask("pspnet", pretrained=False, optimizer=lambda p: torch.optim.NAdam(p, lr=1e-2))
    task.network = nn.Sequential(nn.Conv2d(3, 8, 5, padding=2), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1))
    data = CloudsDataModule(root, size=(32, 48), batch_size=batch_size, num_workers=0)
    trainer = Trainer(
        accelerator="cpu",
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        max_epochs=3,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(task, data)
    torch.save(task.network.state_dict(), folder / f"weights-{devices}-{trainer.global_rank}.pt")


def run_python(*arguments: str, times: int = 1, check: bool = True) -> tuple[int, str]:
    """Runs Python once, or twice side by side as the two processes of one job; the last one's code and errors."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MASTER_PORT": port}
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


def figures(path: Path) -> dict[str, float]:
    with path.open(newline="") as file:
        [row] = csv.DictReader(file)
    return {name: float(value) for name, value in row.items() if "/" in name}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty-three drawn pictures: 12 to train on, 31 to validate on, and the same 31 to test on; 5 to predict."""
    folder = draw_clouds(tmp_path_factory.mktemp("shared") / "clouds", pictures=43, test_pictures=5, size=(64, 96))
    names = sorted(path.name for path in (folder / "train_images").iterdir())
    rows = [(name, "train") for name in names[:12]] + [
        (name, split) for name in names[12:] for split in ("val", "test")
    ]
    with (folder / "splits.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("name", "split"), *rows])
    return folder


@pytest.fixture(scope="module")
def checkpoint(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that has seen the pictures for an epoch, with fitted thresholds."""
    run = tmp_path_factory.mktemp("fitted") / "run"
    assert main(["fit", *SMALL, "--data.root", str(root), "--output", str(run)]) == 0
    return run / "checkpoints" / "best.ckpt"


@pytest.fixture(scope="module")
def pair(root: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes that were started separately leave behind."""
    folder = tmp_path_factory.mktemp("pair")
    run_python(__file__, str(root), str(checkpoint), str(folder), times=2)
    return folder


@pytest.fixture(scope="module")
def validated(
    checkpoint: Path, pair: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, float], dict[str, float]]:
    """What one process and two say of the validation pictures, whose gaps are left out."""
    folder = tmp_path_factory.mktemp("validated")
    assert main(["validate", "--ckpt_path", str(checkpoint), "--output", str(folder)]) == 0
    return figures(folder / "metrics.csv"), figures(pair / "validate" / "metrics.csv")


@pytest.mark.slow
def test_two_processes_train_as_one_with_batches_twice_as_large(root: Path, pair: Path, tmp_path: Path) -> None:
    train(str(root), tmp_path, devices=1, batch_size=6)
    one = torch.load(tmp_path / "weights-1-0.pt", weights_only=True)
    first, second = (torch.load(pair / f"weights-2-{rank}.pt", weights_only=True) for rank in (0, 1))
    for name, value in one.items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], value, atol=1e-5, rtol=0)
    seed_everything(0)
    start = nn.Conv2d(3, 8, 5).weight  # far from where the training ended
    assert (one["0.weight"] - start).abs().max() > 1e-2


@pytest.mark.slow
def test_two_processes_train_a_task_as_one_does(roads_root: Path, tmp_path: Path) -> None:
    options = ["--config", "roads/vgg10", "--data.root", str(roads_root), "--data.window", "[64,64]", "--data.size",
               "[64,64]", "--trainer.max_epochs", "4", "--trainer.logger", "false", "--panels.pictures", "1",
               "--model.optimizer", "torch.optim.SGD", "--model.optimizer.lr", "0.1"]  # fmt: skip
    run_python("-m", "belvedere", "fit", *options, "--data.batch_size", "6", "--output", str(tmp_path / "one"))
    run_python("-m", "belvedere", "fit", *options, "--data.batch_size", "3", "--output", str(tmp_path / "two"), *TWO)
    one, two = (torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True) for name in ("one", "two"))
    assert one["global_step"] == two["global_step"] == 4
    # RMSprop divides by gradients that are next to nothing, and rounding with them: 2e-5
    for name, value in one["state_dict"].items():
        torch.testing.assert_close(two["state_dict"][name], value, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_two_processes_validate_31_pictures_as_one(validated: tuple[dict[str, float], dict[str, float]]) -> None:
    one, two = ({name: value for name, value in found.items() if name != "val/loss"} for found in validated)
    assert two == pytest.approx(one, abs=TOLERANCE)


@pytest.mark.slow
def test_two_processes_measure_the_loss_around_gaps_as_one(
    validated: tuple[dict[str, float], dict[str, float]],
) -> None:
    one, two = validated
    assert two["val/loss"] == pytest.approx(one["val/loss"], abs=TOLERANCE)


@pytest.mark.slow
def test_belvedere_tests_31_pictures_on_two_devices_as_on_one(checkpoint: Path, tmp_path: Path) -> None:
    options = ["--ckpt_path", str(checkpoint), "--data.batch_size", "5", "--data.leave_out_gaps", "false"]
    assert main(["test", *options, "--output", str(tmp_path / "one")]) == 0
    run_python("-m", "belvedere", "test", *options, "--output", str(tmp_path / "two"), *TWO)
    one, two = (figures(tmp_path / name / "metrics.csv") for name in ("one", "two"))
    assert two == pytest.approx(one, abs=TOLERANCE)
    assert len(one) == 13
    assert 0 < one["test/dice"] < 1
    drawn = [(tmp_path / name / "intervals.csv").read_text() for name in ("one", "two")]
    assert drawn[0] == drawn[1]
    assert drawn[0].count("\n") == 1 + 12  # all figures but the loss


@pytest.mark.slow
def test_fewer_pictures_than_processes_are_refused(checkpoint: Path, root: Path, tmp_path: Path) -> None:
    picture = next((root / "test_images").iterdir())
    options = ["--ckpt_path", str(checkpoint), "--data.pictures", str(picture), "--output", str(tmp_path), *TWO]
    code, errors = run_python("-m", "belvedere", "predict", *options, check=False)
    assert code == 2
    assert "predict has 1 images for 2 processes" in errors
    assert "Traceback" not in errors


@pytest.mark.slow
def test_two_processes_leave_one_record(root: Path, checkpoint: Path, tmp_path: Path) -> None:
    run_python("-m", "belvedere", "fit", *SMALL, "--data.root", str(root), "--output", str(tmp_path), *TWO)
    one, two = (json.loads((run / "record.json").read_text()) for run in (checkpoint.parents[1], tmp_path))
    assert (one["processes"], two["processes"]) == (1, 2)
    assert min(two["seconds"], two["peak_bytes"]) > 0
    of_a_process = {"processes", "seconds", "peak_bytes", "versions"}  # whose commit may change meanwhile
    assert {key: two[key] for key in two if key not in of_a_process} == {
        key: one[key] for key in one if key not in of_a_process
    }


@pytest.mark.slow
def test_two_processes_stop_early_and_keep_the_best_together(root: Path, tmp_path: Path) -> None:
    options = ["--data.root", str(root), "--early_stopping.patience", "2", "--model.optimizer.lr", "0"]
    run_python(
        "-m", "belvedere", "fit", *SMALL, *options, "--trainer.max_epochs", "20", "--output", str(tmp_path), *TWO
    )
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["processes"] == 2
    assert record["epochs"] == record["best_epoch"] + 1 + 2 < 20
    best = torch.load(tmp_path / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["epoch"] == record["best_epoch"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["predict", "windows"])
def test_two_processes_predict_every_picture_once(name: str, checkpoint: Path, pair: Path, tmp_path: Path) -> None:
    assert main([*COMMANDS[name], "--ckpt_path", str(checkpoint), "--output", str(tmp_path)]) == 0
    one, two = ({str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
                for folder in (tmp_path, pair / name))  # fmt: skip
    assert one["submission.csv"].count(b"\n") == 1 + 4 * 5
    assert two.keys() == one.keys()
    assert {name for name in one if two[name] != one[name]} == set()


if __name__ == "__main__":
    data_root, checkpoint_path, output = sys.argv[1:]
    train(data_root, Path(output), devices=2, batch_size=3)
    codes = [main([*command, "--ckpt_path", checkpoint_path, "--output", f"{output}/{name}", *TWO])
             for name, command in COMMANDS.items()]  # fmt: skip
    sys.exit(max(codes))
