"""Reads the JSON files of labelme, one per image."""

import base64
import binascii
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from datamodules.annotations.files import read_json, tree
from datamodules.annotations.labels import Labeled, Labels, Shape, box_ring, ellipse_ring, ring, size_of
from ops.errors import DataError


def read_labelme(source: Path) -> Labels:
    """Reads every JSON file below a folder that labelme wrote, or one file.

    Raises:
        DataError: There is none.
    """
    labels = Labels()
    for path in tree(source, ".json"):
        try:
            document = read_json(path)
        except DataError as error:
            labels.reject(path, "file", str(error))
            continue
        if not isinstance(document, dict) or not isinstance(document.get("shapes"), list):
            labels.reject(path, "file", "it has no list `shapes`; expected a file of labelme. Remove it.")
            continue
        image = document.get("imagePath") or path.with_suffix(".jpg").name
        size = size_of(document.get("imageHeight"), document.get("imageWidth"))
        shapes = []
        for number, shape in enumerate(document["shapes"], start=1):
            try:
                shapes.append(_shape(shape))
            except (ValueError, TypeError) as error:
                name = shape.get("label") if isinstance(shape, dict) else None
                labels.reject(path, f"shape {number} ({name})", f"{error}.")
        labels.images.append(Labeled(path, str(image), size, shapes))
    if not labels.images and not labels.rejected:
        raise DataError(f"There is no JSON file of labelme in {source}.")
    return labels


def _shape(shape: Any) -> Shape:
    """Returns a shape of a file.

    Raises:
        ValueError: It is no area.
    """
    if not isinstance(shape, dict) or not isinstance(shape.get("label"), str) or not shape["label"].strip():
        raise ValueError("it has no label")
    label, kind, points = shape["label"].strip(), shape.get("shape_type") or "polygon", shape.get("points")
    if kind == "polygon":
        return Shape(label, [[ring(points)]])
    if kind not in ("rectangle", "circle", "mask"):
        raise ValueError(f"it is a {kind}, which has no area; draw a polygon")
    corners = np.asarray(points, np.float64)
    if corners.shape[:1] not in ((2,), (4,)) or corners.shape[1:] != (2,) or not np.isfinite(corners).all():
        found = len(points) if isinstance(points, list) else "no"
        raise ValueError(f"it is a {kind} of {found} points; expected two, pairs of numbers")
    if kind == "rectangle":
        return Shape(label, [[box_ring(*corners.min(axis=0), *corners.max(axis=0))]], kind="box")
    if kind == "circle":
        radius = float(np.hypot(*(corners[1] - corners[0])))
        return Shape(label, [[ellipse_ring(corners[0], (radius, radius))]])
    try:
        encoded = np.frombuffer(base64.b64decode(shape["mask"]), np.uint8)
        pixels = cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE) if encoded.size else None
    except (KeyError, TypeError, binascii.Error) as error:
        raise ValueError(f"its mask cannot be read: {error!r}; expected a PNG in base64") from error
    if pixels is None:
        raise ValueError("its mask is no PNG in base64")
    left, top = np.round(corners.min(axis=0)).astype(int).tolist()
    return Shape(label, pixels=pixels > 0, corner=(top, left))
