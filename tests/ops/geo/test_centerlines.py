from collections.abc import Sequence

import cv2
import networkx
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from shapely import LineString, MultiLineString
from skimage.morphology import skeletonize

from ops.geo import centerlines
from ops.geo.centerlines import center_lines, skeleton
from ops.geo.roadgraph import Edge, RoadGraph
from tests.checks import rejects

Mask = NDArray[np.bool_]
Place = tuple[float, float]


def drawn(size: tuple[int, int], *lines: Sequence[Place], width: int = 9) -> Mask:
    canvas = np.zeros(size, np.uint8)
    for line in lines:
        cv2.polylines(canvas, [np.array(line, np.int32)], False, 1, width)
    return canvas.astype(bool)


def network(seed: int, size: int = 500) -> Mask:
    """Streets in any direction that stay away from the edges."""
    rng = np.random.default_rng(seed)
    return drawn((size, size), *(rng.integers(40, size - 40, (3, 2)).tolist() for _ in range(9)), width=11)


def degrees(graph: RoadGraph) -> list[int]:
    return np.bincount([n for each in graph.edges for n in (each.start, each.end)], minlength=len(graph.nodes)).tolist()


def shape(graph: RoadGraph) -> MultiLineString:
    return MultiLineString([each.points for each in graph.edges])


def check(graph: RoadGraph) -> None:
    """Lines begin and end at their nodes, and no node is only passed."""
    for each in graph.edges:
        np.testing.assert_allclose(each.points[[0, -1]], graph.nodes[[each.start, each.end]])
        assert each.length == pytest.approx(LineString(each.points).length)
    assert 0 not in degrees(graph)


@pytest.mark.parametrize("width", [5, 8, 13, 20])
def test_a_crossing_has_four_arms_that_reach_the_edges_of_the_image(width: int) -> None:
    mask = np.zeros((201, 301), bool)
    mask[100 - width // 2 :][:width] = mask[:, 140 - width // 2 :][:, :width] = True
    graph = center_lines(mask)
    check(graph)
    assert sorted(degrees(graph)) == [1, 1, 1, 1, 4]
    expected = MultiLineString([[(0, 100), (300, 100)], [(140, 0), (140, 200)]])
    assert shape(graph).hausdorff_distance(expected) <= 1.5
    assert graph.length == pytest.approx(500, abs=3)
    for each in graph.edges:
        assert each.width == pytest.approx(width, abs=1.5)


@pytest.mark.parametrize("seed", range(4))
def test_lines_have_the_pieces_and_loops_of_the_mask(seed: int) -> None:
    """By Euler: a graph has as many loops as it has edges more than nodes and one per piece; a mask has holes."""
    mask = network(seed)
    graph = center_lines(mask, spur=0, gap=0, tolerance=0)
    check(graph)
    lines = networkx.MultiGraph([(each.start, each.end) for each in graph.edges])
    pieces = ndimage.label(mask, np.ones((3, 3)))[1]
    holes = ndimage.label(~mask)[1] - 1
    assert networkx.number_connected_components(lines) == pieces
    assert lines.number_of_edges() - lines.number_of_nodes() + pieces == holes > 0


def test_lines_follow_the_streets_that_were_drawn() -> None:
    streets = [[(60, 60), (250, 90), (420, 400)], [(60, 400), (420, 60)]]
    graph = center_lines(drawn((480, 480), *streets))
    check(graph)
    assert sorted(degrees(graph)) == [1, 1, 1, 1, 4]
    found, true = shape(graph), MultiLineString(streets)
    assert max(found.distance(LineString(street).interpolate(0.5, normalized=True)) for street in streets) < 2
    assert all(true.distance(LineString(each.points).interpolate(place, normalized=True)) < 2.5
               for each in graph.edges for place in np.linspace(0, 1, 20))  # fmt: skip
    assert found.length == pytest.approx(true.length, rel=0.02)


@pytest.mark.parametrize("height", [64, 199, 1000])
def test_strips_thin_like_the_whole(height: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(height)
    mask = drawn((height, 300), *(rng.integers(0, (300, height), (2, 2)).tolist() for _ in range(12)), width=7)
    mirrored = np.pad(mask, 128, mode="reflect")
    whole = skeletonize(mirrored)[128:-128, 128:-128]
    depth = ndimage.distance_transform_edt(np.pad(mirrored, 1))[129:-129, 129:-129]
    monkeypatch.setattr(centerlines, "ROWS", 64)
    monkeypatch.setattr(centerlines, "MARGIN", 40)
    pixels, depths = skeleton(mask[top : top + 23] for top in range(0, height, 23))
    np.testing.assert_array_equal(pixels, np.argwhere(whole))
    np.testing.assert_allclose(depths, depth[whole], rtol=1e-6)


@pytest.mark.parametrize(("tooth", "kept"), [(14, False), (60, True)])
def test_short_side_branches_go(tooth: int, kept: bool) -> None:
    mask = drawn((200, 300), [(20, 100), (280, 100)], [(150, 100), (150, 100 - tooth)], width=7)
    graph = center_lines(mask, spur=20)
    assert sorted(degrees(graph)) == ([1, 1, 1, 3] if kept else [1, 1])


def test_lone_specks_go_and_rings_stay() -> None:
    mask = drawn((200, 300), [(30, 30), (38, 30)], width=5)
    cv2.circle(ring := mask.astype(np.uint8), (180, 100), 60, 1, 9)
    graph = center_lines(ring > 0, spur=30)
    [edge] = graph.edges
    assert edge.start == edge.end == 0
    assert edge.length == pytest.approx(2 * np.pi * 60, rel=0.03)
    assert np.hypot(*(edge.points - [180, 100]).T) == pytest.approx(60, abs=2.5)
    assert not center_lines(mask, spur=30).edges


def test_rings_and_specks_without_any_crossing() -> None:
    """Thinned to a ring without an end, and to single pixels."""
    ring = np.zeros((200, 300), np.uint8)
    cv2.circle(ring, (150, 100), 60, 1, 1)
    [edge] = center_lines(ring > 0, spur=0, gap=0).edges
    assert edge.length == pytest.approx(2 * np.pi * 60, rel=0.1)
    specks = np.zeros((50, 60), bool)
    specks[10::15, 10::15] = True
    assert not center_lines(specks, spur=0, gap=0).edges


def test_pinholes_are_no_blocks() -> None:
    mask = drawn((200, 300), [(20, 100), (280, 100)], width=25)
    assert len(center_lines(mask).edges) == 1
    for column in range(60, 240, 7):
        mask[98 : 98 + column % 4, column] = False
    assert len(center_lines(mask, spur=0, gap=0).edges) > 20
    graph = center_lines(mask, spur=20)
    assert degrees(graph) == [1, 1]
    assert graph.length == pytest.approx(260, abs=15)
    block = drawn((200, 300), [(20, 100), (280, 100)], [(100, 60), (200, 60), (200, 140), (100, 140), (100, 60)])
    assert len(center_lines(block, spur=20).edges) > 4


def test_gaps_are_closed_where_ends_face_each_other() -> None:
    dashes = [[(20, 50), (100, 50)], [(116, 52), (200, 52)]]
    assert len(center_lines(drawn((100, 220), *dashes, width=5), gap=20).edges) == 1
    assert len(center_lines(drawn((100, 220), *dashes, width=5), gap=8).edges) == 2
    beside = [[(20, 40), (100, 40)], [(20, 52), (100, 52)]]  # neighbors, not a street with a gap
    assert len(center_lines(drawn((100, 120), *beside, width=5), gap=20).edges) == 2
    across = [[(20, 40), (180, 40)], [(100, 56), (100, 140)]]  # a side street whose mouth is hidden
    graph = center_lines(drawn((180, 200), *across, width=5), gap=20)
    check(graph)
    assert sorted(degrees(graph)) == [1, 1, 1, 3]
    broken = drawn((300, 300), [(0, 0)])
    cv2.ellipse(almost := broken.astype(np.uint8), (150, 150), (90, 90), 0, 5, 355, 1, 7)
    assert degrees(center_lines(almost > 0, gap=25)) == [2]


def test_a_map_has_the_places_of_rasterio() -> None:
    transform = pytest.importorskip("rasterio.transform")
    affine = transform.Affine(0.3, 0.1, 500_000, 0.05, -0.3, 4_000_000)
    points = np.array([[0.0, 0.0], [10.0, 20.0]])
    moved = RoadGraph(points, [Edge(0, 1, points, 6)]).transformed(tuple(affine)[:6])
    expected = np.transpose(transform.xy(affine, points[:, 1], points[:, 0]))
    np.testing.assert_allclose(moved.nodes, expected)
    np.testing.assert_allclose(moved.edges[0].points, expected)
    assert moved.edges[0].width == pytest.approx(6 * abs(affine.determinant) ** 0.5)


def test_nothing_and_everything() -> None:
    for mask in (np.zeros((40, 50), bool), np.zeros((1, 1), bool)):
        graph = center_lines(mask)
        assert graph.nodes.shape == (0, 2)
        assert graph.length == 0
    center_lines(np.ones((40, 50), bool))
    rejects("spur -1", center_lines, np.ones((4, 5), bool), spur=-1)


def test_what_is_wider_than_a_road_has_no_center_line() -> None:
    mask = np.zeros((700, 900), bool)
    mask[100:600, 100:500] = mask[340:360, 500:] = True  # a field, and a road that leads to it
    graph = center_lines(mask)
    check(graph)
    road = [each for each in graph.edges if each.points[:, 0].max() > 800]
    assert [each.width for each in road] == [pytest.approx(20, abs=4)]
    deep = ndimage.distance_transform_edt(mask)
    for each in graph.edges:
        x, y = np.rint(each.points).astype(int).T
        assert deep[y, x].max() <= 64
