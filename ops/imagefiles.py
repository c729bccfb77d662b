"""Opens image files, which may come from anywhere."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, PngImagePlugin

from ops.errors import DataError, UserError

# Pillow's names of what is read. Pillow knows more, and some start programs: it has Ghostscript draw EPS.
FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP", "GIF", "PPM", "JPEG2000", "AVIF")
# Bytes of all texts and profiles in a PNG, unpacked. Pillow allows 1 MB each, which editing histories exceed.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = 1 << 26


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """Opens an image file; errors while reading it become a DataError that names it.

    The content decides which of `FORMATS` it is, not the suffix. This is the only place that opens image files.
    """
    if path.exists() and not path.is_file():  # opening a pipe would wait for a writer
        raise DataError(f"{path} is {'a folder' if path.is_dir() else 'a pipe or device'}; expected an image file.")
    try:
        # By name, Pillow would map gray TIFFs into memory, and garble those that it turns by 90 degrees.
        with path.open("rb") as file, Image.open(file, formats=FORMATS) as picture:
            yield picture
    except (UserError, MemoryError):
        raise
    except Exception as error:  # broken files make decoders raise anything
        raise DataError(unreadable(path, error)) from error


def unreadable(path: Path, error: Exception) -> str:
    """Returns what is wrong with a file that could not be read as an image."""
    if not path.exists():
        return f"There is no file {path}."
    if path.stat().st_size == 0:
        return f"{path} is empty (0 bytes); expected an image. Download it again or remove it."
    return f"{path} is truncated or not an image ({error}). Download it again or remove it."
