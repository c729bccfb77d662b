"""Finds labels that the networks of the other folds contradict: wrong, swapped or shifted masks."""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

SIDE = 64  # pixels at which masks are compared
GAP = 0.1  # least doubt that is listed
GAIN = 0.2  # dice by which another place or another image must fit better
Maps = NDArray[np.float32]  # (K, h, w)


class Doubt(NamedTuple):
    """A label that may be wrong.

    Attributes:
        name: Name of the image.
        gap: By how much its dice is below what the network expects: 1 if it is sure of something else.
        hint: What may have happened; "" if nothing stands out.
    """

    name: str
    gap: float
    hint: str


def reduced(maps: Maps) -> Maps:
    """Returns maps (K, H, W) as small as doubts need them."""
    small = [cv2.resize(each, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for each in maps]
    return np.stack(small).astype(np.float32)


def doubts(names: Sequence[str], labels: Sequence[Maps], found: Sequence[Maps], gaps: Sequence[float]) -> list[Doubt]:
    """Returns the doubtful labels, the most doubtful first.

    Args:
        names: Names of the images.
        labels: Their masks in [0, 1], as `reduced` returns them.
        found: Probabilities by networks that have not seen them, in the same form.
        gaps: Dice that the network expects minus that of the label, of each.
    """
    fits = _fits(labels, found)
    listed = []
    for row in np.argsort(-np.asarray(gaps), kind="stable").tolist():
        if gaps[row] < GAP:
            break
        listed.append(Doubt(names[row], float(gaps[row]), _hint(row, names, labels, found, fits)))
    return listed


def _hint(
    row: int, names: Sequence[str], labels: Sequence[Maps], found: Sequence[Maps], fits: NDArray[np.float64]
) -> str:
    if not labels[row].any():
        return "nothing is labeled"
    down, right, gain = best_shift(labels[row], found[row])
    other = int(fits[row].argmax())
    mutual = fits[row, other] >= fits[row, row] + GAIN and fits[other, row] >= fits[other, other] + GAIN
    if mutual and fits[row, other] >= fits[row, row] + gain:
        return f"swapped with {names[other]}?"
    if gain >= GAIN:
        return f"fits better moved by {right / SIDE:+.0%} of the width and {down / SIDE:+.0%} of the height"
    return ""


def best_shift(label: Maps, found: Maps) -> tuple[int, int, float]:
    """Returns how far a label must be moved down and right to fit best, and by how much its dice gains."""
    pad = ((0, 0), (0, SIDE), (0, SIDE))
    spectra = [np.fft.rfft2(np.pad(each, pad)) for each in (label, found)]
    overlap = np.fft.irfft2((spectra[0].conj() * spectra[1]).sum(axis=0), (2 * SIDE, 2 * SIDE))
    total = float(label.sum() + found.sum())
    most = SIDE // 4  # farther, hardly anything is left in the image
    rows = np.arange(-most, most + 1)
    near = 2 * overlap[np.ix_(rows, rows)] / max(total, 1e-6)
    down, right = np.unravel_index(near.argmax(), near.shape)
    return int(rows[down]), int(rows[right]), float(near.max() - near[most, most])


def _fits(labels: Sequence[Maps], found: Sequence[Maps]) -> NDArray[np.float64]:
    """Returns the dice of each label with each prediction, (N, N)."""
    left, right = (np.stack([each.ravel() for each in maps]).astype(np.float64) for maps in (labels, found))
    totals = left.sum(axis=1)[:, None] + right.sum(axis=1)[None]
    return np.asarray(2 * (left @ right.T) / np.maximum(totals, 1e-6))
