"""How far probabilities can be trusted: a temperature for them, and what the least certain images cost."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from belvedere.folds.found import FoldResult
from drawing.trust import draw_reliability, draw_risk_coverage
from ops.atomic import write_table
from ops.statistics.calibration import fitted_temperature, kept_quality, log_loss, pooled_reliability, reliability

FIRST = 0.1  # share of the images to look at, in the sentence about certainty


def write_calibration(
    found: Sequence[FoldResult], classes: Sequence[str], folder: Path
) -> tuple[list[float], list[str]]:
    """Writes `calibration.csv` and `reliability.png`, and returns the temperature of each class and lines about them.

    A temperature is taken only if those fitted on the other folds lower the log loss; otherwise 1 is.
    """
    taken: list[float] = []
    rows, lines, drawn = (
        [],
        ["Calibration; the calibrated error is that of temperatures fitted on the other folds:"],
        {},
    )
    folds = sorted({each.fold for each in found})
    for k, name in enumerate(classes):
        by_fold = [np.sum([each.counts[k] for each in found if each.fold == fold], axis=0) for fold in folds]
        whole = np.sum(by_fold, axis=0)
        temperature = fitted_temperature(whole)
        without = [fitted_temperature(whole - own) for own in by_fold]
        sizes = np.array([own.sum() for own in by_fold]) / max(1, whole.sum())
        before, after = reliability(whole).error, pooled_reliability(by_fold, without).error
        loss = sum(log_loss(own, each) * size for own, each, size in zip(by_fold, without, sizes, strict=True))
        taken.append(temperature if loss < log_loss(whole) else 1.0)
        rows.append([name, temperature, before, after, log_loss(whole), loss, taken[-1]])
        errors = f"expected calibration error {before:.4f} -> {after:.4f}"
        losses = f"log loss {log_loss(whole):.4f} -> {loss:.4f}"
        kept = "" if taken[-1] == temperature else "; 1 is kept, since the log loss does not fall"
        lines.append(f"  {name:20} temperature {temperature:.2f}: {errors}, {losses}{kept}")
        drawn[name] = (reliability(whole), reliability(whole, temperature))
    header = (
        "class",
        "temperature",
        "error",
        "error_calibrated",
        "log_loss",
        "log_loss_calibrated",
        "temperature_taken",
    )
    write_table(folder / "calibration.csv", header, rows)
    draw_reliability(drawn, folder / "reliability.png")
    return taken, lines


def write_certainty(found: Sequence[FoldResult], folder: Path) -> list[str]:
    """Writes `images.csv`, `risk_coverage.csv` and its chart, and returns a sentence about them."""
    names = ("name", "fold", "quality", "expected", "uncertainty")
    write_table(folder / "images.csv", names, [[getattr(each, name) for name in names] for each in found])
    quality = np.array([each.quality for each in found])
    curves = {
        "by the expected quality": kept_quality(-np.array([each.expected for each in found]), quality),
        "by the uncertainty": kept_quality(np.array([each.uncertainty for each in found]), quality),
        "best possible": kept_quality(-quality, quality),
    }
    coverage = np.arange(1, len(found) + 1) / len(found)
    rows = zip(coverage.tolist(), *(curve.tolist() for curve in curves.values()), strict=True)
    write_table(folder / "risk_coverage.csv", ("coverage", "expected", "uncertainty", "best"), rows)
    draw_risk_coverage(coverage, curves, folder / "risk_coverage.png")
    left = len(found) - max(1, round(FIRST * len(found)))
    kept = curves["by the expected quality"][left - 1]
    what = "dice" if found[0].cells is not None else "accuracy"
    few = f"If you look at the {len(found) - left} least certain of {len(found)} images"
    return [f"{few}, the rest has a mean {what} of {kept:.4f}, all of them {quality.mean():.4f}."]
