from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from lightning.pytorch import LightningDataModule
from PIL import Image

from datamodules.clouds import CloudsDataModule
from datamodules.decoded import whole as decoded
from datamodules.describe import describer, segmentation
from datamodules.describe.clouds import problems, study
from datamodules.describe.segmentation import EXAMPLE_HEIGHT
from datamodules.describe.study import Study
from ops.errors import ArgumentError
from tests.datamodules.helpers import assert_problems_in_any_order, table, write


def box(*places: tuple[slice, slice]) -> np.ndarray:
    mask = np.zeros((20, 20), bool)
    for place in places:
        mask[place] = True
    return mask


SEA = {"b": box(np.s_[0:10, 0:10]) & ~box(np.s_[5:10, 5:10]), "d": box(np.s_[0:2, 0:2], np.s_[2:4, 2:4])}
CLOUD = {"a": box(np.s_[0:10, 0:5]), "b": box(np.s_[0:2, 0:2], np.s_[10:14, 10:15]), "c": box(), "d": box(np.s_[:, :])}


@pytest.fixture
def data(tmp_path: Path) -> CloudsDataModule:
    """Four 20 x 20 images, as large as the network's input; half of a is black, c shows nothing."""
    for stem in "abcd":
        picture = np.full((20, 20, 3), 200, np.uint8)
        if stem == "a":
            picture[:10] = 0
        write(tmp_path / "images" / f"{stem}.png", picture)
    for label, masks in {"cloud": CLOUD, "sea": SEA}.items():
        for stem, mask in masks.items():
            write(tmp_path / "masks" / label / f"{stem}.png", mask * np.uint8(255))
    table(tmp_path / "splits.csv", "name,split", "a.png,train", "b.png,val", "d.png,test")
    return CloudsDataModule(tmp_path, ["cloud", "sea"], size=(20, 20))


@pytest.fixture
def made(data: CloudsDataModule) -> Study:
    with pytest.warns(UserWarning, match="1 of the 4"):
        return study(data)


def test_the_summary_is_that_by_hand(made: Study) -> None:
    assert next(iter(made.tables)) == "summary"
    by_hand = {
        "class": ["cloud", "sea", "all"],
        "pictures": [3, 2, 3],
        "empty_cells": [1, 2, 3],
        "share": [0.75, 0.5, 0.75],
        "mean_area": [(50 + 24 + 400) / 1200, (75 + 8) / 800, (474 + 83) / 2000],
        "median_area": [50 / 400, (75 + 8) / 800, 50 / 400],
        "smallest_area": [24 / 400, 8 / 400, 8 / 400],
        "largest_area": [1.0, 75 / 400, 1.0],
        "regions_per_mask": [4 / 3, 1.0, 6 / 5],
        "mean_width": [(5 + 2 + 5 + 20) / 80, (10 + 4) / 40, (32 + 14) / 120],
        "mean_height": [(10 + 2 + 4 + 20) / 80, (10 + 4) / 40, (36 + 14) / 120],
    }
    pd.testing.assert_frame_equal(made.tables["summary"], pd.DataFrame(by_hand), rtol=0, atol=1e-4, check_dtype=False)


def test_every_image_has_a_row(made: Study) -> None:
    assert made.tables["pictures"].to_dict("list") == {
        "name": ["a.png", "b.png", "c.png", "d.png"],
        "split": ["train", "val", "", "test"],
        "masks": [1, 2, 0, 2],
        "area_cloud": [0.125, 0.06, 0.0, 1.0],
        "area_sea": [0.0, 0.1875, 0.0, 0.02],
        "black": [0.5, 0.0, 0.0, 0.0],
    }


def test_charts_count_masks_regions_and_black_pixels(made: Study) -> None:
    def heights(title: str) -> dict[object, int]:
        series = made.charts[title]
        return {str(label): int(height) for label, height in series.items() if height}

    assert heights("Images by their number of masks") == {"0": 1, "1": 1, "2": 2}
    assert heights("Images of each class") == {"cloud": 3, "sea": 2}
    assert heights("Images without each class") == {"cloud": 1, "sea": 2}
    assert heights("Areas of masks") == {
        "(0.0, 0.05]": 1, "(0.05, 0.1]": 1, "(0.1, 0.15]": 1, "(0.15, 0.2]": 1, "(0.95, 1.0]": 1
    }  # fmt: skip
    assert heights("Connected regions in a mask") == {"1": 4, "2": 1}
    assert heights("How much of its bounding box a region fills") == {
        "(0.5, 0.55]": 1,
        "(0.75, 0.8]": 1,
        "(0.95, 1.0]": 4,
    }
    assert heights("Widths of the regions") == {
        "(0.1, 0.15]": 1, "(0.2, 0.25]": 1, "(0.25, 0.3]": 2, "(0.5, 0.55]": 1, "(0.95, 1.0]": 1
    }  # fmt: skip
    assert sum(heights("Heights of the regions").values()) == 6
    assert heights("Black pixels, such as gaps between orbits") == {"(0.0, 0.025]": 3, "(0.475, 0.5]": 1}
    assert {(series.index.name, series.name) for series in made.charts.values()} >= {
        ("masks", "images"),
        ("class", "images"),
        ("share of the image's width", "regions"),
    }


def test_examples_show_every_class_and_each_image_once(made: Study) -> None:
    names = [name for name, _, _ in made.examples]
    assert sorted(names) == ["a.png", "b.png", "d.png"]
    assert made.classes == ["cloud", "sea"]
    for name, picture, masks in made.examples:
        assert picture.shape == (EXAMPLE_HEIGHT, EXAMPLE_HEIGHT, 3)
        assert masks.shape == (2, EXAMPLE_HEIGHT, EXAMPLE_HEIGHT)
        np.testing.assert_array_equal(masks[0, 7::14, 7::14], CLOUD[name[0]])
        np.testing.assert_array_equal(masks[1, 7::14, 7::14], SEA.get(name[0], box()))


def test_examples_keep_their_shape(clouds_root: Path) -> None:
    examples = study(CloudsDataModule(clouds_root, size=(32, 32))).examples
    assert len(examples) == 8
    assert {picture.shape for _, picture, _ in examples} == {(280, 420, 3)}
    assert np.any([masks.any(axis=(1, 2)) for _, _, masks in examples], axis=0).all()


def test_a_dataset_without_masks_is_described(tmp_path: Path) -> None:
    for stem in "abc":
        write(tmp_path / "images" / f"{stem}.png", np.full((20, 20, 3), 200, np.uint8))
        write(tmp_path / "masks" / "all" / f"{stem}.png", np.zeros((20, 20), np.uint8))
    made = study(CloudsDataModule(tmp_path, ["all"], size=(20, 20)))
    summary = made.tables["summary"]
    assert summary["pictures"].tolist() == [0, 0]
    assert summary.iloc[:, 4:].isna().all(axis=None)
    assert made.charts["Widths of the regions"].sum() == 0
    assert made.examples == []


def test_a_second_study_opens_only_the_examples(clouds_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = study(CloudsDataModule(clouds_copy, size=(32, 32)))
    opened: list[Path] = []
    read_picture = decoded.read_picture
    for module in (decoded, segmentation):
        monkeypatch.setattr(module, "read_picture", lambda path, **o: (opened.append(path), read_picture(path, **o))[1])
    data = CloudsDataModule(clouds_copy, size=(32, 32))
    assert problems(data) == []
    second = study(data)
    assert [path.name for path in opened] == [name for name, _, _ in second.examples]
    for name, found in second.tables.items():
        pd.testing.assert_frame_equal(found, first.tables[name])


def test_tables_and_test_images_are_checked_too(clouds_copy: Path, tmp_path: Path) -> None:
    table(clouds_copy / "splits.csv", "name,split", "gone.jpg,train")
    tests = sorted((clouds_copy / "test_images").iterdir())
    tests[0].unlink()
    tests[1].write_bytes(b"")
    (clouds_copy / "train_images" / "new.jpg").write_bytes(tests[2].read_bytes())
    data = CloudsDataModule(clouds_copy, size=(32, 32))
    assert_problems_in_any_order(
        problems(data),
        ("train_images/new.jpg", "train.csv"),
        ("splits.csv, row 2", "gone.jpg"),
        ("sample_submission.csv, row 2", tests[0].name),
    )
    assert list(data.unusable) == [str(tests[1])]
    assert "empty" in data.unusable[str(tests[1])]
    (clouds_copy / "train.csv").write_text("hello\n")
    (tmp_path / "mine" / "mine.jpg").parent.mkdir()
    (tmp_path / "mine" / "mine.jpg").write_text("no picture")
    data = CloudsDataModule(clouds_copy, size=(32, 32), pictures=tmp_path / "mine")
    assert_problems_in_any_order(problems(data), (f"{clouds_copy}/train.csv", "Image_Label"))
    assert list(data.unusable) == [f"{tmp_path}/mine/mine.jpg"]


class SnowfieldsDataModule(CloudsDataModule):
    pass


def test_a_segmentation_dataset_without_a_file_of_its_own_is_described(
    data: CloudsDataModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert describer(data).__name__ == "datamodules.describe.clouds"
    glaciers = SnowfieldsDataModule(data.root, data.classes, size=(20, 20))
    assert describer(glaciers).__name__ == "datamodules.describe.clouds"  # the closest parent's
    monkeypatch.setattr(CloudsDataModule, "__module__", "datamodules.segmentation")
    assert describer(glaciers) is segmentation
    with pytest.raises(ArgumentError, match="LightningDataModule"):
        describer(LightningDataModule())  # type: ignore[arg-type]
    assert segmentation.problems(glaciers) == []
    with pytest.warns(UserWarning, match="1 of the 4"):
        made, clouds = segmentation.study(glaciers), study(data)
    assert made.charts.keys() == clouds.charts.keys() - {"Black pixels, such as gaps between orbits"}
    pd.testing.assert_frame_equal(made.tables["summary"], clouds.tables["summary"])
    pd.testing.assert_frame_equal(made.tables["pictures"], clouds.tables["pictures"].drop(columns="black"))


@pytest.mark.real
def test_real_images_have_the_areas_of_their_masks(real_data: Path, tmp_path: Path) -> None:
    folder = real_data / "clouds" / "hyta"
    (tmp_path / "images").symlink_to(folder / "images")
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "cloud").symlink_to(folder / "mask_cloud")
    data = CloudsDataModule(tmp_path, ["cloud"])
    assert problems(data) == []
    for row in study(data).tables["pictures"].itertuples():
        mask = np.asarray(Image.open(folder / "mask_cloud" / f"{Path(row.name).stem}.png"))
        assert row.area_cloud == pytest.approx((mask > 127).mean(), abs=0.01)
