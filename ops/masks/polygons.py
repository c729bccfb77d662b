"""Converts masks to polygons and back: traces rings around regions and holes, simplifies, smooths and fills them.

A point is (x, y) in pixels of the image, x to the right and y down, and integers are pixel centers: the image extends
from -0.5 to W - 0.5 and from -0.5 to H - 0.5. A ring is an array (N, 2) whose last point connects to its first, which
is not repeated. A mask is the list of its rings, read even-odd: a pixel is inside where a line from its center to the
outside crosses the rings an odd number of times.

Pixels that touch at an edge or a corner belong to one region, as in `ops.masks.regions`.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

Ring = NDArray[np.float64]


def rings(mask: NDArray[np.bool_]) -> list[Ring]:
    """Traces the outlines of all regions and holes of a mask, halfway between its pixels and those outside.

    These are the contours at one half of marching squares (Lorensen and Cline 1987), reduced to their corners. Filled
    by `polygon_mask`, they are exactly the mask.

    Args:
        mask: Mask (H, W). What lies outside the image is not part of it.

    Returns:
        Rings of multiples of one half, ordered by their topmost pixel. On the screen, regions run clockwise and holes
        the other way, so that the area Σ (xᵢ yᵢ₊₁ - xᵢ₊₁ yᵢ) / 2 of holes is negative.

    Raises:
        ValueError: The mask is not of shape (H, W).
    """
    if mask.ndim != 2:
        raise ValueError(f"expected one mask (H, W), got shape {mask.shape}")
    points, following = _boundary(mask)
    steps = points[following] - points
    steps_before = np.empty_like(steps)
    steps_before[following] = steps
    corner = (steps != steps_before).any(axis=1)
    order, lengths = _cycles(following)
    of_corners = corner[order]
    corners_before = np.concatenate([[0], np.cumsum(of_corners)])
    ends = corners_before[np.cumsum(lengths, dtype=np.int64)]
    return np.split(points[order[of_corners]], ends[:-1]) if ends.size else []


def simplified(rings: Sequence[Ring], tolerance: float = 1.0) -> list[Ring]:
    """Reduces the points of rings by Douglas and Peucker's algorithm (1973).

    Args:
        rings: Rings (N, 2).
        tolerance: Largest distance in pixels of a removed point from the remaining ring; up to 1.7 times as far where
            OpenCV straightens the result once more. 1 removes the steps of slanted outlines.

    Returns:
        Rings of some of the given points, rounded to float32. Rings with fewer than three points left have no area and
        are dropped: those no wider than the tolerance, such as single pixels and thin lines at 1.

    Raises:
        ValueError: The tolerance is below 0, or a ring is not of shape (N, 2).
    """
    if not tolerance >= 0:
        raise ValueError(f"expected a tolerance of 0 pixels or more, got {tolerance}")
    _check(rings)
    kept = [cv2.approxPolyDP(ring.astype(np.float32), tolerance, closed=True) for ring in rings if len(ring)]
    return [ring.reshape(-1, 2).astype(np.float64) for ring in kept if len(ring) >= 3]


def smoothed(rings: Sequence[Ring], step: float = 4.0, smoothness: float = 16.0) -> list[Ring]:
    """Samples periodic cubic smoothing splines (Reinsch 1967) along the rings.

    A spline f follows its ring g, both functions of the length along the ring, that minimizes ∫ |f - g|² + (s / 2π)⁴
    ∫ |f''|², where s is the smoothness: outline waves s pixels long are halved, longer ones stay, and shorter ones
    vanish. Unlike a spline through the points of a simplified ring, it does not overshoot at corners.

    Args:
        rings: Rings (N, 2), as `rings` traces them.
        step: Approximate distance of the points along the ring, in pixels; a ring has at least 8 of them.
        smoothness: Length in pixels of the waves that are halved, for short rings at most a quarter of the ring's
            length, so that small regions do not shrink. 0 leaves the outline as it is.

    Returns:
        One ring per given ring; those of length 0 are dropped.

    Raises:
        ValueError: The step is not above 0, the smoothness is below 0, or a ring is not of shape (N, 2).
    """
    if not (step > 0 and smoothness >= 0):
        raise ValueError(
            f"expected a step above 0 and a smoothness of 0 or more, in pixels, got {step} and {smoothness}"
        )
    _check(rings)
    smooth = [_smoothed(ring, step, smoothness) for ring in rings]
    return [ring for ring in smooth if len(ring)]


def polygon_mask(rings: Sequence[Ring], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Fills rings: returns the mask of all pixels whose center lies inside, even-odd.

    Centers on a ring count as inside where the inside lies to the right, or else below.

    Args:
        rings: Rings (N, 2), which may cross the image's edges.
        size: Height and width of the image.

    Returns:
        Mask (H, W).

    Raises:
        ValueError: A ring is not of shape (N, 2), or has points that are not finite.
    """
    _check(rings)
    height, width = size
    flips = np.zeros((height, width + 1), dtype=np.uint8)  # one extra column for what flips right of the image
    starts = np.concatenate([np.zeros((0, 2)), *rings])
    ends = np.concatenate([np.zeros((0, 2)), *(np.roll(ring, -1, axis=0) for ring in rings)])
    edge_tops = np.minimum(starts[:, 1], ends[:, 1])
    edge_bottoms = np.maximum(starts[:, 1], ends[:, 1])
    first_rows = np.clip(np.ceil(edge_tops), 0, height).astype(np.int64)
    row_counts = np.clip(np.ceil(edge_bottoms), 0, height).astype(np.int64) - first_rows
    (x, y), (x_end, y_end) = np.repeat(starts, row_counts, axis=0).T, np.repeat(ends, row_counts, axis=0).T
    places_before = np.cumsum(row_counts) - row_counts
    rows = np.arange(row_counts.sum()) + np.repeat(first_rows - places_before, row_counts)
    crossings = x + (rows - y) * (x_end - x) / (y_end - y)
    columns = np.clip(np.ceil(crossings), 0, width).astype(np.int64)
    np.bitwise_xor.at(flips, (rows, columns), 1)
    inside: NDArray[np.uint8] = np.bitwise_xor.accumulate(flips, axis=1)
    return inside[:, :width].astype(np.bool_)


def intersection_over_union(mask: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Returns the pixels in both masks over the pixels in either, in [0, 1]; 1 if both are empty.

    Raises:
        ValueError: The masks have different shapes.
    """
    if mask.shape != other.shape:
        raise ValueError(f"expected masks of one shape, got {mask.shape} and {other.shape}: resize one of them")
    union = np.count_nonzero(mask | other)
    return np.count_nonzero(mask & other) / union if union else 1.0


def _boundary(mask: NDArray[np.bool_]) -> tuple[Ring, NDArray[np.int64]]:
    """Returns the midpoint between every mask pixel and each of its four neighbors outside, and the next one's index.

    A boundary edge is a pixel and one of the directions right, down, left, up, numbered 4 · pixel + direction. Walking
    with the region on the right, the next edge belongs to the pixel diagonally ahead if that is in the mask, else to
    the pixel beside, else to the next side of the same pixel.
    """
    padded = np.pad(mask, 1)
    width = padded.shape[1]
    inside = padded.ravel()
    offsets = (1, width, -1, -width)
    numbers, next_numbers = [], []
    for direction, offset in enumerate(offsets):
        turned = (direction + 1) % 4
        pixels = np.flatnonzero(padded[1:-1] & ~np.roll(padded, -offset)[1:-1]) + width
        beside = pixels + offsets[turned]
        ahead = beside + offset
        along = np.where(inside[beside], 4 * beside + direction, 4 * pixels + turned)
        numbers.append(4 * pixels + direction)
        next_numbers.append(np.where(inside[ahead], 4 * ahead + (direction - 1) % 4, along))
    edges = np.concatenate(numbers)
    order = np.argsort(edges)
    edges = edges[order]
    following = np.searchsorted(edges, np.concatenate(next_numbers)[order])
    rows, columns = np.divmod(edges // 4, width)
    halves = np.array([[0.5, 0], [0, 0.5], [-0.5, 0], [0, -0.5]])
    return np.stack([columns, rows], axis=1) - 1 + halves[edges % 4], following


def _cycles(following: NDArray[np.int64]) -> tuple[NDArray[np.int64], list[int]]:
    """Returns the cycles of a permutation, one after another, and their lengths."""
    successors = following.tolist()
    order: list[int] = []
    lengths = []
    seen = bytearray(len(successors))
    for first in range(len(successors)):
        before = len(order)
        place = first
        while not seen[place]:
            seen[place] = 1
            order.append(place)
            place = successors[place]
        if len(order) > before:
            lengths.append(len(order) - before)
    return np.array(order, dtype=np.int64), lengths


def _smoothed(ring: Ring, step: float, smoothness: float) -> Ring:
    """Samples one ring's spline; returns no points for a ring of length 0.

    With knots h apart, the spline scales the wave that advances by the angle t per knot by
    1 / (1 + (s / 2πh)⁴ · 6 (2 - 2 cos t)² / (4 + 2 cos t)), so it is computed wave by wave.
    """
    closed = np.concatenate([ring, ring[:1]])
    lengths = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(closed, axis=0).T))])
    total = lengths[-1]
    if not total:
        return ring[:0]
    point_count = max(8, round(total / step))
    knots_per_point = int(np.ceil(2 * total / point_count))  # at most half a pixel apart
    knot_count = point_count * knots_per_point
    places = np.arange(knot_count) * (total / knot_count)
    knots = np.stack([np.interp(places, lengths, closed[:, axis]) for axis in (0, 1)], axis=1)
    cosines = np.cos(2 * np.pi * np.fft.rfftfreq(knot_count))
    stiffness = (min(smoothness, total / 4) / (2 * np.pi * total / knot_count)) ** 4
    shares = 1 / (1 + stiffness * 6 * (2 - 2 * cosines) ** 2 / (4 + 2 * cosines))
    waves = np.fft.rfft(knots, axis=0) * shares[:, np.newaxis]
    smooth: Ring = np.fft.irfft(waves, knot_count, axis=0)[::knots_per_point]
    return smooth


def _check(rings: Sequence[Ring]) -> None:
    """Rejects rings that are not (N, 2) of finite numbers."""
    for number, ring in enumerate(rings):
        if ring.ndim != 2 or ring.shape[1] != 2 or not np.isfinite(ring).all():
            raise ValueError(
                f"expected rings (N, 2) with one finite point (x, y) per row, got ring {number} of {len(rings)} with "
                f"shape {ring.shape} and {np.count_nonzero(~np.isfinite(ring))} values that are not finite"
            )
