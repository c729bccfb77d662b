"""Opens image files, which may come from anywhere."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, PngImagePlugin, TiffImagePlugin, UnidentifiedImageError

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
    if isinstance(error, UnidentifiedImageError) and (found := _tiff_bands(path)):
        return (
            f"{path} is a TIFF with {found}, which cannot be read; expected one gray band, or red, green and "
            "blue, of 8 bits (masks: up to 32). Convert it first."
        )
    return f"{path} is truncated or not an image ({error}). Download it again or remove it."


def _tiff_bands(path: Path) -> str:
    """Returns the bands of a TIFF as text; empty for other files and broken headers."""
    kinds = {1: "unsigned integers", 2: "integers", 3: "floating-point numbers", 6: "complex numbers"}
    try:
        with path.open("rb") as file:
            head = file.read(8)
            directory = TiffImagePlugin.ImageFileDirectory_v2(head if head[2:4] != b"+\0" else head + file.read(8))
            file.seek(directory.next)
            directory.load(file)
        if not {279, 325} & set(directory):  # where a truncated directory has ended
            return ""
        bands, bits, kind = int(directory.get(277, 1)), directory.get(258, (1,)), directory.get(339, (1,))
        return f"{bands} {'band' if bands == 1 else 'bands'} of {bits[0]}-bit {kinds.get(kind[0], 'values')}"
    except MemoryError:
        raise
    except Exception:  # broken headers make the parser raise anything
        return ""
