"""Opens georeferenced rasters, GeoTIFF and VRT, by GDAL."""

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ops.errors import DataError, UserError
from ops.extras import check_installed, installed
from ops.files.images import tiff_tags
from ops.geo.ground import Ground
from ops.windows import Size

TIFF, VRT = (".tif", ".tiff"), ".vrt"
CACHE = 64  # MB of blocks that GDAL keeps
PLACED = (33550, 34264, 34735)  # tags of a TIFF with a position or a coordinate reference system
PLAIN = {"driver": "GTiff", "dtype": "uint8", "compress": "deflate", "zlevel": 1, "bigtiff": "if_safer"}
BLOCKS = 1 << 26  # bytes read at once


def is_raster(path: Path) -> bool:
    """Returns whether GDAL reads a file instead of Pillow: a VRT, or a TIFF with a position on the ground.

    Without the extra `geo`, TIFFs are images as any others.
    """
    suffix = path.suffix.lower()
    if suffix == VRT:
        return True
    return suffix in TIFF and installed("rasterio") and not tiff_tags(path).keys().isdisjoint(PLACED)


@contextmanager
def opened_raster(path: Path) -> Iterator[Any]:
    """Opens a raster as a rasterio dataset; errors while reading it become a DataError that names it.

    Raises:
        MissingPackageError: rasterio is not installed.
    """
    check_installed("rasterio", f"{path} needs")
    import rasterio
    from rasterio._err import CPLE_BaseError  # not public, but rasterio lets it through
    from rasterio.errors import RasterioError

    if not path.is_file():
        raise DataError(f"There is no file {path}.")
    try:
        driver = "VRT" if path.suffix.lower() == VRT else "GTiff"  # GDAL knows more, and some read from the network
        with _quiet(), rasterio.open(path, driver=driver) as dataset:
            yield dataset
    except (UserError, MemoryError):
        raise
    except (RasterioError, CPLE_BaseError, OSError) as error:
        cause = error.__cause__ or error
        missing = " A file that it refers to may be missing." if path.suffix.lower() == VRT else ""
        raise DataError(f"{path} is truncated or not a raster ({cause}).{missing} Restore it or remove it.") from error


@contextmanager
def created_raster(path: Path, size: Size, count: int, **options: Any) -> Iterator[Any]:
    """Creates a GeoTIFF, of 8 bits unless `dtype` says otherwise, as a rasterio dataset to write to; not atomic.

    Args:
        path: The file.
        size: Height and width.
        count: Number of bands.
        options: Further options of `rasterio.open`, such as `nodata`.
    """
    import rasterio

    shape = {"height": size[0], "width": size[1], "count": count}
    with _quiet(), rasterio.open(path, "w", **shape, **PLAIN | options) as dataset:
        yield dataset


@contextmanager
def _quiet() -> Iterator[None]:
    """Bounds the memory of GDAL, keeps masks inside their GeoTIFF, and ignores that a raster has no position."""
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning

    warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)  # for good: a reader may be closed after others
    with rasterio.Env(GDAL_CACHEMAX=CACHE, GDAL_TIFF_INTERNAL_MASK=True):
        yield


class Georeference:
    """Where an image lies on the ground; no dataclass, which Lightning would take apart in a batch.

    Args:
        path: The raster.
        crs: Its coordinate reference system, as WKT.
        transform: The six numbers (a, b, c, d, e, f) by which column and row, counted from the image's corner, become
            x = a column + b row + c and y = d column + e row + f.
        size: Height and width of the image in pixels.
    """

    def __init__(self, path: Path, crs: str, transform: Sequence[float], size: Size) -> None:
        self.path, self.crs, self.transform, self.size = path, crs, tuple(transform), size

    def at(self, size: Size) -> "Georeference":
        """Returns the georeference of the same image resized to this height and width."""
        if size == self.size:
            return self
        (a, b, c, d, e, f), (rows, columns) = (
            self.transform,
            (old / new for old, new in zip(self.size, size, strict=True)),
        )
        return Georeference(self.path, self.crs, (a * columns, b * rows, c, d * columns, e * rows, f), size)

    def projected(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Returns points (N, 2) of column and row, counted from the image's corner, as x and y of the CRS."""
        a, b, c, d, e, f = self.transform
        found: NDArray[np.float64] = points @ np.array([[a, d], [b, e]]) + (c, f)
        return found

    def pixels(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Returns points (N, 2) of x and y of the CRS as column and row, counted from the image's corner."""
        a, b, c, d, e, f = self.transform
        found: NDArray[np.float64] = (points - (c, f)) @ np.linalg.inv(np.array([[a, d], [b, e]]))
        return found

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
        return np.asarray(np.interp(rows + 0.5, samples[0], areas.mean(axis=1)))


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
    return Georeference(path, dataset.crs.to_wkt(), tuple(dataset.transform)[:6], (dataset.height, dataset.width))


def cloud_optimized(plain: Path, path: Path, reference: Georeference, overviews: str) -> None:
    """Writes a raster as a cloud-optimized GeoTIFF at its place on the ground.

    Args:
        plain: The raster, which gets its place on the way.
        path: The file to write.
        reference: Its place.
        overviews: How overviews are resampled.
    """
    import rasterio
    from rasterio.shutil import copy

    options = {"compress": "DEFLATE", "bigtiff": "IF_SAFER", "overview_resampling": overviews.upper()}
    with _quiet():
        with rasterio.open(plain, "r+") as raster:
            raster.crs, raster.transform = rasterio.CRS.from_wkt(reference.crs), rasterio.Affine(*reference.transform)
        copy(plain, path, driver="COG", **options)


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
