"""Segmentation: the parent of every task that marks classes pixel by pixel."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Self

import numpy as np
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric

from datamodules.batch import Batch
from ops.errors import WeightsError
from ops.views import TestTime, check_test_time, each_view, mean_over_views
from ops.windows import resized_maps
from tasks.base import ImageTask, check_images
from tasks.decision import HALF, Decision
from tasks.losses import SEGMENTATION_LOSSES, SegmentationLoss
from tasks.metrics.dice import DiceScores, PixelAveragePrecision, counting
from tasks.metrics.meter import Meter, Step
from tasks.metrics.score_loss import lost_dice
from tasks.networks.backbones import (
    Architecture,
    Bands,
    encoder_of,
    encoder_vectors,
    load_encoder,
    segmentation_network,
)
from tasks.networks.bands import widen
from tasks.whole import log_odds, stitched

PRESENCE_WEIGHT = 0.1  # at 1 the synthetic clouds lost .13 of their dice


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
        architecture: The decoder: `unet`, `pspnet`, `fpn` or `features`, a small head on a frozen network.
        encoder: The encoder, by its name in segmentation_models_pytorch; for `features` by that or by timm's.
        pretrained: `true` for the library's ImageNet weights, `false` to train from scratch, or the path of a
            weights file.
        freeze_encoder: Whether the encoder keeps its pretrained weights and statistics.
        loss: What training minimizes: `bce`, cross-entropy; `bce_dice`, plus squared dice; `bce_lovasz`, plus the
            Lovász hinge; or `focal_dice`.
        encoder_lr: What the optimizer's learning rate is multiplied by for the encoder.
        pretrained_bands: What a weights file was trained on, if not on images in color: the mean and the standard
            deviation in [0, 1] of each band, in the order of its first convolution, `red`, `green` and `blue` among
            them. Images are normalized by these; what the weights learned of other bands is shared among the colors.
        channels: Number of channels of the images; set by the data. The first three are taken for red, green and blue.
        presence_head: Whether the network also says whether an image shows each class, trained jointly: a tenth of the
            mean binary cross-entropy over the classes is added to the loss. A class is only marked where this
            probability reaches a threshold, which `FittedThresholds` fits together with the others. Of images in
            windows, each window is an image.
        encoder_frozen_steps: Number of steps for which the encoder keeps its weights and statistics, so that the new
            decoder does not spoil them.
        tta: Views that test, predict and the threshold search average over: `none`, `flip`, `d4` or `scales`.
        border: Pixels by which images are reflected beyond their edges to validate, test and predict, at the input
            size of the network, cut off its output again. Networks pad with zeros, so that masks fade near the edge.
        optimizer: Builds the optimizer.
        scheduler: Builds the learning-rate schedule; none by default.

    Attributes:
        decision: Thresholds and minimum areas.

    Raises:
        ValueError: The architecture, encoder, loss or views are unknown, a number is out of range, or there is no
            class.
    """

    headline = "dice"
    edge_thresholds: tuple[float, float] = (100, 200)
    """Canny's lower and upper threshold for edges of masks of 0 and 255."""
    _at_half: Mapping[tuple[str, str], Meter] = {}
    fixed: Sequence[str] = ()
    """Options that a subclass sets itself."""
    decision: Decision
    lost: NDArray[np.float64]
    """The pieces (B, K, 6) of the dice that the last test batch lacks, see `tasks.metrics.score_loss`."""
    optional_keys: Sequence[str] = ("decision.temperature.values",)
    fitted_keys: Sequence[str] = ("decision.",)
    """Beginnings of the state dict keys of what is fitted on the validation images after training."""

    def __init__(
        self,
        architecture: Architecture = "fpn",
        encoder: str = "mobilenet_v2",
        pretrained: bool | str = True,
        freeze_encoder: bool = False,
        optimizer: OptimizerCallable = lambda p: torch.optim.Adam(p, lr=1e-3),
        scheduler: LRSchedulerCallable | None = None,
        loss: SegmentationLoss = "bce_dice",
        encoder_lr: float = 1.0,
        tta: TestTime = "none",
        border: int = 0,
        pretrained_bands: Bands | None = None,
        encoder_frozen_steps: int = 0,
        channels: int = 3,
        presence_head: bool = False,
    ) -> None:
        if not self.classes:
            raise ValueError("classes are []; expected one or more different names")
        if loss not in SEGMENTATION_LOSSES:
            raise ValueError(f"loss is {loss!r}; expected one of {', '.join(SEGMENTATION_LOSSES)}")
        if not 0 < encoder_lr <= 1:
            raise ValueError(
                f"encoder_lr is {encoder_lr}; expected a factor above 0, up to 1. To keep the encoder as it is: "
                "freeze_encoder true"
            )
        check_test_time(tta)
        if border < 0:
            raise ValueError(f"border is {border}; expected 0 pixels or more")
        if encoder_frozen_steps < 0:
            raise ValueError(f"encoder_frozen_steps is {encoder_frozen_steps}; expected 0 steps or more")
        self.presence_head = presence_head
        self.loss_name, self.encoder_lr, self.tta, self.border = loss, encoder_lr, tta, border
        self.pretrained_bands, self.encoder_frozen_steps = pretrained_bands, encoder_frozen_steps
        super().__init__(optimizer, scheduler)
        self.save_hyperparameters(ignore=["optimizer", "scheduler", *self.fixed])
        self.architecture, self.encoder = architecture, encoder
        self.pretrained, self.freeze_encoder = pretrained, freeze_encoder
        self.network = self.build_network()
        widen(self.network, channels, pretrained_bands)
        self.decision = self.build_decision()
        if freeze_encoder:
            encoder_of(self.network).requires_grad_(False)
        self.train()  # the trainer keeps the modes of a new task; this one sets that of a frozen encoder

    def build_network(self) -> nn.Module:
        """Returns the network, with random weights: images (B, 3, H, W) in [0, 1] to logits (B, K, H, W)."""
        classes = len(self.classes)
        return segmentation_network(self.architecture, self.encoder, classes, self.pretrained_bands, self.presence_head)

    def build_decision(self) -> Decision:
        """Returns the decision that training starts from."""
        return Decision(len(self.classes), presence=self.presence_head)

    @property
    def active_decision(self) -> Decision:
        """The decision that turns `probability` into masks; `decision` by default."""
        return self.decision

    def on_test_start(self) -> None:
        """Makes a meter of masks at threshold .5; also where nothing else was fitted, so that seeds can be averaged."""
        meter = Meter({"dice": DiceScores(self.classes, pooled=False)}).to(self.device)
        self._at_half = {("", "_at_half"): meter}

    def test_meters(self) -> dict[tuple[str, str], Meter]:
        """Returns the meter of the test, and `…_at_half` of masks at threshold .5, with all regions, however small."""
        return {**super().test_meters(), **self._at_half}

    def test_step(self, batch: Batch, batch_index: int) -> None:
        step = self.step(batch)
        self.meter("test").update(step, len(batch["image"]))
        probability = self._ungated_probability(batch, step)
        assert probability is not None
        for meter in self._at_half.values():
            meter.update(replace(step, prediction=probability >= HALF), len(batch["image"]))
        self.lost = lost_pieces(step, self.decision)

    def _ungated_probability(self, batch: Batch, step: Step) -> Tensor | None:
        """Returns the probability of a step; without fitted presence thresholds, which takes a second pass."""
        tasks = [each for each in (self, *self.members) if isinstance(each, SegmentationTask) and each.presence_head]
        thresholds = [each.decision.presence_thresholds for each in tasks]
        if not any(bool(each.any()) for each in thresholds):
            return step.probability
        fitted = [each.clone() for each in thresholds]
        for each in thresholds:
            each.zero_()
        try:
            return self.step(batch).probability
        finally:
            for each, values in zip(thresholds, fitted, strict=True):
                each.copy_(values)

    def fit_order(self) -> Sequence[Mapping[str, Decision]]:
        """Returns the decisions to fit after training by the name of their pass; a group needs the groups before."""
        return [{"": self.decision}]

    def passes(self, batch: Batch, names: Iterable[str]) -> dict[str, Tensor]:
        """Returns the probabilities (B, K, H, W) of these passes by name."""
        return {each: self.probability(batch) for each in names}

    def keep_dice(self, dice: Mapping[str, float]) -> None:
        """Stores the dice of passes on the validation images, which choose the final one."""

    @property
    def final(self) -> str:
        """The name of the pass that predict writes, for tasks with several."""
        return ""

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
        load_encoder(self.network, self.encoder, self.pretrained, self.pretrained_bands)

    def on_fit_start(self) -> None:
        """Restores the initial thresholds and areas, so that resumed epochs compare with the earlier ones."""
        self.decision.reset()

    def on_train_batch_start(self, batch: Batch, batch_index: int) -> None:
        """Keeps the encoder's batch statistics while it is frozen."""
        super().on_train_batch_start(batch, batch_index)
        if self.encoder_frozen_steps:
            encoder_of(self.network).train(self.global_step >= self.encoder_frozen_steps and not self.freeze_encoder)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Drops the encoder's gradients while it is frozen; processes exchange them all the same."""
        if self.global_step < self.encoder_frozen_steps:
            for parameter in encoder_of(self.network).parameters():
                parameter.grad = None

    def train(self, mode: bool = True) -> Self:
        """Sets the mode; a frozen encoder keeps its batch statistics."""
        super().train(mode)
        if self.freeze_encoder:
            encoder_of(self.network).eval()
        return self

    def vectors(self, image: Tensor) -> Tensor | None:
        """Returns what the encoder sees in images (B, C, H, W) in [0, 1]: vectors (B, V)."""
        return encoder_vectors(self.network, image)

    def forward(self, image: Tensor) -> Tensor:
        """Maps images (B, 3, H, W) in [0, 1] to logits (B, K, H, W), with a presence head (B, 2K, H, W).

        Outside of training, the network sees images that are reflected beyond their edges by `border` pixels.
        """
        height, width = image.shape[-2:]
        border = 0 if self.training else min(self.border, height - 1, width - 1)
        logits: Tensor
        if not border:
            logits = self.network(image)
            return logits
        logits = self.network(F.pad(image, (border,) * 4, mode="reflect"))
        return logits[..., border : border + height, border : border + width]

    def activate(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Turns logits into probabilities.

        Returns:
            (B, K, h, w) float32 in [0, 1], 0 where a pixel is not `valid` or `ignored`; at the size of the batch's
            `mask`, if it has one, otherwise at that of its images.
        """
        return self._decided(outputs.float().sigmoid(), batch)

    def _decided(self, maps: Tensor, batch: Batch) -> Tensor:
        """Returns probabilities as `activate` does, from those of the network's outputs."""
        classes = len(self.classes)
        probability = placed(maps[:, :classes], batch)
        return self.decision.gated(probability, _presence(maps, classes)) if self.presence_head else probability

    def share_temperature(self, other: ImageTask) -> None:
        assert isinstance(other, SegmentationTask)
        self.decision.temperature.set(other.decision.temperature.values)

    def calibrated(self, probability: Tensor) -> Tensor:
        return self.decision.temperature(probability)  # type: ignore[no-any-return]  # untyped in torch

    def presence(self, batch: Batch) -> Tensor | None:
        """Returns the probability (B, K) that images show each class; None without a presence head."""
        return _presence(self._maps(batch), len(self.classes)) if self.presence_head else None

    @property
    def averages(self) -> bool:
        return super().averages or self.tta != "none"

    def averaged(self, batch: Batch) -> Tensor:
        return super().averaged(batch) if self.tta == "none" else self._decided(self._maps(batch), batch)

    def views_apart(self, batch: Batch) -> Iterator[Tensor]:
        if self.tta == "none":
            yield from super().views_apart(batch)
            return
        for maps in each_view(partial(self._seen, batch), batch["image"], self.tta):
            yield self._decided(maps, batch)

    def _maps(self, batch: Batch) -> Tensor:
        """Returns the probabilities of the network's outputs, averaged over views of the images."""
        image = batch["image"]
        return (
            self._seen(batch, image)
            if self.tta == "none"
            else mean_over_views(partial(self._seen, batch), image, self.tta)
        )

    def _seen(self, batch: Batch, image: Tensor) -> Tensor:
        """Returns the probabilities of the network's outputs for a view of a batch's images."""
        return self.outputs(batch | {"image": image}).float().sigmoid()

    def loss(self, logits: Tensor, target: Tensor, valid: Tensor | None) -> Tensor:
        """Returns the loss of logits and truth (B, K, h, w), counted where `valid` (B, 1, h, w).

        Logits may be followed by K constant maps of the presence head.
        """
        classes = len(self.classes)
        loss = SEGMENTATION_LOSSES[self.loss_name](logits[:, :classes], target, valid)
        if logits.shape[1] == classes:
            return loss
        present = counting(target, valid).flatten(2).any(dim=2).float()
        shown = logits[:, classes:].float().mean(dim=(2, 3))
        return loss + PRESENCE_WEIGHT * F.binary_cross_entropy_with_logits(shown, present)

    def trained_parameters(self) -> Iterable[nn.Parameter] | Iterable[dict[str, Any]]:
        if self.encoder_lr == 1:
            return super().trained_parameters()
        encoder = set(encoder_of(self.network).parameters())
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        groups: list[dict[str, Any]] = [
            {"params": [each for each in trained if each not in encoder]},
            {"params": [each for each in trained if each in encoder], "lr_factor": self.encoder_lr},
        ]
        return groups

    def target(self, batch: Batch) -> Tensor:
        """Returns the truth (B, K, h, w) that metrics compare with.

        By default the `mask` as it is: a class outside the valid pixels counts as missed, as Kaggle scores clouds.
        """
        mask: Tensor = batch["mask"]
        return mask

    def probability(self, batch: Batch, outputs: Tensor | None = None) -> Tensor:
        """Returns probabilities for a batch; of a whole image in `windows`, blended as prediction blends them."""
        if "windows" in batch:
            return _known_only(stitched(self.probability, batch), batch)
        return super().probability(batch, outputs)

    def step(self, batch: Batch) -> Step:
        """Returns loss and masks at the size of the truth.

        Pixels that are not `valid` have no loss and no class; `ignored` ones count in no metric either. The loss of a
        whole image in `windows` is that of its blended probability.
        """
        target = self.target(batch)
        size = target.shape[-2:]
        if "windows" in batch:
            probability = _known_only(stitched(self.measured, batch), batch)
            loss = self.loss(log_odds(probability), target, counted(batch, size))
        else:
            logits = self.outputs(batch)
            probability = self.measured(batch, logits)
            loss = self.loss(resized_maps(logits, size), target, counted(batch, size))
        return Step(loss, self.active_decision.masks(probability), target, probability, known(batch))

    @torch.no_grad()
    def predict(self, batch: Batch) -> dict[str, Any]:
        """Returns `probability`, see `activate`; `masks` makes masks of it."""
        check_images(batch)
        return {"probability": self.probability(batch)}

    def predict_step(self, batch: Batch, batch_index: int) -> dict[str, Any]:
        """Adds the `disagreement` of the members (B, K, h, w), if they keep it."""
        found = super().predict_step(batch, batch_index)
        return found if self.disagreement is None else {**found, "disagreement": self.disagreement}

    def masks(self, probability: Tensor, size: Sequence[int] | None = None) -> Tensor:
        """Decides about whole images.

        Args:
            probability: (B, K, h, w) in [0, 1].
            size: Height and width of the masks; None keeps (h, w).

        Returns:
            (B, K, H, W) bool, on the device of `probability`.
        """
        return self.active_decision.masks(resized_maps(probability, size))


def lost_pieces(step: Step, decision: Decision) -> NDArray[np.float64]:
    """Returns the pieces (B, K, 6) of the dice that images lack; nan for one without a pixel that counts."""
    assert step.probability is not None
    tensors = (
        counting(each, step.valid).cpu() for each in (step.prediction, decision.marked(step.probability), step.target)
    )
    masks = [each.numpy() for each in tensors]
    lost = np.array([[lost_dice(*planes) for planes in zip(*image, strict=True)] for image in zip(*masks, strict=True)])
    if step.valid is not None:
        lost[~step.valid.flatten(1).any(dim=1).cpu().numpy()] = np.nan
    return lost


def _presence(maps: Tensor, classes: int) -> Tensor:
    """Returns the values (B, K) of the constant maps that follow those of K classes."""
    return maps[:, classes:].mean(dim=(2, 3))


def placed(maps: Tensor, batch: Batch) -> Tensor:
    """Returns probabilities as `SegmentationTask.activate` describes them."""
    if "valid" in batch:
        maps = maps * batch["valid"]
    return _known_only(resized_maps(maps, batch["mask"].shape[-2:] if "mask" in batch else None), batch)


def _known_only(probability: Tensor, batch: Batch) -> Tensor:
    """Returns probabilities (B, K, h, w) with 0 where pixels are `ignored`."""
    return probability * ~batch["ignored"] if "ignored" in batch else probability
