import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio.raw
import pytest
import rasterio
import rasterio.features
import shapely
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from torch import Tensor, nn

from callbacks.writers.segmentation import maps
from callbacks.writers.segmentation.maps import Maps
from callbacks.writers.segmentation.masks import MaskFiles
from callbacks.writers.segmentation.outlines import OutlineWriter
from callbacks.writers.segmentation.stitch import StitchingWriter
from callbacks.writers.segmentation.writer import SegmentationWriter
from datamodules.clouds import CloudsDataModule
from ops.errors import ArgumentError
from tasks.clouds import CloudsTask
from tests.callbacks.writers.shared import predict
from tests.ops.geo.helpers import DEGREES, ROTATED, UTM, write

SIZE = (150, 130)
CLASSES = ("red", "green")


class Bright(nn.Module):
    """Finds each class where its color is bright."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, image: Tensor) -> Tensor:
        return 20 * (image[:, : self.count] - 0.5)


def task(classes: Sequence[str] = CLASSES) -> CloudsTask:
    made = CloudsTask(classes=classes, architecture="fpn", pretrained=False)
    made.network = Bright(len(classes))
    return made.eval()


def blobs(seed: int = 0) -> NDArray[np.uint8]:
    """Bands (3, H, W) of smooth noise."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).random((3, *SIZE)), (0, 4, 4))
    return np.asarray((255 * (noise - noise.min()) / np.ptp(noise)).astype(np.uint8))


def mapped(folder: Path, writer: Any, classes: Sequence[str] = CLASSES, **options: Any) -> Path:
    """Predicts the images in a folder in windows, and returns the folder of the results."""
    settings: dict[str, Any] = {"size": (64, 64), "window": (64, 64), "num_workers": 0} | options
    data = CloudsDataModule("/nowhere", classes, pictures=folder, **settings)
    writer.checkpoints = ["best.ckpt"]  # what is written is listed beside them
    predict(folder.parent / "run", task(classes), data, writer)
    return folder.parent / "run"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    return tmp_path / "images"


def features(path: Path, layer: str = "polygons") -> tuple[Any, dict[str, Any], str]:
    meta, _, geometry, values = pyogrio.raw.read(path, layer=layer)
    return shapely.from_wkb(geometry), dict(zip(meta["fields"], values, strict=True)), meta["crs"]


@pytest.mark.parametrize(("crs", "transform"), [("EPSG:32632", UTM), ("EPSG:32632", ROTATED), ("EPSG:4326", DEGREES)])
def test_maps_lie_on_the_pixels_of_the_image(
    images: Path, crs: str, transform: rasterio.Affine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maps, "AT_ONCE", 20 * SIZE[1])  # polygons are looked up in many strips
    values = blobs()
    values[:, :40, :30] = 0
    write(images / "a.tif", values, crs=crs, transform=transform, nodata=0)
    found = mapped(images, StitchingWriter([MaskFiles(), Maps(tolerance=0)]))
    with rasterio.open(images / "a.tif") as source, rasterio.open(found / "maps/a_mask.tif") as mask:
        assert (mask.crs, mask.transform, mask.shape) == (source.crs, source.transform, source.shape)
        assert mask.descriptions == CLASSES
        marks, valid = mask.read(), source.dataset_mask() > 0
    with rasterio.open(found / "maps/a_probability.tif") as raster:
        percents = raster.read()
        assert raster.transform == transform
    assert ((marks == 255) == ~valid).all()
    assert ((percents == 255) == ~valid).all()
    polygons, fields, system = features(found / "maps/a.gpkg")
    assert rasterio.CRS.from_user_input(system) == rasterio.CRS.from_user_input(crs)
    assert shapely.is_valid(polygons).all()
    rows = list(csv.DictReader((found / "areas.csv").open()))
    for k, label in enumerate(CLASSES):
        expected = (values[k] >= 128) & valid
        png = np.asarray(Image.open(found / f"masks/{label}/a.png")) > 0
        # windows see the edge of the nodata as zeros, in which case only pixels beside it may differ
        assert ((marks[k] == 1) == expected)[valid].mean() > 0.999
        assert ((marks[k] == 1) == png)[valid].all()
        own = fields["class"] == label
        burned = rasterio.features.rasterize(polygons[own], SIZE, transform=transform)
        assert ((burned == 1) == (marks[k] == 1)).all()
        assert fields["area_m2"][own].sum() == pytest.approx(float(rows[k]["area_m2"]), rel=1e-5)
        assert float(rows[k]["share"]) == pytest.approx((marks[k] == 1).sum() / valid.sum(), abs=1e-6)
        number, regions = ndimage.label(marks[k] == 1)[::-1]
        assert own.sum() == number
        means = sorted(ndimage.mean(percents[k] / 100, regions, range(1, number + 1)))
        assert np.allclose(sorted(fields["probability"][own]), means, atol=1e-4)


def test_polygons_stay_near_the_outlines_of_pixels(images: Path) -> None:
    write(images / "a.tif", blobs(), crs="EPSG:32632", transform=UTM)
    exact, *_ = features(mapped(images, StitchingWriter([Maps(tolerance=0)])) / "maps/a.gpkg")
    near, *_ = features(mapped(images, StitchingWriter([Maps(tolerance=1.5)])) / "maps/a.gpkg")
    assert shapely.is_valid(near).all()
    assert shapely.get_num_coordinates(near).sum() < shapely.get_num_coordinates(exact).sum() / 3
    pixel = 0.5
    assert max(shapely.hausdorff_distance(near, exact)) <= 1.2 * 1.5 * pixel  # GEOS also moves where a ring begins


def test_geojson_is_in_longitude_and_latitude_and_runs_counterclockwise(images: Path) -> None:
    write(images / "a.tif", blobs(), crs="EPSG:32632", transform=UTM)
    found = mapped(images, SegmentationWriter(submission=False, vectors="geojson"))
    read = json.loads((found / "maps/a.geojson").read_text())
    polygons = [shapely.geometry.shape(feature["geometry"]) for feature in read["features"]]
    assert "crs" not in read
    assert all(polygon.exterior.is_ccw and not any(ring.is_ccw for ring in polygon.interiors) for polygon in polygons)
    utm, *_ = features(mapped(images, SegmentationWriter(submission=False, vectors="gpkg")) / "maps/a.gpkg")
    longitude, latitude = rasterio.warp.transform("EPSG:32632", "EPSG:4326", *utm[0].exterior.coords.xy)
    assert np.allclose(sorted(polygons[0].exterior.coords), sorted(zip(longitude, latitude, strict=True)), atol=1e-6)


def test_plain_images_have_no_maps_and_earlier_ones_go(images: Path) -> None:
    path = write(images / "a.tif", blobs(), crs="EPSG:32632", transform=UTM)
    found = mapped(images, SegmentationWriter())
    assert (found / "maps").is_dir()
    path.unlink()
    Image.fromarray(blobs().transpose(1, 2, 0)).save(images / "a.png")
    mapped(images, SegmentationWriter())
    names = {"checkpoints.json", "masks", "overlays", "overview.html", "submission.csv"}
    assert {each.name for each in found.iterdir()} == names


def test_plain_images_and_rasters_share_a_batch(images: Path) -> None:
    write(images / "a.tif", blobs(), crs="EPSG:32632", transform=UTM)
    Image.fromarray(blobs(1).transpose(1, 2, 0)).save(images / "b.png")
    (images / "c.tif").write_bytes((images / "a.tif").read_bytes()[:900])
    found = mapped(images, OutlineWriter(), ("red",))
    assert {each.name for each in (found / "maps").iterdir()} == {"a.gpkg", "a_mask.tif", "a_probability.tif"}
    assert {each.stem for each in (found / "masks").iterdir()} == {"a", "b"}
    assert "c.tif" in (found / "skipped.csv").read_text()


def test_whole_images_written_at_another_size_keep_their_place(images: Path) -> None:
    write(images / "a.tif", blobs(), crs="EPSG:32632", transform=UTM)
    found = mapped(images, SegmentationWriter(), window=None, output_size=(75, 65))
    with rasterio.open(images / "a.tif") as source, rasterio.open(found / "maps/a_mask.tif") as mask:
        assert mask.shape == (75, 65)
        assert mask.bounds == source.bounds


def test_an_image_without_data_is_empty(images: Path) -> None:
    write(images / "a.tif", np.zeros((3, *SIZE), np.uint8), crs="EPSG:32632", transform=UTM, nodata=0)
    found = mapped(images, SegmentationWriter())
    with rasterio.open(found / "maps/a_mask.tif") as mask:
        assert (mask.read() == 255).all()
    assert len(features(found / "maps/a.gpkg")[0]) == 0
    assert [row["area_m2"] for row in csv.DictReader((found / "areas.csv").open())] == ["0.0", "0.0"]


def test_options_are_checked() -> None:
    with pytest.raises(ArgumentError, match="gpkg, geojson or none"):
        Maps("shapefile")  # type: ignore[arg-type]  # what is tested
