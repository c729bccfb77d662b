import os
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader
from torchmetrics import Metric

from callbacks import signals
from callbacks.resuming import CODE, LastCheckpoint, Preemption, requeued
from tasks.base import Batch, ImageTask
from tasks.metrics.dice import DiceScores
from tasks.metrics.meter import Step

STEPS = 4  # batches an epoch


class Small(ImageTask):
    """One weight, and dice scores."""

    def __init__(self) -> None:
        super().__init__(lambda parameters: torch.optim.SGD(parameters, lr=0.1))
        self.weight = nn.Parameter(torch.ones(1))

    def build_metrics(self) -> dict[str, Metric]:
        return {"dice": DiceScores(["a"])}

    def step(self, batch: Batch) -> Step:
        image = batch["image"]
        return Step((self.weight * image).mean(), image > 0.5, image > 0.2)

    def predict(self, batch: Batch) -> dict[str, Any]:
        return {}


class Watch(Callback):
    """Writes down after which step each checkpoint was written, and does something after one."""

    def __init__(self, after: int = 0, action: Any = None) -> None:
        self.written: list[int] = []
        self.after, self.action = after, action

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self.written.append(trainer.global_step)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self.action is not None and trainer.global_step == self.after:
            self.action()


def fit(folder: Path, *callbacks: Callback, resume: str | None = None, **options: Any) -> Small:
    trainer = Trainer(default_root_dir=folder, accelerator="cpu", logger=False, enable_progress_bar=False,
                      enable_model_summary=False, num_sanity_val_steps=0, callbacks=list(callbacks),
                      **({"max_epochs": 2} | options))  # fmt: skip
    images = torch.linspace(0, 1, STEPS * 6).reshape(STEPS, 1, 1, 2, 3)
    batches = DataLoader([{"image": image} for image in images], batch_size=None)  # type: ignore[arg-type]  # a list
    task = Small()
    path = None if resume is None else folder / "checkpoints" / resume
    trainer.fit(task, batches, batches, ckpt_path=path)
    return task


def test_the_newest_state_is_kept_between_epochs_and_when_training_ends(tmp_path: Path) -> None:
    watch = Watch()
    fit(tmp_path, watch, LastCheckpoint())
    assert watch.written == [STEPS, 2 * STEPS]
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize(
    ("last", "written"),
    [
        (LastCheckpoint(steps=2), [2, 4, 6, 8]),
        (LastCheckpoint(steps=3), [3, 4, 6, 8]),
        (LastCheckpoint(minutes=1e-9), [1, 2, 3, 4, 5, 6, 7, 8]),
        (LastCheckpoint(minutes=None), [4, 8]),
    ],
)
def test_it_is_written_within_an_epoch_by_steps_and_by_the_clock(
    tmp_path: Path, last: LastCheckpoint, written: list[int]
) -> None:
    watch = Watch()
    fit(tmp_path, watch, last)
    assert watch.written == written


@pytest.mark.parametrize(
    ("options", "written"),
    [({"accumulate_grad_batches": 2}, [1, 2, 3, 4]), ({"val_check_interval": 0.5}, [4, 8])],
)
def test_it_is_not_written_where_going_on_would_not_be_exact(
    tmp_path: Path, options: dict[str, Any], written: list[int]
) -> None:
    watch = Watch()
    fit(tmp_path, watch, LastCheckpoint(steps=1), **options)
    assert watch.written == written


@pytest.mark.parametrize("options", [{"minutes": 0}, {"steps": 0}, {"steps": -1}])
def test_senseless_intervals_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="null or a number above 0 was wanted"):
        LastCheckpoint(**options)


def test_a_file_that_could_not_be_written_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(trainer: Trainer, path: Path, **options: Any) -> None:
        if trainer.global_step == 2:
            Path(path).write_bytes(b"half")
            raise KeyboardInterrupt
        write(trainer, path, **options)

    write = Trainer.save_checkpoint
    monkeypatch.setattr(Trainer, "save_checkpoint", broken)
    with pytest.raises(SystemExit):
        fit(tmp_path, LastCheckpoint(steps=1))
    kept = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert kept["global_step"] == 1


def test_what_an_epoch_has_counted_is_kept_within_it_only(tmp_path: Path) -> None:
    fit(tmp_path, LastCheckpoint(steps=3), max_steps=3, max_epochs=-1)
    path = tmp_path / "checkpoints" / "last.ckpt"
    assert "counted" not in torch.load(path, weights_only=True)
    with pytest.raises(RuntimeError, match="stop"):
        fit(tmp_path, Watch(3, lambda: (_ for _ in ()).throw(RuntimeError("stop"))), LastCheckpoint(steps=3))
    (counted,) = torch.load(path, weights_only=True)["counted"]
    assert counted["scores.dice"]["images"] == 3
    task = Small()
    task.meter("train").add(counted)
    step = Step(torch.tensor(2.0), torch.ones(1, 1, 2, 3) > 0, torch.ones(1, 1, 2, 3) > 0)
    task.meter("train").update(step, size=1)
    images = torch.linspace(0, 1, STEPS * 6).reshape(STEPS, 6)[:3]
    pairs = [(2 * ((image > 0.5) & (image > 0.2)).sum(), (image > 0.5).sum() + (image > 0.2).sum()) for image in images]
    dice = [float(twice / both) if both else 1.0 for twice, both in pairs]
    assert task.meter("train").result()["dice"] == pytest.approx((sum(dice) + 1) / 4)


@pytest.mark.parametrize("each", signals.SIGNALS)
@pytest.mark.parametrize(("after", "step"), [(0, 1), (2, 3), (3, 4), (7, 8)])
def test_a_signal_ends_training_where_it_can_be_gone_on_with(
    each: Any, after: int, step: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    whole = fit(tmp_path / "whole", LastCheckpoint())
    with signals.noted(), pytest.raises(SystemExit) as leaving:
        fit(tmp_path, Watch(after, lambda: os.kill(os.getpid(), each)), Preemption(), LastCheckpoint())
    assert leaving.value.code == CODE
    said = capsys.readouterr().err
    assert f"asked to end ({each.name}). The state of epoch {step // STEPS}, step {step} is kept in" in said
    assert "queued" not in said
    kept = torch.load(tmp_path / "checkpoints" / "preempted.ckpt", weights_only=True)
    assert kept["global_step"] == step
    if step >= STEPS:  # the loader of this test cannot go on in the middle of an epoch
        resumed = fit(tmp_path, LastCheckpoint(), resume="preempted.ckpt")
        assert torch.equal(resumed.weight, whole.weight)


@pytest.mark.parametrize(
    ("asked", "state", "ids", "said", "commands"),
    [
        ("SIGUSR1", "echo RUNNING None", {}, "Job 7 is queued again.", "scontrol requeue 7\n"),
        ("SIGUSR1", "echo COMPLETING TimeLimit", {}, "Job 7 is queued again.", "scontrol requeue 7\n"),
        ("SIGUSR1", "echo COMPLETING None", {}, "Job 7 is not queued again: it was cancelled", ""),
        ("SIGUSR1", "true", {}, "Job 7 is not queued again: it was cancelled", ""),
        ("SIGUSR1", "false", {}, "Job 7 is queued again.", "scontrol requeue 7\n"),  # nobody knows
        ("SIGTERM", "false", {}, "Job 7 is not queued again: it was cancelled", ""),
        ("SIGTERM", "echo RUNNING None", {}, "Job 7 is queued again.", "scontrol requeue 7\n"),
        ("SIGTERM", "echo CANCELLED None", {}, "Job 7 is not queued again: it was cancelled", ""),
        ("SIGUSR1", "echo RUNNING None", {"SLURM_ARRAY_JOB_ID": "5", "SLURM_ARRAY_TASK_ID": "3"},
         "Job 5_3 is queued again.", "scontrol requeue 5_3\n"),
    ],
)  # fmt: skip
def test_a_job_is_queued_again(
    asked: str, state: str, ids: dict[str, str], said: str, commands: str, tmp_path: Path, monkeypatch: Any
) -> None:
    log = tmp_path / "log"
    for name, line in {"scontrol": f'echo scontrol "$@" >> {log}', "squeue": state}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert requeued(signals.signal.SIGUSR1) == ""
    for name, value in {"SLURM_JOB_ID": "7", **ids}.items():
        monkeypatch.setenv(name, value)
    assert said in requeued(signals.signal.Signals[asked])
    assert (log.read_text() if log.is_file() else "") == commands


def test_a_job_that_cannot_be_queued_again_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert "Job 7 could not be queued again: " in requeued(signals.signal.SIGUSR1)
    (tmp_path / "scontrol").write_text("#!/bin/sh\necho Batch job submission disabled >&2\n")
    (tmp_path / "scontrol").chmod(0o755)
    assert requeued(signals.signal.SIGUSR1) == " Job 7 could not be queued again: Batch job submission disabled."
