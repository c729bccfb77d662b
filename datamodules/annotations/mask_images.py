"""Reads masks with several classes in one image: the palette of PASCAL VOC, gray numbers, or CVAT's colors."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from datamodules.annotations.labels import Labeled, Labels, Shape, split_of
from datamodules.read.names import located, tree_names
from datamodules.read.tables import read_lines
from ops.errors import DataError
from ops.files.images import check_pixels, opened

LISTS = ("class_names.txt", "classes.txt", "labels.txt", "labelmap.txt")
BACKGROUND, VOID = "_background_", "__ignore__"
NO_CLASS = 255  # of VOC: the rim of objects, and what labelme ignores
MANY = 64  # values of a mask; more are a photograph or soft edges
Value: TypeAlias = int | tuple[int, int, int]


def read_masks(source: Path) -> Labels:
    """Reads a folder of masks whose pixels have the number or the color of their class.

    `class_names.txt` or `labels.txt` lists the classes, a line each, the first one 0; CVAT's `labelmap.txt` gives their
    colors. It lies in the folder or above it. Without one, classes are called by their numbers, and 0 is the
    background. The number 255 counts nowhere in palette images and where classes are listed, as in VOC.

    Raises:
        DataError: There are no masks.
    """
    names, listed = _class_names(source)
    labels = Labels()
    for name in tree_names(source, report=False):
        path = located(source, name)
        try:
            values, palette = _values(path)
            found = np.unique(values.reshape(-1, 3), axis=0) if values.ndim == 3 else np.unique(values)
            if len(found) > MANY:
                raise DataError(f"it has {len(found)} values; expected a mask with the numbers or colors of classes.")
        except DataError as error:
            labels.reject(path, "file", str(error))
            continue
        shapes = []
        for each in found.tolist():
            value: Value = (each[0], each[1], each[2]) if isinstance(each, list) else int(each)
            label = names.get(value)
            if label is None and value == NO_CLASS and (palette or listed is not None):
                label = VOID
            if label is None and listed is not None and value not in (0, (0, 0, 0)):
                labels.reject(path, f"value {value}", f"{listed.name} has no class for it.")
                continue
            label = label or (BACKGROUND if value in (0, (0, 0, 0)) else str(value))
            pixels = (values == np.asarray(value)).all(axis=2) if values.ndim == 3 else values == value
            shapes.append(Shape(label, pixels=pixels))
        height, width = values.shape[:2]
        labels.images.append(Labeled(path, name, (height, width), shapes, split_of(name)))
    return labels


def _class_names(source: Path) -> tuple[Mapping[Value, str], Path | None]:
    """Returns the classes by number or color, and the file that lists them.

    Raises:
        DataError: A line of CVAT's file has no color.
    """
    for folder in (source, source.parent):
        for path in (folder / name for name in LISTS):
            if not path.is_file():
                continue
            lines = [line.strip() for _, line in read_lines(path) if not line.startswith("#")]
            if path.name != "labelmap.txt":
                return dict(enumerate(line for line in lines if line != VOID)), path
            colors: dict[Value, str] = {}
            for line in lines:  # name:r,g,b:parts:actions
                name, _, rest = line.partition(":")
                try:
                    red, green, blue = (int(part) for part in rest.split(":")[0].split(","))
                except ValueError as error:
                    raise DataError(
                        f"{path} has the line {line!r}; expected name:red,green,blue:parts:actions."
                    ) from error
                colors[red, green, blue] = BACKGROUND if name == "background" else name
            return colors, path
    return {}, None


def _values(path: Path) -> tuple[NDArray[Any], bool]:
    """Returns the numbers (H, W) of a mask, or its colors (H, W, 3), and whether it has a palette.

    Raises:
        DataError: It cannot be read.
    """
    with opened(path) as picture:
        check_pixels(path, picture.height, picture.width)
        if picture.mode in ("RGB", "RGBA"):
            return np.asarray(picture.convert("RGB")), False
        if picture.mode not in ("P", "L", "I;16", "I"):
            return np.asarray(picture.convert("L")), False
        return np.asarray(picture).astype(np.int32), picture.mode == "P"
