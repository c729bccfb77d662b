"""What a run goes on from: the newest state, so whole that the rest is the same to the last bit."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor

from callbacks import signals
from callbacks.loggers import CSVLogger
from tasks.base import ImageTask

METERS = "counted"  # where a checkpoint keeps what the epoch has counted


class LastCheckpoint(Checkpoint):
    """Keeps the newest state as `checkpoints/last.ckpt` in the run's folder, to go on from.

    It is written between epochs and every few minutes within one. A run that goes on from it ends as it would have
    without the stop: with the same weights, figures, schedule, best epoch and rows of `metrics.csv`. Lightning's own
    `save_last` follows the best epoch.

    Where an epoch is validated more than once (`trainer.val_check_interval`), nothing is written within one.

    Args:
        minutes: How many minutes after the last time it is written within an epoch; None writes between epochs only.
        steps: After how many steps it is also written within an epoch; None leaves it to the clock.

    Raises:
        ValueError: One of them is not positive.
    """

    def __init__(self, minutes: float | None = 10, steps: int | None = None) -> None:
        for name, value in (("minutes", minutes), ("steps", steps)):
            if value is not None and value <= 0:
                raise ValueError(f"{name} is {value}; null or a number above 0 was wanted")
        self.minutes, self.steps = minutes, steps
        self._written = time.monotonic()
        self._step = 0  # that it was last written at

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock, and takes back what was logged after the state that the run starts from."""
        self._written = time.monotonic()
        progress: Any = trainer.fit_loop.epoch_progress.current  # a tracker that also knows what was started
        if progress.started == progress.completed:  # between epochs
            trainer.fit_loop.epoch_loop.restarting = False  # which Lightning takes for true with max_steps
            self._step = trainer.global_step
        for logger in trainer.loggers:
            if isinstance(logger, CSVLogger) and trainer.is_global_zero:
                logger.experiment.cut(trainer.global_step)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Writes within an epoch, where it is time."""
        if can_stop(trainer, batch_idx) and self._due(trainer):
            self._write(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Has a schedule that waits for a plateau look at an epoch that was gone on with: Lightning leaves it out."""
        trainer.fit_loop._restarting = False

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes before the next epoch: at the end of one, schedule and log are not yet where they should be."""
        if trainer.global_step > self._step:
            self._write(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes after the last epoch."""
        self._write(trainer)

    def _due(self, trainer: Trainer) -> bool:
        if self.steps is not None and trainer.global_step % self.steps == 0:
            return True
        if self.minutes is None:
            return False
        due = time.monotonic() - self._written >= 60 * self.minutes
        if trainer.world_size == 1:
            return due
        # the first process's clock decides; asking it makes processes wait for each other
        now_and_then = trainer.global_step % trainer.log_every_n_steps == 0  # type: ignore[attr-defined]  # untyped there
        return now_and_then and bool(trainer.strategy.broadcast(due))

    def _write(self, trainer: Trainer) -> None:
        write_state(trainer, "last.ckpt")
        self._written, self._step = time.monotonic(), trainer.global_step

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keeps what the epoch has counted; between epochs it is kept that the next one has not begun."""
        progress = checkpoint["loops"]["fit_loop"]["epoch_progress"]
        if progress["current"]["started"] == progress["current"]["processed"]:
            for each in progress.values():
                each["ready"] = each["started"]
        elif isinstance(pl_module, ImageTask):
            checkpoint[METERS] = gathered(pl_module.meter("train").counted(), trainer.world_size)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Counts on from where the epoch stood."""
        if isinstance(pl_module, ImageTask):
            for counted in checkpoint.get(METERS, [])[trainer.global_rank :: trainer.world_size]:
                pl_module.meter("train").add(counted)


def can_stop(trainer: Trainer, batch_idx: int) -> bool:
    """Whether a run can be gone on with exactly from the end of this batch, within its epoch.

    It cannot while gradients are gathered, nor where validation comes next.
    """
    step_done = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
    return step_done and not trainer.is_last_batch and trainer.val_check_interval == 1.0


def write_state(trainer: Trainer, name: str) -> Path:
    """Writes all that a run goes on from into its folder; a file of this name is whole or is the one before.

    Returns:
        The file.
    """
    path = Path(trainer.default_root_dir) / "checkpoints" / name
    temporary = path.with_name(f"{name}.part")
    trainer.save_checkpoint(temporary, weights_only=False)
    if trainer.is_global_zero:
        with temporary.open("rb") as file:
            os.fsync(file.fileno())  # or after a crash of the machine it could be empty
        temporary.replace(path)
    trainer.strategy.barrier()
    return path


def gathered(counted: Any, world: int) -> list[Any]:
    """What each process has counted."""
    if world == 1:
        return [counted]
    shares: list[Any] = [None] * world
    torch.distributed.all_gather_object(shares, counted)
    return shares


CODE = 75  # EX_TEMPFAIL of sysexits.h: not done, try again


class Preemption(Checkpoint):
    """Ends a training that got SIGUSR1 or SIGTERM so that it can be gone on with exactly.

    The handler of the signal only notes it (`callbacks.signals`). At the end of a batch (of several processes: of the
    next one), or of an epoch where its last batch is done, all agree whether any of them got one; then the state is
    written as `checkpoints/preempted.ckpt`, the job is queued again where SLURM runs it, and the first process exits
    with code 75, the others with 0. `--resume auto` resumes. A Checkpoint, so that all others have seen the batch.
    """

    def __init__(self, requeue: bool = True) -> None:
        self.requeue = requeue
        self._asked: Tensor | None = None  # whether any process was, as of the end of the batch before

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Keeps Lightning's handlers out, which talk to other processes from within, and end with code 0."""
        if stage == "fit" and signals.are_noted():
            connector: Any = trainer._signal_connector  # Lightning has no option for it
            connector.register_signal_handlers = lambda: None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Ends within an epoch, where that was asked for."""
        if trainer.world_size > 1:
            before, self._asked = self._asked, told_to_all(trainer)
            if before is None or not before:  # looked at a batch later, the host does not wait for this one's device
                return
        if can_stop(trainer, batch_idx):
            self._end_where_asked(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ends between two epochs, where that was asked for."""
        self._end_where_asked(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ends before what follows training, where that was asked for."""
        self._end_where_asked(trainer)

    def _end_where_asked(self, trainer: Trainer) -> None:
        """Ends the training.

        Raises:
            SystemExit: A process was asked to, and the state is saved.
        """
        asked = signals.received()
        if not trainer.strategy.reduce_boolean_decision(asked is not None, all=False):
            return
        path = write_state(trainer, "preempted.ckpt")
        if trainer.is_global_zero:
            print(f"\n{self._text(trainer, path, asked)}", file=sys.stderr)
        signals.leave()
        raise SystemExit(CODE if trainer.is_global_zero else 0)  # who started the others would take 75 for a crash

    def _text(self, trainer: Trainer, path: Path, asked: signal.Signals | None) -> str:
        who = "Another process" if asked is None else "This process"
        queued = requeued(asked) if self.requeue else ""
        return (
            f"{who} was asked to end ({'by a signal' if asked is None else asked.name}). The state of epoch "
            f"{trainer.current_epoch}, step {trainer.global_step} is kept in {path}.{queued} Go on with --resume auto."
        )


def told_to_all(trainer: Trainer) -> Tensor:
    """Whether any process was asked to end, 0 or 1, on the device: a reduction that no host waits for on CUDA."""
    asked = torch.full((), int(signals.received() is not None), device=trainer.strategy.root_device)
    torch.distributed.all_reduce(asked, torch.distributed.ReduceOp.MAX)
    return asked


def requeued(asked: signal.Signals | None) -> str:
    """Has SLURM queue this job again, and says so; nothing is said where SLURM runs none."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return ""
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    known, state = _slurm("squeue", "--noheader", "--jobs", job, "--format", "%T %r")
    # a job that was cancelled is COMPLETING too, also where SIGUSR1 came before
    goes_on = state.startswith("RUNNING") or state == "COMPLETING TimeLimit"
    if not (goes_on if known else asked != signal.SIGTERM):
        return f" Job {job} is not queued again: it was cancelled."
    done, problem = _slurm("scontrol", "requeue", job)
    return f" Job {job} is queued again." if done else f" Job {job} could not be queued again: {problem}."


def _slurm(*command: str) -> tuple[bool, str]:
    """Whether a command of SLURM succeeded without complaint, and what it says."""
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        return False, str(error)
    said = (result.stdout + result.stderr).strip()
    return result.returncode == 0 and not result.stderr.strip(), said.rstrip(".")
