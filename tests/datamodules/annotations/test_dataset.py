import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from belvedere.__main__ import main
from datamodules.annotations.dataset import class_name, upright
from datamodules.clouds import CloudsDataModule
from datamodules.read.pictures import read_picture
from datamodules.roads import RoadsDataModule
from ops.errors import ArgumentError, DataError
from tests.datamodules.annotations.test_readers import SQUARE, coco, labelme, picture, shape, square
from tests.datamodules.helpers import contents

IGNORE = shape("__ignore__", [[0, 0], [10, 0], [10, 2], [0, 2]])


def values(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def rows(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


@pytest.fixture
def labeled(tmp_path: Path) -> Path:
    """Four photographs: two with objects, one without, and one whose file is elsewhere."""
    source = tmp_path / "source"
    for name in ("train/a.png", "train/b.png", "val/empty.png"):
        picture(source / "photos" / name)
    labelme(
        source / "a.json",
        [shape("ice"), shape("Ice/old", [[5, 0], [9, 0], [9, 8], [5, 8]]), IGNORE],
        "photos\\train\\a.png",
    )
    labelme(source / "b.json", [shape("rock", kind="rectangle", points=[[0, 0], [3, 3]])], "D:\\my\\train\\b.png")
    labelme(source / "c.json", [], "empty.png")
    labelme(source / "d.json", [], "missing.png")
    return source


def test_a_dataset_is_made_and_can_be_trained_on(
    labeled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["import", "--from", "labelme", str(labeled), "--output", str(out), "--link"]) == 3
    printed = capsys.readouterr()
    assert "3 images" in printed.out
    assert "--data.ignore_value 128" in printed.out
    assert "--data.classes '[Ice-old,ice,rock]'" in printed.out
    assert "missing.png" in printed.err
    assert "--boxes masks" in printed.err
    assert {*contents(out)} >= {"images/train/a.png", "images/val/empty.png", "masks/ice/train/a.png", "rejected.csv"}
    assert (out / "images/train/a.png").is_symlink()
    assert [row[1] for row in rows(out / "rejected.csv")[1:]] == ["missing.png", "D:\\my\\train\\b.png, rock 1"]
    expected = np.where(square(), 255, 0)
    expected[:2][(expected[:2] == 0)] = 128
    expected[:2, 5:9] = np.where(square()[:2, 5:9], 255, 0)  # where a class is, nothing is ignored
    assert (values(out / "masks/ice/train/a.png") == expected).all()
    assert not values(out / "masks/ice/val/empty.png").any()
    data = CloudsDataModule(
        out,
        ["Ice-old", "ice", "rock"],
        size=(8, 10),
        ignore_value=128,
        val_fraction=0.4,
        test_fraction=0,
        num_workers=0,
    )
    data.prepare_data()
    data.setup("fit")
    samples = {name: data.datasets[split][index] for split in ("train", "val")
               for index, name in enumerate(data.datasets[split].names)}  # fmt: skip
    sample = samples["train/a.png"]
    assert (sample["mask"][1].numpy() == square()).all()
    assert (sample["ignored"][0].numpy() == (expected == 128)).all()


def test_classes_are_chosen_renamed_and_merged(
    labeled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["import", "--from", "labelme", str(labeled), "--boxes", "masks", "--task", "roads", "--output"]
    assert main([*command, str(tmp_path / "one")]) == 2
    assert "one mask per image" in capsys.readouterr().err
    assert main([*command, str(tmp_path / "one"), "--classes", "ice=object,rock=object", "--ignore", ""]) == 3
    printed = capsys.readouterr().out
    assert "Left out, since --classes does not name them: Ice/old (1), __ignore__ (1)" in printed
    assert "--config roads/best" in printed
    assert (values(tmp_path / "one/masks/train/a.png") == np.where(square(), 255, 0)).all()
    assert values(tmp_path / "one/masks/train/b.png")[:3, :3].all()
    assert main([*command, str(tmp_path / "two"), "--classes", "Ice=x"]) == 2
    assert "Did you mean ice?" in capsys.readouterr().err
    assert not (tmp_path / "two").exists()


def test_the_last_shape_wins_where_classes_exclude_each_other(labeled: Path, tmp_path: Path) -> None:
    command = ["import", "--from", "labelme", str(labeled), "--output", str(tmp_path / "out"), "--exclusive"]
    assert main(command) == 3
    ice, old = (values(tmp_path / f"out/masks/{label}/train/a.png") == 255 for label in ("ice", "Ice-old"))
    assert not (ice & old).any()
    assert old[:, 5:9].all()


def test_boxes_are_listed(labeled: Path, tmp_path: Path) -> None:
    command = ["import", "--from", "labelme", str(labeled), "--output", str(tmp_path / "out"), "--boxes", "csv"]
    assert main(command) == 3
    assert rows(tmp_path / "out/boxes.csv") == [["image", "x0", "y0", "x1", "y1"], ["train/b.png", "0", "0", "3", "3"]]


def test_splits_of_the_source_are_kept(tmp_path: Path) -> None:
    annotation = [{"id": 1, "image_id": 7, "category_id": 90, "segmentation": [np.ravel(SQUARE).tolist()]}]
    for split, name in (("train", "a.png"), ("val", "b.png")):
        picture(tmp_path / "images" / name)
        image = [{"id": 7, "file_name": name, "height": 8, "width": 10}]
        coco(tmp_path / "labels" / f"instances_{split}2017.json", annotation, images=image)
    out = tmp_path / "out"
    command = ["import", "--from", "coco", str(tmp_path / "labels"), "--images", str(tmp_path / "images")]
    assert main([*command, "--output", str(out)]) == 0
    assert rows(out / "splits.csv") == [["name", "split"], ["a.png", "train"], ["b.png", "val"]]
    assert not (out / "rejected.csv").exists()


@pytest.mark.parametrize("turn", range(1, 9))
def test_labels_follow_the_orientation_of_photographs(tmp_path: Path, turn: int) -> None:
    stored = np.zeros((8, 10, 3), np.uint8)
    stored[square()] = 255
    exif = Image.Exif()
    exif[0x0112] = turn
    (tmp_path / "source").mkdir()
    Image.fromarray(stored).save(tmp_path / "source" / "a.png", exif=exif)
    seen = read_picture(tmp_path / "source" / "a.png")[..., 0] > 0
    assert (upright(square(), turn) == seen).all()
    rotated = seen.shape != square().shape
    labelme(tmp_path / "source" / "a.json", [shape()])  # drawn on 8 x 10 pixels
    assert main(["import", "--from", "labelme", str(tmp_path / "source"), "--output", str(tmp_path / "out")]) == 0
    found = values(tmp_path / "out/masks/ice/a.png") > 0
    assert (found == (seen if rotated else square())).all()


def test_unusable_sources_write_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, source = tmp_path / "out", tmp_path / "source"
    command = ["import", "--output", str(out), "--from"]
    assert main([*command, "labelme", str(source)]) == 2
    assert "no file or folder" in capsys.readouterr().err
    assert main([*command, "paint", str(source)]) == 2
    assert "choose from" in capsys.readouterr().err
    picture(source / "a.png")
    assert main([*command, "labelme", str(source)]) == 2
    assert "no JSON file" in capsys.readouterr().err
    assert main([*command, "masks", str(source)]) == 2
    assert "--images" in capsys.readouterr().err
    labelme(source / "a.json", [shape()], imageHeight=80)
    assert main([*command, "labelme", str(source)]) == 2
    assert "80 x 10 pixels" in capsys.readouterr().err
    out.mkdir()
    (out / "kept.txt").write_text("")
    assert main([*command, "labelme", str(source)]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_several_images_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    for name in ("x/1.png", "y/1.png"):
        picture(tmp_path / "photos" / name)
    labelme(tmp_path / "labels" / "1.json", [shape()], "/home/somebody/y/1.png")
    labelme(tmp_path / "labels" / "2.json", [shape()], "1.png")
    out = tmp_path / "out"
    command = ["import", "--from", "labelme", str(tmp_path / "labels"), "--images", str(tmp_path / "photos")]
    assert main([*command, "--output", str(out)]) == 3
    assert [row[2][:12] for row in rows(out / "rejected.csv")[1:]] == ["2 images fit"]
    assert (out / "masks/ice/1.png").is_file()


@pytest.mark.parametrize("form", ["labelme", "coco"])
def test_annotations_are_read_directly(form: str, tmp_path: Path) -> None:
    root, other = tmp_path / "sky", [[0, 0], [4, 0], [4, 3], [0, 3]]
    for number in range(6):
        picture(root / "images" / "north" / f"{number}.png")
    if form == "labelme":
        for number in range(5):
            labelme(
                tmp_path / "labels" / f"{number}.json", [shape(points=SQUARE if number else other)], f"{number}.png"
            )
    else:
        images = [{"id": n, "file_name": f"{n}.png", "height": 8, "width": 10} for n in range(5)]
        points = [np.ravel(SQUARE if n else other).tolist() for n in range(5)]
        outlines = [{"id": n, "image_id": n, "category_id": 90, "segmentation": [points[n]]} for n in range(5)]
        coco(tmp_path / "labels.json", outlines, images=images)
    annotations = tmp_path / ("labels" if form == "labelme" else "labels.json")
    data = CloudsDataModule(root, ["ice"], size=(8, 10), annotations=annotations, num_workers=0)
    for _ in range(2):  # drawn, then from the cache
        source = data.source()
        assert (source.problems, source.names) == ([], [f"north/{number}.png" for number in range(5)])
        assert (source.masks("north/3.png", (8, 10))[0] == square()).all()
    data.prepare_data()
    data.setup("fit")
    names = data.picture_names()
    assert sum(map(len, names.values())) == 5
    assert data.picture(names["train"][0], 8) is not None
    before = data.fingerprint()
    roads = RoadsDataModule(root, annotations=annotations, window=(8, 8), size=(8, 8), num_workers=0)
    assert (roads.tiles().source.masks("north/3.png", (8, 10))[0] == square()).all()
    if form == "labelme":
        labelme(annotations / "4.json", [shape(kind="linestrip")], "4.png")
        assert ["linestrip" in problem for problem in data.source().problems] == [True]
        assert data.fingerprint() != before


def test_images_beside_their_labels_are_those_of_the_dataset(tmp_path: Path) -> None:
    picture(tmp_path / "sky" / "images" / "a.png")
    picture(tmp_path / "labels" / "a.png")
    labelme(tmp_path / "labels" / "a.json", [shape("ice/old")], str(tmp_path / "labels" / "a.png"))
    labelme(tmp_path / "labels" / "b.json", [shape("rock")], "b.png")
    data = CloudsDataModule(tmp_path / "sky", ["ice/old"], size=(8, 10), annotations=tmp_path / "labels", num_workers=0)
    source = data.source()
    assert source.names == ["a.png"]
    assert source.path("a.png").resolve() == tmp_path / "sky" / "images" / "a.png"
    assert (source.masks("a.png", (8, 10))[0] == square()).all()


def test_names_of_classes_stay_within_their_folder() -> None:
    assert [class_name(label) for label in (" ice ", "a/b", "a\\b", "..", ".", "a.b")] == \
        ["ice", "a-b", "a-b", "--", "-", "a.b"]  # fmt: skip


def test_classes_that_share_a_folder_are_merged_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture(tmp_path / "a.png")
    labelme(tmp_path / "a.json", [shape("old/ice"), shape("old-ice", [[0, 0], [2, 0], [2, 1], [0, 1]])])
    assert main(["import", "--from", "labelme", str(tmp_path), "--output", str(tmp_path / "out")]) == 0
    assert "'old/ice'" in capsys.readouterr().out
    expected = square()
    expected[0, :2] = True
    assert ((values(tmp_path / "out/masks/old-ice/a.png") > 0) == expected).all()


def test_a_class_that_annotations_lack_is_rejected(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.png")
    labelme(tmp_path / "labels" / "a.json", [shape("ice"), shape("rock")])
    with pytest.raises(ArgumentError, match=r"classes ice, rock, not 'snow'"):
        CloudsDataModule(tmp_path, ["snow"], annotations=tmp_path / "labels").source()
    with pytest.raises(DataError, match=r"no annotation file"):
        CloudsDataModule(tmp_path, ["snow"], annotations=tmp_path / "images" / "a.png").source()


@pytest.mark.parametrize("form", ["labelme", "coco"])
def test_predicted_labels_find_their_images_and_not_the_results_beside_them(form: str, tmp_path: Path) -> None:
    photo, results = picture(tmp_path / "photos" / "a.png"), tmp_path / "results"
    picture(results / "masks" / "a.png")
    (results / "source.txt").write_text(f"{tmp_path / 'photos'}\n")
    if form == "labelme":
        labelme(results / "labelme" / "a.json", [shape()], "../../photos/a.png")
        source = results / "labelme"
    else:
        polygon = {"id": 1, "image_id": 7, "category_id": 90, "segmentation": [[2, 1, 6, 1, 6, 5, 2, 5]]}
        source = coco(results / "coco.json", [polygon])
    assert main(["import", "--from", form, str(source), "--output", str(tmp_path / "out"), "--link"]) == 0
    assert (tmp_path / "out/images/a.png").resolve() == photo.resolve()


def test_labels_that_say_where_their_images_are_need_none_beside_them(tmp_path: Path) -> None:
    photo = picture(tmp_path / "photos" / "a.png")
    labelme(tmp_path / "labels" / "a.json", [shape()], "../photos/a.png")
    command = ["import", "--from", "labelme", str(tmp_path / "labels"), "--output", str(tmp_path / "out"), "--link"]
    assert main(command) == 0
    assert (tmp_path / "out/images/a.png").resolve() == photo.resolve()


def test_one_mask_per_image_of_negatives_or_of_nothing_usable(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture(tmp_path / "source" / "a.png")
    command = ["import", str(tmp_path / "source"), "--task", "roads", "--output", str(tmp_path / "out"), "--from"]
    labelme(tmp_path / "source" / "a.json", [shape(kind="line", points=[[0, 0], [3, 3]])], "a.png")
    assert main([*command, "labelme"]) == 2
    printed = capsys.readouterr().err
    assert "No shape can be used" in printed
    assert "line" in printed
    labelme(tmp_path / "source" / "a.json", [shape(label) for label in ("ice", "rock", "snow", "sea")], "a.png")
    assert main([*command, "labelme"]) == 2
    assert "ice=object,rock=object,sea=object,snow=object" in capsys.readouterr().err
    labelme(tmp_path / "source" / "a.json", [], "a.png")
    assert main([*command, "labelme"]) == 0
    assert not values(tmp_path / "out/masks/a.png").any()


def test_a_folder_of_labels_with_two_spellings_of_a_name_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("caf\u00e9.png", "cafe\u0301.png"):
        picture(tmp_path / "source" / name)
    labelme(tmp_path / "source" / "a.json", [shape()], "elsewhere.png")
    assert main(["import", "--from", "labelme", str(tmp_path / "source"), "--output", str(tmp_path / "out")]) == 2
    assert "accents" in capsys.readouterr().err
