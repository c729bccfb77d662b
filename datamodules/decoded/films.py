"""Makes samples of the frames of a film, with hints that follow what they were given for."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from datamodules.decoded.letterboxed import squares
from datamodules.loaders import Samples
from datamodules.read.hints import find_hints
from datamodules.read.pictures import LEAST_SIDE
from datamodules.read.video import Film, Reader, frame_names
from ops.color.film import Points, followed
from ops.errors import DataError
from ops.files.images import check_pixels
from ops.progress import progress

SIDE = 224  # pixels of the longer side of the frames in which hints are followed
Hints = NDArray[np.int64]  # row, column and sRGB of each, (N, 5)


def film_samples(film: Film, name: str, side: int, view: int | None, hints: Path | None) -> Samples:
    """Returns a sample for each frame of a film, all in one group, with `frame`, see `datamodules.batch.Frame`.

    The film is decoded twice, with hints three times: first only to count its frames, so that a damaged film is
    rejected before any frame is colored, then to follow hints.

    Args:
        film: The film.
        name: What results are called.
        side: Side of the squares in pixels.
        view: Side of another square, see `PredictedPicture`.
        hints: File or folder of hints, see `datamodules.read.hints.find_hints`; the images are named as in
            `datamodules.read.video.frame_names`.

    Raises:
        DataError: The film cannot be read, is too small or too large, or hints do not fit.
    """
    height, width = film.size
    if min(height, width) < LEAST_SIDE:
        raise DataError(
            f"{film.path} is {height} x {width} pixels (height x width); expected sides of {LEAST_SIDE} or more."
        )
    check_pixels(film.path, height, width)
    count = sum(1 for _ in progress(film.frames(SIDE), f"checking {film.path.name}"))
    given = {} if hints is None else _given(film, hints, count)
    points = list[Points]()
    if given:
        scale = SIDE / max(height, width, SIDE)
        places = {number: ((each[:, [1, 0]] + 0.5) * scale - 0.5).astype(np.float32) for number, each in given.items()}
        points = followed(progress(_grays(film), f"following hints in {film.path.name}", count), places)
    make = FilmSamples(Reader(film, count), side, view, points, given)
    return Samples([name] * count, make, groups=[range(count)])


@dataclass(frozen=True)
class FilmSamples:
    """Makes the samples of `film_samples`.

    Attributes:
        read: Reads frames.
        side: Side of the squares in pixels.
        view: Side of another square.
        points: Where hints are in each frame; empty without any.
        given: The hints of the frames that have some, by number.
    """

    read: Reader
    side: int
    view: int | None
    points: list[Points]
    given: dict[int, Hints]

    def __call__(self, index: int) -> dict[str, Any]:
        source, frame = self.read(index)
        hints = self._hints(index, source.shape[0], source.shape[1])
        return {**squares(source, self.side, self.view), "source": source, "problem": "", "hints": hints,
                "frame": frame}  # fmt: skip

    def _hints(self, index: int, height: int, width: int) -> Hints:
        if not self.points or not len(self.points[index].rows):
            return np.zeros((0, 5), np.int64)
        places, rows = self.points[index]
        scale = SIDE / max(height, width, SIDE)
        full = ((places[:, ::-1] + 0.5) / scale - 0.5).round().clip(0, (height - 1, width - 1))
        colors = np.stack([self.given[number][row, 2:] for number, row in rows])
        return np.column_stack([full, colors]).astype(np.int64)


def _given(film: Film, hints: Path, count: int) -> dict[int, Hints]:
    """Returns the hints of the frames that have some, by number."""
    names = frame_names(film, count)
    found = find_hints(hints, film.path, names, film.size)
    return {number: found.read(name) for number, name in enumerate(names) if name in found}


def _grays(film: Film) -> Iterator[NDArray[np.uint8]]:
    for picture, *_ in film.frames(SIDE):
        yield np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), np.uint8)
