import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio.raw
import pytest
import rasterio
import shapely
from numpy.typing import NDArray
from PIL import Image
from rasterio.features import rasterize

from datamodules.clouds import CloudsDataModule
from datamodules.read.mask_files import IGNORED
from datamodules.roads import RoadsDataModule
from ops.errors import ArgumentError, DataError
from ops.geo.labels import VectorLabels, rasterized
from ops.geo.rasters import georeference
from tests.ops.geo.helpers import ROTATED, UTM, write

PLACE: dict[str, Any] = {"crs": "EPSG:32632", "transform": UTM}
SIZE = (96, 128)
IMAGE = np.random.default_rng(0).integers(1, 256, (3, *SIZE), np.uint8)
TRIANGLE = shapely.Polygon([(400_010.13, 5_199_990.2), (400_040.41, 5_199_985.34), (400_020.87, 5_199_960.73)])
LINE = shapely.LineString([(400_005, 5_199_955), (400_050, 5_199_995)])


def labels(path: Path, shapes: Sequence[Any], crs: str | None = "EPSG:32632", **fields: Sequence[Any]) -> Path:
    """Writes a vector file; shapes are in UTM and transformed."""
    moved = shapes
    if crs not in (None, "EPSG:32632"):
        moved = shapely.transform(
            np.array(shapes, object),
            lambda points: np.stack(rasterio.warp.transform("EPSG:32632", crs, *points.T), axis=1),
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    pyogrio.raw.write(
        path,
        geometry=np.array(shapely.to_wkb(np.array(moved, object)), object),
        field_data=[np.array(values) for values in fields.values()],
        fields=list(fields),
        geometry_type="Unknown",
        crs=crs,
    )
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for k in range(4):
        (tmp_path / "images").mkdir(exist_ok=True)
        write(tmp_path / f"images/{k}.tif", IMAGE, **PLACE)
    return tmp_path


def roads(root: Path, **options: Any) -> RoadsDataModule:
    settings: dict[str, Any] = {"size": (32, 32), "strategy": "few", "num_workers": 0, "val_fraction": 0.25}
    return RoadsDataModule(root, **settings | options)


def truth(shapes: Sequence[Any], transform: Any = UTM) -> NDArray[np.bool_]:
    return np.asarray(rasterize(shapes, SIZE, transform=transform) > 0)


@pytest.mark.parametrize(
    ("name", "crs"),
    [("a.gpkg", "EPSG:32632"), ("a.geojson", "EPSG:4326"), ("a.shp", "EPSG:25832"), ("a.gpkg", "EPSG:3857")],
)
def test_polygons_in_any_system_and_format(root: Path, name: str, crs: str) -> None:
    path = labels(root / name, [TRIANGLE], crs)
    source = roads(root, labels=path).tiles().source
    assert source.names == ["0.tif", "1.tif", "2.tif", "3.tif"]
    assert np.count_nonzero((source.labels("0.tif") == 1) != truth([TRIANGLE])) <= 3  # rounding at the outline


@pytest.mark.parametrize("transform", [UTM, ROTATED])
def test_lines_have_a_width_in_meters(root: Path, transform: Any) -> None:
    path = labels(root / "lines.geojson", [LINE], "EPSG:4326", meters=[6.0])
    image = write(root / "images/0.tif", IMAGE, crs="EPSG:32632", transform=transform)
    reference = georeference(image)
    assert reference is not None
    # the scale of UTM at its edge, 100 km from the central meridian, is 1 - 277e-6
    expected = truth([LINE.buffer(3)], transform)
    for width in (6.0, "meters"):
        [shapes] = VectorLabels(path, ("road",), None, width).shapes("0", reference)
        found = rasterized(shapes, (0, 0), SIZE)
        assert np.count_nonzero(found != expected) <= 5
        assert (rasterized(shapes, (20, 30), (40, 50)) == found[20:60, 30:80]).all()


@pytest.mark.real
def test_roads_are_rasterized_as_by_solaris(real_data: Path) -> None:
    folder = real_data / "geo" / "rasters"
    reference = georeference(folder / "road_mask_input.tif")
    assert reference is not None
    [shapes] = VectorLabels(folder / "sample_roads_for_masking.geojson", ("road",), None, 4.0).shapes("", reference)
    with rasterio.open(folder / "sample_road_raster_mask.tif") as raster:
        expected = raster.read(1) > 0
    # 5 of 56,416 pixels differ: solaris approximates round corners and meters a little differently
    assert np.count_nonzero(rasterized(shapes, (0, 0), reference.size) != expected) <= 5


def test_classes_by_a_field(root: Path) -> None:
    path = labels(root / "a.gpkg", [TRIANGLE, LINE.buffer(2)], kind=["roof", "path"])
    data = CloudsDataModule(root, ("path", "roof"), size=SIZE, labels=path, label_field="kind", flips=False)
    planes = data.source().planes("1.tif", SIZE)
    assert (planes[0] == truth([LINE.buffer(2)])).mean() > 0.999
    assert (planes[1] == truth([TRIANGLE])).mean() > 0.999
    assert not planes[2].any()
    with pytest.raises(ArgumentError, match="label_field is null"):
        CloudsDataModule(root, ("path", "roof"), labels=path).source()


def test_masks_of_another_grid_are_moved_and_pixels_without_data_ignored(root: Path) -> None:
    image = IMAGE.copy()
    image[:, :, :20] = 0
    (root / "masks").mkdir()
    coarse = np.zeros((1, 48, 64), np.uint8)
    coarse[0, 10:20, 30:50] = 255
    wide = UTM @ rasterio.Affine.scale(2)
    for k in range(4):
        write(root / f"images/{k}.tif", image, nodata=0, **PLACE)
        write(root / f"masks/{k}.tif", coarse, crs="EPSG:32632", transform=wide)
    source = roads(root).tiles().source
    expected = np.zeros(SIZE, np.uint8)
    expected[20:40, 60:100] = 1
    expected[:, :20] = IGNORED
    assert (source.labels("2.tif") == expected).all()


def test_plain_masks_of_rasters_need_their_size(root: Path) -> None:
    (root / "masks").mkdir()
    for k in range(4):
        with pytest.warns(rasterio.errors.NotGeoreferencedWarning):
            write(root / f"masks/{k}.png.tif", np.zeros((1, *SIZE), np.uint8))
        (root / f"masks/{k}.png.tif").rename(root / f"masks/{k}.tif")
    assert not roads(root).tiles().marked.any()
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning):
        write(root / "masks/1.tif", np.zeros((1, 50, 50), np.uint8))
    with pytest.raises(DataError, match=r"50 x 50 pixels.*96 x 128"):
        roads(root).tiles()


def test_blocks_of_one_raster_are_split_and_none_is_in_two_splits(root: Path) -> None:
    big = np.random.default_rng(1).integers(1, 256, (3, 256, 320), np.uint8)  # 128 m x 160 m
    for path in (root / "images").iterdir():
        path.unlink()
    write(root / "images/town.tif", big, **PLACE)
    path = labels(root / "a.gpkg", [TRIANGLE, shapely.box(400_090.1, 5_199_890.1, 400_150.1, 5_199_900.1)])
    data = roads(root, labels=path, split_by="block", block=32)
    tiles = data.tiles()
    assert len(tiles.source.names) == 4 * 5
    splits = data.split_by_category(tiles.source, tiles.marked)
    assert sorted(name for part in splits.values() for name in part) == tiles.source.names
    assert all(splits.values())
    # the blocks are the image, and their masks those of the whole
    whole = truth_of(path, (256, 320))
    for name in tiles.source.names:
        row, column = map(int, re.findall(r"_r(\d)_c(\d)", name)[0])
        with rasterio.open(tiles.source.path(name)) as block:
            window = np.s_[64 * row : 64 * row + 64, 64 * column : 64 * column + 64]
            assert (block.read() == big[(slice(None), *window)]).all()
            assert block.transform == UTM @ rasterio.Affine.translation(64 * column, 64 * row)
        assert (tiles.source.labels(name) == whole[window]).mean() > 0.999
        picture = data.picture(name, 64)
        assert picture is not None
        assert picture.shape == (64, 64, 3)


def truth_of(path: Path, size: tuple[int, int]) -> NDArray[np.bool_]:
    _, _, shapes, _ = pyogrio.raw.read(path)
    return np.asarray(rasterize(shapely.from_wkb(shapes), size, transform=UTM) > 0)


def test_tiles_of_one_block_are_in_one_split(root: Path) -> None:
    for path in (root / "images").iterdir():
        path.unlink()
    (root / "masks").mkdir()
    for k in range(36):  # 6 x 6 tiles of 48 m x 64 m
        place = UTM @ rasterio.Affine.translation(128 * (k % 6), 96 * (k // 6))
        write(root / f"images/{k:02}.tif", IMAGE, crs="EPSG:32632", transform=place)
        write(root / f"masks/{k:02}.tif", (IMAGE[:1] > 99) * np.uint8(255), crs="EPSG:32632", transform=place)
    data = roads(root, split_by="block", block=100.0)
    tiles = data.tiles()
    splits = data.split_by_category(tiles.source, tiles.marked)
    split_of = {name: split for split, names in splits.items() for name in names}
    assert len(split_of) == 36
    assert {len({split_of[name] for name in split_of if data.groups[name] == key}) for key in data.groups.values()} == {
        1
    }
    assert 6 < len(set(data.groups.values())) < 36


def test_percentiles_are_fitted_to_training_images_and_kept(root: Path) -> None:
    for k in range(4):
        write(root / f"images/{k}.tif", (IMAGE * np.uint16(10 + k)), **PLACE)
    path = labels(root / "a.gpkg", [TRIANGLE])
    data = roads(root, labels=path, scale="percentiles", bands=[1, 2])
    with pytest.raises(DataError, match=r"uint16.*--data\.scale"):
        roads(root, labels=path, bands=[1, 2]).tiles()
    tiles = data.tiles()
    assert tiles.pictures.shape[-1] == 2
    train = data.split_by_category(tiles.source, tiles.marked)["train"]
    pooled = np.stack([IMAGE[:2] * np.uint16(10 + int(name[0])) for name in train], axis=1).reshape(2, -1)
    kept = data.state_dict()["scale"]
    assert kept == tuple(tuple(each) for each in np.percentile(pooled, [2, 98], axis=1).T)
    again = roads(root, labels=path, scale=[list(each) for each in kept], bands=[1, 2])
    assert again.tiles().pictures.path == tiles.pictures.path


@pytest.mark.parametrize(
    ("crs", "shapes", "options", "words"),
    [
        (None, [TRIANGLE], {}, "no coordinate reference system"),
        ("EPSG:32632", [shapely.box(0, 0, 9, 9)], {}, "do not overlap"),
        ("EPSG:32632", [LINE], {}, "lines.*--data.line_width"),
        ("EPSG:32632", [LINE], {"line_width": "wide"}, "no field 'wide'"),
        ("EPSG:32632", [LINE], {"line_width": "kinds"}, "widths in the field 'kinds' that are no numbers"),
        ("EPSG:32632", [shapely.Point(400_010, 5_199_990)], {}, "points"),
        ("EPSG:32632", [TRIANGLE], {"label_field": "kind"}, "no field 'kind'"),
    ],
)
def test_labels_that_do_not_fit_are_explained(root: Path, crs: str, shapes: Any, options: Any, words: str) -> None:
    path = labels(root / "a.gpkg", shapes, crs, kinds=["x"])
    with pytest.raises(DataError, match=words):
        roads(root, labels=path, **options).tiles()


def test_images_that_do_not_fit_are_explained(root: Path) -> None:
    path = labels(root / "a.gpkg", [TRIANGLE])
    write(root / "images/0.tif", IMAGE, transform=UTM)
    with pytest.raises(DataError, match="no coordinate reference system or no position"):
        roads(root, labels=path).tiles()
    write(root / "images/0.tif", np.zeros_like(IMAGE), nodata=0, **PLACE)
    (root / "images/1.tif").write_bytes((root / "images/1.tif").read_bytes()[:2000])
    with pytest.raises(DataError, match="truncated"):
        roads(root, labels=path).tiles()
    with pytest.raises(DataError, match="no file 0"):
        roads(root, labels=path.parent / "masks").tiles()


@pytest.mark.real
@pytest.mark.parametrize("crs", [None, "EPSG:32632", "EPSG:4326"])
def test_real_tiles_are_read_with_masks_or_polygons(real_data: Path, tmp_path: Path, crs: str | None) -> None:
    """Masks of real roads as GeoTIFF pairs, or as polygons in this system, are the masks of the dataset."""
    names = sorted(path.stem for path in (real_data / "roads/images").iterdir())[:4]
    truths: dict[str, NDArray[np.bool_]] = {}
    shapes: list[Any] = []
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for k, name in enumerate(names):
        [image, mask] = [next((real_data / "roads" / each).glob(f"{name}.*")) for each in ("images", "masks")]
        pixels = np.asarray(Image.open(image).convert("RGB"))
        marked = np.asarray(Image.open(mask).convert("L")) > 127
        place = UTM @ rasterio.Affine.translation(400 * (k % 2), 400 * (k // 2))
        truths[f"{name}.tif"] = marked
        write(tmp_path / f"images/{name}.tif", pixels.transpose(2, 0, 1), crs="EPSG:32632", transform=place)
        if crs is None:
            levels = marked[None] * np.uint8(255)
            write(tmp_path / f"masks/{name}.tif", levels, crs="EPSG:32632", transform=place)
        traced = rasterio.features.shapes(marked.astype(np.uint8), mask=marked, transform=place)
        shapes += [shapely.geometry.shape(outline) for outline, _ in traced]
    options = {} if crs is None else {"labels": labels(tmp_path / "roads.gpkg", shapes, crs)}
    tiles = roads(tmp_path, size=400, window=400, **options).tiles()
    assert tiles.source.names == list(truths)
    for row, (name, marked) in enumerate(truths.items()):
        wrong = np.count_nonzero((tiles.source.labels(name) == 1) != marked)
        assert wrong <= (1e-5 * marked.size if crs == "EPSG:4326" else 0), "outlines are rounded in degrees"
        with rasterio.open(tmp_path / "images" / name) as raster:
            assert (np.asarray(tiles.pictures[row]) == raster.read().transpose(1, 2, 0)).all()


def test_labels_in_another_system_are_reported_once(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    roads(root, labels=labels(root / "a.geojson", [TRIANGLE], "EPSG:4326")).tiles()
    moved = [each.message for each in caplog.records if "transformed" in each.message]
    assert len(moved) == 1
    assert all(part in moved[0] for part in ("a.geojson", "EPSG:4326", "EPSG:32632"))
    caplog.clear()
    roads(root, labels=labels(root / "b.gpkg", [TRIANGLE])).tiles()
    assert not [each for each in caplog.records if "transformed" in each.message]


def test_the_width_of_lines_may_be_an_integer(root: Path) -> None:
    path = labels(root / "a.gpkg", [LINE])
    sources = [roads(root, labels=path, line_width=width).tiles().source for width in (8, 8.0)]
    assert (sources[0].masks("0.tif", SIZE) == sources[1].masks("0.tif", SIZE)).all()
    assert sources[0].masks("0.tif", SIZE).any()


def test_images_that_differ_in_their_suffix_only_are_rejected(root: Path) -> None:
    path = labels(root / "a.gpkg", [TRIANGLE])
    write(root / "images/0.tiff", IMAGE, **PLACE)
    with pytest.raises(DataError, match="named 0"):
        roads(root, labels=path).tiles()


def test_blocks_keep_the_mask_of_their_raster(root: Path) -> None:
    path = labels(root / "a.gpkg", [TRIANGLE])
    there = np.ones(SIZE, np.bool_)
    there[:40] = False
    for k in range(4):
        with rasterio.open(root / f"images/{k}.tif", "r+") as raster:
            raster.write_mask(there)
    source = roads(root, labels=path, split_by="block", block=24).tiles().source
    found = {name: opened_mask(source.path(name)) for name in source.names}
    assert sum(int(mask.sum()) for mask in found.values()) == 4 * there.sum()
    assert any(not mask.all() for mask in found.values())


def opened_mask(path: Path) -> NDArray[np.bool_]:
    with rasterio.open(path) as raster:
        return np.asarray(raster.dataset_mask() > 0)
