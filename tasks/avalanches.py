"""Avalanches: which pixels of a mountain photograph show one, by the window around each pixel?

After H. Alharbi, R. Faut, M. Gumina, C. Kelso and C. Miller, "Predicting avalanche field in images using convolutional
neural networks and edge detection", 2020: a window classifier gives a first prediction, whose edges are put into the
picture for a second one by the same network.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric

from ops.backends import Backend
from ops.edges import canny
from ops.errors import WeightsError
from tasks.base import Batch, ImageTask
from tasks.boosting import with_trees
from tasks.decision import Decision
from tasks.losses import bce_loss
from tasks.metrics.dice import DiceScores, PixelAveragePrecision
from tasks.metrics.meter import Meter, Step
from tasks.metrics.pixels import BoundaryDistance, PixelScores
from tasks.networks.backbones import load_features
from tasks.networks.sliding import classify_picture
from tasks.networks.window_classifier import fill_projection, is_filled, window_classifier

if TYPE_CHECKING:
    from xgboost import Booster

Network = Literal["cnn1d", "cnn2d", "vgg16", "resnet50", "resnet50_v1", "inception_resnet_v2"]
SAMPLED = 20_000  # windows that principal components are taken from


class AvalanchesTask(ImageTask):
    """Masks of avalanches in photographs, or of any one class, by a classifier of windows.

    Trained on windows, measured on whole pictures. Headline metric: `val/dice`, of the network's first pass. A pixel is
    avalanche where its probability reaches a threshold, in a region no smaller than a minimum area; they start at .5
    and 0, are fitted on the validation pictures after training and are kept in the checkpoint.

    Boosted trees may be fitted on what the network says (`callbacks.boosting`). They decide then in its place, with a
    threshold and a minimum area of their own, wherever whole pictures are predicted.

    Args:
        network: `cnn1d`, `cnn2d`, `vgg16`, `resnet50`, `resnet50_v1` or `inception_resnet_v2`.
        window: Height and width of the windows in pixels; the data's too.
        channels: 3, or 1 for a small network that sees grey only.
        components: Principal components of training windows that `cnn1d` sees in place of the windows; null for none.
        pretrained: What the large networks start from: `false`, random weights; `true`, the library's ImageNet
            weights; or the path of a weights file.
        stride: Pixels from one classified pixel to the next where a network has no dense form, as the large ones.
        second_input: What the network is given in the second pass: the `edges` of the first mask, the picture
            `enhanced` by them in white, or `none` for no second pass.
        xgboost_on: What boosted trees are fitted on when training is over: the network's `predictions`, its `features`,
            the values before its last layer, or `none` for no trees.
        edge_thresholds: Canny's lower and upper threshold for edges of masks of 0 and 255.
        tile: Height and width in pixels of the parts in which a picture is classified.
        backend: Finds the edges: `exact` like OpenCV, or `kornia`, which has the Euclidean gradient only and needs
            thresholds above 0.
        optimizer: Makes the optimiser; the paper used Adam or RMSprop at 1e-3.
        scheduler: Makes the learning-rate schedule; none in the paper.

    Attributes:
        trees: The boosted trees, where there are some; `tasks.boosting.load` reads them.

    Raises:
        ValueError: There is no such network, it is not for such windows, or a number is out of its range.
    """

    headline = "dice"
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
        scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        if tile < 1 or not all(0 <= each < math.inf for each in edge_thresholds):
            raise ValueError(f"{tile=} and {edge_thresholds=}; 1 pixel or more and numbers from 0 on were wanted")
        if backend == "kornia" and not all(edge_thresholds):
            raise ValueError(f"backend 'kornia' needs edge thresholds above 0, got {list(edge_thresholds)}")
        super().__init__(optimizer, scheduler)
        self.save_hyperparameters(ignore=["optimizer", "scheduler"])
        self.name, self.window, self.pretrained, self.stride, self.tile = network, window, pretrained, stride, tile
        self.second_input, self.components, self.xgboost_on = second_input, components, xgboost_on
        self.edge_thresholds, self.backend = edge_thresholds, backend
        self.network = window_classifier(network, window, channels, components)
        self.decision, self.boosted_decision = Decision(1), Decision(1)
        self.trees: Booster | None = None

    def build_metrics(self) -> dict[str, Metric]:
        """Of whole pictures: the scores of their windows, one a pixel, and those of their masks."""
        return picture_metrics(self.classes)

    def build_training_metrics(self) -> dict[str, Metric]:
        """Of windows."""
        return window_metrics(self.classes)

    def load_pretrained(self) -> None:
        """Fills the features of a large network.

        Raises:
            WeightsError: The weights cannot be had or do not fit.
        """
        if self.pretrained is not False and self.name in ("cnn1d", "cnn2d"):
            raise WeightsError(f"There are no weights for {self.name} to start from: --model.pretrained false.")
        if self.pretrained is not False:
            load_features(self.network[0], self.name, self.pretrained)

    def setup(self, stage: str) -> None:
        """Takes the principal components from the training windows, before processes agree on the weights."""
        if stage == "fit" and self.components is not None and not is_filled(self.network):
            data: Any = self.trainer.datamodule  # type: ignore[attr-defined]  # untyped there
            held = fill_projection(self.network, data.sampled_windows(SAMPLED))
            rank_zero_info(f"{self.components} principal components hold {held:.1%} of the windows' variance.")

    def on_fit_start(self) -> None:
        """Unfits what is fitted after training, where it goes on from there: epochs compare at .5 and 0."""
        self.decision.reset()
        self.boosted_decision.reset()
        self.trees = None

    def forward(self, image: Tensor) -> Tensor:
        """Windows (B, 3, w, w) in [0, 1] to logits (B, 1)."""
        logits: Tensor = self.network(image)
        return logits

    def classified(self, image: Tensor, valid: Tensor | None = None) -> Tensor:
        """Pictures (B, 3, H, W) in [0, 1] to logits, one for the window around each pixel.

        Args:
            image: The pictures.
            valid: Bool (B, 1, H, W); where it is false, logits are of no meaning, and no time is spent.

        Returns:
            (B, 1, H, W), the network's; with trees (B, 2, H, W), theirs behind the network's.
        """
        network, head = self.network, None
        if self.trees is not None:
            network, head = with_trees(self.network, self.trees, self.xgboost_on)
        classify = partial(classify_picture, network, window=self.window, stride=self.stride, tile=self.tile, head=head)
        wanted = [None] * len(image) if valid is None else valid[:, 0]
        with torch.autocast(image.device.type, enabled=False):
            return torch.stack([classify(each, where=part) for each, part in zip(image.float(), wanted, strict=True)])

    def step(self, batch: Batch) -> Step:
        """Loss and decisions: of windows with a `label` each, or of all pixels of pictures with a `mask`.

        Where `valid` is false there is neither loss nor avalanche, found or true. Without trees.
        """
        if "label" in batch:
            logits, target = self(batch["image"])[:, :, None, None], batch["label"][:, None, None, None]
        else:
            logits, target = self.classified(batch["image"], batch.get("valid"))[:, :1], batch["mask"]
        return self._step(logits, target, batch, self.decision)

    def boosted_step(self, batch: Batch) -> Step:
        """Loss and decisions of the trees, of all pixels of pictures with a `mask`."""
        return self._step(
            self.classified(batch["image"], batch.get("valid"))[:, 1:], batch["mask"], batch, self.boosted_decision
        )

    def _step(self, logits: Tensor, target: Tensor, batch: Batch, decision: Decision) -> Step:
        valid, probability = batch.get("valid"), _probability(logits.detach(), batch)
        target = target if valid is None else target * valid
        return Step(bce_loss(logits, target, valid), decision.masks(probability), target, probability)

    def on_test_start(self) -> None:
        """Makes the meters of what is measured beside the network's first pass, and of each condition."""
        conditions: list[str] = getattr(getattr(self.trainer, "datamodule", None), "conditions", [])
        passes = ["", "boosted_"] if self.trees is not None else [""]
        passes += ["second_"] if self.second_input != "none" else []
        self._passes = PassMeters(passes, conditions, self.classes, self.device)

    def test_meters(self) -> dict[tuple[str, str], Meter]:
        """Of the first pass, `boosted_…` of the trees, `second_…` of the second pass; and of each `…@<condition>`."""
        return self._passes.named()

    def test_step(self, batch: Batch, batch_index: int) -> None:
        """Counts a test picture, after the first pass, of the network and of the trees, and after the second."""
        logits = self.classified(batch["image"], batch.get("valid"))
        self._count("", logits[:, :1], batch, self.decision)
        if self.trees is not None:
            self._count("boosted_", logits[:, 1:], batch, self.boosted_decision)
        if self.second_input != "none":
            edges = self._edges(self._decision.masks(_probability(logits[:, -1:], batch)))
            again = self.classified(redrawn(batch["image"], edges, self.second_input), batch.get("valid"))[:, -1:]
            self._count("second_", again, batch, self._decision)

    def _count(self, each: str, logits: Tensor, batch: Batch, decision: Decision) -> None:
        step = self._step(logits, batch["mask"], batch, decision)
        self._passes.count(each, step, batch.get("condition", []))

    @torch.no_grad()
    def predict(self, batch: Batch) -> dict[str, Any]:
        """Masks of pictures, by the trees where there are some.

        Args:
            batch: `image` (B, 3, H, W) in [0, 1]; where `valid` (B, 1, H, W) is there and false, nothing is seen.

        Returns:
            `probability` (B, 1, H, W) and `mask`, bool, of the last pass; and `stages`, what led to them, by name.
        """
        image = batch["image"].float()
        probability = _probability(self.classified(image, batch.get("valid"))[:, -1:], batch)
        mask = self._decision.masks(probability)
        stages: dict[str, Tensor] = {"first_probability": probability, "first_mask": mask}
        if self.second_input != "none":
            edges = self._edges(mask)
            drawn = redrawn(image, edges, self.second_input)
            probability = _probability(self.classified(drawn, batch.get("valid"))[:, -1:], batch)
            mask = self._decision.masks(probability)
            stages |= {"first_edges": edges, "second_input": drawn, "second_probability": probability,
                       "second_mask": mask}  # fmt: skip
        stages["last_edges"] = self._edges(mask)
        return {"probability": probability, "mask": mask, "stages": stages}

    def _edges(self, mask: Tensor) -> Tensor:
        levels = mask.to(torch.uint8) * 255
        return canny(levels, *self.edge_thresholds, l2=self.backend == "kornia", backend=self.backend)

    @property
    def _decision(self) -> Decision:
        """What decides about whole pictures."""
        return self.decision if self.trees is None else self.boosted_decision

    def marked(self, probability: Tensor) -> Tensor:
        """Which pixels reach the threshold, bool, of probabilities (B, 1, H, W) that `predict` gave."""
        return self._decision.marked(probability)

    def cleaned(self, masks: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """The mask (1, H, W) of a whole picture without the regions below the minimum area."""
        return self._decision.cleaned(masks)


def _probability(logits: Tensor, batch: Batch) -> Tensor:
    """Probabilities in float32, 0 where a picture is not valid."""
    probability = logits.float().sigmoid()
    return probability * batch["valid"] if "valid" in batch else probability


def window_metrics(classes: Sequence[str]) -> dict[str, Metric]:
    """Metrics of classified windows, or of pixels that were classified by the windows around them."""
    return {"windows": PixelScores(["accuracy", "balanced_accuracy"]), "auprc": PixelAveragePrecision(classes)}


def mask_metrics(classes: Sequence[str]) -> dict[str, Metric]:
    """Metrics of the masks of whole pictures."""
    return {"masks": DiceScores(classes, pooled=False), "pixels": PixelScores(["iou"])}


def picture_metrics(classes: Sequence[str]) -> dict[str, Metric]:
    """Metrics of whole pictures: of their pixels, one by one, of their masks, and of the outlines of these."""
    return {**window_metrics(classes), **mask_metrics(classes), "boundary": BoundaryDistance()}


def redrawn(image: Tensor, edges: Tensor, second_input: Literal["none", "edges", "enhanced"]) -> Tensor:
    """What the second pass is given: edges (B, 1, H, W), bool, alone, or pictures (B, 3, H, W) with them in white."""
    return edges.to(image).expand_as(image) if second_input == "edges" else image.masked_fill(edges, 1.0)


class PassMeters:
    """A meter for every pass, and one for every pass and condition.

    Args:
        passes: What the names of each pass's figures begin with.
        conditions: Of pictures; all processes must be given the same ones.
        classes: Names of the classes that the masks are of.
        device: Where they are counted.
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
        """Counts a batch of one pass, whose pictures are all of these conditions."""
        for condition in {"", *conditions}:
            self.meters[each, condition].update(step, len(step.target))

    def named(self) -> dict[tuple[str, str], Meter]:
        """The meters by what the names of their figures begin with, the pass's, and end with, `@<condition>`."""
        return {(each, condition and f"@{condition}"): meter for (each, condition), meter in self.meters.items()}
