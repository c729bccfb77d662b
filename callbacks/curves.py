"""Plots training and validation metrics over the epochs when training ends."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from callbacks.best import best_epoch
from drawing import charts


class Curves(Callback):
    """Plots every `train/…` and `val/…` metric over the epochs into `curves.png`, with the best epoch marked.

    An interrupted or failed run is plotted too, but not a single epoch, which makes no curve. The history is kept in
    the checkpoint, so that the curves of a resumed run begin at its first epoch.

    Args:
        monitor: The metric that decides which epoch is best; its plot comes after that of the loss.

    Attributes:
        history: One row per epoch: `epoch`, counted from 0, and the metrics of that epoch.
    """

    def __init__(self, monitor: str = "val/loss") -> None:
        self.monitor = monitor
        self.history: list[dict[str, float]] = []
        self.baselines: Sequence[str] = ()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.baselines = getattr(pl_module, "baselines", ())

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Records the validation metrics now, because a checkpoint may be saved next."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._record(trainer, "val")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._record(trainer, "train")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._plot(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._plot(trainer)

    def state_dict(self) -> dict[str, Any]:
        return {"history": self.history}  # plain types: checkpoints must load with `weights_only=True`

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history = list(state_dict["history"])

    def _record(self, trainer: Trainer, stage: str) -> None:
        # On every process, not only the first: reading the metrics makes the processes add up theirs.
        row: dict[str, float] = {"epoch": trainer.current_epoch}
        for key, value in trainer.callback_metrics.items():
            prefix, *names = key.split("/")
            # A metric that is also logged per step is there three times: under its name, `…_step` and `…_epoch`.
            plain = len(names) == 1 and not names[0].endswith(("_step", "_epoch"))
            if prefix == stage and plain and not math.isinf(value):
                row[key] = float(value)
        # a second `fit`, or one that repeats an epoch, drops the rows that come later
        self.history = [old for old in self.history if old["epoch"] <= trainer.current_epoch]
        if not self.history or self.history[-1]["epoch"] < trainer.current_epoch:
            self.history.append({})
        self.history[-1].update(row)

    def _plot(self, trainer: Trainer) -> None:
        if trainer.is_global_zero and sum(len(row) > 1 for row in self.history) > 1:
            path = Path(trainer.default_root_dir, "curves.png")
            charts.draw_curves(self.history, self.monitor, path, best_epoch(trainer), self.baselines)
