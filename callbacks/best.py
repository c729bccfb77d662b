"""The best epoch: keeps its checkpoint, stops training in time, reports the result."""

import math
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping as LightningEarlyStopping
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only
from torch import Tensor

from callbacks.resuming import write_checkpoints_atomically
from ops.errors import TrainingError
from ops.progress import notices_are_on

LOWER_IS_BETTER = ("loss", "error", "emd", "emd2", "hausdorff95", "delta_e76", "delta_e2000")

DIVERGED = 1_000_000  # losses and metrics of all tasks are far below


def mode_of(monitor: str) -> Literal["min", "max"]:
    """Returns whether a metric is best at its minimum (losses, errors, distances) or at its maximum."""
    return "min" if monitor.endswith(LOWER_IS_BETTER) else "max"


class AfterValidation(Callback):
    """Makes a callback skip the end of an epoch that was not validated, where `callback_metrics` are stale."""

    _validated = False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validated = not trainer.sanity_checking

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._validated:
            super().on_train_epoch_end(trainer, pl_module)
        self._validated = False


class BestCheckpoint(AfterValidation, ModelCheckpoint):
    """Saves the best epoch as `checkpoints/best.ckpt` in the folder of the run; or a later one that is nearly as good.

    A few validation images rank epochs by chance: of two that are nearly as good, the one that trained longer,
    with a lower learning rate, is the safer choice.

    Args:
        monitor: The metric that decides which epoch is best.
        mode: Whether lower (`min`) or higher (`max`) is better.
        tolerance: 0 keeps the best epoch; above 0, the latest that is less than this worse, in the metric's unit.

    Attributes:
        kept: The epoch that is kept and its value; None before the first.
        peak: The best value so far.

    Raises:
        ValueError: `tolerance` is negative or not finite.
    """

    def __init__(self, monitor: str = "val/loss", mode: str = "min", tolerance: float = 0.0) -> None:
        if not 0 <= tolerance < math.inf:
            raise ValueError(f"best_checkpoint.tolerance is {tolerance}; expected 0 or a positive number, such as 0.02")
        super().__init__(
            filename="best",
            monitor=monitor,
            mode=mode,
            save_on_train_epoch_end=True,
            auto_insert_metric_name=False,
            enable_version_counter=False,
        )
        self.tolerance = tolerance
        self.kept: tuple[int, float] | None = None
        self.peak: float | None = None

    def keeps(self, value: float) -> bool:
        """Returns whether an epoch with this value would be kept."""
        return self.peak is None or self._goodness(value) > self._goodness(self.peak) - self.tolerance

    def check_monitor_top_k(self, trainer: Trainer, current: Tensor | None = None) -> bool:
        if current is None:
            return False
        value = float(current)
        keeps = trainer.strategy.reduce_boolean_decision(self.keeps(value))
        if self.peak is None or self._goodness(value) > self._goodness(self.peak):
            self.peak = value
        if keeps:
            self.kept = trainer.current_epoch, value
        return keeps

    def _goodness(self, value: float) -> float:
        """The larger the better; nan is worse than any other value."""
        if math.isnan(value):
            return -math.inf
        return value if self.mode == "max" else -value

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        write_checkpoints_atomically(trainer)
        self.dirpath = str(Path(trainer.default_root_dir) / "checkpoints")
        super().setup(trainer, pl_module, stage)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"peak": self.peak, "kept": None if self.kept is None else list(self.kept)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores what is kept even if the run's folder has moved, where Lightning would forget it.

        A folder without `best.ckpt` begins anew: the next epoch is kept there.
        """
        best = Path(str(self.dirpath), f"{self.filename}{self.FILE_EXTENSION}")
        if not best.is_file():
            return
        if state_dict["dirpath"] != self.dirpath:
            state_dict = state_dict | {
                "dirpath": self.dirpath,
                "best_model_path": str(best),
                "kth_best_model_path": str(best),
                "best_k_models": {str(best): state_dict["best_model_score"]},
            }
        super().load_state_dict(state_dict)
        if "peak" in state_dict:
            self.peak = state_dict["peak"]
            self.kept = None if state_dict["kept"] is None else tuple(state_dict["kept"])
        elif self.best_model_score is not None:  # written before there was a tolerance
            self.peak = float(self.best_model_score)
            self.kept = int(torch.load(best, map_location="cpu", weights_only=True, mmap=True)["epoch"]), self.peak


def best_checkpoint(trainer: Trainer) -> BestCheckpoint | None:
    """Returns the callback that keeps a run's best epoch, if there is one."""
    return next((each for each in trainer.checkpoint_callbacks if isinstance(each, BestCheckpoint)), None)


def best_epoch(trainer: Trainer) -> int | None:
    """Returns the epoch that is kept in `best.ckpt`, if there is one."""
    best = best_checkpoint(trainer)
    return best.kept[0] if best is not None and best.kept is not None else None


class EarlyStopping(AfterValidation, LightningEarlyStopping):
    """Stops training when the monitored metric no longer improves.

    Args:
        monitor: The metric to watch.
        mode: Whether lower (`min`) or higher (`max`) is better.
        patience: Validated epochs without improvement before training stops; null trains all epochs.
        min_delta: Smallest change that counts as an improvement, in the metric's unit.

    Raises:
        ValueError: `patience` is below 1.
    """

    def __init__(
        self, monitor: str = "val/loss", mode: str = "min", patience: int | None = 10, min_delta: float = 0.0
    ) -> None:
        if patience is not None and patience < 1:
            raise ValueError(f"patience is {patience}; expected 1 epoch or more, or null to train all epochs")
        epochs = 1 << 30 if patience is None else patience
        super().__init__(monitor, min_delta, epochs, mode=mode, strict=True, check_finite=False,
                         check_on_train_epoch_end=True)  # fmt: skip

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores everything but the patience, which the resumed run may have changed."""
        super().load_state_dict(state_dict | {"patience": self.patience})

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops a resumed run that had already stopped; Lightning would train one more epoch."""
        trainer.should_stop = trainer.should_stop or self.wait_count >= self.patience


class FiniteOrStop(Callback):
    """Stops a run whose loss or monitored metric is nan, infinite or beyond a million, where none belongs.

    The loss is checked every `trainer.log_every_n_steps` steps, because each check makes the host wait for the device.

    Args:
        monitor: The metric that must stay finite.
    """

    def __init__(self, monitor: str = "val/loss") -> None:
        self.monitor = monitor
        self._finite: Tensor | None = None  # on the device: whether all losses since the last check were

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        finite = outputs["loss"].detach().abs() < DIVERGED  # false for nan
        self._finite = finite if self._finite is None else self._finite.to(finite.device) & finite
        if trainer.global_step % trainer.log_every_n_steps == 0 or trainer.is_last_batch:  # type: ignore[attr-defined]  # untyped there
            if not trainer.strategy.reduce_boolean_decision(bool(self._finite)):  # all processes stop, or none
                self._stop(trainer, "the training loss")
            self._finite = None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        value = trainer.callback_metrics.get(self.monitor)
        if not trainer.sanity_checking and value is not None and not abs(value) < DIVERGED:
            self._stop(trainer, self.monitor)

    def state_dict(self) -> dict[str, Any]:
        return {"finite": self._finite is None or bool(self._finite)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._finite = None if state_dict["finite"] else torch.tensor(False)

    def _stop(self, trainer: Trainer, what: str) -> None:
        best = Path(trainer.default_root_dir) / "checkpoints" / "best.ckpt"
        kept = f" The best epoch so far is kept in {best}." if best.is_file() else ""
        raise TrainingError(
            f"Training stopped in epoch {trainer.current_epoch}, step {trainer.global_step}: {what} is nan, "
            f"infinite or beyond {DIVERGED:,}. Try a lower learning rate (--model.optimizer.lr), gradient clipping "
            f"(--trainer.gradient_clip_val 1) or full precision (--trainer.precision 32-true).{kept}"
        )


class Summary(Callback):
    """Prints the best epoch and the files of the run when training ends."""

    @rank_zero_only
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        text = f"Training finished. Epochs: {trainer.current_epoch}, steps: {trainer.global_step}.{self._text(trainer)}"
        (rank_zero_info if notices_are_on() else print)(text)

    @rank_zero_only
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Prints the summary of a run that was interrupted with Ctrl+C."""
        if isinstance(exception, KeyboardInterrupt):
            last = Path(trainer.default_root_dir) / "checkpoints" / "last.ckpt"
            resume = f" Resume with --ckpt_path {last}." if last.is_file() else ""
            rank_zero_info(
                f"Interrupted in epoch {trainer.current_epoch}; nothing was fitted on the validation images."
                f"{resume}{self._text(trainer)}"
            )

    def _text(self, trainer: Trainer) -> str:
        folder = Path(trainer.default_root_dir)
        lines, panel, best = [""], "panels", best_checkpoint(trainer)
        if best is not None and best.kept is not None:
            epoch, value = best.kept
            panel = f"panels/epoch_{epoch:04d}.png"
            better = "" if value == best.peak else f" (at best {best.peak:.4f}, tolerance {best.tolerance:g})"
            what = "Kept" if better else "Best"
            lines.append(f"{what} epoch {epoch}: {best.monitor} {value:.4f}{better}.")
        for name in ("checkpoints/best.ckpt", "curves.png", panel, "metrics.csv", "thresholds.csv", "config.yaml"):
            if (folder / name).exists():
                lines.append(f"  {folder / name}")
        return "\n".join(lines)
