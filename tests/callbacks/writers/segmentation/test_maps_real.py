"""Real tiles at a place on the ground, from a raster to a map, whose files GDAL's and others' tools open."""

import csv
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyogrio.raw
import pytest
import rasterio
import shapely
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from torch import Tensor, nn

from callbacks.writers.segmentation.writer import SegmentationWriter
from datamodules.clouds import CloudsDataModule
from datamodules.roads import RoadsDataModule
from tasks.clouds import CloudsTask
from tasks.roads import RoadsTask
from tests.callbacks.writers.shared import predict
from tests.ops.geo.helpers import UTM, write

TILES = 2  # along each side of a mosaic
PLACE: dict[str, Any] = {"crs": "EPSG:32632", "transform": UTM}


class Last(nn.Module):
    """Finds a class in the last channel of the image."""

    def forward(self, image: Tensor) -> Tensor:
        return 20 * (image[:, -1:] - 0.5)


def mosaic(real_data: Path) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Four real tiles (3, H, W) side by side, and where they have roads (H, W)."""
    folder = real_data / "roads"
    names = sorted(path.name for path in (folder / "images").iterdir())[: TILES**2]
    tiles = [np.asarray(Image.open(folder / "images" / name).convert("RGB")) for name in names]
    masks = [np.asarray(Image.open(folder / "masks" / name).convert("L")) for name in names]
    rows = [np.s_[TILES * row : TILES * (row + 1)] for row in range(TILES)]
    image, mask = (np.concatenate([np.concatenate(parts[row], axis=1) for row in rows]) for parts in (tiles, masks))
    return np.ascontiguousarray(image.transpose(2, 0, 1)), mask > 127


@pytest.fixture
def town(real_data: Path, tmp_path: Path) -> Path:
    """The folder of the results for a raster whose fourth band has its true roads."""
    image, mask = mosaic(real_data)
    (tmp_path / "images").mkdir()
    bands = np.concatenate([image, mask[None] * np.uint8(255)])
    write(tmp_path / "images/town.tif", bands, **PLACE, photometric="minisblack")
    data = RoadsDataModule(size=(256, 256), pictures=tmp_path / "images", bands=[1, 2, 3, 4], num_workers=0)
    task = RoadsTask(channels=4)
    task.network = Last()
    predict(tmp_path / "run", task.eval(), data, SegmentationWriter(submission=False, folders=False))
    return tmp_path / "run"


def layer(found: Path, name: str) -> tuple[Any, dict[str, Any]]:
    meta, _, geometry, values = pyogrio.raw.read(found / "maps/town.gpkg", layer=name)
    return shapely.from_wkb(geometry), dict(zip(meta["fields"], values, strict=True))


@pytest.mark.real
def test_real_roads_are_mapped_to_the_pixel(town: Path, real_data: Path) -> None:
    _, mask = mosaic(real_data)
    with rasterio.open(town / "maps/town_mask.tif") as raster:
        assert raster.transform == UTM
        assert (raster.read(1) == mask).all()
    assert ((np.asarray(Image.open(town / "masks/town.png")) > 0) == mask).all()
    polygons, fields = layer(town, "polygons")
    burned = rasterio.features.rasterize(polygons, mask.shape, transform=UTM) > 0
    assert (burned & mask).sum() / (burned | mask).sum() > 0.97, "outlines are simplified by up to a pixel"
    [row] = csv.DictReader((town / "areas.csv").open())
    scale = 0.9996 * (1 + (100_000 / 6_371_000) ** 2 / 2)  # of UTM 100 km from its meridian
    assert float(row["area_m2"]) == pytest.approx(mask.sum() * (0.5 / scale) ** 2, rel=1e-4)
    assert fields["area_m2"].sum() == pytest.approx(float(row["area_m2"]), rel=1e-6)


@pytest.mark.real
def test_center_lines_of_real_roads_lie_on_them(town: Path, real_data: Path) -> None:
    _, mask = mosaic(real_data)
    lines, fields = layer(town, "lines")
    nodes, of_nodes = layer(town, "nodes")
    places = np.concatenate([shapely.get_coordinates(line.segmentize(1.0)) for line in lines])
    columns, rows = np.floor(np.array(~UTM @ places.T)).astype(int)
    inside = (columns >= 0) & (rows >= 0) & (columns < mask.shape[1]) & (rows < mask.shape[0])
    assert inside.all()
    assert mask[rows, columns].mean() > 0.95, "only gaps that are closed lie beside roads"
    # all roads have a center line: none is further than its own width from one
    drawn = np.ones(mask.shape, np.uint8)
    drawn[rows, columns] = 0
    far = cv2.distanceTransform(drawn, cv2.DIST_L2, 5)
    wide = ndimage.distance_transform_edt(mask).max()
    assert (far[mask] <= wide).mean() > 0.95
    ends = [shapely.get_point(lines, each) for each in (0, -1)]
    for key, points in zip(("start", "end"), ends, strict=True):
        assert shapely.distance(nodes[fields[key]], points).max() < 1e-6
    assert of_nodes["lines"].sum() == 2 * len(lines)
    [row] = csv.DictReader((town / "areas.csv").open())
    assert float(row["length_m"]) == pytest.approx(shapely.length(lines).sum(), rel=1e-3)


def run(*command: str | Path) -> str:
    """The output of a tool."""
    if shutil.which(str(command[0])) is None:
        pytest.skip(f"{command[0]} is not installed (apt-get install gdal-bin)")
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True).stdout


@pytest.mark.real
@pytest.mark.parametrize("name", ["mask", "probability"])
def test_gdalinfo_opens_the_rasters(town: Path, name: str) -> None:
    found = json.loads(run("gdalinfo", "-json", town / f"maps/town_{name}.tif"))
    assert found["geoTransform"] == list(UTM.to_gdal())
    assert 'ID["EPSG",32632]' in found["coordinateSystem"]["wkt"]
    structure = found["metadata"]["IMAGE_STRUCTURE"]
    assert (structure["LAYOUT"], structure["COMPRESSION"]) == ("COG", "DEFLATE")
    [band] = found["bands"]
    assert (band["type"], band["noDataValue"], band["description"].split(",")[0]) == ("Byte", 255, "road")
    assert [each["size"] for each in band["overviews"]] == [[400, 400]]
    assert found["size"] == [800, 800]


@pytest.mark.real
def test_ogrinfo_opens_the_vectors(town: Path) -> None:
    path = town / "maps/town.gpkg"
    kinds = {"polygons": "Polygon", "lines": "Line String", "nodes": "Point"}
    fields = {
        "polygons": ["class", "area_m2", "probability"],
        "lines": ["class", "length_m", "width_m", "start", "end"],
        "nodes": ["class", "node", "lines"],
    }
    for name, kind in kinds.items():
        text = run("ogrinfo", "-so", path, name)
        assert f"Geometry: {kind}\n" in text
        assert f"Feature Count: {len(layer(town, name)[0])}\n" in text
        assert text.rstrip().rfind('ID["EPSG",32632]]') > 0
        assert re.findall(r"^(\w+): (?:String|Integer|Integer64|Real) ", text, re.MULTILINE) == fields[name]


@pytest.mark.real
def test_geopandas_and_fiona_open_the_vectors(town: Path, real_data: Path) -> None:
    geopandas = pytest.importorskip("geopandas")
    fiona = pytest.importorskip("fiona")
    frame = geopandas.read_file(town / "maps/town.gpkg", layer="polygons")
    assert frame.crs.to_epsg() == 32632
    on_ellipsoid = frame.to_crs("ESRI:54034").area.sum()  # another equal-area projection
    assert on_ellipsoid == pytest.approx(frame["area_m2"].sum(), rel=0.01), "outlines are simplified"
    assert frame["probability"].between(0.9, 1).all()
    assert set(fiona.listlayers(town / "maps/town.gpkg")) == {"polygons", "lines", "nodes"}
    with fiona.open(town / "maps/town.gpkg", layer="lines") as lines:
        assert lines.crs.to_epsg() == 32632
        assert lines.schema["geometry"] == "LineString"
        left, bottom, right, top = lines.bounds
    assert 400_000 <= left < right <= 400_400
    assert 5_199_600 <= bottom < top <= 5_200_000


@pytest.mark.real
def test_real_clouds_are_mapped_as_geojson(real_data: Path, tmp_path: Path) -> None:
    source = sorted((real_data / "clouds/landsat8/images").iterdir())[0]
    pixels = np.asarray(Image.open(source).convert("RGB")).transpose(2, 0, 1)
    place = rasterio.Affine(30, 0, 300_000, 0, -30, 5_000_000)
    (tmp_path / "images").mkdir()
    write(tmp_path / "images/scene.tif", pixels, crs="EPSG:32633", transform=place)
    task = CloudsTask(classes=["cloud"], architecture="fpn", pretrained=False)
    task.network = Last()
    data = CloudsDataModule("/nowhere", ["cloud"], size=(128, 128), window=(128, 128), pictures=tmp_path / "images",
                            num_workers=0)  # fmt: skip
    predict(tmp_path / "run", task.eval(), data, SegmentationWriter(submission=False, vectors="geojson"))
    found = tmp_path / "run/maps"
    with rasterio.open(found / "scene_mask.tif") as raster:
        assert (raster.crs.to_epsg(), raster.transform, raster.shape) == (32633, place, pixels.shape[1:])
        mask = raster.read(1) == 1
    assert (mask == (pixels[2] >= 128)).all()
    features = json.loads((found / "scene.geojson").read_text())["features"]
    polygons = np.array([shapely.geometry.shape(each["geometry"]) for each in features], object)
    assert all(each.exterior.is_ccw and not any(ring.is_ccw for ring in each.interiors) for each in polygons)
    west, south, east, north = shapely.total_bounds(polygons)
    assert 12 < west < east < 13
    assert 45 < south < north < 46
    areas = sum(each["properties"]["area_m2"] for each in features)
    assert areas == pytest.approx(900 * mask.sum(), rel=2e-3)
    assert "WGS 84" in run("ogrinfo", "-al", "-so", found / "scene.geojson")


@pytest.mark.real
def test_rasters_of_any_system_and_type_keep_their_place(real_data: Path, tmp_path: Path) -> None:
    sources = [*(real_data / "geo/rasters").glob("*.tif"), *(real_data / "geo/roads_vegas").glob("*.tif")]
    (tmp_path / "images").mkdir()
    for source in sources:
        (tmp_path / "images" / source.name).symlink_to(source)
    data = RoadsDataModule(size=(256, 256), pictures=tmp_path / "images", bands=[1], scale=[0, 1000], num_workers=0)
    task = RoadsTask()
    task.network = Last()
    predict(tmp_path / "run", task.eval(), data, SegmentationWriter(False, False, vectors="none"))
    assert {raster.stem for raster in sources} == {
        path.stem.removesuffix("_mask") for path in (tmp_path / "run/maps").glob("*_mask.tif")
    }
    kinds = set()
    for source in sources:
        with rasterio.open(source) as own, rasterio.open(tmp_path / f"run/maps/{source.stem}_mask.tif") as mask:
            assert (mask.crs, mask.transform, mask.shape) == (own.crs, own.transform, own.shape)
            valid, values = own.dataset_mask() > 0, own.read(1)
            valid &= np.isfinite(values)
            kinds.add((own.dtypes[0], own.crs.to_epsg()))
            found = mask.read(1)
            assert ((found == 255) == ~valid).all()
            sure = valid & (abs(values.astype(float) - 500) > 3)  # of 8 bits
            assert ((found == 1) == (values > 500))[sure].all()
    assert len(kinds) >= 5
