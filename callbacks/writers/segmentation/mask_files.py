"""Writes gray images and masks, and resizes masks, whose rows arrive a few at a time."""

import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import cv2
import numpy as np
from numpy.typing import NDArray

from ops.atomic import replacing

Mask = NDArray[np.bool_]
Gray = NDArray[np.uint8]


@contextmanager
def mask_file(path: Path, size: tuple[int, int]) -> Iterator[Callable[[Mask], None]]:
    """Yields a function that appends rows (n, W) to a PNG of 0 and 255, see `gray_file`."""
    with gray_file(path, size) as append:
        yield lambda band: append(band.view(np.uint8) * np.uint8(255))


@contextmanager
def gray_file(path: Path, size: tuple[int, int]) -> Iterator[Callable[[Gray], None]]:
    """Yields a function that appends rows (n, W) to a PNG, which appears once it is complete.

    Pillow and OpenCV write only whole images. See "Portable Network Graphics Specification", 3rd edition, W3C 2025.

    Args:
        path: The PNG file.
        size: Height and width of the image.

    Raises:
        ValueError: Too many or too few rows, or rows of another width.
    """
    rows, packer = 0, zlib.compressobj()

    def append(band: Gray) -> None:
        nonlocal rows
        rows += len(band)
        if band.shape[1] != size[1] or rows > size[0]:
            raise ValueError(
                f"expected an image of {size}, got {rows} rows of {band.shape[1]} pixels; give each row once"
            )
        lines = np.zeros((len(band), 1 + size[1]), np.uint8)  # a line starts with its filter's number, 0 for none
        lines[:, 1:] = band
        if data := packer.compress(lines.data):
            _chunk(file, b"IDAT", data)

    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        # 8 bits of gray, deflated, one filter per line, not interlaced
        _chunk(file, b"IHDR", struct.pack(">IIBBBBB", size[1], size[0], 8, 0, 0, 0, 0))
        yield append
        if rows != size[0]:
            raise ValueError(f"expected an image of {size}, got {rows} rows; give each row once")
        _chunk(file, b"IDAT", packer.flush())
        _chunk(file, b"IEND", b"")


def _chunk(file: IO[bytes], kind: bytes, data: bytes) -> None:
    file.write(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)))


class ReducedMask:
    """Resizes a mask by nearest neighbor, like `drawing.pictures.scaled_masks`, as its rows arrive.

    Args:
        size: Height and width of the mask.
        reduced: Height and width of the result.

    Attributes:
        mask: The result (h, w), complete after the last row.
        present: Whether any pixel so far is marked, sampled or not.
    """

    def __init__(self, size: tuple[int, int], reduced: tuple[int, int]) -> None:
        self.rows, self.columns = (_nearest(*lengths) for lengths in zip(size, reduced, strict=True))
        self.mask = np.zeros(reduced, np.bool_)
        self.top, self.present = 0, False

    def add(self, band: Mask) -> None:
        """Adds the next rows (n, W)."""
        first, last = np.searchsorted(self.rows, [self.top, self.top + len(band)])
        self.mask[first:last] = band[self.rows[first:last] - self.top][:, self.columns]
        self.present = self.present or bool(band.any())
        self.top += len(band)


def _nearest(length: int, reduced: int) -> NDArray[np.int32]:
    """Returns the pixels that OpenCV samples along a side."""
    side = np.arange(length, dtype=np.int32)[None]
    taken: NDArray[np.int32] = cv2.resize(side, (reduced, 1), interpolation=cv2.INTER_NEAREST_EXACT)[0]
    return taken
