import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio.raw
import pytest
import rasterio.warp
import shapely
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from callbacks.writers.segmentation.lines import CenterLines
from callbacks.writers.segmentation.writer import SegmentationWriter
from datamodules.roads import RoadsDataModule
from ops.errors import ArgumentError
from tasks.roads import RoadsTask
from tests.callbacks.writers.shared import predict
from tests.checks import rejects
from tests.ops.geo.test_rasters import DEGREES, ROTATED, UTM, write

SIZE = (150, 190)
STREETS = [[(0, 70), (189, 70)], [(90, 70), (90, 149)]]  # x and y


class Red(nn.Module):
    """Finds roads where images are red."""

    def forward(self, image: Tensor) -> Tensor:
        return 20 * (image[:, :1] - 0.5)


def streets() -> NDArray[np.uint8]:
    """Two streets that meet, 9 pixels wide, in red."""
    image = np.zeros((*SIZE, 3), np.uint8)
    image[66:75, :, 0] = image[70:, 86:95, 0] = 255
    return image


def predicted(folder: Path, writer: Any) -> Path:
    writer.checkpoints = ["best.ckpt"]  # the results are listed beside them
    task = RoadsTask("pspnet")
    task.network = Red()
    data = RoadsDataModule("/nowhere", pictures=folder / "images", size=(64, 64), num_workers=0)
    predict(folder / "run", task.eval(), data, writer)
    return folder / "run"


def layer(path: Path, name: str | None) -> tuple[Any, dict[str, Any]]:
    meta, _, geometry, values = pyogrio.raw.read(path, layer=name)
    return shapely.from_wkb(geometry), dict(zip(meta["fields"], values, strict=True))


def check_along(lines: Any, streets: list[Any], tolerance: float) -> None:
    """All lines lie along the streets, and all streets along the lines."""
    found, true = shapely.union_all(lines), shapely.union_all(streets)
    assert shapely.hausdorff_distance(shapely.segmentize(found, tolerance), true, densify=0.05) < tolerance


@pytest.mark.parametrize(("crs", "transform", "pixel"),
                         [("EPSG:32632", UTM, 0.5), ("EPSG:32632", ROTATED, 0), ("EPSG:4326", DEGREES, 0)])  # fmt: skip
def test_lines_lie_on_the_ground(tmp_path: Path, crs: str, transform: Any, pixel: float) -> None:
    (tmp_path / "images").mkdir()
    write(tmp_path / "images/a.tif", streets().transpose(2, 0, 1), crs=crs, transform=transform)
    run = predicted(tmp_path, SegmentationWriter(submission=False, folders=False, spur=5, gap=5))
    lines, fields = layer(run / "maps/a.gpkg", "lines")
    nodes, of_nodes = layer(run / "maps/a.gpkg", "nodes")
    centers = [shapely.LineString([transform @ (x + 0.5, y + 0.5) for x, y in street]) for street in STREETS]
    check_along(lines, centers, 2.5 * abs(transform.determinant) ** 0.5)
    assert sorted(of_nodes["lines"].tolist()) == [1, 1, 1, 3]
    for line, start, end in zip(lines, fields["start"], fields["end"], strict=True):
        assert shapely.get_point(line, 0) == nodes[start]
        assert shapely.get_point(line, -1) == nodes[end]
    [row] = csv.DictReader((run / "areas.csv").open())
    assert float(row["length_m"]) == pytest.approx(fields["length_m"].sum(), abs=0.05)
    assert float(row["area_m2"]) == pytest.approx((fields["length_m"] * fields["width_m"]).sum(), rel=0.1)
    if pixel:
        assert fields["length_m"].sum() == pytest.approx((189 + 79) * pixel, rel=0.03)
        assert fields["width_m"] == pytest.approx(9 * pixel, abs=1.1 * pixel)
    assert not (run / "lines").exists()


def test_lines_as_geojson_are_in_longitude_and_latitude(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    write(tmp_path / "images/a.tif", streets().transpose(2, 0, 1), crs="EPSG:32632", transform=UTM)
    run = predicted(tmp_path, SegmentationWriter(submission=False, folders=False, vectors="geojson", spur=5))
    lines = json.loads((run / "maps/a_lines.geojson").read_text())["features"]
    assert {each["properties"]["class"] for each in lines} == {"road"}
    places = np.concatenate([each["geometry"]["coordinates"] for each in lines])
    x, y = rasterio.warp.transform("EPSG:4326", "EPSG:32632", *places.T)
    columns, rows = ~UTM @ (np.array(x), np.array(y))
    assert (np.minimum(abs(rows - 70.5), abs(columns - 90.5)) < 2).all()


def test_lines_of_plain_images_are_in_pixels(tmp_path: Path) -> None:
    (tmp_path / "images/town").mkdir(parents=True)
    Image.fromarray(streets()).save(tmp_path / "images/town/a.png")
    Image.fromarray(np.zeros((80, 80, 3), np.uint8)).save(tmp_path / "images/b.png")
    run = predicted(tmp_path, SegmentationWriter(submission=False, folders=False))
    features = json.loads((run / "lines/town/a.geojson").read_text())["features"]
    lines = [shapely.LineString(each["geometry"]["coordinates"]) for each in features]
    check_along(lines, [shapely.LineString(street) for street in STREETS], 2.5)
    for line, each in zip(lines, features, strict=True):
        assert each["properties"]["length"] == pytest.approx(line.length, abs=0.05)
        assert each["properties"]["width"] == pytest.approx(9, abs=1.1)
    assert json.loads((run / "lines/b.geojson").read_text()) == {"type": "FeatureCollection", "features": []}
    (run / "maps").mkdir()
    (run / "maps/own.txt").touch()
    (run / "areas.csv").write_text("own")
    predicted(tmp_path, SegmentationWriter(submission=False, folders=False, vectors="none"))
    assert not (run / "lines").exists(), "those of the earlier prediction"
    assert (run / "maps/own.txt").exists(), "the folder is not its own"
    assert (run / "areas.csv").read_text() == "own"


def test_rejects_negative_lengths() -> None:
    rejects("spur is -1", CenterLines, spur=-1, error=ArgumentError)
    rejects("gap -2", SegmentationWriter, gap=-2, error=ArgumentError)
