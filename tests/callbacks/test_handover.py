from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer

from callbacks.handover import Handover, UsesData
from datamodules.avalanches import AvalanchesDataModule
from datamodules.base import ImageDataModule
from datamodules.batch import Batch, DataFacts
from datamodules.clouds import CloudsDataModule
from datamodules.colorization import ColorizationDataModule
from datamodules.roads import RoadsDataModule
from tasks.avalanches import AvalanchesTask
from tasks.roads import RoadsTask

Trainers = Callable[..., Trainer]


class Watching(RoadsTask):
    """Notes what it is given, and when."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Any] = []

    def receive(self, facts: DataFacts) -> None:
        super().receive(facts)
        self.calls.append("facts")

    def prepare(self, batches: Iterable[Batch]) -> None:
        self.calls.append("prepare")
        self.given = list(batches)

    def training_step(self, batch: Batch, batch_index: int) -> torch.Tensor:
        self.calls.append(batch["image"].clone())
        return super().training_step(batch, batch_index)


class Curious(UsesData):
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.images = torch.cat([batch["image"] for batch in self.source().unaugmented("train")])


def test_a_task_gets_facts_then_unaugmented_training_images(make_trainer: Trainers, roads_root: Path) -> None:
    data = RoadsDataModule(roads_root, size=(32, 32), window=(64, 64), strategy="rotations", flips=True, batch_size=4,
                           num_workers=0)  # fmt: skip
    task, curious = Watching(), Curious()
    trainer = make_trainer(max_epochs=1, limit_train_batches=1, callbacks=[Handover(data), curious])
    trainer.fit(task, data)
    assert task.facts == data.facts() == DataFacts(size=(32, 32), channels=3)
    assert task.calls[:2] == ["facts", "prepare"]
    dataset = data.datasets["train"]
    names = [name for batch in task.given for name in batch["name"]]
    assert names == dataset.names == sorted(names)
    assert len(names) % 4, "the last batch is smaller"
    images = torch.cat([batch["image"] for batch in task.given])
    expected = torch.stack([dataset[0, index]["image"] for index in range(len(dataset))]).float() / 255
    assert torch.equal(images, expected)
    assert torch.equal(curious.images, expected)
    assert len(task.calls[2]) == 4, "training batches are augmented as before: a tile and its copies"
    assert not torch.equal(task.calls[2], images[:4])
    trainer.test(task, data, verbose=False)
    assert task.calls[3:] == ["facts"]


@pytest.mark.parametrize("world", [1, 2])
def test_processes_share_the_images(world: int, colorization_root: Path) -> None:
    data = ColorizationDataModule(colorization_root, size=32, batch_size=4, num_workers=0)
    data.setup("fit")
    strategy = SimpleNamespace(batch_to_device=lambda batch: data.on_after_batch_transfer(batch, 0))
    names = []
    for rank in range(world):
        trainer = SimpleNamespace(world_size=world, global_rank=rank, training=True, strategy=strategy)
        data.trainer = cast(Trainer, trainer)
        batches = list(data.unaugmented("train"))
        assert not any("altered" in batch for batch in batches)
        names += [name for batch in batches for name in batch["name"]]
    assert sorted(names) == sorted(data.datasets["train"].names)


def test_windows_are_a_fixed_sample_shared_by_the_processes(avalanches_root: Path, make_trainer: Trainers) -> None:
    data = AvalanchesDataModule(avalanches_root, window=17)
    task = AvalanchesTask("cnn1d", window=17, components=3)
    trainer = make_trainer(max_epochs=1, limit_train_batches=1, limit_val_batches=0, callbacks=[Handover(data)])
    trainer.fit(task, data)
    assert task.network[1].weight.any()
    assert task.facts.window == 17
    sample = [batch["image"] for batch in data.unaugmented("train")]
    again = [batch["image"] for batch in data.unaugmented("train")]
    assert sum(map(len, sample)) == 20_000
    assert all(torch.equal(*pair) for pair in zip(sample, again, strict=True))


def test_facts_that_follow_from_arguments_need_no_file() -> None:
    modules: list[ImageDataModule] = [CloudsDataModule("/nowhere", classes=["a", "b"], size=(20, 30)),
                                      AvalanchesDataModule("/nowhere", window=21)]  # fmt: skip
    assert [module.facts() for module in modules] == [
        DataFacts(size=(20, 30), classes=["a", "b"], channels=3), DataFacts(window=21, conditions=[])]  # fmt: skip
