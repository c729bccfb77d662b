"""Reads GeoJSON polygons in pixels, such as those of QuPath and of `belvedere.predict`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datamodules.annotations.files import read_json, tree
from datamodules.annotations.labels import Labeled, Labels, Shape, ring
from ops.errors import DataError
from ops.masks.polygons import Ring

NAMES = ("class", "label", "name", "category", "type")  # properties that name the class


def read_geojson(source: Path) -> Labels:
    """Reads a GeoJSON file, or every one below a folder.

    A feature's property `image` names its image, otherwise the file does; `class`, `label`, `name`, `category` or
    QuPath's `classification` name its class, otherwise it is called `object`. Coordinates are pixels from the corner of
    the image, and pixel centers where a feature has belvedere's property `iou`.

    Raises:
        DataError: There is none.
    """
    labels = Labels()
    for path in (*tree(source, ".geojson"), *(tree(source, ".json") if source.is_dir() else ())):
        try:
            document = read_json(path)
        except DataError as error:
            labels.reject(path, "file", str(error))
            continue
        features = document.get("features") if isinstance(document, dict) else document
        if isinstance(document, dict) and document.get("type") == "Feature":
            features = [document]
        if not isinstance(features, list):
            labels.reject(path, "file", "it has no list `features`; expected a FeatureCollection.")
            continue
        crs = document.get("crs") if isinstance(document, dict) else None
        if crs is not None:
            labels.reject(path, "file", "its coordinates are on the ground (crs), not pixels of an image.")
            continue
        shapes: dict[str, list[Shape]] = {path.stem: []} if not features else {}
        for number, feature in enumerate(features, start=1):
            try:
                properties = feature.get("properties") or {}
                drawn = shapes.setdefault(str(properties.get("image") or path.stem), [])
                parts = _parts(feature.get("geometry"), 0.5 if "iou" in properties else 0.0)
                if parts:
                    drawn.append(Shape(_label(properties), parts))
            except (ValueError, TypeError, AttributeError) as error:
                labels.reject(path, f"feature {number}", f"{str(error).rstrip('.')}.")
        labels.images += [Labeled(path, image, None, drawn) for image, drawn in shapes.items()]
    if not labels.images and not labels.rejected:
        raise DataError(f"There is no GeoJSON file in {source}.")
    return labels


def _label(properties: dict[str, Any]) -> str:
    classified = properties.get("classification")
    if isinstance(classified, dict) and classified.get("name"):
        return str(classified["name"])
    return next((str(properties[name]) for name in NAMES if properties.get(name)), "object")


def _parts(geometry: Any, shift: float) -> Sequence[Sequence[Ring]]:
    """Returns the polygons of a geometry; none of an empty MultiPolygon.

    Raises:
        ValueError: It is no polygon.
    """
    kind = geometry.get("type") if isinstance(geometry, dict) else None
    if kind not in ("Polygon", "MultiPolygon"):
        raise ValueError(f"it is a {kind}, which has no area; expected a Polygon or a MultiPolygon")
    found = geometry.get("coordinates")
    if not isinstance(found, list):
        raise ValueError("it has no coordinates")
    polygons = found if kind == "MultiPolygon" else [found]
    return [[ring(points) + shift for points in polygon] for polygon in polygons]
