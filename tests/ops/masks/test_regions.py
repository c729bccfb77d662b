import re

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from ops.masks.regions import LargeRegions, main_regions, region_overlaps, without_small_regions
from tests.checks import rejects


def flood_fill(mask: NDArray[np.bool_]) -> list[set[tuple[int, int]]]:
    """Regions of a mask as sets of (row, column), found pixel by pixel."""
    unseen = set(map(tuple, np.argwhere(mask).tolist()))
    regions = []
    while unseen:
        frontier = [unseen.pop()]
        region = set(frontier)
        while frontier:
            row, column = frontier.pop()
            neighbours = {(row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & unseen
            unseen -= neighbours
            region |= neighbours
            frontier += neighbours
        regions.append(region)
    return regions


def draw(regions: list[set[tuple[int, int]]], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    mask = np.zeros(shape, dtype=bool)
    for region in regions:
        mask[tuple(zip(*region, strict=True))] = True
    return mask


@pytest.fixture
def masks() -> NDArray[np.bool_]:
    return np.random.default_rng(0).random((4, 24, 31)) < np.array([0.2, 0.3, 0.4, 0.3]).reshape(4, 1, 1)


def test_regions_that_touch_at_a_corner_are_one() -> None:
    mask = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]], dtype=bool)
    areas, _ = region_overlaps(mask, mask)
    assert sorted(areas) == [1, 2]


def test_small_regions_are_dropped_class_by_class(masks: NDArray[np.bool_]) -> None:
    minimum_areas = [0.0, 5 / 744, 12 / 744, 1.0]  # 744 pixels
    kept = without_small_regions(masks, minimum_areas)
    for before, after, minimum_pixels in zip(masks, kept, [0, 5, 12, 744], strict=True):
        regions = [region for region in flood_fill(before) if len(region) >= minimum_pixels]
        np.testing.assert_array_equal(after, draw(regions, before.shape))
    assert masks[1].sum() > kept[1].sum() > 0
    assert masks[2].sum() > kept[2].sum() > 0


def test_region_of_exactly_the_minimum_area_is_kept() -> None:
    masks = np.zeros((1, 10, 10), dtype=bool)
    masks[0, 0, :7] = True
    # 0.07 * 100 is a little more than 7 in floating point.
    np.testing.assert_array_equal(without_small_regions(masks, [0.07]), masks)
    assert not without_small_regions(masks, [0.0701]).any()


def test_minimum_area_does_not_depend_on_resolution(masks: NDArray[np.bool_]) -> None:
    enlarged = masks.repeat(3, axis=1).repeat(3, axis=2)
    minimum_areas = [0.01] * 4
    expected = without_small_regions(masks, minimum_areas).repeat(3, axis=1).repeat(3, axis=2)
    np.testing.assert_array_equal(without_small_regions(enlarged, minimum_areas), expected)


def test_input_is_not_written_into_and_zero_does_nothing(masks: NDArray[np.bool_]) -> None:
    before = masks.copy()
    without_small_regions(masks, [0.5] * 4)
    np.testing.assert_array_equal(masks, before)
    assert without_small_regions(masks, [0.0] * 4) is masks


def test_full_and_empty_masks() -> None:
    masks = np.stack([np.ones((5, 6), dtype=bool), np.zeros((5, 6), dtype=bool)])
    np.testing.assert_array_equal(without_small_regions(masks, [1.0, 1.0]), masks)


@pytest.mark.parametrize("minimum_areas", [[0.1] * 3, [0.1, 0.1, 0.1, 1.5], [0.1, 0.1, 0.1, -0.1]])
def test_rejects_wrong_minimum_areas(masks: NDArray[np.bool_], minimum_areas: list[float]) -> None:
    message = f"got {minimum_areas} for masks of shape (4, 24, 31)"
    rejects(re.escape(message), without_small_regions, masks, minimum_areas)


def test_region_overlaps_equal_flood_fill(masks: NDArray[np.bool_]) -> None:
    mask, truth = masks[1], np.random.default_rng(1).random(masks.shape[1:]) < 0.5
    areas, intersections = region_overlaps(mask, truth)
    expected = [(len(region), sum(truth[pixel] for pixel in region)) for region in flood_fill(mask)]
    assert len(expected) > 10
    assert sorted(zip(areas, intersections, strict=True)) == sorted(expected)


def test_empty_mask_has_no_regions() -> None:
    areas, intersections = region_overlaps(np.zeros((4, 5), dtype=bool), np.ones((4, 5), dtype=bool))
    assert areas.shape == intersections.shape == (0,)


def by_strips(mask: NDArray[np.bool_], minimum_area: float, height: int) -> NDArray[np.bool_]:
    size = (mask.shape[0], mask.shape[1])
    regions = LargeRegions(size, minimum_area)
    strips = [mask[top : top + height] for top in range(0, size[0], height)]
    for strip in strips:
        regions.measure(strip)
    return np.concatenate([regions.clean(strip, index) for index, strip in enumerate(strips)])


def spiral(side: int) -> NDArray[np.bool_]:
    """One line of a pixel that winds inwards, a pixel between its turns."""
    mask = np.zeros((side, side), bool)
    row, column, (down, right), length = 0, 0, (0, 1), side - 1
    for turn in range(side):
        for _ in range(length):
            mask[row, column] = True
            row, column = row + down, column + right
        down, right = right, -down
        length -= 2 if turn and turn % 2 == 0 else 0
        if length <= 0:
            break
    return mask


@pytest.mark.parametrize("height", [1, 2, 5, 24])
@pytest.mark.parametrize("minimum_pixels", [2, 6, 40, 744])
def test_strips_keep_what_the_whole_mask_keeps(height: int, minimum_pixels: int, masks: NDArray[np.bool_]) -> None:
    for mask in masks:
        expected = without_small_regions(mask[None], [minimum_pixels / mask.size])[0]
        np.testing.assert_array_equal(by_strips(mask, minimum_pixels / mask.size, height), expected)


@pytest.mark.parametrize("height", [1, 3, 10])
def test_parts_that_join_far_below_are_one_region(height: int) -> None:
    fork = np.zeros((40, 21), bool)
    fork[:, ::4] = True  # six teeth
    fork[-1] = True
    for mask in (fork, fork[::-1].copy(), spiral(41)):
        area = mask.sum() / mask.size
        np.testing.assert_array_equal(by_strips(mask, area, height), mask)
        assert not by_strips(mask, area + 1e-6, height).any()


@pytest.mark.parametrize("least", [0.0, 0.3, 1.0])
def test_main_regions_are_filled_and_large_beside_the_largest(masks: NDArray[np.bool_], least: float) -> None:
    for mask in masks:
        filled = ndimage.binary_fill_holes(mask)
        regions = flood_fill(filled)
        largest = max(map(len, regions))
        kept = [region for region in regions if len(region) >= least * largest]
        if least == 1:  # the topmost, then leftmost, of equal ones
            kept = [min(kept, key=min)]
        np.testing.assert_array_equal(main_regions(mask, least), draw(kept, mask.shape))
    assert not main_regions(np.zeros((4, 5), bool), least).any()
    rejects("share of the largest region", main_regions, masks[0], 1.5)
