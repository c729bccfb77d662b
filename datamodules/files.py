"""Reading pictures, masks and tables: every path that a user gives comes through here."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

if TYPE_CHECKING:
    import pandas as pd

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp")
SHOWN = 20  # errors listed in one message
TURNED = (5, 6, 7, 8)  # EXIF orientations that exchange height and width
BAND = 1024  # rows

Image.MAX_IMAGE_PIXELS = 1 << 30  # aerial pictures are larger than what Pillow takes for an attack


class DataError(ValueError):
    """The user's data are not as wanted; the message says what came, what was wanted and what to do.

    Attributes:
        problems: What is wrong, a sentence each, of which the message may show the first few only.
    """

    def __init__(self, message: str, problems: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.problems = list(problems) or [message]


def listed(problems: Sequence[str], shown: int = SHOWN) -> str:
    """Problems as one text, a line each, the first few when there are many."""
    lines = [f"  - {problem}" for problem in problems[:shown]]
    if len(problems) > shown:
        lines.append(f"  … and {len(problems) - shown} more; `belvedere describe` lists all of them")
    return "\n".join(lines)


def refuse(problems: Sequence[str], what: str, shown: int = SHOWN) -> None:
    """Raises one DataError for all problems, if there are any; its message shows the first few."""
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise DataError(f"{count} in {what}:\n{listed(problems, shown)}", problems)


def collected(checks: Iterable[Callable[[], object]]) -> list[str]:
    """The problems of all checks that raise a DataError, each once."""
    found: list[str] = []
    for check in checks:
        try:
            check()
        except DataError as error:
            found += error.problems
    return list(dict.fromkeys(found))


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


def read_table(path: Path, columns: Iterable[str]) -> "pd.DataFrame":
    """A CSV file as text columns, empty cells as ''; its index is the number of the line, the header's being 1.

    Line ends of any system, blank lines and a byte-order mark are accepted.

    Raises:
        DataError: The file is missing, is no CSV, has rows of more cells than the header, or lacks a column.
    """
    import pandas as pd

    if not path.is_file():
        raise DataError(f"There is no file {path}.")
    wanted = list(columns)
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, skip_blank_lines=False, encoding="utf-8-sig")
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise DataError(f"{path} could not be read as a CSV file with the columns {wanted}: {error}") from error
    if not isinstance(table.index, pd.RangeIndex):  # pandas takes the cells without a header for an index
        raise DataError(f"{path} has rows of more cells than its header {','.join(table.columns)!r} has. Remove them.")
    missing = [column for column in wanted if column not in table.columns]
    if missing:
        raise DataError(
            f"{path} has the columns {list(table.columns)}; {missing[0]!r} is missing. The header {','.join(wanted)!r} "
            "was wanted."
        )
    table.index += 2
    return table[(table != "").any(axis=1)]


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
