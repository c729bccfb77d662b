"""Reads photographs as squares of one size, decoded no larger than needed, and finds the unusable ones."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.read.cache import cache_key, cached_array
from datamodules.read.names import composed, located
from datamodules.read.pictures import THUMBNAIL, channels_first, fitted, opened_upright, read_picture, resized, squared
from datamodules.votes.tags import Tags
from datamodules.votes.votes import Votes
from ops.atomic import write_table
from ops.errors import DataError, collected, listed


def read_square(path: Path, side: int, squeeze: bool = False) -> NDArray[np.uint8]:
    """Reads an image file as the square (side, side, 3) that `squared` makes of it.

    JPEGs are decoded at 1/2, 1/4 or 1/8 of their size if that suffices.

    Raises:
        DataError: The file is missing, truncated, not an image, or has more than 8 bits per channel.
    """
    if squeeze:
        return squared(read_picture(path, at_least=(side, side)), side, squeeze)
    with opened_upright(path, at_least=(side, side)) as upright:
        shorter = min(upright.size)
        left, top = (upright.width - shorter) // 2, (upright.height - shorter) // 2
        # Pillow copies pixels slowly, so only those of the square are copied.
        return resized(np.asarray(upright.crop((left, top, left + shorter, top + shorter))), (side, side))


def absent(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Returns a problem for each file that is missing, by name.

    It lists folders and touches no file: checking 250,000 files one by one takes minutes on a cold disk.
    """
    there: dict[str, set[str]] = {}
    found = {}
    for name in names:
        inner, _, last = name.rpartition("/")
        if inner not in there:
            place = located(folder, inner)
            there[inner] = set(map(composed, os.listdir(place))) if place.is_dir() else set()
        if last not in there[inner]:
            found[name] = f"There is no file {folder / name}."
    return found


def unreadable(folder: Path, names: Sequence[str], side: int) -> dict[str, str]:
    """Decodes images and returns the problems of unreadable ones by name; unchanged files are decoded only once.

    Args:
        folder: Folder of the images.
        names: Names of files that exist.
        side: Side of the squares that they are read as.
    """
    if not names:
        return {}
    paths = [located(folder, name) for name in names]
    there = [path for path in paths if path.exists()]  # a link may be broken

    def problem(path: Path) -> str:
        return "".join(collected([lambda: read_square(path, side)]))

    def make(index: int) -> NDArray[np.uint8]:
        return np.full(1, not problem(paths[index]), np.uint8)

    what = f"opening the images of {folder}"
    opened = cached_array("aesthetics-opened", cache_key(there, [side, list(names)]), (len(paths), 1), make, what)
    rows = [row for row in range(len(paths)) if not opened[row][0]]
    return {
        names[row]: problem(paths[row])
        or f"{paths[row]} could not be read before. Remove {opened.path} to read it again."
        for row in rows
    }


def write_unusable(path: Path, problems: Mapping[str, str]) -> None:
    """Writes a table `name,problem` of unusable images."""
    write_table(path, ("name", "problem"), problems.items())


def readable(batch: dict[str, Any], problems: Sequence[str]) -> dict[str, Any]:
    """Returns the part of a batch without problems.

    Args:
        batch: Tensors (B, …) and lists.
        problems: Problem of each of the B images, "" for none.

    Raises:
        DataError: Every image has a problem.
    """
    kept = [place for place, problem in enumerate(problems) if not problem]
    if len(kept) == len(problems):
        return batch
    if not kept:
        raise DataError(f"None of the {len(problems)} images of a batch can be read:\n{listed(problems)}", problems)
    return {
        key: [value[place] for place in kept] if isinstance(value, list) else value[kept]
        for key, value in batch.items()
    }


@dataclass(frozen=True)
class ScoredPicture:
    """Makes samples of images with votes.

    A sample has `image` uint8 (3, side, side), black if it cannot be read, `votes`, the counts as float32 (K,),
    `professional`, 0.0 or 1.0, `tags`, and `problem`, why the image cannot be read or "".

    Attributes:
        folder: Folder of the images.
        votes: Votes on all images.
        tags: Tags of all images.
        professional: Which of all images are professional shots, (N,).
        rows: Images to sample.
        side: Side of the squares in pixels.
        squeeze: Whether whole images are squeezed into the squares.
    """

    folder: Path
    votes: Votes
    tags: Tags
    professional: NDArray[np.bool_]
    rows: NDArray[np.int64]
    side: int
    squeeze: bool

    def __call__(self, index: int) -> dict[str, Any]:
        import torch

        row = int(self.rows[index])
        try:
            square, problem = read_square(located(self.folder, self.votes.names[row]), self.side, self.squeeze), ""
        except DataError as error:
            square, problem = np.zeros((self.side, self.side, 3), np.uint8), str(error)
        return {
            "image": channels_first(square),
            "votes": torch.from_numpy(self.votes.counts[row].astype(np.float32)),
            "professional": torch.tensor(float(self.professional[row])),
            "tags": self.tags.of(row),
            "problem": problem,
        }


@dataclass(frozen=True)
class JudgedPicture:
    """Makes samples of images to predict.

    A sample has `image` uint8 (3, side, side), `source`, the whole image (h, w, 3) with a longer side of at most 320
    pixels, and `problem`, why the image cannot be read or "". An unreadable image is black, with an empty source.

    Attributes:
        files: The image files.
        side: Side of the squares in pixels.
        squeeze: Whether whole images are squeezed into the squares.
    """

    files: list[Path]
    side: int
    squeeze: bool

    def __call__(self, index: int) -> dict[str, Any]:
        try:
            picture, problem = read_picture(self.files[index], at_least=(self.side, self.side)), ""
        except DataError as error:
            black, empty = np.zeros((self.side, self.side, 3), np.uint8), np.empty((0, 0, 3), np.uint8)
            return {"image": channels_first(black), "source": empty, "problem": str(error)}
        view = resized(picture, fitted((picture.shape[0], picture.shape[1]), THUMBNAIL))
        image = channels_first(squared(picture, self.side, self.squeeze))
        return {"image": image, "source": view, "problem": problem}
