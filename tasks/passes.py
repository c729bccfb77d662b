"""Figures of several passes over the same pictures, and of the pictures of each condition."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from tasks.base import Meter, Step

Metrics = Callable[[], Mapping[str, Metric]]


class PassMeters:
    """A meter for every pass, and one for every pass and condition.

    Args:
        passes: What the names of each pass's figures begin with.
        conditions: Of pictures; all processes must be given the same ones.
        metrics: Makes the metrics of a pass.
        condition_metrics: Makes those of a pass and condition.
        device: Where they are counted.
    """

    def __init__(
        self,
        passes: Sequence[str],
        conditions: Sequence[str],
        metrics: Metrics,
        condition_metrics: Metrics,
        device: torch.device,
    ) -> None:
        self.meters = {
            (each, condition): Meter(condition_metrics() if condition else metrics()).to(device)
            for each in passes
            for condition in ("", *conditions)
        }

    def count(self, each: str, step: Step, conditions: Sequence[str]) -> None:
        """Counts a batch of one pass, whose pictures are all of these conditions."""
        for condition in {"", *conditions}:
            self.meters[each, condition].update(step, len(step.target))

    def results(self) -> Iterator[tuple[str, Tensor]]:
        """All figures by name: the pass's beginning, the figure, and `_<condition>`."""
        for (each, condition), meter in self.meters.items():
            for name, value in meter.result().items():
                if not condition or name != "loss":
                    yield f"{each}{name}{condition and '_' + condition}", value
