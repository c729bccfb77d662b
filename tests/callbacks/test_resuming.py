import os
import re
import signal
from pathlib import Path
from typing import IO, Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import nn
from torch.utils.data import DataLoader
from torchmetrics import Metric

from callbacks import resuming, signals
from callbacks.resuming import EXIT_CODE, LastCheckpoint, Preemption, requeue_job
from ops.processes import SIGNALS
from tasks.base import Batch, ImageTask
from tasks.metrics.dice import DiceScores
from tasks.metrics.meter import Step
from tests.scripted import Scripted, quiet_trainer
from tests.scripted import fit as fit_scripted

STEPS = 4  # batches per epoch


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
    trainer = quiet_trainer(folder, *callbacks, **({"max_epochs": 2} | options))
    images = torch.linspace(0, 1, STEPS * 6).reshape(STEPS, 1, 1, 2, 3)
    batches = DataLoader([{"image": image} for image in images], batch_size=None)  # type: ignore[arg-type]  # a list
    task = Small()
    path = None if resume is None else folder / "checkpoints" / resume
    trainer.fit(task, batches, batches, ckpt_path=path)
    return task


@pytest.mark.parametrize(
    ("last", "options", "written"),
    [
        ({}, {}, [4, 8]),
        ({"steps": 2}, {}, [2, 4, 6, 8]),
        ({"steps": 3}, {}, [3, 4, 6, 8]),
        ({"minutes": 1e-9}, {}, [1, 2, 3, 4, 5, 6, 7, 8]),
        ({"minutes": None}, {}, [4, 8]),
        ({"steps": 1}, {"accumulate_grad_batches": 2}, [1, 2, 3, 4]),  # only where resuming is exact
        ({"steps": 1}, {"val_check_interval": 0.5}, [4, 8]),
    ],
)
def test_the_state_is_saved_after_epochs_by_steps_and_by_the_clock(
    tmp_path: Path, last: dict[str, Any], options: dict[str, Any], written: list[int]
) -> None:
    watch = Watch()
    fit(tmp_path, watch, LastCheckpoint(**last), **options)
    assert watch.written == written
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize("options", [{"minutes": 0}, {"steps": 0}, {"steps": -1}])
def test_intervals_that_are_not_positive_are_rejected(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="positive number or null"):
        LastCheckpoint(**options)


def test_a_failed_write_keeps_the_previous_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def save(checkpoint: dict[str, Any], file: IO[bytes]) -> None:
        if checkpoint["global_step"] == 2:
            file.write(b"half")
            raise KeyboardInterrupt
        kept(checkpoint, file)

    kept = torch.save
    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(SystemExit):
        fit(tmp_path, LastCheckpoint(steps=1))
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 1
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["last.ckpt"]


def test_a_plugin_of_the_user_writes_the_checkpoints(tmp_path: Path) -> None:
    class Plugin(TorchCheckpointIO):
        pass

    trainer = quiet_trainer(tmp_path, LastCheckpoint(), plugins=[Plugin()], max_epochs=1)
    trainer.fit(Scripted([0.5]), DataLoader(torch.zeros(1, 1)))  # type: ignore[arg-type]  # a tensor is a dataset
    assert type(trainer.strategy.checkpoint_io) is Plugin
    assert (tmp_path / "checkpoints" / "last.ckpt").is_file()


def test_counts_of_the_metrics_are_saved_within_an_epoch_only(tmp_path: Path) -> None:
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


@pytest.mark.parametrize("each", SIGNALS)
@pytest.mark.parametrize(("after", "step"), [(0, 1), (2, 3), (3, 4), (7, 8)])
def test_a_signal_ends_training_where_it_can_resume_exactly(
    each: Any, after: int, step: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    whole = fit(tmp_path / "whole", LastCheckpoint())
    with signals.noted(), pytest.raises(SystemExit) as leaving:
        fit(tmp_path, Watch(after, lambda: os.kill(os.getpid(), each)), Preemption(), LastCheckpoint())
    assert leaving.value.code == EXIT_CODE
    said = capsys.readouterr().err
    assert f"Received {each.name}: saved the state of epoch {step // STEPS}, step {step} to {tmp_path}" in said
    assert "requeued" not in said
    kept = torch.load(tmp_path / "checkpoints" / "preempted.ckpt", weights_only=True)
    assert kept["global_step"] == step
    if step >= STEPS:  # this test's loader cannot resume within an epoch
        resumed = fit(tmp_path, LastCheckpoint(), resume="preempted.ckpt")
        assert torch.equal(resumed.weight, whole.weight)


def script(folder: Path, name: str, line: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{line}\n")
    (folder / name).chmod(0o755)


@pytest.mark.parametrize(
    ("received", "state", "requeued"),
    [
        ("SIGUSR1", "echo RUNNING None", True),
        ("SIGUSR1", "echo COMPLETING TimeLimit", True),
        ("SIGUSR1", "echo COMPLETING None", False),
        ("SIGUSR1", "true", False),
        ("SIGUSR1", "false", True),  # its state is unknown
        ("SIGTERM", "false", False),
        ("SIGTERM", "echo RUNNING None", True),
        ("SIGTERM", "echo CANCELLED None", False),
    ],
)
@pytest.mark.parametrize("array", [False, True])
def test_a_job_is_requeued_unless_it_was_canceled(
    received: str, state: str, requeued: bool, array: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    log.touch()
    script(tmp_path, "scontrol", f'echo scontrol "$@" >> {log}')
    script(tmp_path, "squeue", state)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert requeue_job(signals.signal.SIGUSR1) == ""
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    job = "5_3" if array else "7"
    if array:
        monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "5")
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    message = requeue_job(signals.signal.Signals[received])
    assert f"Job {job} was {'requeued.' if requeued else 'canceled'}" in message
    assert log.read_text() == (f"scontrol requeue {job}\n" if requeued else "")


def test_a_job_that_cannot_be_requeued_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert "Job 7 could not be requeued: " in requeue_job(signals.signal.SIGUSR1)
    script(tmp_path, "scontrol", "echo Batch job submission disabled >&2")
    assert "could not be requeued: Batch job submission disabled" in requeue_job(signals.signal.SIGUSR1)


# What callbacks/resuming.py needs of Lightning's internals. Where one of these fails after an update of Lightning, the
# function that it names has to be adapted.


def changed(function: Any) -> str:
    return f"Lightning has changed: adapt callbacks/resuming.py, {function.__name__}"


def test_lightning_counts_epochs_as_expected(tmp_path: Path) -> None:
    seen: dict[str, bool] = {}

    class Look(Callback):
        def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            seen["before"] = resuming.is_between_epochs(trainer)

        def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *rest: Any) -> None:
            seen["within"] = resuming.is_between_epochs(trainer)

    trainer = fit_scripted(tmp_path, Scripted([0.5]), Look())
    assert seen == {"before": True, "within": False}, changed(resuming.is_between_epochs)
    assert resuming.is_between_epochs(trainer), changed(resuming.is_between_epochs)


def test_lightning_marks_resumed_loops_as_restarting(tmp_path: Path) -> None:
    loop = quiet_trainer(tmp_path, max_steps=3).fit_loop
    loop.restarting = False
    assert loop.restarting, changed(resuming.count_epoch_as_whole)  # else the setter would do
    assert loop.epoch_loop.restarting, changed(resuming.begin_with_new_epoch)
    resuming.begin_with_new_epoch(loop.trainer)
    assert (loop.epoch_loop.restarting, loop.restarting) == (False, True), changed(resuming.begin_with_new_epoch)
    resuming.count_epoch_as_whole(loop.trainer)
    assert not loop.restarting, changed(resuming.count_epoch_as_whole)


def test_lightning_saves_counters_as_expected(tmp_path: Path) -> None:
    states: list[tuple[bool, int]] = []

    class Look(Callback):
        def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
            between = resuming.mark_between_epochs(checkpoint)
            states.append((between, checkpoint["loops"]["fit_loop"]["epoch_progress"]["total"]["ready"]))

    fit(tmp_path, Look(), LastCheckpoint(steps=3))
    assert states == [(False, 1), (True, 1), (False, 2), (True, 2)], changed(resuming.mark_between_epochs)


def test_lightning_makes_validation_loaders_of_a_run_that_had_ended(tmp_path: Path) -> None:
    found: list[tuple[bool, int]] = []

    class Look(Callback):
        def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            known = bool(trainer.num_val_batches)
            found.append((known, resuming.validation_batches(trainer)))

    fit_scripted(tmp_path, Scripted([0.5]), Look(), LastCheckpoint(), limit_val_batches=2)
    fit_scripted(tmp_path, Scripted([0.5]), Look(), LastCheckpoint(), limit_val_batches=2, resume="last.ckpt")
    assert found == [(True, 2), (False, 2)], changed(resuming.validation_batches)


INTERNALS = re.compile(r"(?:trainer|loop|logger|connector|super\(\))\._[a-z]|\b(?:fit|epoch|val)_loop\b")


def test_no_other_callback_reaches_into_lightning() -> None:
    assert INTERNALS.search("self.trainer._signal_connector")
    assert INTERNALS.search("trainer.fit_loop.max_epochs")
    assert not INTERNALS.search("super().__init__()")
    folder = Path(resuming.__file__).parent
    found = [path.relative_to(folder).as_posix() for path in folder.rglob("*.py") if INTERNALS.search(path.read_text())]
    assert found == ["resuming.py"]


def test_lightning_leaves_signals_alone_only_if_it_is_made_to(tmp_path: Path) -> None:
    handlers: list[Any] = []
    look = Watch(0, lambda: handlers.append(signal.getsignal(signal.SIGTERM)))
    with signals.noted():
        own = signal.getsignal(signal.SIGTERM)
        fit(tmp_path, look, Preemption())
        fit(tmp_path, look)
    assert handlers[0] is own, changed(resuming.disable_lightning_signals)
    assert handlers[1] is not own, changed(resuming.disable_lightning_signals)  # else it is no longer needed
