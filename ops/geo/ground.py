"""Measures in meters on the ground, whatever the coordinate reference system."""

from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ops.errors import DataError

WGS84 = "EPSG:4326"


class Ground:
    """Lambert's azimuthal equal-area projection of the WGS 84 ellipsoid around a point: meters to the east and north.

    Areas are exact; lengths are off by less than 1 in 10,000 within 100 km of the point.

    Args:
        crs: The coordinate reference system of the points.
        center: x and y of the point.

    Raises:
        DataError: The system has no relation to the earth.
    """

    def __init__(self, crs: str, center: NDArray[np.float64]) -> None:
        self.crs = crs
        (longitude, latitude) = transformed(center[None], crs, WGS84)[0]
        self.plane = f"+proj=laea +lat_0={latitude:.9f} +lon_0={longitude:.9f} +datum=WGS84 +units=m +no_defs"

    def meters(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Returns points (N, 2) of the CRS in meters."""
        return transformed(points, self.crs, self.plane)

    def from_meters(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Returns points (N, 2) in meters as points of the CRS."""
        return transformed(points, self.plane, self.crs)


def other_systems(source: Any, target: Any) -> tuple[str, str] | None:
    """Returns the names of two coordinate reference systems, such as `EPSG:4326`; None if they are the same."""
    from rasterio import CRS

    systems = CRS.from_user_input(source), CRS.from_user_input(target)
    if systems[0] == systems[1]:
        return None
    one, other = (f"EPSG:{code}" if (code := each.to_epsg()) else each.to_wkt().split('"')[1] for each in systems)
    return one, other


def transformed(points: NDArray[np.float64], source: Any, target: Any) -> NDArray[np.float64]:
    """Returns points (N, 2) of one coordinate reference system in another; x before y, longitude before latitude.

    Raises:
        DataError: The systems have no relation, or points lie outside of them.
    """
    from rasterio._err import CPLE_BaseError  # not public, but rasterio lets it through
    from rasterio.errors import RasterioError
    from rasterio.warp import transform

    if not len(points) or source == target:
        return points
    try:
        x, y = transform(source, target, *points[:, :2].T)
    except (RasterioError, CPLE_BaseError) as error:
        one, other = _names(source, target)
        raise DataError(
            f"Points of {one} cannot be transformed to {other} ({error}). Correct the coordinate system."
        ) from error
    found = np.stack([x, y], axis=1)
    if not np.isfinite(found).all():
        one, other = _names(source, target)
        raise DataError(f"Some points do not lie in both {one} and {other}. Correct the coordinate system.")
    return found


def _names(source: Any, target: Any) -> tuple[Any, Any]:
    """Returns what messages call two systems; only they look it up, since that takes longer than to transform."""
    from rasterio.errors import CRSError

    with suppress(CRSError):
        return other_systems(source, target) or (source, target)
    return source, target
