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


BEST_HIGH = {"psnr": True, "ssim": True, "delta_e76": False, "delta_e2000": False}
"""Figures that are compared with those of the floors, and whether the best is the highest."""
FLOORS = {
    "grey": "leaving every picture grey",
    "mean": "one colour for everything",
    "mean_by_luminance": "one colour for each luminance",
}
SEPIA = 3
"""How many times as colourful the truth is from where on a colouring is called sepia."""


class ColorWords(Words):
    """Says after training, validation and test where a model is no better than what needs no model.

    A figure `<stage>/<figure>` is compared with `<stage>/<floor>_<figure>` of every floor that the task logs, and
    `<stage>/colorfulness` with `<stage>/colorfulness_true`.
    """

    def sentences(self, figures: Mapping[str, float], stage: str) -> list[str]:
        """Where a model is no better than what needs no model, and where it is sepia."""
        sentences = []
        for floor, meaning in FLOORS.items():
            worse = []
            for figure, high in BEST_HIGH.items():
                own, other = figures.get(f"{stage}/{figure}"), figures.get(f"{stage}/{floor}_{figure}")
                if own is not None and other is not None and not (own > other if high else own < other):
                    worse.append(f"{figure} {own:.4g} against {other:.4g}")
            if worse:
                sentences.append(f"{stage}: no better than {meaning} ({floor}): {', '.join(worse)}.")
        found, true = (figures.get(f"{stage}/colorfulness{end}") for end in ("", "_true"))
        if found is not None and true is not None and SEPIA * found < true:
            sentences.append(
                f"{stage}: close to sepia, colorfulness {found:.4g}; that of the true pictures is {true:.4g}."
            )
        return sentences


class JudgementWords(Words):
    """Says after training, validation and test how accurate the majority's answer is, and whether that was beaten."""

    def sentences(self, figures: Mapping[str, float], stage: str) -> list[str]:
        """The accuracy beside that of the same answer for all, and where half of each class is judged wrongly."""
        found = {name: figures.get(f"{stage}/{name}") for name in ("accuracy", "majority", "balanced_accuracy")}
        accuracy, majority, balanced = found.values()
        said = []
        if accuracy is not None and majority is not None:
            verdict = "better than" if accuracy > majority else "no better than"
            said.append(
                f"{stage}: accuracy {accuracy:.4g}, {verdict} the same answer for all (majority {majority:.4g})."
            )
        if balanced is not None and balanced <= 0.5:
            said.append(f"{stage}: balanced accuracy {balanced:.4g}; guessing has 0.5.")
        return said
