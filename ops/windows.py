"""Splits images of any size into overlapping windows and blends the windows' outputs, strip by strip.

`Maps` are numpy arrays or torch tensors; the same code blends both, and torch is imported for tensors only, so that
`belvedere.run` does without it.
"""

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

Size = tuple[int, int]
Maps: TypeAlias = Any
TINY = float(np.finfo(np.float32).tiny)
Pixel = TypeVar("Pixel", bound=np.generic)


def window_grid(size: Size, window: Size, overlap: float = 0.0) -> list[Size]:
    """Returns top and left of windows that cover an image, row by row from the top, each row from the left.

    Uses as few windows per side as the overlap allows, spread evenly from the image's start to its end. Where the image
    is smaller than the window there is one, at 0, which extends over the edge.

    Args:
        size: Height and width of the image in pixels.
        window: Height and width of the windows in pixels.
        overlap: Smallest share of a window, in [0, 1), that it shares with the next one, which starts at least one
            pixel further.

    Raises:
        ValueError: A side is below 1, or the overlap is outside [0, 1).
    """
    if min(*size, *window) < 1 or not 0 <= overlap < 1:
        raise ValueError(
            f"expected heights and widths of 1 pixel or more and an overlap in [0, 1), got an image of {size}, windows "
            f"of {window} and an overlap of {overlap}"
        )
    tops, lefts = (_starts(*sides, overlap) for sides in zip(size, window, strict=True))
    return [(top, left) for top in tops for left in lefts]


@lru_cache(maxsize=256)
def _starts(length: int, side: int, overlap: float) -> tuple[int, ...]:
    """Returns where windows of this side start along a side of an image."""
    room = length - side
    if room <= 0:
        return (0,)
    steps = math.ceil(room / (side - _shared(side, overlap)))
    return tuple(round(step * room / steps) for step in range(steps + 1))


def _shared(side: int, overlap: float) -> int:
    """Returns the smallest number of pixels of a side shared with the next window; all but one at most."""
    return min(side - 1, math.ceil(round(side * overlap, 6)))  # rounded, since 100 · 0.55 is more than 55


def grid_rows(size: Size, window: Size, overlap: float = 0.0) -> tuple[int, ...]:
    """Returns the top of each row of `window_grid`."""
    return _starts(size[0], window[0], overlap)


def cut(picture: NDArray[Pixel], origin: Size, window: Size) -> NDArray[Pixel]:
    """Cuts a window out of an image; where it extends over the lower or right edge, the image is reflected there.

    Args:
        picture: (H, W) or (H, W, C).
        origin: Top and left of the window, inside the image.
        window: Its height and width.

    Returns:
        (h, w) or (h, w, C): a view of the image, or a copy where it is reflected.

    Raises:
        ValueError: The window starts outside the image.
    """
    (top, left), (height, width) = origin, window
    if not (0 <= top < picture.shape[0] and 0 <= left < picture.shape[1]):
        raise ValueError(
            f"expected a window that starts inside an image of {picture.shape[:2]}, got {origin}: use window_grid"
        )
    if top + height <= picture.shape[0] and left + width <= picture.shape[1]:
        return picture[top : top + height, left : left + width]
    rows, columns = _reflected(top, height, picture.shape[0]), _reflected(left, width, picture.shape[1])
    return picture[rows[:, None], columns]


def _reflected(start: int, count: int, length: int) -> NDArray[np.int64]:
    """Returns which pixels of a side a window has, reflected beyond its end without repeating the last one."""
    return np.pad(np.arange(length), (0, max(0, start + count - length)), mode="reflect")[start : start + count]


class Blend:
    """Blends the outputs of one image's windows, which must come in the order of `window_grid`.

    Holds only a strip as high as a window. A pixel's weight depends on its distance to the window's inner edges, those
    not on the image's edge: 0 within a quarter of the overlap, then a raised cosine, and 1 from three quarters on. So
    outputs spoiled by padding near a window's edge do not count: if a network sees no further than a quarter of the
    overlap, the blend equals its output on the whole image. Where windows agree, the blend equals them exactly.

    Args:
        size: Height and width of the image.
        window: Height and width of the windows.
        overlap: Smallest share of a window, in [0, 1), that it shares with the next one.
        channels: Number K of maps.
        origins: Windows that come, if not all of the grid: some of its rows.

    Raises:
        ValueError: A side is below 1, or the overlap is outside [0, 1).
    """

    def __init__(
        self, size: Size, window: Size, overlap: float, channels: int, origins: Sequence[Size] | None = None
    ) -> None:
        self.size, self.window, self.overlap, self.channels = size, window, overlap, channels
        self.waiting = (window_grid(size, window, overlap) if origins is None else list(origins))[::-1]
        self.top = self.waiting[-1][0]  # row of the image at which the strip starts
        # (K + 1, min(h, H), W): means of the windows so far, and the sum of their weights as the last channel.
        self.strip: Maps = None  # where the first window is

    def add(self, values: Maps, origin: Size) -> Maps:
        """Adds the next window.

        Args:
            values: (K, h, w), finite. The strip is kept on their device, without gradients.
            origin: Its top and left.

        Returns:
            The rows (K, n, W) above the window that were not returned before, in float32; later windows do not change
            them. n is 0 except for the first window of each row.

        Raises:
            ValueError: It is not the next window, or not of the windows' size.
        """
        if tuple(values.shape) != (self.channels, *self.window) or not self.waiting or origin != self.waiting[-1]:
            raise ValueError(
                f"expected a window of {(self.channels, *self.window)} at "
                f"{self.waiting[-1] if self.waiting else 'no place, all are there'}, got {tuple(values.shape)} at "
                f"{origin}: add windows in order"
            )
        self.waiting.pop()
        if self.strip is None:
            self.strip = _zeros(values, (self.channels + 1, min(self.window[0], self.size[0]), self.size[1]))
        rows = self._move_to(origin[0])
        (top, left), (height, width) = origin, (min(pair) for pair in zip(self.window, self.size, strict=True))
        part = self.strip[:, :height, left : left + width]
        means, total = part[:-1], part[-1]
        weights = _like(values, self._weights((top, left))[:height, :width])
        total += weights
        # Moving by the share of the weight so far leaves a mean as it is where the values agree.
        means += (_single(values[:, :height, :width]) - means) * (weights / total.clip(min=TINY))
        return rows

    def finish(self) -> Maps:
        """Returns the rows (K, n, W) that were not returned before.

        Raises:
            ValueError: Windows are missing.
        """
        if self.waiting:
            raise ValueError(f"{len(self.waiting)} windows are missing, the next at {self.waiting[-1]}; add them first")
        rows, self.strip = self.strip[:-1], self.strip[:, :0] + 0  # a copy, which does not keep the rows
        return rows

    def _move_to(self, top: int) -> Maps:
        """Moves the strip down to start at row `top`, and returns the rows above."""
        count = top - self.top
        rows = self.strip[:-1, :count] + 0  # a copy
        if count:
            kept = self.strip.shape[1] - count
            for row in range(0, kept, count):  # in place: a second strip would double the memory
                end = min(row + count, kept)
                self.strip[:, row:end] = self.strip[:, row + count : end + count]
            self.strip[:, kept:] = 0
        self.top = top
        return rows

    def _weights(self, origin: Size) -> NDArray[np.float32]:
        """Returns the weights (h, w) of the window at `origin`."""
        vertical, horizontal = (
            _taper(side, self.overlap, start > 0, start + side < end)
            for side, start, end in zip(self.window, origin, self.size, strict=True)
        )
        return vertical[:, None] * horizontal


def blended(windows: Iterable[Maps], size: Size, window: Size, overlap: float) -> Maps:
    """Returns the blend of all windows of one image, see `Blend`.

    Args:
        windows: Outputs (K, h, w) in the order of `window_grid`.
        size: Height H and width W of the image.
        window: Height and width of the windows.
        overlap: Smallest share of a window, in [0, 1), that it shares with the next one.

    Returns:
        (K, H, W), float32, on the device of the windows, without gradients.

    Raises:
        ValueError: A window is missing or of another size.
    """
    blend: Blend | None = None
    result: Maps = None
    top = 0
    for values, origin in zip(windows, window_grid(size, window, overlap), strict=True):
        if blend is None:
            blend, result = Blend(size, window, overlap, len(values)), _zeros(values, (len(values), *size))
        rows = blend.add(values, origin)
        result[:, top : top + rows.shape[1]] = rows
        top += rows.shape[1]
    assert blend is not None  # a grid has a window
    result[:, top:] = blend.finish()
    return result


@lru_cache(maxsize=64)
def _taper(side: int, overlap: float, at_start: bool, at_end: bool) -> NDArray[np.float32]:
    """Returns weights along a window's side, tapered at the ends inside the image."""
    shared = _shared(side, overlap)
    margin = shared // 4
    distance = np.arange(side) + 0.5
    ramp = ((distance - margin) / max(shared - 2 * margin, 1)).clip(0, 1)
    rising = np.sin(np.pi / 2 * ramp) ** 2  # a raised cosine, without its cancellation near 0
    weights = np.ones(side)
    if shared and at_start:
        weights = rising
    if shared and at_end:
        weights = np.minimum(weights, rising[::-1])
    return weights.astype(np.float32)


def as_array(maps: Maps) -> NDArray[Any]:
    """Returns maps as an array on the host."""
    return maps if isinstance(maps, np.ndarray) else maps.cpu().numpy()


def _single(maps: Maps) -> Maps:
    """Returns maps in float32, without gradients."""
    return maps.astype(np.float32, copy=False) if isinstance(maps, np.ndarray) else maps.detach().float()


def _zeros(maps: Maps, shape: tuple[int, ...]) -> Maps:
    """Returns float32 zeros where the maps are."""
    if isinstance(maps, np.ndarray):
        return np.zeros(shape, np.float32)
    import torch

    return maps.new_zeros(shape, dtype=torch.float32)


def _like(maps: Maps, values: NDArray[np.float32]) -> Maps:
    """Returns values where the maps are."""
    if isinstance(maps, np.ndarray):
        return values
    import torch

    return torch.from_numpy(values).to(maps.device)


def resized_maps(maps: Maps, size: Sequence[int] | None) -> Maps:
    """Resizes maps (B, K, h, w) bilinearly to `size`; returns them as they are if it is None or already theirs."""
    if size is None or tuple(maps.shape[-2:]) == tuple(size):
        return maps
    if isinstance(maps, np.ndarray):
        import cv2

        shape = tuple(size)[::-1]
        return np.array([[cv2.resize(each, shape, interpolation=cv2.INTER_LINEAR) for each in image] for image in maps])
    from torch.nn import functional

    return functional.interpolate(maps, tuple(size), mode="bilinear", align_corners=False, antialias=False)
