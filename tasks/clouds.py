"""Clouds: which pixels of a satellite image show Fish, Flower, Gravel or Sugar?

After H. Nagarkar, honors thesis, University of Mississippi, 2020: U-Net, PSPNet and FPN with four encoders,
trained with binary cross-entropy plus squared dice. The classes may overlap: one sigmoid map each.
"""

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch.cli import OptimizerCallable

from tasks.segmentation import SegmentationTask


class CloudsTask(SegmentationTask):
    """Marks cloud patterns, or any classes that may overlap.

    Headline metric: `val/dice`.

    Args:
        classes: Names of the K classes, in the order of the masks.
        optimizer: Builds the optimizer; the thesis used Nadam with learning rate 2e-4.
        **options: Options of every segmentation task, see `SegmentationTask`.

    Raises:
        ValueError: The architecture, encoder, loss or views are unknown, a number is out of range, or there is no
            class.
    """

    def __init__(
        self,
        classes: Sequence[str] = ("Fish", "Flower", "Gravel", "Sugar"),
        optimizer: OptimizerCallable = lambda p: torch.optim.NAdam(p, lr=2e-4),
        **options: Any,
    ) -> None:
        self.classes = list(classes)
        super().__init__(optimizer=optimizer, **options)
