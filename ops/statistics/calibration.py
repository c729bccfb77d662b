"""How far probabilities can be trusted: calibration by a temperature, and how errors fall with certainty."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

CELLS = 512  # of log-odds
REACH = 16.0  # larger log-odds count as this
LEAST, MOST = 0.1, 10.0  # temperatures
BINS = 15  # of the reliability diagram
Counts = NDArray[np.int64]
"""How many negatives and positives have log-odds in each of `CELLS` equal cells of [-16, 16], (CELLS, 2)."""


class Reliability(NamedTuple):
    """Probabilities in bins, without empty ones.

    Attributes:
        stated: Mean probability of each bin.
        found: Share of positives.
        weight: Share of all predictions.
    """

    stated: NDArray[np.float64]
    found: NDArray[np.float64]
    weight: NDArray[np.float64]

    @property
    def error(self) -> float:
        """Expected calibration error: the mean distance of stated and found (M. P. Naeini et al., AAAI 2015)."""
        return float(np.abs(self.stated - self.found) @ self.weight)


def log_odds_counts(probability: NDArray[np.float32], truth: NDArray[np.bool_]) -> Counts:
    """Counts predictions (N,) in [0, 1] by their log-odds and by the truth."""
    inner = np.clip(probability.astype(np.float64), 1e-9, 1 - 1e-9)
    odds = np.log(inner) - np.log1p(-inner)
    cells = np.clip(((odds + REACH) * (CELLS / (2 * REACH))).astype(np.int64), 0, CELLS - 1)
    return np.bincount(2 * cells + truth, minlength=2 * CELLS).reshape(CELLS, 2)


def log_loss(counts: Counts, temperature: float = 1.0) -> float:
    """Returns the mean negative log-likelihood of the truth at a temperature; nan of nothing."""
    odds = _centers() / temperature
    total = counts.sum()
    return (
        float((counts * np.stack([np.logaddexp(0, odds), np.logaddexp(0, -odds)], axis=1)).sum() / total)
        if total
        else np.nan
    )


def fitted_temperature(counts: Counts) -> float:
    """Returns the temperature by which log-odds are divided for the least log loss, in [0.1, 10].

    Above 1, probabilities were too extreme (C. Guo et al., "On calibration of modern neural networks", ICML 2017). 1
    where only one kind of truth occurs.
    """
    if not counts.sum(axis=0).all():
        return 1.0
    low, high = LEAST, MOST
    for _ in range(4):  # the log loss has one minimum, since it is convex in 1 / temperature
        grid = np.geomspace(low, high, 21)
        best = int(np.argmin([log_loss(counts, each) for each in grid.tolist()]))
        low, high = float(grid[max(0, best - 1)]), float(grid[min(20, best + 1)])
    return float(grid[best])


def reliability(counts: Counts, temperature: float = 1.0) -> Reliability:
    """Returns stated and found probabilities in `BINS` equal bins at a temperature."""
    return pooled_reliability([counts], [temperature])


def pooled_reliability(parts: Sequence[Counts], temperatures: Sequence[float]) -> Reliability:
    """Returns the reliability of parts together, each at its own temperature.

    The mean of the parts' errors would be larger: few predictions per bin deviate by chance.
    """
    weight, sums, positives = np.zeros((3, BINS))
    for counts, temperature in zip(parts, temperatures, strict=True):
        stated = 1 / (1 + np.exp(-_centers() / temperature))
        each = counts.sum(axis=1)
        bins = np.minimum((stated * BINS).astype(int), BINS - 1)
        weight += np.bincount(bins, each, BINS)
        sums += np.bincount(bins, each * stated, BINS)
        positives += np.bincount(bins, counts[:, 1], BINS)
    there = weight > 0
    return Reliability(
        sums[there] / weight[there], positives[there] / weight[there], weight[there] / max(1, weight.sum())
    )


def kept_quality(uncertainty: NDArray[np.float64], quality: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the mean quality of the n most certain images, for n = 1 to N.

    This is the risk-coverage curve (Y. Geifman and R. El-Yaniv, NeurIPS 2017) of 1 - quality.
    """
    order = np.argsort(uncertainty, kind="stable")
    return np.cumsum(quality[order], dtype=np.float64) / np.arange(1, len(order) + 1, dtype=np.float64)


def _centers() -> NDArray[np.float64]:
    edges: NDArray[np.float64] = np.linspace(-REACH, REACH, CELLS + 1)
    return (edges[1:] + edges[:-1]) / 2
