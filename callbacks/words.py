"""Says in words what figures hide: after training, validation and test, where a model is no better than no model."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info

from callbacks.best import BestCheckpoint


class Words(Callback, ABC):
    """Says sentences about figures; after training about the epoch that is kept as the best, or the last without one.

    Subclasses give `sentences`.
    """

    def __init__(self) -> None:
        self._figures: dict[str, float] = {}

    @abstractmethod
    def sentences(self, figures: Mapping[str, float], stage: str) -> list[str]:
        """What is to be said, a sentence each.

        Args:
            figures: By their names in the log, such as `val/loss`.
            stage: `val` or `test`.
        """

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keeps the best epoch's figures, or speaks where nothing is trained."""
        if trainer.sanity_checking:
            return
        figures = figures_of(trainer, "val")
        if trainer.state.fn != TrainerFn.FITTING:
            self._say(figures, "val")
        elif better(trainer, figures, self._figures):
            self._figures = figures

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Speaks about the best epoch."""
        self._say(self._figures, "val")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Speaks about the test pictures."""
        self._say(figures_of(trainer, "test"), "test")

    def state_dict(self) -> dict[str, Any]:
        """The best epoch's figures, for a resumed run."""
        return {"figures": self._figures}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from a resumed run's best epoch."""
        self._figures = dict(state_dict["figures"])

    def _say(self, figures: Mapping[str, float], stage: str) -> None:
        if sentences := self.sentences(figures, stage):
            rank_zero_info("\n".join(["What the figures say:", *(f"  - {sentence}" for sentence in sentences)]))


def figures_of(trainer: Trainer, stage: str) -> dict[str, float]:
    """What the trainer has logged last of a stage, as numbers."""
    return {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith(f"{stage}/")}


def better(trainer: Trainer, figures: Mapping[str, float], before: Mapping[str, float]) -> bool:
    """Whether an epoch is kept as the best; each is where no checkpoint asks for it."""
    checkpoint = next((each for each in trainer.checkpoint_callbacks if isinstance(each, BestCheckpoint)), None)
    if checkpoint is None or checkpoint.monitor not in figures.keys() & before.keys():
        return True
    now, then = figures[str(checkpoint.monitor)], before[str(checkpoint.monitor)]
    return now < then if checkpoint.mode == "min" else now > then
