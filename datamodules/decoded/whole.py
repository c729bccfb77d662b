"""A segmentation data set decoded once: its pictures and masks at fixed sizes, mapped from the cache."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from datamodules.read.cache import MappedRows, cached_array, fingerprint
from datamodules.read.masks import MaskSource
from datamodules.read.pictures import Size, channels_first, read_picture, resized
from ops.errors import DataError, refuse


@dataclass(frozen=True)
class PackedMasks:
    """Masks of all pictures, eight pixels a byte.

    Attributes:
        rows: (N, K, H, ceil(W / 8)), packed along the width.
        width: W, in pixels.
    """

    rows: MappedRows
    width: int

    def __getitem__(self, row: int) -> NDArray[np.uint8]:
        """Masks (K, H, W) of a picture, 0 or 1."""
        return np.unpackbits(self.rows[row], axis=-1, count=self.width)


@dataclass(frozen=True)
class Decoded:
    """A decoded data set; row i belongs to `source.names[i]`.

    Attributes:
        source: Where it comes from.
        pictures: (N, H, W, 3), at the size that the network is given.
        masks: At the same size, to train on.
        scored: At the size that predictions are scored at.
    """

    source: MaskSource
    pictures: MappedRows
    masks: PackedMasks
    scored: PackedMasks


def decoded(word: str, source: MaskSource, classes: Sequence[str], size: Size, scored_size: Size) -> Decoded:
    """The data set at these sizes, from the cache or decoded into it.

    Args:
        word: The task's word, the beginning of the cached files' names.
        source: Names, pictures and masks.
        classes: Names of the K classes.
        size: Height and width that the network is given.
        scored_size: Height and width that predictions are scored at.

    Raises:
        DataError: Tables, folders, pictures or masks are not as wanted; the problems of all are listed together.
    """
    problems, arrays = list(source.problems), []
    makers: list[Callable[[], MappedRows]] = [
        lambda: _pictures(word, source, size),
        lambda: _masks(word, source, classes, size),
        lambda: _masks(word, source, classes, scored_size),
    ]
    for make in makers:
        try:
            arrays.append(make())
        except DataError as error:
            problems += error.problems
    refuse(list(dict.fromkeys(problems)), str(source.root))
    pictures, masks, scored = arrays
    return Decoded(source, pictures, PackedMasks(masks, size[1]), PackedMasks(scored, scored_size[1]))


def _pictures(word: str, source: MaskSource, size: Size) -> MappedRows:
    paths = [source.path(name) for name in source.names]

    def make(index: int) -> NDArray[np.uint8]:
        misfit = source.misfit(source.names[index])
        if misfit:
            raise DataError(misfit)
        return resized(read_picture(paths[index], at_least=size), size)

    what = f"decoding the pictures of {source.root}"
    return cached_array(f"{word}-pictures", fingerprint(paths, size), (len(paths), *size, 3), make, what)


def _masks(word: str, source: MaskSource, classes: Sequence[str], size: Size) -> MappedRows:
    def make(index: int) -> NDArray[np.uint8]:
        return np.packbits(source.masks(source.names[index], size), axis=-1)

    shape = (len(source.names), len(classes), size[0], -(-size[1] // 8))
    paths = [source.path(name) for name in source.names]
    key = fingerprint([*source.files, *paths], [list(classes), size])
    return cached_array(f"{word}-masks", key, shape, make, f"decoding the masks of {source.root}")


@dataclass(frozen=True)
class DecodedSample:
    """Makes `image` uint8 (3, H, W) and `mask` uint8 (K, H, W) of a decoded data set's pictures.

    Attributes:
        pictures: Of the data set.
        masks: Of the data set.
        rows: Which of its pictures.
        absent: Which classes of a row count as absent, where that is not as the masks say.
    """

    pictures: MappedRows
    masks: PackedMasks
    rows: list[int]
    absent: dict[int, NDArray[np.bool_]] = field(default_factory=dict)

    def __call__(self, index: int) -> dict[str, Any]:
        """Sample `index`."""
        row = self.rows[index]
        mask = self.masks[row]
        if row in self.absent:
            mask[self.absent[row]] = 0
        return {"image": channels_first(self.pictures[row]), "mask": torch.from_numpy(mask)}
