"""What is seen while a trainer runs: a bar on a terminal, a line an epoch in a log."""

import sys
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.utilities import rank_zero_info


class ProgressBar(TQDMProgressBar):
    """Lightning's bar with the task's figures; where the output is no terminal, a line an epoch instead."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._validated = False
        super().__init__(refresh_rate=1 if self._terminal else 0)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """What stands behind the bar, without the logger's version."""
        figures: dict[str, Any] = super().get_metrics(trainer, pl_module)
        figures.pop("v_num", None)
        return figures

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ends its bar."""
        super().on_validation_end(trainer, pl_module)
        self._validated = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ends the epoch's bar, or writes its line."""
        super().on_train_epoch_end(trainer, pl_module)
        if not self._terminal:
            figures = self.get_metrics(trainer, pl_module)
            # those of an earlier validation stay in the figures
            new = {name: value for name, value in figures.items() if self._validated or not name.startswith("val/")}
            self._validated = False
            text = ", ".join(f"{name} {float(value):.4f}" for name, value in new.items() if "/" in name)
            rank_zero_info(f"Epoch {trainer.current_epoch} of {trainer.max_epochs}: {text}")
