"""Output formats of polygons: a table of their points, overlays that show them, and GeoJSON."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from callbacks.writers.format import Row
from callbacks.writers.segmentation.stitched import Stitched, StitchedFormat
from drawing.pictures import Picture, color_of, labelled, save_picture, scaled, scaled_masks
from ops.atomic import write_text
from ops.errors import ArgumentError
from ops.files.names import safe_path
from ops.light import condition_of
from ops.masks.polygons import Ring, intersection_over_union, polygon_mask, rings, simplified, smoothed
from ops.masks.regions import main_regions

VIEW = 1200  # maximum pixels of the longer side of an overlay
TINT = 0.3  # share of the class color inside a mask
Kind = Literal["raw", "clean", "single"]
LEAST = {"raw": 0.0, "clean": 0.25, "single": 1.0}  # regions kept, as a share of the largest
LEAST_IOU = {"raw": 0.98, "clean": 0.95, "single": 0.95}
DEFAULT = 1.0  # tolerance in pixels of `raw`
COARSEST = 40  # tolerances are searched from the image's longer side over this
FACTORS = (*(2 ** (-step / 2) for step in range(13)), 0.0)  # of the tolerance, until a polygon is near enough
HALVES = (1.0, 1 / 2, 1 / 4, 1 / 8, 0.0)  # the same for `raw`
SMOOTHNESS = 16.0  # wavelength in pixels that smoothing halves, at a tolerance of up to 2
FRACTION = 4  # bits of fractions of pixels given to OpenCV
CONVENTION = (
    "Points are [x, y] in pixels of the full image, x to the right and y down. Whole numbers are pixel centers: the "
    "image reaches from -0.5 to width - 0.5 and from -0.5 to height - 0.5. The last point of a ring joins its first. "
    "A pixel is inside where its center lies in an odd number of rings (even-odd), so that a ring in a ring is a hole. "
    "size is [height, width]; iou is the intersection over union of the polygon and the mask; tolerance is the "
    "distance in pixels by which outlines were simplified; smoothing is the share of the usual smoothing that they "
    "got, 0 without; condition is sunny where the most frequent gray level is at least 200, otherwise shady."
)


class Outlines(StitchedFormat):
    """Writes `polygons.json` and `overlays/<path and stem>.jpg` of a task with one class.

    Args:
        tolerance: See `OutlineWriter`.
        smooth: See `OutlineWriter`.
        least_iou: See `OutlineWriter`.
        outline: See `OutlineWriter`.
    """

    folders = ("overlays",)

    def __init__(
        self,
        tolerance: float | None = None,
        smooth: bool = False,
        least_iou: float | None = None,
        outline: Kind = "raw",
    ) -> None:
        self.tolerance, self.smooth, self.least_iou, self.outline = tolerance, smooth, least_iou, outline

    def outlined(self, mask: NDArray[np.bool_], boxes: Sequence[tuple[float, float, float, float]] = ()) -> "Outlined":
        """Returns the polygon of a mask (H, W) by these settings; see the function `outlined`."""
        return outlined(mask, self.tolerance, self.smooth, self.least_iou, self.outline, boxes)

    def geojson(self, image: Stitched) -> dict[str, Any]:
        """Returns the polygons of an image by these settings; see the function `geojson`."""
        return geojson(image, self.tolerance, self.smooth, self.least_iou, self.outline)

    def write(self, image: Stitched, folder: Path) -> list[Row]:
        if len(image.classes) != 1:
            raise ArgumentError(f"Outlines are of one class: expected one, got {image.classes}; use SegmentationWriter")
        mask = image.mask(0)
        found = self.outlined(mask, image.boxes)
        drawn = labelled(drawn_polygon(image.source, mask, found.rings), image.classes, [bool(mask.any())])
        save_picture(drawn, folder / "overlays" / safe_path(image.name, ".jpg"))
        record = {
            "size": list(image.size),
            "rings": [ring.tolist() for ring in found.rings],
            "vertices": sum(map(len, found.rings)),
            "iou": round(found.iou, 6),
            "tolerance": round(found.tolerance, 2),
            "smoothing": round(found.smoothing, 2),
            "condition": condition_of(image.source),
        }
        return [[image.name, record]]

    def finish(self, rows: Sequence[Row], folder: Path) -> str:
        images = ",\n".join(f"{json.dumps(name)}: {json.dumps(record)}" for name, record in rows)
        text = f'{{"convention": {json.dumps(CONVENTION)},\n"pictures": {{\n{images}\n}}}}\n'
        write_text(folder / "polygons.json", text)
        records: list[dict[str, Any]] = [record for _, record in rows]
        found = [record for record in records if record["vertices"] or record["iou"] < 1]
        if not found:
            return "\nNo polygons: nothing is marked in any image."
        ious = [record["iou"] for record in found]
        vertices = np.mean([record["vertices"] for record in found])
        text = (
            f"\nImages with polygons: {len(found)}; {vertices:.1f} vertices on average; IoU with the mask "
            f"{np.mean(ious):.4f} on average, at least {min(ious):.4f}."
        )
        least = LEAST_IOU[self.outline] if self.least_iou is None else self.least_iou
        for what, count in self._weakened(found):
            text += (
                f"\nIn {count} of them {what} to keep an IoU of {least:g}; --trainer.callbacks.least_iou 0 accepts any."
            )
        return text

    def _weakened(self, found: Sequence[dict[str, Any]]) -> list[tuple[str, int]]:
        """Returns what `least_iou` changed of what was asked for, and in how many of these images."""
        asked = DEFAULT if self.tolerance is None and self.outline == "raw" else self.tolerance
        counts = {"smoothing was left out": sum(record["smoothing"] == 0 for record in found) if self.smooth else 0}
        if asked is not None:  # otherwise a tolerance is searched, and smoothing goes with it
            counts[f"the tolerance of {asked:g} pixel{'s' * (asked != 1)} was reduced"] = sum(
                record["tolerance"] < round(asked, 2) for record in found
            )
            counts["smoothing was reduced"] = sum(0 < record["smoothing"] < 1 for record in found)
        return [(what, count) for what, count in counts.items() if count]


class Outlined(NamedTuple):
    """The polygon of a mask.

    Attributes:
        rings: Its rings, rounded to 1/100 pixel.
        iou: Its IoU with the mask.
        tolerance: Distance in pixels by which it was simplified.
        smoothing: Share of the usual smoothing that it was given; 0 without.
    """

    rings: list[Ring]
    iou: float
    tolerance: float
    smoothing: float


def outlined(
    mask: NDArray[np.bool_],
    tolerance: float | None = None,
    smooth: bool = False,
    least_iou: float | None = None,
    outline: Kind = "raw",
    boxes: Sequence[tuple[float, float, float, float]] = (),
) -> Outlined:
    """Returns the polygon of a mask (H, W); see `OutlineWriter`.

    Args:
        mask: The mask.
        tolerance: See `OutlineWriter`.
        smooth: See `OutlineWriter`.
        least_iou: See `OutlineWriter`.
        outline: See `OutlineWriter`.
        boxes: Corners of the image's boxes, see `ops.masks.regions.main_regions`.
    """
    followed = mask if outline == "raw" else main_regions(mask, LEAST[outline], boxes)
    if tolerance is None:
        tolerance = DEFAULT if outline == "raw" else max(mask.shape) / COARSEST
    least_iou = LEAST_IOU[outline] if least_iou is None else least_iou
    traced = rings(followed)
    for factor in HALVES if outline == "raw" else FACTORS:  # at 0, the polygon is what it follows
        used = tolerance * factor
        near = smoothed(traced, smoothness=SMOOTHNESS * max(factor, used / 2)) if smooth and factor else traced
        polygon = [np.round(ring, 2) for ring in simplified(near, used / (4 if smooth else 1))]
        painted = polygon_mask(polygon, mask.shape)
        if intersection_over_union(followed, painted) >= least_iou:
            break
    return Outlined(polygon, intersection_over_union(mask, painted), used, factor if smooth else 0.0)


def fitted_polygon(
    mask: NDArray[np.bool_], tolerance: float | None = None, smooth: bool = False, least_iou: float | None = None
) -> tuple[list[Ring], float]:
    """Returns the raw polygon of a mask (H, W) and its IoU with the mask; see `outlined`."""
    found = outlined(mask, tolerance, smooth, least_iou)
    return found.rings, found.iou


def geojson(
    image: Stitched,
    tolerance: float | None = None,
    smooth: bool = False,
    least_iou: float | None = None,
    outline: Kind = "raw",
) -> dict[str, Any]:
    """Returns a GeoJSON FeatureCollection (RFC 7946) with one MultiPolygon per class.

    Coordinates are pixels as in `ops.masks.polygons`: whole numbers are pixel centers, y points down. Properties are
    `image`, `class`, `vertices` and `iou`, that of the polygon with its mask.

    Args:
        image: The image.
        tolerance: See `OutlineWriter`.
        smooth: See `OutlineWriter`.
        least_iou: See `OutlineWriter`.
        outline: See `OutlineWriter`.
    """
    features = []
    for k, label in enumerate(image.classes):
        found = outlined(image.mask(k), tolerance, smooth, least_iou, outline, image.boxes)
        vertices = sum(map(len, found.rings))
        properties = {"image": image.name, "class": label, "vertices": vertices, "iou": round(found.iou, 6)}
        shapes = [[[*ring.tolist(), ring[0].tolist()] for ring in shape] for shape in _nested(found.rings)]
        geometry = {"type": "MultiPolygon", "coordinates": shapes}
        features.append({"type": "Feature", "geometry": geometry, "properties": properties})
    return {"type": "FeatureCollection", "features": features}


def _nested(polygon: Sequence[Ring]) -> list[list[Ring]]:
    """Groups rings into regions, each followed by its holes, which run the other way round."""
    areas = [_signed_area(ring) for ring in polygon]
    regions = [k for k, area in enumerate(areas) if area > 0]
    found = {k: [polygon[k]] for k in regions}
    for ring, area in zip(polygon, areas, strict=True):
        around = [k for k in regions if areas[k] > -area] if area < 0 else []
        # the smallest region around it; simplified rings may touch, so inside is judged by distance
        depth = {k: min(0.0, _depth(ring, polygon[k])) for k in around}
        if around:
            found[max(around, key=lambda k: (depth[k], -areas[k]))].append(ring)
    return list(found.values())


def _signed_area(ring: Ring) -> float:
    x, y = ring.T
    return float(x @ np.roll(y, -1) - np.roll(x, -1) @ y) / 2


def _depth(ring: Ring, around: Ring) -> float:
    """Returns how far the outermost point of a ring lies inside another, in pixels; negative outside."""
    contour = around.astype(np.float32)
    return min(cv2.pointPolygonTest(contour, (float(x), float(y)), True) for x, y in ring)


def drawn_polygon(source: Picture, mask: NDArray[np.bool_], polygon: Sequence[Ring]) -> Picture:
    """Returns an image, at most `VIEW` pixels long, with the mask tinted and the polygon drawn as a line.

    Args:
        source: The image (h, w, 3), as large as the mask or smaller.
        mask: The mask (H, W).
        polygon: Rings in pixels of the mask.
    """
    side = min(VIEW, max(source.shape[:2]))
    view = scaled(source, side, side)
    height, width = view.shape[:2]
    [inside] = scaled_masks(mask[None], width, height)
    color = np.array(color_of(0), np.float32)
    view[inside] = np.rint((1 - TINT) * view[inside] + TINT * color)
    thickness = max(1, round(min(height, width) / 400))
    points = _scaled(polygon, mask.shape, (height, width))
    cv2.polylines(view, points, True, color.tolist(), thickness, cv2.LINE_AA, FRACTION)
    return view


def draw_corners(view: Picture, polygon: Sequence[Ring], size: tuple[int, ...], index: int) -> None:
    """Draws a polygon on an image (h, w, 3), in place, as a line with a dot at each corner.

    Args:
        view: The image.
        polygon: Rings in pixels of the mask.
        size: Height and width of the mask.
        index: Position of the class, which decides the color.
    """
    thickness = max(1, round(min(view.shape[:2]) / 250))
    points = _scaled(polygon, size, view.shape)
    cv2.polylines(view, points, True, color_of(index), thickness, cv2.LINE_AA, FRACTION)
    for corner in (corner for ring in points for corner in ring.tolist()):
        cv2.circle(view, corner, (thickness + 1) << FRACTION, color_of(index), -1, cv2.LINE_AA, FRACTION)


def _scaled(polygon: Sequence[Ring], size: tuple[int, ...], view: tuple[int, ...]) -> list[NDArray[np.int32]]:
    """Returns the rings of a mask on a smaller or larger image, with the fractions that OpenCV takes."""
    scale = np.array([view[1] / size[1], view[0] / size[0]])
    # the corner of the image, not the center of its first pixel, stays in place
    return [np.rint(((ring + 0.5) * scale - 0.5) * 2**FRACTION).astype(np.int32) for ring in polygon]
