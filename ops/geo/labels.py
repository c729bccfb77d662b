"""Rasterizes vector labels onto the pixels of an image: polygons, and lines with a width in meters."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ops.errors import DataError
from ops.geo.ground import transformed
from ops.geo.rasters import Georeference
from ops.geo.vectors import read_features
from ops.windows import Size

FILES = (".gpkg", ".geojson", ".json", ".shp", ".fgb")


class VectorLabels:
    """Polygons and lines that mark classes.

    Args:
        path: A vector file for all images, or a folder with one for each, of the same stem.
        classes: Names of the classes.
        field: Field that holds the class of a feature; None if there is one class. Features of other classes are
            background.
        width: Width of lines in meters, or the field that holds it; None rejects lines.
    """

    def __init__(
        self, path: Path, classes: Sequence[str], field: str | None = None, width: float | str | None = None
    ) -> None:
        self.path, self.classes, self.field, self.width = path, classes, field, width
        self._read: dict[Path, tuple[Any, dict[str, Any], str]] = {}

    def recipe(self) -> list[str]:
        """Returns what else than the files decides the labels, for cache keys and fingerprints."""
        return [f"label_field {self.field}", f"line_width {self.width}", *self.classes]

    def file(self, stem: str) -> Path:
        """Returns the file with the labels of the image with this stem.

        Raises:
            DataError: There is none.
        """
        if self.path.is_file():
            return self.path
        found = [path for suffix in FILES if (path := self.path / f"{stem}{suffix}").is_file()]
        if len(found) != 1:
            count = "no file" if not found else f"{len(found)} files"
            raise DataError(f"{self.path} has {count} {stem}.* with vector labels; expected one, {' '.join(FILES)}.")
        return found[0]

    def system(self, stem: str) -> str:
        """Returns the coordinate reference system of the labels of the image with this stem."""
        return self._features(self.file(stem))[2]

    def shapes(self, stem: str, reference: Georeference) -> list[NDArray[Any]]:
        """Returns the polygons (N,) of each class, and wide lines, in pixels counted from an image's corner.

        Args:
            stem: Name of the image without its suffix.
            reference: Where it lies.

        Raises:
            DataError: The file is missing, has points or lines without a width, unknown fields or only unknown
                classes, or all of its features lie elsewhere.
        """
        import shapely

        path = self.file(stem)
        geometries, fields, system = self._features(path)
        areas = self._as_areas(path, geometries, fields, system, reference)
        pixels = shapely.transform(
            areas, lambda points: reference.pixels(transformed(points, reference.ground.plane, reference.crs))
        )
        around = shapely.box(0, 0, reference.size[1], reference.size[0])
        if len(pixels) and not shapely.intersects(shapely.box(*shapely.total_bounds(pixels)), around):
            raise DataError(
                f"The {len(pixels)} features of {path} do not overlap the image {reference.path}. Remove one of them, "
                "or correct their coordinate systems."
            )
        near = shapely.intersects(pixels, around)
        if self.field is None:
            return [pixels[near]]
        named = fields[self.field].astype(str)
        return [pixels[near & (named == label)] for label in self.classes]

    def _features(self, path: Path) -> tuple[Any, dict[str, Any], str]:
        """Returns geometries, fields and coordinate reference system of a file, read once.

        Raises:
            DataError: It cannot be used.
        """
        if path not in self._read:
            geometries, fields, system = read_features(path)
            if system is None:
                raise DataError(f"{path} has no coordinate reference system. Assign the one of its coordinates first.")
            for name in (self.field, self.width):
                if isinstance(name, str) and name not in fields:
                    raise DataError(f"{path} has no field {name!r}; it has {', '.join(fields) or 'none'}.")
            if self.field is not None and len(geometries):
                found = set(fields[self.field].astype(str))
                if found.isdisjoint(self.classes):
                    raise DataError(
                        f"{path} has the classes {', '.join(sorted(found)[:10])} in the field {self.field!r}; expected "
                        f"{', '.join(self.classes)}. Correct --data.classes or --data.label_field."
                    )
            self._read[path] = geometries, fields, system
        return self._read[path]

    def _as_areas(
        self, path: Path, geometries: Any, fields: dict[str, Any], system: str, reference: Georeference
    ) -> NDArray[Any]:
        """Returns features as polygons in meters around an image; lines get their width.

        Raises:
            DataError: A feature is a point, or a line without a width.
        """
        import shapely

        meters = shapely.transform(geometries, lambda points: transformed(points, system, reference.ground.plane))
        kinds = shapely.get_dimensions(meters)
        if (kinds == 0).any():
            raise DataError(f"{path} has points; expected polygons or lines.")
        lines = kinds == 1
        if not lines.any():
            return np.asarray(meters)
        if self.width is None:
            raise DataError(
                f"{path} has lines. Give their width in meters, or the field that holds it: --data.line_width."
            )
        try:
            widths = fields[self.width] if isinstance(self.width, str) else np.full(len(meters), self.width)
            widths = np.asarray(widths, np.float64)
        except (ValueError, TypeError) as error:
            raise DataError(
                f"{path} has widths in the field {self.width!r} that are no numbers ({error}); expected meters."
            ) from error
        if not (widths[lines] > 0).all():
            raise DataError(f"{path} has lines with a {self.width!r} that is not above 0; expected meters.")
        meters[lines] = shapely.buffer(meters[lines], widths[lines] / 2)
        return np.asarray(meters)


def rasterized(shapes: Sequence[Any] | NDArray[Any], origin: Size, size: Size) -> NDArray[np.bool_]:
    """Returns which pixels of a window have their center inside any polygon.

    Args:
        shapes: Polygons in pixels of the image, counted from its corner.
        origin: Top and left of the window.
        size: Its height and width.
    """
    import rasterio.features

    top, left = origin
    shift = rasterio.Affine.translation(left, top)
    if not len(shapes):
        return np.zeros(size, np.bool_)
    return np.asarray(rasterio.features.rasterize(shapes, size, transform=shift, dtype=np.uint8) > 0)
