"""Reads the boxes of a detector and marks the pixels inside them."""

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from datamodules.read.tables import Table, no_image
from ops.windows import Size

if TYPE_CHECKING:
    from torch import Tensor

CORNERS = ["x0", "y0", "x1", "y1"]
Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in pixels of the image. With integers, x0 to x1 - 1 and y0 to y1 - 1 lie inside."""


def read_boxes(
    path: Path, sizes: Mapping[str, Size], levels: int, known: Collection[str] | None = None, folder: Path | None = None
) -> dict[str, list[Box]]:
    """Reads boxes by image name from a table `image,x0,y0,x1,y1`, one row per box; none if there is no table.

    Args:
        path: The table.
        sizes: Height and width of images by name; rows of other images are skipped.
        levels: How often the sides of the images are halved.
        known: Names that rows may have; None allows any.
        folder: Folder of the images, for messages; by default `images` beside the table.

    Raises:
        DataError: A box is not four numbers, reaches outside its image or contains no pixel, or a name is not in
            `known`; all problems are listed.
    """
    if not path.is_file():
        return {}
    boxes: dict[str, list[Box]] = {}
    table = Table(path, ["image", *CORNERS])
    if known is not None:
        table.known("image", known, no_image(folder or path.parent / "images"))
    table.rows = table.rows[table.rows["image"].isin(set(sizes))]
    rows = table.rows[["image", *CORNERS]].itertuples()
    for (row, name, *cells), corners in zip(rows, table.numbers(CORNERS), strict=True):
        if np.isnan(corners).any():
            continue
        x0, y0, x1, y1 = box = (*corners.tolist(),)
        height, width = sizes[name]
        where = f"the box {','.join(cells)} of {name!r}"
        if not (x0 >= 0 and y0 >= 0 and x1 <= width and y1 <= height):
            table.add(row, f"{where} reaches outside the image, {height} x {width} pixels (height x width). Clip it.")
        elif any(side.start >= side.stop for side in _sides(box, levels)):
            level = f" at pyramid level {levels}" if levels else ""
            table.add(row, f"{where} is empty{level}; expected x0 < x1 and y0 < y1. Correct or remove it.")
        else:
            boxes.setdefault(name, []).append(box)
    table.check()
    return boxes


def boxes_beside(images: Path) -> Path:
    """Returns the path of `boxes.csv` for images to predict: in their folder, or beside a folder named `images`."""
    folder = images if images.is_dir() else images.parent
    inner = folder / "boxes.csv"
    return folder.parent / "boxes.csv" if folder.name == "images" and not inner.is_file() else inner


def inside(boxes: Sequence[Box], size: Sequence[int], levels: int) -> "Tensor":
    """Returns which pixels lie inside a box at a pyramid level of an image, bool (1, h, w).

    Args:
        boxes: Boxes of the image.
        size: Height and width at the level.
        levels: How often the sides of the image were halved: pixel k lies at pixel k · 2^levels of the image.
    """
    import torch

    valid = torch.zeros(1, *size, dtype=torch.bool)
    for box in boxes:
        rows, columns = _sides(box, levels)
        valid[:, rows, columns] = True
    return valid


def _sides(box: Box, levels: int) -> tuple[slice, slice]:
    """Returns the rows and columns inside a box at a level."""
    left, top, right, bottom = (math.ceil(corner / 2**levels) for corner in box)
    return slice(top, bottom), slice(left, right)
