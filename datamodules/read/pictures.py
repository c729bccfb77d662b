"""Reading pictures, masks and tables: every path that a user gives comes through here."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from ops.errors import DataError

if TYPE_CHECKING:
    import albumentations

Size = tuple[int, int]


def channels_first(picture: NDArray[np.uint8]) -> torch.Tensor:
    """A picture (H, W, C) as a tensor (C, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)))


PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp")
TURNED = (5, 6, 7, 8)  # EXIF orientations that exchange height and width
BAND = 1024  # rows
Image.MAX_IMAGE_PIXELS = 1 << 30  # aerial pictures are larger than what Pillow takes for an attack


def picture_files(path: Path) -> list[Path]:
    """The pictures of a folder, sorted by name, or the one picture that `path` is.

    Raises:
        DataError: There is nothing there or no picture among it.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError(f"There is no folder or file {path}. Give the path of pictures ({' '.join(PICTURE_SUFFIXES)}).")
    files = sorted(
        file for file in path.iterdir()
        if file.suffix.lower() in PICTURE_SUFFIXES and not file.name.startswith(".")  # macOS: ._picture.jpg
    )  # fmt: skip
    if not files:
        raise DataError(f"{path} holds no pictures; files ending in {' '.join(PICTURE_SUFFIXES)} were looked for.")
    return files


def same_stems(files: Iterable[Path]) -> list[str]:
    """What is wrong with pictures that differ in folder or ending only: what is written of them has one name."""
    return [
        f"{count} pictures are called {stem}.*; their masks would overwrite each other. Rename all but one."
        for stem, count in Counter(file.stem for file in files).items()
        if count > 1
    ]


def picture_size(path: Path) -> tuple[int, int]:
    """Height and width in pixels, from the file's header, as the picture is looked at.

    Raises:
        DataError: The file is not a picture.
    """
    with opened(path) as picture:
        width, height = picture.size
        turned = orientation(picture) in TURNED and picture.format != "TIFF"  # whose size Pillow has turned already
        return (width, height) if turned else (height, width)


def read_picture(path: Path, at_least: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """A picture as (H, W, 3) sRGB, turned as its EXIF orientation says.

    Args:
        path: Any picture file; grey and palette pictures become RGB, an alpha channel is dropped.
        at_least: Height and width that suffice: a JPEG is then decoded at 1/2, 1/4 or 1/8 of its size, which is
            several times faster, but no smaller than this.

    Raises:
        DataError: The file is missing, truncated, not a picture, or has more than 8 bits a channel.
    """
    with opened(path) as picture:
        refuse_depth(path, picture)
        if at_least is not None:
            picture.draft("RGB", at_least if orientation(picture) in TURNED else (at_least[1], at_least[0]))
        upright = picture if orientation(picture) == 1 else ImageOps.exif_transpose(picture)
        upright = upright if upright.mode == "RGB" else upright.convert("RGB")
        pixels = np.empty((upright.height, upright.width, 3), np.uint8)
        for top in range(0, upright.height, BAND):  # at once, Pillow would hold them three times
            band = upright.crop((0, top, upright.width, min(top + BAND, upright.height)))
            pixels[top : top + BAND] = np.asarray(band)
        return pixels


def read_mask(path: Path, least: int = 128) -> NDArray[np.bool_]:
    """A mask picture as (H, W): true from `least` on, or above 0 where it holds 0 and one other value.

    Palettes and colours are taken for the greys that they look like.

    Args:
        path: Any picture file.
        least: The lowest grey of 0 to 255 that belongs to the mask; of 16 bits, 256 times that.

    Raises:
        DataError: The file is missing, truncated or not a picture, or its values are neither 0 and one other, nor
            dark and bright with a rim of greys.
    """
    with opened(path) as picture:
        values = _greys(path, picture)
    if values.dtype == np.bool_:
        return values
    levels, counts = _levels(values)
    high = int(levels[-1])
    if len(levels) <= 2 and levels[0] in (0, high):
        return values > 0
    lowest = least if high <= 255 else 256 * least
    between = (levels > 0.15 * high) & (levels < 0.85 * high)
    flat = between.sum() <= 16 and counts[between].sum() > 0.5 * counts[levels > 0].sum()  # a rim has many greys
    if high < lowest or flat:
        raise DataError(
            f"{path} has {len(levels)} values from {levels[0]} to {high}; 0 and 255, or 0 and one other value, were "
            "wanted. Write one mask file a class."
        )
    return values >= lowest


def _greys(path: Path, picture: Image.Image) -> NDArray[Any]:
    """The values (H, W) of a mask picture.

    Raises:
        DataError: It has more than two colours, or shows something by transparency alone.
    """
    if picture.mode in ("1", "L", "I;16", "I"):
        return np.asarray(picture)
    colours = np.asarray(picture.convert("RGB"))
    greys = np.asarray(picture.convert("RGB").convert("L"))
    if "A" in picture.getbands() and greys.min() == greys.max() and len(set(picture.getchannel("A").getextrema())) > 1:
        raise DataError(f"{path} is of one colour, and drawn by transparency; a mask of 0 and 255 was wanted.")
    coloured = (colours.max(axis=2) - colours.min(axis=2)) > 40
    if coloured.mean() > 0.01 and len(_levels(greys)[0]) > 2:
        raise DataError(f"{path} has several colours; 0 and 255 were wanted. Write one mask file a class.")
    return greys


def _levels(values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """The values that occur, in rising order, and how often each does."""
    if values.dtype != np.uint8:
        levels, counts = np.unique(values, return_counts=True)
        return levels, counts
    counts = np.bincount(values.ravel(), minlength=256)
    levels = np.flatnonzero(counts)
    return levels, counts[levels]


def refuse_depth(path: Path, picture: Image.Image) -> None:
    """Raises a DataError for a picture of more than 8 bits a channel."""
    if picture.mode.startswith(("I", "F")) or any(";16" in str(part) for part in getattr(picture, "tile", ())):
        raise DataError(
            f"{path} has the mode {picture.mode!r}, more than 8 bits a channel; 8-bit pictures were wanted. "
            "Scale it to 8 bits first."
        )


def orientation(picture: Image.Image) -> int:
    """The EXIF orientation, 1 where there is none."""
    if (
        picture.format == "PNG"
        and not {"exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"} & picture.info.keys()
    ):
        return 1  # Pillow would decode the whole picture to look for one behind it
    return int(picture.getexif().get(0x0112, 1))


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """The picture file; what reading it raises becomes a DataError that names it."""
    try:
        with Image.open(path) as picture:
            yield picture
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # broken PNG chunks raise SyntaxError
        raise DataError(unreadable(path, error)) from error


def unreadable(path: Path, error: Exception) -> str:
    """What is wrong with a file that could not be read as a picture."""
    if not path.exists():
        return f"There is no file {path}."
    if path.stat().st_size == 0:
        return f"{path} is empty (0 bytes); a picture was wanted. Fetch it again or remove it."
    return f"{path} is truncated or not a picture ({error}). Fetch it again or remove it."


@cache
def _resize(height: int, width: int, interpolation: int) -> "albumentations.Resize":
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # its import asks the network for a newer version
    import albumentations

    return albumentations.Resize(height, width, interpolation=interpolation, p=1)


def resized(picture: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """A picture (H, W, C) at another height and width: area means when it shrinks, bilinear when it grows."""
    import cv2

    if picture.shape[:2] == tuple(size):
        return picture
    shrinks = size[0] * size[1] < picture.shape[0] * picture.shape[1]
    transform = _resize(*size, cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    result: NDArray[np.uint8] = transform(image=picture)["image"]
    return result


def read_image(path: Path, size: tuple[int, int]) -> Tensor:
    """A picture file as a task takes it from Python: (1, 3, H, W) float32 in [0, 1], of this height and width.

    Raises:
        DataError: The file is missing or not a picture.
    """
    picture = resized(read_picture(path, at_least=size), size)
    return torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)))[None].float() / 255


def resized_mask(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    """A mask (H, W) at another height and width: true where at least half of a new pixel's area was."""
    return resized(mask.astype(np.uint8)[..., None] * 255, size).reshape(size) >= 128
