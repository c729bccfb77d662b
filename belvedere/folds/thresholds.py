"""Thresholds and minimum areas that are fitted on the images of all folds together."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from belvedere.folds.found import FoldResult
from ops.atomic import write_table
from tasks.decision import HALF, ThresholdSearch
from tasks.metrics.dice import DICE_UNITS

RESAMPLES = 1000
Choice: TypeAlias = tuple[float, float]
"""Threshold and minimum area of a class."""


def pooled_cells(found: Sequence[FoldResult]) -> tuple[NDArray[np.float64], list[list[Choice]]]:
    """Returns the dice (N, K) of each image at the best threshold and minimum area of all other folds, and the choices.

    Args:
        found: All images.

    Returns:
        The dice, and for each fold, and last for all of them together, threshold and minimum area of each class.
    """
    cells = np.stack([each.cells for each in found if each.cells is not None])
    folds = np.array([each.fold for each in found])
    count, classes = cells.shape[:2]
    search = ThresholdSearch([""] * classes)
    grid = [(threshold, area) for threshold in search.thresholds for area in search.minimum_areas]
    flat = cells.reshape(count, classes, -1)
    dice, choices = np.zeros((count, classes)), []
    for fold in [*np.unique(folds).tolist(), None]:
        others = flat if fold is None else flat[folds != fold]
        best = others.sum(axis=0).argmax(axis=1)  # the first of equal ones, as in `ThresholdSearch`
        choices.append([grid[each] for each in best])
        if fold is not None:
            own = flat[folds == fold]
            dice[folds == fold] = np.take_along_axis(own, best[None, :, None], axis=2)[..., 0] / DICE_UNITS
    return dice, choices


def write_thresholds(
    found: Sequence[FoldResult], classes: Sequence[str], folder: Path
) -> tuple[list[Choice], list[str]]:
    """Writes `thresholds.csv`, and returns threshold and minimum area of each class and lines about them.

    Others than .5 and 0 are taken only if their gain is clear: if its 95 % interval lies above 0.
    """
    dice, choices = pooled_cells(found)
    half = np.stack([each.cells[:, 0, 0] for each in found if each.cells is not None]) / DICE_UNITS
    taken: list[Choice] = []
    rows, lines = [], ["Thresholds fitted on all folds; their dice is that of thresholds fitted on the other folds:"]
    for k, name in enumerate(classes):
        low, high = mean_interval(dice[:, k] - half[:, k])
        (threshold, area), spread = choices[-1][k], [choice[k][0] for choice in choices[:-1]]
        before, after = float(half[:, k].mean()), float(dice[:, k].mean())
        taken.append((threshold, area) if low > 0 else (HALF, 0.0))
        rows.append([name, threshold, area, before, after, low, high, min(spread), max(spread), *taken[-1]])
        without = f"{min(spread):.2f} to {max(spread):.2f} without one fold"
        gain = f"dice {before:.4f} at .5, {after:.4f}; gain [{low:.4f}, {high:.4f}]"
        kept = "" if low > 0 else "; .5 and 0 are kept, since the gain is not clear"
        lines.append(f"  {name:20} threshold {threshold:.2f} ({without}), minimum area {area:.2%}: {gain}{kept}")
    header = ("class", "threshold", "minimum_area", "dice_at_half", "dice", "gain_low", "gain_high", "least", "most",
              "threshold_taken", "minimum_area_taken")  # fmt: skip
    write_table(folder / "thresholds.csv", header, rows)
    return taken, lines


def mean_interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """Returns the 95 % interval of the mean of images, from their values (N,), by resampling them."""
    rng = np.random.default_rng(0)
    times = rng.multinomial(len(values), np.full(len(values), 1 / len(values)), size=RESAMPLES)
    low, high = np.percentile(times @ values / len(values), [2.5, 97.5])
    return float(low), float(high)
