"""Compares road networks by the lengths of their routes.

Average path length similarity (APLS) of Van Etten, Lindenbaum and Bacastow, "SpaceNet: a remote sensing dataset and
challenge series", arXiv:1807.01232.
"""

import numpy as np
from numpy.typing import NDArray

from ops.geo.roadgraph import Points, RoadGraph

STRAIGHT = 0.03  # share by which a line may exceed the diagonal of its box and still get no point of its own
NEAR = 1e-6  # places at this distance are one


def path_similarity(
    truth: RoadGraph, found: RoadGraph, snap: float = 4.0, spacing: float = 50.0, least: float = 10.0, most: int = 500
) -> float | None:
    """Returns the APLS of a found network, in [0, 1]: 1 if all its routes are as long as the true ones.

    Points are put on the nodes of one network, and on its lines where they bend; their nearest places on the other
    network are looked up; and 1 minus the mean relative difference between the lengths of all routes between them is
    taken, where a route that is missing counts 1, and none more. The APLS is the harmonic mean of both directions.

    Lengths have the unit of the networks: the defaults are the reference implementation's, in meters.

    Args:
        truth: The true network.
        found: The found one.
        snap: Largest distance between a point and its place on the other network.
        spacing: Distance of the points along bent lines.
        least: Shortest route that counts.
        most: Most points of a network; of more, as many are taken evenly from its list of nodes.

    Returns:
        The APLS; None if there is no true route.
    """
    recall = _one_way(truth, found, snap, spacing, least, most)
    if recall is None:
        return None
    precision = _one_way(found, truth, snap, spacing, least, most)
    return 2 * recall * precision / (recall + precision) if recall and precision else 0.0


def _one_way(one: RoadGraph, other: RoadGraph, snap: float, spacing: float, least: float, most: int) -> float | None:
    """Returns the similarity of the routes between points of one network to those on the other."""
    edges, along, points = _control_points(one, spacing)
    chosen = np.unique(np.linspace(0, len(points) - 1, min(most, len(points))).round().astype(int))
    own = _routes(one, edges[chosen], along[chosen])
    counted = np.isfinite(own) & (own >= least) & np.triu(np.ones_like(own, np.bool_), 1)
    if not counted.any():
        return None
    matched_edges, matched_along = _nearest(other, points[chosen], snap)
    there = matched_edges >= 0
    theirs = np.full_like(own, np.inf)
    theirs[np.ix_(there, there)] = _routes(other, matched_edges[there], matched_along[there])
    with np.errstate(invalid="ignore", divide="ignore"):
        differences = np.minimum(1, np.abs(own - theirs) / own)[counted]
    return float(1 - differences.mean())


def _control_points(graph: RoadGraph, spacing: float) -> tuple[NDArray[np.int64], NDArray[np.float64], Points]:
    """Returns edge, length along it and place of each node, then of the points on bent lines."""
    at_nodes: dict[int, tuple[int, float]] = {}
    on_lines: list[tuple[int, float]] = []
    for number, edge in enumerate(graph.edges):
        total = edge.length
        at_nodes.setdefault(edge.start, (number, 0.0))
        at_nodes.setdefault(edge.end, (number, total))
        diagonal = float(np.hypot(*np.ptp(edge.points, axis=0)))
        if total >= 0.75 * spacing and abs(total - diagonal) >= STRAIGHT * total:
            parts = max(2, round(total / spacing))
            on_lines += [(number, total * part / parts) for part in range(1, parts)]
    every = [at_nodes[node] for node in sorted(at_nodes)] + on_lines
    points = np.array([_place(graph.edges[number].points, along) for number, along in every]).reshape(-1, 2)
    edges = np.array([number for number, _ in every], np.int64)
    return edges, np.array([along for _, along in every]), points


def _place(points: Points, along: float) -> Points:
    """Returns the place at a length along a line."""
    lengths = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))])
    return np.array([np.interp(along, lengths, axis) for axis in points.T])


def _nearest(graph: RoadGraph, points: Points, most: float) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Returns the edge on which the nearest place of each point lies, -1 if it is too far, and the length up to it."""
    from scipy.spatial import cKDTree  # type: ignore[import-untyped]  # scipy has no type information

    found, along = np.full(len(points), -1), np.zeros(len(points))
    if not graph.edges or not len(points):
        return found, along
    starts = np.concatenate([edge.points[:-1] for edge in graph.edges])
    steps = np.concatenate([np.diff(edge.points, axis=0) for edge in graph.edges])
    lengths = np.hypot(*steps.T)
    owner = np.repeat(np.arange(len(graph.edges)), [len(edge.points) - 1 for edge in graph.edges])
    before = np.cumsum(lengths) - lengths
    before -= before[np.searchsorted(owner, owner)]  # lengths start anew on each edge
    # of every segment samples that lie so close that one of the nearest segment is in the circle that is searched
    counts = np.ceil(lengths / most).astype(int) + 1
    segment = np.repeat(np.arange(len(starts)), counts)
    first = np.repeat(np.cumsum(counts) - counts, counts)
    shares = (np.arange(len(segment)) - first) / (np.repeat(counts, counts) - 1)
    tree = cKDTree(starts[segment] + shares[:, None] * steps[segment])
    for number, (point, near) in enumerate(zip(points, tree.query_ball_point(points, 1.2 * most), strict=True)):
        if not near:
            continue
        some = np.unique(segment[near])
        offsets = point - starts[some]
        share = np.clip((offsets * steps[some]).sum(1) / np.maximum(lengths[some] ** 2, NEAR**2), 0, 1)
        distances = np.hypot(*(offsets - share[:, None] * steps[some]).T)
        best = int(distances.argmin())
        if distances[best] <= most:
            found[number] = owner[some[best]]
            along[number] = before[some[best]] + share[best] * lengths[some[best]]
    return found, along


def _routes(graph: RoadGraph, edges: NDArray[np.int64], along: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the lengths (N, N) of the shortest routes between places on a network, inf where there is none."""
    from scipy.sparse import csr_array  # type: ignore[import-untyped]  # scipy has no type information
    from scipy.sparse.csgraph import dijkstra  # type: ignore[import-untyped]  # as above

    count = len(graph.nodes)
    names = np.zeros(len(edges), np.int64)  # of the places among the nodes of the network that they make
    segments: dict[tuple[int, int], float] = {}
    on_edge: dict[int, list[int]] = {}
    for number, edge in enumerate(edges.tolist()):
        on_edge.setdefault(edge, []).append(number)
    for number, line in enumerate(graph.edges):
        total, last, reached = line.length, line.start, 0.0
        stops = sorted(on_edge.get(number, []), key=lambda place: float(along[place]))
        for place in stops:
            if along[place] >= total - NEAR:
                names[place] = line.end
                continue
            if along[place] > reached + NEAR:
                _keep_shorter(segments, last, count, float(along[place]) - reached)
                last, reached, count = count, float(along[place]), count + 1
            names[place] = last
        _keep_shorter(segments, last, line.end, total - reached)
    if not len(edges):
        return np.zeros((0, 0))
    ends = np.array(list(segments)).reshape(-1, 2)
    table = csr_array((list(segments.values()), tuple(ends.T)), (count, count))
    used, back = np.unique(names, return_inverse=True)
    routes: NDArray[np.float64] = dijkstra(table, directed=False, indices=used)[back][:, names]
    return routes


def _keep_shorter(segments: dict[tuple[int, int], float], one: int, other: int, length: float) -> None:
    """Adds a segment, unless a shorter one joins the same places."""
    key = (min(one, other), max(one, other))
    if one != other:
        segments[key] = min(length, segments.get(key, length))
