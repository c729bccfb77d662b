"""Pictures anywhere below a folder, letterboxed once into the cache, or one by one as they are to be predicted."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from datamodules.read.cache import MappedRows, cached_array, check_pictures, fingerprint
from datamodules.read.pictures import PICTURE_SUFFIXES, Size, channels_first, picture_size, read_picture
from ops.errors import DataError, collected, refuse
from ops.pictures import WHITE, box, letterboxed

LEAST_SIDE = 32
MOST_PIXELS = 1 << 28
HEAD = 16  # bytes that keep height and width before a picture in the cache


def tree_names(folder: Path) -> list[str]:
    """The pictures anywhere below a folder, by their paths from it with `/` between, sorted.

    Links are followed, hidden files and folders passed over.

    Raises:
        DataError: There is no folder, or no picture below it.
    """
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}. Give the path of pictures ({' '.join(PICTURE_SUFFIXES)}).")
    names, seen = [], set()
    for place, folders, files in os.walk(folder, followlinks=True):
        seen.add(os.path.realpath(place))
        # A link to a folder above would lead round in circles.
        folders[:] = [name for name in folders if not name.startswith(".")
                      and os.path.realpath(os.path.join(place, name)) not in seen]  # fmt: skip
        names += [
            Path(place, name).relative_to(folder).as_posix()
            for name in files
            if Path(name).suffix.lower() in PICTURE_SUFFIXES and not name.startswith(".")  # macOS: ._picture.jpg
        ]
    if not names:
        raise DataError(
            f"No pictures anywhere below {folder}; files ending in {' '.join(PICTURE_SUFFIXES)} were looked for."
        )
    return sorted(names)


def predicted_names(pictures: Path) -> tuple[Path, list[str]]:
    """A folder and the paths from it of the pictures anywhere below, or the folder of one picture and its name.

    Raises:
        DataError: There are none, or two of one folder differ in ending only: what is written of them has one name.
    """
    if pictures.is_file():
        return pictures.parent, [pictures.name]
    names, first = tree_names(pictures), dict[str, str]()
    refuse(
        [
            f"What is written of {first[stem]} and of {name} would have one name. Rename one of them."
            for name in names
            if first.setdefault(stem := os.path.splitext(name)[0], name) != name
        ],
        str(pictures),
    )
    return pictures, names


def checked_size(path: Path) -> Size:
    """Height and width of a picture that can be coloured, from the file's header.

    Raises:
        DataError: It is no picture, smaller than 32 pixels a side, or so large that it is taken for an attack.
    """
    height, width = picture_size(path)
    if min(height, width) < LEAST_SIDE:
        raise DataError(
            f"{path} is {height} x {width} pixels (height x width); {LEAST_SIDE} a side or more were wanted. Remove it."
        )
    if height * width > MOST_PIXELS:
        raise DataError(
            f"{path} is {height} x {width} pixels (height x width), which memory may not hold; {MOST_PIXELS:,} in all "
            "or fewer were wanted. Reduce or remove it."
        )
    return height, width


def checked_picture(path: Path) -> NDArray[np.uint8]:
    """A picture (H, W, 3), as `datamodules.read.pictures.read_picture` reads it.

    Raises:
        DataError: It cannot be read or is not as wanted.
    """
    checked_size(path)
    return read_picture(path)


def picture_problems(files: Sequence[Path]) -> list[str]:
    """What is wrong with pictures, a sentence each; slow: it opens every file."""
    sizes = collected([lambda file=file: checked_size(file) for file in files])  # type: ignore[misc]  # a default binds it
    there = [file for file in files if file.exists()]
    return list(dict.fromkeys(sizes + collected([lambda: check_pictures(there)] if there else [])))


@dataclass(frozen=True)
class Letterboxed:
    """A decoded data set.

    Attributes:
        names: Of all pictures that were found, as `tree_names` names them.
        side: Of the squares, in pixels.
        rows: Of each picture, in the order of the names.
        problems: What is wrong with those that could not be read, by name.
    """

    names: list[str]
    side: int
    rows: MappedRows
    problems: dict[str, list[str]]

    def size(self, row: int) -> Size:
        """Height and width of a picture before it was letterboxed."""
        height, width = self.rows[row][:HEAD].view(np.int64).tolist()
        return height, width

    def picture(self, row: int) -> NDArray[np.uint8]:
        """A picture (S, S, 3), white around it, read where it is used."""
        return self.rows[row][HEAD:].reshape(self.side, self.side, 3)


def letterboxed_tree(word: str, folder: Path, names: Sequence[str], side: int, skip: bool) -> Letterboxed:
    """Pictures of a folder in squares, from the cache or decoded into it.

    Args:
        word: The task's word, the beginning of the cached file's name.
        folder: Where the pictures lie.
        names: Their paths from it.
        side: Of the squares, in pixels.
        skip: Whether pictures that cannot be used are told in `problems` only.

    Raises:
        DataError: Some cannot be used and are not to be skipped; all are named.
    """
    paths = [folder / name for name in names]
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

    there = [path for path in paths if path.exists()]  # a link may lead nowhere
    key = fingerprint(there, [side, list(names)])
    rows = cached_array(f"{word}-letterboxed", key, (len(paths), length), make, f"decoding the pictures of {folder}")
    problems: dict[str, list[str]] = {}
    for row, name in enumerate(names):
        if not rows[row][:HEAD].any():
            again = collected([lambda path=paths[row]: checked_picture(path)])  # type: ignore[misc]  # likewise
            problems[name] = again or [f"{paths[row]} could not be read at first. Remove {rows.path} to read it anew."]
    if not skip:  # they were skipped when the cache was filled
        refuse([problem for each in problems.values() for problem in each], str(folder))
    return Letterboxed(list(names), side, rows, problems)


@dataclass(frozen=True)
class LetterboxedSample:
    """Makes `image` uint8 (3, S, S) and `box`, top, left, height and width of the picture in it, (4,).

    Attributes:
        data: The decoded data set.
        chosen: Which of its pictures.
    """

    data: Letterboxed
    chosen: list[int]

    def __call__(self, index: int) -> dict[str, Any]:
        """Sample `index`."""
        row = self.chosen[index]
        place = torch.tensor(box(self.data.size(row), self.data.side))
        return {"image": channels_first(self.data.picture(row)), "box": place}


@dataclass(frozen=True)
class PredictedPicture:
    """Makes the samples of pictures to predict: `image` and `box` as in training, and `source`, the whole picture.

    What is wrong with a picture that cannot be used says `problem`, "" otherwise; such a sample is white, with an empty
    box and source.

    Attributes:
        files: The pictures.
        side: Of the squares, in pixels.
    """

    files: list[Path]
    side: int

    def __call__(self, index: int) -> dict[str, Any]:
        """Sample `index`."""
        try:
            source, problem = checked_picture(self.files[index]), ""
        except DataError as error:
            source, problem = np.empty((0, 0, 3), np.uint8), str(error)
        if problem:
            square, place = np.full((self.side, self.side, 3), WHITE, np.uint8), (0, 0, 0, 0)
        else:
            square, place = letterboxed(source, self.side), box((source.shape[0], source.shape[1]), self.side)
        return {"image": channels_first(square), "box": torch.tensor(place), "source": source, "problem": problem}
