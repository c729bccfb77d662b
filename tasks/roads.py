"""Roads: which pixels of an aerial image show a road?

After A. Kebir, M. Taibi and F. Serradilla, "Compressed VGG16 auto-encoder for road segmentation from aerial images with
few data training", ICCSA 2021: VGG16 and two compressed auto-encoders, trained from scratch with binary cross-entropy.
"""

from typing import Any, Literal

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import nn
from torchmetrics import Metric

from ops.views import TestTime
from tasks.decision import Decision
from tasks.losses import SegmentationLoss
from tasks.metrics.dice import DiceScores
from tasks.metrics.pixels import PixelScores
from tasks.networks.backbones import load_encoder, segmentation_network
from tasks.networks.vgg_autoencoder import vgg_autoencoder
from tasks.segmentation import SegmentationTask

Network = Literal["vgg10", "vgg12", "vgg16", "unet", "fpn", "pspnet"]
COMPRESSED = ("vgg10", "vgg12")


class RoadsTask(SegmentationTask):
    """Marks roads in aerial images, or any one class.

    Headline metric: `val/dice`. A pixel is road where its probability reaches the threshold. `FittedThresholds` fits
    the threshold too; give it `minimum_areas: [0]`, because its areas are shares of a tile.

    Args:
        network: The paper's auto-encoders `vgg10`, `vgg12` or `vgg16`; or, not in the paper, a `unet`, `fpn` or
            `pspnet` with any encoder that clouds has.
        encoder: The encoder of `unet`, `fpn` and `pspnet`, by its name in segmentation_models_pytorch.
        pretrained: What the encoder starts from: `false`, random weights, as in the paper; `true`, the library's
            ImageNet weights; or the path of a weights file. The compressed networks have no such weights.
        threshold: Probability in [0, 1] at and above which a pixel is road. A value that differs from the checkpoint's
            overrides the checkpoint's thresholds.
        minimum_area: Smallest region, in pixels, that `predict` keeps in whole images. Metrics keep smaller ones,
            because a tile shows cut ends of roads.
        loss: What training minimizes: `bce`, cross-entropy; `bce_dice`, plus squared dice; `bce_lovasz`, plus the
            Lovász hinge; or `focal_dice`.
        encoder_lr: What the optimizer's learning rate is multiplied by for the encoder.
        tta: Views that test, predict and the threshold search average over: `none`, `flip`, `d4` or `scales`.
        optimizer: Builds the optimizer; the paper used RMSprop, whose rate and decay in Keras are 1e-3 and 0.9.
        scheduler: Builds the learning-rate schedule; none in the paper.

    Raises:
        ValueError: The network or encoder is unknown or has no pretrained weights, or a number is out of range.
    """

    classes = ("road",)
    optional_keys = ("decision.thresholds", "decision.minimum_areas")

    def __init__(
        self,
        network: Network = "vgg10",
        encoder: str = "mobilenet_v2",
        pretrained: bool | str = False,
        threshold: float = 0.5,
        minimum_area: int = 0,
        optimizer: OptimizerCallable = lambda p: torch.optim.RMSprop(p, lr=1e-3, alpha=0.9, eps=1e-7),
        scheduler: LRSchedulerCallable | None = None,
        loss: SegmentationLoss = "bce",
        encoder_lr: float = 1.0,
        tta: TestTime = "none",
    ) -> None:
        if network in COMPRESSED and pretrained is not False:
            raise ValueError(
                f"pretrained is {pretrained!r}, but {network!r} has no pretrained weights; expected pretrained false, "
                "or the network vgg16, unet, fpn or pspnet"
            )
        if not 0 <= threshold <= 1 or minimum_area < 0:
            raise ValueError(
                f"threshold is {threshold} and minimum_area {minimum_area}; expected a probability in [0, 1] and 0 "
                "pixels or more"
            )
        self.name, self.threshold, self.minimum_area = network, threshold, minimum_area
        super().__init__(encoder=encoder, pretrained=pretrained, optimizer=optimizer, scheduler=scheduler, loss=loss,
                         encoder_lr=encoder_lr, tta=tta)  # fmt: skip

    def build_network(self) -> nn.Module:
        match self.name:
            case "unet" | "fpn" | "pspnet":
                return segmentation_network(self.name, self.encoder, 1)
            case _:
                return vgg_autoencoder(self.name)

    def build_decision(self) -> Decision:
        return Decision(1, self.threshold, self.minimum_area)

    def build_metrics(self) -> dict[str, Metric]:
        """Returns the dice of tiles, and CDnet's metrics over all pixels, the F-measure among them."""
        return {"dice": DiceScores(self.classes, pooled=False), "pixels": PixelScores()}

    def load_pretrained(self) -> None:
        load_encoder(self.network, "vgg16" if self.name == "vgg16" else self.encoder, self.pretrained)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["threshold"] = self.threshold

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps a threshold that was given now and differs from the one that the checkpoint was trained with."""
        if checkpoint.get("threshold", self.threshold) != self.threshold:
            checkpoint["state_dict"].pop("decision.thresholds", None)
        super().on_load_checkpoint(checkpoint)
