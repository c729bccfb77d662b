"""Chooses which images to label next: unsure ones that differ from those that are labeled or chosen already."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

By = Literal["alternate", "product", "uncertainty", "diversity", "coverage", "unsure_coverage", "random"]
"""How images are chosen, see `chosen`."""

BLOCK = 4096  # vectors in memory at once
SAMPLE = 2000  # vectors that stand for the whole pool in `coverage`
Vectors = NDArray[np.float32]  # (N, D), in memory or mapped from a file


class Covered:
    """How far each of N vectors is from the nearest one that is covered: labeled, or chosen already.

    Distances are Euclidean over standardized values, divided by the square root of their number, so that two vectors
    drawn at random are about 1.4 apart. Memory holds a few numbers for each vector; vectors are read in blocks.

    Args:
        vectors: The vectors.

    Attributes:
        nearest: Distance (N,) from the nearest covered vector; infinite as long as there is none.
        center: Which one that is (N,); -1 as long as there is none.
    """

    def __init__(self, vectors: Vectors) -> None:
        self.vectors = vectors
        self.mean, self.scale = _standard(vectors)
        self.nearest = np.full(len(vectors), np.inf, np.float32)
        self.center = np.full(len(vectors), -1, np.int64)

    def cover(self, rows: Sequence[int]) -> None:
        """Covers vectors."""
        for first in range(0, len(rows), BLOCK):
            part = rows[first : first + BLOCK]
            for start, distances in self.distances(part):
                near = distances.argmin(axis=1)
                least = distances[np.arange(len(near)), near]
                closer = np.flatnonzero(least < self.nearest[start : start + len(near)])
                self.nearest[start + closer] = least[closer]
                self.center[start + closer] = np.asarray(part)[near[closer]]

    def distances(self, rows: Sequence[int]) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yields the number of a first vector, and how far it and the next ones are from M others, (n, M)."""
        others = self._read(np.asarray(rows, np.int64))
        squares = (others**2).sum(axis=1)
        for start in range(0, len(self.vectors), BLOCK):
            block = self._read(slice(start, start + BLOCK))
            found = (block**2).sum(axis=1)[:, None] + squares - 2 * (block @ others.T)
            yield start, np.sqrt(np.maximum(found, 0))

    def _read(self, rows: Any) -> NDArray[np.float32]:
        return np.asarray((self.vectors[rows] - self.mean) * self.scale)


def _standard(vectors: Vectors) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Returns the mean (D,) of vectors, and what their differences from it are multiplied with, (D,)."""
    count, length = vectors.shape
    total, squares = np.zeros(length), np.zeros(length)
    for start in range(0, count, BLOCK):
        block = vectors[start : start + BLOCK].astype(np.float64)
        total += block.sum(axis=0)
        squares += (block**2).sum(axis=0)
    mean = total / max(1, count)
    deviation = np.sqrt(np.maximum(squares / max(1, count) - mean**2, 0))
    varies = deviation > 1e-6 * (np.abs(mean) + 1e-6)  # others are constant, but for rounding
    scale = np.where(varies, 1 / np.where(varies, deviation, 1), 0) / np.sqrt(max(1, varies.sum()))
    return mean.astype(np.float32), scale.astype(np.float32)


def chosen(
    by: By,
    uncertainty: NDArray[np.float64],
    covered: Covered,
    candidates: NDArray[np.bool_],
    accept: Callable[[int], bool] = lambda row: True,
    seed: int = 0,
) -> Iterator[tuple[int, float, int]]:
    """Yields the images to label next, the most useful first; each is covered before the next one is chosen.

    - `uncertainty`: the most uncertain image.
    - `diversity`: the image that is farthest from all covered ones: greedy k-center (O. Sener and S. Savarese, "Active
      learning for convolutional neural networks: a core-set approach", ICLR 2018).
    - `product`: the image whose uncertainty times that distance is largest.
    - `coverage`: the image that shortens the distances of the whole pool from the nearest covered image most: greedy
      facility location (K. Wei, R. Iyer and J. Bilmes, "Submodularity in data subset selection and active learning",
      ICML 2015). Unlike the farthest image, it is no outlier.
    - `unsure_coverage`: the same, where uncertain images count by their uncertainty.
    - `alternate`: by turns as `uncertainty` and as `coverage`.
    - `random`: any image.

    Args:
        by: How to choose.
        uncertainty: Of each of the N images, at least 0.
        covered: Their vectors; labeled ones are covered.
        candidates: Which images may be chosen (N,); changed.
        accept: Whether to choose an image after all; one that is rejected does not come again.
        seed: Seed of `random`, and of the sample of a large pool.

    Yields:
        The image's row, its distance from the nearest covered image, and the row of that one; infinity and -1 if none
        is covered.
    """
    rng = np.random.default_rng(seed)
    pool = np.flatnonzero(candidates)
    shuffled = rng.permutation(len(candidates)).astype(np.float64)
    sample = np.sort(rng.choice(pool, SAMPLE, replace=False)) if len(pool) > SAMPLE else pool
    count = 0
    while candidates.any():
        nearest = covered.nearest.astype(np.float64)
        known = np.isfinite(nearest).all()
        if by == "random":
            value = shuffled
        elif by == "uncertainty" or (by == "product" and not known) or (by == "alternate" and count % 2 == 0):
            value = uncertainty
        elif by == "product":
            value = uncertainty * nearest
        elif by == "diversity" and known:
            value = nearest
        else:
            weights = uncertainty[sample] if by == "unsure_coverage" else np.ones(len(sample))
            value = _gains(covered, sample, weights)
        row = int(np.where(candidates, value, -np.inf).argmax())
        candidates[row] = False
        if not accept(row):
            continue
        yield row, float(covered.nearest[row]), int(covered.center[row])
        covered.cover([row])
        count += 1


def _gains(covered: Covered, sample: NDArray[np.int64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns by how much each vector, if it were covered, would shorten the distances of a weighted sample."""
    before = covered.nearest[sample]
    before = np.where(np.isfinite(before), before, np.float32(2))  # farther than most pairs
    found = [np.maximum(before - distances, 0) @ weights for _, distances in covered.distances(sample.tolist())]
    return np.concatenate(found)


def entropy(probability: Tensor) -> Tensor:
    """Returns the entropy in bits of yes-or-no answers by their probability: 0 if sure, 1 if undecided."""
    inside = probability.float().clamp(1e-6, 1 - 1e-6)
    return -(inside * torch.log2(inside) + (1 - inside) * torch.log2(1 - inside))
