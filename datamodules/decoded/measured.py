"""Makes samples of whole images with masks, and of the windows that prediction cuts them into, to measure masks on."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from datamodules.decoded.tiles import Tiles
from datamodules.decoded.whole import PackedMasks, all_ignored
from datamodules.read.cache import MappedRows, cache_key, cached_array
from datamodules.read.masks import label_planes
from datamodules.read.pictures import BACKGROUND, channels_first, fitted, read_picture, resized
from ops.errors import DataError, collected, refuse
from ops.windows import Size, cut, window_grid


@dataclass(frozen=True)
class WholeImages:
    """Whole images of a dataset with their masks, with separate arrays for each size of images.

    Attributes:
        places: Size of each image, and its row in the arrays of this size, by name.
        pictures: Images (n, H, W, C) by size.
        masks: Their masks by size.
    """

    places: dict[str, tuple[Size, int]]
    pictures: dict[Size, MappedRows]
    masks: dict[Size, PackedMasks]

    def picture(self, name: str) -> NDArray[np.uint8]:
        """Returns an image (H, W, C), read on demand."""
        size, row = self.places[name]
        return self.pictures[size][row]

    def mask(self, name: str) -> dict[str, NDArray[Any]]:
        """Returns the `mask` of an image and what is `ignored`, see `PackedMasks.sample`, read on demand."""
        size, row = self.places[name]
        return self.masks[size].sample(row)

    def counting(self, names: Sequence[str], what: str) -> list[str]:
        """Returns those of some images that have a pixel which is not ignored.

        Args:
            names: The images.
            what: Describes them in the error.

        Raises:
            DataError: There are images, but none of them is left.
        """
        left = [name for name in names if not self.mask(name).get("ignored", np.zeros(1)).all()]
        if names and not left:
            raise DataError(all_ignored(what))
        return left


def whole_images(task: str, tiles: Tiles) -> WholeImages:
    """Returns the images that tiles were cut from, from the cache or decoded into it; those that are one tile, from it.

    Args:
        task: Task name, which starts the names of the cached files.
        tiles: The tiles of all images.

    Raises:
        DataError: An image or a mask is invalid; all problems are listed.
    """
    places: dict[str, tuple[Size, int]] = {}
    pictures: dict[Size, MappedRows] = {}
    masks: dict[Size, PackedMasks] = {}
    groups: dict[Size, list[int]] = {}
    for index, (height, width) in enumerate(tiles.sizes.tolist()):
        groups.setdefault((height, width), []).append(index)

    def decode(size: Size, indices: list[int]) -> None:
        names = [tiles.source.names[index] for index in indices]
        if size == tiles.window == tiles.size:
            rows = np.searchsorted(tiles.owners, indices).tolist()  # owners ascend
            pictures[size], masks[size] = tiles.pictures, tiles.masks
        else:
            rows = range(len(names))
            pictures[size], masks[size] = _pictures(task, tiles, names, size), _masks(task, tiles, names, size)
        places.update({name: (size, row) for name, row in zip(names, rows, strict=True)})

    refuse(collected(partial(decode, *group) for group in groups.items()), str(tiles.source.root))
    return WholeImages(places, pictures, masks)


def _pictures(task: str, tiles: Tiles, names: Sequence[str], size: Size) -> MappedRows:
    paths = [tiles.source.path(name) for name in names]
    what = f"decoding {tiles.source.folder}"
    channels = tiles.source.channels
    key, shape = cache_key(paths, channels.recipe() or None), (len(names), *size, channels.count)
    return cached_array(f"{task}-whole", key, shape, lambda index: read_picture(paths[index], None, channels), what)


def _masks(task: str, tiles: Tiles, names: Sequence[str], size: Size) -> PackedMasks:
    def make(index: int) -> NDArray[np.uint8]:
        return np.packbits(label_planes([tiles.source.labels(names[index])], size, values), axis=-1)

    values = tiles.source.values
    files = [*tiles.source.files, *map(tiles.source.path, names)]
    shape = (len(names), 1 + bool(values.ignored), size[0], -(-size[1] // 8))
    key, what = cache_key(files, values.recipe()), f"decoding the masks of {tiles.source.root}"
    return PackedMasks(cached_array(f"{task}-whole-masks", key, shape, make, what), size[1], bool(values.ignored))


@dataclass(frozen=True)
class MeasuredSample:
    """Makes samples of whole images with the windows of `datamodules.decoded.predicted.Windows`.

    A sample has `mask` uint8 (1, H, W), maybe `ignored` bool (1, H, W), `image` uint8 (C, h, w), the image with its
    longer side reduced to at most 1200 pixels, `windows` uint8 (N, C, y, x) at the input size of the network, in the
    order of `ops.windows.window_grid`, and `window` and `overlap`.

    Attributes:
        images: The images.
        names: Images to sample.
        window: Height and width of the windows in pixels.
        size: Height and width of the network's input, which windows are resized to.
        overlap: Least share of a window that it has in common with the next one.
    """

    images: WholeImages
    names: list[str]
    window: Size
    size: Size
    overlap: float

    def __call__(self, index: int) -> dict[str, Any]:
        name = self.names[index]
        picture = self.images.picture(name)
        size = picture.shape[:2]
        grid = window_grid(size, self.window, self.overlap)
        windows = [channels_first(resized(cut(picture, origin, self.window), self.size)) for origin in grid]
        return {
            "image": channels_first(resized(picture, fitted(size, BACKGROUND))),
            **{key: torch.from_numpy(planes) for key, planes in self.images.mask(name).items()},
            "windows": torch.stack(windows),
            "window": torch.tensor(self.window),
            "overlap": self.overlap,
        }
