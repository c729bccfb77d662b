"""Puts windows together into finished images, once for all output formats."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.nn import functional

from callbacks.writers.base import Writer
from callbacks.writers.segmentation.stitched import Canvas, Stitched, StitchedFormat, Whole, uncertain
from datamodules.batch import Batch
from tasks.decision import Decision


class StitchingWriter(Writer[Stitched]):
    """Puts the predictions of a segmentation task together and hands finished images to output formats.

    The task has `classes` and an `active_decision`, and predicts `probability` (B, K, h, w) and maybe `stages` and the
    `disagreement` (B, K, h, w) of its members. Batches come in one of two kinds, both with `name`, `index`, `size`,
    `source` and maybe `georeference` and `problem`, "" for usable images:

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
        self.disagreeing = False

    def begin(self, task: LightningModule, folder: Path, in_memory: bool = False) -> None:
        decision = getattr(task, "active_decision", None)
        if not isinstance(decision, Decision):
            raise TypeError(
                f"{type(self).__name__} expected a segmentation task with an `active_decision`, got "
                f"{type(task).__name__}; remove the writer from the callbacks"
            )
        self.decision, self.folder, self.in_memory = decision, folder, in_memory
        self.classes: list[str] = list(task.classes)  # type: ignore[arg-type]  # untyped in LightningModule
        self.line_classes: Sequence[str] = getattr(task, "line_classes", ())
        reading = [each for each in self.formats if isinstance(each, StitchedFormat) and each.reads_percents]
        self.percents, self.all_percents = bool(reading), any(each.of_plain_images for each in reading)

    def images(self, outputs: Any, batch: Batch) -> Iterator[Stitched]:
        contents = self._enlarged if "level" in batch else self._blended
        maps = [outputs[name] for name in ("probability", "disagreement") if outputs.get(name) is not None]
        self.disagreeing = len(maps) > 1
        for i, content in contents(torch.cat(maps, dim=1), batch):
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
                line_classes=self.line_classes,
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
                    yield i, self.nothing()
                continue
            origin, size, window = (_pair(batch[key][i]) for key in ("origin", "size", "window"))
            if origin == (0, 0):
                self.end()
                files = (self.folder, self.in_memory, self.keeps_percents(batch, i), self.disagreeing)
                self._canvas = Canvas(self.decision, size, window, batch["overlap"][i], *files)
            assert self._canvas is not None  # the first window of an image lies at its top left
            if self._canvas.add(probability[i].float(), origin):
                yield i, self._canvas
                self.end()

    def _enlarged(self, probability: Tensor, batch: Batch) -> Iterator[tuple[int, Whole]]:
        for i in range(len(batch["name"])):
            if "problem" in batch and batch["problem"][i]:
                yield i, self.nothing()
                continue
            full = enlarged(probability[i : i + 1].float(), int(batch["level"][i]), _pair(batch["size"][i]))
            full, between = full[:, : len(self.classes)], full[:, len(self.classes) :]
            marked = self.decision.marked(full)
            if "inside" in batch:  # enlarging reaches beyond the edges of boxes
                marked &= batch["inside"][i : i + 1]
            masks = self.decision.cleaned(marked[0].cpu().numpy())
            keep = self.in_memory or self.keeps_percents(batch, i)
            kept = full[0].cpu().numpy() if keep else None
            apart = between[0].cpu().numpy() if self.disagreeing else None
            yield i, Whole(masks, kept, float(uncertain(full).mean()), apart)

    def keeps_percents(self, batch: Batch, i: int) -> bool:
        """Returns whether a format reads the probability of an image of a batch."""
        placed = "georeference" in batch and batch["georeference"][i] is not None
        return self.all_percents or (self.percents and placed)

    def nothing(self) -> Whole:
        """Returns the empty masks of an image that cannot be read."""
        return Whole(np.zeros((len(self.classes), 0, 0), np.bool_))


def enlarged(maps: Tensor, levels: int, size: tuple[int, int]) -> Tensor:
    """Returns maps of a pyramid level at full size, with sample k at pixel k · 2^levels.

    Bilinear between samples; the last sample is repeated beyond its pixel.

    Args:
        maps: Maps (B, K, ceil(H / 2^levels), ceil(W / 2^levels)).
        levels: Number of halvings, as `ops.exact.pyramids` does them.
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
            f"{maps.shape[-2]} x {maps.shape[-1]}; halve images with ops.exact.pyramids.pyramid"
        )
    # align_corners keeps sample k at pixel k · step; without it everything would move by half a step
    reached = ((rows - 1) * step + 1, (columns - 1) * step + 1)
    maps = functional.interpolate(maps, reached, mode="bilinear", align_corners=True)
    return functional.pad(maps, (0, size[1] - reached[1], 0, size[0] - reached[0]), mode="replicate")


def _pair(numbers: Tensor) -> tuple[int, int]:
    first, second = numbers.tolist()
    return first, second
