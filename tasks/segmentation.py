"""Segmentation: the parent of every task that marks classes pixel by pixel."""

import inspect
from collections.abc import Sequence
from typing import Any, Self

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric

from datamodules.batch import Batch
from ops.errors import WeightsError
from ops.windows import resized_maps
from tasks.base import ImageTask
from tasks.decision import Decision
from tasks.losses import bce_dice_loss
from tasks.metrics.dice import DiceScores, PixelAveragePrecision
from tasks.metrics.meter import Step
from tasks.networks.backbones import Architecture, encoder_of, load_encoder, segmentation_network


def known(batch: Batch) -> Tensor | None:
    """Returns where the truth is known, bool (B, 1, h, w), or None if it is everywhere."""
    return ~batch["ignored"] if "ignored" in batch else None


def counted(batch: Batch, size: Sequence[int]) -> Tensor | None:
    """Returns which pixels of a truth of this height and width have a loss, bool (B, 1, h, w), or None if all have."""
    valid, there = batch.get("valid"), known(batch)
    if valid is None:
        return there
    valid = F.interpolate(valid.float(), tuple(size)) > 0.5
    return valid if there is None else valid & there


class SegmentationTask(ImageTask):
    """Marks classes that may overlap, one sigmoid map each, with an encoder-decoder network.

    A new task is a subclass with `classes`. Others also replace `build_network`, `loss` or `build_metrics`.

    Headline metric: `val/dice`. A pixel belongs to a class where its probability reaches the class's threshold, in a
    region no smaller than the class's minimum area. Both start at 0.5 and 0; the callback `FittedThresholds` fits them
    on the validation images after training, and the checkpoint keeps them.

    Args:
        architecture: The decoder.
        encoder: The encoder, by its name in segmentation_models_pytorch.
        pretrained: `true` for the library's ImageNet weights, `false` to train from scratch, or the path of a
            weights file.
        freeze_encoder: Whether the encoder keeps its pretrained weights and statistics.
        optimizer: Builds the optimizer.
        scheduler: Builds the learning-rate schedule; none by default.

    Attributes:
        decision: Thresholds and minimum areas.

    Raises:
        ValueError: The architecture or encoder is unknown, or there is no class.
    """

    headline = "dice"
    decision: Decision

    def __init__(
        self,
        architecture: Architecture = "fpn",
        encoder: str = "mobilenet_v2",
        pretrained: bool | str = True,
        freeze_encoder: bool = False,
        optimizer: OptimizerCallable = lambda p: torch.optim.Adam(p, lr=1e-3),
        scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        if not self.classes:
            raise ValueError("classes are []; expected one or more different names")
        super().__init__(optimizer, scheduler)
        own = inspect.signature(type(self)).parameters  # a subclass may take other arguments
        hidden = {"optimizer", "scheduler"} | inspect.signature(SegmentationTask).parameters.keys() - own.keys()
        self.save_hyperparameters(ignore=sorted(hidden))
        self.architecture, self.encoder = architecture, encoder
        self.pretrained, self.freeze_encoder = pretrained, freeze_encoder
        self.network = self.build_network()
        self.decision = self.build_decision()
        if freeze_encoder:
            encoder_of(self.network).requires_grad_(False)
        self.train()  # the trainer keeps the modes of a new task; this one sets that of a frozen encoder

    def build_network(self) -> nn.Module:
        """Returns the network, with random weights: images (B, 3, H, W) in [0, 1] to logits (B, K, H, W)."""
        return segmentation_network(self.architecture, self.encoder, len(self.classes))

    def build_decision(self) -> Decision:
        """Returns the decision that training starts from."""
        return Decision(len(self.classes))

    @property
    def active_decision(self) -> Decision:
        """The decision that turns `probability` into masks; `decision` by default."""
        return self.decision

    def build_metrics(self) -> dict[str, Metric]:
        return {"dice": DiceScores(self.classes), "auprc": PixelAveragePrecision(self.classes)}

    def load_pretrained(self) -> None:
        """Fills the encoder.

        Raises:
            WeightsError: The weights are missing or do not fit, or a random encoder would be frozen.
        """
        if self.freeze_encoder and self.pretrained is False:
            raise WeightsError(
                "freeze_encoder is true and pretrained is false: the encoder would stay random noise. Give "
                "--model.pretrained true or the path of a weights file, or --model.freeze_encoder false."
            )
        load_encoder(self.network, self.encoder, self.pretrained)

    def on_fit_start(self) -> None:
        """Restores the initial thresholds and areas, so that resumed epochs compare with the earlier ones."""
        self.decision.reset()

    def train(self, mode: bool = True) -> Self:
        """Sets the mode; a frozen encoder keeps its batch statistics."""
        super().train(mode)
        if self.freeze_encoder:
            encoder_of(self.network).eval()
        return self

    def forward(self, image: Tensor) -> Tensor:
        """Maps images (B, 3, H, W) in [0, 1] to logits (B, K, H, W)."""
        logits: Tensor = self.network(image)
        return logits

    def activate(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Turns logits into probabilities.

        Returns:
            (B, K, h, w) float32 in [0, 1], 0 where a pixel is not `valid` or `ignored`; at the size of the batch's
            `mask`, if it has one, otherwise at that of its images.
        """
        probability = outputs.float().sigmoid()
        if "valid" in batch:
            probability = probability * batch["valid"]
        probability = resized_maps(probability, batch["mask"].shape[-2:] if "mask" in batch else None)
        return probability * ~batch["ignored"] if "ignored" in batch else probability

    def loss(self, logits: Tensor, target: Tensor, valid: Tensor | None) -> Tensor:
        """Returns the loss of logits and truth (B, K, h, w), counted where `valid` (B, 1, h, w)."""
        return bce_dice_loss(logits, target, valid)

    def target(self, batch: Batch) -> Tensor:
        """Returns the truth (B, K, h, w) that metrics compare with.

        By default the `mask` as it is: a class outside the valid pixels counts as missed, as Kaggle scores clouds.
        """
        mask: Tensor = batch["mask"]
        return mask

    def step(self, batch: Batch) -> Step:
        """Returns loss and masks at the size of the truth.

        Pixels that are not `valid` have no loss and no class; `ignored` ones count in no metric either.
        """
        target = self.target(batch)
        size = target.shape[-2:]
        logits = self.outputs(batch)
        loss = self.loss(resized_maps(logits, size), target, counted(batch, size))
        probability = self.probability(batch, logits.detach())
        return Step(loss, self.active_decision.masks(probability), target, probability, known(batch))

    @torch.no_grad()
    def predict(self, batch: Batch) -> dict[str, Any]:
        """Returns `probability`, see `activate`; `masks` makes masks of it."""
        return {"probability": self.probability(batch)}

    def masks(self, probability: Tensor, size: Sequence[int] | None = None) -> Tensor:
        """Decides about whole images.

        Args:
            probability: (B, K, h, w) in [0, 1].
            size: Height and width of the masks; None keeps (h, w).

        Returns:
            (B, K, H, W) bool, on the device of `probability`.
        """
        return self.active_decision.masks(resized_maps(probability, size))
