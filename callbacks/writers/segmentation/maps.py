"""Writes maps of images that have a georeference: rasters on the pixels of the image, and vectors."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from callbacks.writers.format import Row
from callbacks.writers.segmentation.lines import check_lengths, line_layers
from callbacks.writers.segmentation.stitched import Stitched, StitchedFormat
from ops.atomic import PREFIX, write_table
from ops.errors import ArgumentError
from ops.files.names import safe_path
from ops.geo.rasters import Georeference, cloud_optimized, created_raster, opened_raster, valid_pixels, windowed
from ops.geo.vectors import SUFFIXES, Layer, write_layers

FOLDER, TABLE = "maps", "areas.csv"
COLUMNS = ("image", "class", "area_m2", "share", "length_m")
NODATA = 255
AT_ONCE = 1 << 22  # pixels of which the polygons are looked up at once
Vectors = Literal["gpkg", "geojson", "none"]


class Maps(StitchedFormat):
    """Writes maps of images that have a georeference; nothing for plain images.

    - `maps/<path and stem>_mask.tif`: a cloud-optimized GeoTIFF on the pixels of the image, a band per class: 1 in the
      mask, 0 outside, 255 where the image has no data.
    - `maps/<path and stem>_probability.tif`: the probability in percent, 255 where the image has no data.
    - `maps/<path and stem>.gpkg`: the layer `polygons` in the image's coordinate reference system, with `class`,
      `area_m2` and mean `probability`; for roads also the layers `lines` and `nodes`, see
      `callbacks.writers.segmentation.lines.line_layers`. Or as `.geojson` in longitude and latitude.
    - `areas.csv`: area and share of each class per image; for roads their length.

    Areas and lengths are those on the ground, whatever the coordinate reference system.

    Args:
        vectors: Format of the polygons: `gpkg`, `geojson` or `none`.
        tolerance: By how many pixels a polygon may leave the outline of its pixels (Douglas and Peucker); 0 keeps every
            corner.
        spur: Side branches and lone center lines shorter than this are dropped, in meters.
        gap: Ends of center lines are joined with a line at most this far ahead of them, in meters.

    Raises:
        ArgumentError: An option is invalid.
    """

    reads_percents = True

    def __init__(
        self, vectors: Vectors = "gpkg", tolerance: float = 1.0, spur: float = 20.0, gap: float = 20.0
    ) -> None:
        check_lengths(spur, gap)
        if vectors not in (*SUFFIXES, "none") or not tolerance >= 0:
            raise ArgumentError(
                f"vectors is {vectors!r} and tolerance {tolerance}; expected gpkg, geojson or none, and 0 pixels or "
                "more"
            )
        self.vectors, self.tolerance, self.spur, self.gap = vectors, tolerance, spur, gap

    def write(self, image: Stitched, folder: Path) -> list[Row]:
        if image.georeference is None:
            return []
        reference = image.georeference.at(image.size)
        stem = folder / FOLDER / safe_path(image.name, "")
        stem.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder, prefix=PREFIX) as temporary:
            files = Path(temporary, "mask.tif"), Path(temporary, "probability.tif")
            areas, shares = rasters(image, reference, *files)
            lengths: dict[str, float] = {}
            if self.vectors != "none":
                layers = [polygons(image.classes, reference, *files, self.tolerance)]
                if image.line_classes:
                    layers += line_layers(image, reference, self.spur, self.gap)
                    lengths = _lengths(layers[1])
                write_layers(stem, layers, reference.crs, self.vectors)
            for file, how in zip(files, ("nearest", "average"), strict=True):
                cloud_optimized(file, stem.with_name(f"{stem.name}_{file.stem}.tif"), reference, how)
        columns = zip(image.classes, areas.tolist(), shares.tolist(), strict=True)
        return [[image.name, label, round(area, 2), round(share, 6), lengths.get(label, "")]
                for label, area, share in columns]  # fmt: skip

    def finish(self, rows: Sequence[Row], folder: Path) -> str:
        if rows:
            write_table(folder / TABLE, COLUMNS, rows)
        return ""


def _lengths(lines: Layer) -> dict[str, float]:
    """Returns the length of the lines of each class."""
    totals: dict[str, float] = {}
    for label, length in zip(lines.fields["class"], lines.fields["length_m"], strict=True):
        totals[label] = round(totals.get(label, 0.0) + length, 2)
    return totals


def rasters(
    image: Stitched, reference: Georeference, mask: Path, probability: Path
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Writes the masks and probabilities of an image into plain GeoTIFFs without a position, a few rows at a time.

    Returns:
        Area in m² of each class, and its share of the pixels that have data.
    """
    count, width = len(image.classes), image.size[1]
    areas, marked, pixels, top = np.zeros(count), np.zeros(count), 0, 0
    with (
        created_raster(mask, image.size, count, nodata=NODATA) as masks,
        created_raster(probability, image.size, count, nodata=NODATA) as probabilities,
        opened_raster(reference.path) as source,
    ):
        for bands in zip(*(each(k) for each in (image.bands, image.percents) for k in range(count)), strict=True):
            bottom = top + len(bands[0])
            valid = valid_rows(source, image.size, top, bottom)
            window = windowed(top, bottom, 0, width)
            row_areas = reference.pixel_areas(np.arange(top, bottom))
            for k in range(count):
                found = bands[k] & valid
                masks.write(np.where(valid, found, np.uint8(NODATA)), k + 1, window=window)
                probabilities.write(np.where(valid, bands[count + k], np.uint8(NODATA)), k + 1, window=window)
                in_rows = found.sum(axis=1)
                areas[k] += in_rows @ row_areas
                marked[k] += in_rows.sum()
            pixels += int(valid.sum())
            top = bottom
        for k, label in enumerate(image.classes, 1):
            masks.set_band_description(k, label)
            probabilities.set_band_description(k, f"{label}, probability in percent")
    return areas, marked / max(1, pixels)


def valid_rows(source: Any, size: tuple[int, int], top: int, bottom: int) -> NDArray[np.bool_]:
    """Returns where rows of an image of this size have data, bool (bottom - top, W), by its open raster."""
    if source.shape == size:
        return valid_pixels(source, windowed(top, bottom, 0, size[1]))
    return valid_pixels(source, None, size)[top:bottom]


def polygons(classes: Sequence[str], reference: Georeference, mask: Path, probability: Path, tolerance: float) -> Layer:
    """Returns the connected regions of masks as polygons in the coordinate reference system.

    Args:
        classes: Names of the bands.
        reference: Where the rasters lie.
        mask: Raster of masks, 1 inside.
        probability: Raster of probabilities in percent.
        tolerance: By how many pixels a polygon may leave the outline of its pixels.
    """
    import rasterio.features
    import shapely
    from shapely.geometry import shape

    found: list[Any] = []
    fields: dict[str, list[Any]] = {"class": [], "area_m2": [], "probability": []}
    for k, label in enumerate(classes, 1):
        with opened_raster(mask) as raster:
            band = rasterio.band(raster, k)
            traced = rasterio.features.shapes(band, mask=band)  # in pixels: the raster has no place yet
            outlines = np.array([shape(outline) for outline, value in traced if value == 1], object)
        on_ground = shapely.transform(outlines, lambda points: reference.ground.meters(reference.projected(points)))
        near = shapely.simplify(outlines, tolerance) if tolerance else outlines
        found += list(shapely.transform(near, reference.projected))
        fields["class"] += [label] * len(outlines)
        fields["area_m2"] += np.round(shapely.area(on_ground), 2).tolist()
        fields["probability"] += np.round(_means(outlines, probability, k) / 100, 4).tolist()
    return Layer("polygons", "Polygon", found, fields)


def _means(outlines: NDArray[Any], path: Path, band: int) -> NDArray[np.float64]:
    """Returns the mean of a raster's band over the pixels inside each outline, in pixels, a few rows at a time."""
    import rasterio.features
    import shapely

    sums, counts, tree = np.zeros(len(outlines) + 1), np.zeros(len(outlines) + 1), shapely.STRtree(outlines)
    with opened_raster(path) as raster:
        for top, bottom in _row_ranges(raster.shape):
            numbers = tree.query(shapely.box(0, top, raster.width, bottom))
            # only the part in these rows: a whole network of roads, row by row, would take minutes
            parts = shapely.clip_by_rect(outlines[numbers], 0, top, raster.width, bottom)
            shapes = [(part, number + 1) for part, number in zip(parts, numbers, strict=True) if part.area > 0]
            if not shapes:
                continue
            labels = rasterio.features.rasterize(
                shapes,
                (bottom - top, raster.width),
                transform=rasterio.Affine.translation(0, top),
                dtype=np.int32,
            ).ravel()
            values = raster.read(band, window=windowed(top, bottom, 0, raster.width)).ravel()
            inside = labels > 0
            sums += np.bincount(labels[inside], values[inside], len(sums))
            counts += np.bincount(labels[inside], minlength=len(sums))
    return np.asarray(sums[1:] / counts[1:].clip(1))


def _row_ranges(size: tuple[int, int]) -> Iterator[tuple[int, int]]:
    count = max(1, AT_ONCE // size[1])
    return ((top, min(top + count, size[0])) for top in range(0, size[0], count))
