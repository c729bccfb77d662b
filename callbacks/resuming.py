"""Exact resume: `last.ckpt` while a run trains, `preempted.ckpt` when a scheduler ends it.

This is the only file that relies on Lightning's internals, in the functions under "Lightning's internals". Each states
what it needs and why the public API does not offer it; `tests/callbacks/test_resuming.py` fails if Lightning changes.
"""

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
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from torch import Tensor

from callbacks import signals
from callbacks.loggers import CSVLogger
from ops.files.tensors import write_tensors
from tasks.base import ImageTask, gathered

BEST, OPTIMIZER = "best.ckpt", "optimizer_states"  # a file, and a key that it lacks
ONLY_RESUMED = (OPTIMIZER, "current_model_state", "averaging_state")
"""Keys that only resuming needs; the last two are, in Lightning's WeightAveraging, the weights that were averaged."""
COUNTED = "counted"  # key of a checkpoint: what the metrics have counted in the current epoch
EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: temporary failure, try again


class LastCheckpoint(Checkpoint):
    """Saves `checkpoints/last.ckpt` in the run's folder, from which a run resumes bit for bit.

    A resumed run ends with the same weights, metrics, schedule, best epoch and rows of `metrics.csv` as one that was
    never stopped. The state is saved between epochs and every few minutes within one, except where an epoch is
    validated more than once (`trainer.val_check_interval`). Lightning's own `save_last` follows the best epoch instead.

    Args:
        minutes: Minutes between saves within an epoch; null saves between epochs only.
        steps: Also saves within an epoch whenever the step is a multiple of this; null disables it.

    Raises:
        ValueError: One of them is not positive.
    """

    def __init__(self, minutes: float | None = 10, steps: int | None = None) -> None:
        for name, value in (("minutes", minutes), ("steps", steps)):
            if value is not None and value <= 0:
                raise ValueError(f"{name} is {value}; expected a positive number or null")
        self.minutes, self.steps = minutes, steps
        self._saved_at = time.monotonic()
        self._saved_step = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        write_checkpoints_atomically(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock and removes what was logged after the state that the run resumes from."""
        self._saved_at = time.monotonic()
        if is_between_epochs(trainer):
            begin_with_new_epoch(trainer)
            self._saved_step = trainer.global_step
        for logger in trainer.loggers:
            if isinstance(logger, CSVLogger):
                logger.cut(trainer.global_step)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if can_stop(trainer, batch_idx) and self._is_due(trainer):
            self._save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        count_epoch_as_whole(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves between epochs: only now, because at the end of an epoch schedule and log are still to be updated."""
        if trainer.global_step > self._saved_step:
            self._save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer)

    def _is_due(self, trainer: Trainer) -> bool:
        if self.steps is not None and trainer.global_step % self.steps == 0:
            return True
        if self.minutes is None:
            return False
        due = time.monotonic() - self._saved_at >= 60 * self.minutes
        if trainer.world_size == 1:
            return due
        # The first process's clock decides for all. Asking it makes them wait for each other, so do it rarely.
        ask = trainer.global_step % trainer.log_every_n_steps == 0  # type: ignore[attr-defined]  # untyped there
        return ask and bool(trainer.strategy.broadcast(due))

    def _save(self, trainer: Trainer) -> None:
        save_state(trainer, "last.ckpt")
        self._saved_at, self._saved_step = time.monotonic(), trainer.global_step

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Adds what the metrics have counted in the current epoch."""
        if not mark_between_epochs(checkpoint) and isinstance(pl_module, ImageTask):
            checkpoint[COUNTED] = gathered(pl_module.meter("train").counted(), trainer.world_size)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if isinstance(pl_module, ImageTask):
            for counted in checkpoint.get(COUNTED, [])[trainer.global_rank :: trainer.world_size]:
                pl_module.meter("train").add(counted)


class Preemption(Checkpoint):
    """Saves `checkpoints/preempted.ckpt` and ends the run when it gets SIGUSR1 or SIGTERM; `--resume auto` resumes it.

    The signal handler only notes the signal (`callbacks.signals`). At the end of a batch all processes agree whether
    one of them was signaled; several processes do so one batch later. Then the state is saved, SLURM requeues the job,
    and the first process exits with code 75, the others with 0. It is a Checkpoint callback because those run last,
    when all others have seen the batch.

    Args:
        requeue: Whether to requeue the job under SLURM.
    """

    def __init__(self, requeue: bool = True) -> None:
        self.requeue = requeue
        self._signaled: Tensor | None = None  # whether any process was, at the end of the previous batch

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit" and signals.are_noted():
            disable_lightning_signals(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.world_size > 1:
            before, self._signaled = self._signaled, any_signaled(trainer)
            if before is None or not before:  # read one batch later, it does not make the host wait for the device
                return
        if can_stop(trainer, batch_idx):
            self._end_if_signaled(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end_if_signaled(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end_if_signaled(trainer)

    def _end_if_signaled(self, trainer: Trainer) -> None:
        received = signals.received()
        if not trainer.strategy.reduce_boolean_decision(received is not None, all=False):
            return
        path = save_state(trainer, "preempted.ckpt")
        signals.leave()  # now, because torchrun repeats the signal, which would end squeue or scontrol
        if trainer.is_global_zero:
            print(f"\n{self._text(trainer, path, received)}", file=sys.stderr)
        raise SystemExit(
            EXIT_CODE if trainer.is_global_zero else 0
        )  # launchers would treat 75 from another process as a crash

    def _text(self, trainer: Trainer, path: Path, received: signal.Signals | None) -> str:
        cause = "Another process was signaled" if received is None else f"Received {received.name}"
        queued = requeue_job(received) if self.requeue else ""
        return (
            f"{cause}: saved the state of epoch {trainer.current_epoch}, step {trainer.global_step} to {path}.{queued} "
            "Resume with --resume auto."
        )


def can_stop(trainer: Trainer, batch_idx: int) -> bool:
    """Returns whether a run can resume exactly from the end of this batch within its epoch.

    It cannot while gradients accumulate, nor before a validation.
    """
    stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
    return stepped and not trainer.is_last_batch and trainer.val_check_interval == 1.0


def save_state(trainer: Trainer, name: str) -> Path:
    """Saves everything that a run needs to resume as `checkpoints/<name>` in its folder; returns the path."""
    path = Path(trainer.default_root_dir) / "checkpoints" / name
    trainer.save_checkpoint(path, weights_only=False)
    return path


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its target, flushes it to disk, and renames it.

    The best epoch's is for use and holds neither the state of the optimizer nor, with averaged weights, those that were
    averaged: together up to three quarters of a file.

    Lightning's own goes through the system's temporary folder and is copied if that is on another file system: a kill
    or a full disk then leaves half a file in place of the previous checkpoint.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        if Path(path).name == BEST:
            checkpoint = {key: value for key, value in checkpoint.items() if key not in ONLY_RESUMED}
        write_tensors(Path(path), checkpoint, sync=True)


def write_checkpoints_atomically(trainer: Trainer) -> None:
    """Makes all checkpoints of a trainer atomic, unless the user chose a plugin to write them."""
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = AtomicCheckpointIO()


def any_signaled(trainer: Trainer) -> Tensor:
    """Returns 1 if any process was signaled, else 0, on the device, where on CUDA no host waits for it."""
    signaled = torch.full((), int(signals.received() is not None), device=trainer.strategy.root_device)
    torch.distributed.all_reduce(signaled, torch.distributed.ReduceOp.MAX)
    return signaled


def requeue_job(received: signal.Signals | None) -> str:
    """Requeues this process's SLURM job; returns a sentence about it, "" outside SLURM."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return ""
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    known, state = _slurm("squeue", "--noheader", "--jobs", job, "--format", "%T %r")
    # A canceled job is COMPLETING too, even where SIGUSR1 came first; its reason is not TimeLimit.
    continues = state.startswith("RUNNING") or state == "COMPLETING TimeLimit"
    if not (continues if known else received != signal.SIGTERM):
        return f" Job {job} was canceled and is not requeued."
    done, problem = _slurm("scontrol", "requeue", job)
    return f" Job {job} was requeued." if done else f" Job {job} could not be requeued: {problem}."


def _slurm(*command: str) -> tuple[bool, str]:
    """Returns whether a SLURM command succeeded without complaint, and its output."""
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        return False, str(error)
    output = (result.stdout + result.stderr).strip()
    return result.returncode == 0 and not result.stderr.strip(), output.rstrip(".")


# --- Lightning's internals ---------------------------------------------------------------------------------------


def is_between_epochs(trainer: Trainer) -> bool:
    """Returns whether no epoch has begun, or each that began is complete.

    Needs the epoch counters of the fit loop: `trainer.current_epoch` is the same before an epoch and within it.
    """
    progress: Any = trainer.fit_loop.epoch_progress.current
    return bool(progress.started == progress.completed)


def begin_with_new_epoch(trainer: Trainer) -> None:
    """Makes a run that resumes between epochs begin the next one from its first batch.

    With `trainer.max_steps` Lightning marks all loops as restarting, although the epoch is complete, and would count
    from its last batch. No option turns that off.
    """
    trainer.fit_loop.epoch_loop.restarting = False


def count_epoch_as_whole(trainer: Trainer) -> None:
    """Makes the scheduler of a resumed epoch step as that of an uninterrupted one.

    At the end of a restarted epoch Lightning skips all schedulers, because it does not save the metrics that a plateau
    scheduler needs; ours are saved. No option turns that off, and the setter `restarting` turns False into True where
    `trainer.max_steps` is set.
    """
    trainer.fit_loop._restarting = False


def mark_between_epochs(checkpoint: dict[str, Any]) -> bool:
    """Marks the next epoch of a checkpoint as not begun if it was saved between epochs; returns whether it was.

    Lightning counts an epoch as ready before `on_train_epoch_start`, where the state is saved, and a resumed run would
    count it again. The hook that Lightning offers for changes to a checkpoint is public, the keys inside are not.
    """
    progress = checkpoint["loops"]["fit_loop"]["epoch_progress"]
    between = bool(progress["current"]["started"] == progress["current"]["processed"])
    if between:
        for counters in progress.values():
            counters["ready"] = counters["started"]
    return between


def validation_batches(trainer: Trainer) -> int:
    """Returns how many batches each validation of a run uses.

    Lightning knows it once it has made the loaders, which it does not do for a resumed run that had already ended. No
    public method makes them outside the loop.
    """
    if not trainer.num_val_batches:
        trainer.fit_loop.epoch_loop.val_loop.setup_data()
    return int(trainer.num_val_batches[0])


def disable_lightning_signals(trainer: Trainer) -> None:
    """Keeps Lightning from installing its signal handlers over ours.

    They communicate with other processes from within the handler, which can deadlock, and end with exit code 0. The
    option `auto_requeue` of SLURMEnvironment covers SIGUSR1 only, not SIGTERM.
    """
    connector: Any = trainer._signal_connector
    connector.register_signal_handlers = lambda: None


def end_launched(trainer: Trainer) -> None:
    """Terminates the processes that Lightning started for this one, which a signal to this one does not reach.

    Lightning does so only after Ctrl-C; the launcher's method is public, but not each launcher has one that works.
    """
    launcher = trainer.strategy.launcher
    if isinstance(launcher, _SubprocessScriptLauncher):
        launcher.kill(signal.SIGTERM)
