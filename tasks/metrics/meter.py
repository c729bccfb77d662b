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
"""States of metrics by the names of metric and state."""


@dataclass(frozen=True)
class Step:
    """The result of one batch, the same in training, validation and test.

    Attributes:
        loss: Mean over the batch, a scalar with a gradient.
        prediction: The decision, in the form that the task's metrics take.
        target: The truth, in the same form as the prediction.
        probability: The probability in [0, 1] behind the decision, if a metric needs it.
        valid: True where a pixel counts, (B, 1, H, W), if metrics skip some.
        votes: Counts of the votes 1 to K (B, K), if metrics need them.
        tags: Names of each image's tags, if metrics are also per tag.
    """

    loss: Tensor
    prediction: Tensor
    target: Tensor
    probability: Tensor | None = None
    valid: Tensor | None = None
    votes: Tensor | None = None
    tags: Sequence[Sequence[str]] | None = None


class Meter(nn.Module):
    """Accumulates the loss and the metrics of one stage over an epoch.

    Args:
        metrics: By any name; each `compute` returns values by name.

    Attributes:
        each: What every single image added to the metrics since this list was set; None, the default, counts whole
            batches at once. The metrics are the same, because all states are sums or concatenations.
    """

    def __init__(self, metrics: Mapping[str, Metric]) -> None:
        super().__init__()
        self.each: list[States] | None = None
        self.loss = MeanLoss()
        self.scores = MetricCollection(dict(metrics), compute_groups=False)

    @torch.no_grad()
    def update(self, step: Step, size: int) -> None:
        """Counts a batch of `size` images."""
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
        """Returns the metrics since the last call, over all processes, and starts again."""
        values: dict[str, Tensor] = {"loss": self.loss.compute(), **self.scores.compute()}
        with torch.inference_mode(False):  # tensors reset in inference mode could not be updated in training
            self.loss.reset()
            self.scores.reset()
        return values

    def counted(self) -> dict[str, dict[str, Any]]:
        """Returns what this process has counted since the last result, by metric and state."""
        return {name: metric.metric_state for name, metric in self._metrics().items()}

    def add(self, counted: Mapping[str, dict[str, Any]]) -> None:
        """Continues from what `counted` returned."""
        for name, metric in self._metrics().items():
            metric.merge_state(apply_to_collection(counted[name], Tensor, Tensor.to, metric.device))

    def _metrics(self) -> dict[str, Metric]:
        return {"loss": self.loss, **{f"scores.{name}": metric for name, metric in self.scores.items()}}


def _added(state: Any, before: Any) -> Tensor:
    """Returns the change of a state since it equaled `before`, or since its list had that length."""
    added: Tensor = dim_zero_cat(state[before:]) if isinstance(state, list) else state - before
    return added
