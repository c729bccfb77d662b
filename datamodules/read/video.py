"""Reads films frame by frame: video files, by FFmpeg's libraries, and folders with an image for each frame."""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from datamodules.batch import Frame
from datamodules.read.names import located, stem, tree_names
from datamodules.read.pictures import fitted, picture_size, read_picture, resized
from ops.errors import DataError
from ops.files.images import FILMS
from ops.files.videos import opened_film
from ops.windows import Size

if TYPE_CHECKING:
    import av

Rgb: TypeAlias = NDArray[np.uint8]


class Film(ABC):
    """Frames that show one thing after the other.

    Attributes:
        path: The video file, or the folder of frames.
        size: Height and width.
    """

    path: Path
    size: Size

    @abstractmethod
    def frames(self, side: int | None = None) -> Iterator[tuple[Rgb, str, int]]:
        """Yields the pixels (H, W, 3), name and time of each frame, see `Frame`, from the first.

        Args:
            side: Most pixels of the longer side; None does not reduce them.

        Raises:
            DataError: A frame cannot be read, or has another size.
        """


class VideoFile(Film):
    """A video file, turned as a player turns it.

    Args:
        path: The file.

    Raises:
        DataError: It cannot be read, or has no video.
        MissingPackageError: The package av is not installed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with opened_film(path) as container:
            for frame in _decoded(path, container):
                turned = _upright(np.empty((frame.height, frame.width), np.bool_), frame)
                self.size = turned.shape[0], turned.shape[1]
                return
        raise DataError(f"{path} has no frame that can be decoded. Download it again or remove it.")

    def frames(self, side: int | None = None) -> Iterator[tuple[Rgb, str, int]]:
        height, width = self.size if side is None else fitted(self.size, side)
        with opened_film(self.path) as container:
            for number, frame in enumerate(_decoded(self.path, container)):
                size = (width, height) if not frame.rotation % 180 else (height, width)
                pixels = frame.reformat(*size, format="rgb24").to_ndarray()
                yield _upright(pixels, frame), "", number if frame.pts is None else frame.pts


class FrameFolder(Film):
    """A folder with an image for each frame, in the order of the numbers in their names.

    Args:
        path: The folder.

    Raises:
        DataError: It has no images, or the first is not an image.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.names = sorted(tree_names(path), key=_natural)
        self.size = picture_size(located(path, self.names[0]))

    def frames(self, side: int | None = None) -> Iterator[tuple[Rgb, str, int]]:
        for number, name in enumerate(self.names):
            file = located(self.path, name)
            found = picture_size(file)
            if found != self.size:
                raise DataError(
                    f"{file} is {found[0]} x {found[1]} pixels (height x width), the first frame {self.size[0]} x "
                    f"{self.size[1]}. The frames of a film have one size; without --data.frames, images may differ."
                )
            small = None if side is None else fitted(self.size, side)
            picture = read_picture(file, at_least=small)
            yield picture if small is None else resized(picture, small), name, number


class Reader:
    """Returns frames by number; in order, each is decoded once.

    Args:
        film: The film.
        count: How many frames it has.
    """

    def __init__(self, film: Film, count: int) -> None:
        self.film, self.count = film, count
        self._next, self._frames = 0, iter(())  # type: tuple[int, Iterator[tuple[Rgb, str, int]]]

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_next": 0, "_frames": iter(())}

    def __call__(self, number: int) -> tuple[Rgb, Frame]:
        """Returns the pixels (H, W, 3) of a frame, and what is known of it."""
        if number != self._next or number == 0:
            self._frames = islice(self.film.frames(), number, None)
        try:
            picture, name, time = next(self._frames)
        except StopIteration as error:
            raise DataError(f"{self.film.path} ends at frame {number} of {self.count}; it has changed.") from error
        self._next = number + 1
        return picture, Frame(self.film.path, number, self.count, name, time)


def find_film(path: Path | None, frames: bool) -> Film | None:
    """Returns the film that a path is; None if it is images.

    Args:
        path: A file or folder.
        frames: Whether a folder holds the frames of a film.

    Raises:
        DataError: The film cannot be read.
        MissingPackageError: It is a video file, and the package av is not installed.
    """
    if path is not None and path.suffix.lower() in FILMS and path.is_file():
        return VideoFile(path)
    if frames:
        if path is None or not path.is_dir():
            raise DataError(f"--data.frames needs a folder of frames in --data.pictures, got {path}.")
        return FrameFolder(path)
    return None


def frame_names(film: Film, count: int) -> list[str]:
    """Returns the names that hints know frames by: of a folder the images', of `film.mp4` `film/0`, `film/1` and so on.

    Args:
        film: The film.
        count: How many frames it has.
    """
    if isinstance(film, FrameFolder):
        return film.names
    return [f"{stem(film.path.name)}/{number}" for number in range(count)]


def _decoded(path: Path, container: "av.container.InputContainer") -> "Iterator[av.VideoFrame]":
    """Yields the frames of a file.

    Raises:
        DataError: One is damaged.
    """
    import av

    number = 0
    try:
        for frame in container.decode(video=0):
            number += 1  # counted for the message
            yield frame
    except av.error.FFmpegError as error:
        raise DataError(
            f"{path} is damaged after frame {number}: {error.strerror}. Cut off the rest, or convert it again."
        ) from error


def _upright(pixels: NDArray[Any], frame: "av.VideoFrame") -> NDArray[Any]:
    """Returns pixels as a player turns them."""
    return np.ascontiguousarray(np.rot90(pixels, frame.rotation // 90))


def _natural(name: str) -> list[tuple[int, str]]:
    """Returns the key that sorts frame_2 before frame_10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]+)", name)]
