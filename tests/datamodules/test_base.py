import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer

from datamodules.base import ImageDataModule
from datamodules.describe.study import Study
from datamodules.loaders import Samples, sample_seed
from ops.augment import flip_by_seed
from ops.errors import DataError
from tests.datamodules.helpers import Keeping, assert_problems, problems_of, table

NAMES = [f"{number:03}.jpg" for number in range(50)]
NOISE = torch.randint(0, 256, (50, 3, 6, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


class NoiseDataModule(ImageDataModule):
    """Fifty images of noise, each with its red channel's bright pixels as mask."""

    def __init__(self, root: Path, **options: Any) -> None:
        defaults = {"pictures": None, "batch_size": 4, "num_workers": 0, "val_fraction": 0.2, "test_fraction": 0.1,
                    "split_seed": 0, "flips": True, "steps_per_epoch": None}  # fmt: skip
        super().__init__(root, **(defaults | options))

    def setup(self, stage: str) -> None:
        for split, names in self.split(NAMES).items():
            rows = [NAMES.index(name) for name in names]
            self.datasets[split] = Samples(names, lambda i, rows=rows: self.sample(rows[i]), self.seed)

    def sample(self, row: int) -> dict[str, torch.Tensor]:
        return {"image": NOISE[row], "mask": (NOISE[row, :1] > 127).to(torch.uint8)}

    def problems(self) -> list[str]:
        return []

    def describe(self) -> Study:
        return Study()


def module(root: Path, training: bool = True, world: int = 1, rank: int = 0, **options: Any) -> NoiseDataModule:
    data = NoiseDataModule(root, **options)
    data.trainer = SimpleNamespace(training=training, world_size=world, global_rank=rank)
    data.setup("fit")
    return data


def epoch_of(data: NoiseDataModule, epoch: int) -> list[dict[str, Any]]:
    """Training batches of an epoch, as the device gets them."""
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)
    return [data.on_after_batch_transfer(batch, 0) for batch in loader]


def by_name(batches: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    return {name: image for batch in batches for name, image in zip(batch["name"], batch["image"], strict=True)}


@pytest.fixture(autouse=True)
def seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "11")


def test_splits_are_disjoint_seeded_and_repeatable(tmp_path: Path) -> None:
    splits = NoiseDataModule(tmp_path).split(NAMES)
    assert {split: len(names) for split, names in splits.items()} == {"train": 35, "val": 10, "test": 5}
    assert sorted(splits["train"] + splits["val"] + splits["test"]) == NAMES
    assert NoiseDataModule(tmp_path).split(NAMES[::-1]) == splits, "the order of the folder decides"
    assert NoiseDataModule(tmp_path, split_seed=1).split(NAMES) != splits
    assert splits["val"] != NAMES[:10]


@pytest.mark.parametrize(
    ("count", "val", "test", "sizes"),
    [(50, 0.5, 0.0, (25, 25, 0)), (3, 0.01, 0.01, (1, 1, 1)), (2, 0.2, 0, (1, 1, 0)), (10, 0.25, 0.25, (6, 2, 2))],
)
def test_a_share_above_0_gives_at_least_one_image(
    count: int, val: float, test: float, sizes: tuple[int, ...], tmp_path: Path
) -> None:
    splits = NoiseDataModule(tmp_path, val_fraction=val, test_fraction=test).split(NAMES[:count])
    assert tuple(len(splits[split]) for split in ("train", "val", "test")) == sizes


@pytest.mark.parametrize(("count", "val", "empty"), [(2, 0.2, "train"), (1, 0.2, "train"), (0, 0.0, "train")])
def test_a_required_split_must_not_be_empty(count: int, val: float, empty: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"split '{empty}' of .* is empty \({count} images"):
        NoiseDataModule(tmp_path, val_fraction=val).split(NAMES[:count])


def test_without_validation_images_the_training_images_validate(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="20 training images.*memorization"):
        splits = NoiseDataModule(tmp_path, val_fraction=0, test_fraction=0).split(NAMES[:20])
    assert splits["val"] == splits["train"] == NAMES[:20]
    table(tmp_path / "splits.csv", "name,split", "000.jpg,train", "001.jpg,train")
    with pytest.raises(DataError, match="'val'"):
        NoiseDataModule(tmp_path).split(NAMES[:2])
    with pytest.warns(UserWarning, match="2 training images"):
        assert NoiseDataModule(tmp_path, val_fraction=0).split(NAMES[:2])["val"] == NAMES[:2]


def test_a_table_of_splits_takes_precedence(tmp_path: Path) -> None:
    rows = ["000.jpg,val", "001.jpg,train", "002.jpg,train", "003.jpg,test", "004.jpg,val", "005.jpg,train"]
    table(tmp_path / "splits.csv", "name,split", *rows, rows[1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        splits = NoiseDataModule(tmp_path, val_fraction=0.5, split_seed=9).split(NAMES[:6])
    assert splits == {"train": [NAMES[1], NAMES[2], NAMES[5]], "val": [NAMES[0], NAMES[4]], "test": [NAMES[3]]}


def test_all_wrong_rows_of_a_table_of_splits_are_reported(tmp_path: Path) -> None:
    path = table(tmp_path / "splits.csv", "name,split", "000.jpg,train", "000,train", "001.jpg,valid", "", "002.jpg,")
    assert_problems(
        problems_of(lambda: NoiseDataModule(tmp_path).split(NAMES)),
        (f"{path}, row 3: ", f"no image '000' in {tmp_path}"),
        (f"{path}, row 4: ", "'valid'", "train, val, test"),
        (f"{path}, row 6: ", "''", "train, val, test"),
    )


def test_splits_that_overlap_or_leave_images_out_warn(tmp_path: Path) -> None:
    path = table(tmp_path / "splits.csv", "name,split", "000.jpg,train", "001.jpg,val", "000.jpg,val", "001.jpg,test")
    with pytest.warns(UserWarning, match="splits.csv") as caught:
        splits = NoiseDataModule(tmp_path).split(NAMES)
    assert splits == {"train": ["000.jpg"], "val": ["000.jpg", "001.jpg"], "test": ["001.jpg"]}
    assert_problems(
        [str(warning.message) for warning in caught],
        (f"{path} has images in both train and val (1, such as '000.jpg')",),
        (f"{path} has images in both val and test (1, such as '001.jpg')",),
        (f"{path} does not list 48 of the 50 images",),
    )


def test_flips_follow_from_seed_epoch_and_index_alone(tmp_path: Path) -> None:
    epochs = [by_name(epoch_of(module(tmp_path), epoch)) for epoch in (0, 1, 0)]
    other = by_name(epoch_of(module(tmp_path, batch_size=7), 0))
    shared = [by_name(epoch_of(module(tmp_path, world=2, rank=rank, batch_size=3), 0)) for rank in range(2)]
    assert epochs[0].keys() == other.keys() == (shared[0] | shared[1]).keys()
    for name, image in epochs[0].items():
        assert torch.equal(image, epochs[2][name])
        assert torch.equal(image, other[name])
        assert torch.equal(image, (shared[0] | shared[1])[name])
    assert any(not torch.equal(image, epochs[1][name]) for name, image in epochs[0].items())


def test_flips_follow_the_seed_in_image_and_mask(tmp_path: Path) -> None:
    data = module(tmp_path)
    (batch, *_) = epoch_of(data, 2)
    seeds = torch.tensor([sample_seed(11, 2, index) for index in batch["index"].tolist()])
    rows = [NAMES.index(name) for name in batch["name"]]
    (expected,) = flip_by_seed([NOISE[rows].float() / 255], seeds)
    assert torch.equal(batch["image"], expected)
    assert torch.equal(batch["mask"], (batch["image"][:, :1] > 127.5 / 255).float())
    assert {batch[key].dtype for key in ("image", "mask")} == {torch.float32}
    for name, image in by_name(epoch_of(module(tmp_path, flips=False), 0)).items():
        assert torch.equal(image, NOISE[NAMES.index(name)] / 255)


@pytest.mark.parametrize("split", ["val", "test"])
def test_evaluation_sees_the_same_images_every_time(split: str, tmp_path: Path) -> None:
    data = module(tmp_path, training=False)
    loader = getattr(data, f"{split}_dataloader")()
    first, second = ([data.on_after_batch_transfer(batch, 0) for batch in loader] for _ in range(2))
    assert [name for batch in first for name in batch["name"]] == data.datasets[split].names
    for left, right in zip(first, second, strict=True):
        assert torch.equal(left["image"], right["image"])
        assert torch.equal(left["image"], NOISE[[NAMES.index(name) for name in left["name"]]] / 255)


@pytest.mark.parametrize(("batch", "batches"), [(34, [34]), (17, [17, 17]), (33, [33, 2]), (35, [35]), (40, [35])])
def test_a_last_training_batch_of_one_is_dropped(batch: int, batches: list[int], tmp_path: Path) -> None:
    loader = module(tmp_path, batch_size=batch).train_dataloader()
    assert [len(each["name"]) for each in loader] == batches


@pytest.mark.filterwarnings("ignore:This DataLoader will create 8")
def test_workers_follow_the_number_of_images_unless_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datamodules.loaders.core_count", lambda: 32)
    data = module(tmp_path, num_workers=None)
    assert data.train_dataloader().num_workers == 0
    data.datasets["train"] = Samples([str(number) for number in range(64)], data.sample)
    assert data.train_dataloader().num_workers == 8
    data.num_workers = 1
    assert data.train_dataloader().num_workers == 1


@pytest.mark.parametrize(
    ("batch_size", "accumulated", "share", "steps"),
    [(4, 1, 1.0, 20), (64, 1, 1.0, 20), (1, 1, 1.0, 35), (1, 2, 1.0, 40), (1, 1, 0.7, 34), (4, 1, 0.7, 20)],
)
def test_by_itself_an_epoch_of_few_images_has_twenty_steps(
    batch_size: int, accumulated: int, share: float, steps: int, tmp_path: Path
) -> None:
    data = module(tmp_path, batch_size=batch_size, train_share=share, steps_per_epoch="auto")
    data.trainer.accumulate_grad_batches = accumulated
    loader = data.train_dataloader()
    assert len(loader) == steps
    names = [name for batch in loader for name in batch["name"]]
    assert {*names} == {*data.datasets["train"].names}
    counts = [names.count(name) for name in {*names}]
    assert max(counts) - min(counts) <= 1, "images are not shown equally often"
    assert len(data.loader("train")) == -(-len({*names}) // batch_size), "each once, if not for training"


@pytest.mark.parametrize(
    ("options", "limits", "steps"),
    [
        ({}, {}, "9 optimizer steps"),
        ({"batch_size": 64}, {}, "1 optimizer step,"),
        ({"batch_size": 1}, {"accumulate_grad_batches": 2}, "18 optimizer steps"),
        ({"batch_size": 1}, {}, ""),
        ({"steps_per_epoch": 3}, {}, ""),
        ({"steps_per_epoch": "auto"}, {}, ""),
        ({}, {"max_epochs": 1}, ""),
        ({}, {"limit_train_batches": 1}, ""),
        ({}, {"fast_dev_run": True}, ""),
    ],
)
def test_epochs_of_few_steps_are_reported_once(
    options: dict[str, Any],
    limits: dict[str, Any],
    steps: str,
    tmp_path: Path,
    make_trainer: Callable[..., Trainer],
    caplog: pytest.LogCaptureFixture,
) -> None:
    trainer = make_trainer(**{"max_epochs": 2, "use_distributed_sampler": False} | limits)
    trainer.fit(Keeping(), datamodule=NoiseDataModule(tmp_path, **options))
    found = [text for text in caplog.messages if "--data.steps_per_epoch auto" in text]
    assert len(found) == bool(steps)
    assert steps in "".join(found)
