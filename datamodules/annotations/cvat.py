"""Reads CVAT's XML, in the format "CVAT for images 1.1"."""

from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from datamodules.annotations.files import tree
from datamodules.annotations.labels import Labeled, Labels, Shape, box_ring, ellipse_ring, ring, rotated, split_of
from datamodules.read.tables import read_text
from ops.errors import DataError

AREAS = ("polygon", "box", "mask", "ellipse")
EXPORT = 'Export the task again as "CVAT for images 1.1".'


def read_cvat(source: Path) -> Labels:
    """Reads an `annotations.xml` of CVAT, or every XML file below a folder.

    Raises:
        DataError: There is none.
    """
    labels = Labels()
    for path in tree(source, ".xml"):
        try:
            text = read_text(path)
            if "<!DOCTYPE" in text:
                raise DataError("it declares a document type, which CVAT never does.")
            document = ElementTree.fromstring(text)
        except (DataError, ElementTree.ParseError) as error:
            labels.reject(path, "file", f"it cannot be read: {str(error).rstrip('.')}. {EXPORT}")
            continue
        if document.tag != "annotations":
            labels.reject(path, "file", f"its root is {document.tag!r}; expected 'annotations'. {EXPORT}")
            continue
        if document.find("track") is not None:
            labels.reject(path, "file", f"it has tracks, which only videos have. {EXPORT}")
        for image in document.iter("image"):
            name, sides = image.get("name", ""), (image.get("height", ""), image.get("width", ""))
            size = (int(sides[0]), int(sides[1])) if all(side.isdecimal() for side in sides) else None
            drawn = []
            for number, element in enumerate(image, start=1):
                if element.tag == "tag":
                    continue
                place = f"{name}, shape {number} ({element.get('label')})"
                try:
                    drawn.append((int(element.get("z_order", "0")), _shape(element)))
                except (ValueError, TypeError) as error:
                    labels.reject(path, place, f"{str(error).rstrip('.')}.")
            shapes = [shape for _, shape in sorted(drawn, key=lambda each: each[0])]
            labels.images.append(Labeled(path, name, size, shapes, split_of(image.get("subset", ""))))
    if not labels.images and not labels.rejected:
        raise DataError(f"There are no images of CVAT in {source}. {EXPORT}")
    return labels


def _shape(element: ElementTree.Element) -> Shape:
    """Returns a shape of an image.

    Raises:
        ValueError: It has no label or no area, or its numbers cannot be read.
    """
    label = element.get("label", "").strip()
    if not label:
        raise ValueError("it has no label")
    if element.tag not in AREAS:
        raise ValueError(f"it is a {element.tag}, which has no area; draw a polygon")
    degrees = float(element.get("rotation", "0"))
    if element.tag == "polygon":
        return Shape(label, [[ring([pair.split(",") for pair in element.get("points", "").split(";") if pair])]])
    if element.tag == "ellipse":
        center, radii = _numbers(element, "cx", "cy"), _numbers(element, "rx", "ry")
        return Shape(label, [[ellipse_ring(center, radii, degrees)]])
    if element.tag == "box":
        left, top, right, bottom = _numbers(element, "xtl", "ytl", "xbr", "ybr")
        outline = rotated(box_ring(left, top, right, bottom), degrees, ((left + right) / 2, (top + bottom) / 2))
        return Shape(label, [[outline]], kind="box")
    left, top, width, height = map(int, _numbers(element, "left", "top", "width", "height"))
    lengths = [int(length) for length in element.get("rle", "").split(",")]
    if min(lengths) < 0 or sum(lengths) != width * height:
        raise ValueError(f"its run lengths add up to {sum(lengths)}; its box has {width * height} pixels")
    inside = np.arange(len(lengths)) % 2 == 1
    return Shape(label, pixels=np.repeat(inside, lengths).reshape(height, width), corner=(top, left))


def _numbers(element: ElementTree.Element, *names: str) -> list[float]:
    """Returns attributes of an element as numbers.

    Raises:
        ValueError: One is missing or not finite.
    """
    numbers = [float(element.get(name, "nan")) for name in names]
    if not np.isfinite(numbers).all():
        raise ValueError(f"its {', '.join(names)} are not numbers")
    return numbers
