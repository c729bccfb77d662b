"""Finds labels that the networks of the other folds contradict: wrong, swapped or shifted masks."""

from collections.abc import Sequence
from operator import itemgetter
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

SIDE = 64  # pixels at which masks are compared
GAP = 0.1  # least doubt that is listed
GAIN = 0.2  # dice by which another place must fit better
SWAPPED = 0.1  # dice by which both labels of a swapped pair must fit the other image better
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
    """Returns the doubtful labels: first those that fit another place or image, then the others, by their doubt.

    A network is often wrong about a rare kind of image, but then no other place fits better. Empty labels fit no
    other place, so they are ranked by their doubt.

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
        doubt = Doubt(names[row], float(gaps[row]), _hint(row, names, labels, found, fits))
        listed.append((not (doubt.hint and labels[row].any()), doubt))
    return [doubt for _, doubt in sorted(listed, key=itemgetter(0))]


def _hint(
    row: int, names: Sequence[str], labels: Sequence[Maps], found: Sequence[Maps], fits: NDArray[np.float64]
) -> str:
    if not labels[row].any():
        return "nothing is labeled"
    down, right, gain = best_shift(labels[row], found[row])
    own = fits.diagonal()
    mutual = np.minimum(fits[row] - own[row], fits[:, row] - own)
    other = int(mutual.argmax())
    if mutual[other] >= SWAPPED and fits[row, other] >= own[row] + gain:
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
