import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from callbacks.best import BestCheckpoint
from callbacks.handover import Handover
from callbacks.resuming import LastCheckpoint
from callbacks.thresholds import FittedThresholds
from datamodules.batch import Batch, DataFacts
from tasks.clouds import CloudsTask

CLASSES = ["Red", "Green"]


class Colours(nn.Module):
    """Finds each class as probable as its colour is bright."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.strength = nn.Parameter(torch.ones(1))

    def forward(self, image: Tensor) -> Tensor:
        return torch.logit((image[:, : self.classes] * self.strength).clamp(1e-4, 1 - 1e-4))


class Halved(Callback):
    """Spoils the network after the first epoch."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.network.strength.data.fill_(0.5**trainer.current_epoch)


class Pictures(LightningDataModule):
    """Smooth colours; the truth is where red is above .3 and where green is above .7, but for specks of green."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        coarse = torch.rand(6, 3, 4, 6, generator=generator)
        image = nn.functional.interpolate(coarse, (32, 48), mode="bilinear")
        mask = image[:, :2] > torch.tensor([0.3, 0.7]).view(2, 1, 1)
        image[:, 1, ::8, ::8] = 1.0
        self.batches = [{"image": image[k : k + 2], "mask": mask[k : k + 2].float()} for k in (0, 2, 4)]
        self.splits: list[str] = []

    def loader(self) -> DataLoader[Any]:
        return DataLoader(self.batches, batch_size=None)  # type: ignore[arg-type]  # a list is a data set

    train_dataloader = val_dataloader = test_dataloader = loader

    def facts(self) -> DataFacts:
        return DataFacts()

    def unaugmented(self, split: str) -> Iterator[Batch]:
        for batch in self.batches:
            self.splits.append(split)
            yield batch

    def fingerprint(self) -> str:
        return ""

    def picture_names(self) -> dict[str, list[str]]:
        return {}


def make_task(classes: Sequence[str] = CLASSES) -> CloudsTask:
    task = CloudsTask("pspnet", pretrained=False, classes=classes, optimizer=lambda p: torch.optim.SGD(p, lr=0.0))
    task.network = Colours(len(classes))
    return task


def make_trainer(folder: Path, data: Pictures, **options: Any) -> Trainer:
    watchers = [Handover(data), BestCheckpoint("val/dice", "max"), LastCheckpoint(), FittedThresholds(), Halved()]
    return Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **({"max_epochs": 3, "callbacks": watchers} | options),
    )


@dataclass
class Run:
    folder: Path
    task: CloudsTask
    data: Pictures
    trainer: Trainer


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A training of three epochs; tests leave it as it is."""
    folder = tmp_path_factory.mktemp("run")
    data = Pictures()
    found = Run(folder, make_task(), data, make_trainer(folder, data))
    found.trainer.fit(found.task, found.data)
    return found


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "thresholds.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def dice(task: CloudsTask, data: Pictures, **options: Any) -> float:
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    [figures] = trainer.test(task, data, verbose=False, **options)
    return figures["test/dice"]


def test_thresholds_and_areas_are_found_on_the_best_epoch(run: Run) -> None:
    assert run.task.network.strength.item() == 1  # gone back to epoch 0
    torch.testing.assert_close(run.task.decision.thresholds, torch.tensor([0.3, 0.7]))
    assert run.task.decision.minimum_areas[0] == 0
    assert 0 < run.task.decision.minimum_areas[1] <= 0.02  # a speck is 1 of 1536 pixels
    assert run.trainer.callback_metrics["val/dice"] < 0.7  # the last epoch's


def test_dice_gets_better_and_is_what_validation_then_gives(run: Run) -> None:
    half, fitted = ([float(row[name]) for row in rows(run.folder)] for name in ("dice_at_half", "dice_fitted"))
    assert all(after >= before for before, after in zip(half, fitted, strict=True))
    assert sum(fitted) / 2 > sum(half) / 2 + 0.1
    assert dice(run.task, run.data) == pytest.approx(sum(fitted) / 2, abs=1e-4)
    assert dice(make_task(), run.data) == pytest.approx(sum(half) / 2, abs=1e-4)


def test_the_checkpoint_keeps_them_and_test_uses_them(run: Run) -> None:
    best, last = (run.folder / "checkpoints" / f"{name}.ckpt" for name in ("best", "last"))
    kept = torch.load(best, weights_only=True)
    assert torch.equal(kept["state_dict"]["decision.thresholds"], run.task.decision.thresholds)
    assert torch.equal(kept["state_dict"]["decision.minimum_areas"], run.task.decision.minimum_areas)
    assert kept["epoch"] == 0
    assert kept["optimizer_states"]
    assert sorted((run.folder / "checkpoints").iterdir()) == [best, last]
    fitted = dice(run.task, run.data)
    assert dice(make_task(), run.data, ckpt_path=best) == pytest.approx(fitted, abs=1e-6)
    assert dice(make_task(), run.data, ckpt_path=last) < fitted - 0.1


def test_the_table_names_the_classes(run: Run) -> None:
    found = rows(run.folder)
    assert [row["class"] for row in found] == CLASSES
    assert [float(row["threshold"]) for row in found] == pytest.approx([0.3, 0.7])
    assert [float(row["minimum_area"]) for row in found] == pytest.approx(
        run.task.decision.minimum_areas.tolist(), abs=1e-4
    )


@pytest.mark.parametrize(("limit", "batches"), [(None, 3), (1, 1)])
def test_pictures_are_those_of_validation_and_not_augmented(tmp_path: Path, limit: int | None, batches: int) -> None:
    data = Pictures()
    make_trainer(tmp_path, data, max_epochs=1, limit_val_batches=limit).fit(make_task(), data)
    assert data.splits == ["val"] * batches


def test_without_data_it_says_what_to_add(tmp_path: Path) -> None:
    data, best = Pictures(), BestCheckpoint("val/dice", "max")
    trainer = make_trainer(tmp_path, data, max_epochs=1, callbacks=[best, FittedThresholds()])
    with pytest.raises(RuntimeError, match=r"FittedThresholds has no data; add .*Handover"):
        trainer.fit(make_task(), data)


def test_one_class_is_fitted_too(tmp_path: Path) -> None:
    data = Pictures()
    for batch in data.batches:
        batch["mask"] = batch["mask"][:, :1]
    task = make_task(["Red"])
    make_trainer(tmp_path, data, max_epochs=1).fit(task, data)
    assert task.decision.thresholds.tolist() == pytest.approx([0.3])


def test_without_a_best_epoch_nothing_is_fitted(tmp_path: Path) -> None:
    task = make_task()
    data = Pictures()
    make_trainer(tmp_path, data, max_epochs=1, callbacks=[FittedThresholds()], enable_checkpointing=False).fit(
        task, data
    )
    assert not (tmp_path / "thresholds.csv").exists()
    assert task.decision.thresholds.tolist() == [0.5, 0.5]
