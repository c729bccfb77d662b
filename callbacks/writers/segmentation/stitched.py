"""Finished images of segmentation tasks, filled window by window; numpy arrays and torch tensors alike."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from callbacks.writers.format import Finished, Format
from callbacks.writers.prediction import Prediction
from drawing.pictures import Masks, Picture
from ops.geo.rasters import Georeference
from ops.masks.regions import LargeRegions
from ops.windows import Blend, as_array, resized_maps, window_grid

BAND = 1 << 19  # pixels decided at once
Mask = NDArray[np.bool_]  # (H, W)
Maps = NDArray[np.float32]  # (K, H, W)
Percents = NDArray[np.uint8]  # (H, W), probability from 0 to 100


class Decides(Protocol):
    """Turns probabilities into masks, such as `tasks.decision.Decision`."""

    def marked(self, probability: Any) -> Any:
        """Returns which pixels reach their class's threshold: bool, for probabilities (B, K, H, W)."""

    def least_areas(self, size: tuple[int, int]) -> list[float]:
        """Returns the smallest region of each class that is kept in an image, as a share of its height times width."""


class Whole:
    """Masks of one image, whole in memory.

    Args:
        masks: (K, H, W).
        probability: (K, H, W) in [0, 1], if kept.
        uncertainty: Mean of `uncertain`; nan if unknown.
        disagreement: Disagreement of the members of an ensemble (K, H, W) in [0, 1], if kept.
    """

    def __init__(
        self,
        masks: Masks,
        probability: Maps | None = None,
        uncertainty: float = math.nan,
        disagreement: Maps | None = None,
    ) -> None:
        self.masks, self.probability, self.uncertainty = masks, probability, uncertainty
        self.maps, self.disagreement = disagreement, None if disagreement is None else float(disagreement.mean())
        self.size: tuple[int, int] = masks.shape[1:]

    def bands(self, index: int) -> Iterator[Mask]:
        """Yields the mask of one class as a single band."""
        yield self.masks[index]

    def percents(self, index: int) -> Iterator[Percents]:
        """Yields the probability of one class in percent as a single band."""
        assert self.probability is not None  # it was asked for
        yield in_percent(self.probability[index])

    def disagreements(self, index: int) -> Iterator[Percents]:
        """Yields the disagreement of one class in percent as a single band."""
        assert self.maps is not None  # it was asked for
        yield in_percent(self.maps[index])


class Rows:
    """Masks of one image, filled from the top.

    Decided rows go to an unnamed temporary file, one bit per pixel and class.

    Args:
        decision: The task's thresholds and minimum areas.
        size: Height and width of the masks.
        folder: Folder of the temporary file, which takes space until `close`.
        keep: Whether to keep the blended probability in memory.
        percents: Whether to keep it in percent in another temporary file, a byte per pixel and class.
        disagreeing: Whether maps of the members' disagreement follow those of the probability.
    """

    def __init__(
        self,
        decision: Decides,
        size: tuple[int, int],
        folder: Path,
        keep: bool = False,
        percents: bool = False,
        disagreeing: bool = False,
    ) -> None:
        self.decision, self.size = decision, size
        self.regions = [LargeRegions(size, area) if area else None for area in decision.least_areas(size)]
        self.file = TemporaryFile(dir=folder)  # noqa: SIM115  # open until `close`
        self.probabilities = TemporaryFile(dir=folder) if percents else None  # noqa: SIM115  # open until `close`
        self.heights: list[int] = []  # of the bands in the file
        self.strips: list[Maps] | None = [] if keep else None
        self.uncertain, self.disagreed = 0.0, 0.0  # sums over the pixels so far
        self.disagreeing = disagreeing
        self.planes = len(self.regions) * (2 if disagreeing else 1)

    @property
    def probability(self) -> Maps | None:
        """Probability (K, H, W) of the finished image, if kept."""
        return None if self.strips is None else np.concatenate(self.strips, axis=1)

    @property
    def uncertainty(self) -> float:
        """Mean of `uncertain` over the finished image."""
        return self.uncertain / (len(self.regions) * self.size[0] * self.size[1])

    @property
    def disagreement(self) -> float | None:
        """Mean disagreement of the members over the finished image; None if it was not measured."""
        return self.disagreed / (len(self.regions) * self.size[0] * self.size[1]) if self.disagreeing else None

    def bands(self, index: int) -> Iterator[Mask]:
        """Yields the finished mask of one class from the top, some rows (n, W) at a time; repeatable."""
        for number in range(len(self.heights)):
            yield self._read(number, index)

    def percents(self, index: int) -> Iterator[Percents]:
        """Yields the probability of one class in percent from the top, some rows (n, W) at a time; repeatable."""
        assert self.probabilities is not None  # it was asked for
        for number, height in enumerate(self.heights):
            rows = self.planes * sum(self.heights[:number]) + index * height
            self.probabilities.seek(rows * self.size[1])
            yield np.frombuffer(self.probabilities.read(height * self.size[1]), np.uint8).reshape(height, self.size[1])

    def disagreements(self, index: int) -> Iterator[Percents]:
        """Yields the disagreement of one class in percent, as `percents`."""
        return self.percents(len(self.regions) + index)

    def close(self) -> None:
        """Deletes the files."""
        self.file.close()
        if self.probabilities is not None:
            self.probabilities.close()

    def mark(self, probability: Any) -> None:
        """Adds the next rows of the probability (K, n, W), or of it and the disagreement (2K, n, W)."""
        count, classes = max(1, BAND // self.size[1]), len(self.regions)
        for top in range(0, probability.shape[1], count):
            both = probability[:, top : top + count]
            part = both[:classes]
            percents = None if self.probabilities is None else in_percent(as_array(both))
            marked = as_array(self.decision.marked(part[None])[0])
            self.append(marked, percents, float(uncertain(part).sum()), float(both[classes:].sum()))
            if self.strips is not None:
                self.strips.append(as_array(part))

    def append(
        self, masks: Masks, percents: NDArray[np.uint8] | None, uncertain: float, disagreed: float = 0.0
    ) -> None:
        """Adds the next rows, decided.

        Args:
            masks: Which pixels reach their class's threshold (K, n, W).
            percents: Their probability in percent (K, n, W), or it and their disagreement (2K, n, W), if it is kept.
            uncertain: The sum of `uncertain` over them.
            disagreed: The sum of their disagreement.
        """
        for mask, regions in zip(masks, self.regions, strict=True):
            if regions is not None:
                regions.measure(mask)
        self.file.write(np.packbits(masks, axis=2).data)
        self.heights.append(masks.shape[1])
        self.uncertain += uncertain
        self.disagreed += disagreed
        if self.probabilities is not None:
            assert percents is not None
            self.probabilities.write(np.ascontiguousarray(percents).data)

    def clean(self) -> None:
        """Removes regions below the minimum area, whose size is known once all rows are there."""
        for index, regions in enumerate(self.regions):
            if regions is None:
                continue
            for number in range(len(self.heights)):
                mask = regions.clean(self._read(number, index), number)
                self.file.seek(self._place(number, index))
                self.file.write(np.packbits(mask, axis=1).data)

    def _read(self, number: int, index: int) -> Mask:
        height, row_bytes = self.heights[number], -(-self.size[1] // 8)
        self.file.seek(self._place(number, index))
        packed = np.frombuffer(self.file.read(height * row_bytes), np.uint8).reshape(height, row_bytes)
        return np.unpackbits(packed, axis=1, count=self.size[1]).view(np.bool_)

    def _place(self, number: int, index: int) -> int:
        """Returns where the band of one class begins in the file."""
        rows = len(self.regions) * sum(self.heights[:number]) + index * self.heights[number]
        return rows * -(-self.size[1] // 8)


class Canvas(Rows):
    """Masks of one image, filled as its windows arrive.

    Probabilities are blended where windows overlap, in a strip as high as one window.

    Args:
        decision: The task's thresholds and minimum areas.
        size: Height and width of the masks.
        window: Height and width of the windows, in pixels of the masks.
        overlap: Minimum share of a window that the next one overlaps.
        folder: See `Rows`.
        keep: See `Rows`.
        percents: See `Rows`.
        disagreeing: See `Rows`.
    """

    def __init__(
        self,
        decision: Decides,
        size: tuple[int, int],
        window: tuple[int, int],
        overlap: float,
        folder: Path,
        keep: bool = False,
        percents: bool = False,
        disagreeing: bool = False,
    ) -> None:
        super().__init__(decision, size, folder, keep, percents, disagreeing)
        self.window = window
        self.blend = Blend(size, window, overlap, self.planes)

    def add(self, probability: Any, origin: tuple[int, int]) -> bool:
        """Adds the next window and returns whether it was the last.

        Args:
            probability: (K, h, w) float32 in [0, 1], at the network's output size, or (2K, h, w) with the disagreement;
                an array, or a tensor on any device.
            origin: Top and left of the window.
        """
        self.mark(self.blend.add(resized_maps(probability[None], self.window)[0], origin))
        if self.blend.waiting:
            return False
        self.mark(self.blend.finish())
        self.clean()
        return True


class CanvasShare(Canvas):
    """Rows of one image, filled as the windows arrive that reach into them; small regions stay.

    Args:
        decision: The task's thresholds.
        size: Height and width of the masks of the whole image.
        window: Height and width of the windows, in pixels of the masks.
        overlap: Minimum share of a window that the next one overlaps.
        folder: See `Rows`.
        percents: See `Rows`.
        rows: The first row, and the one after the last.
        disagreeing: See `Rows`.
    """

    def __init__(
        self,
        decision: Decides,
        size: tuple[int, int],
        window: tuple[int, int],
        overlap: float,
        folder: Path,
        percents: bool,
        rows: tuple[int, int],
        disagreeing: bool = False,
    ) -> None:
        super().__init__(decision, size, window, overlap, folder, percents=percents, disagreeing=disagreeing)
        first, last = self.rows = rows
        self.regions = [None] * len(self.regions)  # only the whole image says which are small
        grid = window_grid(size, window, overlap)
        reaching = [(top, left) for top, left in grid if top < last and top + window[0] > first]
        self.blend = Blend(size, window, overlap, self.planes, reaching)
        self.row = self.blend.top  # of the image, that comes next

    def mark(self, probability: Any) -> None:
        """Adds those of the next rows (K, n, W) of the probability that belong to the share."""
        first, last = (max(0, row - self.row) for row in self.rows)
        self.row += probability.shape[1]
        if probability[:, first:last].shape[1]:
            super().mark(probability[:, first:last])


def in_percent(probability: Maps) -> NDArray[np.uint8]:
    """Returns probabilities in [0, 1] as whole percents."""
    return np.asarray(np.rint(100 * probability).astype(np.uint8))


def uncertain(probability: Any) -> Maps:
    """Returns the entropy in bits of each probability: 0 where the network is sure, 1 where it is undecided.

    It is that of `ops.statistics.selection.entropy`, without torch, which `belvedere.run` does not have.

    Args:
        probability: In [0, 1], an array, or a tensor on any device.
    """
    values = probability.cpu() if hasattr(probability, "cpu") else probability
    inside = np.clip(np.asarray(values, np.float32), np.float32(1e-6), np.float32(1 - 1e-6))
    return -(inside * np.log2(inside) + (1 - inside) * np.log2(1 - inside))


@dataclass(frozen=True, kw_only=True)
class Stitched(Finished):
    """A finished image of a segmentation task.

    Attributes:
        classes: Names of the K classes.
        source: The image to draw over, (h, w, 3) uint8, as large as the masks or smaller.
        content: Where the masks are, in memory or in files.
        stages: Intermediate maps by name, in order, (1, h, w) or (3, h, w), bool or in [0, 1], if the task gives any.
        boxes: Corners x0, y0, x1, y1 of the boxes that were looked into, in pixels; none if the whole image was.
        georeference: Where the image lies on the ground, as its batch gave it; None for a plain image.
        line_classes: Classes of long and narrow things, such as roads, that have center lines.
    """

    classes: Sequence[str]
    source: Picture
    content: Rows | Whole
    stages: Mapping[str, Any] = field(default_factory=dict)
    boxes: Sequence[tuple[float, float, float, float]] = ()
    georeference: Georeference | None = None
    line_classes: Sequence[str] = ()

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the masks."""
        return self.content.size

    @property
    def masks(self) -> Masks:
        """Masks (K, H, W) of the whole image, in memory."""
        return np.stack([self.mask(k) for k in range(len(self.classes))])

    @property
    def probability(self) -> Maps | None:
        """Probability (K, H, W) in [0, 1] of the whole image; None unless it was kept in memory."""
        return self.content.probability

    def bands(self, index: int) -> Iterator[Mask]:
        """Yields the mask of one class from the top, some rows (n, W) at a time, in bounded memory; repeatable."""
        return self.content.bands(index)

    def percents(self, index: int) -> Iterator[Percents]:
        """Yields the probability of one class in percent, as `bands`; for formats that have `reads_percents`."""
        return self.content.percents(index)

    def disagreements(self, index: int) -> Iterator[Percents]:
        """Yields the disagreement of the members about one class in percent, as `percents`, if it was measured."""
        return self.content.disagreements(index)

    def mask(self, index: int) -> Mask:
        """Returns the mask (H, W) of one class."""
        return np.concatenate(list(self.bands(index)))

    def prediction(self) -> Prediction:
        if self.problem:
            return super().prediction()
        masks = {label: self.mask(k) for k, label in enumerate(self.classes)}
        return Prediction(self.name, masks, self.probability)

    def in_memory(self) -> "Stitched":
        """Returns a copy that stays valid, its masks and probability whole in memory."""
        stages = {name: stage.cpu() for name, stage in self.stages.items()}
        return replace(self, content=Whole(self.masks, self.probability, self.content.uncertainty), stages=stages)


class StitchedFormat(Format[Stitched]):
    """An output format of segmented images; derive from it to add one.

    Attributes:
        reads_percents: Whether it reads `Stitched.percents` of images with a georeference.
        of_plain_images: Whether it reads those of images without one too.
    """

    reads_percents = of_plain_images = False
