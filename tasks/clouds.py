"""Clouds: which pixels of a satellite picture show Fish, Flower, Gravel or Sugar?

After H. Nagarkar, honors thesis, University of Mississippi, 2020: U-Net, PSPNet and FPN with four encoders,
trained with binary cross-entropy plus squared dice. The classes may overlap: one sigmoid map each.
"""

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric

from ops.errors import WeightsError
from ops.windows import resized_maps
from tasks.base import Batch, ImageTask
from tasks.decision import Decision
from tasks.losses import bce_dice_loss
from tasks.metrics.dice import DiceScores, PixelAveragePrecision
from tasks.metrics.meter import Step
from tasks.networks.backbones import Architecture, encoder_of, load_encoder, segmentation_network


class CloudsTask(ImageTask):
    """Multi-label segmentation of cloud patterns, or of any classes that may overlap.

    Headline metric: `val/dice`. A pixel belongs to a class where its probability reaches the class's threshold,
    in a region no smaller than the class's minimum area; both start at .5 and 0, are fitted on the validation
    set after training and are kept in the checkpoint.

    Args:
        architecture: The decoder.
        encoder: The encoder, by its name in segmentation_models_pytorch.
        pretrained: `true` for the library's ImageNet weights, `false` to train from scratch, or the path of a
            weights file.
        freeze_encoder: Whether the encoder keeps its pretrained weights and statistics.
        classes: Names of the K classes, in the order of the masks.
        optimizer: Makes the optimiser; the thesis used Nadam with learning rate 2e-4.
        scheduler: Makes the learning-rate schedule; none in the thesis.

    Raises:
        ValueError: The architecture or encoder is unknown, or there is no class.
    """

    headline = "dice"

    def __init__(
        self,
        architecture: Architecture = "fpn",
        encoder: str = "mobilenet_v2",
        pretrained: bool | str = True,
        freeze_encoder: bool = False,
        classes: Sequence[str] = ("Fish", "Flower", "Gravel", "Sugar"),
        optimizer: OptimizerCallable = lambda p: torch.optim.NAdam(p, lr=2e-4),
        scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        if not classes:
            raise ValueError("classes are []; one or more different names were wanted")
        self.classes = list(classes)
        super().__init__(optimizer, scheduler)
        self.save_hyperparameters(ignore=["optimizer", "scheduler"])
        self.encoder, self.pretrained, self.freeze_encoder = encoder, pretrained, freeze_encoder
        self.network = segmentation_network(architecture, encoder, len(self.classes))
        encoder_of(self.network).requires_grad_(not freeze_encoder)
        self.decision = Decision(len(self.classes))
        self.train()  # trainers take a new task's modes as they are

    def build_metrics(self) -> dict[str, Metric]:
        """Dice in its three meanings, and the area under the precision-recall curve."""
        return {"dice": DiceScores(self.classes), "auprc": PixelAveragePrecision(self.classes)}

    def load_pretrained(self) -> None:
        """Fills the encoder.

        Raises:
            WeightsError: The weights cannot be had, do not fit, or a random encoder would be frozen.
        """
        if self.freeze_encoder and self.pretrained is False:
            raise WeightsError(
                "freeze_encoder is true and pretrained is false: the encoder would stay random noise. Give "
                "--model.pretrained true or the path of a weights file, or --model.freeze_encoder false."
            )
        load_encoder(self.network, self.encoder, self.pretrained)

    def on_fit_start(self) -> None:
        """Unfits thresholds and areas, where training goes on from a fitted checkpoint: epochs compare at .5 and 0."""
        self.decision.reset()

    def train(self, mode: bool = True) -> "CloudsTask":
        """Training mode; a frozen encoder keeps its batch statistics."""
        super().train(mode)
        if self.freeze_encoder:
            encoder_of(self.network).eval()
        return self

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] to logits (B, K, H, W)."""
        logits: Tensor = self.network(image)
        return logits

    def step(self, batch: Batch) -> Step:
        """Loss and masks at the resolution of the truth.

        Where `valid` is false there is no loss and no predicted class; a truth there still counts in the scores, as
        in the competition.
        """
        target, valid = batch["mask"], batch.get("valid")
        size = target.shape[-2:]
        logits = self(batch["image"])
        counted = None if valid is None else F.interpolate(valid.float(), size) > 0.5
        loss = bce_dice_loss(resized_maps(logits, size), target, counted)
        # resized as `masks` does it, so that what is scored is what `predict` writes
        probability = resized_maps(_probability(logits.detach(), valid), size)
        return Step(loss, self.masks(probability), target, probability)

    @torch.no_grad()
    def predict(self, batch: Batch) -> dict[str, Any]:
        """Masks of pictures.

        Args:
            batch: `image` (B, 3, H, W) in [0, 1]; where `valid` (B, 1, H, W) is there and false, no class is seen.

        Returns:
            `probability` (B, K, H, W) in [0, 1] and `mask` (B, K, H, W) bool.
        """
        probability = _probability(self(batch["image"]), batch.get("valid"))
        return {"probability": probability, "mask": self.masks(probability)}

    def masks(self, probability: Tensor, size: Sequence[int] | None = None) -> Tensor:
        """Decides by the fitted thresholds and minimum areas.

        Args:
            probability: (B, K, h, w) in [0, 1].
            size: Height and width of the masks; None keeps (h, w).

        Returns:
            (B, K, H, W) bool, on the device of `probability`.
        """
        return self.decision.masks(resized_maps(probability, size))

    def marked(self, probability: Tensor) -> Tensor:
        """Which pixels reach their class's threshold, bool, of probabilities (B, K, H, W)."""
        return self.decision.marked(probability)

    def least_areas(self, size: tuple[int, int]) -> list[float]:
        """The smallest region of each class that is kept, a share of a picture of any height and width."""
        areas: list[float] = self.decision.minimum_areas.tolist()
        return areas


def _probability(logits: Tensor, valid: Tensor | None) -> Tensor:
    """Probabilities (B, K, H, W) in float32, 0 where a picture is not valid."""
    probability = logits.float().sigmoid()
    return probability if valid is None else probability * valid
