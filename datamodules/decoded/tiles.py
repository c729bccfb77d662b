"""A data set of equal tiles, cut out of pictures with one mask each and decoded once."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datamodules.decoded.whole import PackedMasks
from datamodules.read.cache import MappedRows, cached_array, check_pictures, fingerprint
from datamodules.read.masks import FolderMasks
from datamodules.read.pictures import Size, picture_size, read_picture, resized, resized_mask
from ops.errors import DataError, collected, refuse
from ops.windows import cut, window_grid


@dataclass(frozen=True)
class Tiles:
    """Row i of `pictures` and `masks` is tile i.

    Attributes:
        source: Where the pictures come from.
        sizes: Height and width of the pictures (P, 2), in the order of `source.names`.
        marked: Pixels of each picture's mask (P,).
        owners: Which picture each tile is of (N,).
        pictures: (N, H, W, 3), at the size that the network is given.
        masks: At the same size.
    """

    source: FolderMasks
    sizes: NDArray[np.int64]
    marked: NDArray[np.int64]
    owners: NDArray[np.int64]
    pictures: MappedRows
    masks: PackedMasks

    def of(self, names: Sequence[str]) -> list[int]:
        """The tiles of these pictures, in the order of all tiles."""
        wanted = set(names)
        return [row for row, owner in enumerate(self.owners.tolist()) if self.source.names[owner] in wanted]


def decoded_tiles(word: str, source: FolderMasks, window: Size, size: Size) -> Tiles:
    """The tiles of a data set, from the cache or decoded into it.

    Windows are laid over a picture as `ops.windows.window_grid` does: they cover it evenly, and overlap where its sides
    are no multiples of theirs.

    Args:
        word: The task's word, the beginning of the cached files' names.
        source: Names, pictures and masks.
        window: Height and width of a tile in pixels of the pictures.
        size: Height and width that tiles are resized to.

    Raises:
        DataError: Folders, pictures or masks are not as wanted; the problems of all are listed together.
    """
    problems, paths = list(source.problems), [source.path(name) for name in source.names]
    files = [*source.files, *paths]
    try:
        table = _measured(word, source, files)
    except DataError as error:
        refuse([*problems, *error.problems, *collected([lambda: check_pictures(paths)])], str(source.root))
        raise
    sizes, marked = table[:, :2], table[:, 2]
    problems += [
        f"{path} is {height} x {width} pixels (height x width), less than a tile of {window[0]} x {window[1]}. "
        "Give a smaller --data.window or --data.size, or remove it."
        for path, (height, width) in zip(paths, sizes.tolist(), strict=True)
        if height < window[0] or width < window[1]
    ]
    places = [(row, place) for row, (height, width) in enumerate(sizes.tolist())
              for place in window_grid((height, width), window)]  # fmt: skip
    read_picture_once, read_mask_once = lru_cache(8)(read_picture), lru_cache(8)(source.mask)

    def make_picture(index: int) -> NDArray[np.uint8]:
        row, place = places[index]
        return resized(cut(read_picture_once(paths[row]), place, window), size)

    def make_mask(index: int) -> NDArray[np.uint8]:
        row, place = places[index]
        mask = resized_mask(cut(read_mask_once(source.names[row]), place, window), size)
        return np.packbits(mask[None], axis=-1)

    key, count = fingerprint(files, [window, size]), len(places)
    arrays: list[MappedRows] = []
    for name, shape, make, what in (
        ("tiles", (count, *size, 3), make_picture, f"cutting {source.folder}"),
        ("masks", (count, 1, size[0], -(-size[1] // 8)), make_mask, f"cutting the masks of {source.root}"),
    ):
        try:
            arrays.append(cached_array(f"{word}-{name}", key, shape, make, what))
        except DataError as error:
            problems += error.problems
    refuse(list(dict.fromkeys(problems)), str(source.root))
    pictures, masks = arrays
    owners = np.array([row for row, _ in places])
    return Tiles(source, sizes, marked, owners, pictures, PackedMasks(masks, size[1]))


def _measured(word: str, source: FolderMasks, files: Sequence[Path]) -> NDArray[np.int64]:
    """Height, width and pixels of the mask (P, 3) of every picture.

    Raises:
        DataError: Pictures have no mask, or one of another size, or one that cannot be read.
    """

    def make(index: int) -> NDArray[np.uint8]:
        name = source.names[index]
        misfit = source.misfit(name)
        if misfit:
            raise DataError(misfit)
        figures = [*picture_size(source.path(name)), np.count_nonzero(source.mask(name))]
        return np.array(figures, np.int64).view(np.uint8)

    shape, what = (len(source.names), 24), f"measuring the masks of {source.root}"
    rows = cached_array(f"{word}-measured", fingerprint(files, None), shape, make, what)
    return np.stack([rows[index].view(np.int64) for index in range(len(rows))])
