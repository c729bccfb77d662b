"""Photographs in squares of one size, decoded no larger than needed, and which of them cannot be used."""

import csv
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ImageOps

from datamodules.read.cache import cached_array, fingerprint
from datamodules.read.pictures import channels_first, opened, orientation, read_picture, refuse_depth
from datamodules.votes.tags import Tags
from datamodules.votes.votes import Votes
from ops.atomic import replacing
from ops.errors import DataError, listed

VIEW = 320  # pixels of the longer side of what contact sheets show


def squared(picture: NDArray[np.uint8], side: int, squeeze: bool = False) -> NDArray[np.uint8]:
    """A picture (H, W, 3) as a square (side, side, 3): area means when it shrinks, bilinear when it grows.

    Args:
        picture: As `datamodules.read.pictures.read_picture` reads it.
        side: Of the square, in pixels.
        squeeze: Whether the whole picture is squeezed into the square; otherwise the square in its middle is taken.
    """
    height, width = picture.shape[:2]
    if not squeeze:
        shorter = min(height, width)
        top, left = (height - shorter) // 2, (width - shorter) // 2
        picture = picture[top : top + shorter, left : left + shorter]
    return _resized(picture, (side, side))


def _resized(picture: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    # Not `geometry.resized`: every loader process would import albumentations, which takes seconds and 60 MB.
    shrinks = size[0] * size[1] < picture.shape[0] * picture.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    result: NDArray[np.uint8] = cv2.resize(picture, size[::-1], interpolation=method)
    return result


def read_square(path: Path, side: int, squeeze: bool = False) -> NDArray[np.uint8]:
    """The square (side, side, 3) of a picture file, as `squared` makes it of the picture that `read_picture` reads.

    A JPEG is decoded at 1/2, 1/4 or 1/8 of its size where that suffices.

    Raises:
        DataError: The file is missing, truncated, not a picture, or has more than 8 bits a channel.
    """
    if squeeze:
        return squared(read_picture(path, at_least=(side, side)), side, squeeze)
    with opened(path) as picture:
        refuse_depth(path, picture)
        picture.draft("RGB", (side, side))
        upright = picture if orientation(picture) == 1 else ImageOps.exif_transpose(picture)
        upright = upright if upright.mode == "RGB" else upright.convert("RGB")
        shorter = min(upright.size)
        left, top = (upright.width - shorter) // 2, (upright.height - shorter) // 2
        # Pillow gives its pixels away slowly: only those of the square are asked for.
        return _resized(np.asarray(upright.crop((left, top, left + shorter, top + shorter))), (side, side))


def absent(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """What is wrong with files that are missing, by name.

    Folders are listed and files left alone: to ask for the sizes of 250,000 files takes a cold disk minutes.
    """
    there: dict[str, set[str]] = {}
    found = {}
    for name in names:
        inner, _, last = name.rpartition("/")
        if inner not in there:
            place = folder / inner
            there[inner] = set(os.listdir(place)) if place.is_dir() else set()
        if last not in there[inner]:
            found[name] = f"There is no file {folder / name}."
    return found


def unreadable(folder: Path, names: Sequence[str], side: int) -> dict[str, str]:
    """What is wrong with pictures that cannot be read, by name; all are decoded, those that are as they were only once.

    Args:
        folder: Where they lie.
        names: Of files that are there.
        side: Of the squares that they are read as.
    """
    if not names:
        return {}
    paths = [folder / name for name in names]
    there = [path for path in paths if path.exists()]  # a link may lead nowhere

    def problem(path: Path) -> str:
        try:
            read_square(path, side)
        except DataError as error:
            return str(error)
        return ""

    def make(index: int) -> NDArray[np.uint8]:
        return np.full(1, not problem(paths[index]), np.uint8)

    what = f"opening the pictures of {folder}"
    opened = cached_array("aesthetics-opened", fingerprint(there, [side, list(names)]), (len(paths), 1), make, what)
    rows = [row for row in range(len(paths)) if not opened[row][0]]
    return {names[row]: problem(paths[row]) or f"{paths[row]} could not be read at first. Remove {opened.path}."
            for row in rows}  # fmt: skip


def write_unusable(path: Path, problems: Mapping[str, str]) -> None:
    """Lists pictures that cannot be used: `name,problem`, written beside its place and moved there."""
    with replacing(path) as temporary, temporary.open("w", newline="", errors="surrogateescape") as file:
        csv.writer(file, lineterminator="\n").writerows([("name", "problem"), *problems.items()])


def readable(batch: dict[str, Any], problems: Sequence[str]) -> dict[str, Any]:
    """The part of a batch that has no problems.

    Args:
        batch: Tensors (B, …) and lists.
        problems: What is wrong with each of the B pictures, "" for nothing.

    Raises:
        DataError: None is left.
    """
    kept = [place for place, problem in enumerate(problems) if not problem]
    if len(kept) == len(problems):
        return batch
    if not kept:
        raise DataError(f"None of the {len(problems)} pictures of a batch can be read:\n{listed(problems)}", problems)
    return {
        key: value[kept] if isinstance(value, torch.Tensor) else [value[place] for place in kept]
        for key, value in batch.items()
    }


@dataclass(frozen=True)
class ScoredPicture:
    """Makes samples of pictures with votes.

    These are `image` uint8 (3, side, side), `votes`, their counts as float32 (K,), `professional`, 0.0 or 1.0, `tags`,
    and `problem`, what is wrong with a picture that cannot be read, which is black then, "" otherwise.

    Attributes:
        folder: Where the pictures lie.
        votes: On all pictures.
        tags: Of all pictures.
        professional: Which of all pictures are professional shots, (N,).
        rows: Which pictures are made.
        side: Of the squares, in pixels.
        squeeze: Whether whole pictures are squeezed into them.
    """

    folder: Path
    votes: Votes
    tags: Tags
    professional: NDArray[np.bool_]
    rows: NDArray[np.int64]
    side: int
    squeeze: bool

    def __call__(self, index: int) -> dict[str, Any]:
        """Sample `index`."""
        row = int(self.rows[index])
        try:
            square, problem = read_square(self.folder / self.votes.names[row], self.side, self.squeeze), ""
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
    """Makes samples of pictures to predict.

    These are `image` uint8 (3, side, side), `source`, the whole picture (h, w, 3), its longer side reduced to 320
    pixels, and `problem`, what is wrong with a picture that cannot be read, "" otherwise; its image is black then, its
    source empty.

    Attributes:
        files: The pictures.
        side: Of the squares, in pixels.
        squeeze: Whether whole pictures are squeezed into them.
    """

    files: list[Path]
    side: int
    squeeze: bool

    def __call__(self, index: int) -> dict[str, Any]:
        """Sample `index`."""
        try:
            picture, problem = read_picture(self.files[index], at_least=(self.side, self.side)), ""
        except DataError as error:
            black, empty = np.zeros((self.side, self.side, 3), np.uint8), np.empty((0, 0, 3), np.uint8)
            return {"image": channels_first(black), "source": empty, "problem": str(error)}
        scale = min(1, VIEW / max(picture.shape[:2]))
        size = (max(1, round(picture.shape[0] * scale)), max(1, round(picture.shape[1] * scale)))
        view = picture if scale == 1 else _resized(picture, size)
        image = channels_first(squared(picture, self.side, self.squeeze))
        return {"image": image, "source": view, "problem": problem}
