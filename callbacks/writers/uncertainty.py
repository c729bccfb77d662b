"""Writes how unsure a network, or an average of several, is of each pixel and of each image."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from callbacks.writers.format import Row
from callbacks.writers.stitched import Stitched, StitchedFormat, uncertain
from drawing.pictures import save_picture
from ops.atomic import write_table
from ops.filenames import safe_path


class Uncertainty(StitchedFormat):
    """Writes `uncertainty/<path and stem>.png`, and `uncertainty.csv` with a row per image, the most uncertain first.

    A pixel has 4 p (1 - p) of its probability p, the largest of all classes: black where the network is sure, white
    where it is undecided. The value of an image is the mean over its pixels and classes.
    """

    folders = ("uncertainty",)
    reads_percents = True
    of_plain_images = True

    def write(self, image: Stitched, folder: Path) -> list[Row]:
        bands = zip(*(image.percents(k) for k in range(len(image.classes))), strict=True)
        levels = [uncertain(np.stack(band).astype(np.float32) / 100).max(axis=0) for band in bands]
        drawn = np.rint(255 * np.concatenate(levels)).astype(np.uint8)
        save_picture(drawn, folder / "uncertainty" / safe_path(image.name, ".png"))
        return [[image.name, image.content.uncertainty]]

    def finish(self, rows: Sequence[Row], folder: Path) -> str:
        ordered = sorted(rows, key=lambda row: -float(row[1]))
        write_table(folder / "uncertainty.csv", ("name", "uncertainty"), ordered)
        return f"\nMost uncertain: {', '.join(row[0] for row in ordered[:3])}." if ordered else ""
