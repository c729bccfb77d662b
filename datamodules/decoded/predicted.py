"""Makes samples of images to predict: whole images, or windows of large ones, at the input size of the network."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from numpy.typing import NDArray

from datamodules.loaders import Samples
from datamodules.read.names import located
from datamodules.read.pictures import BACKGROUND, channels_first, fitted, picture_size, read_picture, resized
from datamodules.read.rasters import COLOR, Channels, read_raster, shown
from datamodules.read.strips import Strip
from ops.errors import DataError
from ops.files.images import check_pixels
from ops.geo.rasters import Georeference, georeference
from ops.windows import Size, cut, window_grid


def predicted(
    folder: Path,
    names: Sequence[str],
    size: Size,
    output_size: Size | None = None,
    window: Size | None = None,
    overlap: float = 0.0,
    channels: Channels = COLOR,
) -> Samples:
    """Returns samples of images with `image` uint8 (C, H, W) at `size`, for callbacks that write predictions.

    A sample also has what stitching needs: `size` of the output (2,), `origin` and `window` (2,), its place in the
    output, and `overlap`, the share of a window that its neighbors also cover. The last sample of an image has
    `source`, the background of the overlay (h, w, 3): the image, its longer side reduced to at most 1200 pixels.
    `problem` states why the image cannot be read as far as the sample reaches, or is ""; from there on samples of the
    image are black, and its source is empty. If any file is a raster, samples also have `valid` bool (1, H, W), where
    it has data, and `georeference`, None for plain images.

    Of an image in windows, memory holds a strip as high as a window; see `datamodules.read.strips`.

    Args:
        folder: Folder of the images.
        names: Their names below it.
        size: Height and width of the network's input.
        output_size: Height and width of the output of whole images; None is the size of each image.
        window: Height and width in pixels of the windows that images are cut into; None takes images whole.
        overlap: Least share of a window that it has in common with the next one.
        channels: How rasters are read.
    """
    files = [located(folder, name) for name in names]
    inputs = Inputs(size, channels, any(map(channels.reads, files)))
    if window is None:
        return Samples(list(names), WholePictures(files, inputs, output_size))
    places: list[tuple[int, int, int]] = []
    groups: list[range] = []
    for picture, file in enumerate(files):
        try:
            grid = window_grid(picture_size(file, channels), window, overlap)
        except DataError:
            grid = [(0, 0)]  # the problem is that of its sample
        groups.append(range(len(places), len(places) + len(grid)))
        places += [(picture, *origin) for origin in grid]
    named = [names[picture] for picture, *_ in places]
    return Samples(named, Windows(files, places, window, inputs, overlap), groups=groups)


@dataclass(frozen=True)
class Inputs:
    """What images become for the network.

    Attributes:
        size: Height and width of the network's input.
        channels: How rasters are read.
        masked: Whether some files are rasters, so that every sample says where there are data, and where it lies.
    """

    size: Size
    channels: Channels
    masked: bool

    def sample(
        self, pixels: NDArray[np.uint8], valid: NDArray[np.uint8] | None, reference: Georeference | None
    ) -> dict[str, Any]:
        """Returns the `image` of pixels (h, w, C) and, if `masked`, `valid`, where (h, w) is at least 128."""
        image = {"image": channels_first(resized(pixels, self.size))}
        if not self.masked:
            return image
        there = np.ones(self.size, np.bool_)
        if valid is not None:
            there = resized(np.ascontiguousarray(valid)[..., None], self.size)[..., 0] >= 128
        return image | {"valid": torch.from_numpy(there[None]), "georeference": reference}

    def reference(self, file: Path) -> Georeference | None:
        """Returns where a file lies on the ground; None if it is a plain image."""
        return place_of(file) if self.channels.reads(file) else None

    def unreadable(self, problem: str, last: bool = True) -> dict[str, Any]:
        """Returns a black sample of an image that cannot be read."""
        black = np.zeros((*self.size, self.channels.count), np.uint8)
        source = np.zeros((0, 0, 3), np.uint8) if last else None
        placed = _placed((1, 1), (0, 0), (1, 1), 0.0)
        return {**self.sample(black, None, None), **placed, "source": source, "problem": problem}


def place_of(path: Path) -> Georeference | None:
    """Returns where a raster that is predicted lies on the ground; None, with a warning, if that is unknown.

    Raises:
        DataError: The raster cannot be read.
    """
    found = georeference(path)
    if found is None:
        rank_zero_warn(
            f"{path} has no coordinate reference system or no position on the ground, so no map is made of it."
        )
    return found


@dataclass(frozen=True)
class WholePictures:
    """Makes the samples of `predicted`, one per image, resized to the input of the network.

    Attributes:
        files: The image files.
        inputs: What they become.
        output_size: Height and width of the output; None is the size of each image.
    """

    files: list[Path]
    inputs: Inputs
    output_size: Size | None

    def __call__(self, index: int) -> dict[str, Any]:
        file, channels, valid = self.files[index], self.inputs.channels, None
        try:
            own = picture_size(file, channels)
            check_pixels(file, *(self.output_size or own))
            view = fitted(own, BACKGROUND)
            at_least = max(view[0], self.inputs.size[0]), max(view[1], self.inputs.size[1])
            if channels.reads(file):
                picture, valid = np.split(read_raster(file, channels, at_least), [-1], axis=2)
                picture, valid = np.ascontiguousarray(picture), valid[..., 0]
            else:
                picture = read_picture(file, at_least, channels)
            reference = self.inputs.reference(file)
        except DataError as error:
            return self.inputs.unreadable(str(error))
        size, source = self.output_size or own, resized(np.ascontiguousarray(shown(picture)), view)
        sample = self.inputs.sample(picture, valid, reference)
        return {**sample, **_placed(size, (0, 0), size, 0.0), "source": source, "problem": ""}


class Windows:
    """Makes the samples of `predicted`, one per window; in order, each image is read once.

    Args:
        files: The image files.
        places: Image, top and left of each window.
        window: Height and width of the windows in pixels.
        inputs: What windows become.
        overlap: Least share of a window that it has in common with the next one.
    """

    def __init__(
        self, files: list[Path], places: list[tuple[int, int, int]], window: Size, inputs: Inputs, overlap: float
    ) -> None:
        self.files, self.places, self.window, self.inputs, self.overlap = files, places, window, inputs, overlap
        # Process, number of the image, and its strip, kept for the next window. A worker must not use the strip of the
        # process that it was forked from: both would move the position in one open file.
        self._kept: tuple[int, int, Strip] | None = None
        self._reference: tuple[int, Georeference | None] = (-1, None)  # of the image with this number
        self._failed = (-1, "")  # number of an image, and why it cannot be read

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_kept": None}

    def __call__(self, index: int) -> dict[str, Any]:
        """Returns sample `index`."""
        number, top, left = self.places[index]
        following = self.places[index + 1 : index + 2]
        ends = not following or following[0][0] != number
        if self._failed[0] == number and (top, left) != (0, 0):  # the first window tries again
            return self.inputs.unreadable(self._failed[1], ends)
        try:
            strip = self._strip(number, top)
            pixels, valid = cut(strip.move(top), (0, left), self.window), None
            if strip.masked:
                pixels, valid = pixels[..., :-1], pixels[..., -1]
            if self._reference[0] != number:
                self._reference = number, self.inputs.reference(self.files[number])
        except DataError as error:
            self._failed = number, str(error)
            return self.inputs.unreadable(str(error), ends)
        sample = self.inputs.sample(np.ascontiguousarray(pixels), valid, self._reference[1])
        self._kept = None if ends else (os.getpid(), number, strip)
        source = strip.view() if ends else None
        placed = _placed(strip.size, (top, left), self.window, self.overlap)
        return {**sample, **placed, "source": source, "problem": ""}

    def _strip(self, number: int, top: int) -> Strip:
        """Returns the kept strip of an image, or a new one if there is none or it has moved below row `top`."""
        kept, self._kept = self._kept, None  # dropped if reading fails
        if kept is not None and kept[:2] == (os.getpid(), number) and kept[2].top <= top:
            return kept[2]
        file, channels = self.files[number], self.inputs.channels
        size = picture_size(file, channels)
        return Strip(file, size, self.window[0], fitted(size, BACKGROUND), channels, top)


def _placed(size: Size, origin: Size, window: Size, overlap: float) -> dict[str, Any]:
    places = {"size": size, "origin": origin, "window": window}
    return {**{name: torch.tensor(place) for name, place in places.items()}, "overlap": overlap}
