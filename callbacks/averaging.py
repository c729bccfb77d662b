"""Averages the weights of a run over its last steps."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging

from tasks.base import ImageTask


class AveragedWeights(EMAWeightAveraging):
    """Validates and saves an exponential moving average of the weights instead of the weights themselves.

    The average changes less from epoch to epoch than the weights do. With a cosine schedule, which ends a training
    calmly too, it brought nothing on roads (`docs/benchmarks.md`). `last.ckpt` holds both, and a resumed run repeats
    the average exactly; `best.ckpt` holds the average alone.

    Args:
        decay: Share of the average that each step keeps, in [0, 1); the average spans about 1 / (1 - decay) steps.

    Raises:
        ValueError: `decay` is out of range.
    """

    def __init__(self, decay: float = 0.98) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay is {decay}; expected a share in [0, 1)")
        super().__init__(decay=decay)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Restores the average in `fit`; a checkpoint's own weights are the average, which is all that others need."""
        if trainer.state.fn == "fit":
            super().on_load_checkpoint(trainer, pl_module, checkpoint)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Copies the task, but not the data module that it asks for facts."""
        assert isinstance(pl_module, ImageTask)
        asked, pl_module.ask_facts = pl_module.ask_facts, None
        super().setup(trainer, pl_module, stage)
        pl_module.ask_facts = asked
