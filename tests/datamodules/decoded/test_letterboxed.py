import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.decoded.letterboxed import (
    LetterboxedSample,
    PredictedPicture,
    letterboxed_tree,
    picture_problems,
)
from datamodules.read.pictures import checked_size
from ops.errors import DataError
from ops.files import images as image_files
from tests.datamodules.helpers import assert_problems, noise, problems_of, truncate, write


def test_too_small_and_too_large_images_are_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert checked_size(write(tmp_path / "1.png", noise(32, 40))) == (32, 40)
    with pytest.raises(DataError, match=r"2\.png is 31 x 40 pixels \(height x width\); expected sides of 32"):
        checked_size(write(tmp_path / "2.png", noise(31, 40)))
    monkeypatch.setattr(image_files, "_limit", [32 * 40 - 1])
    with pytest.raises(DataError, match=r"1\.png is 32 x 40 pixels .* at most 1,279"):
        checked_size(tmp_path / "1.png")


def test_a_decompression_bomb_is_rejected_before_it_is_unpacked(tmp_path: Path) -> None:
    header = b"IHDR" + struct.pack(">IIBBBBB", 20000, 20000, 8, 2, 0, 0, 0)
    chunks = [
        struct.pack(">I", len(each) - 4) + each + struct.pack(">I", zlib.crc32(each)) for each in (header, b"IDAT")
    ]
    (tmp_path / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    problem = PredictedPicture([tmp_path / "1.png"], 32)(0)["problem"]
    assert "1.png is 20000 x 20000 pixels" in problem
    assert "268,435,456" in problem


def test_images_are_letterboxed_with_white(tmp_path: Path) -> None:
    names = ["wide.png", "tall.png", "square.png"]
    pictures = [noise(64, 128, seed=1), noise(128, 32, seed=2), noise(64, 64, seed=3)]
    for name, picture in zip(names, pictures, strict=True):
        write(tmp_path / name, picture)
    data = letterboxed_tree("test", tmp_path, names, 64, skip=False)
    assert [data.size(row) for row in range(3)] == [(64, 128), (128, 32), (64, 64)]
    sample = LetterboxedSample(data, [2, 0, 1])
    halved = pictures[0].reshape(32, 2, 64, 2, 3).mean(axis=(1, 3))
    wide = sample(1)["image"].numpy().transpose(1, 2, 0)
    np.testing.assert_allclose(wide[16:48], halved, atol=0.51)
    assert (wide[:16] == 255).all()
    assert (wide[48:] == 255).all()
    np.testing.assert_array_equal(sample(0)["image"].permute(1, 2, 0), pictures[2])
    assert [sample(index)["box"].tolist() for index in range(3)] == [[0, 0, 64, 64], [16, 0, 32, 64], [0, 24, 64, 16]]
    again = letterboxed_tree("test", tmp_path, names, 64, skip=True)
    assert again.rows.path == data.rows.path
    assert again.problems == {}


def test_all_unusable_images_are_reported(tmp_path: Path) -> None:
    names = ["broken.jpg", "deep.png", "fine.png", "gone.png", "small.png"]
    truncate(write(tmp_path / "broken.jpg", noise(80, 60)), 0.8)
    write(tmp_path / "deep.png", np.zeros((40, 40), np.uint16))
    write(tmp_path / "fine.png", noise(40, 40))
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    write(tmp_path / "small.png", noise(8, 40))
    found = problems_of(lambda: letterboxed_tree("test", tmp_path, names, 32, skip=False))
    assert_problems(found, ("is truncated",), ("more than 8 bits",), ("There is no file",), ("8 x 40 pixels",))
    for _ in range(2):  # the second time from the cache
        data = letterboxed_tree("test", tmp_path, names, 32, skip=True)
        assert [problem for problems in data.problems.values() for problem in problems] == found
        assert list(data.problems) == [name for name in names if name != "fine.png"]
        assert data.size(2) == (40, 40)
    files = [tmp_path / name for name in names]
    assert sorted(picture_problems(files)) == sorted(found)
    sample = PredictedPicture(files, 32)(0)
    assert "broken.jpg is truncated" in sample["problem"]
    assert sample["image"].shape == (3, 32, 32)
    assert (sample["image"] == 255).all()
    assert sample["box"].tolist() == [0, 0, 0, 0]
    assert sample["source"].shape == (0, 0, 3)


def test_an_image_to_predict_is_as_in_training_and_whole(tmp_path: Path) -> None:
    picture = noise(90, 60)
    write(tmp_path / "1.png", picture)
    data = letterboxed_tree("test", tmp_path, ["1.png"], 48, skip=False)
    sample, trained = PredictedPicture([tmp_path / "1.png"], 48)(0), LetterboxedSample(data, [0])(0)
    assert torch.equal(sample["image"], trained["image"])
    assert torch.equal(sample["box"], trained["box"])
    np.testing.assert_array_equal(sample["source"], picture)
    assert sample["problem"] == ""
