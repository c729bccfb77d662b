from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.colorization import ColorizationDataModule
from ops.errors import DataError
from ops.pictures import letterboxed, valid_pixels

NAMES = ["1901/1.png", "1901/2.png", "1902/1.png", "3.png"]
BOXES = [[0, 8, 48, 32], [8, 0, 32, 48], [0, 8, 48, 32], [8, 0, 32, 48]]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Four pictures of 96 x 64 and 64 x 96, two of one name; one cannot be read."""
    rng = np.random.default_rng(0)
    for index, name in enumerate(NAMES):
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        size = (64, 96) if index % 2 else (96, 64)
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:-1000])
    return tmp_path / "pictures"


def test_pictures_come_one_by_one_and_whole(pictures: Path) -> None:
    data = ColorizationDataModule("nowhere", size=48, pictures=pictures)
    data.setup("predict")
    loaded = list(data.predict_dataloader())
    assert [batch["name"] for batch in loaded] == [[name] for name in NAMES]
    assert [batch["index"].tolist() for batch in loaded] == [[0], [1], [2], [3]]
    for batch, place in zip([data.on_after_batch_transfer(batch, 0) for batch in loaded[:3]], BOXES, strict=False):
        assert batch["problem"] == [""]
        source = np.asarray(Image.open(pictures / batch["name"][0]))
        np.testing.assert_array_equal(batch["source"][0], source)
        image = torch.from_numpy(letterboxed(source, 48).transpose(2, 0, 1)) / 255
        torch.testing.assert_close(batch["image"][0], image)
        assert batch["box"].tolist() == [place]
        assert torch.equal(batch["valid"], valid_pixels(torch.tensor([place]), 48))
        assert batch["valid"].sum() == 48 * 32


def test_one_that_cannot_be_read_says_so_and_counts_nowhere(pictures: Path) -> None:
    data = ColorizationDataModule(size=48, pictures=pictures)
    data.setup("predict")
    batch = data.on_after_batch_transfer(list(data.predict_dataloader())[3], 0)
    assert len(batch["problem"]) == 1
    assert batch["problem"][0].startswith(f"{pictures / '3.png'} is truncated or not a picture")
    assert batch["image"].shape == (1, 3, 48, 48)
    assert not batch["valid"].any()
    assert batch["source"][0].size == 0


def test_it_is_refused_where_that_is_wanted(pictures: Path) -> None:
    data = ColorizationDataModule(pictures=pictures, unreadable="refuse")
    with pytest.raises(DataError, match=r"1 problem in .*\n  - .*3\.png is truncated"):
        data.setup("predict")


def test_one_file_is_named_by_its_name(pictures: Path) -> None:
    data = ColorizationDataModule(pictures=pictures / "1901" / "2.png")
    data.setup("predict")
    assert data.datasets["predict"].names == ["2.png"]


def test_workers_bring_the_same(pictures: Path) -> None:
    data = ColorizationDataModule(size=48, pictures=pictures, num_workers=1)
    data.setup("predict")
    for batch, name in zip(data.predict_dataloader(), NAMES, strict=True):
        assert batch["name"] == [name]
        assert batch["source"][0].shape == (
            (0, 0, 3) if name == "3.png" else (*Image.open(pictures / name).size[::-1], 3)
        )


def test_pictures_are_asked_for() -> None:
    with pytest.raises(DataError, match=r"Pictures of your own are coloured: --data\.pictures"):
        ColorizationDataModule().setup("predict")
