"""Finds images that show the same: copies that were resized, recompressed, recolored, mirrored or turned."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

SIDE = 32  # pixels of the thumbnail
RIM = 3
INNER = SIDE - 2 * RIM
FAINT = 1.0  # gray levels: details that are weaker on average are noise
LOWEST = 8  # frequencies per axis of the hash
FAR = 14  # bits in which hashes of the same image may differ, of 64
SIMILAR = 0.6  # least correlation of fine details
BLOCK = 1 << 22  # pairs compared at once


class Thumbnails(NamedTuple):
    """Images reduced for comparison.

    Attributes:
        hashes: Perceptual hash of each image as it is and as its seven mirrored and turned views, uint64 (N, 8).
        details: Fine details of each image as it is, float32 (N, S, S): a thumbnail without what its neighborhood has
            in common, of mean 0 and length 1.
    """

    hashes: NDArray[np.uint64]
    details: NDArray[np.float32]


class Pair(NamedTuple):
    """Two images that show the same.

    Attributes:
        left: Index of one.
        right: Index of the other.
        similarity: Correlation of their details, up to 1.
        view: How the right one must be turned: 0 as it is, otherwise mirrored or turned; see `views`.
    """

    left: int
    right: int
    similarity: float
    view: int


def views(image: NDArray[np.generic]) -> list[NDArray[np.generic]]:
    """Returns the eight views of a square image (S, S): turned by 0 to 270 degrees, then so of its mirror image."""
    return [np.rot90(each, turn) for each in (image, image[:, ::-1]) for turn in range(4)]


def thumbnails(images: Sequence[NDArray[np.uint8]]) -> Thumbnails:
    """Returns images (H, W, 3) reduced for comparison."""
    hashes = np.zeros((len(images), 8), np.uint64)
    details = np.zeros((len(images), INNER, INNER), np.float32)
    for row, image in enumerate(images):
        small = cv2.resize(image, (4 * SIDE, 4 * SIDE), interpolation=cv2.INTER_AREA)
        gray = cv2.resize(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        gray = gray.astype(np.float32)
        hashes[row] = [_hash(np.ascontiguousarray(view)) for view in views(gray)]
        fine = (gray - cv2.GaussianBlur(gray, (0, 0), 2))[RIM:-RIM, RIM:-RIM]  # at the rim, slopes leave something
        length = float(np.linalg.norm(fine))
        details[row] = fine / length if length > FAINT * INNER else 0  # an empty sky resembles nothing
    return Thumbnails(hashes, details)


def _hash(gray: NDArray[np.float32]) -> int:
    """Returns the signs of the lowest frequencies around their median as bits (C. Zauner, "Implementation and
    benchmarking of perceptual image hash functions", 2010).
    """  # noqa: D205  # a reference
    low = cv2.dct(gray)[:LOWEST, :LOWEST].ravel()
    bits = low > np.median(low[1:])
    return int(sum(1 << place for place in np.flatnonzero(bits).tolist()))


def same(left: Thumbnails, right: Thumbnails) -> Iterator[Pair]:
    """Yields the pairs of images of two sets that show the same, each with its best view."""
    per_block = max(1, BLOCK // (8 * max(1, len(right.hashes))))
    for top in range(0, len(left.hashes), per_block):
        plain = left.hashes[top : top + per_block, 0]
        far = np.bitwise_count(plain[:, None, None] ^ right.hashes[None])
        found: dict[tuple[int, int], tuple[float, int]] = {}
        for row, other, view in np.argwhere(far <= FAR).tolist():
            turned = views(right.details[other])[view]
            similarity = float((left.details[top + row] * turned).sum())
            if similarity >= SIMILAR and similarity > found.get((row, other), (0.0, 0))[0] + 1e-6:
                found[row, other] = (similarity, view)
        for (row, other), (similarity, view) in found.items():
            yield Pair(top + row, other, similarity, view)
