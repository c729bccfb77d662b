"""Roads: which pixels of an aerial picture show a road?

After A. Kebir, M. Taibi and F. Serradilla, "Compressed VGG16 auto-encoder for road segmentation from aerial images with
few data training", ICCSA 2021: VGG16 and two compressed auto-encoders, trained from scratch with binary cross-entropy.
"""

from typing import Any, Literal

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torchmetrics import Metric

from tasks.base import Batch, ImageTask
from tasks.losses import bce_loss
from tasks.metrics.dice import DiceScores
from tasks.metrics.meter import Step
from tasks.metrics.pixels import PixelScores
from tasks.networks.backbones import load_encoder, segmentation_network
from tasks.networks.vgg_autoencoder import vgg_autoencoder

Network = Literal["vgg10", "vgg12", "vgg16", "unet", "fpn", "pspnet"]
COMPRESSED = ("vgg10", "vgg12")


class RoadsTask(ImageTask):
    """Road masks of aerial pictures, or of any one class.

    Headline metric: `val/dice`. A pixel is road where its probability reaches the threshold.

    Args:
        network: The paper's auto-encoders `vgg10`, `vgg12` or `vgg16`; or, not in the paper, a `unet`, `fpn` or
            `pspnet` on any encoder that clouds has.
        encoder: The encoder of the last three, by its name in segmentation_models_pytorch.
        pretrained: What the encoder starts from: `false`, random weights, as in the paper; `true`, the library's
            ImageNet weights; or the path of a weights file. The compressed networks have no such weights.
        threshold: Probability in [0, 1] from which on a pixel is road.
        minimum_area: Regions of fewer pixels are left out of the masks that `predict` writes; no score leaves them out,
            because a tile shows cut ends of roads.
        optimizer: Makes the optimiser; the paper used RMSprop, whose rate and decay in Keras are 1e-3 and .9.
        scheduler: Makes the learning-rate schedule; none in the paper.

    Raises:
        ValueError: The network or encoder is unknown, has no weights to start from, or a number is out of its range.
    """

    headline = "dice"
    classes = ("road",)

    def __init__(
        self,
        network: Network = "vgg10",
        encoder: str = "mobilenet_v2",
        pretrained: bool | str = False,
        threshold: float = 0.5,
        minimum_area: int = 0,
        optimizer: OptimizerCallable = lambda p: torch.optim.RMSprop(p, lr=1e-3, alpha=0.9, eps=1e-7),
        scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        if network in COMPRESSED and pretrained is not False:
            raise ValueError(
                f"pretrained is {pretrained!r} and network {network!r}, which has no pretrained weights; wanted is "
                "pretrained false, or the network vgg16, unet, fpn or pspnet"
            )
        if not 0 <= threshold <= 1 or minimum_area < 0:
            raise ValueError(
                f"threshold is {threshold} and minimum_area {minimum_area}; wanted are a probability in [0, 1] and 0 "
                "pixels or more"
            )
        super().__init__(optimizer, scheduler)
        self.save_hyperparameters(ignore=["optimizer", "scheduler"])
        self.name, self.encoder, self.pretrained = network, encoder, pretrained
        self.threshold, self.minimum_area = threshold, minimum_area
        match network:
            case "unet" | "fpn" | "pspnet":
                self.network = segmentation_network(network, encoder, 1)
            case _:
                self.network = vgg_autoencoder(network)

    def build_metrics(self) -> dict[str, Metric]:
        """Dice of pictures, and CDnet's scores of all pixels, F-measure among them."""
        return {"dice": DiceScores(self.classes, pooled=False), "pixels": PixelScores()}

    def load_pretrained(self) -> None:
        """Fills the encoder.

        Raises:
            WeightsError: The weights cannot be had or do not fit.
        """
        load_encoder(self.network, "vgg16" if self.name == "vgg16" else self.encoder, self.pretrained)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] to logits (B, 1, H, W)."""
        logits: Tensor = self.network(image)
        return logits

    def step(self, batch: Batch) -> Step:
        """Loss and masks, at the size that the network is given."""
        logits = self(batch["image"])
        probability = logits.detach().float().sigmoid()
        return Step(bce_loss(logits, batch["mask"]), self.marked(probability), batch["mask"], probability)

    @torch.no_grad()
    def predict(self, batch: Batch) -> dict[str, Any]:
        """Masks of pictures.

        Args:
            batch: `image` (B, 3, H, W) in [0, 1].

        Returns:
            `probability` (B, 1, H, W) in [0, 1] and `mask` (B, 1, H, W) bool.
        """
        probability = self(batch["image"]).float().sigmoid()
        return {"probability": probability, "mask": self.marked(probability)}

    def marked(self, probability: Tensor) -> Tensor:
        """Which pixels are road, bool, of probabilities in [0, 1] of any shape."""
        return probability >= self.threshold

    def least_areas(self, size: tuple[int, int]) -> list[float]:
        """The smallest region that is kept in a picture of this height and width, a share of its pixels."""
        return [min(1.0, self.minimum_area / (size[0] * size[1]))]
