import json
import os
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from callbacks import record
from callbacks.best import EarlyStopping, Summary
from callbacks.record import Record, git_commit, versions
from callbacks.resuming import LastCheckpoint
from tasks.colorization import ColorizationTask

PAUSE = 0.05  # seconds of every training step
STEPS = 3


class Slow(LightningModule):
    """Waits in each step, and has a validation figure as it is written down."""

    def __init__(self, *dices: float) -> None:
        super().__init__()
        self.dices = dices
        self.trained, self.frozen = nn.Linear(3, 2), nn.Linear(4, 1).requires_grad_(False)

    def training_step(self, batch: Tensor, batch_index: int) -> Tensor:
        time.sleep(PAUSE)
        loss: Tensor = self.trained(batch.expand(1, 3)).sum()
        return loss

    def validation_step(self, batch: Tensor, batch_index: int) -> None:
        self.log("val/dice", self.dices[self.current_epoch])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


class Killed(Callback):
    """Fails in the middle of an epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (trainer.current_epoch, batch_idx) == (self.epoch, 1):
            raise RuntimeError("killed")


class AtTheEnd(Callback):
    """Takes a while after training, and looks whether there is a record."""

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        time.sleep(1)
        self.found = (Path(trainer.default_root_dir) / "record.json").exists()


def fit(folder: Path, module: Slow, *callbacks: Callback, resume: bool = False) -> dict[str, Any]:
    trainer = Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        max_epochs=len(module.dices),
        callbacks=[Summary("val/dice", "max"), LastCheckpoint(), Record(), *callbacks],
    )
    batches = DataLoader(torch.zeros(STEPS, 1))  # type: ignore[arg-type]  # a tensor is a data set
    trainer.fit(module, batches, batches, ckpt_path=folder / "checkpoints" / "last.ckpt" if resume else None)
    found: dict[str, Any] = json.loads((folder / "record.json").read_text())
    return found


def test_a_run_is_recorded(tmp_path: Path) -> None:
    (tmp_path / "record.json").write_text("of an earlier run")
    last = AtTheEnd()
    found = fit(tmp_path, Slow(0.1, 0.5, 0.3), last)
    assert not last.found  # it is there when all is over
    assert (found["best_epoch"], found["epochs"], found["processes"]) == (1, 3, 1)
    assert 3 * STEPS * PAUSE <= found["seconds"] < 3 * STEPS * PAUSE + 1  # without the second after training
    assert found["parameters"] == 3 * 2 + 2 + 4 * 1 + 1
    assert found["device"]
    assert found["versions"] == versions()
    assert found["data_fingerprint"] is None  # there is no data module
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoints", "record.json"]


def test_epochs_are_those_that_were_trained(tmp_path: Path) -> None:
    found = fit(tmp_path, Slow(0.5, 0.4, 0.3, 0.2, 0.1), EarlyStopping("val/dice", "max", patience=2))
    assert (found["best_epoch"], found["epochs"]) == (0, 3)


def test_a_killed_run_counts_up_to_its_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="killed"):
        fit(tmp_path, Slow(0.1, 0.5, 0.3, 0.2), Killed(2))
    assert not (tmp_path / "record.json").exists()
    state = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["callbacks"]["Record"]
    assert state["seconds"] >= 2 * STEPS * PAUSE
    began = time.monotonic()
    found = fit(tmp_path, Slow(0.1, 0.5, 0.3, 0.2), resume=True)
    assert (found["best_epoch"], found["epochs"]) == (1, 4)
    assert state["seconds"] + 2 * STEPS * PAUSE <= found["seconds"] <= state["seconds"] + time.monotonic() - began
    assert found["peak_bytes"] >= state["peak"]


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="the system does not say how much memory was used")
def test_memory_is_that_of_the_process_and_not_of_its_parent(tmp_path: Path) -> None:
    ballast = bytearray(os.urandom(1)) * (400 << 20)  # ru_maxrss of a child that is forked would have it
    code = "from callbacks.record import _peak; import torch; print(_peak(torch.device('cpu')))"
    command = [sys.executable, "-c", f"{code}; kept = bytearray(b'x') * (200 << 20); print(_peak(torch.device('cpu')))"]
    environment = os.environ | {"PYTHONPATH": str(record.SOURCE)}
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()
    before, after = map(int, said)
    assert after - before == pytest.approx(200 << 20, rel=0.25)
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


def test_the_extractor_is_not_among_the_parameters() -> None:
    with_it = ColorizationTask(extractor="resnet18", extractor_weights=False, extractor_vector="features")
    assert with_it.extractor is not None
    with_it.extractor(torch.zeros(1, 1, 32, 32))  # which builds it
    vector, alone = with_it.extractor.length, ColorizationTask(extractor=None)
    more = sum(each.numel() for each in with_it.parameters()) - sum(each.numel() for each in alone.parameters())
    assert more == vector * 256  # of the layer that fuses its vector in
