from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from datamodules.describe.roads import study
from datamodules.describe.study import Study
from datamodules.roads import RoadsDataModule
from tests.datamodules.helpers import table, write


@pytest.fixture
def made(tmp_path: Path) -> Study:
    """The study of four 16 x 16 images with 0, 1, 2 and 3 quarters road, and one 16 x 32 image without any."""
    rng = np.random.default_rng(0)
    for quarters in range(4):
        write(tmp_path / "images" / f"{quarters}.png", rng.integers(0, 256, (16, 16, 3), np.uint8))
        mask = np.zeros((16, 16), np.uint8)
        mask[:, : 4 * quarters] = 255
        write(tmp_path / "masks" / f"{quarters}.png", mask)
    write(tmp_path / "images" / "wide.png", np.zeros((16, 32, 3), np.uint8))
    write(tmp_path / "masks" / "wide.png", np.zeros((16, 32), np.uint8))
    rows = ["0.png,train", "1.png,train", "2.png,val", "3.png,test", "wide.png,test"]
    table(tmp_path / "splits.csv", "name,split", *rows)
    return study(RoadsDataModule(tmp_path, size=(16, 16)))


def test_the_summary_is_that_by_hand(made: Study) -> None:
    assert next(iter(made.tables)) == "summary"
    assert made.tables["summary"].to_dict("list") == {
        "category": ["no_road", "road", "all"],
        "pictures": [2, 3, 5],
        "train": [1, 1, 2],
        "val": [0, 1, 1],
        "test": [1, 1, 2],
        "tiles": [3, 3, 6],
        "mean_road": [0, 0.5, 0.3],
        "smallest_road": [0, 0.25, 0],
        "largest_road": [0, 0.75, 0.75],
    }


def test_every_image_has_a_row(made: Study) -> None:
    table = made.tables["pictures"]
    assert table["name"].tolist() == ["0.png", "1.png", "2.png", "3.png", "wide.png"]
    assert table["split"].tolist() == ["train", "train", "val", "test", "test"]
    assert table["road"].tolist() == [0, 0.25, 0.5, 0.75, 0]
    assert table["tiles"].tolist() == [1, 1, 1, 1, 2]


def test_charts_count_all_images(made: Study) -> None:
    sums = {title: int(series.sum()) for title, series in made.charts.items()}
    assert sums == {
        "Images of each category": 5,
        "Images of each split": 5,
        "Road area of images with roads": 3,
        "Most frequent image sizes": 5,
    }
    assert made.charts["Most frequent image sizes"].to_dict() == {"16 x 16": 4, "32 x 16": 1}


def test_examples_go_from_no_road_to_much(made: Study) -> None:
    shares = [masks.mean() for _, _, masks in made.examples]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0, 0.75)


def altered(root: Path, **options: Any) -> dict[str, Any]:
    return study(RoadsDataModule(root, size=(16, 16), **options)).panels


def test_the_copies_are_those_of_the_strategy(made: Study, tmp_path: Path) -> None:
    titles, rows, names = made.panels["altered"]
    assert titles == ["tile", "contour", "detail", "edge enhance"]
    assert len(names) == len(rows)
    assert names[1] == f"mask of {names[0]}"
    tile = Image.fromarray(rows[0][0])
    kernels = (ImageFilter.CONTOUR, ImageFilter.DETAIL, ImageFilter.EDGE_ENHANCE)
    for column, kernel in enumerate(kernels, start=1):
        np.testing.assert_allclose(rows[0][column].astype(int), np.asarray(tile.filter(kernel)), atol=0)
        np.testing.assert_array_equal(rows[1][column], rows[1][0])
    titles, rows, _ = altered(tmp_path, strategy="rotations")["altered"]
    assert titles == ["tile", "90°", "180°", "270°"]
    for turn in range(4):
        np.testing.assert_array_equal(rows[0][turn], tile.rotate(90 * turn))
        np.testing.assert_array_equal(rows[1][turn], Image.fromarray(rows[1][0]).rotate(90 * turn))


def test_tiles_vary_as_augment_says(made: Study, tmp_path: Path) -> None:
    assert altered(tmp_path, strategy="few") == {}
    titles, rows, _ = altered(tmp_path, strategy="few", augment="d4")["altered"]
    assert titles == ["tile", *["in training"] * 4]
    turned = [np.rot90(each, k) for each in (rows[0][0], rows[0][0][:, ::-1]) for k in range(4)]
    assert all(any(np.array_equal(view, each) for each in turned) for view in rows[0])
    assert len({view.tobytes() for view in rows[0]}) > 1
    titles, rows, _ = altered(tmp_path, strategy="both", augment="flips")["altered"]
    assert titles[0] == "tile"
    assert {len(row) for row in rows} == {len(titles)} == {5}


def test_a_dataset_without_roads_is_described(tmp_path: Path) -> None:
    for stem in "abcde":
        write(tmp_path / "images" / f"{stem}.png", np.zeros((16, 16, 3), np.uint8))
        write(tmp_path / "masks" / f"{stem}.png", np.zeros((16, 16), np.uint8))
    shown = study(RoadsDataModule(tmp_path, size=(16, 16), val_fraction=0.4))
    assert shown.tables["summary"]["category"].tolist() == ["no_road", "all"]
    assert shown.charts["Road area of images with roads"].sum() == 0
