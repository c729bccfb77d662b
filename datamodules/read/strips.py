"""Reads images a few rows at a time, so that memory holds a strip of them, whatever their height."""

import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryFile

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from datamodules.read.pictures import orientation, read_picture, refuse_depth
from datamodules.read.rasters import COLOR, Channels, raster_bands, shown
from ops.errors import DataError
from ops.extras import installed
from ops.files.images import opened, unreadable
from ops.profiles import profile_of, to_srgb
from ops.windows import Size

Rows = NDArray[np.uint8]  # (n, W, 3), of rasters (n, W, C + 1)
BAND = 1 << 19  # pixels decoded at a time
# Formats and color modes, in Pillow's names, that libvips decodes to the same values as Pillow.
STREAMED = {"JPEG": {"L", "RGB", "CMYK"}, "MPO": {"RGB"}, "PNG": {"1", "L", "LA", "P", "RGB", "RGBA"},
            "TIFF": {"1", "L", "LA", "P", "RGB", "RGBA", "CMYK"}, "WEBP": {"RGB", "RGBA"}}  # fmt: skip
# What EXIF orientations do to an image: transpose, then flip upside down, then mirror.
FLIPS = {2: (False, False, True), 3: (False, True, True), 4: (False, True, False), 5: (True, False, False),
         6: (True, False, True), 7: (True, True, True), 8: (True, True, False)}  # fmt: skip


class Strip:
    """Strip of rows that moves down an image as it is read, and builds a reduced view of the image on the way.

    Args:
        path: Any image file that `read_picture` reads; the pixels are the same.
        size: Height and width of the image after EXIF rotation.
        height: Rows of the strip; all rows of a lower image.
        view: Height and width of the view, no larger than the image.
        channels: How rasters are read: with one channel more, 255 where there are data.
        first: Row that the strip moves to first; rows of rasters above it are not read, and the view lacks them.

    Attributes:
        size: Height and width of the image.
        top: Row of the image in which the strip begins.
        masked: Whether the image is a raster, whose last channel says where there are data.
    """

    def __init__(
        self, path: Path, size: Size, height: int, view: Size, channels: Channels = COLOR, first: int = 0
    ) -> None:
        self.size, self.masked = size, channels.reads(path)
        if not self.masked:
            channels.check(path)
        self.bands = raster_bands(path, channels, first) if self.masked else picture_bands(path)
        self.reduction = Reduction(size, view)
        self.top, self.filled = (first if self.masked else 0), 0
        depth = channels.count + 1 if self.masked else 3
        self.strip = np.empty((min(height, size[0]), size[1], depth), np.uint8)
        self.rest = self.strip[:0]  # rows read that do not fit into the strip yet

    def move(self, top: int) -> Rows:
        """Returns the rows (n, W, 3 or C + 1) of the strip from row `top` on, valid until the next move.

        Raises:
            ValueError: `top` lies above the strip, so that the image would have to be read again.
            DataError: The image cannot be read that far.
        """
        if top < self.top:
            raise ValueError(f"row {top} lies above the strip, which begins at row {self.top}; a strip only moves down")
        count = top - self.top
        kept = max(0, self.filled - count)
        for row in range(0, kept, count) if count else ():  # in place: a second strip would double the memory
            end = min(row + count, kept)
            self.strip[row:end] = self.strip[row + count : end + count]
        passed = count - (self.filled - kept)
        while passed:
            passed -= len(self._next(passed))
        self.top, self.filled = top, kept
        while self.filled < len(self.strip):
            rows = self._next(len(self.strip) - self.filled)
            self.strip[self.filled : self.filled + len(rows)] = rows
            self.filled += len(rows)
        return self.strip

    def view(self) -> NDArray[np.uint8]:
        """Returns the view (h, w, 3) by area means, once the strip has reached the end of the image."""
        return self.reduction.result()

    def _next(self, most: int) -> Rows:
        """Returns the next rows of the image, at most this many."""
        if not len(self.rest):
            self.rest = next(self.bands)
            self.reduction.add(shown(self.rest[..., :-1] if self.masked else self.rest))
        rows, self.rest = self.rest[:most], self.rest[most:]
        return rows


class Reduction:
    """Reduces an image by area means, fed with its rows from the top.

    Args:
        size: Height and width of the image.
        reduced: Height and width of the result, no larger.
    """

    def __init__(self, size: Size, reduced: Size) -> None:
        self.scale = size[0] / reduced[0]
        self.sums = np.zeros((*reduced, 3), np.float32)
        self.row = 0

    def add(self, rows: Rows) -> None:
        """Adds the next rows (n, W, 3)."""
        height, width = self.sums.shape[:2]
        narrow = cv2.resize(rows.astype(np.float32), (width, len(rows)), interpolation=cv2.INTER_AREA)
        first = int(self.row / self.scale)
        last = min(height, int((self.row + len(rows)) / self.scale) + 1)
        starts, tops = self.row + np.arange(len(rows)), self.scale * np.arange(first, last)[:, None]
        # Share of each input row in each output row.
        shares = np.minimum(starts + 1, tops + self.scale) - np.maximum(starts, tops)
        weights = shares.clip(0).astype(np.float32)
        self.sums[first:last] += (weights @ narrow.reshape(len(rows), -1)).reshape(-1, width, 3)
        self.row += len(rows)

    def result(self) -> NDArray[np.uint8]:
        """Returns the reduced image (h, w, 3)."""
        means: NDArray[np.uint8] = np.rint(self.sums / np.float32(self.scale)).astype(np.uint8)
        return means


def picture_bands(path: Path) -> Iterator[Rows]:
    """Yields the rows of an image from the top, some (n, W, 3) at a time, with the same values as `read_picture`.

    libvips decodes them on demand. Its decoders also hold all coefficients of progressive JPEGs (3 to 6 bytes per
    pixel), and whole images of interlaced PNG and of WebP. An image that EXIF rotates goes through a temporary file, 3
    bytes per pixel. What libvips does not decode like Pillow (BMP, rare color modes) is read whole, and so is
    everything where libvips is not installed.

    Raises:
        DataError: The file is missing, truncated, not an image, or has more than 8 bits per channel; rows above the
            broken place may have been yielded before.
    """
    with opened(path) as picture:
        refuse_depth(path, picture)
        turn, mode, profile = orientation(picture), picture.mode, profile_of(picture)
        premultiplied = any("RGBa" in str(part) for part in getattr(picture, "tile", ()))  # Pillow divides by alpha
        streamed = mode in STREAMED.get(picture.format or "", ()) and not premultiplied and installed("pyvips")
    if not streamed:
        whole = read_picture(path)
        yield from (whole[top:bottom] for top, bottom in _bands(*whole.shape[:2]))
    elif turn in FLIPS:
        yield from _turned(_decoded(path, mode, profile), *FLIPS[turn])
    else:
        yield from _decoded(path, mode, profile)


def _bands(height: int, width: int) -> Iterator[tuple[int, int]]:
    """Yields the first row of each band and the row after its last."""
    count = max(1, BAND // width)
    return ((top, min(top + count, height)) for top in range(0, height, count))


def _decoded(path: Path, mode: str, profile: bytes | None) -> Iterator[Rows]:
    """Yields the rows as they are stored."""
    import pyvips

    pyvips.block_untrusted_set(True)  # loaders for other formats, some of which start programs
    pyvips.cache_set_max(0)  # libvips would keep the decoders of the last hundred images
    try:
        source = pyvips.Source.new_from_file(os.fsencode(path))  # not a name, whose end libvips may read as options
        image = pyvips.Image.new_from_source(source, "", access="sequential", fail_on="error")
        # A region is computed by the calling thread; the threads of libvips are missing in a forked loader worker.
        region = pyvips.Region.new(image)
        for top, bottom in _bands(image.height, image.width):
            values = np.frombuffer(region.fetch(0, top, image.width, bottom - top), np.uint8)
            yield _rgb(values.reshape(bottom - top, image.width, image.bands), mode, profile, path)
    except pyvips.Error as error:
        raise DataError(unreadable(path, error)) from error


def _rgb(values: NDArray[np.uint8], mode: str, profile: bytes | None, path: Path) -> Rows:
    """Converts values (n, W, C) of a color mode and an ICC profile to sRGB without alpha, by Pillow's formulas."""
    if mode != "CMYK":
        values = values[..., :3] if values.shape[2] >= 3 else values[..., :1]
        if values.shape[2] == 1 and (profile is None or mode not in ("L", "LA")):
            values = values.repeat(3, axis=2)
        if profile is None:
            return values
    kind = {1: "L", 3: "RGB", 4: "CMYK"}[values.shape[2]]
    picture = Image.frombuffer(kind, values.shape[1::-1], np.ascontiguousarray(values))
    return np.asarray(to_srgb(picture, profile, path))


def _turned(bands: Iterator[Rows], transposed: bool, upside_down: bool, mirrored: bool) -> Iterator[Rows]:
    """Yields the rows of a rotated image, after all of its bands were written to a file."""
    with TemporaryFile() as file:
        # Height, width and offset in the file of each band, transposed or not.
        blocks: list[tuple[int, int, int]] = []
        for band in bands:
            block = np.ascontiguousarray(band.transpose(1, 0, 2) if transposed else band)
            blocks.append((*block.shape[:2], file.tell()))
            file.write(block.data)
        height = blocks[0][0] if transposed else sum(block[0] for block in blocks)
        width = sum(block[1] for block in blocks) if transposed else blocks[0][1]
        for top, bottom in _bands(height, width):
            first, last = (height - bottom, height - top) if upside_down else (top, bottom)
            rows = np.empty((last - first, width, 3), np.uint8)
            if transposed:
                left = 0
                for _, columns, start in blocks:
                    file.seek(start + first * columns * 3)
                    part = np.frombuffer(file.read((last - first) * columns * 3), np.uint8)
                    rows[:, left : left + columns] = part.reshape(-1, columns, 3)
                    left += columns
            else:
                file.seek(first * width * 3)  # the bands are stored in the order of the rows
                file.readinto(rows.data)
            rows = rows[::-1] if upside_down else rows
            yield rows[:, ::-1] if mirrored else rows
