"""Finds the center lines of roads: from a mask to a graph of lines that meet at crossings.

The mask is thinned to lines one pixel wide (Zhang and Suen, "A fast parallel algorithm for thinning digital patterns",
1984). Where lines meet or end are nodes. Short side branches, which thinning leaves at bumps of the outline, go, and
crossings that it split become one. Ends that face another line across a short gap are joined with it. The lines are
simplified (Douglas and Peucker, 1973).
"""

import heapq
import itertools
import math
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ops.geo.roadgraph import Edge, Points, RoadGraph, length
from ops.masks.distances import distances
from ops.masks.regions import without_small_regions

Mask = NDArray[np.bool_]  # (H, W)
Indices = NDArray[np.int32]  # half the memory of int64: there are millions
ROWS = 512  # thinned at once
MARGIN = 128  # rows above and below that are thinned with them; also how far a mask is mirrored beyond its edges
DEEPEST = MARGIN // 2  # pixels from the outline: what lies deeper is no road, and would take as long as all roads
FACING = 0.5  # least cosine between the direction of an end and that of its connection: 60 degrees
AHEAD = 15.0  # pixels of a line that give the direction of its end


def center_lines(
    bands: Mask | Iterable[Mask], spur: float = 20.0, gap: float = 20.0, tolerance: float = 2.0
) -> RoadGraph:
    """Returns the center lines of a mask, in pixels.

    Lines reach the edge of the image where roads do. What is wider than 128 pixels is no road: only a line along its
    outline is left. Memory holds a strip of the mask and the pixels of the thinned lines.

    Args:
        bands: The mask (H, W), or bands (n, W) of its rows from the top.
        spur: Side branches and lone lines shorter than this are dropped, in pixels. Holes in the mask that are smaller
            than a square of half this side are filled.
        gap: Ends are joined with a line at most this far ahead of them, in pixels.
        tolerance: Largest distance in pixels of the simplified lines from the thinned ones.

    Returns:
        The graph, with the mean width of the road at each line, to about half a pixel.

    Raises:
        ValueError: A length is negative.
    """
    if min(spur, gap, tolerance) < 0 or not math.isfinite(spur + gap + tolerance):
        raise ValueError(f"expected lengths of 0 pixels or more, got spur {spur}, gap {gap}, tolerance {tolerance}")
    net = _traced(*skeleton([bands] if isinstance(bands, np.ndarray) else bands, spur * spur / 4))
    net.prune(spur)
    net.contract()
    net.close(gap)
    net.prune(spur, lone=True)
    return net.graph(tolerance)


def skeleton(bands: Iterable[Mask], hole: float = 0.0) -> tuple[Indices, NDArray[np.float32]]:
    """Thins a mask to lines one pixel wide.

    Args:
        bands: Bands (n, W) of its rows from the top.
        hole: Holes of fewer pixels are filled.

    Returns:
        Row and column (N, 2) of each pixel left, in reading order, and the distance (N,) of its center to that of the
        nearest pixel outside of the mask, which is mirrored beyond the edges of the image.
    """
    from skimage.morphology import skeletonize

    pixels, depths = [np.zeros((0, 2), np.int32)], [np.zeros(0, np.float32)]
    for first, (above, rows, below), mask in _strips(bands):
        padded = np.pad(mask, [(MARGIN - above, MARGIN - below), (MARGIN, MARGIN)], mode="reflect")
        padded = ~without_small_regions(~padded[None], [min(1.0, hole / padded.size)])[0]
        inside = np.s_[MARGIN : MARGIN + rows, MARGIN:-MARGIN]
        depth = distances(np.pad(~padded, 1, constant_values=True))[1:-1, 1:-1]  # a full mask has no pixel outside
        padded &= depth <= DEEPEST
        found = np.argwhere(skeletonize(padded)[inside])
        depths.append(depth[inside][tuple(found.T)])
        pixels.append((found + np.array([first, 0])).astype(np.int32))
    return np.concatenate(pixels), np.concatenate(depths)


def _strips(bands: Iterable[Mask]) -> Iterator[tuple[int, tuple[int, int, int], Mask]]:
    """Yields the first row of each strip, how many rows it has above, inside and below, and the mask of all of them."""
    kept, first, above = None, 0, 0
    for band in bands:
        kept = band if kept is None else np.concatenate([kept, band])
        while len(kept) > above + ROWS + MARGIN:
            yield first, (above, ROWS, MARGIN), kept[: above + ROWS + MARGIN]
            first += ROWS
            kept = kept[above + ROWS - MARGIN :]
            above = MARGIN
    if kept is not None and len(kept) > above and kept.shape[1]:
        yield first, (above, len(kept) - above, 0), kept


def _traced(pixels: Indices, depths: NDArray[np.float32]) -> "_Net":
    """Returns the lines of a skeleton and where they meet.

    Numbers of pixels are in arrays of 32 bits: lists of them would take nine times the memory.
    """
    net = _Net()
    if not len(pixels):
        return net
    pairs = _neighbors(pixels)
    count = len(pixels)
    degrees = np.bincount(pairs.ravel(), minlength=count)
    owner = _nodes(pairs, degrees)
    names = np.flatnonzero(np.bincount(owner[owner >= 0], minlength=count))
    for name, members in zip(names.tolist(), _grouped(owner, names), strict=True):
        net.nodes[name] = pixels[members, ::-1].mean(axis=0)
    order = np.argsort(np.concatenate([pairs[:, 0], pairs[:, 1]]), kind="stable")
    targets = _array(np.concatenate([pairs[:, 1], pairs[:, 0]])[order])
    del pairs, order
    firsts = _array(np.concatenate([[0], np.cumsum(degrees)]))
    owners, seen = _array(owner), bytearray(count)

    def walk(before: int, pixel: int) -> tuple[list[int], int]:
        """Returns the pixels of a line from one after a node on, and the node at its end."""
        path: list[int] = []
        while owners[pixel] < 0:
            path.append(pixel)
            seen[pixel] = 1
            one, other = targets[firsts[pixel] : firsts[pixel] + 2]
            before, pixel = pixel, (other if one == before else one)
        return path, pixel

    def add(start: int, path: list[int], end: int) -> None:
        points = np.concatenate([[net.nodes[owners[start]]], pixels[path, ::-1], [net.nodes[owners[end]]]])
        width = 2 * float(depths[path or [start, end]].mean()) - 0.5
        net.add(owners[start], owners[end], points, width)

    for pixel in np.flatnonzero(owner >= 0).tolist():
        for following in targets[firsts[pixel] : firsts[pixel + 1]]:
            if owners[following] >= 0:  # next to another node
                if owners[pixel] != owners[following] and pixel < following:
                    add(pixel, [], following)
            elif not seen[following]:
                path, end = walk(pixel, following)
                add(pixel, path, end)
    rings = (degrees == 2) & (owner < 0) & (np.frombuffer(seen, np.uint8) == 0)
    for pixel in np.flatnonzero(rings).tolist():
        if not seen[pixel]:
            owners[pixel] = pixel
            net.nodes[pixel] = pixels[pixel, ::-1].astype(np.float64)
            path, end = walk(pixel, targets[firsts[pixel]])
            add(pixel, path, end)
    return net


def _array(numbers: NDArray[np.integer[Any]]) -> "array[int]":
    """Returns numbers as what Python indexes as fast as a list."""
    return array("i", numbers.astype(np.int32).tobytes())


def _neighbors(pixels: Indices) -> Indices:
    """Returns the pairs (M, 2) of pixels that touch; at a corner only if no other pixel joins them at two edges."""
    stride = int(pixels[:, 1].max()) + 3
    keys = pixels[:, 0].astype(np.int64) * stride + pixels[:, 1] + 1

    def at(step: int) -> Indices:
        """Returns the number of the pixel that many keys further, or -1."""
        places = np.minimum(np.searchsorted(keys, keys + step), len(keys) - 1)
        return np.where(keys[places] == keys + step, places, -1).astype(np.int32)

    right, left, down = at(1), at(-1), at(stride)
    pairs = []
    for target, free in (
        (right, True),
        (down, True),
        (at(stride + 1), (right < 0) & (down < 0)),
        (at(stride - 1), (left < 0) & (down < 0)),
    ):
        sources = np.flatnonzero((target >= 0) & free).astype(np.int32)
        pairs.append(np.stack([sources, target[sources]], axis=1))
    return np.concatenate(pairs)


def _nodes(pairs: Indices, degrees: NDArray[np.int64]) -> Indices:
    """Returns the node that each pixel belongs to, -1 inside of lines: an end, or pixels at a crossing that touch."""
    from scipy.sparse import coo_array  # type: ignore[import-untyped]  # scipy has no type information
    from scipy.sparse.csgraph import connected_components  # type: ignore[import-untyped]  # as above

    crossing = degrees > 2
    owner = np.where(degrees == 1, np.arange(len(degrees), dtype=np.int32), np.int32(-1))
    members = np.flatnonzero(crossing)
    if len(members):
        touching = np.searchsorted(members, pairs[crossing[pairs].all(axis=1)])
        table = coo_array((np.ones(len(touching), np.int8), tuple(touching.T)), (len(members),) * 2)
        _, labels = connected_components(table, directed=False)
        _, firsts, groups = np.unique(labels, return_index=True, return_inverse=True)
        owner[members] = members[firsts[groups]]
    return owner


def _grouped(owner: Indices, names: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Returns the pixels of each node."""
    members = np.flatnonzero(owner >= 0)
    members = members[np.argsort(owner[members], kind="stable")]
    return np.split(members, np.searchsorted(owner[members], names))[1:]  # before the first name there is nothing


@dataclass(eq=False)
class _Line:
    start: int
    end: int
    points: Points
    width: float
    length: float


class _Net:
    """Lines and nodes that can be changed."""

    def __init__(self) -> None:
        self.nodes: dict[int, Points] = {}
        self.lines: dict[int, _Line] = {}
        self.at: defaultdict[int, list[int]] = defaultdict(list)  # lines at each node, rings twice
        self.count = 0
        self.fresh = itertools.count(-1, -1)  # names of new nodes

    def add(self, start: int, end: int, points: Points, width: float) -> int:
        """Adds a line between two nodes and returns its number."""
        number, self.count = self.count, self.count + 1
        self.lines[number] = _Line(start, end, points, width, length(points))
        for node in (start, end):
            self.at[node].append(number)
        return number

    def remove(self, number: int) -> _Line:
        """Removes a line and returns it."""
        line = self.lines.pop(number)
        for node in (line.start, line.end):
            self.at[node].remove(number)
        return line

    def dissolve(self, node: int) -> int | None:
        """Joins the two lines that are left at a node, if there are two, and returns the number of the new one."""
        if len(self.at[node]) != 2 or self.at[node][0] == self.at[node][1]:
            return None
        one, other = (self.remove(number) for number in list(self.at[node]))
        before = one.points if one.end == node else one.points[::-1]
        after = other.points if other.start == node else other.points[::-1]
        start = one.start if one.end == node else one.end
        end = other.end if other.start == node else other.start
        total = one.length + other.length
        width = (one.width * one.length + other.width * other.length) / total if total else one.width
        return self.add(start, end, np.concatenate([before, after[1:]]), width)

    def dead(self, node: int) -> bool:
        """Returns whether a node is the end of one line."""
        return len(self.at[node]) == 1

    def prune(self, least: float, lone: bool = False) -> None:
        """Removes side branches that are shorter than this, the shortest first; or lone lines if asked to."""
        if lone:
            for number, line in list(self.lines.items()):
                if line.length < least and {*self.at[line.start], *self.at[line.end]} == {number}:
                    self.remove(number)
            return
        waiting = [(line.length, number) for number, line in self.lines.items() if line.length < least]
        heapq.heapify(waiting)
        while waiting:
            _, number = heapq.heappop(waiting)
            if number not in self.lines:  # joined with another
                continue
            line = self.lines[number]
            if self.dead(line.start) == self.dead(line.end):
                continue
            crossing = line.end if self.dead(line.start) else line.start
            self.remove(number)
            joined = self.dissolve(crossing)
            if joined is not None and self.lines[joined].length < least:
                heapq.heappush(waiting, (self.lines[joined].length, joined))

    def contract(self) -> None:
        """Makes one crossing of two that are joined by a line shorter than its road is wide."""
        for number, line in list(self.lines.items()):
            one, other = line.start, line.end
            if self.lines.get(number) is not line or line.length >= line.width or one == other:
                continue
            if self.dead(one) or self.dead(other):
                continue
            self.remove(number)
            node = next(self.fresh)
            self.nodes[node] = (self.nodes[one] + self.nodes[other]) / 2
            for end in (one, other):
                for moved in list(dict.fromkeys(self.at[end])):
                    self._move(moved, end, node)

    def _move(self, number: int, old: int, new: int) -> None:
        """Moves the ends of a line from one node to another."""
        line = self.remove(number)
        start, end = (new if node == old else node for node in (line.start, line.end))
        points = np.concatenate([[self.nodes[start]], line.points[1:-1], [self.nodes[end]]])
        self.add(start, end, points, line.width)

    def close(self, gap: float) -> None:
        """Joins ends with lines that they face, at most this far away, the nearest first."""
        while gap and self._joined(gap):
            pass

    def _joined(self, gap: float) -> bool:
        """Joins the ends that none joined before keeps from it, and returns whether there were any."""
        joined = False
        for _, node, number, index in sorted(self._candidates(gap)):
            if number not in self.lines or not self.dead(node):  # joined before
                continue
            joined, line = True, self.lines[number]
            width = self.lines[self.at[node][0]].width
            target = {0: line.start, len(line.points) - 1: line.end}.get(index)
            if target is None:
                target = self._split(number, index)
            self.add(node, target, np.stack([self.nodes[node], self.nodes[target]]), width)
            for each in (node, target):
                self.dissolve(each)
        return joined

    def _split(self, number: int, index: int) -> int:
        """Makes a point of a line a node and returns its number."""
        line = self.remove(number)
        node = next(self.fresh)
        self.nodes[node] = line.points[index]
        self.add(line.start, node, line.points[: index + 1], line.width)
        self.add(node, line.end, line.points[index:], line.width)
        return node

    def _candidates(self, gap: float) -> Iterator[tuple[float, int, int, int]]:
        """Yields distance, end, line and number of the line's nearest point, for every line that an end faces."""
        from scipy.spatial import cKDTree  # type: ignore[import-untyped]  # scipy has no type information

        ends = [node for node, lines in self.at.items() if len(lines) == 1]
        if not ends:
            return
        numbers = list(self.lines)
        points = np.concatenate([self.lines[number].points for number in numbers])
        counts = [len(self.lines[number].points) for number in numbers]
        firsts = np.cumsum([0, *counts])
        tree = cKDTree(points)
        for node, near in zip(ends, tree.query_ball_point([self.nodes[end] for end in ends], gap), strict=True):
            place, own = self.nodes[node], self.at[node][0]
            heading = self._heading(node)
            nearest: dict[int, tuple[float, int]] = {}
            for point in near:
                position = int(np.searchsorted(firsts, point, side="right")) - 1
                candidate = float(np.hypot(*(points[point] - place))), int(point - firsts[position])
                nearest[position] = min(nearest.get(position, candidate), candidate)
            for position, (_, index) in nearest.items():
                number, line = numbers[position], self.lines[numbers[position]]
                if number == own:  # only its other end, if it is nearly a ring
                    other = line.end if line.start == node else line.start
                    if not self.dead(other) or line.length < 3 * gap:
                        continue
                    index = 0 if line.start == other else len(line.points) - 1
                toward = line.points[index] - place
                distance = float(np.hypot(*toward))
                facing = [heading @ toward]
                terminal = {0: line.start, len(line.points) - 1: line.end}.get(index)
                if terminal is not None and self.dead(terminal):
                    facing.append(-self._heading(terminal) @ toward)
                if distance <= gap and min(facing) >= FACING * distance:
                    yield distance, node, number, index

    def _heading(self, node: int) -> Points:
        """Returns the direction in which a line ends, a unit vector."""
        line = self.lines[self.at[node][0]]
        points = line.points if line.end == node else line.points[::-1]
        along = np.cumsum(np.hypot(*np.diff(points[::-1], axis=0).T))
        back = points[::-1][min(int(np.searchsorted(along, AHEAD)) + 1, len(points) - 1)]
        step = points[-1] - back
        direction: Points = step / max(float(np.hypot(*step)), 1e-9)
        return direction

    def graph(self, tolerance: float) -> RoadGraph:
        """Returns the simplified lines, from the top left, and the nodes that they touch."""
        for node in list(self.at):
            self.dissolve(node)
        lines = list(self.lines.values())
        used = sorted({node for line in lines for node in (line.start, line.end)}, key=self._reading)
        numbers = {node: number for number, node in enumerate(used)}
        edges = [
            Edge(numbers[line.start], numbers[line.end], _simplified(line.points, tolerance), line.width)
            for line in lines
        ]
        edges.sort(key=lambda edge: (edge.start, edge.end, *edge.points[:2].ravel().tolist()))
        nodes = np.array([self.nodes[node] for node in used]).reshape(-1, 2)
        return RoadGraph(nodes, edges)

    def _reading(self, node: int) -> tuple[float, float]:
        x, y = self.nodes[node]
        return float(y), float(x)


def _simplified(points: Points, tolerance: float) -> Points:
    """Returns a line without the points that are no further than this from the rest."""
    if np.array_equal(points[0], points[-1]) and len(points) > 3:  # OpenCV would take a ring for a closed outline
        middle = len(points) // 2
        halves: Sequence[Points] = [_simplified(part, tolerance) for part in (points[: middle + 1], points[middle:])]
        return np.concatenate([halves[0], halves[1][1:]])
    kept = cv2.approxPolyDP((points - points[0]).astype(np.float32), tolerance, closed=False)
    simple: Points = kept.reshape(-1, 2).astype(np.float64) + points[0]
    return simple
