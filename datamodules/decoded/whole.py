"""Decodes a segmentation dataset once: its images and masks at fixed sizes, mapped from the cache."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from datamodules.read.cache import MappedRows, cache_key, cached_array
from datamodules.read.mask_survey import value_problems
from datamodules.read.masks import MaskSource
from datamodules.read.pictures import channels_first, read_picture, resized
from ops.errors import DataError, collected, refuse
from ops.windows import Size


@dataclass(frozen=True)
class PackedMasks:
    """Masks of all images, eight pixels per byte.

    Attributes:
        rows: Masks (N, K, H, ceil(W / 8)), packed along the width; if pixels may be ignored, K + 1, these last.
        width: Width W in pixels.
        ignoring: Whether pixels may be ignored.
    """

    rows: MappedRows
    width: int
    ignoring: bool = False

    def __getitem__(self, row: int) -> NDArray[np.uint8]:
        """Returns the masks (K, H, W) of an image, 0 or 1."""
        planes = self.rows[row]
        return np.unpackbits(planes[:-1] if self.ignoring else planes, axis=-1, count=self.width)

    def counting(self, rows: Sequence[int], what: str) -> list[int]:
        """Returns those of some rows that have a pixel which is not ignored.

        Args:
            rows: Rows of images.
            what: Describes the rows in the error.

        Raises:
            DataError: There are rows, but none of them is left.
        """
        left = [row for row in rows if not self.ignoring or not self.sample(row)["ignored"].all()]
        if rows and not left:
            raise DataError(all_ignored(what))
        return left

    def sample(self, row: int) -> dict[str, NDArray[Any]]:
        """Returns the `mask` (K, H, W), 0 or 1, and, if pixels may be ignored, `ignored` (1, H, W), bool."""
        if not self.ignoring:
            return {"mask": self[row]}
        ignored = np.unpackbits(self.rows[row][-1:], axis=-1, count=self.width)
        return {"mask": self[row], "ignored": ignored.astype(np.bool_)}


def all_ignored(what: str) -> str:
    """Returns the problem of images without a pixel that counts."""
    return f"Every pixel of {what} is ignored. Correct --data.ignore_value or the masks."


@dataclass(frozen=True)
class Decoded:
    """A decoded dataset; row i belongs to `source.names[i]`.

    Attributes:
        source: Names, images and masks that it was decoded from.
        pictures: Images (N, H, W, C) at the input size of the network.
        masks: Masks at the same size, to train on.
        scored: Masks at the size that predictions are scored at.
    """

    source: MaskSource
    pictures: MappedRows
    masks: PackedMasks
    scored: PackedMasks


def decoded(task: str, source: MaskSource, classes: Sequence[str], size: Size, scored_size: Size) -> Decoded:
    """Returns the dataset at these sizes, from the cache or decoded into it.

    Args:
        task: Task name, which starts the names of the cached files.
        source: Names, images and masks.
        classes: Names of the K classes.
        size: Height and width of the network's input.
        scored_size: Height and width that predictions are scored at.

    Raises:
        DataError: Tables, folders, images or masks are invalid; all problems are listed.
    """
    arrays: list[MappedRows] = []
    problems = source.problems + collected(
        [
            lambda: arrays.append(_pictures(task, source, size)),
            lambda: arrays.append(_masks(task, source, classes, size)),
            lambda: arrays.append(_masks(task, source, classes, scored_size)),
        ]
    )
    refuse(list(dict.fromkeys(problems + value_problems(task, source))), str(source.root))
    pictures, masks, scored = arrays
    ignoring = bool(source.values.ignored)
    packed = [PackedMasks(*each, ignoring) for each in ((masks, size[1]), (scored, scored_size[1]))]
    return Decoded(source, pictures, *packed)


def _pictures(task: str, source: MaskSource, size: Size) -> MappedRows:
    paths = [source.path(name) for name in source.names]

    def make(index: int) -> NDArray[np.uint8]:
        misfit = source.misfit(source.names[index])
        if misfit:
            raise DataError(misfit)
        return resized(read_picture(paths[index], at_least=size, channels=source.channels), size)

    what = f"decoding the images of {source.root}"
    key = cache_key(paths, [*size, *source.channels.recipe()])
    return cached_array(f"{task}-pictures", key, (len(paths), *size, source.channels.count), make, what)


def _masks(task: str, source: MaskSource, classes: Sequence[str], size: Size) -> MappedRows:
    def make(index: int) -> NDArray[np.uint8]:
        return np.packbits(source.planes(source.names[index], size), axis=-1)

    planes = len(classes) + bool(source.values.ignored)
    shape = (len(source.names), planes, size[0], -(-size[1] // 8))
    paths = [source.path(name) for name in source.names]
    key = cache_key([*source.files, *paths], [list(classes), size, source.values.recipe()])
    return cached_array(f"{task}-masks", key, shape, make, f"decoding the masks of {source.root}")


@dataclass(frozen=True)
class DecodedSample:
    """Makes samples of a decoded dataset: `image` uint8 (C, H, W), `mask` uint8 (K, H, W), and maybe `ignored`, bool.

    Attributes:
        pictures: Images of the dataset.
        masks: Masks of the dataset.
        rows: Rows to sample.
        absent: Classes to treat as absent by row, whatever the masks say.
    """

    pictures: MappedRows
    masks: PackedMasks
    rows: list[int]
    absent: dict[int, NDArray[np.bool_]] = field(default_factory=dict)

    def __call__(self, index: int) -> dict[str, Any]:
        row = self.rows[index]
        planes = self.masks.sample(row)
        if row in self.absent:
            planes["mask"][self.absent[row]] = 0
        tensors = {key: torch.from_numpy(each) for key, each in planes.items()}
        return {"image": channels_first(self.pictures[row]), **tensors}
