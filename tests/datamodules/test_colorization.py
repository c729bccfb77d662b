from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from PIL import Image

from datamodules.colorization import ColorizationDataModule
from datamodules.describe.colorization import problems
from ops.errors import DataError
from ops.pictures import valid_pixels

NAMES = [f"{artist}/{index}.png" for artist in "abcdef" for index in range(2)]


def write(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


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


class Keeping(LightningModule):
    """Keeps the batches that reach a task, by stage."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: dict[str, list[dict[str, Any]]] = {"train": [], "val": []}

    def training_step(self, batch: dict[str, Any]) -> torch.Tensor:
        self.seen["train"].append(batch)
        return self.weight.sum()

    def validation_step(self, batch: dict[str, Any]) -> None:
        self.seen["val"].append(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


@pytest.fixture
def trainer(tmp_path: Path) -> Trainer:
    return Trainer(max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, num_sanity_val_steps=0,
                  enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
                  use_distributed_sampler=False)  # fmt: skip


def letterboxed(root: Path, name: str) -> torch.Tensor:
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
            torch.testing.assert_close(batch["image"][row], letterboxed(root, name))
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
        original = letterboxed(root, name)
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
            torch.testing.assert_close(batch["image"][row], letterboxed(root, name))


def test_flips_are_left_to_right_only(root: Path, trainer: Trainer) -> None:
    task = Keeping()
    trainer.fit(task, datamodule=ColorizationDataModule(root, size=48, batch_size=4, shear=0, zoom=0, rotation=0))
    flipped = []
    for batch in task.seen["train"]:
        for row, name in enumerate(batch["name"]):
            distances = [(batch["image"][row] - each).abs().max()
                         for each in (letterboxed(root, name), letterboxed(root, name).flip(2))]  # fmt: skip
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
    with pytest.warns(
        UserWarning, match=r"metadata\.csv names no artist of 3 of the 12 pictures; they are split as if"
    ):
        names = splits(ColorizationDataModule(root, size=32))
    assert sorted(name for part in names.values() for name in part) == NAMES


def test_unusable_pictures_are_refused_by_name_or_skipped(root: Path) -> None:
    for name in ("a/0.png", "c/1.png"):
        truncated(root / "images" / name)
    before = splits(ColorizationDataModule(root, size=32, unreadable="skip"))
    with pytest.raises(DataError, match="2 problems in") as caught:
        splits(ColorizationDataModule(root, size=32))
    assert [problem.split(" is truncated")[0] for problem in caught.value.problems] == [
        str(root / "images" / name) for name in ("a/0.png", "c/1.png")
    ]
    assert problems(ColorizationDataModule(root, size=32)) == caught.value.problems
    assert problems(ColorizationDataModule(root, size=32, unreadable="skip")) == []
    with pytest.warns(UserWarning, match=r"2 pictures of .* are left out:\n  - .*a/0\.png is truncated"):
        names = splits(ColorizationDataModule(root, size=32, unreadable="skip"))
    assert names == before
    assert sorted(name for part in names.values() for name in part) == [
        name for name in NAMES if name not in ("a/0.png", "c/1.png")
    ]


def test_a_split_without_a_usable_picture_is_told(root: Path) -> None:
    (root / "splits.csv").write_text("name,split\na/0.png,train\nb/0.png,val\n")
    truncated(root / "images" / "b/0.png")
    data = ColorizationDataModule(root, size=32, unreadable="skip")
    assert len(problems(data)) == 1
    assert problems(data)[0].startswith("None of the 1 pictures of the split 'val' can be used: ")


def test_a_missing_data_set_is_shown_how_it_should_be(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        ColorizationDataModule(tmp_path).setup("fit")
    for part in (f"{tmp_path}/images/**/<stem>.jpg", "metadata.csv", f"There is no folder {tmp_path}/images"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 31}, "size is 31; 32 pixels or more were wanted"),
        ({"shear": 1.0}, r"shear is 1\.0; a share in \[0, 1\) was wanted"),
        ({"zoom": -0.1}, r"zoom is -0\.1; a share in"),
        ({"rotation": 181}, r"rotation is 181; degrees in \[0, 180\] were wanted"),
        ({"unreadable": "ignore"}, "unreadable is 'ignore'; refuse, skip or null was wanted"),
        ({"batch_size": 0}, "batch_size is 0"),
    ],
)
def test_arguments_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ColorizationDataModule(**options)


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
