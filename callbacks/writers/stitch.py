"""Puts windows together into finished images, once for all output formats."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
from lightning.pytorch import LightningModule
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from callbacks.writers.base import Finished, Format, Writer
from callbacks.writers.prediction import Prediction
from datamodules.batch import Batch
from drawing.pictures import Masks, Picture
from ops.regions import LargeRegions
from ops.windows import Blend, resized_maps, window_grid
from tasks.decision import Decision

BAND = 1 << 19  # pixels decided at once
Mask = NDArray[np.bool_]  # (H, W)
Maps = NDArray[np.float32]  # (K, H, W)


class Whole:
    """Masks of one image, whole in memory.

    Args:
        masks: (K, H, W).
        probability: (K, H, W) in [0, 1], if kept.
        uncertainty: See `uncertain`; nan if unknown.
    """

    def __init__(self, masks: Masks, probability: Maps | None = None, uncertainty: float = math.nan) -> None:
        self.masks, self.probability, self.uncertainty = masks, probability, uncertainty
        self.size: tuple[int, int] = masks.shape[1:]

    def bands(self, index: int) -> Iterator[Mask]:
        """Yields the mask of one class as a single band."""
        yield self.masks[index]


class Canvas:
    """Masks of one image, filled from the top as its windows arrive.

    Probabilities are blended where windows overlap, in a strip as high as one window. Decided rows go to an unnamed
    temporary file, one bit per pixel and class.

    Args:
        decision: The task's thresholds and minimum areas.
        size: Height and width of the masks.
        window: Height and width of the windows, in pixels of the masks.
        overlap: Minimum share of a window that the next one overlaps.
        folder: Folder of the temporary file, which takes space until `close`.
        keep: Whether to keep the blended probability in memory.
    """

    def __init__(
        self,
        decision: Decision,
        size: tuple[int, int],
        window: tuple[int, int],
        overlap: float,
        folder: Path,
        keep: bool = False,
    ) -> None:
        self.decision, self.size, self.window = decision, size, window
        self.waiting = len(window_grid(size, window, overlap))
        self.regions = [LargeRegions(size, area) if area else None for area in decision.least_areas(size)]
        self.blend = Blend(size, window, overlap, len(self.regions))
        self.file = TemporaryFile(dir=folder)  # noqa: SIM115  # open until `close`
        self.heights: list[int] = []  # of the bands in the file
        self.strips: list[Maps] | None = [] if keep else None
        self._uncertain = 0.0  # sum over the pixels so far

    @property
    def probability(self) -> Maps | None:
        """Probability (K, H, W) of the finished image, if kept."""
        return None if self.strips is None else np.concatenate(self.strips, axis=1)

    @property
    def uncertainty(self) -> float:
        """Mean of `uncertain` over the finished image."""
        return self._uncertain / (len(self.regions) * self.size[0] * self.size[1])

    def add(self, probability: Tensor, origin: tuple[int, int]) -> bool:
        """Adds the next window and returns whether it was the last.

        Args:
            probability: (K, h, w) in [0, 1], at the network's output size.
            origin: Top and left of the window.
        """
        self._mark(self.blend.add(resized_maps(probability[None].float(), self.window)[0], origin))
        self.waiting -= 1
        if not self.waiting:
            self._mark(self.blend.finish())
            self._clean()
        return not self.waiting

    def bands(self, index: int) -> Iterator[Mask]:
        """Yields the finished mask of one class from the top, some rows (n, W) at a time; repeatable."""
        for number in range(len(self.heights)):
            yield self._read(number, index)

    def close(self) -> None:
        """Deletes the file."""
        self.file.close()

    def _mark(self, probability: Tensor) -> None:
        count = max(1, BAND // self.size[1])
        for top in range(0, probability.shape[1], count):
            part = probability[:, top : top + count]
            masks = self.decision.marked(part[None])[0].cpu().numpy()
            self._uncertain += float(uncertain(part).sum())
            for mask, regions in zip(masks, self.regions, strict=True):
                if regions is not None:
                    regions.measure(mask)
            self.file.write(np.packbits(masks, axis=2).data)
            self.heights.append(masks.shape[1])
            if self.strips is not None:
                self.strips.append(part.cpu().numpy())

    def _clean(self) -> None:
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


def uncertain(probability: Tensor) -> Tensor:
    """Returns 4 p (1 - p) of each probability: 0 where the network is sure, 1 where it is undecided."""
    return 4 * probability * (1 - probability)


@dataclass(frozen=True, kw_only=True)
class Stitched(Finished):
    """A finished image of a segmentation task.

    Attributes:
        classes: Names of the K classes.
        source: The image to draw over, (h, w, 3) uint8, as large as the masks or smaller.
        content: Where the masks are.
        stages: Intermediate maps by name, in order, (1, h, w) or (3, h, w), bool or in [0, 1], if the task gives any.
        boxes: Corners x0, y0, x1, y1 of the boxes that were looked into, in pixels; none if the whole image was.
        georeference: Where the image lies on the ground, as its batch gave it; None for a plain image.
    """

    classes: Sequence[str]
    source: Picture
    content: Canvas | Whole
    stages: Mapping[str, Tensor] = field(default_factory=dict)
    boxes: Sequence[tuple[float, float, float, float]] = ()
    georeference: Any = None

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
    """An output format of segmented images; derive from it to add one."""


class StitchingWriter(Writer[Stitched]):
    """Puts the predictions of a segmentation task together and hands finished images to output formats.

    The task has `classes` and an `active_decision`, and predicts `probability` (B, K, h, w) and maybe `stages`. Batches
    come in one of two kinds, both with `name`, `index`, `size`, `source` and maybe `georeference` and `problem`, "" for
    usable images:

    - windows, with `origin`, `window` and `overlap`: blended strip by strip, so that memory does not grow with the
      height of an image;
    - whole images at a level of a pyramid, with `level`, the number of halvings, and maybe `inside`, bool
      (B, 1, H, W), outside of which nothing is marked: enlarged in memory.

    Args:
        formats: The output formats; a config can list any, each by its `class_path`.
    """

    def __init__(self, formats: Sequence[StitchedFormat]) -> None:
        super().__init__(formats)
        self._canvas: Canvas | None = None

    def begin(self, task: LightningModule, folder: Path, in_memory: bool = False) -> None:
        decision = getattr(task, "active_decision", None)
        if not isinstance(decision, Decision):
            raise TypeError(
                f"{type(self).__name__} expected a segmentation task with an `active_decision`, got "
                f"{type(task).__name__}; remove the writer from the callbacks"
            )
        self.decision, self.folder, self.in_memory = decision, folder, in_memory
        self.classes: list[str] = list(task.classes)  # type: ignore[arg-type]  # untyped in LightningModule

    def images(self, outputs: Any, batch: Batch) -> Iterator[Stitched]:
        contents = self._enlarged if "level" in batch else self._blended
        for i, content in contents(outputs["probability"], batch):
            problem = batch["problem"][i] if "problem" in batch else ""
            image = Stitched(
                problem=problem,
                name=batch["name"][i],
                index=int(batch["index"][i]),
                classes=self.classes,
                source=batch["source"][i],
                content=content,
                stages={name: stage[i] for name, stage in outputs.get("stages", {}).items()},
                boxes=batch["boxes"][i] if "boxes" in batch else (),
                georeference=batch["georeference"][i] if "georeference" in batch else None,
            )
            yield image.in_memory() if self.in_memory and not problem else image

    def end(self) -> None:
        if self._canvas is not None:
            self._canvas.close()
        self._canvas = None

    def _blended(self, probability: Tensor, batch: Batch) -> Iterator[tuple[int, Canvas | Whole]]:
        for i in range(len(batch["name"])):
            if "problem" in batch and batch["problem"][i]:
                self.end()
                if batch["source"][i] is not None:  # the last sample of the image
                    yield i, self._nothing()
                continue
            origin, size, window = (_pair(batch[key][i]) for key in ("origin", "size", "window"))
            if origin == (0, 0):
                self.end()
                self._canvas = Canvas(self.decision, size, window, batch["overlap"][i], self.folder, self.in_memory)
            assert self._canvas is not None  # the first window of an image lies at its top left
            if self._canvas.add(probability[i], origin):
                yield i, self._canvas
                self.end()

    def _enlarged(self, probability: Tensor, batch: Batch) -> Iterator[tuple[int, Whole]]:
        for i in range(len(batch["name"])):
            if "problem" in batch and batch["problem"][i]:
                yield i, self._nothing()
                continue
            full = enlarged(probability[i : i + 1].float(), int(batch["level"][i]), _pair(batch["size"][i]))
            marked = self.decision.marked(full)
            if "inside" in batch:  # enlarging reaches beyond the edges of boxes
                marked &= batch["inside"][i : i + 1]
            masks = self.decision.cleaned(marked[0].cpu().numpy())
            kept = full[0].cpu().numpy() if self.in_memory else None
            yield i, Whole(masks, kept, float(uncertain(full).mean()))

    def _nothing(self) -> Whole:
        """Returns the empty masks of an image that cannot be read."""
        return Whole(np.zeros((len(self.classes), 0, 0), np.bool_))


def enlarged(maps: Tensor, levels: int, size: tuple[int, int]) -> Tensor:
    """Returns maps of a pyramid level at full size, with sample k at pixel k · 2^levels.

    Bilinear between samples; the last sample is repeated beyond its pixel.

    Args:
        maps: Maps (B, K, ceil(H / 2^levels), ceil(W / 2^levels)).
        levels: Number of halvings, as `ops.pyramids` does them.
        size: Height H and width W of the image.

    Returns:
        Maps (B, K, H, W).

    Raises:
        ValueError: The maps have another size.
    """
    step = 2**levels
    rows, columns = (math.ceil(side / step) for side in size)
    if maps.shape[-2:] != (rows, columns):
        raise ValueError(
            f"expected maps of {rows} x {columns} at level {levels} of an image of {size[0]} x {size[1]}, got "
            f"{maps.shape[-2]} x {maps.shape[-1]}; halve images with ops.pyramids.pyramid"
        )
    # align_corners keeps sample k at pixel k · step; without it everything would move by half a step
    reached = ((rows - 1) * step + 1, (columns - 1) * step + 1)
    maps = functional.interpolate(maps, reached, mode="bilinear", align_corners=True)
    return functional.pad(maps, (0, size[1] - reached[1], 0, size[0] - reached[0]), mode="replicate")


def _pair(numbers: Tensor) -> tuple[int, int]:
    first, second = numbers.tolist()
    return first, second
