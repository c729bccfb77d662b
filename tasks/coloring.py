"""What all tasks share that color gray images: baselines, metrics and predictions; the networks are the subclasses'."""

import zlib
from collections.abc import Callable, Iterable
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torchmetrics import Metric

from datamodules.batch import Batch, DataFacts
from ops.color.lab import SCALE, luminance_and_chroma, to_rgb
from ops.color.samples import around, levels, normal_spread
from ops.errors import ArgumentError, TrainingError
from tasks.base import ImageTask, check_images
from tasks.metrics.colors import FLOORS, ColorScores, Floors, FloorScores

LEVELS = 11
"""Levels of luminance at which errors are known."""
POOLED = 100.0
"""Cells of all levels that count in each, since some levels are rare."""


class ColoringTask(ImageTask):
    """Colors gray images.

    Headline metric: `val/loss`. Three trivial baselines are reported beside every metric, `grey_…`, `mean_…` and
    `mean_by_luminance_…`; they are fitted on the training images at the start and kept in the checkpoint.

    Attributes:
        floors: The baselines.
        shrink: What a residual is multiplied by before it is added to the baseline, in [0, 1]: it minimizes the squared
            error on left-out images; 0 is the baseline.
        unknown: Covariance of what the scaled chroma of cells of left-out images differs by, at each level of
            luminance, (LEVELS, 2, 2); 0 where the task does not measure it.

    Args:
        optimizer: Builds the optimizer.
        scheduler: Builds the learning-rate schedule.
        samples: How many further plausible colorings of each image to predict, see `alternatives`.

    Raises:
        ValueError: The number of samples is negative.
    """

    baselines = FLOORS
    optional_keys = ("shrink", "unknown")
    takes_references = False
    """Whether colors can be taken from reference images."""
    shrink: Tensor
    unknown: Tensor

    def __init__(self, optimizer: OptimizerCallable, scheduler: LRSchedulerCallable | None, samples: int = 0) -> None:
        if samples < 0:
            raise ValueError(f"samples is {samples}; expected 0 or more")
        super().__init__(optimizer, scheduler)
        self.samples = samples
        self.floors = Floors()
        self.register_buffer("shrink", torch.ones(()))
        self.register_buffer("unknown", torch.zeros(LEVELS, 2, 2))

    def build_metrics(self) -> dict[str, Metric]:
        """Returns metrics of the colored images, and of the baselines."""
        # not a bound method: a copy of the metric would copy the task and its trainer with it
        return {"colors": ColorScores(), "floors": FloorScores(lambda image: self.floors.colored(image))}

    def build_training_metrics(self) -> dict[str, Metric]:
        """Returns the metrics that are fast to compute."""
        return {"colors": ColorScores(["psnr", "delta_e76"])}

    def prepare(self, batches: Iterable[Batch]) -> None:
        """Fits the baselines' colors on the training images, unless a checkpoint provided them."""
        if not self.floors.fitted:
            self.floors.fit(((*luminance_and_chroma(each["image"]), each["valid"]) for each in batches), self.summed)

    def on_fit_start(self) -> None:
        """Checks that the baselines' colors are fitted.

        Raises:
            TrainingError: They are not.
        """
        if not self.floors.fitted:
            raise TrainingError(
                "The baselines' colors are not fitted. Add callbacks.handover.Handover(data) to the trainer's "
                "callbacks."
            )

    def receive(self, facts: DataFacts) -> None:
        """Stores the facts about the data.

        Raises:
            ArgumentError: There are references, which this task cannot use.
        """
        super().receive(facts)
        if facts.references and not self.takes_references:
            raise ArgumentError(
                f"{type(self).__name__} cannot take colors from a reference. Train colorization/best, or remove "
                "--data.reference."
            )

    def baseline(self, luminance: Tensor) -> Tensor:
        """Returns the training images' mean chroma (B, 2, H, W) of scaled luminance (B, 1, H, W)."""
        return self.floors.chroma(luminance)["mean_by_luminance"]

    def exported(self) -> Callable[[Batch], dict[str, Tensor]]:
        return self.colored

    def colored(self, batch: Batch) -> dict[str, Tensor]:
        """Returns the `luminance` and the `chroma` of a batch, scaled."""
        luminance, _ = luminance_and_chroma(batch["image"])
        return {"luminance": luminance, "chroma": self.probability({**batch, "luminance": luminance})}

    @torch.no_grad()
    def predict(self, batch: Batch) -> dict[str, Any]:
        """Colors images; only their luminance is used.

        Args:
            batch: `image` (B, 3, H, W) in [0, 1], gray or not.

        Returns:
            `chroma` (B, 2, H, W), scaled, and `image` (B, 3, H, W) in [0, 1], the images in these colors; with
            `samples` also what `alternatives` returns.
        """
        check_images(batch)
        given = self.colored(batch)
        luminance, chroma = given["luminance"], given["chroma"]
        found = {"chroma": chroma, "image": to_rgb(luminance, chroma)}
        return found | self.alternatives({**batch, "luminance": luminance}, chroma) if self.samples else found

    def alternatives(self, batch: Batch, chroma: Tensor) -> dict[str, Tensor]:
        """Draws other plausible colors of images; the same ones each time for an image's name.

        Args:
            batch: The batch, with `luminance`.
            chroma: The most likely scaled chroma, (B, 2, H, W).

        Returns:
            `samples` (B, K, 2, H, W), scaled chroma, and `spread` (B, 1, H, W), the standard deviation of the
            distribution that they are drawn from, in CIE units of a and b.

        Raises:
            ArgumentError: The checkpoint does not know how far its colors may be off.
        """
        if not self.unknown.any():
            raise ArgumentError(
                "The checkpoint does not know how far its colors may be off, because an earlier version wrote it. "
                "Train again, or remove --model.samples."
            )
        light = batch["luminance"]
        drawn = self.drawn(batch, lambda row, seed: around(chroma[row], light[row], self.unknown, seed))
        return {"samples": drawn, "spread": SCALE * normal_spread(light, self.unknown)}

    def drawn(self, batch: Batch, draw: Callable[[int, int], Tensor]) -> Tensor:
        """Returns the samples of a batch, (B, K, 2, H, W), by a function of row and seed."""
        names = batch.get("name", [""] * len(batch["image"]))
        return torch.stack(
            [torch.stack([draw(row, zlib.crc32(f"{name} {number}".encode(errors="surrogateescape")))
                          for number in range(self.samples)]) for row, name in enumerate(names)]
        )  # fmt: skip


def error_moments(luminance: Tensor, truth: Tensor, added: Tensor) -> Tensor:
    """Sums what `error_covariance` needs.

    Args:
        luminance: Scaled luminance of N cells, (N,).
        truth: What should be added to their chroma, (N, 2).
        added: What is added, before `shrink`, (N, 2).

    Returns:
        At each level the number of cells, and sums of t tᵀ, t aᵀ + a tᵀ and a aᵀ, float64 (LEVELS, 13).
    """
    truth, added = truth.double(), added.double()
    crossed = truth[:, :, None] * added[:, None]
    parts = (truth[:, :, None] * truth[:, None], crossed + crossed.mT, added[:, :, None] * added[:, None])
    columns = torch.cat([truth.new_ones(len(truth), 1), *(each.flatten(1) for each in parts)], dim=1)
    found = torch.zeros(LEVELS, 13, dtype=torch.float64, device=truth.device)
    return found.index_add_(0, levels(luminance, LEVELS), columns)


def error_covariance(moments: Tensor, shrink: float) -> Tensor:
    """Returns the covariance of errors at each level, (LEVELS, 2, 2), from sums of `error_moments`."""
    count, parts = moments[:, 0], moments[:, 1:].view(LEVELS, 3, 2, 2)
    errors = parts[:, 0] - shrink * parts[:, 1] + shrink**2 * parts[:, 2]
    pooled = errors.sum(dim=0) / count.sum().clamp(min=1)
    return (errors + POOLED * pooled) / (count + POOLED)[:, None, None]
