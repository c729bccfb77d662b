import csv
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image
from scipy.stats import entropy

from callbacks.writers.segmentation.maps import Maps
from callbacks.writers.segmentation.outlines import OutlineWriter
from callbacks.writers.segmentation.stitch import StitchingWriter
from callbacks.writers.segmentation.uncertainty import Uncertainty
from tests.callbacks.writers.segmentation.test_maps import blobs, mapped
from tests.callbacks.writers.segmentation.test_outlines import NAMES, Bright, Data
from tests.callbacks.writers.shared import predict
from tests.ops.geo.helpers import ROTATED, write


def test_undecided_pixels_are_white_and_undecided_images_first(tmp_path: Path) -> None:
    writer = OutlineWriter()
    writer.formats.append(Uncertainty())
    data = Data()
    predict(tmp_path, Bright(), data, writer)
    with (tmp_path / "uncertainty.csv").open(newline="") as file:
        rows = list(csv.reader(file))[1:]
    means = {}
    for name in NAMES:
        drawn = np.asarray(Image.open(tmp_path / "uncertainty" / f"{Path(name).stem}.png")).astype(float) / 255
        means[name] = drawn.mean()
        if name == NAMES[2]:  # not halved: the probability is its brightness
            chance = data.sources[2][..., 0] / 255
            assert np.abs(drawn - entropy([chance, 1 - chance], base=2)).max() < 0.05  # drawn from percents
    assert [name for name, _ in rows] == sorted(NAMES, key=lambda name: -means[name])
    assert {name: float(value) for name, value in rows} == pytest.approx(means, abs=0.01)


def test_the_uncertainty_of_a_raster_is_a_raster_on_its_pixels(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    values = blobs()
    values[:, :40, :30] = 0
    write(tmp_path / "images/a.tif", values, crs="EPSG:32632", transform=ROTATED, nodata=0)
    Image.fromarray(blobs(1).transpose(1, 2, 0)).save(tmp_path / "images/b.png")
    found = mapped(tmp_path / "images", StitchingWriter([Uncertainty(), Maps()]))
    with (
        rasterio.open(tmp_path / "images/a.tif") as source,
        rasterio.open(found / "uncertainty/a.tif") as raster,
        rasterio.open(found / "maps/a_probability.tif") as probability,
    ):
        assert (raster.crs, raster.transform, raster.shape) == (source.crs, source.transform, source.shape)
        assert raster.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        levels, valid, chance = raster.read(1), source.dataset_mask() > 0, probability.read() / 100
    assert ((levels == 255) == ~valid).all()
    assert (levels == np.rint(100 * entropy([chance, 1 - chance], base=2).max(axis=0)))[valid].all()
    assert levels[valid].max() == 100
    drawn = np.asarray(Image.open(found / "uncertainty/a.png"))
    assert np.abs(drawn / 255 - levels / 100)[valid].max() <= 0.01
    assert {path.name for path in (found / "uncertainty").iterdir()} == {"a.png", "a.tif", "b.png"}
