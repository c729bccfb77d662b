"""Clouds: which pixels of a satellite image show Fish, Flower, Gravel or Sugar?

After H. Nagarkar, honors thesis, University of Mississippi, 2020: U-Net, PSPNet and FPN with four encoders,
trained with binary cross-entropy plus squared dice. The classes may overlap: one sigmoid map each.
"""

from collections.abc import Sequence

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable

from ops.views import TestTime
from tasks.losses import SegmentationLoss
from tasks.networks.backbones import Architecture, Bands
from tasks.segmentation import SegmentationTask


class CloudsTask(SegmentationTask):
    """Marks cloud patterns, or any classes that may overlap.

    Headline metric: `val/dice`.

    Args:
        architecture: The decoder; `features` is a small head on a frozen network.
        encoder: The encoder, by its name in segmentation_models_pytorch; for `features` by that or by timm's.
        pretrained: `true` for the library's ImageNet weights, `false` to train from scratch, or the path of a
            weights file.
        freeze_encoder: Whether the encoder keeps its pretrained weights and statistics.
        classes: Names of the K classes, in the order of the masks.
        loss: What training minimizes: `bce`, cross-entropy; `bce_dice`, plus squared dice; `bce_lovasz`, plus the
            Lovász hinge; or `focal_dice`.
        encoder_lr: What the optimizer's learning rate is multiplied by for the encoder.
        pretrained_bands: What a weights file was trained on, if not on images in color: the mean and the standard
            deviation in [0, 1] of each band, in the order of its first convolution, `red`, `green` and `blue` among
            them. Images are normalized by these; what the weights learned of other bands is shared among the colors.
        encoder_frozen_steps: Number of steps for which the encoder keeps its weights and statistics, so that the new
            decoder does not spoil them.
        tta: Views that test, predict and the threshold search average over: `none`, `flip`, `d4` or `scales`.
        optimizer: Builds the optimizer; the thesis used Nadam with learning rate 2e-4.
        scheduler: Builds the learning-rate schedule; none in the thesis.

    Raises:
        ValueError: The architecture, encoder, loss or views are unknown, a number is out of range, or there is no
            class.
    """

    def __init__(
        self,
        architecture: Architecture = "fpn",
        encoder: str = "mobilenet_v2",
        pretrained: bool | str = True,
        freeze_encoder: bool = False,
        classes: Sequence[str] = ("Fish", "Flower", "Gravel", "Sugar"),
        optimizer: OptimizerCallable = lambda p: torch.optim.NAdam(p, lr=2e-4),
        scheduler: LRSchedulerCallable | None = None,
        loss: SegmentationLoss = "bce_dice",
        encoder_lr: float = 1.0,
        tta: TestTime = "none",
        pretrained_bands: Bands | None = None,
        encoder_frozen_steps: int = 0,
    ) -> None:
        self.classes = list(classes)
        super().__init__(architecture, encoder, pretrained, freeze_encoder, optimizer, scheduler, loss, encoder_lr, tta,
                         pretrained_bands=pretrained_bands, encoder_frozen_steps=encoder_frozen_steps)  # fmt: skip
