"""Draws random windows from images of different sizes that are stored on a device."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.decoded.scenes import Scenes
from datamodules.loaders import Samples, epoch_of, sample_seed
from ops.augment import bits_of

Ratio = Literal["natural", "balanced"]


class Draws(Samples):
    """Samples of an epoch that have only an index and a seed; their windows are drawn on the device.

    Args:
        count: Number of windows.
        seed: Seed of the draw.
        pictures: Names of the images that they are drawn from.
    """

    def __init__(self, count: int, seed: int, pictures: Sequence[str] = ()) -> None:
        super().__init__([""] * count, lambda index: {}, seed)
        self.pictures = pictures

    def __getitem__(self, key: tuple[int, int] | int) -> dict[str, Any]:
        epoch, index = epoch_of(key)
        return {"index": index, "seed": sample_seed(self.seed, epoch, index)}


@dataclass(frozen=True)
class Store:
    """Images of different sizes on a device, and the pixels that windows can be centered on.

    These centers are numbered, first those with mask 0, then those with mask 1, each row by row; none is ignored. A run
    of adjacent centers in a row of an image is two integers, which take less memory than a number per pixel.

    Attributes:
        pixels: Images one after the other, each row by row, uint8 (3, N).
        marked: The pixels of their masks, bool (1, N).
        offsets: First pixel of each image (P,).
        widths: Width of each image (P,).
        ends: Number of centers up to the end of each run (R,), ascending.
        shifts: Difference between the pixel and the number of a center, by run (R,).
        counts: Number of centers with mask 0 and with mask 1.
        window: Height and width of the windows in pixels.
    """

    pixels: Tensor
    marked: Tensor
    offsets: Tensor
    widths: Tensor
    ends: Tensor
    shifts: Tensor
    counts: tuple[int, int]
    window: int

    def to(self, device: torch.device) -> "Store":
        """Returns a copy on another device."""
        names = ("pixels", "marked", "offsets", "widths", "ends", "shifts")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})

    def draw(self, indices: Tensor, seeds: Tensor, ratio: Ratio) -> tuple[Tensor, Tensor, Tensor]:
        """Draws a window for each sample, which depends on its index and seed only.

        Each window lies inside an image, with its center at row and column w // 2. All centers are equally likely:
        under `natural` among all, under `balanced` among those with mask 1 for odd indices and 0 for even ones.

        Args:
            indices: Indices of the samples, integers (B,).
            seeds: Seeds of the samples, integers (B,).
            ratio: One of the two.

        Returns:
            Windows uint8 (B, 3, w, w), the masks at their centers (B,), 0.0 or 1.0, and the whole of these masks, bool
            (B, 1, w, w).
        """
        # The first mix decides how windows are flipped. The remainder of 63 bits is practically uniform.
        numbers = bits_of(bits_of(seeds)) & ((1 << 63) - 1)
        others, marked = self.counts
        if ratio == "balanced":
            label = indices % 2 == 1
            centers = torch.where(label, others + numbers % max(marked, 1), numbers % max(others, 1))
        else:
            centers = numbers % (others + marked)
            label = centers >= others
        places = centers + self.shifts[torch.searchsorted(self.ends, centers, right=True)]
        pictures = torch.searchsorted(self.offsets, places, right=True) - 1
        steps = torch.arange(self.window, device=places.device) - self.window // 2
        rows = places[:, None] + self.widths[pictures, None] * steps
        cut = [each[:, rows[..., None] + steps].transpose(0, 1).contiguous() for each in (self.pixels, self.marked)]
        return cut[0], label.float(), cut[1]

    def windows(self, count: int, block: int = 1000) -> Iterator[Tensor]:
        """Draws a representative sample of windows, all centers equally likely; always the same windows.

        Args:
            count: Number of windows.
            block: Windows per block; the last one may be smaller. It does not change which windows are drawn.

        Yields:
            Windows uint8 (B, 3, w, w).
        """
        for first in range(0, count, block):
            numbers = torch.arange(first, min(first + block, count), device=self.pixels.device)
            yield self.draw(numbers, numbers, "natural")[0]


def stored(scenes: Scenes, names: Sequence[str], window: int) -> Store:
    """Stores images in the memory of the host.

    Args:
        scenes: Decoded dataset, with no image smaller than the window.
        names: Names of one or more of its images.
        window: Height and width of the windows in pixels.
    """
    shapes = np.array([scenes.mask(name).shape for name in names])
    ends = shapes.prod(axis=1).cumsum()
    offsets = np.concatenate([[0], ends[:-1]])
    pixels, marked = np.empty((3, ends[-1]), np.uint8), np.empty((1, ends[-1]), np.bool_)
    before, after = window // 2, (window - 1) // 2
    runs: tuple[list[NDArray[np.int64]], list[NDArray[np.int64]]] = ([], [])
    for name, (height, width), first, end in zip(names, shapes.tolist(), offsets, ends, strict=True):
        pixels[:, first:end] = scenes.picture(name).reshape(3, -1)
        marked[0, first:end] = scenes.mask(name).ravel()
        centers = scenes.labels(name)[before : height - after, before : width - after]
        for value in (0, 1):
            rows, columns, lengths = _runs(centers == value)
            runs[value].append(np.stack([first + (rows + before) * width + columns + before, lengths]))
    starts, lengths = np.concatenate(runs[0] + runs[1], axis=1)
    ends_of_runs = lengths.cumsum()
    others, avalanche = (int(sum(part[1].sum() for part in parts)) for parts in runs)
    return Store(
        pixels=torch.from_numpy(pixels),
        marked=torch.from_numpy(marked),
        offsets=torch.from_numpy(offsets),
        widths=torch.from_numpy(shapes[:, 1].copy()),
        ends=torch.from_numpy(ends_of_runs),
        shifts=torch.from_numpy(starts - (ends_of_runs - lengths)),
        counts=(others, avalanche),
        window=window,
    )


def _runs(marked: NDArray[np.bool_]) -> tuple[NDArray[np.int64], ...]:
    """Returns row, first column and length of all horizontal runs of true pixels in a mask (H, W), row by row."""
    changes = np.diff(np.pad(marked, ((0, 0), (1, 1))).view(np.int8), axis=1)
    rows, columns = np.nonzero(changes == 1)
    return rows, columns, np.nonzero(changes == -1)[1] - columns
