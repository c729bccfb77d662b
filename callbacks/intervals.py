"""95 % confidence intervals of test metrics, by resampling the test images."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric

from datamodules.batch import Batch
from ops.atomic import write_table
from tasks.base import ImageTask, gathered
from tasks.metrics.meter import Meter, States

COLUMNS = ("figure", "low", "high", "pictures")
SEED = 0  # of the resampling: a repeated test writes the same intervals
CHUNK = 1 << 23  # values held at once while states are summed


class Intervals(Callback):
    """Writes `intervals.csv` (`figure,low,high,pictures`) with 95 % intervals of the test metrics.

    This is the bootstrap (B. Efron, "Bootstrap methods: another look at the jackknife", Annals of Statistics, 1979):
    N test images are resampled with replacement N at a time, each metric is computed per resample, and `low` and
    `high` are its 2.5th and 97.5th percentile. No approximation is involved: metrics count in states that add up or are
    concatenated, so the states of each image are kept and combined as often as the image was sampled.

    - The unit is the image as the dataset names it: tiles of one image are sampled together.
    - A metric `…@<condition>` (avalanches) is resampled among the images of that condition. One of a tag (aesthetics)
      is resampled among all images, over the resamples in which the tag occurs; `pictures` counts those of the tag.
    - Resamples in which a metric is nan, such as the AUC of a single class, are ignored.
    - The intervals cover the choice of test images for one network, not the seed of its training.
    - `loss` has no interval, because it is counted per batch; nor has a metric of a single image.

    The states of all images are kept in host memory: 32 kB per class and image with `auprc`, else some hundred bytes.
    With several processes they are exchanged at the end, and the first one writes.

    Args:
        resamples: Number of resamples; 0 writes no intervals.

    Raises:
        ValueError: `resamples` is negative.
    """

    def __init__(self, resamples: int = 1000) -> None:
        if resamples < 0:
            raise ValueError(f"resamples is {resamples}; expected 0 or more")
        self.resamples = resamples
        self._meters: dict[tuple[str, str], Meter] = {}
        self._counted: dict[tuple[str, str], list[tuple[str, States]]] = {}

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Removes an earlier test's intervals and makes the task's meters keep the states of each image."""
        _path(trainer).unlink(missing_ok=True)
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
        for key, meter in self._meters.items():
            if meter.each:
                self._counted[key] += zip(batch["name"], _on_host(meter.each), strict=True)
                meter.each = []

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._meters:
            return
        rows: list[list[Any]] = []
        for (prefix, suffix), meter in self._meters.items():
            meter.each = None
            shares = gathered(self._counted[prefix, suffix], trainer.world_size)
            if trainer.is_global_zero:
                images = by_image([each for share in shares for each in share])
                found = bootstrap(meter, images, self.resamples) if len(images) > 1 else {}
                owned = images_of(meter, images) if any("@" in name for name in found) else {}
                rows += [[f"test/{prefix}{name}{suffix}", low, high, owned.get(name, len(images))]
                         for name, (low, high) in found.items()]  # fmt: skip
        self._meters, self._counted = {}, {}
        if not trainer.is_global_zero:
            return
        if not rows:
            rank_zero_info("No intervals are written: they need two or more test images.")
            return
        write_table(_path(trainer), COLUMNS, rows)


def by_image(counted: Sequence[tuple[str, States]]) -> list[list[States]]:
    """Returns the states of each image, one or, for tiles, several, sorted by the image's name."""
    images: dict[str, list[States]] = {}
    for name, states in counted:
        images.setdefault(name, []).append(states)
    return [images[name] for name in sorted(images)]


def bootstrap(meter: Meter, images: Sequence[list[States]], resamples: int) -> dict[str, tuple[float, float]]:
    """Returns the 95 % interval of every metric of a meter, by name, without the loss.

    Args:
        meter: Computes the metrics; its own counts are neither used nor changed.
        images: States of each image.
        resamples: Number of resamples.
    """
    count = len(images)
    times = np.random.default_rng(SEED).multinomial(count, np.full(count, 1 / count), size=resamples)
    values: dict[str, list[float]] = {}
    for name, metric in _copies(meter).items():
        for result in resampled(name, metric, images, times):
            for key, value in result.items():
                values.setdefault(key, []).append(float(value))
    finite = {key: np.array(each)[np.isfinite(each)] for key, each in values.items()}
    return {
        key: (float(np.percentile(each, 2.5)), float(np.percentile(each, 97.5)))
        for key, each in finite.items()
        if len(each)
    }


def images_of(meter: Meter, images: Sequence[list[States]]) -> dict[str, int]:
    """Returns how many images each metric of a meter covers: those that have it by themselves."""
    once = np.ones((1, 1), np.int64)
    return Counter(
        key
        for name, metric in _copies(meter).items()
        for image in images
        for result in resampled(name, metric, [image], once)
        for key in result
    )


def of_image(meter: Meter, states: Sequence[States]) -> dict[str, float]:
    """Returns the metrics of a single image, without the loss.

    Args:
        meter: Computes the metrics; its own counts are neither used nor changed.
        states: States of the image, several if it came in tiles.
    """
    once = np.ones((1, 1), np.int64)
    found = (resampled(name, metric, [list(states)], once) for name, metric in _copies(meter).items())
    return {key: float(value) for results in found for result in results for key, value in result.items()}


def _copies(meter: Meter) -> dict[str, Metric]:
    """Returns copies of a meter's metrics on the CPU, where the states are."""
    return {name: metric.clone().to("cpu") for name, metric in meter.scores.items(keep_base=True, copy_state=False)}


def resampled(
    name: str, metric: Metric, images: Sequence[list[States]], times: NDArray[np.int64]
) -> Iterator[dict[str, Tensor]]:
    """Yields the results of a metric, one per resample.

    Args:
        name: Name of the metric, as in the keys of the states.
        metric: A copy, whose states are overwritten.
        images: States of each of the N images.
        times: How often each image is sampled, (resamples, N).
    """
    states = {state: [[each[name, state] for each in image] for image in images] for state in metric.metric_state}
    lists = {state: _Joined(states[state]) for state, value in metric.metric_state.items() if isinstance(value, list)}
    sums = {state: _summed(states[state]) for state in states if state not in lists}
    step = max(1, CHUNK // max([values.shape[1] for values in sums.values()], default=CHUNK))
    for first in range(0, len(times), step):
        part = times[first : first + step]
        totals = {state: _product(part, values) for state, values in sums.items()}
        for row, counts in enumerate(part):
            for state, total in totals.items():
                like: Tensor = metric.metric_state[state]  # type: ignore[assignment]  # no list
                setattr(metric, state, torch.from_numpy(total[row]).to(like.dtype).view(like.shape))
            order = np.repeat(np.arange(len(counts)), counts)
            for state, joined in lists.items():
                setattr(metric, state, [joined.of(order)])
            # The class's own `compute`: the object's would synchronize with the other processes and cache its result.
            yield type(metric).compute(metric)


class _Joined:
    """Holds the list states of all images, concatenated; `of` selects those of some images."""

    def __init__(self, images: Sequence[list[Tensor]]) -> None:
        self.whole = torch.cat([each for image in images for each in image])
        self.lengths = np.array([sum(len(each) for each in image) for image in images])
        self.starts = np.cumsum(self.lengths) - self.lengths

    def of(self, order: NDArray[np.int64]) -> Tensor:
        lengths = self.lengths[order]
        ends = np.cumsum(lengths)
        places = np.arange(ends[-1]) + np.repeat(self.starts[order] - (ends - lengths), lengths)
        return self.whole[torch.from_numpy(places)]


def _summed(images: Sequence[list[Tensor]]) -> NDArray[Any]:
    """Returns the sum of each image's states, (N, values)."""
    totals = torch.stack([image[0] if len(image) == 1 else _total(image) for image in images])
    return totals.reshape(len(totals), -1).numpy()


def _total(parts: Sequence[Tensor]) -> Tensor:
    return torch.stack([part.to(torch.float64 if part.is_floating_point() else torch.int64) for part in parts]).sum(0)


def _product(times: NDArray[np.int64], values: NDArray[Any]) -> NDArray[np.float64]:
    """Returns the sums of the values (N, V) in each resample (resamples, N), computed in chunks.

    Integers below 2⁵³ add up exactly in float64: dice in units of 2⁻³⁰, of eight million images.
    """
    totals = np.empty((len(times), values.shape[1]))
    weights, width = times.astype(np.float64), max(1, CHUNK // len(values))
    for first in range(0, values.shape[1], width):
        totals[:, first : first + width] = weights @ values[:, first : first + width].astype(np.float64)
    return totals


def _on_host(each: Sequence[States]) -> list[States]:
    """Returns the states of a batch's images on the CPU, with one copy per state where shapes agree.

    Integers become int32 if they fit.
    """
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


def _path(trainer: Trainer) -> Path:
    return Path(trainer.default_root_dir) / "intervals.csv"
