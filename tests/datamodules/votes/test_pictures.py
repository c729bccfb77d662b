import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, JpegImagePlugin

from datamodules.read.pictures import read_picture, resized
from datamodules.votes.pictures import (
    JudgedPicture,
    ScoredPicture,
    absent,
    read_square,
    readable,
    squared,
    unreadable,
    write_unusable,
)
from datamodules.votes.tags import packed
from datamodules.votes.votes import Names, Votes
from ops.errors import DataError
from tests.datamodules.helpers import assert_problems, exif, table, truncate, write

RNG = np.random.default_rng(0)


def smooth(height: int, width: int) -> np.ndarray:
    """An image without detail, which looks the same at any size."""
    small = RNG.integers(40, 215, (5, 5, 3), np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def test_the_center_square_is_taken() -> None:
    picture = RNG.integers(0, 256, (90, 61, 3), np.uint8)
    np.testing.assert_array_equal(squared(picture, 61), picture[14:75])
    np.testing.assert_array_equal(squared(picture.transpose(1, 0, 2), 61), picture.transpose(1, 0, 2)[:, 14:75])
    np.testing.assert_array_equal(squared(picture, 24), resized(picture[14:75], (24, 24)))
    np.testing.assert_array_equal(squared(picture, 80), resized(picture[14:75], (80, 80)))


def test_a_whole_image_can_be_squeezed() -> None:
    picture = RNG.integers(0, 256, (90, 61, 3), np.uint8)
    np.testing.assert_array_equal(squared(picture, 40, squeeze=True), resized(picture, (40, 40)))
    assert squared(np.zeros((1, 9, 3), np.uint8), 4).shape == (4, 4, 3)


def test_a_jpeg_is_decoded_no_larger_than_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, sizes = write(tmp_path / "a.jpg", smooth(400, 640), quality=95), []
    load = JpegImagePlugin.JpegImageFile.load

    def noting(picture: JpegImagePlugin.JpegImageFile) -> object:
        sizes.append(picture.size)
        return load(picture)

    monkeypatch.setattr(JpegImagePlugin.JpegImageFile, "load", noting)
    squares = [read_square(path, side) for side in (40, 90, 150, 300)]
    assert sorted(set(sizes)) == [(80, 50), (160, 100), (320, 200), (640, 400)]
    whole = read_picture(path)
    for square in squares:
        wanted = resized(whole[:, 120:520], square.shape[:2])
        assert np.abs(square.astype(int) - wanted).mean() < 2


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "CMYK"])
def test_a_square_is_that_of_the_whole_image(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    for height, width in ((50, 81), (81, 50), (60, 60)):
        Image.fromarray(RNG.integers(0, 256, (height, width, 3), np.uint8)).convert(mode).save(path)
        for squeeze in (False, True):
            wanted = squared(read_picture(path), 40, squeeze)
            np.testing.assert_array_equal(read_square(path, 40, squeeze), wanted)


@pytest.mark.parametrize("turn", range(1, 9))
def test_a_square_is_turned_as_exif_says(tmp_path: Path, turn: int) -> None:
    path = write(tmp_path / "a.jpg", smooth(40, 81), exif=exif(turn), quality=95)
    np.testing.assert_array_equal(read_square(path, 40), squared(read_picture(path), 40))


def test_missing_files_are_found_in_any_folder(tmp_path: Path) -> None:
    for name in ("a.jpg", "x/b.jpg", "x/y/c.jpg"):
        table(tmp_path / name, "")
    assert absent(tmp_path, ["a.jpg", "x/b.jpg", "x/y/c.jpg"]) == {}
    found = absent(tmp_path, ["b.jpg", "x/a.jpg", "z/a.jpg", "x/y/c.jpg"])
    assert list(found) == ["b.jpg", "x/a.jpg", "z/a.jpg"]
    assert found["z/a.jpg"] == f"There is no file {tmp_path / 'z/a.jpg'}."


def test_unreadable_images_are_found_and_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{place}.jpg" for place in range(4)]
    for name in names[:3]:
        write(tmp_path / name, smooth(30, 30))
    truncate(tmp_path / "1.jpg")
    (tmp_path / "2.jpg").write_bytes(b"")
    (tmp_path / "3.jpg").symlink_to(tmp_path / "nowhere")
    found = unreadable(tmp_path, names, 32)
    assert list(found) == ["1.jpg", "2.jpg", "3.jpg"]
    assert_problems(found.values(), ("is truncated",), ("is empty",), ("is no file",))
    opened = []
    monkeypatch.setattr("datamodules.votes.pictures.read_square", lambda path, side: opened.append(path.name))
    again = unreadable(tmp_path, names, 32)
    assert sorted(opened) == ["1.jpg", "2.jpg", "3.jpg"]
    assert "could not be read before. Remove " in again["1.jpg"]
    assert unreadable(tmp_path, [], 32) == {}


def test_the_list_of_unusable_images_is_a_table(tmp_path: Path) -> None:
    path = tmp_path / "run" / "unusable.csv"
    write_unusable(path, {"a.jpg": "is gone"})
    write_unusable(path, {"a.jpg": "is gone", "b, c.jpg": 'is "broken"'})
    with path.open(newline="") as file:
        assert list(csv.reader(file)) == [["name", "problem"], ["a.jpg", "is gone"], ["b, c.jpg", 'is "broken"']]
    assert [each.name for each in path.parent.iterdir()] == ["unusable.csv"]


def test_unreadable_images_leave_the_batch() -> None:
    batch = {"image": torch.arange(8).reshape(4, 2), "tags": [["a"], [], ["b"], []], "name": list("wxyz")}
    kept = readable(batch, ["", "broken", "", "gone"])
    assert kept["image"].tolist() == [[0, 1], [4, 5]]
    assert kept["tags"] == [["a"], ["b"]]
    assert kept["name"] == ["w", "y"]
    assert readable(batch, [""] * 4) is batch
    with pytest.raises(DataError, match="None of the 4 images of a batch can be read:\n  - one\n  - two"):
        readable(batch, ["one", "two", "three", "four"])


def test_a_sample_has_what_belongs_to_its_image(tmp_path: Path) -> None:
    pictures = [smooth(30, 40) for _ in range(3)]
    for name, picture in zip("abc", pictures, strict=True):
        write(tmp_path / f"{name}.png", picture)
    votes = Votes(tmp_path, Names(["a.png", "b.png", "c.png", "d.png"]), np.arange(8, dtype=np.uint8).reshape(4, 2),
                  np.zeros((4, 0), np.uint8))  # fmt: skip
    tags = packed({(2, "x"), (2, "a")}, 4)
    make = ScoredPicture(tmp_path, votes, tags, np.array([True, False, False, True]), np.array([2, 3]), 20, False)
    sample, missing = make(0), make(1)
    np.testing.assert_array_equal(sample["image"].permute(1, 2, 0), squared(pictures[2], 20))
    assert sample["votes"].tolist() == [4.0, 5.0]
    assert sample["votes"].dtype == torch.float32
    assert sample["professional"].item() == 0.0
    assert sample["tags"] == ["a", "x"]
    assert sample["problem"] == ""
    assert missing["problem"] == f"There is no file {tmp_path / 'd.png'}."
    assert missing["professional"].item() == 1.0
    assert missing["image"].shape == sample["image"].shape
    assert not missing["image"].any()


def test_an_image_to_predict_comes_small_and_whole(tmp_path: Path) -> None:
    picture = smooth(200, 800)
    paths = [write(tmp_path / name, picture, quality=95) for name in ("a.jpg", "b.jpg")]
    truncate(paths[1])
    paths.append(write(tmp_path / "c.png", picture[:30, :20]))
    make = JudgedPicture(paths, 64, False)
    large, broken, small = make(0), make(1), make(2)
    assert large["image"].shape == broken["image"].shape == small["image"].shape == (3, 64, 64)
    assert large["source"].shape == (80, 320, 3)
    assert np.abs(large["source"].astype(int) - resized(picture, (80, 320))).mean() < 2
    np.testing.assert_array_equal(small["source"], picture[:30, :20])
    assert large["problem"] == small["problem"] == ""
    assert broken["source"].shape == (0, 0, 3)
    assert not broken["image"].any()
    assert "b.jpg is truncated" in broken["problem"]
