"""Opens georeferenced rasters, GeoTIFF and VRT, by GDAL."""

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import TiffImagePlugin

from ops.errors import DataError, UserError
from ops.extras import check_installed, installed
from ops.geo.ground import Ground
from ops.windows import Size

TIFF, VRT = (".tif", ".tiff"), ".vrt"
CACHE = 64  # MB of blocks that GDAL keeps
GEOKEYS = 34735  # tag of a TIFF with a coordinate reference system
BLOCKS = 1 << 26  # bytes read at once


def is_raster(path: Path) -> bool:
    """Returns whether GDAL reads a file instead of Pillow: a VRT, or a TIFF with a coordinate reference system.

    Without the extra `geo`, TIFFs are images as any others.
    """
    suffix = path.suffix.lower()
    if suffix == VRT:
        return True
    return suffix in TIFF and installed("rasterio") and GEOKEYS in tiff_tags(path)


def tiff_tags(path: Path) -> dict[int, Any]:
    """Returns the tags of a TIFF's first image; none for other files and broken headers."""
    try:
        with path.open("rb") as file:
            head = file.read(8)
            directory = TiffImagePlugin.ImageFileDirectory_v2(head if head[2:4] != b"+\0" else head + file.read(8))
            file.seek(directory.next)
            directory.load(file)
        return {tag: directory.get(tag) for tag in directory}
    except MemoryError:
        raise
    except Exception:  # broken headers make the parser raise anything
        return {}


@contextmanager
def opened_raster(path: Path) -> Iterator[Any]:
    """Opens a raster as a rasterio dataset; errors while reading it become a DataError that names it.

    Raises:
        MissingPackageError: rasterio is not installed.
    """
    check_installed("rasterio", f"{path} needs")
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning, RasterioError

    if not path.is_file():
        raise DataError(f"There is no file {path}.")
    try:
        with warnings.catch_warnings(), rasterio.Env(GDAL_CACHEMAX=CACHE):
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            driver = "VRT" if path.suffix.lower() == VRT else "GTiff"  # GDAL knows more, and some read from the network
            with rasterio.open(path, driver=driver) as dataset:
                yield dataset
    except (UserError, MemoryError):
        raise
    except (RasterioError, OSError) as error:
        cause = error.__cause__ or error
        missing = " A file that it refers to may be missing." if path.suffix.lower() == VRT else ""
        raise DataError(f"{path} is truncated or not a raster ({cause}).{missing} Restore it or remove it.") from error


@dataclass(frozen=True)
class Georeference:
    """Where an image lies on the ground.

    Attributes:
        path: The raster.
        crs: Its coordinate reference system, as WKT.
        transform: The six numbers (a, b, c, d, e, f) by which column and row, counted from the image's corner, become
            x = a column + b row + c and y = d column + e row + f.
        size: Height and width of the image in pixels.
    """

    path: Path
    crs: str
    transform: tuple[float, ...]
    size: Size

    def at(self, size: Size) -> "Georeference":
        """Returns the georeference of the same image resized to this height and width."""
        if size == self.size:
            return self
        (a, b, c, d, e, f), (rows, columns) = self.transform, (old / new for old, new in zip(self.size, size, strict=True))
        return replace(self, transform=(a * columns, b * rows, c, d * columns, e * rows, f), size=size)

    def projected(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Returns points (N, 2) of column and row, counted from the image's corner, as x and y of the CRS."""
        a, b, c, d, e, f = self.transform
        return points @ np.array([[a, d], [b, e]]) + (c, f)

    def pixels(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Returns points (N, 2) of x and y of the CRS as column and row, counted from the image's corner."""
        a, b, c, d, e, f = self.transform
        return (points - (c, f)) @ np.linalg.inv(np.array([[a, d], [b, e]]))

    @cached_property
    def ground(self) -> Ground:
        """Meters around the center of the image."""
        middle = self.projected(np.array([[self.size[1] / 2, self.size[0] / 2]]))
        return Ground(self.crs, middle[0])

    def pixel_areas(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Returns the area in m² of a pixel in each of these rows, the mean over the row."""
        samples = np.linspace(0, self.size[0], 33), np.linspace(0, self.size[1], 17)
        row, column = (each.ravel() for each in np.meshgrid(*samples, indexing="ij"))
        corners = np.stack([column, row], axis=1)
        origin, right, down = (
            self.ground.meters(self.projected(corners + step)) for step in ((-0.5, -0.5), (0.5, -0.5), (-0.5, 0.5))
        )
        across, along = (right - origin).T, (down - origin).T
        areas = np.abs(across[0] * along[1] - across[1] * along[0]).reshape(33, 17)
        return np.interp(rows + 0.5, samples[0], areas.mean(axis=1))


def georeference(path: Path) -> Georeference | None:
    """Returns where a raster lies on the ground; None without coordinate reference system or position.

    Raises:
        DataError: The file is not a raster.
    """
    with opened_raster(path) as dataset:
        return georeference_of(dataset, path)


def georeference_of(dataset: Any, path: Path) -> Georeference | None:
    """Returns where an open raster lies on the ground; see `georeference`."""
    if dataset.crs is None or dataset.transform.is_identity or not math.isfinite(dataset.transform.determinant):
        return None
    return Georeference(path, dataset.crs.to_wkt(), tuple(dataset.transform)[:6], dataset.shape)


def strips(size: Size, block: int, row_bytes: int) -> Iterator[tuple[int, int]]:
    """Yields first row and row after the last of strips that hold whole blocks of a raster, as far as memory allows.

    Args:
        size: Height and width of the raster.
        block: Height of its blocks.
        row_bytes: Memory of a row.
    """
    most = max(1, BLOCKS // row_bytes)
    count = max(1, most // block) * block if block <= most else most
    return ((top, min(top + count, size[0])) for top in range(0, size[0], count))


def valid_pixels(dataset: Any, window: Any, size: Size | None = None) -> NDArray[np.bool_]:
    """Returns which pixels of an open raster's window have data by its nodata value, alpha or mask, bool (h, w).

    Args:
        dataset: The raster.
        window: A rasterio window.
        size: Height and width to reduce it to.
    """
    return np.asarray(dataset.dataset_mask(window=window, out_shape=size) > 0)


def windowed(top: int, bottom: int, left: int, right: int) -> Any:
    """Returns a rasterio window."""
    from rasterio.windows import Window

    return Window(left, top, right - left, bottom - top)


def named(dataset: Any) -> Sequence[str]:
    """Returns the name of each band in lower case: its description, or else its color."""
    given = zip(dataset.descriptions, dataset.colorinterp, strict=True)
    return [(text or color.name).lower() for text, color in given]
