import cv2
import numpy as np
import pytest
from matplotlib.path import Path as Outline
from numpy.typing import NDArray
from scipy import ndimage
from scipy.interpolate import CubicSpline

from ops.masks.polygons import intersection_over_union, polygon_mask, rings, simplified, smoothed
from tests.checks import rejects

Mask = NDArray[np.bool_]
Ring = NDArray[np.float64]


def mask_of(*rows: str) -> Mask:
    return np.array([[letter == "#" for letter in row] for row in rows])


def blobs(height: int = 480, width: int = 320, deviation: float = 14, seed: int = 0) -> Mask:
    """Smooth regions with holes, some of them cut by the image's edges."""
    noise = np.random.default_rng(seed).standard_normal((height, width))
    return cv2.GaussianBlur(noise, (0, 0), deviation) > -0.15 / deviation


def area(ring: Ring) -> float:
    x, y = ring.T
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def area_by_squares(mask: Mask) -> float:
    """The area that marching squares gives, square by square: what the corners in the mask cut off or leave."""
    padded = np.pad(mask, 1).astype(int)
    corners = np.stack([padded[:-1, :-1], padded[:-1, 1:], padded[1:, 1:], padded[1:, :-1]])
    areas = np.array([0, 1 / 8, 1 / 2, 7 / 8, 1])[corners.sum(0)]
    areas[(corners.sum(0) == 2) & (corners[0] == corners[2])] = 3 / 4  # pixels at a corner join
    return float(areas.sum())


def contains_centres(outlines: list[Ring], size: tuple[int, int]) -> Mask:
    """Even-odd by matplotlib's test for points in a path."""
    rows, columns = np.indices(size)
    centres = np.stack([columns.ravel(), rows.ravel()], axis=1)
    inside = np.zeros(len(centres), dtype=bool)
    for ring in outlines:
        inside ^= Outline(np.concatenate([ring, ring[:1]]), closed=True).contains_points(centres)
    return inside.reshape(size)


def distances_to(ring: Ring, points: Ring) -> Ring:
    """How far each point is from the nearest of a ring's edges."""
    edges = np.roll(ring, -1, axis=0) - ring
    offsets = points[:, np.newaxis] - ring
    shares = np.clip((offsets * edges).sum(2) / (edges**2).sum(1), 0, 1)
    return np.linalg.norm(offsets - shares[..., np.newaxis] * edges, axis=2).min(axis=1)


@pytest.mark.parametrize("density", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_rings_give_back_any_mask(density: float) -> None:
    generator = np.random.default_rng(int(10 * density))
    for size in generator.integers(1, 12, (60, 2)).tolist():
        mask = generator.random(size) < density
        np.testing.assert_array_equal(polygon_mask(rings(mask), mask.shape), mask)
        np.testing.assert_array_equal(contains_centres(rings(mask), mask.shape), mask)
        np.testing.assert_array_equal(polygon_mask(simplified(rings(mask), tolerance=0), mask.shape), mask)


@pytest.mark.parametrize("density", [0.3, 0.5, 0.7])
def test_rings_are_those_of_marching_squares(density: float) -> None:
    mask = np.random.default_rng(0).random((40, 30)) < density
    areas = np.array([area(ring) for ring in rings(mask)])
    regions = ndimage.label(mask, np.ones((3, 3)))[1]
    holes = ndimage.label(np.pad(~mask, 1, constant_values=True))[1] - 1
    assert ((areas > 0).sum(), (areas < 0).sum()) == (regions, holes)
    assert areas.sum() == area_by_squares(mask)


def test_a_region_with_a_hole_by_hand() -> None:
    region, hole = sorted(rings(mask_of("###", "#.#", "###")), key=area, reverse=True)
    corners = [[-0.5, 0], [0, -0.5], [2, -0.5], [2.5, 0], [2.5, 2], [2, 2.5], [0, 2.5], [-0.5, 2]]
    assert sorted(region.tolist()) == sorted(corners)
    assert sorted(hole.tolist()) == [[0.5, 1], [1, 0.5], [1, 1.5], [1.5, 1]]
    assert (area(region), area(hole)) == (9 - 4 / 8, -1 / 2)


def test_pixels_that_touch_at_a_corner_share_a_ring() -> None:
    assert len(rings(np.eye(50, dtype=bool))) == 1
    assert len(rings(mask_of("##..", "##..", "..##", "..##"))) == 1
    assert len(rings(mask_of("##.##"))) == 2
    assert len(rings(mask_of("####", "#.##", "##.#", "####"))) == 3  # so that background at a corner does not


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (6, 8)])
def test_empty_and_full_masks(size: tuple[int, int]) -> None:
    assert rings(np.zeros(size, dtype=bool)) == []
    assert simplified([]) == smoothed([]) == []
    assert not polygon_mask([], size).any()
    full = np.ones(size, dtype=bool)
    (ring,) = rings(full)
    assert (ring.min(0).tolist(), ring.max(0).tolist()) == ([-0.5, -0.5], [size[1] - 0.5, size[0] - 0.5])
    assert polygon_mask([ring], size).all()


def test_painting_is_even_odd_like_matplotlib() -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        outlines = [generator.uniform(-10, 40, (count, 2)) for count in (3, 5, 12)]  # across themselves and the edges
        mask = polygon_mask(outlines, (23, 31))
        np.testing.assert_array_equal(mask, contains_centres(outlines, (23, 31)))
        assert mask.any()
        assert not mask.all()


def test_centers_on_a_ring_belong_to_its_left_and_top() -> None:
    square = np.array([[1.0, 1], [3, 1], [3, 3], [1, 3]])
    assert np.argwhere(polygon_mask([square], (5, 5))).tolist() == [[1, 1], [1, 2], [2, 1], [2, 2]]
    diamond = np.array([[2.0, 0], [4, 2], [2, 4], [0, 2]])
    right = diamond + np.array([4, 0])
    assert not (polygon_mask([diamond], (5, 9)) & polygon_mask([right], (5, 9))).any()
    assert polygon_mask([diamond], (5, 9)).sum() == 8  # its area: tiles that touch share no pixel and miss none


@pytest.mark.parametrize("seed", range(3))
def test_a_simplified_blob_is_nearly_the_mask_with_few_points(seed: int) -> None:
    mask = blobs(seed=seed)
    outlines = rings(mask)
    few = simplified(outlines)
    assert min(map(area, outlines)) < 0  # there is a hole
    assert sum(map(len, few)) < sum(map(len, outlines)) / 3
    assert intersection_over_union(mask, polygon_mask(few, mask.shape)) > 0.98


@pytest.mark.parametrize("tolerance", [0.5, 1.0, 2.0, 4.0])
def test_simplified_rings_stay_near(tolerance: float) -> None:
    for ring in rings(blobs(200, 200, 8)):
        for few in simplified([ring], tolerance):
            assert distances_to(few, ring).max() <= 1.71 * tolerance
            assert set(map(tuple, few.tolist())) <= set(map(tuple, ring.tolist()))


def test_simplifying_by_hand() -> None:
    bump = np.array([[0.0, 0], [5, -0.875], [10, 0], [10, 10], [0, 10]])
    assert simplified([bump], 0.8)[0].tolist() == bump.tolist()
    assert sorted(simplified([bump], 1.0)[0].tolist()) == [[0, 0], [0, 10], [10, 0], [10, 10]]
    triangle = np.array([[0.0, 0], [20, 0], [0, 20]])
    assert len(simplified([triangle])[0]) == 3
    assert simplified(rings(mask_of("#"))) == []
    assert simplified([triangle[:2], triangle[:0]]) == []


def test_a_smoothed_ring_is_the_periodic_smoothing_spline() -> None:
    square = np.array([[0.0, 0], [10, 0], [10, 10], [0, 10]])
    side, zeros, tens = np.arange(0, 10, 0.5), np.zeros(20), np.full(20, 10.0)
    x, y = np.concatenate([side, tens, 10 - side, zeros]), np.concatenate([zeros, side, tens, 10 - side])
    unit = np.eye(80)
    spline = CubicSpline(np.arange(81) / 2, np.concatenate([unit, unit[:1]]), bc_type="periodic")
    bends = spline(np.arange(81) / 2, 2)  # second derivatives at the knots, linear in between
    before, after = bends[:-1], bends[1:]
    roughness = (2 * before.T @ before + 2 * after.T @ after + before.T @ after + after.T @ before) / 12
    expected = np.linalg.solve(unit / 2 + (6 / (2 * np.pi)) ** 4 * roughness, np.stack([x, y], axis=1) / 2)
    (smooth,) = smoothed([square], step=4, smoothness=6)
    np.testing.assert_allclose(smooth, expected[::8], atol=1e-9)


def test_smoothness_is_the_length_of_waves_that_are_halved() -> None:
    turn = np.linspace(0, 2 * np.pi, 5000, endpoint=False)
    radius = 100 + 0.2 * np.cos(40 * turn)
    ring = np.stack([radius * np.cos(turn), radius * np.sin(turn)], axis=1) + 200
    for smoothness, share in ((2 * np.pi * 100 / 40, 1 / 2), (2 * np.pi * 100 / 20, 1 / 17), (0, 1)):
        (smooth,) = smoothed([ring], step=1, smoothness=smoothness)
        distances = np.linalg.norm(smooth - 200, axis=1)
        assert np.ptp(distances) / 0.4 == pytest.approx(share, abs=0.02)
        assert distances.mean() == pytest.approx(100, abs=0.01)


def test_smoothed_rings_have_points_a_step_apart_and_keep_the_mask() -> None:
    mask = blobs()
    outlines = rings(mask)
    smooth = smoothed(outlines)
    assert len(smooth) == len(outlines)
    for ring in smooth:
        gaps = np.linalg.norm(np.roll(ring, -1, axis=0) - ring, axis=1)
        assert gaps.max() < 4.5
        assert len(ring) >= 8
    assert intersection_over_union(mask, polygon_mask(smooth, mask.shape)) > 0.98
    assert intersection_over_union(mask, polygon_mask(smoothed(simplified(outlines)), mask.shape)) > 0.97


def test_small_regions_do_not_shrink() -> None:
    rows, columns = np.indices((9, 9))
    for radius in (0.5, 1.5, 3.5):
        outlines = rings((rows - 4) ** 2 + (columns - 4) ** 2 <= radius**2)
        assert area(smoothed(outlines, smoothness=1000)[0]) == pytest.approx(area(outlines[0]), rel=0.12)
    assert smoothed([np.ones((3, 2))]) == []


def test_intersection_over_union_by_hand() -> None:
    assert intersection_over_union(mask_of("##.."), mask_of(".##.")) == 1 / 3
    assert intersection_over_union(mask_of("...."), mask_of(".##.")) == 0
    assert intersection_over_union(mask_of("...."), mask_of("....")) == 1


def test_rejects_wrong_arguments() -> None:
    mask, ring = mask_of("##"), np.zeros((3, 2))
    rejects(r"one mask .*\(1, 1, 2\)", rings, mask[np.newaxis])
    rejects("tolerance of 0 pixels or more, got -1", simplified, [ring], -1)
    rejects(r"expected a step above 0 .* got 0 and 1", smoothed, [ring], 0, 1)
    rejects(r"ring 1 of 2 with shape \(2, 3\)", polygon_mask, [ring, ring.T], (4, 4))
    rejects(r"ring 0 of 1 .* 6 values that are not finite", polygon_mask, [ring + np.nan], (4, 4))
    rejects(r"masks of one shape, got \(1, 2\) and \(2, 1\)", intersection_over_union, mask, mask.T)
