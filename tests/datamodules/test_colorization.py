from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from PIL import Image

from datamodules.colorization import ColorizationDataModule
from datamodules.describe.colorization import problems
from ops.errors import DataError
from ops.pictures import letterboxed, valid_pixels
from tests.datamodules.helpers import Keeping, assert_problems, noise, problems_of, truncate, write

NAMES = [f"{artist}/{index}.png" for artist in "abcdef" for index in range(2)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two pictures of each of six artists, 48 x 32 or 32 x 48."""
    rng = np.random.default_rng(0)
    for name in NAMES:
        size = (48, 32) if name.endswith("0.png") else (32, 48)
        write(tmp_path / "images" / name, rng.integers(0, 256, (*size, 3), np.uint8))
    rows = [f"{name},{name[0].upper()},Study,1900" for name in NAMES]
    (tmp_path / "metadata.csv").write_text("\n".join(["image,artist,title,year", *rows]))
    return tmp_path


@pytest.fixture
def trainer(make_trainer: Callable[..., Trainer]) -> Trainer:
    return make_trainer(max_epochs=2, use_distributed_sampler=False)


def in_square(root: Path, name: str) -> torch.Tensor:
    """A picture of the fixture in a square of 48, in [0, 1]: it is large enough already."""
    values = np.asarray(Image.open(root / "images" / name)).transpose(2, 0, 1)
    square = torch.ones(3, 48, 48)
    rows, columns = (slice((48 - side) // 2, (48 + side) // 2) for side in values.shape[1:])
    square[:, rows, columns] = torch.from_numpy(values / 255).float()
    return square


def splits(data: ColorizationDataModule) -> dict[str, list[str]]:
    data.setup("fit")
    return {split: data.datasets[split].names for split in ("train", "val", "test")}


def test_what_is_measured_on_is_as_it_is(root: Path, trainer: Trainer) -> None:
    task = Keeping()
    trainer.fit(task, datamodule=ColorizationDataModule(root, size=48, batch_size=3, val_fraction=0.5))
    batches = task.seen["val"]
    assert len(batches) == 4  # six pictures in two epochs
    for batch in batches:
        assert batch.keys() == {"name", "index", "seed", "image", "valid"}
        assert batch["valid"].shape == (3, 1, 48, 48)
        for row, name in enumerate(batch["name"]):
            torch.testing.assert_close(batch["image"][row], in_square(root, name))
            place = [0, 8, 48, 32] if name.endswith("0.png") else [8, 0, 32, 48]
            assert torch.equal(batch["valid"][row : row + 1], valid_pixels(torch.tensor([place]), 48))


def test_training_pictures_are_altered_anew_in_each_epoch(root: Path, trainer: Trainer) -> None:
    task = Keeping()
    trainer.fit(task, datamodule=ColorizationDataModule(root, size=48, batch_size=4))
    seen: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {}
    for batch in task.seen["train"]:
        assert "box" not in batch
        for row, name in enumerate(batch["name"]):
            seen.setdefault(name, []).append((batch["image"][row], batch["valid"][row]))
    assert len(seen) == 8
    for name, (first, second) in seen.items():
        assert not torch.equal(first[0], second[0])
        original = in_square(root, name)
        for image, valid in (first, second):
            assert (image - original).abs().mean() > 0.01
            assert 0.2 < valid.float().mean() < 1
            # white stays out: what is valid is as dark as noise is
            assert image[valid.expand(3, -1, -1)].mean() < 0.56


def test_nothing_is_altered_where_that_is_wanted(root: Path, trainer: Trainer) -> None:
    task = Keeping()
    data = ColorizationDataModule(root, size=48, batch_size=4, flips=False, shear=0, zoom=0, rotation=0)
    trainer.fit(task, datamodule=data)
    for batch in task.seen["train"]:
        for row, name in enumerate(batch["name"]):
            torch.testing.assert_close(batch["image"][row], in_square(root, name))


def test_flips_are_left_to_right_only(root: Path, trainer: Trainer) -> None:
    task = Keeping()
    trainer.fit(task, datamodule=ColorizationDataModule(root, size=48, batch_size=4, shear=0, zoom=0, rotation=0))
    flipped = []
    for batch in task.seen["train"]:
        for row, name in enumerate(batch["name"]):
            distances = [(batch["image"][row] - each).abs().max()
                         for each in (in_square(root, name), in_square(root, name).flip(2))]  # fmt: skip
            assert min(distances) < 1e-3
            flipped.append(distances[1] < distances[0])
    assert 0 < sum(flipped) < len(flipped)


def test_splits_keep_artists_together(root: Path) -> None:
    for seed in range(5):
        names = splits(ColorizationDataModule(root, size=32, split_seed=seed))
        artists = {split: {name[0] for name in part} for split, part in names.items()}
        assert {split: len(part) for split, part in artists.items()} == {"train": 4, "val": 1, "test": 1}
        assert len(set.union(*artists.values())) == 6
        assert sorted(name for part in names.values() for name in part) == NAMES


def test_without_a_table_splits_are_by_picture(root: Path) -> None:
    (root / "metadata.csv").unlink()
    names = splits(ColorizationDataModule(root, size=32))
    assert {split: len(part) for split, part in names.items()} == {"train": 10, "val": 1, "test": 1}


def test_splits_of_the_users_win(root: Path) -> None:
    rows = ["a/0.png,train", "a/1.png,val", "b/0.png,test"]
    (root / "splits.csv").write_text("\n".join(["name,split", *rows]))
    with pytest.warns(UserWarning, match=r"the same artists in train and in val or test \(1, such as 'a'\)"):
        names = splits(ColorizationDataModule(root, size=32))
    assert names == {"train": ["a/0.png"], "val": ["a/1.png"], "test": ["b/0.png"]}


def test_pictures_of_unknown_artists_are_told(root: Path) -> None:
    rows = (root / "metadata.csv").read_text().splitlines()
    (root / "metadata.csv").write_text("\n".join(rows[:-3]))
    with pytest.warns(UserWarning, match=r"metadata\.csv has no artist for 3 of the 12 images"):
        names = splits(ColorizationDataModule(root, size=32))
    assert sorted(name for part in names.values() for name in part) == NAMES


def test_unusable_pictures_are_refused_by_name_or_skipped(root: Path) -> None:
    for name in ("a/0.png", "c/1.png"):
        truncate(root / "images" / name)
    before = splits(ColorizationDataModule(root, size=32, unreadable="skip"))
    found = problems_of(lambda: splits(ColorizationDataModule(root, size=32)))
    assert_problems(found, *((f"{root}/images/{name} is truncated",) for name in ("a/0.png", "c/1.png")))
    assert problems(ColorizationDataModule(root, size=32)) == found
    assert problems(ColorizationDataModule(root, size=32, unreadable="skip")) == []
    with pytest.warns(UserWarning, match=r"2 images of .* are skipped:\n  - .*a/0\.png is truncated"):
        names = splits(ColorizationDataModule(root, size=32, unreadable="skip"))
    assert names == before
    assert sorted(name for part in names.values() for name in part) == [
        name for name in NAMES if name not in ("a/0.png", "c/1.png")
    ]


def test_a_split_without_a_usable_picture_is_told(root: Path) -> None:
    (root / "splits.csv").write_text("name,split\na/0.png,train\nb/0.png,val\n")
    truncate(root / "images" / "b/0.png")
    data = ColorizationDataModule(root, size=32, unreadable="skip")
    assert_problems(problems(data), ("None of the 1 images of the split 'val' can be used",))


def test_a_missing_data_set_is_shown_how_it_should_be(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        ColorizationDataModule(tmp_path).setup("fit")
    for part in (f"{tmp_path}/images/**/<stem>.jpg", "metadata.csv", f"There is no folder {tmp_path}/images"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 31}, "size is 31; expected 32"),
        ({"shear": 1.0}, r"shear is 1\.0; expected a share"),
        ({"zoom": -0.1}, r"zoom is -0\.1; expected a share"),
        ({"rotation": 181}, r"rotation is 181; expected degrees"),
        ({"unreadable": "ignore"}, "unreadable is 'ignore'; expected refuse, skip or null"),
        ({"batch_size": 0}, "batch_size is 0"),
    ],
)
def test_arguments_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ColorizationDataModule(**options)


FILES = ["1901/1.png", "1901/2.png", "1902/1.png", "3.png"]
BOXES = [[0, 8, 48, 32], [8, 0, 32, 48], [0, 8, 48, 32], [8, 0, 32, 48]]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Four pictures of 96 x 64 and 64 x 96, two of one name; one cannot be read."""
    for index, name in enumerate(FILES):
        path = write(tmp_path / "pictures" / name, noise(*((64, 96) if index % 2 else (96, 64)), seed=index))
    truncate(path)
    return tmp_path / "pictures"


def test_pictures_come_one_by_one_and_whole(pictures: Path) -> None:
    data = ColorizationDataModule("nowhere", size=48, pictures=pictures)
    data.setup("predict")
    loaded = list(data.predict_dataloader())
    assert [batch["name"] for batch in loaded] == [[name] for name in FILES]
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
    assert_problems(batch["problem"], (f"{pictures / '3.png'} is truncated",))
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
    for batch, name in zip(data.predict_dataloader(), FILES, strict=True):
        assert batch["name"] == [name]
        assert batch["source"][0].shape == (
            (0, 0, 3) if name == "3.png" else (*Image.open(pictures / name).size[::-1], 3)
        )


def test_pictures_are_asked_for() -> None:
    with pytest.raises(DataError, match=r"--data\.pictures"):
        ColorizationDataModule().setup("predict")


@pytest.mark.real
def test_real_paintings_are_split_by_artist(real_data: Path, tmp_path: Path) -> None:
    (tmp_path / "images").symlink_to(real_data / "colorization" / "images")
    (tmp_path / "metadata.csv").symlink_to(real_data / "colorization" / "list.csv")
    data = ColorizationDataModule(tmp_path, size=64)
    names = splits(data)
    assert {split: len(part) for split, part in names.items()} == {"train": 78, "val": 8, "test": 8}
    works = data.checked().works
    artists = {split: {works[name].artist for name in part} for split, part in names.items()}
    assert {split: len(part) for split, part in artists.items()} == {"train": 39, "val": 4, "test": 4}
    assert len(set.union(*artists.values())) == 47
