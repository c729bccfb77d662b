"""Connected regions of masks: dropping the small ones, measuring how far they are true.

Pixels that touch at an edge or a corner belong to one region (8-connectivity).
"""

from array import array
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray


def without_small_regions(masks: NDArray[np.bool_], minimum_areas: Sequence[float]) -> NDArray[np.bool_]:
    """Masks without the regions that are smaller than their class's minimum area.

    Areas are shares of the picture, so that a minimum found at one resolution holds at another.

    Args:
        masks: Masks of K classes, shape (K, H, W).
        minimum_areas: The smallest area that is kept, in [0, 1], of each class; 0 keeps every region.

    Returns:
        Masks of shape (K, H, W): a copy, or `masks` itself where every minimum is 0.

    Raises:
        ValueError: If there is not one minimum area in [0, 1] for each class.
    """
    if len(minimum_areas) != len(masks) or not all(0 <= area <= 1 for area in minimum_areas):
        raise ValueError(
            f"minimum areas {list(minimum_areas)} for masks of shape {masks.shape}; "
            f"wanted {len(masks)}, one a class, each a share of the picture in [0, 1]"
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


def region_overlaps(mask: NDArray[np.bool_], truth: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The area of every region of a mask and how much of it is true.

    Dropping region i takes `areas[i]` pixels from the mask and `intersections[i]` from its overlap with the
    truth, so that a search for the best minimum area labels each mask once.

    Args:
        mask: Predicted mask of shape (H, W).
        truth: True mask of shape (H, W).

    Returns:
        Two arrays with one entry a region: areas and intersections, both in pixels.
    """
    labels, areas = _label(mask)
    intersections = np.bincount(labels[truth], minlength=areas.size)
    return areas[1:], intersections[1:]


class LargeRegions:
    """What `without_small_regions` keeps of a mask that comes in strips from the top, twice.

    All strips are measured first, then cleaned. Of the regions that reach a strip's first or last row, 16 bytes each
    are remembered: one a pixel of the width and strip at most.

    Args:
        size: Height and width of the mask.
        minimum_area: The smallest area that is kept, a share of the mask in [0, 1].
    """

    def __init__(self, size: tuple[int, int], minimum_area: float) -> None:
        self.pixels, self.minimum_area = size[0] * size[1], minimum_area
        self.firsts: list[int] = []  # of each strip, the number of its first region that reaches an edge of it
        self.parents, self.areas = array("q"), array("q")  # areas of those that are their own parents
        self.above = np.zeros(size[1], np.int64)  # region numbers, from 1, of the last row of the strip before

    def measure(self, strip: NDArray[np.bool_]) -> None:
        """Counts the next strip (n, W), n at least 1."""
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
        """Strip `index`, as it was measured, without the regions that are too small in the whole mask."""
        labels, areas = _label(strip)
        reaching, first = _reaching(labels), self.firsts[index]
        areas[reaching] = [self.areas[self._root(number)] for number in range(first, first + len(reaching))]
        large = areas / self.pixels >= self.minimum_area
        kept: NDArray[np.bool_] = strip & large[labels]
        return kept

    def _join(self, below: NDArray[np.int64]) -> None:
        """Joins the regions of the last row above with those of the next row that they touch."""
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
        """The number that a region and all that it was joined with go by."""
        while self.parents[number] != number:
            self.parents[number] = self.parents[self.parents[number]]  # the next time, the way is half as long
            number = self.parents[number]
        return number


def _reaching(labels: NDArray[np.int32]) -> NDArray[np.int32]:
    """Labels of the regions in the first or last row, in the order of their first pixels there."""
    found, places = np.unique(np.concatenate([labels[0], labels[-1]]), return_index=True)
    ordered: NDArray[np.int32] = found[np.argsort(places)]
    return ordered[ordered > 0]


def _label(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Region number of every pixel, 0 for the background, and each number's area in pixels."""
    count, labels = cv2.connectedComponents(mask.view(np.uint8), connectivity=8)
    areas = np.zeros(count, np.int64)
    for band in _bands(mask):  # several times faster than OpenCV's own statistics
        areas += np.bincount(labels[band][mask[band]], minlength=count)
    areas[0] = mask.size - areas.sum()
    return np.asarray(labels, dtype=np.int32), areas


def _bands(mask: NDArray[np.bool_]) -> list[slice]:
    """Rows of a mask by the million pixels: numpy turns region numbers into 8 bytes each to count or look up."""
    rows = max(1, 2**20 // max(1, mask.shape[1]))
    return [slice(top, top + rows) for top in range(0, len(mask), rows)]
