"""What `test` and `validate` print."""

from collections.abc import Mapping
from pathlib import Path
from typing import SupportsFloat

from callbacks.intervals import COLUMNS
from datamodules.read.tables import read_table

FEW = 10  # images, of which a bootstrap has few different samples


def results(metrics: Mapping[str, SupportsFloat], intervals: Path) -> str:
    """Returns a line for each metric, with its 95 % interval if there is one.

    Args:
        metrics: Values by name.
        intervals: The `intervals.csv` of the same metrics; it may be missing.
    """
    limits, count = {}, 0
    if intervals.is_file():
        rows = read_table(intervals, COLUMNS)
        limits = dict(zip(rows["figure"], zip(rows["low"], rows["high"], strict=True), strict=True))
        count = max(map(int, rows["pictures"]), default=0)
    wide = max(map(len, metrics), default=0)
    lines = [f"{'metric':{wide}}      value" + (f"   95 % interval, {count} images" if limits else "")]
    for name, value in sorted(metrics.items()):
        known = limits.get(name)
        interval = f"   {float(known[0]):.4f} to {float(known[1]):.4f}" if known else ""
        lines.append(f"{name:{wide}} {float(value):10.4f}{interval}")
    if limits and count < FEW:
        lines.append(f"{count} images are too few for intervals to be trusted.")
    return "\n".join(lines)
