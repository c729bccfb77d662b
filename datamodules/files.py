"""Reading pictures, masks and tables: every path that a user gives comes through here."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

if TYPE_CHECKING:
    import pandas as pd

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp")
SHOWN = 20  # errors listed in one message


class DataError(ValueError):
    """The user's data are not as wanted; the message says what came, what was wanted and what to do."""


def listed(problems: Sequence[str]) -> str:
    """Problems as one text, a line each, the first few when there are many."""
    lines = [f"  - {problem}" for problem in problems[:SHOWN]]
    if len(problems) > SHOWN:
        lines.append(f"  … and {len(problems) - SHOWN} more")
    return "\n".join(lines)


def refuse(problems: Sequence[str], what: str) -> None:
    """Raises one DataError for all problems, if there are any."""
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise DataError(f"{count} in {what}:\n{listed(problems)}")


def picture_files(path: Path) -> list[Path]:
    """The pictures of a folder, sorted by name, or the one picture that `path` is.

    Raises:
        DataError: There is nothing there or no picture among it.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError(f"There is no folder or file {path}. Give the path of pictures ({' '.join(PICTURE_SUFFIXES)}).")
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in PICTURE_SUFFIXES)
    if not files:
        raise DataError(f"{path} holds no pictures; files ending in {' '.join(PICTURE_SUFFIXES)} were looked for.")
    return files


def picture_size(path: Path) -> tuple[int, int]:
    """Height and width in pixels, from the file's header, as the picture is looked at.

    Raises:
        DataError: The file is not a picture.
    """
    try:
        with Image.open(path) as picture:
            width, height = picture.size
            turned = picture.getexif().get(0x0112, 1) >= 5  # orientations 5 to 8 exchange the sides
    except (UnidentifiedImageError, OSError) as error:
        raise DataError(_unreadable(path, error)) from error
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
    try:
        with Image.open(path) as picture:
            if picture.mode.startswith(("I", "F")):
                raise DataError(
                    f"{path} has the mode {picture.mode!r}, more than 8 bits a channel; 8-bit pictures were wanted. "
                    "Scale it to 8 bits first."
                )
            if at_least is not None:
                picture.draft("RGB", (at_least[1], at_least[0]))
            upright = ImageOps.exif_transpose(picture)
            return np.asarray(upright.convert("RGB"))
    except (UnidentifiedImageError, OSError, SyntaxError) as error:  # broken PNG chunks raise SyntaxError
        raise DataError(_unreadable(path, error)) from error


def read_mask(path: Path) -> NDArray[np.bool_]:
    """A mask picture as (H, W): true above half of its range (0/1 files above 0).

    Raises:
        DataError: The file is missing, truncated or not a picture.
    """
    try:
        with Image.open(path) as picture:
            values = np.asarray(picture if picture.mode in ("1", "L", "I;16", "I", "P") else picture.convert("L"))
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise DataError(_unreadable(path, error)) from error
    if values.dtype == np.bool_:
        return values
    high = int(values.max(initial=0))
    return values > (0 if high <= 1 else 127 if high <= 255 else 32767)


def read_table(path: Path, columns: Iterable[str]) -> "pd.DataFrame":
    """A CSV file as text columns, empty cells as ''; line ends of any system and a byte-order mark are accepted.

    Raises:
        DataError: The file is missing, is no CSV, or lacks a column.
    """
    import pandas as pd

    if not path.is_file():
        raise DataError(f"There is no file {path}.")
    wanted = list(columns)
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise DataError(f"{path} could not be read as a CSV file with the columns {wanted}: {error}") from error
    missing = [column for column in wanted if column not in table.columns]
    if missing:
        raise DataError(
            f"{path} has the columns {list(table.columns)}; {missing[0]!r} is missing. The header {','.join(wanted)!r} "
            "was wanted."
        )
    return table


def _unreadable(path: Path, error: Exception) -> str:
    if not path.exists():
        return f"There is no file {path}."
    if path.stat().st_size == 0:
        return f"{path} is empty (0 bytes); a picture was wanted. Fetch it again or remove it."
    return f"{path} is truncated or not a picture ({error}). Fetch it again or remove it."
