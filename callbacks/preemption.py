"""A training that a scheduler asks to end saves its state, has its job queued again, and leaves."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor

from callbacks.resuming import can_stop, write_state
from tasks import signals

CODE = 75  # EX_TEMPFAIL of sysexits.h: not done, try again


class Preemption(Checkpoint):
    """Ends a training that got SIGUSR1 or SIGTERM so that it can be gone on with exactly.

    The handler of the signal only notes it (`tasks.signals`). At the end of a batch (of several processes: of the next
    one), or of an epoch where its last batch is done, all agree whether any of them got one; then the state is written
    as `checkpoints/preempted.ckpt`, the job is queued again where SLURM runs it, and the first process exits with code
    75, the others with 0. `--resume auto` goes on. A Checkpoint, so that all others have seen the batch before.

    Args:
        requeue: Whether `scontrol requeue` is called where SLURM runs the job, unless it was cancelled.
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
