"""Finds connected regions of masks, drops the small ones, fills their holes, and measures their overlap with the truth.

Pixels that touch at an edge or a corner belong to one region (8-connectivity).
"""

import math
from array import array
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray


def without_small_regions(masks: NDArray[np.bool_], minimum_areas: Sequence[float]) -> NDArray[np.bool_]:
    """Drops the regions that are smaller than their class's minimum area.

    Areas are shares of the image, so that a minimum found at one resolution holds at another.

    Args:
        masks: Masks of K classes, (K, H, W).
        minimum_areas: Smallest area to keep, in [0, 1], per class; 0 keeps every region.

    Returns:
        Masks (K, H, W): a copy, or `masks` itself if every minimum is 0.

    Raises:
        ValueError: There is not one minimum area in [0, 1] per class.
    """
    if len(minimum_areas) != len(masks) or not all(0 <= area <= 1 for area in minimum_areas):
        raise ValueError(
            f"expected {len(masks)} minimum areas, one per class, each a share of the image in [0, 1], got "
            f"{list(minimum_areas)} for masks of shape {masks.shape}"
        )
    if not any(minimum_areas):
        return masks
    kept = masks.copy()
    for mask, minimum_area in zip(kept, minimum_areas, strict=True):
        if minimum_area:
            labels, areas = _label(mask)
            large = areas / mask.size >= minimum_area
            for band in _bands(mask):
                mask[band] &= large[labels[band]]
    return kept


def least_areas(minimum_areas: Sequence[float], minimum_pixels: int, size: tuple[int, int]) -> list[float]:
    """Returns the smallest region of each class that is kept in an image, as a share of its height times width.

    Args:
        minimum_areas: Shares of the image, per class.
        minimum_pixels: The least of every class in pixels.
        size: Height and width of the image.
    """
    least = min(1.0, minimum_pixels / (size[0] * size[1]))
    return [max(least, area) for area in minimum_areas]


def main_regions(
    mask: NDArray[np.bool_], least: float, boxes: Sequence[tuple[float, float, float, float]] = ()
) -> NDArray[np.bool_]:
    """Returns a mask without holes and without the regions that are small beside the largest one.

    Args:
        mask: Mask (H, W).
        least: Smallest region to keep, as a share of the largest, in [0, 1]; 1 keeps the largest alone, the topmost of
            equal ones.
        boxes: Corners x0, y0, x1, y1 in pixels, x1 and y1 exclusive. Each box is looked at by itself, and nothing
            outside is kept; without any, the whole image is.

    Raises:
        ValueError: `least` is not in [0, 1].
    """
    if not 0 <= least <= 1:
        raise ValueError(f"expected a share of the largest region in [0, 1], got {least}")
    outside = np.pad(~mask, 1, constant_values=True).view(np.uint8)
    _, labels = cv2.connectedComponents(outside, connectivity=4)
    filled = (labels != labels[0, 0])[1:-1, 1:-1]
    kept: NDArray[np.bool_] = np.zeros(mask.shape, np.bool_)
    for x0, y0, x1, y1 in boxes or [(0, 0, mask.shape[1], mask.shape[0])]:
        inside = np.s_[math.floor(y0) : math.ceil(y1), math.floor(x0) : math.ceil(x1)]
        labels, areas = _label(np.ascontiguousarray(filled[inside]))
        areas[0] = 0
        large = areas >= max(1, least * areas.max())
        if least == 1:
            large[np.argmax(areas) + 1 :] = False
        kept[inside] |= large[labels]
    return kept


def region_labels(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int32], int]:
    """Returns the region number of every pixel, 0 for the background, and how many numbers there are."""
    labels, areas = _label(mask)
    return labels, len(areas)


def region_overlaps(mask: NDArray[np.bool_], truth: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns the area of every region of a mask and its overlap with the truth.

    Dropping region i removes `areas[i]` pixels from the mask and `intersections[i]` from its overlap with the truth,
    so that a search for the best minimum area labels each mask once.

    Args:
        mask: Predicted mask (H, W).
        truth: True mask (H, W).

    Returns:
        Areas and intersections, both in pixels, one entry per region.
    """
    labels, areas = _label(mask)
    intersections = np.bincount(labels[truth], minlength=areas.size)
    return areas[1:], intersections[1:]


class LargeRegions:
    """Drops small regions like `without_small_regions`, from a mask that comes in strips, twice from the top.

    Measure all strips first, then clean them. Remembers 16 bytes for each region that reaches a strip's first or last
    row: at most one region per strip and pixel of the width.

    Args:
        size: Height and width of the mask.
        minimum_area: Smallest area to keep, a share of the mask in [0, 1].
    """

    def __init__(self, size: tuple[int, int], minimum_area: float) -> None:
        self.pixels, self.minimum_area = size[0] * size[1], minimum_area
        self.firsts: list[int] = []  # per strip, the number of its first region that reaches the strip's edge
        self.parents, self.areas = array("q"), array("q")  # areas are those of regions that are their own parents
        self.above = np.zeros(size[1], np.int64)  # region numbers, from 1, of the previous strip's last row

    def measure(self, strip: NDArray[np.bool_]) -> None:
        """Measures the next strip (n, W), n at least 1."""
        labels, areas = _label(strip)
        reaching = _reaching(labels)
        first = len(self.parents)
        self.firsts.append(first)
        self.parents.extend(range(first, first + len(reaching)))
        self.areas.extend(areas[reaching].tolist())
        numbers = np.zeros(len(areas), np.int64)
        numbers[reaching] = np.arange(first, first + len(reaching)) + 1
        self._join(numbers[labels[0]])
        self.above = numbers[labels[-1]]

    def clean(self, strip: NDArray[np.bool_], index: int) -> NDArray[np.bool_]:
        """Returns strip `index`, as it was measured, without the regions that are too small in the whole mask."""
        labels, areas = _label(strip)
        reaching, first = _reaching(labels), self.firsts[index]
        areas[reaching] = [self.areas[self._root(number)] for number in range(first, first + len(reaching))]
        large = areas / self.pixels >= self.minimum_area
        kept: NDArray[np.bool_] = strip & large[labels]
        return kept

    def _join(self, below: NDArray[np.int64]) -> None:
        """Joins the regions of the row above with those of the next row that they touch."""
        width = len(below)
        pairs = [
            np.stack([self.above[max(0, -step) : width - max(0, step)], below[max(0, step) : width - max(0, -step)]])
            for step in (-1, 0, 1)
        ]
        touching = np.concatenate(pairs, axis=1)
        for upper, lower in np.unique(touching[:, touching.all(axis=0)], axis=1).T.tolist():
            kept, joined = sorted((self._root(upper - 1), self._root(lower - 1)))
            if kept != joined:
                self.parents[joined] = kept
                self.areas[kept] += self.areas[joined]

    def _root(self, number: int) -> int:
        """Returns the number that a region shares with all that it was joined with."""
        while self.parents[number] != number:
            self.parents[number] = self.parents[self.parents[number]]  # halves the path for the next time
            number = self.parents[number]
        return number


def _reaching(labels: NDArray[np.int32]) -> NDArray[np.int32]:
    """Returns the labels of the regions in the first or last row, in the order of their first pixels there."""
    found, places = np.unique(np.concatenate([labels[0], labels[-1]]), return_index=True)
    ordered: NDArray[np.int32] = found[np.argsort(places)]
    return ordered[ordered > 0]


def _label(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Returns the region number of every pixel, 0 for the background, and each number's area in pixels."""
    count, labels = cv2.connectedComponents(mask.view(np.uint8), connectivity=8)
    areas = np.zeros(count, np.int64)
    for band in _bands(mask):  # several times faster than OpenCV's own statistics
        areas += np.bincount(labels[band][mask[band]], minlength=count)
    areas[0] = mask.size - areas.sum()
    return np.asarray(labels, dtype=np.int32), areas


def _bands(mask: NDArray[np.bool_]) -> list[slice]:
    """Splits a mask into bands of a million pixels: NumPy needs 8 bytes per region number to count or look up."""
    rows = max(1, 2**20 // max(1, mask.shape[1]))
    return [slice(top, top + rows) for top in range(0, len(mask), rows)]
