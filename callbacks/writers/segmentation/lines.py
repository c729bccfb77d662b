"""Writes the center lines of roads, and of whatever else is long and narrow."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from callbacks.writers.format import Row
from callbacks.writers.segmentation.stitched import Stitched, StitchedFormat
from ops.atomic import write_text
from ops.errors import ArgumentError
from ops.files.names import safe_path
from ops.geo.centerlines import center_lines
from ops.geo.rasters import Georeference
from ops.geo.roadgraph import Points, RoadGraph, length
from ops.geo.vectors import Layer

FOLDER = "lines"


class CenterLines(StitchedFormat):
    """Writes `lines/<path and stem>.geojson` of plain images, in pixels, for classes that have center lines.

    A feature is a line between two nodes, which are crossings or ends: `class`, `length` and mean `width` in pixels,
    and the numbers of its nodes, `start` and `end`. Coordinates are those of `ops.masks.polygons`: whole numbers are
    pixel centers, y points down. The lines of images that have a georeference are written by
    `callbacks.writers.segmentation.maps.Maps`.

    Args:
        spur: Side branches and lone lines shorter than this are dropped.
        gap: Ends are joined with a line at most this far ahead of them.
        wanted: Whether to write them.

    Raises:
        ArgumentError: A length is negative.
    """

    def __init__(self, spur: float = 20.0, gap: float = 20.0, wanted: bool = True) -> None:
        check_lengths(spur, gap)
        self.spur, self.gap, self.wanted = spur, gap, wanted

    def write(self, image: Stitched, folder: Path) -> list[Row]:
        if image.georeference is not None or not (image.line_classes and self.wanted):
            return []
        features = []
        for label in image.line_classes:
            graph = center_lines(image.bands(image.classes.index(label)), self.spur, self.gap)
            for edge in graph.edges:
                geometry = {"type": "LineString", "coordinates": np.round(edge.points, 2).tolist()}
                values = {"class": label, "length": round(edge.length, 2), "width": round(edge.width, 2)}
                properties = {**values, "start": edge.start, "end": edge.end}
                features.append({"type": "Feature", "geometry": geometry, "properties": properties})
        text = ",\n".join(map(json.dumps, features))
        path = folder / FOLDER / safe_path(image.name, ".geojson")
        write_text(path, f'{{"type": "FeatureCollection", "features": [\n{text}\n]}}\n')
        return [[image.name]]


def check_lengths(spur: float, gap: float) -> None:
    """Checks the lengths that center lines are cleaned by.

    Raises:
        ArgumentError: One is negative.
    """
    if not (0 <= spur < math.inf and 0 <= gap < math.inf):
        raise ArgumentError(f"spur is {spur} and gap {gap}; expected lengths of 0 or more")


def line_layers(image: Stitched, reference: Georeference, spur: float, gap: float) -> list[Layer]:
    """Returns the center lines of an image in its coordinate reference system, and the nodes where they end.

    The layer `lines` has `class`, `length_m` and `width_m` on the ground, `start` and `end`, the numbers of the nodes;
    the layer `nodes` has `class`, `node`, its number, and `lines`, how many end there.

    Args:
        image: The image.
        reference: Where it lies.
        spur: Side branches and lone lines shorter than this are dropped, in meters.
        gap: Ends are joined with a line at most this far ahead of them, in meters.
    """
    import shapely

    meters = math.sqrt(float(reference.pixel_areas(np.array([reference.size[0] // 2]))[0]))
    lines: list[Any] = []
    nodes: list[Any] = []
    of_lines: dict[str, list[Any]] = {"class": [], "length_m": [], "width_m": [], "start": [], "end": []}
    of_nodes: dict[str, list[Any]] = {"class": [], "node": [], "lines": []}
    for label in image.line_classes:
        graph = center_lines(image.bands(image.classes.index(label)), spur / meters, gap / meters)
        placed = graph.transformed(reference.transform)
        first = len(nodes)
        for edge in placed.edges:
            lines.append(shapely.LineString(edge.points))
            of_lines["class"].append(label)
            of_lines["length_m"].append(round(length(reference.ground.meters(edge.points)), 2))
            of_lines["start"].append(first + edge.start)
            of_lines["end"].append(first + edge.end)
        of_lines["width_m"] += [round(edge.width * _across(edge.points, reference), 2) for edge in graph.edges]
        nodes += [shapely.Point(place) for place in placed.nodes]
        of_nodes["class"] += [label] * len(placed.nodes)
        of_nodes["node"] += range(first, len(nodes))
        of_nodes["lines"] += degrees(placed).tolist()
    return [Layer("lines", "LineString", lines, of_lines), Layer("nodes", "Point", nodes, of_nodes)]


def _across(points: Points, reference: Georeference) -> float:
    """Returns the mean length in meters of a pixel's side at right angles to a line (N, 2) in pixels."""
    steps, middles = np.diff(points, axis=0), (points[1:] + points[:-1]) / 2 + 0.5
    lengths = np.hypot(*steps.T)[:, None].clip(1e-9)
    beside = steps[:, ::-1] * (-0.5, 0.5) / lengths
    one, other = (reference.ground.meters(reference.projected(middles + side)) for side in (-beside, beside))
    return float(np.average(np.hypot(*(other - one).T), weights=lengths[:, 0]))


def degrees(graph: RoadGraph) -> NDArray[np.int64]:
    """Returns how many lines end at each node."""
    ends = np.array([(edge.start, edge.end) for edge in graph.edges], np.int64).ravel()
    return np.asarray(np.bincount(ends, minlength=len(graph.nodes)))
