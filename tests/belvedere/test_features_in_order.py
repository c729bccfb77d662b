from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer

from belvedere.features import InOrder
from datamodules.base import ImageDataModule
from datamodules.describe.study import Study
from datamodules.loaders import Samples

COUNTS = {"train": 9, "val": 3, "test": 0}  # nine in batches of four: the last would be left out of training


class Numbered(ImageDataModule):
    """Pictures that are brighter the further back they are, dark at the right."""

    def __init__(self, pictures: str | None = None) -> None:
        super().__init__("here", pictures, 4, 0, 0.1, 0.1, 0, flips=True)
        self.stages: list[str] = []

    def prepare_data(self) -> None:
        self.stages.append("prepare")

    def setup(self, stage: str) -> None:
        self.stages.append(stage)
        counts = {"predict": 5} if stage == "predict" else COUNTS
        for split, count in counts.items():
            self.datasets[split] = Samples([f"{split}{i}" for i in range(count)], self.make)

    def make(self, index: int) -> dict[str, Any]:
        image = torch.zeros(3, 2, 2, dtype=torch.uint8)
        image[..., 0] = index
        return {"image": image}

    def problems(self) -> list[str]:
        return []

    def describe(self) -> Study:
        return Study()


class Seen(LightningModule):
    """Remembers what it is given to predict."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[tuple[int, dict[str, Any]]] = []

    def predict_step(self, batch: dict[str, Any], batch_index: int, dataloader_idx: int = 0) -> None:
        self.batches.append((dataloader_idx, batch))


@pytest.fixture
def see(tmp_path: Path) -> Callable[[InOrder], Seen]:
    def run(data: InOrder) -> Seen:
        module = Seen()
        trainer = Trainer(default_root_dir=tmp_path, accelerator="cpu", logger=False, enable_progress_bar=False,
                          use_distributed_sampler=False)  # fmt: skip
        trainer.predict(module, data, return_predictions=False)
        return module

    return run


def test_every_picture_comes_once_in_order_and_as_it_is(see: Callable[[InOrder], Seen]) -> None:
    data = InOrder(Numbered())
    batches = see(data).batches
    assert data.splits == ["train", "val"]
    assert [len(batch["name"]) for _, batch in batches] == [4, 4, 1, 3]
    names = [(data.splits[loader], name) for loader, batch in batches for name in batch["name"]]
    assert names == [(split, f"{split}{i}") for split in data.splits for i in range(COUNTS[split])]
    for _, batch in batches:
        wanted = torch.zeros(len(batch["name"]), 3, 2, 2)
        wanted[..., 0] = batch["index"].view(-1, 1, 1) / 255  # flipped ones would be dark at the left
        assert torch.equal(batch["image"], wanted)


def test_of_given_pictures_only_these_come(see: Callable[[InOrder], Seen]) -> None:
    numbered = Numbered(pictures="album")
    data = InOrder(numbered)
    batches = see(data).batches
    assert data.splits == ["predict"]
    assert [name for _, batch in batches for name in batch["name"]] == [f"predict{i}" for i in range(5)]
    assert numbered.stages == ["predict"], "the data set itself is not looked at"


def test_processes_share_the_pictures() -> None:
    shares = []
    for rank in range(2):
        data = InOrder(Numbered())
        data.trainer = SimpleNamespace(world_size=2, global_rank=rank, training=False)  # type: ignore[assignment]
        data.setup("predict")
        shares.append([name for loader in data.predict_dataloader() for batch in loader for name in batch["name"]])
    assert shares[0] == ["train0", "train2", "train4", "train6", "train8", "val0", "val2"]
    assert shares[1] == ["train1", "train3", "train5", "train7", "val1"]
