"""Writes how unsure a network, or an average of several, is of each pixel and of each image."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from callbacks.writers.format import Row
from callbacks.writers.segmentation.maps import NODATA, valid_rows
from callbacks.writers.segmentation.mask_files import gray_file
from callbacks.writers.segmentation.stitched import Stitched, StitchedFormat, uncertain
from ops.atomic import write_table
from ops.files.names import safe_path
from ops.geo.rasters import Georeference, cloud_optimized, created_raster, opened_raster, windowed

FOLDER, BETWEEN = "uncertainty", "disagreement"


class Uncertainty(StitchedFormat):
    """Writes images of the uncertainty, and `uncertainty.csv` with a row per image, the most uncertain first.

    A pixel has 4 p (1 - p) of its probability p, the largest of all classes. The value of an image is the mean over its
    pixels and classes.

    - `uncertainty/<path and stem>.png`: black where the network is sure, white where it is undecided.
    - `uncertainty/<path and stem>.tif`: of images that have a georeference, a cloud-optimized GeoTIFF on their pixels:
      the uncertainty in percent, 255 where the image has no data.
    - `disagreement/` and a column, of an ensemble, in the same form: the part of the uncertainty that its members
      disagree about, see `tasks.base.disagreement`. The rest is what each of them is unsure of.
    """

    folders = (FOLDER,)
    reads_percents = True
    of_plain_images = True

    def write(self, image: Stitched, folder: Path) -> list[Row]:
        between = image.content.disagreement
        for name in (FOLDER, *(() if between is None else (BETWEEN,))):
            drawn = folder / name / safe_path(image.name, ".png")
            drawn.parent.mkdir(parents=True, exist_ok=True)
            with gray_file(drawn, image.size) as append:
                for levels in _levels(image, name):
                    append(np.rint(255 * levels).astype(np.uint8))
            if image.georeference is not None:
                path = folder / name / safe_path(image.name, ".tif")
                _write_raster(image, name, image.georeference.at(image.size), path)
        return [[image.name, image.content.uncertainty, "" if between is None else between]]

    def finish(self, rows: Sequence[Row], folder: Path) -> str:
        ordered = sorted(rows, key=lambda row: -float(row[1]))
        columns: Sequence[str] = ("name", FOLDER, BETWEEN)
        if all(row[2] == "" for row in rows):
            columns, ordered = columns[:2], [row[:2] for row in ordered]
        write_table(folder / "uncertainty.csv", columns, ordered)
        return f"\nMost uncertain: {', '.join(row[0] for row in ordered[:3])}." if ordered else ""


def _levels(image: Stitched, name: str) -> Iterator[NDArray[np.float32]]:
    """Yields the uncertainty or disagreement of the pixels from the top, some rows (n, W) at a time."""
    read = image.percents if name == FOLDER else image.disagreements
    for bands in zip(*(read(k) for k in range(len(image.classes))), strict=True):
        shares = np.stack(bands).astype(np.float32) / np.float32(100)
        yield (uncertain(shares) if name == FOLDER else shares).max(axis=0)


def _write_raster(image: Stitched, name: str, reference: Georeference, path: Path) -> None:
    """Writes the uncertainty or disagreement of an image as a cloud-optimized GeoTIFF."""
    with TemporaryDirectory(dir=path.parent) as temporary:
        plain, top = Path(temporary, "plain.tif"), 0
        with (
            created_raster(plain, image.size, 1, nodata=NODATA) as raster,
            opened_raster(reference.path) as source,
        ):
            for levels in _levels(image, name):
                bottom = top + len(levels)
                percents = np.rint(100 * levels).astype(np.uint8)
                valid = valid_rows(source, image.size, top, bottom)
                window = windowed(top, bottom, 0, image.size[1])
                raster.write(np.where(valid, percents, np.uint8(NODATA)), 1, window=window)
                top = bottom
            raster.set_band_description(1, f"{name} in percent")
        cloud_optimized(plain, path, reference, "average")
