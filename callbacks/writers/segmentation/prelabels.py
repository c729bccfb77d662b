"""Writes predictions as labels that annotation tools open, to be corrected there."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple
from xml.etree import ElementTree

import numpy as np

from callbacks.writers.format import Row
from callbacks.writers.segmentation.polygons import Outlines
from callbacks.writers.segmentation.stitched import Stitched, StitchedFormat
from ops.atomic import replacing, write_text
from ops.files.names import safe_path
from ops.masks.polygons import Ring

Tool = Literal["labelme", "coco", "cvat"]
FILES = {"coco": "coco.json", "cvat": "cvat.xml"}
TOLERANCE = 0.5  # pixels between an outline and its mask


class Outline(NamedTuple):
    """One region of a class: its points (x, y), with the corner of the image at (0, 0)."""

    label: str
    points: list[list[float]]


class PreLabels(StitchedFormat):
    """Writes the regions of every image as polygons, for one annotation tool.

    - `labelme`: `labelme/<path and stem>.json`, a file per image that refers to it by a relative path; or the same in
      another folder.
    - `coco`: `coco.json`, for all images.
    - `cvat`: `cvat.xml`, to upload as "CVAT for images 1.1" to a task of the same images.

    Outlines are at most half a pixel from the masks, or those of the writer's own format if it is `clean` or `single`,
    see `callbacks.writers.segmentation.outlines.OutlineWriter`. Each region is a polygon of its own; the tools know no
    holes, so a hole is joined to its outline by a cut of no width.

    Args:
        tool: The tool.
        locate: Returns the file of an image by its name.
        size_of: Returns the height and width of an image file: masks may have another size.
        like: The writer's own outlines, if it writes any.
        inner: Folder of labelme's files.
    """

    def __init__(
        self,
        tool: Tool,
        locate: Callable[[str], Path],
        size_of: Callable[[Path], tuple[int, int]],
        like: Outlines | None = None,
        inner: str = "labelme",
    ) -> None:
        self.tool, self.locate, self.size_of = tool, locate, size_of
        self.like = like if like is not None and like.outline != "raw" else Outlines(TOLERANCE)
        self.inner = inner
        self.folders = (inner,) if tool == "labelme" else ()

    def write(self, image: Stitched, folder: Path) -> list[Row]:
        path = self.locate(image.name)
        size = self.size_of(path)
        found = outlines(image, size, self.like)
        if self.tool != "labelme":
            return [[image.name, list(size), list(image.classes), found]]
        target = safe_path(image.name, ".json")
        place = folder.parent / self.inner / target  # where it will be, once all is done
        document = labelme_document(os.path.relpath(path, place.parent), size, found)
        write_text(folder / self.inner / target, json.dumps(document, indent=2) + "\n")
        return []

    def finish(self, rows: Sequence[Row], folder: Path) -> str:
        if self.tool == "coco":
            write_text(folder / FILES["coco"], json.dumps(coco_document(rows)) + "\n")
        elif self.tool == "cvat":
            tree = cvat_document(rows)
            ElementTree.indent(tree)
            with replacing(folder / FILES["cvat"]) as temporary:
                tree.write(temporary, encoding="utf-8", xml_declaration=True)
        return ""


def outlines(image: Stitched, size: tuple[int, int], like: Outlines) -> list[Outline]:
    """Returns the regions of an image, scaled to this height and width, with these settings."""
    scale = np.array([size[1] / image.size[1], size[0] / image.size[0]])
    found = []
    for feature in like.geojson(image)["features"]:
        for polygon in feature["geometry"]["coordinates"]:
            joined = without_holes([np.array(ring[:-1], np.float64) for ring in polygon])
            points = np.round((joined + 0.5) * scale, 2)  # there, integers are centers of pixels
            found.append(Outline(feature["properties"]["class"], points.tolist()))
    return found


def without_holes(rings: Sequence[Ring]) -> Ring:
    """Returns a region and its holes as one ring: a cut of no width, there and back, leads to each hole."""
    joined, *holes = rings
    for hole in holes:
        distances = ((joined[:, np.newaxis] - hole) ** 2).sum(axis=2)
        at, first = np.unravel_index(distances.argmin(), distances.shape)
        around = np.roll(hole, -first, axis=0)
        joined = np.concatenate([joined[: at + 1], around, around[:1], joined[at:]])
    return joined


def labelme_document(image: str, size: tuple[int, int], found: Sequence[Outline]) -> dict[str, object]:
    """Returns what labelme stores of an image."""
    return {
        "version": "5.5.0",
        "flags": {},
        "shapes": [
            {"label": label, "points": points, "group_id": None, "shape_type": "polygon", "flags": {}}
            for label, points in found
        ],
        "imagePath": image,
        "imageData": None,
        "imageHeight": size[0],
        "imageWidth": size[1],
    }


def coco_document(rows: Sequence[Row]) -> dict[str, object]:
    """Returns a COCO file of rows: name, size, classes and outlines of an image."""
    labels = rows[0][2] if rows else []
    numbers = {label: number for number, label in enumerate(labels, start=1)}
    annotations: list[dict[str, object]] = []
    for index, (_, _, _, found) in enumerate(rows, start=1):
        for label, points in found:
            x, y = np.array(points).T
            corner, extent = (x.min(), y.min()), (np.ptp(x), np.ptp(y))
            area = abs(float(x @ np.roll(y, -1) - np.roll(x, -1) @ y)) / 2
            annotations.append({"id": len(annotations) + 1, "image_id": index, "category_id": numbers[label],
                                "segmentation": [np.ravel(points).tolist()], "area": round(area, 2), "iscrowd": 0,
                                "bbox": [round(float(each), 2) for each in (*corner, *extent)]})  # fmt: skip
    images = [{"id": index, "file_name": name, "height": size[0], "width": size[1]}
              for index, (name, size, _, _) in enumerate(rows, start=1)]  # fmt: skip
    categories = [{"id": number, "name": label, "supercategory": ""} for label, number in numbers.items()]
    return {"info": {}, "licenses": [], "images": images, "annotations": annotations, "categories": categories}


def cvat_document(rows: Sequence[Row]) -> "ElementTree.ElementTree[ElementTree.Element]":
    """Returns the XML of "CVAT for images 1.1" of rows: name, size, classes and outlines of an image."""
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    for index, (name, size, _, found) in enumerate(rows):
        sides = {"width": str(size[1]), "height": str(size[0])}
        image = ElementTree.SubElement(root, "image", {"id": str(index), "name": name, **sides})
        for label, points in found:
            text = ";".join(f"{x:.2f},{y:.2f}" for x, y in points)
            given = {"label": label, "source": "auto", "occluded": "0", "points": text, "z_order": "0"}
            ElementTree.SubElement(image, "polygon", given)
    return ElementTree.ElementTree(root)
