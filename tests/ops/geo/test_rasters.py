from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely
from rasterio.warp import transform_geom

from ops.errors import DataError
from ops.geo.ground import Ground, transformed
from ops.geo.rasters import Georeference, cloud_optimized, georeference, is_raster, opened_raster, strips
from tests.ops.geo.helpers import DEGREES, ROTATED, UTM, write


def placed(crs: str, transform: rasterio.Affine, size: tuple[int, int] = (60, 80)) -> Georeference:
    return Georeference(Path("image.tif"), rasterio.CRS.from_user_input(crs).to_wkt(), tuple(transform)[:6], size)


@pytest.mark.parametrize(("crs", "transform"), [("EPSG:32632", UTM), ("EPSG:32632", ROTATED), ("EPSG:4326", DEGREES)])
def test_points_are_those_of_rasterio(crs: str, transform: rasterio.Affine) -> None:
    reference, points = placed(crs, transform), np.random.default_rng(0).random((20, 2)) * (80, 60)
    expected = np.array([transform @ tuple(point) for point in points])
    assert np.allclose(reference.projected(points), expected, rtol=0, atol=1e-7)
    assert np.allclose(reference.pixels(expected), points, atol=1e-4)
    halved = reference.at((30, 40))
    assert np.allclose(halved.projected(points / 2), expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("crs", "transform"),
    [("EPSG:32632", UTM), ("EPSG:32632", ROTATED), ("EPSG:4326", DEGREES),
     ("EPSG:3857", rasterio.Affine(2, 0, 1_200_000, 0, -2, 6_000_000))],
)  # fmt: skip
def test_areas_are_those_on_the_ellipsoid(crs: str, transform: rasterio.Affine) -> None:
    reference = placed(crs, transform)
    corners = shapely.transform(shapely.box(0, 0, 80, 60), reference.projected)
    # another equal-area projection, of the whole of Europe
    elsewhere = shapely.geometry.shape(transform_geom(crs, "EPSG:3035", shapely.geometry.mapping(corners)))
    assert 80 * reference.pixel_areas(np.arange(60)).sum() == pytest.approx(elsewhere.area, rel=2e-6)


def test_meters_around_a_point() -> None:
    ground = Ground("EPSG:4326", np.array([11.0, 47.0]))
    # a degree of longitude and of latitude at 47 degrees on the WGS 84 ellipsoid
    east, north = ground.meters(np.array([[11.01, 47.0], [11.0, 47.01]]))
    assert east == pytest.approx([760.57, 0.0], abs=0.1)
    assert north == pytest.approx([0.0, 1111.7], abs=0.1)
    assert np.allclose(ground.from_meters(np.array([east, north])), [[11.01, 47.0], [11.0, 47.01]])


def test_points_outside_of_a_system_are_rejected() -> None:
    with pytest.raises(DataError, match="Correct the coordinate system"):
        transformed(np.array([[1e12, 0.0]]), "EPSG:3035", "EPSG:4326")


def test_only_rasters_with_a_place_are_read_by_gdal(tmp_path: Path) -> None:
    values = np.zeros((3, 8, 8), np.uint8)
    assert is_raster(write(tmp_path / "placed.tif", values, crs="EPSG:32632", transform=UTM))
    assert is_raster(write(tmp_path / "big.tif", values, crs="EPSG:32632", transform=UTM, bigtiff="yes"))
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning):
        assert not is_raster(write(tmp_path / "plain.tif", values))
    assert georeference(write(tmp_path / "no_crs.tif", values, transform=UTM)) is None
    assert is_raster(tmp_path / "any.vrt")
    (tmp_path / "broken.tif").write_bytes(b"II*\0")
    assert not is_raster(tmp_path / "broken.tif")


def test_a_cloud_optimized_copy_lies_on_the_same_pixels(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 2, (1, 1500, 700), np.uint8)
    source = write(tmp_path / "source.tif", values, crs="EPSG:32632", transform=ROTATED)
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning):
        plain = write(tmp_path / "plain.tif", values, nodata=255)
    reference = georeference(source)
    assert reference is not None
    cloud_optimized(plain, tmp_path / "cog.tif", reference, "nearest")
    with rasterio.open(tmp_path / "cog.tif") as copy, rasterio.open(source) as original:
        assert (copy.crs, copy.transform, copy.shape) == (original.crs, original.transform, original.shape)
        assert (copy.read() == values).all()
        assert copy.nodata == 255
        assert copy.overviews(1)
        assert copy.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"


@pytest.mark.parametrize(("block", "row_bytes"), [(512, 1000), (512, 1 << 20), (1, 10), (3000, 1 << 22)])
def test_strips_cover_all_rows_once_within_bounds(block: int, row_bytes: int) -> None:
    found = list(strips((5000, 100), block, row_bytes))
    assert [0, *(bottom for _, bottom in found)] == [*(top for top, _ in found), 5000]
    assert all((bottom - top) * row_bytes <= 1 << 26 for top, bottom in found)


def test_errors_name_the_file(tmp_path: Path) -> None:
    (tmp_path / "broken.tif").write_bytes(b"II*\0 not a raster")
    for name, words in (("broken.tif", "truncated or not a raster"), ("missing.tif", "There is no file")):
        with pytest.raises(DataError, match=words) as error, opened_raster(tmp_path / name):
            pass
        assert name in str(error.value)
