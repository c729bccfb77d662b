"""Reads COCO annotations: polygons and run lengths, mixed in one file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.annotations.files import read_json, tree
from datamodules.annotations.labels import Labeled, Labels, Shape, box_ring, ring, size_of, split_of
from ops.errors import DataError
from ops.windows import Size

NEEDED = ("images", "annotations", "categories")


def read_coco(source: Path) -> Labels:
    """Reads a COCO file, or every one below a folder.

    Files and folders named after a split, such as `instances_train2017.json`, give their images that split.

    Raises:
        DataError: There is none.
    """
    labels, found = Labels(), False
    for path in tree(source, ".json"):
        try:
            document = read_json(path)
        except DataError as error:
            labels.reject(path, "file", str(error))
            continue
        lacking = [key for key in NEEDED if not isinstance(document, dict) or not isinstance(document.get(key), list)]
        if lacking:
            labels.reject(path, "file", f"it has no list {lacking[0]!r}; expected the lists {', '.join(NEEDED)}.")
            continue
        found = True
        inside = path.relative_to(source).as_posix() if source.is_dir() else path.name
        _read(path, document, split_of(inside), labels)
    if not found:
        reasons = "".join(f"\n  - {each.file}: {each.reason}" for each in labels.rejected[:10])
        raise DataError(
            f"There is no COCO file in {source}; expected JSON with the lists {', '.join(NEEDED)}.{reasons}"
        )
    return labels


def _read(path: Path, document: dict[str, Any], split: str | None, labels: Labels) -> None:
    categories = {each.get("id"): str(each.get("name")) for each in document["categories"] if isinstance(each, dict)}
    shapes: dict[Any, list[Shape]] = {}
    images: dict[Any, tuple[str, Size | None]] = {}
    for image in document["images"]:
        if not isinstance(image, dict) or not image.get("file_name"):
            labels.reject(path, f"image {image}"[:80], "it has no file_name.")
            continue
        name, key = str(image["file_name"]), image.get("id")
        if key in images:
            labels.reject(path, f"image {name}", f"{images[key][0]} has the same id, {key}; it gets their annotations.")
        elif name in (each for each, _ in images.values()):
            labels.reject(path, f"image {name}", "it is listed twice; only the first one counts.")
        else:
            shapes[key], images[key] = [], (name, size_of(image.get("height"), image.get("width")))
    for annotation in document["annotations"]:
        place = f"annotation {annotation.get('id')}" if isinstance(annotation, dict) else "annotation"
        try:
            if not isinstance(annotation, dict):
                raise ValueError("it is not an object")
            if annotation.get("image_id") not in shapes:
                raise ValueError(f"there is no image with the id {annotation.get('image_id')}")
            if annotation.get("category_id") not in categories:
                raise ValueError(f"there is no category with the id {annotation.get('category_id')}")
            image_id = annotation["image_id"]
            shapes[image_id].append(_shape(annotation, categories[annotation["category_id"]], images[image_id][1]))
        except (ValueError, TypeError) as error:
            labels.reject(path, place, f"{error}.")
    labels.images += [Labeled(path, name, size, shapes[key], split) for key, (name, size) in images.items()]


def _shape(annotation: dict[str, Any], label: str, size: Size | None) -> Shape:
    """Returns the shape of an annotation.

    Raises:
        ValueError: It has no area, or cannot be read.
    """
    outline = annotation.get("segmentation")
    if isinstance(outline, dict):
        shape = outline.get("size")
        if not isinstance(shape, list) or len(shape) != 2 or (size is not None and tuple(shape) != size):
            raise ValueError(f"its run lengths are of an image of {shape}; the image is {size} (height, width)")
        return Shape(label, pixels=decoded_runs(outline.get("counts"), (int(shape[0]), int(shape[1]))))
    if outline:
        flat = [outline] if isinstance(outline, list) and not isinstance(outline[0], list) else outline
        return Shape(label, [[ring(part)] for part in flat])
    box = annotation.get("bbox")
    if not isinstance(box, list) or len(box) != 4:
        raise ValueError("it has neither a segmentation nor a bbox of four numbers")
    left, top, width, height = map(float, box)
    return Shape(label, [[box_ring(left, top, left + width, top + height)]], kind="box")


def decoded_runs(counts: str | Sequence[int] | None, size: Size) -> NDArray[np.bool_]:
    """Decodes COCO's run lengths: alternating lengths of background and mask, down each column first.

    Args:
        counts: The lengths, or COCO's text of them: base 32 with 48 added, lowest digit first, the sixth bit set where
            more digits follow, and from the fourth number on the difference from the one before the previous.
        size: Height and width of the mask.

    Raises:
        ValueError: They do not fill the mask.
    """
    if isinstance(counts, str):
        lengths: list[int] = []
        value = shift = 0
        for letter in counts:
            digit = ord(letter) - 48
            if not 0 <= digit < 64:
                raise ValueError(f"its run lengths have the letter {letter!r}")
            value |= (digit & 31) << shift
            shift += 5
            if not digit & 32:
                value -= (digit & 16 > 0) << shift
                lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
                value = shift = 0
    else:
        lengths = [int(length) for length in counts or ()]
    if min(lengths, default=0) < 0 or sum(lengths) != size[0] * size[1]:
        raise ValueError(f"its run lengths add up to {sum(lengths)}; the image has {size[0] * size[1]} pixels")
    inside = np.arange(len(lengths)) % 2 == 1
    return np.repeat(inside, lengths).reshape(size[::-1]).T.copy()
