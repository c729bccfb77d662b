import csv
import json
import math
import re
from itertools import combinations
from pathlib import Path

import networkx
import numpy as np
import pytest
from numpy.typing import NDArray
from shapely import LineString, Point

from benchmarks.center_lines import UTM, roads
from ops.geo.apls import path_similarity
from ops.geo.centerlines import center_lines
from ops.geo.ground import transformed
from ops.geo.labels import VectorLabels, rasterized
from ops.geo.rasters import georeference
from ops.geo.roadgraph import RoadGraph, graph_of

Place = tuple[int, float]  # a line, and the length up to the place
CORNERS = [(0, 0), (100, 0), (100, 100), (0, 100)]
SIDES = [*zip(CORNERS, CORNERS[1:] + CORNERS[:1], strict=True)]


def graph(*lines: object) -> RoadGraph:
    return graph_of([np.array(line, float) for line in lines])


def harmonic(one: float, other: float) -> float:
    return 2 * one * other / (one + other)


def by_networkx(truth: RoadGraph, found: RoadGraph, snap: float, spacing: float, least: float) -> float:
    """By shapely and networkx, without cutting lines: a route leaves its line at either end, or stays on it."""
    return harmonic(_one_way(truth, found, snap, spacing, least), _one_way(found, truth, snap, spacing, least))


def _one_way(one: RoadGraph, other: RoadGraph, snap: float, spacing: float, least: float) -> float:
    places: list[Place] = []
    for node in range(len(one.nodes)):
        line = next(k for k, each in enumerate(one.edges) if node in (each.start, each.end))
        places.append((line, 0.0 if one.edges[line].start == node else LineString(one.edges[line].points).length))
    for line, each in enumerate(one.edges):
        string = LineString(each.points)
        west, south, east, north = string.bounds
        if string.length >= 0.75 * spacing and string.length - math.hypot(east - west, north - south) > 0.03 * (
            string.length
        ):
            parts = max(2, round(string.length / spacing))
            places += [(line, string.length * part / parts) for part in range(1, parts)]
    points = [LineString(one.edges[line].points).interpolate(along) for line, along in places]
    matched = [_nearest(other, point, snap) for point in points]
    inner, outer = _between(one), _between(other)
    costs = []
    for a, b in combinations(range(len(places)), 2):
        own = _route(one, inner, places[a], places[b])
        if not least <= own < math.inf:
            continue
        p, q = matched[a], matched[b]
        theirs = math.inf if p is None or q is None else _route(other, outer, p, q)
        costs.append(min(1.0, abs(own - theirs) / own))
    return 1 - float(np.mean(costs))


def _nearest(graph: RoadGraph, point: Point, snap: float) -> Place | None:
    strings = [LineString(each.points) for each in graph.edges]
    distance, line = min((string.distance(point), k) for k, string in enumerate(strings))
    return (line, strings[line].project(point)) if distance <= snap else None


def _between(graph: RoadGraph) -> dict[int, dict[int, float]]:
    network = networkx.MultiGraph()
    for each in graph.edges:
        network.add_edge(each.start, each.end, weight=LineString(each.points).length)
    return dict(networkx.all_pairs_dijkstra_path_length(network))


def _route(graph: RoadGraph, between: dict[int, dict[int, float]], one: Place, other: Place) -> float:
    routes = [abs(one[1] - other[1])] if one[0] == other[0] else []
    for a, there in _ways_out(graph, one):
        for b, back in _ways_out(graph, other):
            routes.append(there + between[a].get(b, math.inf) + back)
    return min(routes)


def _ways_out(graph: RoadGraph, place: Place) -> list[tuple[int, float]]:
    edge = graph.edges[place[0]]
    return [(edge.start, place[1]), (edge.end, LineString(edge.points).length - place[1])]


def town(seed: int, shift: float = 0.0, lost: float = 0.0) -> RoadGraph:
    """A bent grid of streets, some of which are lost, moved by some meters."""
    rng = np.random.default_rng(seed)
    moved = np.random.default_rng(seed + 1)
    nodes = {(i, j): np.array([80.0 * i, 80.0 * j]) + rng.normal(0, 12, 2) for i in range(4) for j in range(4)}
    lines = []
    for (i, j), node in nodes.items():
        for other in ((i + 1, j), (i, j + 1)):
            if other in nodes:
                bend = (node + nodes[other]) / 2 + rng.normal(0, 14, 2)
                line = np.stack([node, bend, nodes[other]])
                if moved.random() >= lost:
                    lines.append(line + shift * np.sin(line[:, ::-1]))
    return graph_of(lines)


@pytest.mark.parametrize("seed", range(5))
def test_routes_are_those_of_networkx(seed: int) -> None:
    truth, found = town(seed), town(seed, shift=0.5, lost=0.25)
    for snap in (1.0, 4.0, 30.0):
        expected = by_networkx(truth, found, snap, 50, 10)
        assert path_similarity(truth, found, snap) == pytest.approx(expected, abs=1e-9)
    assert 0.1 < expected < 0.99


def test_the_true_network_is_perfect() -> None:
    assert path_similarity(town(0), town(0)) == pytest.approx(1)
    parallel = graph([(0, 0), (100, 0)], [(0, 0), (50, 80), (100, 0)])  # two roads between the same crossings
    assert path_similarity(parallel, parallel) == 1


def test_a_lost_road_by_hand() -> None:
    """Of the routes AB, BC and AC two are missing; both of the found nodes' are right."""
    truth, found = graph([(0, 0), (100, 0)], [(100, 0), (200, 0)]), graph([(0, 0), (100, 0)])
    assert path_similarity(truth, found) == pytest.approx(harmonic(1 / 3, 1))
    assert path_similarity(found, truth) == pytest.approx(harmonic(1, 1 / 3))


def test_a_detour_by_hand() -> None:
    """Around three sides instead of along one: 300 for 100, and 100 for 300 on the way back; five routes are right."""
    truth, found = graph(*SIDES), graph(*SIDES[:-1])
    assert path_similarity(truth, found) == pytest.approx(harmonic(1 - 1 / 6, 1 - (200 / 300) / 6))


def test_a_gap_by_hand() -> None:
    """The route AB is 97 for 100, AC and BC are missing; the routes within each found part are right."""
    truth = graph([(0, 0), (100, 0)], [(100, 0), (200, 0)])
    found = graph([(0, 0), (97, 0)], [(103.5, 0), (200, 0)])
    assert path_similarity(truth, found) == pytest.approx(harmonic(1 - (0.03 + 1 + 1) / 3, 1))


def test_roads_elsewhere_are_not_found() -> None:
    truth = graph(*SIDES)
    assert path_similarity(truth, graph(*[np.add(side, 2) for side in SIDES])) == pytest.approx(1, abs=0.05)
    assert path_similarity(truth, graph(*[np.add(side, 300) for side in SIDES])) == 0
    assert path_similarity(truth, graph()) == 0
    assert path_similarity(graph(), truth) is None
    assert path_similarity(graph([(0, 0), (5, 0)]), truth) is None, "no route is long enough"


def test_many_points_are_sampled() -> None:
    truth, found = town(3), town(3, shift=0.5, lost=0.2)
    every = path_similarity(truth, found)
    assert every is not None
    assert path_similarity(truth, found, most=30) == pytest.approx(every, abs=0.15)


@pytest.mark.real
def test_a_proposal_for_las_vegas_is_as_similar_as_the_reference_says(real_data: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    warp = pytest.importorskip("rasterio.warp")
    folder = real_data / "geo" / "roads_vegas"

    def meters(degrees: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.transpose(warp.transform("EPSG:4326", "EPSG:32611", *degrees.T))

    features = json.loads((folder / "img0_truth.geojson").read_text())["features"]
    truth = graph_of([meters(np.array(each["geometry"]["coordinates"])) for each in features], apart=0.01)
    with (
        rasterio.open(folder / "RGB-PanSharpen_AOI_2_Vegas_img0.tif") as image,
        (folder / "proposal_wkt.csv").open() as file,
    ):
        places = [np.array(re.findall(r"([\d.]+) ([\d.]+)", row["WKT_Pix"]), float) for row in csv.DictReader(file)]
        lines = [np.transpose(image.xy(*place.T[::-1], offset="ul")) for place in places]
    found = graph_of([meters(line) for line in lines], apart=0.01)
    reference = float(re.findall(r"Total APLS Score: ([\d.]+)", (folder / "reference_apls.txt").read_text())[0])
    assert path_similarity(truth, found) == pytest.approx(reference, abs=0.06)
    assert path_similarity(truth, found) == pytest.approx(by_networkx(truth, found, 4, 50, 10), abs=1e-9)


@pytest.mark.real
@pytest.mark.parametrize("chip", ["img990", "img991", "img995", "img997", "img998", "img999", "img99"])
def test_roads_of_openstreetmap_have_the_routes_of_networkx(real_data: Path, chip: str) -> None:
    """The original implementation's repository has these roads, but prints no APLS of them."""
    pytest.importorskip("rasterio")
    osm, truth = (
        graph_of(roads(real_data / "geo" / "roads_vegas" / f"{chip}_{source}.geojson"), apart=0.01)
        for source in ("osm", "spacenet")
    )
    found = path_similarity(truth, osm)
    assert found == pytest.approx(by_networkx(truth, osm, 4, 50, 10), abs=1e-9)
    assert 0.3 < found < 0.8, "fewer alleys, and lines some meters off"


@pytest.mark.real
def test_labels_on_the_pixels_of_an_image_have_its_roads_as_center_lines(real_data: Path) -> None:
    """From lines in degrees to a mask as in training, to center lines as in prediction, in meters."""
    pytest.importorskip("rasterio")
    folder = real_data / "geo" / "roads_vegas"
    reference = georeference(folder / "RGB-PanSharpen_AOI_2_Vegas_img0.tif")
    assert reference is not None
    labels = folder / "img0_truth.geojson"
    [shapes] = VectorLabels(labels, ("road",), None, 4.0).shapes("", reference)
    lines = center_lines(rasterized(shapes, (0, 0), reference.size), 30, 30).transformed(reference.transform)
    found = graph_of([transformed(edge.points, "EPSG:4326", UTM) for edge in lines.edges], apart=0.01)
    truth = graph_of(roads(labels), apart=0.01)
    similarity = path_similarity(truth, found)
    assert similarity is not None
    assert similarity > 0.85
    assert found.length == pytest.approx(truth.length, rel=0.05)
