"""Figures of several passes over the same pictures, and of the pictures of each condition."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torchmetrics import Metric

from tasks.base import Meter, Step
from tasks.boundary_metrics import BoundaryDistance
from tasks.metrics import DiceScores, PixelAveragePrecision
from tasks.pixel_metrics import PixelScores


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
