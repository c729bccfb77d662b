"""Splits the dice that masks lack by what is wrong with them."""

import numpy as np
from numpy.typing import NDArray

from ops.masks.distances import distances
from ops.masks.regions import region_labels

PIECES = ("wrongly_present", "wrongly_absent", "wrong_place", "wrong_extent", "boundary", "minimum_area")
"""What is wrong: see `lost_dice`."""
BOUNDARY = 0.01
"""Distance from the true outline up to which errors are of the boundary, as a share of the image's longer side."""

Mask = NDArray[np.bool_]


def lost_dice(mask: Mask, marked: Mask, truth: Mask) -> NDArray[np.float64]:
    """Splits 1 - dice of a mask into `PIECES`, which are not negative and sum to it.

    Each wrong pixel costs 1 / (pixels of the mask + pixels of the truth), so the pieces are shares of wrong pixels. A
    pixel is counted in the first of these that holds:

    - `wrongly_present`: the truth is empty; the piece is 1.
    - `minimum_area`: a true pixel reached the threshold, in a region below the minimum area.
    - `wrongly_absent`: the mask is empty.
    - `wrong_place`: a predicted region touches no true pixel, or a true region no predicted one.
    - `boundary`: at most 1 % of the image's longer side, and at least a pixel, from the nearest pixel on the other side
      of the true outline.
    - `wrong_extent`: everything else: a region that was found reaches too far, or not far enough.

    Args:
        mask: Predicted mask (H, W).
        marked: Pixels that reach the threshold (H, W), before small regions are removed.
        truth: True mask (H, W).

    Returns:
        The pieces (6,); all 0 if both masks are empty.
    """
    wrong = mask ^ truth
    pixels = np.count_nonzero(mask) + np.count_nonzero(truth)
    pieces = np.zeros(len(PIECES))
    if not pixels:
        return pieces

    def count(name: str, found: Mask) -> None:
        pieces[PIECES.index(name)] = np.count_nonzero(wrong & found) / pixels
        wrong[found] = False

    everywhere = np.ones_like(truth)
    if not truth.any():
        count("wrongly_present", everywhere)
        return pieces
    count("minimum_area", marked & truth & ~mask)
    if not mask.any():
        count("wrongly_absent", everywhere)
        return pieces
    count("wrong_place", _untouched(mask, truth) | _untouched(truth, mask))
    if not truth.all():
        near = max(1.0, BOUNDARY * max(truth.shape))
        count("boundary", np.where(truth, distances(~truth), distances(truth)) <= near)
    count("wrong_extent", everywhere)
    return pieces


def _untouched(mask: Mask, other: Mask) -> Mask:
    """Returns the regions of a mask that hold no pixel of the other mask."""
    labels, count = region_labels(mask)
    touched = np.zeros(count, np.bool_)
    touched[labels[other]] = True
    untouched: Mask = mask & ~touched[labels]
    return untouched
