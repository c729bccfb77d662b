"""The best epoch: which checkpoint is kept, when training stops, and what is said about it at the end."""

import math
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping as LightningEarlyStopping
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only
from torch import Tensor

from ops.errors import TrainingError


def mode_of(monitor: str) -> Literal["min", "max"]:
    """Whether a figure is best at its `min` or its `max`: losses, errors and distances are small."""
    return (
        "min"
        if monitor.endswith(("loss", "error", "emd", "emd2", "hausdorff95", "delta_e76", "delta_e2000"))
        else "max"
    )


class AtNewFigures(Callback):
    """Lets a callback look at an epoch's end only where there are new figures: not every epoch may be validated."""

    _validated = False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes that there is a new figure: not every epoch may be validated."""
        self._validated = not trainer.sanity_checking

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Looks at a new figure."""
        if self._validated:
            super().on_train_epoch_end(trainer, pl_module)
        self._validated = False


class BestCheckpoint(AtNewFigures, ModelCheckpoint):
    """Keeps the best epoch as `checkpoints/best.ckpt` in the run's folder.

    Args:
        monitor: The figure that decides which epoch is best.
        mode: Whether the best is the `min` or the `max`.
    """

    def __init__(self, monitor: str = "val/loss", mode: str = "min") -> None:
        super().__init__(
            filename="best",
            monitor=monitor,
            mode=mode,
            save_on_train_epoch_end=True,
            auto_insert_metric_name=False,
            enable_version_counter=False,
        )

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Takes the run's folder."""
        self.dirpath = str(Path(trainer.default_root_dir) / "checkpoints")
        super().setup(trainer, pl_module, stage)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes up a run's state, also where its folder was moved: Lightning would forget how good the best is."""
        best = Path(str(self.dirpath), f"{self.filename}{self.FILE_EXTENSION}")
        if state_dict["dirpath"] != self.dirpath and best.is_file():
            paths = {"dirpath": self.dirpath, "best_model_path": str(best), "kth_best_model_path": str(best),
                     "best_k_models": dict.fromkeys([str(best)], state_dict["best_model_score"])}  # fmt: skip
            state_dict = state_dict | paths
        super().load_state_dict(state_dict)


class EarlyStopping(AtNewFigures, LightningEarlyStopping):
    """Stops when the monitored figure has not improved for a while.

    Args:
        monitor: The figure that is watched.
        mode: Whether the best is the `min` or the `max`.
        patience: Validated epochs without improvement after which training stops; None trains all epochs.
        min_delta: What counts as an improvement, in the figure's unit.
    """

    def __init__(
        self, monitor: str = "val/loss", mode: str = "min", patience: int | None = 10, min_delta: float = 0.0
    ) -> None:
        if patience is not None and patience < 1:
            raise ValueError(f"patience is {patience}; a number of epochs from 1, or null to train all, was wanted")
        epochs = 1 << 30 if patience is None else patience
        super().__init__(monitor, min_delta, epochs, mode=mode, strict=True, check_finite=False,
                         check_on_train_epoch_end=True)  # fmt: skip

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes up a run's state, but for its patience, which may have been given anew."""
        super().load_state_dict(state_dict | {"patience": self.patience})

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops again a run that had stopped: Lightning would train one more epoch."""
        trainer.should_stop = trainer.should_stop or self.wait_count >= self.patience


class FiniteOrStop(Callback):
    """Stops a run whose loss or monitored figure is no longer a number, and says so.

    The loss is looked at every `trainer.log_every_n_steps` steps: a look makes the host wait for the device.

    Args:
        monitor: The figure that has to stay finite.
    """

    def __init__(self, monitor: str = "val/loss") -> None:
        self.monitor = monitor
        self._finite: Tensor | None = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Remembers on the device whether the loss was finite, and looks now and then."""
        finite = torch.isfinite(outputs["loss"].detach())
        self._finite = finite if self._finite is None else self._finite.to(finite.device) & finite
        if trainer.global_step % trainer.log_every_n_steps == 0 or trainer.is_last_batch:  # type: ignore[attr-defined]  # untyped there
            if not trainer.strategy.reduce_boolean_decision(bool(self._finite)):  # all processes stop, or none
                self._stop(trainer, "the training loss")
            self._finite = None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Looks at the monitored figure."""
        value = trainer.callback_metrics.get(self.monitor)
        if not trainer.sanity_checking and value is not None and not math.isfinite(value):
            self._stop(trainer, self.monitor)

    def state_dict(self) -> dict[str, Any]:
        """Whether the loss was finite since the last look."""
        return {"finite": self._finite is None or bool(self._finite)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from there."""
        self._finite = None if state_dict["finite"] else torch.tensor(False)

    def _stop(self, trainer: Trainer, what: str) -> None:
        best = Path(trainer.default_root_dir) / "checkpoints" / "best.ckpt"
        kept = f" The best epoch so far is kept in {best}." if best.is_file() else ""
        raise TrainingError(
            f"Training stopped in epoch {trainer.current_epoch}, step {trainer.global_step}: {what} is not a finite "
            "number any more. Try a lower learning rate (--model.optimizer.lr), gradient clipping "
            f"(--trainer.gradient_clip_val 1) or full precision (--trainer.precision 32-true).{kept}"
        )


class Summary(Callback):
    """Says at the end of training what came out and where it lies.

    Args:
        monitor: The figure that decided which epoch is best.
        mode: Whether the best is the `min` or the `max`.
    """

    def __init__(self, monitor: str = "val/loss", mode: Literal["min", "max"] = "min") -> None:
        self.monitor, self.mode = monitor, mode
        self._best: tuple[int, float] | None = None

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keeps the best epoch's number."""
        value = trainer.callback_metrics.get(self.monitor)
        if value is None:
            return
        sign = 1 if self.mode == "max" else -1
        better = self._best is None or sign * float(value) > sign * self._best[1]
        if better:
            self._best = (trainer.current_epoch, float(value))

    @property
    def best_epoch(self) -> int | None:
        """The best epoch so far, None before the first."""
        return None if self._best is None else self._best[0]

    def state_dict(self) -> dict[str, Any]:
        """The best epoch so far, for a resumed run."""
        return {"best": None if self._best is None else list(self._best)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from a resumed run's best epoch."""
        self._best = None if state_dict["best"] is None else tuple(state_dict["best"])

    @rank_zero_only
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints the summary."""
        rank_zero_info(f"Trained: epochs {trainer.current_epoch}, steps {trainer.global_step}.{self._text(trainer)}")

    @rank_zero_only
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Prints the summary of a training that was stopped by hand."""
        if isinstance(exception, KeyboardInterrupt):
            last = Path(trainer.default_root_dir) / "checkpoints" / "last.ckpt"
            more = f" Go on with --ckpt_path {last}." if last.is_file() else ""
            rank_zero_info(f"Stopped by hand in epoch {trainer.current_epoch}; nothing was fitted on the validation "
                           f"pictures.{more}{self._text(trainer)}")  # fmt: skip

    def _text(self, trainer: Trainer) -> str:
        folder = Path(trainer.default_root_dir)
        lines = [""]
        if self._best is not None:
            lines.append(f"Best epoch {self._best[0]}: {self.monitor} {self._best[1]:.4f}.")
        for name in ("checkpoints/best.ckpt", "curves.png", "panels", "metrics.csv", "thresholds.csv", "config.yaml"):
            if (folder / name).exists():
                lines.append(f"  {folder / name}")
        return "\n".join(lines)
