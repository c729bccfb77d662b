"""How sure the figures of a test are: 95 % intervals by resampling the test pictures."""

import copy
import csv
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric

from tasks.base import Batch, ImageTask
from tasks.metrics.meter import Meter, States

COLUMNS = ("figure", "low", "high", "pictures")
SEED = 0  # of the resampling: a test that is repeated says the same
CHUNK = 1 << 23  # numbers that are held at once while states are added up


class Intervals(Callback):
    """Writes `intervals.csv` (`figure,low,high,pictures`) beside the figures of a test.

    The bootstrap (B. Efron, "Bootstrap methods: another look at the jackknife", Annals of Statistics, 1979): as many
    test pictures as there are are drawn with replacement, and each figure is computed of those; `low` and `high` are
    the 2.5th and 97.5th percentile of the figure in all draws. It is exact, not an approximation: metrics count in
    states that add up or are put together, those of each picture are kept, and added up as the picture was drawn.

    - The unit is the picture as the data set names it. Tiles cut out of one picture are drawn together.
    - A figure `…@<condition>` of avalanches is resampled among the pictures of that condition. One of a tag, of
      aesthetics, is resampled among all pictures, and its percentiles are of the draws in which the tag occurs;
      `pictures` is the number of the tag's.
    - Draws in which a figure is nan, as the area under a curve of one class, are none of its draws.
    - They are intervals over test pictures for the one network: another seed's training is not in them.
    - `loss` has none: a batch has one loss, not one a picture. Neither has what is of a single picture.

    Memory on the host holds the states of every picture: 32 kB a class where there is `auprc`, otherwise some hundred
    bytes. Several processes: they exchange the states at the end, and the first one writes.

    Args:
        resamples: How many draws; 0 writes no intervals.

    Raises:
        ValueError: The number is negative.
    """

    def __init__(self, resamples: int = 1000) -> None:
        if resamples < 0:
            raise ValueError(f"resamples is {resamples}; 0 or more was wanted")
        self.resamples = resamples
        self._meters: dict[tuple[str, str], Meter] = {}
        self._counted: dict[tuple[str, str], list[tuple[str, States]]] = {}

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lets the task's meters keep what each picture adds."""
        _path(trainer).unlink(missing_ok=True)  # an earlier test's are not of the figures to come
        if not self.resamples or not isinstance(pl_module, ImageTask):
            return
        self._meters = pl_module.test_meters()
        self._counted = {key: [] for key in self._meters}
        for meter in self._meters.values():
            meter.each = []

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Takes what the pictures of a batch added to the host."""
        for key, meter in self._meters.items():
            if meter.each:
                self._counted[key] += zip(batch["name"], _on_host(meter.each), strict=True)
                meter.each = []

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Resamples and writes, when the figures have been logged."""
        if not self._meters:
            return
        for meter in self._meters.values():
            meter.each = None
        rows: list[list[Any]] = []
        for key, meter in self._meters.items():
            counted = _gathered(trainer, self._counted[key])
            if trainer.is_global_zero:
                pictures = by_picture(counted)
                found = bootstrap(meter, pictures, self.resamples) if len(pictures) > 1 else {}
                owned = pictures_of(meter, pictures) if any("@" in name for name in found) else {}
                rows += [[f"test/{key[0]}{name}{key[1]}", low, high, owned.get(name, len(pictures))]
                         for name, (low, high) in found.items()]  # fmt: skip
        self._meters, self._counted = {}, {}
        if not trainer.is_global_zero:
            return
        if not rows:
            rank_zero_warn("There are no intervals of the figures: they are of two or more test pictures.")
            return
        path = _path(trainer)
        temporary = path.with_name(f".{os.getpid()}-{path.name}")
        with temporary.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])
        temporary.replace(path)


def by_picture(counted: Sequence[tuple[str, States]]) -> list[list[States]]:
    """The states of each picture, one or, of tiles, several; sorted by name, on however many processes they were."""
    pictures: dict[str, list[States]] = {}
    for name, states in counted:
        pictures.setdefault(name, []).append(states)
    return [pictures[name] for name in sorted(pictures)]


def bootstrap(meter: Meter, pictures: Sequence[list[States]], resamples: int) -> dict[str, tuple[float, float]]:
    """The 95 % interval of every figure of a meter but the loss.

    Args:
        meter: Computes the figures; what it counts is left alone.
        pictures: States of each picture.
        resamples: How many draws.
    """
    count = len(pictures)
    drawn = np.random.default_rng(SEED).multinomial(count, np.full(count, 1 / count), size=resamples)
    values: dict[str, list[float]] = {}
    for name, metric in meter.scores.items(keep_base=True, copy_state=False):
        for figures in resampled(name, metric, pictures, drawn):
            for figure, value in figures.items():
                values.setdefault(figure, []).append(float(value))
    found = {figure: np.array(each)[np.isfinite(each)] for figure, each in values.items()}
    return {
        figure: (float(np.percentile(each, 2.5)), float(np.percentile(each, 97.5)))
        for figure, each in found.items()
        if len(each)
    }


def pictures_of(meter: Meter, pictures: Sequence[list[States]]) -> dict[str, int]:
    """How many pictures each figure of a meter is of: those that have it by themselves."""
    once = np.ones((1, 1), np.int64)
    return Counter(
        figure
        for name, metric in meter.scores.items(keep_base=True, copy_state=False)
        for picture in pictures
        for figures in resampled(name, metric, [picture], once)
        for figure in figures
    )


def resampled(
    name: str, metric: Metric, pictures: Sequence[list[States]], drawn: NDArray[np.int64]
) -> Iterator[dict[str, Tensor]]:
    """The figures of a metric in each draw.

    Args:
        name: Of the metric, as in the keys of the states.
        metric: Is not changed.
        pictures: States of each of the N pictures.
        drawn: How often each picture is drawn, (draws, N).
    """
    alone = copy.copy(metric)
    alone._device = torch.device("cpu")  # where the states are; `to` would change what both copies share
    states = {state: [[each[name, state] for each in picture] for picture in pictures] for state in metric.metric_state}
    put = {state: _Joined(states[state]) for state, value in metric.metric_state.items() if isinstance(value, list)}
    sums = {state: _summed(states[state]) for state in states if state not in put}
    step = max(1, CHUNK // max([values.shape[1] for values in sums.values()], default=CHUNK))
    for first in range(0, len(drawn), step):
        part = drawn[first : first + step]
        totals = {state: _product(part, values) for state, values in sums.items()}
        for row, times in enumerate(part):
            for state, total in totals.items():
                like: Tensor = metric.metric_state[state]  # type: ignore[assignment]  # no list
                setattr(alone, state, torch.from_numpy(total[row]).to(like.dtype).view(like.shape))
            order = np.repeat(np.arange(len(times)), times)
            for state, joined in put.items():
                setattr(alone, state, [joined.of(order)])
            # The class's own `compute`: that of the object would ask the other processes, and remember its answer.
            yield type(metric).compute(alone)


class _Joined:
    """What lists of each picture hold, one behind the other; tensors are alike but for their length."""

    def __init__(self, pictures: Sequence[list[Tensor]]) -> None:
        self.whole = torch.cat([each for picture in pictures for each in picture])
        self.lengths = np.array([sum(len(each) for each in picture) for picture in pictures])
        self.starts = np.cumsum(self.lengths) - self.lengths

    def of(self, order: NDArray[np.int64]) -> Tensor:
        """Those of these pictures, in this order."""
        lengths = self.lengths[order]
        ends = np.cumsum(lengths)
        places = np.arange(ends[-1]) + np.repeat(self.starts[order] - (ends - lengths), lengths)
        return self.whole[torch.from_numpy(places)]


def _summed(pictures: Sequence[list[Tensor]]) -> NDArray[Any]:
    """The sum of each picture's states, (N, numbers)."""
    totals = torch.stack([picture[0] if len(picture) == 1 else _total(picture) for picture in pictures])
    return totals.reshape(len(totals), -1).numpy()


def _total(parts: Sequence[Tensor]) -> Tensor:
    return torch.stack([part.to(torch.float64 if part.is_floating_point() else torch.int64) for part in parts]).sum(0)


def _product(drawn: NDArray[np.int64], values: NDArray[Any]) -> NDArray[np.float64]:
    """Sums of the values (N, numbers) in each draw (draws, N), some numbers at a time.

    In float64 whole numbers below 2⁵³ add up without loss: dice in units of 2⁻³⁰, of eight million pictures.
    """
    totals = np.empty((len(drawn), values.shape[1]))
    times, width = drawn.astype(np.float64), max(1, CHUNK // len(values))
    for first in range(0, values.shape[1], width):
        totals[:, first : first + width] = times @ values[:, first : first + width].astype(np.float64)
    return totals


def _on_host(each: Sequence[States]) -> list[States]:
    """States on the CPU, by one copy a state where pictures have as much of it; whole numbers as int32 if they fit."""
    hosted: dict[tuple[str, str], Sequence[Tensor]] = {}
    for key in each[0]:
        states = [one[key] for one in each]
        if len({state.shape for state in states}) == 1:
            whole = torch.stack(states).cpu()
            if not whole.is_floating_point() and whole.numel() and whole.abs().max() < 2**31:
                whole = whole.int()
            hosted[key] = whole.unbind()
        else:
            hosted[key] = [state.cpu() for state in states]
    return [{key: states[index] for key, states in hosted.items()} for index in range(len(each))]


def _gathered(trainer: Trainer, counted: list[tuple[str, States]]) -> list[tuple[str, States]]:
    """What all processes counted, in each of them."""
    if trainer.world_size == 1:
        return counted
    parts: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(parts, counted)
    return [each for part in parts for each in part]


def _path(trainer: Trainer) -> Path:
    return Path(trainer.default_root_dir) / "intervals.csv"
