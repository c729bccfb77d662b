"""The masks of one picture, put together from what a task says of its windows."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ops.regions import LargeRegions
from ops.windows import Blend, resized_maps, window_grid
from tasks.decision import Decision

BAND = 1 << 19  # pixels that are decided at once


class Marker(Protocol):
    """Segmentation interface used for whole images."""

    classes: Sequence[str]
    decision: Decision


class Canvas:
    """The masks of one picture, filled from the top as its windows come.

    Probabilities are blended where windows overlap and are kept for a strip as high as a window only. The decisions of
    all rows above it lie in a file without a name, a bit a pixel and class, until they are asked for.

    Args:
        task: Decides.
        size: Height and width of the masks.
        window: Height and width of the windows, in pixels of the masks.
        overlap: Least share of a window that it has in common with the next one.
        folder: Where the file is made; it takes room there until `close`.
    """

    def __init__(
        self, task: Marker, size: tuple[int, int], window: tuple[int, int], overlap: float, folder: Path
    ) -> None:
        self.task, self.size, self.window = task, size, window
        self.waiting = len(window_grid(size, window, overlap))
        self.blend = Blend(size, window, overlap, len(task.classes))
        self.regions = [LargeRegions(size, area) if area else None for area in task.decision.least_areas(size)]
        self.file = TemporaryFile(dir=folder)  # noqa: SIM115  # it is there until `close`
        self.heights: list[int] = []  # of the bands in the file

    def add(self, probability: Tensor, origin: tuple[int, int]) -> bool:
        """Adds the next window and says whether it was the last.

        Args:
            probability: (K, h, w) in [0, 1], at the size of the network's output.
            origin: Top and left of the window.
        """
        self._mark(self.blend.add(resized_maps(probability[None].float(), self.window)[0], origin))
        self.waiting -= 1
        if not self.waiting:
            self._mark(self.blend.finish())
        return not self.waiting

    def bands(self, index: int) -> Iterator[NDArray[np.bool_]]:
        """The finished mask of one class from the top, some rows (n, W) at a time, without regions that are too small.

        It can be asked for when the last window has come, as often as wanted.
        """
        regions, row_bytes, start = self.regions[index], -(-self.size[1] // 8), 0
        for number, height in enumerate(self.heights):
            self.file.seek(start + index * height * row_bytes)
            packed = np.frombuffer(self.file.read(height * row_bytes), np.uint8).reshape(height, row_bytes)
            mask = np.unpackbits(packed, axis=1, count=self.size[1]).view(np.bool_)
            yield mask if regions is None else regions.clean(mask, number)
            start += len(self.regions) * height * row_bytes

    def close(self) -> None:
        """Removes the file."""
        self.file.close()

    def _mark(self, probability: Tensor) -> None:
        count = max(1, BAND // self.size[1])
        for top in range(0, probability.shape[1], count):
            masks = self.task.decision.marked(probability[None, :, top : top + count])[0].cpu().numpy()
            for mask, regions in zip(masks, self.regions, strict=True):
                if regions is not None:
                    regions.measure(mask)
            self.file.write(np.packbits(masks, axis=2).data)
            self.heights.append(masks.shape[1])
