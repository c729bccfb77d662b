"""Warns when a model does not beat a trivial baseline."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info

from callbacks.best import best_checkpoint


class BaselineWarnings(Callback, ABC):
    """Compares metrics with trivial baselines and logs the result after training, validation and test.

    After training, the metrics are those of the best epoch, or of the last if no checkpoint is kept. Subclasses define
    `sentences`.
    """

    def __init__(self) -> None:
        self._metrics: dict[str, float] = {}  # of the best epoch

    @abstractmethod
    def sentences(self, metrics: Mapping[str, float], stage: str) -> list[str]:
        """Returns what to log.

        Args:
            metrics: By name, such as `val/loss`.
            stage: `val` or `test`.
        """

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking:
            return
        metrics = logged(trainer, "val")
        if trainer.state.fn != TrainerFn.FITTING:
            self._log(metrics, "val")
        elif is_best(trainer, metrics):
            self._metrics = metrics

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._log(self._metrics, "val")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._log(logged(trainer, "test"), "test")

    def state_dict(self) -> dict[str, Any]:
        return {"figures": self._metrics}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._metrics = dict(state_dict["figures"])

    def _log(self, metrics: Mapping[str, float], stage: str) -> None:
        if sentences := self.sentences(metrics, stage):
            rank_zero_info("\n".join(["Compared with trivial baselines:", *(f"  - {each}" for each in sentences)]))


def logged(trainer: Trainer, stage: str) -> dict[str, float]:
    """Returns the latest metrics of a stage."""
    return {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith(f"{stage}/")}


def is_best(trainer: Trainer, metrics: Mapping[str, float]) -> bool:
    """Returns whether `BestCheckpoint` will keep an epoch with these metrics; True without that callback."""
    best = best_checkpoint(trainer)
    value = None if best is None else metrics.get(str(best.monitor))
    return best is None or value is None or best.keeps(value)


HIGHER_IS_BETTER = {"psnr": True, "ssim": True, "delta_e76": False, "delta_e2000": False}
COLOR_BASELINES = {
    "grey": "no color at all",
    "mean": "one color for all pixels",
    "mean_by_luminance": "one color per luminance",
}
SEPIA = 3  # a result is called sepia if the true images are more than this many times as colorful


class ColorBaselines(BaselineWarnings):
    """Warns when a colorization is no better than one that ignores the image, or close to sepia.

    `<stage>/<metric>` is compared with `<stage>/<baseline>_<metric>` of every baseline that the task logs, and
    `<stage>/colorfulness` with `<stage>/colorfulness_true`.
    """

    @property
    def state_key(self) -> str:
        return "ColorWords"  # the class's former name, so that its state in older checkpoints is found

    def sentences(self, metrics: Mapping[str, float], stage: str) -> list[str]:
        sentences = []
        for baseline, meaning in COLOR_BASELINES.items():
            worse = []
            for metric, higher in HIGHER_IS_BETTER.items():
                own, other = metrics.get(f"{stage}/{metric}"), metrics.get(f"{stage}/{baseline}_{metric}")
                if own is not None and other is not None and not (own > other if higher else own < other):
                    worse.append(f"{metric} {own:.4g} vs {other:.4g}")
            if worse:
                sentences.append(f"{stage}: no better than {meaning} ({baseline}): {', '.join(worse)}.")
        found, true = (metrics.get(f"{stage}/colorfulness{end}") for end in ("", "_true"))
        if found is not None and true is not None and SEPIA * found < true:
            sentences.append(f"{stage}: close to sepia: colorfulness {found:.4g} vs {true:.4g} of the true images.")
        return sentences


class JudgementBaseline(BaselineWarnings):
    """Compares the accuracy of judgements with that of always choosing the larger class."""

    @property
    def state_key(self) -> str:
        return "JudgementWords"  # the class's former name, so that its state in older checkpoints is found

    def sentences(self, metrics: Mapping[str, float], stage: str) -> list[str]:
        names = ("accuracy", "majority", "balanced_accuracy")
        accuracy, majority, balanced = (metrics.get(f"{stage}/{name}") for name in names)
        sentences = []
        if accuracy is not None and majority is not None:
            verdict = "better than" if accuracy > majority else "no better than"
            always = f"always choosing the larger class (majority {majority:.4g})"
            sentences.append(f"{stage}: accuracy {accuracy:.4g}, {verdict} {always}.")
        if balanced is not None and balanced <= 0.5:
            sentences.append(f"{stage}: balanced accuracy {balanced:.4g}; guessing has 0.5.")
        return sentences
