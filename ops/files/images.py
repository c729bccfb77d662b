"""Opens image files, which may come from anywhere."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin, TiffImagePlugin, UnidentifiedImageError, features

from ops.errors import DataError, UserError

# Pillow's names of what is read. Pillow knows more, and some start programs: it has Ghostscript draw EPS.
FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP", "GIF", "PPM", "JPEG2000", "AVIF")
# Suffixes by which images are found in folders; a single file may have any.
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".ppm", ".pgm", ".pbm",
            ".pnm")  # fmt: skip
# Those that Pillow reads only if it was built with a library.
OPTIONAL = {"avif": (".avif",), "jpg_2000": (".jp2", ".j2k", ".jpf", ".jpx")}
HEIC = (".heic", ".heif")  # what phones take; the package pillow-heif reads them
FILMS = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".wmv", ".mts", ".m2ts", ".3gp", ".ogv",
         ".flv", ".vob")  # fmt: skip
# Why files of other formats are skipped, by suffix.
CANNOT = dict.fromkeys(FILMS, "colorization takes one film: --data.pictures FILE") | dict.fromkeys(
    HEIC, "install pillow-heif, or convert them to JPEG or PNG") | dict.fromkeys(
    [*OPTIONAL["avif"], *OPTIONAL["jpg_2000"], ".jxl", ".psd", ".eps", ".svg", ".pdf", ".tga", ".exr", ".hdr", ".dng",
     ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".ico", ".npy"],
    "cannot be read; convert them to JPEG or PNG")  # fmt: skip
MAX_PIXELS = 1 << 28  # default limit: .8 GB as RGB
_limit = [MAX_PIXELS]
# Bytes of all texts and profiles in a PNG, unpacked. Pillow allows 1 MB each, which editing histories exceed.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = 1 << 26


@cache
def formats() -> tuple[str, ...]:
    """Returns Pillow's names of the formats that can be read here."""
    if find_spec("pillow_heif") is None:
        return FORMATS
    import_module("pillow_heif").register_heif_opener()
    return *FORMATS, "HEIF"


@cache
def suffixes() -> tuple[str, ...]:
    """Returns the suffixes by which images are found in folders, in lower case."""
    built = [suffix for library, several in OPTIONAL.items() if features.check(library) for suffix in several]
    return *SUFFIXES, *built, *(HEIC if "HEIF" in formats() else ())


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """Opens an image file; errors while reading it become a DataError that names it.

    The content decides which of `formats` it is, not the suffix. This is the only place that opens image files.
    """
    try:
        if path.exists() and not path.is_file():  # opening a pipe would wait for a writer
            raise DataError(f"{path} is {'a folder' if path.is_dir() else 'a pipe or device'}; expected an image file.")
        # By name, Pillow would map gray TIFFs into memory, and garble those that it turns by 90 degrees.
        with path.open("rb") as file, Image.open(file, formats=formats()) as picture:
            yield picture
    except (UserError, MemoryError):
        raise
    except Exception as error:  # broken files make decoders raise anything
        raise DataError(unreadable(path, error)) from error


def limit_pixels(count: int) -> None:
    """Sets how many pixels an image may have that is decoded as a whole, in this process and those forked from it."""
    _limit[0] = count


def check_pixels(path: Path, height: int, width: int) -> None:
    """Rejects an image that is too large to be decoded as a whole: small files may unpack to any size.

    Raises:
        DataError: It has more pixels than the limit.
    """
    if height * width > _limit[0]:
        raise DataError(
            f"{path} is {height} x {width} pixels (height x width), {height * width:,} in all; expected at most "
            f"{_limit[0]:,}. Reduce or remove it, or raise --data.max_pixels if memory suffices (about 6 bytes each)."
        )


def unreadable(path: Path, error: Exception) -> str:
    """Returns what is wrong with a file that could not be read as an image."""
    if isinstance(error, OSError) and error.errno not in (None, errno.ENOENT):
        return f"{path} cannot be read: {error.strerror}."
    if not path.exists():
        return f"There is no file {path}."
    if path.stat().st_size == 0:
        return f"{path} is empty (0 bytes); expected an image. Download it again or remove it."
    if isinstance(error, UnidentifiedImageError) and (found := _tiff_bands(path)):
        return (
            f"{path} is a TIFF with {found}, which cannot be read; expected one gray band, or red, green and "
            "blue, of 8 bits (masks: up to 32). Convert it first."
        )
    if path.suffix.lower() in FILMS:
        return f"{path} is a film; expected an image. Of the tasks, colorization alone takes films."
    reason = "its format is unknown" if isinstance(error, UnidentifiedImageError) else error
    return f"{path} is truncated or not an image ({reason}). Download it again or remove it."


def _tiff_bands(path: Path) -> str:
    """Returns the bands of a TIFF as text; empty for other files and broken headers."""
    kinds = {1: "unsigned integers", 2: "integers", 3: "floating-point numbers", 6: "complex numbers"}
    tags = tiff_tags(path)
    if not {279, 325} & tags.keys():  # where a truncated directory has ended
        return ""
    try:
        bands, bits, kind = int(tags.get(277, 1)), tags.get(258, (1,)), tags.get(339, (1,))
        return f"{bands} {'band' if bands == 1 else 'bands'} of {bits[0]}-bit {kinds.get(kind[0], 'values')}"
    except (TypeError, ValueError, LookupError):  # tags of the wrong type
        return ""


def tiff_tags(path: Path) -> dict[int, Any]:
    """Returns the tags of a TIFF's first image; none for other files and broken headers."""
    try:
        with path.open("rb") as file:
            head = file.read(8)
            directory = TiffImagePlugin.ImageFileDirectory_v2(head if head[2:4] != b"+\0" else head + file.read(8))
            file.seek(directory.next)
            directory.load(file)
        return {tag: directory.get(tag) for tag in directory}
    except MemoryError:
        raise
    except Exception:  # broken headers make the parser raise anything
        return {}
