"""Photographs of different sizes with a mask each, decoded once at a level of their pyramid."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from datamodules.read.cache import MappedRows, cached_array, fingerprint
from datamodules.read.masks import FolderMasks
from datamodules.read.pictures import Size, channels_first, picture_size, read_picture
from datamodules.read.tables import Box, inside
from ops.errors import DataError, refuse


@dataclass(frozen=True)
class Scenes:
    """A decoded data set at a level of its pyramid; each size of pictures has arrays of its own.

    Attributes:
        source: Where it comes from.
        levels: How often the sides of the pictures were halved.
        sizes: Height and width of each picture before that, by name.
        rows: Which row of the arrays of its size a picture is, by name.
        pictures: (n, 3, h, w), by size.
        masks: (n, h, w), 0 or 1, by size.
    """

    source: FolderMasks
    levels: int
    sizes: dict[str, Size]
    rows: dict[str, int]
    pictures: dict[Size, MappedRows]
    masks: dict[Size, MappedRows]

    def picture(self, name: str) -> NDArray[np.uint8]:
        """A picture (3, h, w), read where it is used."""
        return self.pictures[self.sizes[name]][self.rows[name]]

    def mask(self, name: str) -> NDArray[np.uint8]:
        """A mask (h, w), 0 or 1, read where it is used."""
        return self.masks[self.sizes[name]][self.rows[name]]


def level_size(size: Size, levels: int) -> Size:
    """Height and width of a picture whose sides were halved `levels` times, each time rounded up."""
    return -(-size[0] // 2**levels), -(-size[1] // 2**levels)


def reduced(picture: NDArray[np.uint8], levels: int) -> NDArray[np.uint8]:
    """Returns an image (H, W, 3) as (3, h, w) at a level of its Gaussian pyramid, the bits of `ops.pyramids`."""
    for _ in range(levels):
        picture = cv2.pyrDown(picture).reshape(*level_size(picture.shape[:2], 1), 3)  # drops the axes of single pixels
    return channels_first(picture).numpy()


def reduced_mask(mask: NDArray[np.bool_], levels: int) -> NDArray[np.uint8]:
    """Returns a mask (H, W) as 0 and 1, (h, w), at a level: 1 where its Gaussian pyramid is at least 1/2."""
    share = mask.astype(np.float32)
    for _ in range(levels):
        share = cv2.pyrDown(share).reshape(level_size(share.shape, 1))
    return (share >= 0.5).astype(np.uint8)


def too_small(path: Path, size: Size, levels: int, window: int, trained: bool = False) -> list[str]:
    """Whether a picture is smaller than a window, maybe of a trained network: what is wrong with it, or nothing."""
    height, width = level_size(size, levels)
    if min(height, width) >= window:
        return []
    reduction = f", at pyramid level {levels} {height} x {width}" if levels else ""
    fewer = ", fewer --data.pyramid_levels" if levels else ""
    advice = "Enlarge it, or leave it out." if trained else f"Give a smaller --data.window{fewer}, or remove it."
    return [
        f"{path} is {size[0]} x {size[1]} pixels (height x width){reduction}: less than a window of {window} x "
        f"{window}. {advice}"
    ]


def readable_sizes(source: FolderMasks) -> tuple[dict[str, Size], list[str]]:
    """Height and width of the pictures by name, and what is wrong with those that are none."""
    sizes: dict[str, Size] = {}
    problems = []
    for name in source.names:
        try:
            sizes[name] = picture_size(source.path(name))
        except DataError as error:
            problems += error.problems
    return sizes, problems


def decoded_scenes(word: str, source: FolderMasks, levels: int, window: int) -> Scenes:
    """A data set at a level of its pyramid, from the cache or decoded into it.

    Args:
        word: The task's word, the beginning of the cached files' names.
        source: Names, pictures and masks.
        levels: How often the sides of the pictures are halved.
        window: Height and width in pixels of the windows that will be drawn from them.

    Raises:
        DataError: Folders, pictures or masks are not as wanted, a mask is all or nothing, or a picture is smaller than
            a window; the problems of all are listed together.
    """
    sizes, unreadable = readable_sizes(source)
    problems = source.problems + unreadable
    groups: dict[Size, list[str]] = {}
    for name, size in sizes.items():
        problems += too_small(source.path(name), size, levels, window)
        groups.setdefault(size, []).append(name)
    pictures: dict[Size, MappedRows] = {}
    masks: dict[Size, MappedRows] = {}
    for size, names in groups.items():
        for arrays, decode in ((pictures, _pictures), (masks, _masks)):
            try:
                arrays[size] = decode(word, source, names, levels, size)
            except DataError as error:
                problems += error.problems
    refuse(list(dict.fromkeys(problems)), str(source.root))
    rows = {name: row for names in groups.values() for row, name in enumerate(names)}
    return Scenes(source, levels, sizes, rows, pictures, masks)


def _pictures(word: str, source: FolderMasks, names: Sequence[str], levels: int, size: Size) -> MappedRows:
    paths = [source.path(name) for name in names]

    def make(index: int) -> NDArray[np.uint8]:
        return reduced(read_picture(paths[index]), levels)

    shape = (len(names), 3, *level_size(size, levels))
    return cached_array(f"{word}-scenes", fingerprint(paths, levels), shape, make, f"decoding {source.folder}")


def _masks(word: str, source: FolderMasks, names: Sequence[str], levels: int, size: Size) -> MappedRows:
    files = [source.by_class[0].get(Path(name).stem) for name in names]

    def make(index: int) -> NDArray[np.uint8]:
        misfit = source.misfit(names[index])
        if misfit:
            raise DataError(misfit)
        mask = source.mask(names[index])
        if files[index] is not None and (mask.all() or not mask.any()):  # that there is none is told already
            raise DataError(
                f"{files[index]} marks {'all' if mask.any() else 'none'} of its pixels ({source.least} or brighter); "
                f"some were wanted. Draw it again, or remove it and its picture {names[index]}."
            )
        return reduced_mask(mask, levels)

    paths = [*filter(None, files), *map(source.path, names)]
    shape = (len(names), *level_size(size, levels))
    what = f"decoding the masks of {source.root}"
    return cached_array(f"{word}-masks", fingerprint(paths, [levels, source.least]), shape, make, what)


@dataclass(frozen=True)
class Scene:
    """Makes the samples of whole pictures with masks.

    Attributes:
        scenes: The decoded data set.
        names: Of its pictures that are sampled.
        boxes: Of pictures by name.
        conditions: Of pictures by name.
    """

    scenes: Scenes
    names: list[str]
    boxes: dict[str, list[Box]]
    conditions: dict[str, str]

    def __call__(self, index: int) -> dict[str, Any]:
        """Sample `index`."""
        name = self.names[index]
        mask = torch.from_numpy(self.scenes.mask(name)[None].copy())
        sample: dict[str, Any] = {"image": torch.from_numpy(self.scenes.picture(name).copy()), "mask": mask}
        if name in self.boxes:
            sample["valid"] = inside(self.boxes[name], mask.shape[1:], self.scenes.levels)
        return {**sample, "condition": self.conditions.get(name, "")}


@dataclass(frozen=True)
class PredictedScene:
    """Makes the samples of images to predict, at full size.

    Attributes:
        files: The pictures.
        levels: How often their sides are halved.
        boxes: Of pictures by name.
    """

    files: list[Path]
    levels: int
    boxes: dict[str, list[Box]]

    def __call__(self, index: int) -> dict[str, Any]:
        """Sample `index`."""
        picture, name = read_picture(self.files[index]), self.files[index].name
        image = channels_first(picture)  # `AvalanchesDataModule` reduces it on the device
        sample = {"image": image, "size": torch.tensor(picture.shape[:2]), "level": self.levels, "source": picture}
        if name in self.boxes:
            sample["valid"] = inside(self.boxes[name], level_size(picture.shape[:2], self.levels), self.levels)
            sample["inside"] = inside(self.boxes[name], picture.shape[:2], 0)
        return sample
