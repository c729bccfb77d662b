"""Letterboxes images anywhere below a folder, once into the cache or one by one to predict."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.read.cache import MappedRows, cache_key, cached_array, check_pictures
from datamodules.read.hints import HintFiles
from datamodules.read.names import located
from datamodules.read.pictures import channels_first, checked_size, read_picture
from ops.errors import DataError, collected, refuse
from ops.pictures import WHITE, box, letterboxed
from ops.windows import Size

HEAD = 16  # bytes before an image in the cache, for its height and width


def checked_picture(path: Path) -> NDArray[np.uint8]:
    """Returns an image (H, W, 3), as `datamodules.read.pictures.read_picture` reads it.

    Raises:
        DataError: It cannot be read, or `checked_size` rejects it.
    """
    checked_size(path)
    return read_picture(path)


def picture_problems(files: Sequence[Path]) -> list[str]:
    """Returns what is wrong with images; slow, since it opens every file."""
    sizes = collected(partial(checked_size, file) for file in files)
    there = [file for file in files if file.exists()]
    return list(dict.fromkeys(sizes + collected([lambda: check_pictures(there)] if there else [])))


@dataclass(frozen=True)
class Letterboxed:
    """A decoded dataset of letterboxed images.

    Attributes:
        names: Names of all images that were found, see `datamodules.read.names`.
        side: Side of the squares in pixels.
        rows: Height, width and square of each image, in the order of the names.
        problems: Problems of unusable images by name.
    """

    names: list[str]
    side: int
    rows: MappedRows
    problems: dict[str, list[str]]

    def size(self, row: int) -> Size:
        """Returns the height and width of an image before it was letterboxed."""
        height, width = self.rows[row][:HEAD].view(np.int64).tolist()
        return height, width

    def picture(self, row: int) -> NDArray[np.uint8]:
        """Returns an image (S, S, 3) with white around it, read on demand."""
        return self.rows[row][HEAD:].reshape(self.side, self.side, 3)


def letterboxed_tree(task: str, folder: Path, names: Sequence[str], side: int, skip: bool) -> Letterboxed:
    """Returns the images of a folder in squares, from the cache or decoded into it.

    Args:
        task: Task name, which starts the name of the cached file.
        folder: Folder of the images.
        names: Paths relative to it.
        side: Side of the squares in pixels.
        skip: Whether to list unusable images in `problems` instead of rejecting them.

    Raises:
        DataError: Some images are unusable and `skip` is false; all are listed.
    """
    paths = [located(folder, name) for name in names]
    length = HEAD + side * side * 3

    def make(index: int) -> NDArray[np.uint8]:
        try:
            picture = checked_picture(paths[index])
        except DataError:
            if skip:
                return np.zeros(length, np.uint8)
            raise
        head = np.array(picture.shape[:2], np.int64).view(np.uint8)
        return np.concatenate([head, letterboxed(picture, side).reshape(-1)])

    there = [path for path in paths if path.exists()]  # a link may be broken
    key = cache_key(there, [side, list(names)])
    rows = cached_array(f"{task}-letterboxed", key, (len(paths), length), make, f"decoding the images of {folder}")
    problems: dict[str, list[str]] = {}
    for row, name in enumerate(names):
        if not rows[row][:HEAD].any():
            again = collected([partial(checked_picture, paths[row])])
            problems[name] = again or [f"{paths[row]} could not be read before. Remove {rows.path} to read it again."]
    if not skip:  # the cache may have been filled while skipping them
        refuse([problem for each in problems.values() for problem in each], str(folder))
    return Letterboxed(list(names), side, rows, problems)


@dataclass(frozen=True)
class LetterboxedSample:
    """Makes samples with `image` uint8 (3, S, S) and `box` (4,), the top, left, height and width of the image in it.

    Attributes:
        data: Decoded dataset.
        chosen: Rows to sample.
        views: The same images in squares of another side, `view` (3, V, V) in the samples.
    """

    data: Letterboxed
    chosen: list[int]
    views: Letterboxed | None = None

    def __call__(self, index: int) -> dict[str, Any]:
        row = self.chosen[index]
        place = torch.tensor(box(self.data.size(row), self.data.side))
        view = {} if self.views is None else {"view": channels_first(self.views.picture(row))}
        return {"image": channels_first(self.data.picture(row)), "box": place, **view}


@dataclass(frozen=True)
class PredictedPicture:
    """Makes samples of images to predict: `image` and `box` as in training, and `source`, the whole image.

    `problem` states why an image cannot be used, or is ""; an unusable one is white, with an empty box and source.

    Attributes:
        files: The image files.
        side: Side of the squares in pixels.
        view: Side of another square, `view` (3, V, V) in the samples.
        names: Names of the images, for their hints.
        hints: Hints, `hints` in the samples, (N, 5): row, column and sRGB of each.
    """

    files: list[Path]
    side: int
    view: int | None = None
    names: Sequence[str] = ()
    hints: HintFiles | None = None

    def __call__(self, index: int) -> dict[str, Any]:
        hints = np.zeros((0, 5), np.int64)
        try:
            source, problem = checked_picture(self.files[index]), ""
            if self.hints is not None:
                hints = self.hints.read(self.names[index])
        except DataError as error:
            source, problem = np.empty((0, 0, 3), np.uint8), str(error)
        white = np.full((1, 1, 3), WHITE, np.uint8)
        made = squares(white if problem else source, self.side, self.view)
        if problem:
            made["box"] = torch.zeros(4, dtype=torch.int64)
        return {**made, "source": source, "problem": problem, "hints": hints}


def squares(source: NDArray[np.uint8], side: int, view: int | None) -> dict[str, Tensor]:
    """Returns `image`, `box` and, unless it is None, `view` of an image, see `PredictedPicture`."""
    place = torch.tensor(box((source.shape[0], source.shape[1]), side))
    sides = {"image": side} if view is None else {"image": side, "view": view}
    return {**{key: channels_first(letterboxed(source, each)) for key, each in sides.items()}, "box": place}
