"""A road network as a graph: crossings and ends as nodes, the lines between them as edges."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]  # (N, 2), x and y


@dataclass(frozen=True, eq=False)
class Edge:
    """A line between two nodes.

    Attributes:
        start: Number of the node at its first point.
        end: Number of the node at its last point; `start` if the line is a ring.
        points: Its points (N, 2), N at least 2.
        width: Mean width of the road; nan if unknown.
    """

    start: int
    end: int
    points: Points
    width: float = float("nan")

    @property
    def length(self) -> float:
        """Length of the line."""
        return length(self.points)


@dataclass(frozen=True, eq=False)
class RoadGraph:
    """Lines that meet in nodes.

    Attributes:
        nodes: Places (N, 2) of the nodes: x, y. In pixels, whole numbers are pixel centers, and y points down.
        edges: The lines.
    """

    nodes: Points
    edges: Sequence[Edge]

    @property
    def length(self) -> float:
        """Length of all lines."""
        return sum(edge.length for edge in self.edges)

    def transformed(self, affine: Sequence[float]) -> "RoadGraph":
        """Returns the graph in the coordinates of a map.

        Args:
            affine: (a, b, c, d, e, f): the place (a x + b y + c, d x + e y + f) on the map of the place (x, y) in the
                image, where the upper left pixel has its corner, not its center, at (0, 0), as in GDAL and rasterio.
                Widths are scaled by the square root of |a e - b d|.
        """
        a, b, c, d, e, f = affine
        matrix, offset = np.array([[a, d], [b, e]]), np.array([c, f])
        scale = abs(a * e - b * d) ** 0.5

        def moved(points: Points) -> Points:
            placed: Points = (points + 0.5) @ matrix + offset
            return placed

        edges = [Edge(each.start, each.end, moved(each.points), each.width * scale) for each in self.edges]
        return RoadGraph(moved(self.nodes), edges)


def graph_of(lines: Sequence[Points], apart: float = 1e-6) -> RoadGraph:
    """Returns the graph of lines that meet where they share a point, as in road databases.

    Args:
        lines: Lines (N, 2), N at least 2; points that repeat the one before are dropped.
        apart: Distance up to which two points are one.
    """
    cleaned = [each[np.r_[True, np.any(np.diff(each, axis=0) != 0, axis=1)]] for each in lines]
    cleaned = [each for each in cleaned if len(each) > 1]
    if not cleaned:
        return RoadGraph(np.zeros((0, 2)), [])
    every = np.concatenate(cleaned)
    _, firsts, place = np.unique(np.round(every / apart), axis=0, return_index=True, return_inverse=True)
    places = np.split(place.ravel(), np.cumsum([len(each) for each in cleaned])[:-1])
    terminal = np.zeros(len(firsts), np.bool_)
    visits = np.zeros(len(firsts), np.int64)
    for each in places:
        terminal[each[[0, -1]]] = True
        np.add.at(visits, each, 1)
    is_node = terminal | (visits > 1)
    numbers = np.cumsum(is_node) - 1
    edges = []
    for points, each in zip(cleaned, places, strict=True):
        cuts = np.flatnonzero(is_node[each])
        edges += [Edge(int(numbers[each[i]]), int(numbers[each[j]]), points[i : j + 1]) for i, j in pairwise(cuts)]
    return RoadGraph(every[firsts[is_node]], edges)


def length(points: Points) -> float:
    """Returns the length of a line (N, 2)."""
    return float(np.hypot(*np.diff(points, axis=0).T).sum())
