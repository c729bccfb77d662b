"""Avalanches: which pixels of a mountain photograph show one, judged by the window around each pixel?

After H. Alharbi, R. Faut, M. Gumina, C. Kelso and C. Miller, "Predicting avalanche field in images using convolutional
neural networks and edge detection", 2020: a window classifier makes a first prediction; its edges are drawn into the
image for a second pass of the same network.
"""

import math
from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics import Metric

from datamodules.batch import Batch
from ops.backends import Backend
from ops.edges import canny
from ops.errors import TrainingError, WeightsError
from ops.extras import check_installed
from ops.windows import resized_maps
from tasks.base import check_images
from tasks.boosting import with_trees
from tasks.decision import Decision
from tasks.losses import SegmentationLoss
from tasks.metrics.dice import DiceScores, PixelAveragePrecision
from tasks.metrics.meter import Meter, Step
from tasks.metrics.pixels import BoundaryDistance, PixelScores
from tasks.networks.backbones import load_features, segmentation_network
from tasks.networks.sliding import classify_picture
from tasks.networks.window_classifier import fill_projection, is_filled, window_classifier
from tasks.segmentation import SegmentationTask, counted, known

if TYPE_CHECKING:
    from xgboost import Booster

Network = Literal["cnn1d", "cnn2d", "vgg16", "resnet50", "resnet50_v1", "inception_resnet_v2", "unet", "fpn", "pspnet",
                  "features"]  # fmt: skip
WHOLE = ("unet", "fpn", "pspnet", "features")
"""Networks that mark a whole photograph at once, not in the paper."""
OF_WHOLE = ("encoder_lr", "tta", "pretrained_bands", "encoder_frozen_steps", "border")
OF_WINDOWS = ("bce", 1.0, "none", None, 0, 0)
"""What networks of windows need for the loss and for the options of those of whole photographs."""


class AvalanchesTask(SegmentationTask):
    """Marks avalanches in photographs, or any one class, by a classifier of windows or a segmentation network.

    Trains on windows, or on whole images with `unet`, `fpn` and `pspnet`, and is measured on whole images. Headline
    metric: `val/dice` of the network's first pass. A pixel is avalanche where its probability reaches a threshold, in a
    region no smaller than a minimum area. Both start at 0.5 and 0, are fitted on the validation images after training,
    and are kept in the checkpoint.

    `callbacks.boosting` can fit boosted trees on the network's outputs. For whole images they then replace the
    network's decision, with a threshold and a minimum area of their own.

    Args:
        network: `cnn1d`, `cnn2d`, `vgg16`, `resnet50`, `resnet50_v1` or `inception_resnet_v2` classify windows; `unet`,
            `fpn`, `pspnet` and `features`, a small head on a frozen network, mark whole photos.
        encoder: The encoder of the latter, by its name in segmentation_models_pytorch; for `features` by that or by
            timm's.
        size: Height and width that photos are resized to for the latter; follows the data's.
        window: Height and width of the windows in pixels; follows the data's.
        channels: 3, or 1 for a small network that sees gray only.
        components: Principal components of training windows that `cnn1d` sees instead of the windows; null for none.
        pretrained: What the large networks and the encoder start from: `false`, random weights; `true`, the library's
            ImageNet weights; or the path of a weights file.
        stride: Pixels from one classified pixel to the next for networks without a dense form, which are the large
            ones.
        second_input: Input of the second pass: the `edges` of the first mask, the image `enhanced` by them in white,
            or `none` for no second pass.
        xgboost_on: What boosted trees are fitted on after training: the network's `predictions`, its `features`
            (the values before its last layer), or `none` for no trees.
        edge_thresholds: Canny's lower and upper threshold for edges of masks of 0 and 255.
        tile: Height and width in pixels of the parts in which an image is classified.
        backend: Finds the edges: `exact` like OpenCV, or `kornia`, which has the Euclidean gradient only and needs
            thresholds above 0.
        loss: What training minimizes: `bce`, cross-entropy, and for whole photos also `bce_dice`, `bce_lovasz` or
            `focal_dice`.
        optimizer: Builds the optimizer; the paper used Adam or RMSprop at 1e-3.
        **options: Options of every segmentation task, see `SegmentationTask`.

    Attributes:
        decision: Threshold and minimum area of the network.
        boosted_decision: Threshold and minimum area of the trees.
        trees: The boosted trees, or None; `tasks.boosting.load` reads them.

    Raises:
        ValueError: The network is unknown or cannot take such windows, or a number is out of range.
    """

    network: nn.Sequential
    fixed = ("architecture", "freeze_encoder")
    classes = ("avalanche",)

    def __init__(
        self,
        network: Network = "cnn2d",
        window: int = 33,
        channels: Literal[1, 3] = 3,
        components: int | None = None,
        pretrained: bool | str = False,
        stride: Literal[1, 2, 4] = 1,
        second_input: Literal["none", "edges", "enhanced"] = "enhanced",
        xgboost_on: Literal["none", "predictions", "features"] = "none",
        edge_thresholds: tuple[float, float] = (100, 200),
        tile: int = 128,
        backend: Backend = "exact",
        optimizer: OptimizerCallable = lambda p: torch.optim.Adam(p, lr=1e-3),
        encoder: str = "mobilenet_v2",
        size: tuple[int, int] | None = None,
        loss: SegmentationLoss = "bce",
        **options: Any,
    ) -> None:
        self.whole = network in WHOLE
        if self.whole and (components is not None or xgboost_on != "none" or channels != 3):
            raise ValueError(f"{network} sees whole photos in color: it has no components, trees or gray input")
        if tile < 1 or not all(0 <= each < math.inf for each in edge_thresholds):
            raise ValueError(f"{tile=} and {edge_thresholds=}; expected 1 pixel or more and finite numbers from 0")
        if backend == "kornia" and not all(edge_thresholds):
            raise ValueError(f"backend 'kornia' needs edge thresholds above 0, got {list(edge_thresholds)}")
        self.name, self.window, self.channels, self.components = network, window, channels, components
        self.stride, self.tile, self.edge_thresholds, self.size = stride, tile, edge_thresholds, size
        self.backend = backend
        if xgboost_on != "none":
            check_installed("xgboost", "Boosted trees (xgboost_on) need")
        self.second_input, self.xgboost_on = second_input, xgboost_on
        self.trees: Booster | None = None
        super().__init__(
            architecture="unet",
            encoder=encoder,
            pretrained=pretrained,
            freeze_encoder=False,
            optimizer=optimizer,
            loss=loss,
            **options,
        )
        if not self.whole and (loss, *(getattr(self, name) for name in OF_WHOLE)) != OF_WINDOWS:
            raise ValueError(f"{network} classifies windows: loss, {', '.join(OF_WHOLE)} are for {', '.join(WHOLE)}")
        self.boosted_decision = Decision(1)

    def build_network(self) -> nn.Module:
        match self.name:
            case "unet" | "fpn" | "pspnet" | "features":
                return segmentation_network(self.name, self.encoder, 1, self.pretrained_bands)
            case _:
                return window_classifier(self.name, self.window, self.channels, self.components)

    def build_metrics(self) -> dict[str, Metric]:
        """Returns metrics of whole images: of their windows, one per pixel, and of their masks."""
        return picture_metrics(self.classes)

    def build_training_metrics(self) -> dict[str, Metric]:
        return mask_metrics(self.classes) if self.whole else window_metrics(self.classes)

    @property
    def active_decision(self) -> Decision:
        return self.decision if self.trees is None else self.boosted_decision

    def load_pretrained(self) -> None:
        """Fills the features of a large network.

        Raises:
            WeightsError: The weights are missing or do not fit.
        """
        if self.whole:
            super().load_pretrained()
            return
        if self.pretrained is not False and self.name in ("cnn1d", "cnn2d"):
            raise WeightsError(f"{self.name} has no pretrained weights: give --model.pretrained false.")
        if self.pretrained is not False:
            load_features(self.network[0], self.name, self.pretrained)

    def prepare(self, batches: Iterable[Batch]) -> None:
        """Takes the principal components from the training windows."""
        if self.components is not None and not is_filled(self.network):
            held = fill_projection(self.network, (batch["image"] for batch in batches), self.summed)
            rank_zero_info(f"{self.components} principal components hold {held:.1%} of the windows' variance.")

    def on_fit_start(self) -> None:
        """Drops what is fitted after training: resumed epochs compare with the earlier ones.

        Raises:
            TrainingError: The network has no principal components yet.
        """
        self.trees = None
        self.decision.reset()
        self.boosted_decision.reset()
        if self.components is not None and not is_filled(self.network):
            raise TrainingError(
                "The principal components are not fitted. Add callbacks.handover.Handover(data) to the trainer's "
                "callbacks."
            )

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Drops the trees: those of a checkpoint lie beside it, and `callbacks.boosting` reads them."""
        self.trees = None
        super().on_load_checkpoint(checkpoint)

    def classified(self, image: Tensor, valid: Tensor | None = None) -> Tensor:
        """Classifies the window around each pixel of images (B, 3, H, W) in [0, 1].

        Args:
            image: The images.
            valid: Pixels to classify, bool (B, 1, H, W); logits elsewhere are undefined.

        Returns:
            The network's logits (B, 1, H, W); with trees (B, 2, H, W), theirs after the network's.
        """
        network, head = self.network, None
        if self.trees is not None:
            network, head = with_trees(self.network, self.trees, self.xgboost_on)
        classify = partial(classify_picture, network, window=self.window, stride=self.stride, tile=self.tile, head=head)
        parts = [None] * len(image) if valid is None else valid[:, 0]
        with torch.autocast(image.device.type, enabled=False):
            return torch.stack([classify(each, where=part) for each, part in zip(image.float(), parts, strict=True)])

    def outputs(self, batch: Batch) -> Tensor:
        """Returns logits: of windows with a `label` each (B, 1, 1, 1), otherwise of all pixels (B, 1 or 2, H, W)."""
        if self.whole:
            return self.marked(batch["image"])
        if "label" in batch:
            return self(batch["image"])[:, :, None, None]  # type: ignore[no-any-return]  # untyped in Lightning
        return self.classified(batch["image"], batch.get("valid"))

    def marked(self, image: Tensor) -> Tensor:
        """Returns logits (B, 1, H, W) of whole images (B, 3, H, W) in [0, 1], computed at `size`."""
        size, whole = self.size or image.shape[-2:], image.shape[-2:]
        if size != tuple(whole):
            image = functional.interpolate(image, size, mode="bilinear", antialias=True)
        return resized_maps(self(image), whole)

    def activate(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Turns the last logits, the trees' if there are trees, into probabilities (B, 1, H, W); 0 where not valid."""
        return super().activate(outputs[:, -1:], batch)

    def target(self, batch: Batch) -> Tensor:
        """Returns the truth, without avalanches that are not valid: nobody looked for them there."""
        truth: Tensor = batch["label"][:, None, None, None] if "label" in batch else batch["mask"]
        return truth * batch["valid"] if "valid" in batch else truth

    def step(self, batch: Batch) -> Step:
        """Returns loss and decisions of the network, without trees: of windows, or of all pixels of whole images."""
        return self._step(self.outputs(batch), batch, by_trees=False)

    def _step(self, logits: Tensor, batch: Batch, by_trees: bool) -> Step:
        """Returns loss and decisions of the network, or of the trees, whose logits follow the network's."""
        logits, decision = (logits[:, 1:], self.boosted_decision) if by_trees else (logits[:, :1], self.decision)
        target, probability = self.target(batch), self.measured(batch, logits)
        loss = self.loss(logits, target, counted(batch, target.shape[-2:]))
        return Step(loss, decision.masks(probability), target, probability, known(batch))

    def on_test_start(self) -> None:
        """Makes meters for every pass and every condition of the test images."""
        passes = ["", "boosted_"] if self.trees is not None else [""]
        passes += ["second_"] if self.second_input != "none" else []
        self._passes = PassMeters(passes, self.facts.conditions, self.classes, self.device)

    def test_meters(self) -> dict[tuple[str, str], Meter]:
        """Returns the meters of the first pass, `boosted_…` of the trees, `second_…`; and of each `…@<condition>`."""
        return self._passes.named()

    def test_step(self, batch: Batch, batch_index: int) -> None:
        """Counts a test image after the first pass, of the network and of the trees, and after the second."""
        logits = self.outputs(batch)
        self._count("", logits, batch, by_trees=False)
        if self.trees is not None:
            self._count("boosted_", logits, batch, by_trees=True)
        if self.second_input != "none":
            shown = {key: value for key, value in batch.items() if key != "ignored"}  # as `predict` does
            edges = self._edges(self.masks(self.measured(shown, logits)))
            again = batch | {"image": redrawn(batch["image"], edges, self.second_input)}
            self._count("second_", self.outputs(again), batch, by_trees=self.trees is not None)

    def _count(self, each: str, logits: Tensor, batch: Batch, by_trees: bool) -> None:
        self._passes.count(each, self._step(logits, batch, by_trees), batch.get("condition", []))

    @torch.no_grad()
    def predict(self, batch: Batch) -> dict[str, Any]:
        """Classifies whole images, by the trees if there are trees.

        Args:
            batch: `image` (B, 3, H, W) in [0, 1], and optionally `valid` (B, 1, H, W), the pixels to classify.

        Returns:
            `probability` (B, 1, H, W) of the last pass, and `stages`, the intermediate results by name.
        """
        check_images(batch)
        image = batch["image"].float()
        probability = self.probability(batch)
        mask = self.masks(probability)
        stages: dict[str, Tensor] = {"first_probability": probability, "first_mask": mask}
        if self.second_input != "none":
            edges = self._edges(mask)
            drawn = redrawn(image, edges, self.second_input)
            probability = self.probability(batch | {"image": drawn})
            mask = self.masks(probability)
            stages |= {"first_edges": edges, "second_input": drawn, "second_probability": probability,
                       "second_mask": mask}  # fmt: skip
        stages["last_edges"] = self._edges(mask)
        return {"probability": probability, "stages": stages}

    def _edges(self, mask: Tensor) -> Tensor:
        levels = mask.to(torch.uint8) * 255
        return canny(levels, *self.edge_thresholds, l2=self.backend == "kornia", backend=self.backend)


def window_metrics(classes: Sequence[str]) -> dict[str, Metric]:
    """Returns metrics of classified windows, or of pixels classified by the windows around them."""
    return {"windows": PixelScores(["accuracy", "balanced_accuracy"]), "auprc": PixelAveragePrecision(classes)}


def mask_metrics(classes: Sequence[str]) -> dict[str, Metric]:
    """Returns metrics of the masks of whole images."""
    return {"masks": DiceScores(classes, pooled=False), "pixels": PixelScores(["iou"])}


def picture_metrics(classes: Sequence[str]) -> dict[str, Metric]:
    """Returns metrics of whole images: of their pixels, of their masks, and of the outlines of these."""
    return {**window_metrics(classes), **mask_metrics(classes), "boundary": BoundaryDistance()}


def redrawn(image: Tensor, edges: Tensor, second_input: Literal["none", "edges", "enhanced"]) -> Tensor:
    """Returns the input of the second pass: edges (B, 1, H, W), bool, or images (B, 3, H, W) with them in white."""
    return edges.to(image).expand_as(image) if second_input == "edges" else image.masked_fill(edges, 1.0)


class PassMeters:
    """One meter per pass, and one per pass and condition.

    Args:
        passes: Prefix of each pass's metrics.
        conditions: Conditions of the images; the same in all processes.
        classes: Names of the masks' classes.
        device: Where the meters count.
    """

    def __init__(
        self,
        passes: Sequence[str],
        conditions: Sequence[str],
        classes: Sequence[str],
        device: torch.device,
    ) -> None:
        self.meters = {
            (each, condition): Meter(mask_metrics(classes) if condition else picture_metrics(classes)).to(device)
            for each in passes
            for condition in ("", *conditions)
        }

    def count(self, each: str, step: Step, conditions: Sequence[str]) -> None:
        """Counts a batch of one pass, whose images all have these conditions."""
        for condition in {"", *conditions}:
            self.meters[each, condition].update(step, len(step.target))

    def named(self) -> dict[tuple[str, str], Meter]:
        """Returns the meters by the prefix of their metrics' names, the pass's, and the suffix, `@<condition>`."""
        return {(each, condition and f"@{condition}"): meter for (each, condition), meter in self.meters.items()}
