"""Decodes images of different sizes with one mask each, once, at a level of their pyramid."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from datamodules.decoded.predicted import place_of
from datamodules.read.boxes import Box, inside
from datamodules.read.cache import MappedRows, cache_key, cached_array
from datamodules.read.mask_files import IGNORED
from datamodules.read.mask_survey import value_problems
from datamodules.read.masks import OneMask, label_planes
from datamodules.read.names import located
from datamodules.read.pictures import channels_first, picture_size, read_picture, resized, resized_mask
from datamodules.read.rasters import COLOR, Channels, read_raster
from ops.errors import DataError, collected, refuse
from ops.windows import Size

Decoder = Callable[[str, OneMask, Sequence[str], int, Size], MappedRows]


@dataclass(frozen=True)
class Scenes:
    """A decoded dataset at a level of its pyramid, with separate arrays for each size of images.

    Attributes:
        source: Names, images and masks that it was decoded from.
        levels: How often the sides of the images were halved.
        sizes: Height and width of each image before that, by name.
        rows: Row of each image in the arrays of its size, by name.
        pictures: Images (n, 3, h, w) by size.
        masks: Masks (n, h, w) by size: 0, 1, or 2 where pixels are ignored.
    """

    source: OneMask
    levels: int
    sizes: dict[str, Size]
    rows: dict[str, int]
    pictures: dict[Size, MappedRows]
    masks: dict[Size, MappedRows]

    def picture(self, name: str) -> NDArray[np.uint8]:
        """Returns an image (3, h, w), read on demand."""
        return self.pictures[self.sizes[name]][self.rows[name]]

    def labels(self, name: str) -> NDArray[np.uint8]:
        """Returns a mask (h, w), read on demand: 0, 1, or `IGNORED`."""
        return self.masks[self.sizes[name]][self.rows[name]]

    def mask(self, name: str) -> NDArray[np.uint8]:
        """Returns a mask (h, w), read on demand: 0 or 1, and 0 where pixels are ignored."""
        return np.asarray(self.labels(name) == 1).astype(np.uint8)


def level_size(size: Size, levels: int) -> Size:
    """Returns the height and width of an image after halving its sides `levels` times, rounding up each time."""
    return -(-size[0] // 2**levels), -(-size[1] // 2**levels)


def reduced(picture: NDArray[np.uint8], levels: int) -> NDArray[np.uint8]:
    """Returns an image (H, W, 3) as (3, h, w) at a level of its Gaussian pyramid, the bits of `ops.exact.pyramids`."""
    for _ in range(levels):
        picture = cv2.pyrDown(picture).reshape(*level_size(picture.shape[:2], 1), 3)  # drops the axes of single pixels
    return channels_first(picture).numpy()


def reduced_mask(mask: NDArray[np.bool_], levels: int) -> NDArray[np.uint8]:
    """Returns a mask (H, W) as 0 and 1, (h, w), at a level: 1 where its Gaussian pyramid is at least 1/2."""
    share = mask.astype(np.float32)
    for _ in range(levels):
        share = cv2.pyrDown(share).reshape(level_size(share.shape, 1))
    return (share >= 0.5).astype(np.uint8)


def reduced_labels(labels: NDArray[np.uint8], levels: int) -> NDArray[np.uint8]:
    """Returns labels (H, W) at a level, (h, w): `reduced_mask`, and `IGNORED` where any ignored pixel has a part."""
    smaller = reduced_mask(labels == 1, levels)
    share = (labels == IGNORED).astype(np.float32)
    if share.any():
        for _ in range(levels):
            share = cv2.pyrDown(share).reshape(level_size(share.shape, 1))
        smaller[share > 0] = IGNORED
    return smaller


def too_small(path: Path, size: Size, levels: int, window: int, trained: bool = False) -> list[str]:
    """Returns the problem of an image that is smaller than a window, possibly of a trained network, or nothing."""
    height, width = level_size(size, levels)
    if min(height, width) >= window:
        return []
    reduction = f", at pyramid level {levels} {height} x {width}" if levels else ""
    fewer = ", fewer --data.pyramid_levels" if levels else ""
    advice = "Enlarge or remove it." if trained else f"Give a smaller --data.window{fewer}, or remove it."
    return [
        f"{path} is {size[0]} x {size[1]} pixels (height x width){reduction}: smaller than a window of {window} x "
        f"{window}. {advice}"
    ]


def readable_sizes(paths: Mapping[str, Path], channels: Channels = COLOR) -> tuple[dict[str, Size], list[str]]:
    """Returns the height and width of the images by name, from their files, and the problems of unreadable ones."""
    sizes: dict[str, Size] = {}

    def read(name: str) -> None:
        sizes[name] = picture_size(paths[name], channels)

    return sizes, collected(partial(read, name) for name in paths)


def decoded_scenes(task: str, source: OneMask, levels: int, window: int) -> Scenes:
    """Returns a dataset at a level of its pyramid, from the cache or decoded into it.

    Args:
        task: Task name, which starts the names of the cached files.
        source: Names, images and masks.
        levels: How often the sides of the images are halved.
        window: Height and width in pixels of the windows that will be drawn.

    Raises:
        DataError: Folders, images or masks are invalid, a mask is all 0 or all 1, or an image is smaller than a window;
            all problems are listed.
    """
    sizes, unreadable = readable_sizes(source.paths, source.channels)
    problems = source.problems + unreadable
    groups: dict[Size, list[str]] = {}
    for name, size in sizes.items():
        problems += too_small(source.path(name), size, levels, window)
        groups.setdefault(size, []).append(name)
    pictures: dict[Size, MappedRows] = {}
    masks: dict[Size, MappedRows] = {}

    def decode(arrays: dict[Size, MappedRows], make: Decoder, size: Size) -> None:
        arrays[size] = make(task, source, groups[size], levels, size)

    for size in groups:
        problems += collected([partial(decode, pictures, _pictures, size), partial(decode, masks, _masks, size)])
    refuse(list(dict.fromkeys(problems + value_problems(task, source))), str(source.root))
    rows = {name: row for names in groups.values() for row, name in enumerate(names)}
    return Scenes(source, levels, sizes, rows, pictures, masks)


def _pictures(task: str, source: OneMask, names: Sequence[str], levels: int, size: Size) -> MappedRows:
    paths = [source.path(name) for name in names]

    def make(index: int) -> NDArray[np.uint8]:
        return reduced(read_picture(paths[index], None, source.channels), levels)

    recipe = source.channels.recipe()
    key, shape = cache_key(paths, [levels, *recipe] if recipe else levels), (len(names), 3, *level_size(size, levels))
    return cached_array(f"{task}-scenes", key, shape, make, f"decoding {source.folder}")


def _masks(task: str, source: OneMask, names: Sequence[str], levels: int, size: Size) -> MappedRows:
    files = [source.files_of(name)[0] for name in names]

    def make(index: int) -> NDArray[np.uint8]:
        misfit = source.misfit(names[index])
        if misfit:
            raise DataError(misfit)
        labels = source.labels(names[index])
        marked = (labels == 1).any()
        if files[index] is not None and not (marked and (labels == 0).any()):  # a missing mask is reported already
            raise DataError(
                f"{files[index]} marks {'all' if marked else 'none'} of its pixels that count; expected some. Correct "
                f"it, or remove it and its image {names[index]}."
            )
        return reduced_labels(labels, levels)

    paths = [*filter(None, files), *map(source.path, names)]
    shape = (len(names), *level_size(size, levels))
    what = f"decoding the masks of {source.root}"
    return cached_array(
        f"{task}-masks", cache_key(paths, [levels, source.values.least, source.values.recipe()]), shape, make, what
    )


@dataclass(frozen=True)
class Scene:
    """Makes samples of whole images with masks.

    Attributes:
        scenes: Decoded dataset.
        names: Images to sample.
        boxes: Boxes by image name.
        conditions: Conditions by image name.
    """

    scenes: Scenes
    names: list[str]
    boxes: dict[str, list[Box]]
    conditions: dict[str, str]

    def __call__(self, index: int) -> dict[str, Any]:
        name = self.names[index]
        mask = torch.from_numpy(self.scenes.mask(name)[None])
        sample: dict[str, Any] = {"image": torch.from_numpy(self.scenes.picture(name).copy()), "mask": mask}
        if name in self.boxes:
            sample["valid"] = inside(self.boxes[name], mask.shape[1:], self.scenes.levels)
        if self.scenes.source.values.ignored:
            sample["ignored"] = torch.from_numpy(self.scenes.labels(name)[None] == IGNORED)
        return {**sample, "condition": self.conditions.get(name, "")}


@dataclass(frozen=True)
class ResizedScene:
    """Makes samples of whole images with masks, resized to one size to train on.

    Attributes:
        scenes: Decoded dataset.
        names: Images to sample.
        boxes: Boxes by image name; if there are any, every sample has `valid`.
        size: Height and width of the samples.
    """

    scenes: Scenes
    names: list[str]
    boxes: dict[str, list[Box]]
    size: Size

    def __call__(self, index: int) -> dict[str, Any]:
        name = self.names[index]
        picture, labels = self.scenes.picture(name).transpose(1, 2, 0), self.scenes.labels(name)
        found = label_planes([labels], self.size, self.scenes.source.values)
        planes = dict(zip(("mask", "ignored")[: len(found)], found, strict=True))
        if self.boxes:
            valid = np.ones_like(labels, bool)
            if name in self.boxes:
                valid = inside(self.boxes[name], labels.shape, self.scenes.levels)[0].numpy()
            planes["valid"] = resized_mask(valid, self.size)
        return {"image": channels_first(resized(np.ascontiguousarray(picture), self.size))} | {
            key: torch.from_numpy(plane[None].copy()) for key, plane in planes.items()
        }


@dataclass(frozen=True)
class PredictedScene:
    """Makes samples of images to predict, at full size.

    `problem` states why an image cannot be used, or is ""; an unusable one is black, with an empty source.

    Attributes:
        folder: Folder of the images.
        names: Their names below it.
        levels: How often their sides are halved.
        window: Height and width in pixels of a window, the smallest image that can be used.
        boxes: Boxes by image name.
        channels: How rasters are read.
    """

    folder: Path
    names: list[str]
    levels: int
    window: int
    boxes: dict[str, list[Box]]
    channels: Channels = COLOR

    def __call__(self, index: int) -> dict[str, Any]:
        name = self.names[index]
        path = located(self.folder, name)
        ground: dict[str, Any] = {}
        there = None
        try:
            size = picture_size(path, self.channels)
            refuse(too_small(path, size, self.levels, self.window, trained=True), str(path))
            if self.channels.reads(path):
                pixels, ground = read_raster(path, self.channels), {"georeference": place_of(path)}
                picture, there = np.ascontiguousarray(pixels[..., :-1]), pixels[..., -1] > 0
            else:
                picture = read_picture(path)
        except DataError as error:
            side = self.window * 2**self.levels
            black = torch.zeros((3, side, side), dtype=torch.uint8)
            return {"image": black, "size": torch.tensor((side, side)), "level": self.levels,
                    "source": np.zeros((0, 0, 3), np.uint8), "problem": "".join(error.problems)}  # fmt: skip
        image = channels_first(picture)  # `AvalanchesDataModule` reduces it on the device
        sample = {"image": image, "size": torch.tensor(picture.shape[:2]), "level": self.levels, "source": picture,
                  "problem": "", **ground}  # fmt: skip
        if name in self.boxes:
            sample["valid"] = inside(self.boxes[name], level_size(picture.shape[:2], self.levels), self.levels)
            sample["boxes"] = self.boxes[name]
            sample["inside"] = inside(self.boxes[name], picture.shape[:2], 0)
        if there is not None and not there.all():
            with_data = torch.from_numpy(resized_mask(there, level_size(picture.shape[:2], self.levels))[None])
            sample["valid"] = sample.get("valid", with_data) & with_data
            sample["inside"] = sample.get("inside", torch.from_numpy(there[None])) & torch.from_numpy(there[None])
        return sample
