"""From rasters and vector labels to a network, and from a raster to a map, by the command line and in Python."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
import yaml

import belvedere as api
from belvedere.checkpoints import run_config
from tests.datamodules.read.test_raster_masks import labels
from tests.helpers import SMALL, table
from tests.ops.geo.helpers import UTM, write

Command = Callable[..., Any]
ROADS = [shapely.box(400_000, 5_199_960, 400_128, 5_199_975), shapely.box(400_060, 5_199_880, 400_070, 5_200_000)]


@pytest.fixture
def town(tmp_path: Path) -> Path:
    """One raster with four bands of 16 bits, in which roads are bright in the last one, and the roads as vectors."""
    path = labels(tmp_path / "town/roads.gpkg", ROADS)
    rng = np.random.default_rng(0)
    values = rng.integers(500, 900, (4, 256, 256)).astype(np.uint16)
    road = rasterio.features.rasterize(ROADS, (256, 256), transform=UTM) > 0
    values[3][road] += 900
    (tmp_path / "town/images").mkdir()
    write(tmp_path / "town/images/town.tif", values, crs="EPSG:32632", transform=UTM, photometric="minisblack")
    return path.parent


OPTIONS = ["--config", *SMALL["roads"][:-4], "--data.bands", "[4,2,1,3]", "--data.scale", "percentiles",
           "--data.split_by", "block", "--data.block", "32", "--data.augment", "aerial",
           "--data.strategy", "few"]  # fmt: skip


@pytest.mark.slow
def test_a_network_learns_from_vectors_and_makes_a_map(town: Path, belvedere: Command) -> None:
    arguments = [*OPTIONS, "--data.root", str(town), "--data.labels", str(town / "roads.gpkg")]
    assert belvedere("describe", *arguments, "--data.augment", "null").code == 0
    assert belvedere("fit", *arguments, "--output", "run").code == 0
    checkpoint = Path("run/checkpoints/best.ckpt").absolute()
    data = run_config(checkpoint)["data"]["init_args"]
    assert data["bands"] == [4, 2, 1, 3]
    assert np.shape(data["scale"]) == (4, 2)
    assert yaml.safe_load(Path("run/config.yaml").read_text())["data"]["init_args"]["scale"] == "percentiles"
    assert belvedere("test", "--ckpt_path", str(checkpoint)).code == 0
    image = town / "images/town.tif"
    assert (
        belvedere("predict", "--ckpt_path", str(checkpoint), "--data.pictures", str(image), "--output", "out").code == 0
    )
    with rasterio.open("out/maps/town_mask.tif") as mask, rasterio.open(image) as source:
        assert (mask.transform, mask.crs, mask.shape) == (source.transform, source.crs, source.shape)
        marks = mask.read(1)
    assert "polygons" in pyogrio.list_layers("out/maps/town.gpkg")[:, 0]
    [row] = table("out/areas.csv")
    assert float(row["share"]) == pytest.approx((marks == 1).mean(), abs=1e-5)
    with rasterio.open(image) as source:
        bands = source.read()
    for name, part in (("whole", bands[:, ::-1]), ("wide", bands[:, 20:120, :200]), ("narrow", bands[:, 100:, :64])):
        Path("pool").mkdir(exist_ok=True)
        write(Path("pool", f"{name}.tif"), part, crs="EPSG:32632", transform=UTM, photometric="minisblack")
    suggested = belvedere("suggest", "--ckpt_path", str(checkpoint), "--data.pictures", "pool", "--output", "next")
    assert suggested.code == 0
    sizes = {"wide.tif": (100, 200), "narrow.tif": (156, 64)}  # the whole one is the training image, mirrored
    assert {row["image"] for row in table("next/suggestions.csv")} == {*sizes}
    for name, size in sizes.items():
        document = json.loads(Path("next/images", name).with_suffix(".json").read_text())
        assert (document["imageHeight"], document["imageWidth"]) == size
    assert Path("next/contact_sheet.png").is_file()
    [found] = api.predict(checkpoint, image)
    assert (found.masks["road"] == (marks == 1)).all()
    refused = belvedere(
        "predict",
        "--ckpt_path",
        str(checkpoint),
        "--data.pictures",
        str(image),
        "--data.bands",
        "[1,2,3]",
        "--data.scale",
        "dtype",
    )
    assert refused.code == 2
    assert "4 channels" in refused.err
    with rasterio.open(image) as source:
        write(Path("other.tif"), source.read(), transform=UTM, photometric="minisblack")
    with pytest.warns(UserWarning, match="no coordinate reference system"):
        moved = belvedere(
            "predict", "--ckpt_path", str(checkpoint), "--data.pictures", "other.tif", "--output", "plain"
        )
    assert moved.code == 0
    assert not Path("plain/maps").exists()
