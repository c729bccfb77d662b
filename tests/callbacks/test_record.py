import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from callbacks import record
from callbacks.best import BestCheckpoint, EarlyStopping
from callbacks.record import Record, git_commit, versions
from callbacks.resuming import LastCheckpoint
from tests.scripted import STEPS, Scripted, fit

STEP = 5.0  # seconds of every training step


class Clock(Callback):
    """Time passes in training steps, before and after training only, and a run may be killed within an epoch."""

    def __init__(self, killed_in: int | None = None) -> None:
        self.now, self.killed_in = 0.0, killed_in

    def monotonic(self) -> float:
        return self.now

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.now += 1000

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.now += STEP
        if (trainer.current_epoch, batch_idx) == (self.killed_in, 1):
            raise RuntimeError("killed")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.now += 1000
        assert not (Path(trainer.default_root_dir) / "record.json").exists()  # others may still fit something


class Images:
    def fingerprint(self) -> str:
        return "digest"

    def picture_names(self) -> dict[str, list[str]]:
        return {"train": ["a", "b"], "val": ["c"]}


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Trains epochs with these metrics under a clock and returns the record."""

    def run(*dices: float, clock: Clock | None = None, data: Any = None, **options: Any) -> dict[str, Any]:
        clock = clock or Clock()
        monkeypatch.setattr(record, "time", SimpleNamespace(monotonic=clock.monotonic))
        module = Scripted(dices)
        module.layers = nn.ModuleList([nn.Linear(3, 2), nn.Linear(4, 1).requires_grad_(False)])
        watch = Record()
        watch.data = data  # as Handover does
        fit(tmp_path, module, clock, BestCheckpoint("val/dice", "max"), LastCheckpoint(), watch,
            EarlyStopping("val/dice", "max", patience=2), **options)  # fmt: skip
        found: dict[str, Any] = json.loads((tmp_path / "record.json").read_text())
        return found

    return run


def test_a_run_is_recorded(recorded: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "record.json").write_text("of an earlier run")
    (tmp_path / "status").write_text("Name:\tpython\nVmPeak:\t  90 kB\nVmHWM:\t  70 kB\n")
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Abacus\nmodel name\t: Other\n")
    monkeypatch.setattr(record, "SYSTEM_FILES", {name: tmp_path / name for name in ("status", "cpuinfo")})
    assert recorded(0.1, 0.5, 0.3, data=Images()) == {
        "best_epoch": 1,
        "epochs": 3,
        "seconds": 3 * STEPS * STEP,
        "peak_bytes": 70 * 1024,
        "device": "Abacus",
        "processes": 1,
        "parameters": 1 + (3 * 2 + 2) + (4 * 1 + 1),
        "samples": STEPS,
        "classes": [],
        "versions": versions(),
        "data_fingerprint": "digest",
        "pictures": {"train": 2, "val": 1},
    }


def test_unknown_memory_is_null_and_only_trained_epochs_count(
    recorded: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record, "SYSTEM_FILES", {name: tmp_path / "none" for name in ("status", "cpuinfo")})
    found = recorded(0.5, 0.4, 0.3, 0.2, 0.1)
    assert (found["best_epoch"], found["epochs"]) == (0, 3)
    assert found["peak_bytes"] is None
    assert found["device"]
    assert (found["data_fingerprint"], found["pictures"]) == (None, {})


def test_a_killed_part_counts_up_to_its_checkpoint(
    recorded: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    status = tmp_path / "status"
    monkeypatch.setattr(record, "SYSTEM_FILES", record.SYSTEM_FILES | {"status": status})
    status.write_text("VmHWM: 70 kB")
    with pytest.raises(RuntimeError, match="killed"):
        recorded(0.1, 0.5, 0.3, 0.4, clock=Clock(killed_in=2))
    assert not (tmp_path / "record.json").exists()
    state = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["callbacks"]["Record"]
    assert state == {"seconds": 2 * STEPS * STEP, "peak": 70 * 1024, "samples": STEPS, "data_fingerprint": None}
    status.write_text("VmHWM: 50 kB")
    found = recorded(0.1, 0.5, 0.3, 0.4, resume="last.ckpt")
    assert (found["best_epoch"], found["epochs"]) == (1, 4)
    assert found["seconds"] == 4 * STEPS * STEP
    assert found["peak_bytes"] == 70 * 1024  # the larger of the parts


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs Linux's /proc")
def test_memory_is_read_from_the_system() -> None:
    ballast = bytearray(b"x") * (64 << 20)
    assert record._peak(torch.device("cpu")) > len(ballast)


def test_versions_are_those_that_are_installed() -> None:
    found = versions()
    assert found["torch"] == metadata.version("torch") == torch.__version__.split("+")[0]
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert {"lightning", "torchvision", "torchmetrics", "belvedere"} <= found.keys()


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=A", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", "-C", str(folder), *identity, *arguments], capture_output=True, text=True,
                          check=True).stdout.strip()  # fmt: skip


def test_the_commit_is_that_of_the_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert git_commit(tmp_path) == ""
    git(tmp_path, "init")
    (tmp_path / "environment").mkdir()
    (tmp_path / "file").write_text("one")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    commit = git(tmp_path, "rev-parse", "HEAD")[:12]
    assert git_commit(tmp_path) == commit
    assert git_commit(tmp_path / "environment") == ""  # installed inside of somebody's checkout
    (tmp_path / "new").write_text("not of the source")
    assert git_commit(tmp_path) == commit
    (tmp_path / "file").write_text("two")
    assert git_commit(tmp_path) == f"{commit}.changed"
    monkeypatch.setenv("PATH", "")
    assert git_commit(tmp_path) == ""
