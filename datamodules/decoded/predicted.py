"""Pictures to predict: whole ones, or windows of large ones, all at the size that the network is given."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datamodules.loaders import Samples
from datamodules.read.pictures import Size, channels_first, picture_size, read_picture, resized, same_stems
from datamodules.read.strips import Strip
from ops.errors import collected, refuse
from ops.windows import cut, window_grid

VIEW = 1200  # pixels of the longer side of what is drawn over


def predicted(
    files: Sequence[Path],
    size: Size,
    output_size: Size | None = None,
    window: Size | None = None,
    overlap: float = 0.0,
) -> Samples:
    """Samples of pictures, `image` uint8 (3, H, W) at `size`, for callbacks that write what a task makes of them.

    Beside `image`, a sample has what its output is put together by: the `size` of the output (2,), the place of the
    sample in it, `origin` and `window` (2,), `overlap`, the share of a window that its neighbours have too, and, in the
    last sample of a picture, `source`, the picture (h, w, 3) to draw over: as it is, or with its longer side reduced
    to 1200 pixels.

    Of a picture in windows, memory holds a strip as high as a window; see `datamodules.read.strips`.

    Args:
        files: The pictures.
        size: Height and width that the network is given.
        output_size: Height and width of the output of whole pictures; None is each picture's own.
        window: Height and width in pixels of the windows that a picture is cut into; None takes pictures whole.
        overlap: Least share of a window that it has in common with the next one.

    Raises:
        DataError: Two pictures have the same stem, or one cannot be read.
    """
    refuse(same_stems(files), str(files[0].parent))
    if window is None:
        return Samples([file.name for file in files], WholePictures(list(files), size, output_size))
    grids: list[list[Size]] = []
    checks = [lambda file=file: grids.append(window_grid(picture_size(file), window, overlap)) for file in files]
    refuse(collected(checks), str(files[0].parent))
    places = [(picture, *origin) for picture, grid in enumerate(grids) for origin in grid]
    ends = np.cumsum([len(grid) for grid in grids]).tolist()
    groups = [range(end - len(grid), end) for grid, end in zip(grids, ends, strict=True)]
    names = [files[picture].name for picture, *_ in places]
    return Samples(names, Windows(list(files), places, window, size, overlap), groups=groups)


@dataclass(frozen=True)
class WholePictures:
    """Makes the samples of `predicted`, a picture each, resized to what the network is given.

    Attributes:
        files: The pictures.
        size: Height and width that the network is given.
        output_size: Height and width of the output; None is each picture's own.
    """

    files: list[Path]
    size: Size
    output_size: Size | None

    def __call__(self, index: int) -> dict[str, Any]:
        """Sample `index`."""
        file = self.files[index]
        own = picture_size(file)
        view = _view(own)
        picture = read_picture(file, at_least=(max(view[0], self.size[0]), max(view[1], self.size[1])))
        image, size = channels_first(resized(picture, self.size)), self.output_size or own
        return {"image": image, **_placed(size, (0, 0), size, 0.0), "source": resized(picture, view)}


@dataclass(frozen=True)
class Windows:
    """Makes the samples of `predicted`, a window each; in their order, a picture is read once.

    Attributes:
        files: The pictures.
        places: Picture, top and left of each window.
        window: Height and width of the windows in pixels.
        size: Height and width that they are resized to for the network.
        overlap: Least share of a window that it has in common with the next one.
    """

    files: list[Path]
    places: list[tuple[int, int, int]]
    window: Size
    size: Size
    overlap: float

    def __call__(self, index: int) -> dict[str, Any]:
        """Sample `index`.

        Raises:
            DataError: The picture cannot be read as far as the window reaches.
        """
        number, top, left = self.places[index]
        file, last = self.files[number], self.places[index + 1 : index + 2]
        strip = _strip(file, self.window[0], top)
        image = channels_first(resized(cut(strip.move(top), (0, left), self.window), self.size))
        ends = not last or last[0][0] != number
        if not ends:
            _KEPT[file, self.window[0], os.getpid()] = strip
        source = strip.view() if ends else None
        return {"image": image, **_placed(strip.size, (top, left), self.window, self.overlap), "source": source}


# The strip of the picture at hand. A loader's worker must not go on with that of the process that it was forked from,
# because both would move the place in one open file.
_KEPT: dict[tuple[Path, int, int], Strip] = {}


def _strip(file: Path, height: int, top: int) -> Strip:
    """The kept strip of that picture, or a new one where there is none or it has moved below row `top`."""
    strip = _KEPT.pop((file, height, os.getpid()), None)
    _KEPT.clear()
    if strip is not None and strip.top <= top:
        return strip
    size = picture_size(file)
    return Strip(file, size, height, _view(size))


def _view(size: Size) -> Size:
    """Height and width of what is drawn over."""
    scale = min(1, VIEW / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _placed(size: Size, origin: Size, window: Size, overlap: float) -> dict[str, Any]:
    places = {"size": size, "origin": origin, "window": window}
    return {**{name: torch.tensor(place) for name, place in places.items()}, "overlap": overlap}
