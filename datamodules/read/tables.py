"""Tables that say more of photographs: the boxes of a detector, and the conditions they were taken under."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from datamodules.read.pictures import Size
from ops.errors import DataError, refuse

if TYPE_CHECKING:
    import pandas as pd

CORNERS = ["x0", "y0", "x1", "y1"]
Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in pixels of the picture; of whole ones, x0 to x1 - 1 and y0 to y1 - 1 lie inside."""


def read_boxes(path: Path, sizes: Mapping[str, Size], levels: int) -> dict[str, list[Box]]:
    """The boxes of pictures by name, from a table `image,x0,y0,x1,y1` with a row a box; none where there is no table.

    Args:
        path: The table. Rows of other pictures are passed over.
        sizes: Height and width of the pictures, by name.
        levels: How often the sides of the pictures are halved.

    Raises:
        DataError: A box is not four numbers, reaches outside its picture, or holds no pixel; all are listed.
    """
    boxes: dict[str, list[Box]] = {}
    problems = []
    if not path.is_file():
        return boxes
    for row, name, *cells in read_table(path, ["image", *CORNERS])[["image", *CORNERS]].itertuples():
        if name not in sizes:
            continue
        where = f"{path}, row {row}: the box {','.join(cells)} of {name!r}"
        try:
            x0, y0, x1, y1 = box = _box(cells)
        except ValueError:
            problems.append(f"{where} is not four numbers; x0,y0,x1,y1 in pixels were wanted.")
            continue
        height, width = sizes[name]
        if not (x0 >= 0 and y0 >= 0 and x1 <= width and y1 <= height):
            problems.append(
                f"{where} reaches outside the picture, {height} x {width} pixels (height x width). Clip it."
            )
        elif any(side.start >= side.stop for side in _sides(box, levels)):
            level = f" at pyramid level {levels}" if levels else ""
            problems.append(f"{where} is empty{level}; x0 < x1 and y0 < y1 were wanted. Correct or remove it.")
        else:
            boxes.setdefault(name, []).append(box)
    refuse(problems, str(path))
    return boxes


def read_conditions(path: Path, names: Sequence[str]) -> dict[str, str]:
    """The conditions of pictures by name, from a table `image,condition`; none where there is no table.

    Args:
        path: The table.
        names: Of the pictures that are there.

    Raises:
        DataError: It names a picture that is not there, or one twice; all are listed.
    """
    if not path.is_file():
        return {}
    table = read_table(path, ["image", "condition"])
    again = table["image"][table["image"].duplicated()]
    problems = [f"{path}, row {row}: {name!r} has a row already. Remove one of them." for row, name in again.items()]
    refuse(strangers(path, names) + problems, str(path))
    return dict(zip(table["image"], table["condition"], strict=True))


def boxes_beside(pictures: Path) -> Path:
    """Where the boxes of pictures to predict would lie: in their folder, or beside it where it is called `images`."""
    folder = pictures if pictures.is_dir() else pictures.parent
    inner = folder / "boxes.csv"
    return folder.parent / "boxes.csv" if folder.name == "images" and not inner.is_file() else inner


def strangers(path: Path, names: Sequence[str], folder: Path | None = None) -> list[str]:
    """Which rows of a table with the column `image` are of pictures that are not there, a sentence each.

    Args:
        path: The table.
        names: Of the pictures that are there.
        folder: Where they lie; `images` beside the table by default.

    Raises:
        DataError: The table cannot be read.
    """
    if not path.is_file():
        return []
    table, known = read_table(path, ["image"]), set(names)
    unknown = table["image"][~table["image"].isin(known)]
    return [f"{path}, row {row}: there is no picture {name!r} in {folder or path.parent / 'images'}. Remove the row."
            for row, name in unknown.items()]  # fmt: skip


def inside(boxes: Sequence[Box], size: Sequence[int], levels: int) -> Tensor:
    """Which pixels at a level of a picture's pyramid lie inside a box, bool (1, h, w).

    Args:
        boxes: Of the picture.
        size: Height and width at the level.
        levels: How often the sides of the picture were halved: pixel k lies at pixel k · 2^levels of it.
    """
    valid = torch.zeros(1, *size, dtype=torch.bool)
    for box in boxes:
        rows, columns = _sides(box, levels)
        valid[:, rows, columns] = True
    return valid


def _box(cells: Sequence[str]) -> Box:
    x0, y0, x1, y1 = (float(cell) for cell in cells)
    return x0, y0, x1, y1


def _sides(box: Box, levels: int) -> tuple[slice, slice]:
    """Rows and columns inside a box at a level."""
    left, top, right, bottom = (math.ceil(corner / 2**levels) for corner in box)
    return slice(top, bottom), slice(left, right)


@dataclass(frozen=True)
class Work:
    """What a table says of a picture; what it does not say is ""."""

    artist: str = ""
    title: str = ""
    year: str = ""


def read_works(path: Path, names: Sequence[str]) -> dict[str, Work]:
    """What a table `image,artist,title,year` says of pictures, by name; nothing where there is no table.

    Args:
        path: The table. `title` and `year` may be missing, other columns are passed over.
        names: Of all pictures that are there.

    Raises:
        DataError: It names a picture that is not there, or one twice; all are listed.
    """
    if not path.is_file():
        return {}
    table, known = read_table(path, ["image", "artist"]), set(names)
    for column in ("title", "year"):
        if column not in table:
            table[column] = ""
    again = table["image"][table["image"].duplicated()]
    unknown = table["image"][~table["image"].isin(known)]
    refuse(
        [f"{path}, row {row}: there is no picture {name!r} in {path.parent / 'images'}. Give its path from there, or "
         "remove the row." for row, name in unknown.items()]
        + [f"{path}, row {row}: {name!r} has a row already. Remove one of them." for row, name in again.items()],
        str(path),
    )  # fmt: skip
    columns = (table[column] for column in ("artist", "title", "year"))
    return dict(zip(table["image"], map(Work, *columns), strict=True))


def groups(names: Sequence[str], works: Mapping[str, Work]) -> dict[str, str]:
    """What each picture is split by: its artist, in small letters and with single spaces, or its own name."""
    artists = {name: " ".join(works.get(name, Work()).artist.split()).casefold() for name in names}
    return {name: f"artist {artist}" if artist else f"picture {name}" for name, artist in artists.items()}


def draw_by_group(group_of: Mapping[str, str], shares: Mapping[str, float], seed: int) -> dict[str, list[str]]:
    """Names of pictures drawn group by group: none is in two splits.

    Groups are taken in an order that the seed decides, each that does not exceed the number of pictures that is wanted;
    then the smallest of the others, where that brings the number nearer or there is none yet.

    Args:
        group_of: The group of each picture.
        shares: Of all pictures, by split; what they leave is `train`. At least one group is drawn for a share above 0.
        seed: Of the order.

    Raises:
        DataError: There are fewer groups than splits.
    """
    members: dict[str, list[str]] = {}
    for name in sorted(group_of):
        members.setdefault(group_of[name], []).append(name)
    ordered = sorted(members)
    waiting = [ordered[index] for index in np.random.default_rng(seed).permutation(len(ordered))]
    drawn = [split for split, share in shares.items() if share > 0]
    if len(ordered) <= len(drawn):
        raise DataError(
            f"All {len(group_of)} pictures are of {len(ordered)} artists, and splits are made by artist: "
            f"{len(drawn) + 1} or more were wanted, for train, {', '.join(drawn)}. Give pictures of more artists, or a "
            "splits.csv with the columns name,split."
        )
    splits: dict[str, list[str]] = {split: [] for split in shares}
    for position, split in enumerate(drawn):
        part, wanted = splits[split], max(1, round(shares[split] * len(group_of)))
        others = len(drawn) - position  # groups that the remaining splits need at least
        for group in list(waiting):
            if len(members[group]) <= wanted - len(part) and len(waiting) > others:
                waiting.remove(group)
                part += members[group]
        smallest = min(waiting, key=lambda group: len(members[group]))
        if not part or (len(members[smallest]) < 2 * (wanted - len(part)) and len(waiting) > others):
            waiting.remove(smallest)
            part += members[smallest]
    splits["train"] = [name for group in waiting for name in members[group]]
    return {split: sorted(part) for split, part in splits.items()}


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
