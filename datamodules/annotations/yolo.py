"""Reads YOLO's text files: a line per object, in shares of the image's width and height."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.annotations.files import tree
from datamodules.annotations.labels import Labeled, Labels, Shape, box_ring, ring, split_of
from datamodules.read.names import located, tree_names
from datamodules.read.pictures import picture_size
from datamodules.read.tables import read_lines, read_text
from ops.errors import DataError
from ops.files.yamls import read_yaml
from ops.windows import Size

OUTSIDE = 0.01  # share of a side that points may lie beyond the image


def read_yolo(source: Path) -> Labels:
    """Reads the folder of a YOLO dataset: `images/` and `labels/`, or each text file beside its image.

    Class names come from a `data.yaml`, `classes.txt` or `obj.names`; without one they are the numbers. An image
    without a text file has no objects. Folders named after a split, such as `images/train`, give it to their images.

    Raises:
        DataError: There are no images or no text files.
    """
    names, listed = _class_names(source)
    labels, texts = Labels(), 0
    for name in tree_names(source, report=False):
        image = located(source, name)
        path = _text_of(image, source)
        texts += path.is_file()
        try:
            size = picture_size(image)
            shapes = list(_shapes(path, size, names, labels)) if path.is_file() else []
        except DataError as error:
            labels.reject(path if path.is_file() else image, "file", str(error))
            continue
        labels.images.append(Labeled(path, name, size, shapes, split_of(name)))
    if not texts:
        raise DataError(f"{source} has images, but no text file of YOLO belongs to them; expected labels/<stem>.txt.")
    used = {shape.label for image in labels.images for shape in image.shapes}
    if listed is None and used:
        labels.reject(source, "class names", f"there is no data.yaml or classes.txt; the classes are {sorted(used)}.")
    return labels


def _class_names(source: Path) -> tuple[Mapping[int, str], Path | None]:
    """Returns the names of classes by number, and the file that lists them.

    Raises:
        DataError: A `data.yaml` names something else than numbers.
    """
    for path in [*tree(source, ".yaml"), *tree(source, ".yml")]:
        document: Any = read_yaml(read_text(path), path)
        found = document.get("names") if isinstance(document, dict) else None
        if isinstance(found, list):
            return dict(enumerate(map(str, found))), path
        if isinstance(found, dict):
            if not all(isinstance(number, int) for number in found):
                raise DataError(f"{path} has names for {list(found)[:5]}; expected a list, or names by number.")
            return {number: str(name) for number, name in found.items()}, path
    for path in [*tree(source, ".names"), *(each for each in tree(source, ".txt") if each.name == "classes.txt")]:
        return dict(enumerate(line.strip() for _, line in read_lines(path))), path
    return {}, None


def _text_of(image: Path, source: Path) -> Path:
    """Returns the text file of an image: in the folder `labels` in place of `images`, otherwise beside it."""
    parts = list(image.relative_to(source).with_suffix(".txt").parts)
    places = [k for k, part in enumerate(parts[:-1]) if part == "images"]
    if places:
        parts[places[-1]] = "labels"
    elif source.name == "images" and (source.parent / "labels").is_dir():
        return Path(source.parent, "labels", *parts)
    return Path(source, *parts)


def _shapes(path: Path, size: Size, names: Mapping[int, str], labels: Labels) -> Iterator[Shape]:
    for number, line in read_lines(path):
        try:
            first, *numbers = line.split()
            label = names.get(int(first), first) if not names else names[int(first)]
            shares = np.array(numbers, np.float64)
            if not np.isfinite(shares).all() or shares.size < 4 or (shares.size > 4 and shares.size % 2):
                raise ValueError(f"it has {shares.size} numbers; expected a box of 4 or a polygon of 6, 8, …")
            if (shares < -OUTSIDE).any() or (shares > 1 + OUTSIDE).any():
                raise ValueError("it has numbers outside [0, 1]; expected shares of the image")
            scale = np.array([size[1], size[0]])
            if shares.size == 4:
                center, sides = shares[:2] * scale, shares[2:] * scale
                yield Shape(label, [[box_ring(*(center - sides / 2), *(center + sides / 2))]], kind="box")
            else:
                yield Shape(label, [[ring(np.clip(shares, 0, 1).reshape(-1, 2) * scale)]])
        except KeyError:
            labels.reject(path, f"line {number}", f"there is no name of the class {first}.")
        except ValueError as error:
            labels.reject(path, f"line {number}", f"{str(error).rstrip('.')}.")
