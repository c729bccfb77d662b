"""Makes samples of images to predict: whole images, or windows of large ones, at the input size of the network."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datamodules.loaders import Samples
from datamodules.read.pictures import channels_first, fitted, picture_size, read_picture, resized, same_stems
from datamodules.read.strips import Strip
from ops.errors import collected, refuse
from ops.windows import Size, cut, window_grid

BACKGROUND = 1200  # pixels of the longer side of the background of overlays


def predicted(
    files: Sequence[Path],
    size: Size,
    output_size: Size | None = None,
    window: Size | None = None,
    overlap: float = 0.0,
) -> Samples:
    """Returns samples of images with `image` uint8 (3, H, W) at `size`, for callbacks that write predictions.

    A sample also has what stitching needs: `size` of the output (2,), `origin` and `window` (2,), its place in the
    output, and `overlap`, the share of a window that its neighbors also cover. The last sample of an image has
    `source`, the background of the overlay (h, w, 3): the image, its longer side reduced to at most 1200 pixels.

    Of an image in windows, memory holds a strip as high as a window; see `datamodules.read.strips`.

    Args:
        files: The image files.
        size: Height and width of the network's input.
        output_size: Height and width of the output of whole images; None is the size of each image.
        window: Height and width in pixels of the windows that images are cut into; None takes images whole.
        overlap: Least share of a window that it has in common with the next one.

    Raises:
        DataError: Two images have the same stem, or one cannot be read.
    """
    refuse(same_stems(files), str(files[0].parent))
    if window is None:
        return Samples([file.name for file in files], WholePictures(list(files), size, output_size))
    grids: list[list[Size]] = []

    def add(file: Path) -> None:
        grids.append(window_grid(picture_size(file), window, overlap))

    refuse(collected(partial(add, file) for file in files), str(files[0].parent))
    places = [(picture, *origin) for picture, grid in enumerate(grids) for origin in grid]
    ends = np.cumsum([len(grid) for grid in grids]).tolist()
    groups = [range(end - len(grid), end) for grid, end in zip(grids, ends, strict=True)]
    names = [files[picture].name for picture, *_ in places]
    return Samples(names, Windows(list(files), places, window, size, overlap), groups=groups)


@dataclass(frozen=True)
class WholePictures:
    """Makes the samples of `predicted`, one per image, resized to the input of the network.

    Attributes:
        files: The image files.
        size: Height and width of the network's input.
        output_size: Height and width of the output; None is the size of each image.
    """

    files: list[Path]
    size: Size
    output_size: Size | None

    def __call__(self, index: int) -> dict[str, Any]:
        file = self.files[index]
        own = picture_size(file)
        view = fitted(own, BACKGROUND)
        picture = read_picture(file, at_least=(max(view[0], self.size[0]), max(view[1], self.size[1])))
        image, size = channels_first(resized(picture, self.size)), self.output_size or own
        return {"image": image, **_placed(size, (0, 0), size, 0.0), "source": resized(picture, view)}


class Windows:
    """Makes the samples of `predicted`, one per window; in order, each image is read once.

    Args:
        files: The image files.
        places: Image, top and left of each window.
        window: Height and width of the windows in pixels.
        size: Height and width of the network's input, which windows are resized to.
        overlap: Least share of a window that it has in common with the next one.
    """

    def __init__(
        self, files: list[Path], places: list[tuple[int, int, int]], window: Size, size: Size, overlap: float
    ) -> None:
        self.files, self.places, self.window, self.size, self.overlap = files, places, window, size, overlap
        # Process, number of the image, and its strip, kept for the next window. A worker must not use the strip of the
        # process that it was forked from: both would move the position in one open file.
        self._kept: tuple[int, int, Strip] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_kept": None}

    def __call__(self, index: int) -> dict[str, Any]:
        """Returns sample `index`.

        Raises:
            DataError: The image cannot be read as far as the window reaches.
        """
        number, top, left = self.places[index]
        strip = self._strip(number, top)
        image = channels_first(resized(cut(strip.move(top), (0, left), self.window), self.size))
        following = self.places[index + 1 : index + 2]
        ends = not following or following[0][0] != number
        self._kept = None if ends else (os.getpid(), number, strip)
        source = strip.view() if ends else None
        return {"image": image, **_placed(strip.size, (top, left), self.window, self.overlap), "source": source}

    def _strip(self, number: int, top: int) -> Strip:
        """Returns the kept strip of an image, or a new one if there is none or it has moved below row `top`."""
        kept, self._kept = self._kept, None  # dropped if reading fails
        if kept is not None and kept[:2] == (os.getpid(), number) and kept[2].top <= top:
            return kept[2]
        size = picture_size(self.files[number])
        return Strip(self.files[number], size, self.window[0], fitted(size, BACKGROUND))


def _placed(size: Size, origin: Size, window: Size, overlap: float) -> dict[str, Any]:
    places = {"size": size, "origin": origin, "window": window}
    return {**{name: torch.tensor(place) for name, place in places.items()}, "overlap": overlap}
