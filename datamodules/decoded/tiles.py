"""Cuts images with one mask each into tiles of equal size, once."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
from numpy.typing import NDArray

from datamodules.decoded.whole import PackedMasks
from datamodules.read.cache import MappedRows, cache_key, cached_array, check_pictures
from datamodules.read.mask_files import IGNORED
from datamodules.read.mask_survey import value_problems
from datamodules.read.masks import OneMask, label_planes
from datamodules.read.pictures import picture_size, read_picture, resized
from ops.errors import DataError, collected, refuse
from ops.windows import Size, cut, window_grid


@dataclass(frozen=True)
class Tiles:
    """Tiles of a dataset; row i of `pictures` and `masks` is tile i.

    Attributes:
        source: Names, images and masks that they were cut from.
        window: Height and width of a tile in pixels of the images.
        size: Height and width that tiles were resized to, the input size of the network.
        sizes: Height and width of the images (P, 2), in the order of `source.names`.
        marked: Mask pixels of each image (P,).
        ignored: Pixels of each image that count nowhere (P,).
        owners: Image of each tile (N,).
        pictures: Tiles (N, H, W, C) at `size`.
        masks: Their masks at the same size.
    """

    source: OneMask
    window: Size
    size: Size
    sizes: NDArray[np.int64]
    marked: NDArray[np.int64]
    ignored: NDArray[np.int64]
    owners: NDArray[np.int64]
    pictures: MappedRows
    masks: PackedMasks

    def of(self, names: Sequence[str]) -> list[int]:
        """Returns the tiles of these images that are not ignored as a whole, in the order of all tiles.

        Raises:
            DataError: All of them are.
        """
        wanted = set(names)
        rows = [row for row, owner in enumerate(self.owners.tolist()) if self.source.names[owner] in wanted]
        return self.masks.counting(rows, f"{len(rows)} tiles in {self.source.root}")


def decoded_tiles(task: str, source: OneMask, window: Size, size: Size) -> Tiles:
    """Returns the tiles of a dataset, from the cache or decoded into it.

    Tiles cover an image evenly, see `ops.windows.window_grid`, and overlap if its sides are not multiples of theirs.

    Args:
        task: Task name, which starts the names of the cached files.
        source: Names, images and masks.
        window: Height and width of a tile in pixels of the images.
        size: Height and width that tiles are resized to.

    Raises:
        DataError: Folders, images or masks are invalid; all problems are listed.
    """
    problems, paths, channels = list(source.problems), [source.path(name) for name in source.names], source.channels
    files = [*source.files, *paths]
    try:
        table = measured(task, source)
    except DataError as error:
        refuse(
            [*problems, *error.problems, *collected([lambda: check_pictures(paths, None, channels)])], str(source.root)
        )
        raise
    sizes, marked, ignored = table[:, :2], table[:, 2], table[:, 3]
    problems += [
        f"{path} is {height} x {width} pixels (height x width), smaller than a tile of {window[0]} x {window[1]}. "
        "Give a smaller --data.window or --data.size, or remove it."
        for path, (height, width) in zip(paths, sizes.tolist(), strict=True)
        if height < window[0] or width < window[1]
    ]
    places = [(row, place) for row, (height, width) in enumerate(sizes.tolist())
              for place in window_grid((height, width), window)]  # fmt: skip
    problems += value_problems(task, source)
    read_labels_once = lru_cache(8)(source.labels)
    read_picture_once = lru_cache(8)(partial(read_picture, channels=channels))

    def make_picture(index: int) -> NDArray[np.uint8]:
        row, place = places[index]
        return resized(cut(read_picture_once(paths[row]), place, window), size)

    def make_mask(index: int) -> NDArray[np.uint8]:
        row, place = places[index]
        return np.packbits(
            label_planes([cut(read_labels_once(source.names[row]), place, window)], size, source.values), axis=-1
        )

    key, count = cache_key(files, [window, size, *channels.recipe()]), len(places)
    mask_key = cache_key(files, [window, size, source.values.recipe()])
    arrays: list[MappedRows] = []
    shape = (count, 1 + bool(source.values.ignored), size[0], -(-size[1] // 8))
    what = f"cutting the masks of {source.root}"
    problems += collected(
        [
            lambda: arrays.append(
                cached_array(
                    f"{task}-tiles", key, (count, *size, channels.count), make_picture, f"cutting {source.folder}"
                )
            ),
            lambda: arrays.append(cached_array(f"{task}-masks", mask_key, shape, make_mask, what)),
        ]
    )
    refuse(list(dict.fromkeys(problems)), str(source.root))
    pictures, masks = arrays
    owners = np.array([row for row, _ in places])
    packed = PackedMasks(masks, size[1], bool(source.values.ignored))
    return Tiles(source, window, size, sizes, marked, ignored, owners, pictures, packed)


def measured(task: str, source: OneMask) -> NDArray[np.int64]:
    """Returns the height, width, and numbers of mask pixels and of ignored pixels of every image (P, 4).

    Raises:
        DataError: Images have no mask, or one of another size, or one that cannot be read.
    """

    def make(index: int) -> NDArray[np.uint8]:
        name = source.names[index]
        misfit = source.misfit(name)
        if misfit:
            raise DataError(misfit)
        labels = source.labels(name)
        size = picture_size(source.path(name), source.channels)
        values = [*size, *(np.count_nonzero(labels == value) for value in (1, IGNORED))]
        return np.array(values, np.int64).view(np.uint8)

    files = [*source.files, *map(source.path, source.names)]
    shape, what = (len(source.names), 32), f"measuring the masks of {source.root}"
    rows = cached_array(f"{task}-measured", cache_key(files, [source.values.recipe(), "ignored"]), shape, make, what)
    return np.stack([rows[index].view(np.int64) for index in range(len(rows))])
