"""Reads and resizes images."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from datamodules.read.rasters import COLOR, Channels, read_raster
from ops.errors import DataError
from ops.files.images import check_pixels, opened
from ops.geo.rasters import opened_raster
from ops.profiles import profile_of, to_srgb
from ops.windows import Size

if TYPE_CHECKING:
    from torch import Tensor

TURNED = (5, 6, 7, 8)  # EXIF orientations that swap height and width
TURNS = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
         5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
         8: Image.Transpose.ROTATE_90}  # fmt: skip
BAND = 1024  # rows
BACKGROUND = 1200  # pixels of the longer side of the background of overlays
THUMBNAIL = 320  # pixels of the longer side of images on contact sheets
LEAST_SIDE = 32  # pixels of an image that can be colorized
READERS = 3
"""Version of everything that decodes images and masks, part of the key of every cached array. Add 1 whenever a file
would be decoded to other pixels, so that nothing is used that an earlier version has cached."""
Image.MAX_IMAGE_PIXELS = 1 << 30  # aerial images exceed the limit of Pillow


def picture_size(path: Path, channels: Channels = COLOR) -> Size:
    """Returns the height and width in pixels after EXIF rotation, from the header of the file.

    Args:
        path: Any image file.
        channels: How rasters are read.

    Raises:
        DataError: The file is not an image.
    """
    if channels.reads(path):
        with opened_raster(path) as dataset:
            return dataset.height, dataset.width
    with opened(path) as picture:
        width, height = picture.size
        turned = orientation(picture) in TURNED and picture.format != "TIFF"  # Pillow has already rotated its size
        return (width, height) if turned else (height, width)


def read_picture(path: Path, at_least: Size | None = None, channels: Channels = COLOR) -> NDArray[np.uint8]:
    """Reads an image as (H, W, C): sRGB, rotated as its EXIF orientation says, or the bands of a raster.

    Args:
        path: Any image file; gray and palette images become RGB, an alpha channel is dropped, and colors are converted
            from an embedded ICC profile.
        at_least: Height and width that suffice: a JPEG is then decoded at 1/2, 1/4 or 1/8 of its size, which is
            several times faster, but no smaller than this; so is a raster, at any halving.
        channels: How rasters are read.

    Raises:
        DataError: The file is missing, truncated, not an image, has more than 8 bits per channel and no scale, or lacks
            a band.
    """
    if channels.reads(path):
        return read_raster(path, channels, at_least)[..., :-1]
    channels.check(path)
    with opened_upright(path, at_least) as upright:
        pixels = np.empty((upright.height, upright.width, 3), np.uint8)
        for top in range(0, upright.height, BAND):  # all at once, Pillow would hold the pixels three times
            band = upright.crop((0, top, upright.width, min(top + BAND, upright.height)))
            pixels[top : top + BAND] = np.asarray(band)
        return pixels


def refuse_depth(path: Path, picture: Image.Image) -> None:
    """Raises a DataError for an image with more than 8 bits per channel."""
    if picture.mode.startswith(("I", "F")) or any(";16" in str(part) for part in getattr(picture, "tile", ())):
        raise DataError(
            f"{path} has the mode {picture.mode!r} with more than 8 bits per channel; expected an 8-bit image. Convert "
            "it first."
        )


def orientation(picture: Image.Image) -> int:
    """Returns the EXIF orientation, 1 if there is none from 1 to 8 or the EXIF is broken."""
    if picture.format == "PNG" and not {"exif", "Raw profile type exif"} & picture.info.keys():
        if not {"xmp", "XML:com.adobe.xmp"} & picture.info.keys():
            return 1  # Pillow would decode the whole image to look for one at its end
        file = vars(picture).get("fp")
        check_pixels(Path(getattr(file, "name", "")), picture.height, picture.width)
        picture.load()
    try:
        found = picture.getexif().get(0x0112)
    except MemoryError:
        raise
    except Exception:  # broken EXIF makes the parser raise anything
        return 1
    return next((number for number in range(2, 9) if found == number), 1)  # it may have any type


@contextmanager
def opened_upright(path: Path, at_least: Size | None = None) -> Iterator[Image.Image]:
    """Opens an image file as sRGB of 8 bits, rotated as its EXIF orientation says; see `read_picture`."""
    with opened(path) as picture:
        refuse_depth(path, picture)
        if at_least is not None:
            picture.draft("RGB", at_least if orientation(picture) in TURNED else (at_least[1], at_least[0]))
        check_pixels(path, picture.height, picture.width)  # of a JPEG those of the reduced one
        picture.load()  # Pillow turns a TIFF by itself
        # Pillow's own function also rewrites the EXIF, and fails if it is broken
        turn = TURNS.get(orientation(picture))
        upright = picture if turn is None else picture.transpose(turn)
        yield to_srgb(upright, profile_of(picture), path)


def channels_first(picture: NDArray[np.uint8]) -> "Tensor":
    """Returns an image (H, W, C) as a tensor (C, H, W)."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)))


def resized(picture: NDArray[Any], size: Size) -> NDArray[Any]:
    """Resizes an image (H, W, C): area means if it shrinks, bilinear if it grows."""
    if picture.shape[:2] == tuple(size):
        return picture
    shrinks = size[0] * size[1] < picture.shape[0] * picture.shape[1]
    result: NDArray[Any] = cv2.resize(
        picture, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    )
    return result.reshape(*size, picture.shape[2])  # OpenCV drops a single channel


def resized_mask(mask: NDArray[np.bool_], size: Size) -> NDArray[np.bool_]:
    """Resizes a mask (H, W): true where it covers at least half of a new pixel."""
    return np.asarray(resized(mask.astype(np.uint8)[..., None] * 255, size)[..., 0] >= 128)


def touched(mask: NDArray[np.bool_], size: Size) -> NDArray[np.bool_]:
    """Resizes a mask (H, W): true where it covers any part of a new pixel."""
    return np.asarray(resized(mask.astype(np.float32)[..., None], size)[..., 0] > 0)


def fitted(size: Size, side: int) -> Size:
    """Returns height and width scaled down so that the longer one is at most `side`."""
    scale = min(1, side / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def checked_size(path: Path) -> Size:
    """Returns the height and width of an image that can be colorized, from the header of the file.

    Raises:
        DataError: It is not an image, has a side of less than 32 pixels, or too many pixels.
    """
    height, width = picture_size(path)
    if min(height, width) < LEAST_SIDE:
        raise DataError(
            f"{path} is {height} x {width} pixels (height x width); expected sides of {LEAST_SIDE} or more. Remove it."
        )
    check_pixels(path, height, width)
    return height, width


def squared(picture: NDArray[np.uint8], side: int, squeeze: bool = False) -> NDArray[np.uint8]:
    """Makes a square (side, side, 3) of an image (H, W, 3): area means if it shrinks, bilinear if it grows.

    Args:
        picture: Image as `read_picture` reads it.
        side: Side of the square in pixels.
        squeeze: Whether to squeeze the whole image into the square; otherwise its central square is taken.
    """
    height, width = picture.shape[:2]
    if not squeeze:
        shorter = min(height, width)
        top, left = (height - shorter) // 2, (width - shorter) // 2
        picture = picture[top : top + shorter, left : left + shorter]
    return resized(picture, (side, side))
