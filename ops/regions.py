"""Connected regions of masks: dropping the small ones, measuring how far they are true.

Pixels that touch at an edge or a corner belong to one region (8-connectivity).
"""

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
