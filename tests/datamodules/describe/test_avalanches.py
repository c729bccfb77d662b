import colorsys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.avalanches import AvalanchesDataModule
from datamodules.decoded.scenes import Scenes, decoded_scenes
from datamodules.describe.avalanches import colors_of, problems, study, variance_shares
from datamodules.describe.study import Study
from datamodules.read.masks import one_mask_each
from tests.datamodules.helpers import assert_problems_in_any_order, table, write

SIZE = (20, 30)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five images: 0 and 1 bright, the others dark and blue; the avalanche covers 1 to 5 tenths."""
    folder, rng = tmp_path_factory.mktemp("avalanches"), np.random.default_rng(0)
    for index in range(5):
        base = np.array([230, 225, 220] if index < 2 else [90, 110, 140])
        size = (SIZE[0], SIZE[1] * (1 + (index == 4)))
        write(folder / "images" / f"{index}.png", base + rng.integers(-3, 4, (*size, 3)))
        mask = np.zeros(size)
        mask[:, : size[1] * (index + 1) // 10] = 255
        write(folder / "masks" / f"{index}.png", mask)
    for index in (1, 3):
        write(folder / "references" / f"{index}.png", np.full((*SIZE, 3), 60 * index))
    splits = ["0.png,train", "2.png,train", "3.png,val", "4.png,test", "1.png,test"]
    table(folder / "splits.csv", "name,split", *splits)
    table(folder / "conditions.csv", "image,condition", "0.png,sunny", "2.png,mist")
    table(folder / "boxes.csv", "image,x0,y0,x1,y1", "2.png,0,0,5,5", "2.png,6,6,9,9")
    return folder


@pytest.fixture(scope="module")
def made(root: Path) -> Study:
    return study(AvalanchesDataModule(root, window=5))


def test_the_summary_is_that_by_hand(made: Study) -> None:
    assert next(iter(made.tables)) == "summary"
    assert made.tables["summary"].to_dict("list") == {
        "split": ["train", "val", "test", "all"],
        "pictures": [2, 1, 2, 5],
        "mean_avalanche": [0.2, 0.4, 0.35, 0.3],
        "smallest_avalanche": [0.1, 0.4, 0.2, 0.1],
        "largest_avalanche": [0.3, 0.4, 0.5, 0.5],
        "smallest_size": ["30 x 20"] * 4,
        "largest_size": ["30 x 20", "30 x 20", "60 x 20", "60 x 20"],
        "sunny_by_rule": [1, 0, 1, 2],
        "shady_by_rule": [1, 1, 1, 3],
        "mist_given": [1, 0, 0, 1],
        "sunny_given": [1, 0, 0, 1],
        "with_boxes": [1, 0, 0, 1],
        "with_reference": [0, 1, 1, 2],
    }


def test_every_image_has_a_row(made: Study) -> None:
    table = made.tables["pictures"]
    assert table["name"].tolist() == [f"{index}.png" for index in range(5)]
    assert table["split"].tolist() == ["train", "test", "train", "val", "test"]
    assert table["avalanche"].tolist() == [0.1, 0.2, 0.3, 0.4, 0.5]
    assert table["condition"].tolist() == ["sunny", "", "mist", "", ""]
    assert table["by_rule"].tolist() == ["sunny", "sunny", "shady", "shady", "shady"]
    assert table["boxes"].tolist() == [0, 0, 2, 0, 0]
    assert table["reference"].tolist() == [False, True, False, True, False]


def test_every_image_has_its_histograms(made: Study, root: Path) -> None:
    table = made.tables["histograms"].set_index(["name", "channel"])
    for index in range(5):
        picture = np.asarray(Image.open(root / "images" / f"{index}.png"))
        for channel, name in enumerate(("red", "green", "blue")):
            counts = np.histogram(picture[..., channel], bins=32, range=(0, 256))[0]
            np.testing.assert_allclose(table.loc[f"{index}.png", name], counts / picture[..., 0].size, atol=1e-5)


def test_histograms_of_colors_are_means_of_the_groups(made: Study, root: Path) -> None:
    for condition, members in (("sunny", (0, 1)), ("shady", (2, 3, 4))):
        for channel, name in enumerate(("Red", "Green", "Blue")):
            shares = []
            for index in members:
                levels = np.asarray(Image.open(root / "images" / f"{index}.png"))[..., channel]
                shares.append(np.histogram(levels, bins=32, range=(0, 256))[0] / levels.size)
            np.testing.assert_allclose(
                made.charts[f"{name} in {condition} images"], np.mean(shares, axis=0), atol=1e-12
            )
    assert made.charts["Sunny or shady, by brightness"].to_dict() == {"sunny": 2, "shady": 3}
    assert made.charts["Area of the avalanches"].sum() == 5


@pytest.mark.parametrize("color", [(250, 240, 200), (40, 90, 200), (200, 30, 60), (10, 200, 30)])
def test_peaks_are_those_of_another_library(color: tuple[int, int, int]) -> None:
    found = colors_of(np.full((3, 6, 7), np.array(color).reshape(3, 1, 1), np.uint8))
    hue, saturation, _ = colorsys.rgb_to_hsv(*(level / 255 for level in color))
    assert found.hue == pytest.approx(360 * hue, abs=7)  # the middle of a bin of 10 degrees, of whole steps of 2
    assert found.saturation == pytest.approx(255 * saturation, abs=5)
    brightness = np.dot(color, [0.299, 0.587, 0.114])
    assert found.brightness == pytest.approx(brightness, abs=5)
    assert found.condition == ("sunny" if brightness >= 200 else "shady")


def test_a_gray_image_has_no_hue() -> None:
    found = colors_of(np.full((3, 4, 4), 200, np.uint8))
    assert np.isnan(found.hue)
    assert (found.brightness, found.condition) == (204, "sunny")


def scenes_of(root: Path, pictures: list[np.ndarray]) -> Scenes:
    for index, picture in enumerate(pictures):
        write(root / "images" / f"{index}.png", np.repeat(picture[..., None], 3, axis=2))
        write(root / "masks" / f"{index}.png", np.eye(*picture.shape) * 255)
    return decoded_scenes("tested", one_mask_each(root), 0, 3)


def test_components_are_those_of_all_windows(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pictures = [np.cumsum(rng.integers(0, 9, (25, 30)), axis=1) for _ in range(2)]
    windows = [picture[top : top + 3, left : left + 3].ravel() for picture in pictures
               for top in range(23) for left in range(28)]  # fmt: skip
    expected = np.linalg.eigvalsh(np.cov(np.array(windows).T))[::-1]
    found = variance_shares(scenes_of(tmp_path, pictures), ["0.png", "1.png"], 3)
    np.testing.assert_allclose(found, expected / expected.sum(), rtol=0.05, atol=1e-4)
    assert found.sum() == pytest.approx(1)


def test_stripes_are_one_component_and_flat_images_none(tmp_path: Path) -> None:
    stripes = np.zeros((20, 20))
    stripes[:, ::2] = 255
    assert variance_shares(scenes_of(tmp_path / "stripes", [stripes]), ["0.png"], 3)[0] == pytest.approx(1, abs=1e-4)
    flat = scenes_of(tmp_path / "flat", [np.full((20, 20), 70)] * 3)
    assert not variance_shares(flat, ["0.png"], 3).any()
    shown = study(AvalanchesDataModule(tmp_path / "flat", window=3, val_fraction=0.34, test_fraction=0))
    assert any("0 of 9 hold 99%" in str(chart.index.name) for chart in shown.charts.values())


def test_the_named_number_of_components_holds_99_percent(made: Study) -> None:
    table = made.tables["components"]
    needed = int((table["together"] < 0.99).sum()) + 1
    assert any(f"{needed} of 25 hold 99%" in str(chart.index.name) for chart in made.charts.values())
    assert table["component"].tolist() == list(range(1, 26))


def test_examples_and_references_are_shown(made: Study) -> None:
    shares = [masks.mean() for _, _, masks in made.examples]
    assert shares == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    titles, rows, names = made.panels["references"]
    assert titles == ["image", "mask", "reference"]
    assert [[cell.shape for cell in row] for row in rows] == [[(320, 480, 3)] * 3] * 2
    assert [int(row[2].mean()) for row in rows] == [60, 180]
    assert list(names) == ["1.png", "3.png"]
    assert rows[0][1][:, :80].min() == 255  # 96 of 480, and the blur of enlarging
    assert rows[0][1][:, 112:].max() == 0


def test_all_problems_are_reported_together(tmp_path: Path) -> None:
    for index in range(3):
        write(tmp_path / "images" / f"{index}.png", np.zeros((9, 9, 3)))
        write(tmp_path / "masks" / f"{index}.png", np.eye(9) * 255)
    (tmp_path / "references").mkdir()
    assert problems(AvalanchesDataModule(tmp_path, window=5)) == []
    write(tmp_path / "masks" / "0.png", np.zeros((9, 9)))
    (tmp_path / "references" / "1.png").write_bytes(b"")
    table(tmp_path / "boxes.csv", "image,x0,y0,x1,y1", "1.png,0,0,99,5", "gone.png,0,0,1,1")
    table(tmp_path / "conditions.csv", "image,condition", "gone.png,sunny")
    table(tmp_path / "splits.csv", "name,split", "gone.png,train")
    assert_problems_in_any_order(
        problems(AvalanchesDataModule(tmp_path, window=5, pictures=tmp_path / "none")),
        ("masks/0.png",),
        ("splits.csv, row 2", "gone.png"),
        ("boxes.csv, row 2", "0,0,99,5", "1.png"),
        ("conditions.csv, row 2", "gone.png"),
        ("boxes.csv, row 3", "gone.png"),
        ("references/1.png", "empty"),
        (f"{tmp_path}/none",),
    )
    assert f"{tmp_path}/absent" in problems(AvalanchesDataModule(tmp_path / "absent"))[0]
