"""The loss and metrics of one stage, accumulated over an epoch."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection
from torchmetrics.utilities import dim_zero_cat

from tasks.metrics.dice import MeanLoss

States: TypeAlias = dict[tuple[str, str], Tensor]
"""States of metrics by the name of the metric and that of the state."""


@dataclass(frozen=True)
class Step:
    """What one batch gives, the same in training, validation and test.

    Attributes:
        loss: Mean over the batch, a scalar with a gradient.
        prediction: The decision, in the form that the task's metrics take.
        target: The truth, in the same form.
        probability: What the decision was made from, in [0, 1], where a metric needs it.
        valid: True where a pixel counts, (B, 1, H, W), where metrics are to leave some out.
        votes: Counts of the votes 1 to K (B, K), where metrics need them.
        tags: Names of the tags of each picture, where metrics are also of tags.
    """

    loss: Tensor
    prediction: Tensor
    target: Tensor
    probability: Tensor | None = None
    valid: Tensor | None = None
    votes: Tensor | None = None
    tags: Sequence[Sequence[str]] | None = None


class Meter(nn.Module):
    """The loss and the metrics of one stage, counted over an epoch.

    Args:
        metrics: By any name; each `compute` returns a dict of named figures.

    Attributes:
        each: What every single picture added to the metrics since this list was put here; None, as at first, to count
            whole batches at once. The figures are the same, because all states add up or are put together.
    """

    def __init__(self, metrics: Mapping[str, Metric]) -> None:
        super().__init__()
        self.each: list[States] | None = None
        self.loss = MeanLoss()
        self.scores = MetricCollection(dict(metrics), compute_groups=False)

    @torch.no_grad()
    def update(self, step: Step, size: int) -> None:
        """Counts a batch of `size` pictures."""
        self.loss.update(step.loss.detach(), size)
        fields = {"prediction": step.prediction, "target": step.target, "probability": step.probability,
                  "valid": step.valid, "votes": step.votes, "tags": step.tags}  # fmt: skip
        given = {name: value for name, value in fields.items() if value is not None}
        if self.each is None:
            self.scores.update(**given)
            return
        for index in range(len(step.target)):
            before = {key: len(state) if isinstance(state, list) else state.clone() for key, state in self._states()}
            self.scores.update(**{name: value[index : index + 1] for name, value in given.items()})
            self.each.append({key: _added(state, before[key]) for key, state in self._states()})

    def _states(self) -> Iterator[tuple[tuple[str, str], Any]]:
        for name, metric in self.scores.items(keep_base=True, copy_state=False):
            for state, value in metric.metric_state.items():
                yield (name, state), value

    def result(self) -> dict[str, Tensor]:
        """The figures since the last call, over all processes."""
        values: dict[str, Tensor] = {"loss": self.loss.compute(), **self.scores.compute()}
        with torch.inference_mode(False):  # what is reset in inference mode could not be counted up in training
            self.loss.reset()
            self.scores.reset()
        return values

    def counted(self) -> dict[str, dict[str, Any]]:
        """What this process has counted since the last result, by metric and state."""
        return {name: metric.metric_state for name, metric in self._metrics().items()}

    def add(self, counted: Mapping[str, dict[str, Any]]) -> None:
        """Counts on from what was `counted`."""
        for name, metric in self._metrics().items():
            metric.merge_state(apply_to_collection(counted[name], Tensor, Tensor.to, metric.device))

    def _metrics(self) -> dict[str, Metric]:
        return {"loss": self.loss, **{f"scores.{name}": metric for name, metric in self.scores.items()}}


def _added(state: Any, before: Any) -> Tensor:
    """What came to a state that was a copy of `before`, or a list of that length."""
    added: Tensor = dim_zero_cat(state[before:]) if isinstance(state, list) else state - before
    return added
