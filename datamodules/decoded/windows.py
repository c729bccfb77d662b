"""Windows drawn at random from pictures of different sizes that lie in the memory of a device."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.decoded.scenes import Scenes
from datamodules.loaders import Samples, sample_seed
from ops.augment import bits_of

Ratio = Literal["natural", "balanced"]


class Draws(Samples):
    """The numbers of the windows of an epoch, which are drawn on the device.

    Args:
        count: How many there are.
        seed: Of what is random about them.
        pictures: Names of the pictures that they are drawn from.
    """

    def __init__(self, count: int, seed: int, pictures: Sequence[str] = ()) -> None:
        super().__init__([""] * count, lambda index: {}, seed)
        self.pictures = pictures

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        epoch, index = key
        return {"index": index, "seed": sample_seed(self.seed, epoch, index)}


@dataclass(frozen=True)
class Store:
    """Pictures of different sizes in the memory of a device, and the pixels of them that windows can lie around.

    These centres are numbered: first those with mask 0, then those with mask 1, each row by row. A run of them, pixels
    side by side in a row of a picture, is kept as two numbers, so that centres take less memory than their masks
    unless these are noise.

    Attributes:
        pixels: uint8 (3, N): pictures one behind the other, each row by row.
        offsets: Where each picture begins (P,).
        widths: Of each picture (P,).
        ends: How many centres there are up to the end of each run (R,), ascending.
        shifts: What is added to a centre's number to get its pixel, by run (R,).
        counts: Centres with mask 0 and with mask 1.
        window: Height and width of the windows in pixels.
    """

    pixels: Tensor
    offsets: Tensor
    widths: Tensor
    ends: Tensor
    shifts: Tensor
    counts: tuple[int, int]
    window: int

    def to(self, device: torch.device) -> "Store":
        """The same in the memory of another device."""
        names = ("pixels", "offsets", "widths", "ends", "shifts")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})

    def draw(self, indices: Tensor, seeds: Tensor, ratio: Ratio) -> tuple[Tensor, Tensor]:
        """A window for each sample, which depends on its index and seed alone.

        Each window lies inside a picture, with its centre at its row and column w // 2. All centres are equally likely:
        under `natural` among all, under `balanced` among those with mask 1 for odd indices and 0 for even ones.

        Args:
            indices: Whole numbers (B,).
            seeds: Whole numbers (B,).
            ratio: One of the two.

        Returns:
            Windows uint8 (B, 3, w, w), and the masks at their centres (B,), 0.0 or 1.0.
        """
        # The first mixing decides how windows are flipped. The remainder of 63 bits is as good as even.
        numbers = bits_of(bits_of(seeds)) & ((1 << 63) - 1)
        others, marked = self.counts
        if ratio == "balanced":
            label = indices % 2 == 1
            centres = torch.where(label, others + numbers % max(marked, 1), numbers % max(others, 1))
        else:
            centres = numbers % (others + marked)
            label = centres >= others
        places = centres + self.shifts[torch.searchsorted(self.ends, centres, right=True)]
        pictures = torch.searchsorted(self.offsets, places, right=True) - 1
        steps = torch.arange(self.window, device=places.device) - self.window // 2
        rows = places[:, None] + self.widths[pictures, None] * steps
        return self.pixels[:, rows[..., None] + steps].transpose(0, 1).contiguous(), label.float()

    def windows(self, count: int, block: int = 1000) -> Iterator[Tensor]:
        """Windows that show what the pictures are like, all centres equally likely; always the same.

        Args:
            count: How many there are of them.
            block: How many of them come at a time, fewer the last time. Which they are does not depend on it.

        Yields:
            Windows uint8 (B, 3, w, w).
        """
        for first in range(0, count, block):
            numbers = torch.arange(first, min(first + block, count), device=self.pixels.device)
            yield self.draw(numbers, numbers, "natural")[0]


def stored(scenes: Scenes, names: Sequence[str], window: int) -> Store:
    """The pictures with these names, in the memory of the host.

    Args:
        scenes: Where they come from, none smaller than the window.
        names: Of at least one picture.
        window: Height and width of the windows in pixels.
    """
    shapes = np.array([scenes.mask(name).shape for name in names])
    ends = shapes.prod(axis=1).cumsum()
    offsets = np.concatenate([[0], ends[:-1]])
    pixels = np.empty((3, ends[-1]), np.uint8)
    before, after = window // 2, (window - 1) // 2
    runs: tuple[list[NDArray[np.int64]], list[NDArray[np.int64]]] = ([], [])
    for name, (height, width), first, end in zip(names, shapes.tolist(), offsets, ends, strict=True):
        pixels[:, first:end] = scenes.picture(name).reshape(3, -1)
        centres = scenes.mask(name)[before : height - after, before : width - after]
        for value in (0, 1):
            rows, columns, lengths = _runs(centres == value)
            runs[value].append(np.stack([first + (rows + before) * width + columns + before, lengths]))
    starts, lengths = np.concatenate(runs[0] + runs[1], axis=1)
    ends_of_runs = lengths.cumsum()
    others, marked = (int(sum(part[1].sum() for part in parts)) for parts in runs)
    return Store(
        pixels=torch.from_numpy(pixels),
        offsets=torch.from_numpy(offsets),
        widths=torch.from_numpy(shapes[:, 1].copy()),
        ends=torch.from_numpy(ends_of_runs),
        shifts=torch.from_numpy(starts - (ends_of_runs - lengths)),
        counts=(others, marked),
        window=window,
    )


def _runs(marked: NDArray[np.bool_]) -> tuple[NDArray[np.int64], ...]:
    """Row, first column and length of all runs of true pixels in the rows of a mask (H, W), row by row."""
    changes = np.diff(np.pad(marked, ((0, 0), (1, 1))).view(np.int8), axis=1)
    rows, columns = np.nonzero(changes == 1)
    return rows, columns, np.nonzero(changes == -1)[1] - columns
