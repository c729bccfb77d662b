import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from datamodules.colorization import ColorizationDataModule
from datamodules.describe.colorization import AXIS, ENLARGED, MARGIN, STEPS, colors_of, density, problems, study
from datamodules.describe.study import Study
from tests.datamodules.helpers import assert_problems, noise, table, write

RED, GREEN, GREY = (200, 40, 40), (40, 160, 60), (120, 120, 120)


def lab(color: tuple[int, int, int]) -> np.ndarray:
    """By OpenCV, to half a unit."""
    return cv2.cvtColor(np.float32([[color]]) / 255, cv2.COLOR_RGB2LAB)[0, 0]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four images of one color each, and a broken file."""
    folder = tmp_path_factory.mktemp("colors")
    images = {
        "a/1.png": (RED, 64, 128),
        "a/2.png": (GREEN, 128, 64),
        "b.png": (GREY, 40, 40),
        "c.png": (GREEN, 400, 400),
    }
    for name, (color, height, width) in images.items():
        write(folder / "images" / name, Image.new("RGB", (width, height), color))
    (folder / "images" / "broken.png").write_bytes(b"none")
    rows = ["a/1.png,Ada,Red,1900", "a/2.png,Ada,,", "b.png,Bob,Grey,1800"]
    table(folder / "metadata.csv", "image,artist,title,year", *rows)
    table(folder / "splits.csv", "name,split", "a/1.png,train", "a/2.png,train", "b.png,val", "c.png,test")
    return folder


@pytest.fixture(scope="module")
def made(root: Path) -> Study:
    data = ColorizationDataModule(root, size=64, unreadable="skip")
    assert problems(data) == []
    return study(data)


def test_the_summary_is_that_by_hand(made: Study) -> None:
    assert next(iter(made.tables)) == "summary"
    table = made.tables["summary"].set_index("split")
    assert table.index.tolist() == ["train", "val", "test", "all"]
    assert table["pictures"].tolist() == [2, 1, 1, 4]
    assert table["artists"].tolist() == [1, 1, 0, 2]
    assert table["grey"].tolist() == [0, 1, 0, 1]
    assert table["smallest_size"].tolist() == ["128 x 64", "40 x 40", "400 x 400", "40 x 40"]
    assert table["largest_size"].tolist() == ["64 x 128", "40 x 40", "400 x 400", "400 x 400"]
    mean = (lab(RED) + lab(GREEN)) / 2
    assert table.loc["train", "mean_a"] == pytest.approx(mean[1], abs=0.5)
    assert table.loc["train", "mean_b"] == pytest.approx(mean[2], abs=0.5)


def test_every_image_has_a_row(made: Study) -> None:
    table = made.tables["pictures"].set_index("name")
    assert table.index.tolist() == ["a/1.png", "a/2.png", "b.png", "c.png"]
    assert table["artist"].tolist() == ["Ada", "Ada", "Bob", ""]
    assert table["title"].tolist() == ["Red", "", "Grey", ""]
    assert table["aspect"].tolist() == [2, 0.5, 1, 1]
    # one color has no spread: 0.3 of the distance from gray, for red that of (160, 80)
    assert table.loc["a/1.png", "colorfulness"] == pytest.approx(0.3 * np.hypot(160, 80), abs=0.01)
    assert table.loc["b.png", "colorfulness"] == 0
    for name, color in (("a/1.png", RED), ("c.png", GREEN), ("b.png", GREY)):
        found = table.loc[name, ["L", "a", "b"]].to_numpy(float)
        np.testing.assert_allclose(found, lab(color), atol=0.5)


def test_artists_and_skipped_images_have_tables(made: Study) -> None:
    artists = made.tables["artists"]
    assert artists["artist"].tolist() == ["Ada", "Bob"]
    assert artists["pictures"].tolist() == [2, 1]
    assert made.tables["skipped"]["name"].tolist() == ["broken.png"]
    assert "broken.png" in made.tables["skipped"]["problem"][0]


def test_charts_count_all_images_and_pixels(made: Study) -> None:
    sums = {title: round(float(series.sum()), 6) for title, series in made.charts.items()}
    assert sums == {
        "Images of each split": 4,
        "Shapes": 4,
        "Longer sides": 4,
        "How colorful images are": 4,
        "Lightness of the pixels": 1,
        "Color strength of the pixels": 1,
        "Images per artist": 2,
    }
    # b.png and c.png are enlarged or reduced to 64 x 64, the others to 32 x 64: 1, 1, 2, 2 parts of the pixels
    assert made.charts["Color strength of the pixels"].loc[2.5] == pytest.approx(2 / 6)
    assert made.charts["Images per artist"].to_dict() == {1: 1, 2: 1}


def test_examples_go_from_gray_to_colorful(made: Study) -> None:
    assert [title.split(": ")[1] for title, *_ in made.examples] == ["b.png", "a/2.png", "c.png", "a/1.png"]
    assert [picture.shape for _, picture, _ in made.examples] == [(64, 64, 3), (64, 32, 3), (64, 64, 3), (32, 64, 3)]
    assert all((picture == picture[0, 0]).all() for _, picture, _ in made.examples)  # no white around them


def test_colors_lie_where_a_and_b_say(made: Study) -> None:
    titles, (row,), _ = made.panels["colors"]
    assert titles == ["all", "train", "val", "test"]
    side = STEPS * ENLARGED
    for picture, color in ((row[2], GREY), (row[3], GREEN)):
        assert picture.shape == (side + MARGIN, side + MARGIN, 3)
        assert (picture[side:] < 100).any(), "values on the axis"
        picture = picture[:side, MARGIN:]
        drawn = ~((picture == 255).all(axis=2) | (picture == AXIS).all(axis=2))
        rows, columns = np.nonzero(drawn)
        a, b = columns.mean() / ENLARGED * 2 - 110, 110 - rows.mean() / ENLARGED * 2
        np.testing.assert_allclose([a, b], lab(color)[1:], atol=3)
    assert (row[1] != 255).any(axis=2).sum() > (row[3] != 255).any(axis=2).sum()


def test_the_density_of_red_is_red() -> None:
    pairs = np.zeros((STEPS, STEPS), np.int64)
    pairs[90, 75] = 1000  # a of 71, b of 41
    picture = density(pairs)
    red, green, blue = picture[(STEPS - 76) * ENLARGED + 1, 90 * ENLARGED + 1].astype(int)
    assert red > 200 > green + 60
    assert red > 200 > blue + 60


def test_altered_images_stand_beside_their_originals(made: Study) -> None:
    titles, rows, names = made.panels["altered"]
    assert len(titles) == 5
    assert len(rows) == 2  # train has no more
    assert names == made.tables["pictures"].query("split == 'train'")["name"].tolist()
    for row, color in zip(rows, (RED, GREEN), strict=True):
        assert [picture.shape for picture in row] == [(64, 64, 3)] * 5
        for picture in row:  # nothing but the color and the gray of ignored pixels
            found = {tuple(each) for each in np.unique(picture.reshape(-1, 3), axis=0).tolist()}
            assert found == {color, (200, 200, 200)}
        assert len({picture.tobytes() for picture in row}) == 5


def test_an_image_of_two_colors() -> None:
    picture = np.zeros((40, 40, 3), np.uint8)
    picture[:10], picture[10:] = RED, GREEN
    colors = colors_of(picture)
    np.testing.assert_allclose(colors.means[:3], 0.25 * lab(RED) + 0.75 * lab(GREEN), atol=0.5)
    assert sorted(colors.pairs[colors.pairs > 0].tolist()) == [400, 1200]
    assert colors.lightness.sum() == colors.chroma.sum() == 1600
    assert not colors.grey


def test_images_without_a_table_are_described(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "images", tmp_path / "images")
    (tmp_path / "images" / "broken.png").unlink()
    shown = study(ColorizationDataModule(tmp_path, size=32))
    assert list(shown.tables) == ["summary", "pictures"]
    assert "Images per artist" not in shown.charts


@pytest.mark.parametrize(
    ("pictures", "unreadable", "expected"),
    [(".", None, []), (".", "refuse", [("broken.png",)]), ("gone", None, [("gone",)])],
)
def test_images_to_predict_are_checked(
    pictures: str, unreadable: Any, expected: list[tuple[str]], root: Path, tmp_path: Path
) -> None:
    for index in range(3):
        write(tmp_path / "images" / f"{index}.png", noise(40, 40, seed=index))
    data = ColorizationDataModule(tmp_path, size=32, pictures=root / "images" / pictures, unreadable=unreadable)
    assert_problems(problems(data), *expected)
