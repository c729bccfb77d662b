"""Reads and writes vector files: GeoPackage, GeoJSON, and whatever else GDAL reads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ops.errors import DataError
from ops.extras import check_installed

SUFFIXES = {"gpkg": ".gpkg", "geojson": ".geojson"}


@dataclass(frozen=True)
class Layer:
    """Features of one kind.

    Attributes:
        name: Name of the layer.
        kind: Type of the geometries, such as `Polygon`.
        geometries: shapely geometries (N,).
        fields: Values (N,) of each field, by name.
    """

    name: str
    kind: str
    geometries: Sequence[Any]
    fields: Mapping[str, Sequence[Any]]


def write_layers(stem: Path, layers: Sequence[Layer], crs: str, form: str) -> None:
    """Writes layers into `<stem>.gpkg`, or into GeoJSON files (RFC 7946), `<stem>.geojson` and `<stem>_<name>.geojson`.

    GeoJSON is in longitude and latitude (WGS 84), its outer rings counterclockwise. Not atomic: files of the same names
    are replaced.

    Args:
        stem: Path without suffix.
        layers: The layers.
        crs: Coordinate reference system of the geometries, as WKT.
        form: `gpkg` or `geojson`.
    """
    import pyogrio.raw
    import shapely

    for number, layer in enumerate(layers):
        name = "" if form == "gpkg" or not number else f"_{layer.name}"
        path = stem.with_name(f"{stem.name}{name}{SUFFIXES[form]}")
        if form == "geojson" or not number:
            path.unlink(missing_ok=True)
        pyogrio.raw.write(
            path,
            geometry=np.array(shapely.to_wkb(np.array(layer.geometries, object)), object),
            field_data=[np.array(values, None if len(values) else object) for values in layer.fields.values()],
            fields=list(layer.fields),
            layer=layer.name,
            driver={"gpkg": "GPKG", "geojson": "GeoJSON"}[form],
            geometry_type=layer.kind,
            crs=crs,
            layer_options={"RFC7946": "YES"} if form == "geojson" else {},
        )


def read_features(path: Path) -> tuple[Any, dict[str, Any], str | None]:
    """Returns the geometries (N,) of a vector file's first layer, its fields by name, and its CRS as WKT or code.

    Features without a geometry are left out.

    Raises:
        DataError: It is missing or not a vector file.
        MissingPackageError: pyogrio is not installed.
    """
    check_installed("pyogrio", f"{path} needs")
    import pyogrio.raw
    import shapely
    from pyogrio.errors import DataSourceError

    if not path.is_file():
        raise DataError(f"There is no file {path}.")
    try:
        meta, _, geometry, fields = pyogrio.raw.read(path)
    except (DataSourceError, OSError, RuntimeError, UnicodeError) as error:
        raise DataError(
            f"{path} is not a vector file that GDAL reads ({error}); expected GeoPackage, GeoJSON or a shapefile."
        ) from error
    if geometry is None:
        raise DataError(f"{path} has no geometries; expected polygons or lines.")
    shapes = shapely.force_2d(shapely.from_wkb(geometry))
    there = ~(shapely.is_missing(shapes) | shapely.is_empty(shapes))
    named = {name: values[there] for name, values in zip(meta["fields"], fields, strict=True)}
    return shapes[there], named, meta["crs"]
