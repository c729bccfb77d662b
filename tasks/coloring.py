"""What all tasks share that color gray images: baselines, metrics and predictions; the networks are the subclasses'."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torchmetrics import Metric

from datamodules.batch import Batch, DataFacts
from ops.color.lab import luminance_and_chroma, to_rgb
from ops.errors import ArgumentError, TrainingError
from tasks.base import ImageTask, check_images
from tasks.metrics.colors import FLOORS, ColorScores, Floors, FloorScores


class ColoringTask(ImageTask):
    """Colors gray images.

    Headline metric: `val/loss`. Three trivial baselines are reported beside every metric, `grey_…`, `mean_…` and
    `mean_by_luminance_…`; they are fitted on the training images at the start and kept in the checkpoint.

    Attributes:
        floors: The baselines.
        shrink: What a residual is multiplied by before it is added to the baseline, in [0, 1]: it minimizes the squared
            error on left-out images; 0 is the baseline.

    Args:
        optimizer: Builds the optimizer.
        scheduler: Builds the learning-rate schedule.
    """

    baselines = FLOORS
    optional_keys = ("shrink",)
    takes_references = False
    """Whether colors can be taken from reference images."""
    shrink: Tensor

    def __init__(self, optimizer: OptimizerCallable, scheduler: LRSchedulerCallable | None) -> None:
        super().__init__(optimizer, scheduler)
        self.floors = Floors()
        self.register_buffer("shrink", torch.ones(()))

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
            `chroma` (B, 2, H, W), scaled, and `image` (B, 3, H, W) in [0, 1], the images in these colors.
        """
        check_images(batch)
        found = self.colored(batch)
        return {"chroma": found["chroma"], "image": to_rgb(found["luminance"], found["chroma"])}
