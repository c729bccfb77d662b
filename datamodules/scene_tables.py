"""Tables that say more of photographs: the boxes of a detector, and the conditions they were taken under."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from datamodules.decoded import Size
from datamodules.files import read_table, refuse

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
