"""Training and validation figures, an epoch a row, drawn when training ends."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from drawing import charts


class Curves(Callback):
    """Draws every `train/…` and `val/…` figure over the epochs, the best epoch marked.

    The picture is `<default_root_dir>/curves.png`, also of a training that is interrupted or fails. The rows
    are kept in the checkpoint, so that the curves of a resumed training begin where the first one began.

    Args:
        monitor: The figure whose best value marks the best epoch.
        mode: Whether its lowest or its highest value is the best.

    Attributes:
        history: A row an epoch: `epoch`, counted from 0, and the figures that were measured in that epoch.

    Raises:
        ValueError: The mode is neither "min" nor "max".
    """

    def __init__(self, monitor: str = "val/loss", mode: Literal["min", "max"] = "min") -> None:
        if mode not in ("min", "max"):
            raise ValueError(f"{mode=} was given, 'min' or 'max' was wanted: is a low or a high {monitor} good?")
        self.monitor = monitor
        self.mode = mode
        self.history: list[dict[str, float]] = []
        self.baselines: Sequence[str] = ()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.baselines = getattr(pl_module, "baselines", ())

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes the epoch's validation figures: now, since a checkpoint may be written next."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._note(trainer, "val")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes the epoch's training figures."""
        self._note(trainer, "train")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws."""
        self._draw(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Draws what there is of an interrupted or failed training."""
        self._draw(trainer)

    def state_dict(self) -> dict[str, Any]:
        """The rows, in plain types: checkpoints must load with `weights_only=True`."""
        return {"history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes up the rows of the training that is resumed."""
        self.history = list(state_dict["history"])

    def _note(self, trainer: Trainer, wanted: str) -> None:
        # On every process, not on the first alone: reading the figures makes processes add up theirs.
        figures: dict[str, float] = {"epoch": trainer.current_epoch}
        for key, value in trainer.callback_metrics.items():
            stage, *metric = key.split("/")
            # what is logged on steps too is there thrice: as it is called, per step, and per epoch
            plain = len(metric) == 1 and not metric[0].endswith(("_step", "_epoch"))
            if stage == wanted and plain and not math.isinf(value):
                figures[key] = float(value)
        # a training that begins anew or repeats an epoch leaves no rows from after it
        self.history = [row for row in self.history if row["epoch"] <= trainer.current_epoch]
        if not self.history or self.history[-1]["epoch"] < trainer.current_epoch:
            self.history.append({})
        self.history[-1].update(figures)

    def _draw(self, trainer: Trainer) -> None:
        if trainer.is_global_zero and any(len(row) > 1 for row in self.history):
            charts.draw_curves(
                self.history, self.monitor, Path(trainer.default_root_dir, "curves.png"), self.mode, self.baselines
            )
