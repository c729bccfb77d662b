from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from callbacks.best import BestCheckpoint
from callbacks.handover import Handover
from callbacks.resuming import LastCheckpoint
from callbacks.thresholds import FittedThresholds, write_fitted
from datamodules.batch import Batch
from tasks.clouds import CloudsTask
from tasks.roads import RoadsTask
from tasks.segmentation import SegmentationTask
from tests.callbacks.shared import Given
from tests.datamodules.helpers import csv_rows
from tests.scripted import quiet_trainer

CLASSES = ["Red", "Green"]


class Colors(nn.Module):
    """Finds each class as probable as its color is bright."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.strength = nn.Parameter(torch.ones(1))

    def forward(self, image: Tensor) -> Tensor:
        return torch.logit((image[:, : self.classes] * self.strength).clamp(1e-4, 1 - 1e-4))


@pytest.mark.parametrize("caution", [0.0, 2.0])
def test_the_message_says_where_the_defaults_were_kept(caution: float, tmp_path: Path) -> None:
    columns = {"thresholds": [0.5, 0.3], "minimum_areas": [0.0, 0.01], "dice_at_half": [0.7, 0.7], "dice": [0.7, 0.8]}
    fitted = {name: torch.tensor(values) for name, values in columns.items()}
    _, kept, changed = write_fitted({"": fitted}, CLASSES, tmp_path / "thresholds.csv", caution).splitlines()
    assert "kept" in kept
    assert ("2 standard errors" in kept) == (caution == 2)
    assert "0.7000 -> 0.8000" in changed
    assert "kept" not in changed


class Halved(Callback):
    """Spoils the network after the first epoch."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.network.strength.data.fill_(0.5**trainer.current_epoch)


class Images(Given):
    """Smooth colors; the truth is where red is above .3 and where green is above .7, but for specks of green."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        coarse = torch.rand(6, 3, 4, 6, generator=generator)
        image = nn.functional.interpolate(coarse, (32, 48), mode="bilinear")
        mask = image[:, :2] > torch.tensor([0.3, 0.7]).view(2, 1, 1)
        image[:, 1, ::8, ::8] = 1.0
        batches: list[Batch] = [{"image": image[k : k + 2], "mask": mask[k : k + 2].float()} for k in (0, 2, 4)]
        super().__init__(batches, batches)


def make_task(classes: Sequence[str] = CLASSES) -> CloudsTask:
    task = CloudsTask(
        architecture="pspnet", pretrained=False, classes=classes, optimizer=lambda p: torch.optim.SGD(p, lr=0.0)
    )
    task.network = Colors(len(classes))
    return task


def fit(folder: Path, data: Images, task: SegmentationTask, *callbacks: Callback, **options: Any) -> Trainer:
    watchers = Handover(data), BestCheckpoint("val/dice", "max"), LastCheckpoint(), FittedThresholds(), Halved()
    trainer = quiet_trainer(folder, *(callbacks or watchers), **({"max_epochs": 1} | options))
    trainer.fit(task, data)
    return trainer


@dataclass
class Run:
    folder: Path
    task: CloudsTask
    data: Images
    trainer: Trainer
    table: list[dict[str, str]]

    def column(self, name: str) -> list[float]:
        return [float(row[name]) for row in self.table]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A training of three epochs; tests leave it as it is."""
    folder, data, task = tmp_path_factory.mktemp("run"), Images(), make_task()
    trainer = fit(folder, data, task, max_epochs=3)
    return Run(folder, task, data, trainer, csv_rows(folder / "thresholds.csv"))


def dice(task: CloudsTask, data: Images, **options: Any) -> float:
    [metrics] = quiet_trainer(Path("/nowhere")).test(task, data, verbose=False, **options)
    return metrics["test/dice"]


def test_thresholds_and_areas_are_found_on_the_best_epoch(run: Run) -> None:
    assert run.task.network.strength.item() == 1  # gone back to epoch 0
    torch.testing.assert_close(run.task.decision.thresholds, torch.tensor([0.3, 0.7]))
    assert run.task.decision.minimum_areas[0] == 0
    assert 0 < run.task.decision.minimum_areas[1] <= 0.02  # a speck is 1 of 1536 pixels
    assert run.trainer.callback_metrics["val/dice"] < 0.7  # the last epoch's


def test_dice_improves_and_agrees_with_validation(run: Run) -> None:
    half, fitted = run.column("dice_at_half"), run.column("dice_fitted")
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
    assert "optimizer_states" not in kept  # last.ckpt resumes
    assert sorted((run.folder / "checkpoints").iterdir()) == [best, last]
    fitted = dice(run.task, run.data)
    assert dice(make_task(), run.data, ckpt_path=best) == pytest.approx(fitted, abs=1e-6)
    assert dice(make_task(), run.data, ckpt_path=last) < fitted - 0.1


def test_the_table_names_the_classes(run: Run) -> None:
    assert [row["class"] for row in run.table] == CLASSES
    assert run.column("threshold") == pytest.approx([0.3, 0.7])
    assert run.column("minimum_area") == pytest.approx(run.task.decision.minimum_areas.tolist(), abs=1e-4)


@pytest.mark.parametrize(("limit", "batches"), [(None, 3), (1, 1)])
def test_thresholds_are_fitted_on_unaugmented_validation_images(
    tmp_path: Path, limit: int | None, batches: int
) -> None:
    data = Images()
    fit(tmp_path, data, make_task(), limit_val_batches=limit)
    assert data.splits == ["val"] * batches


def test_without_data_the_error_names_the_callback_to_add(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"has no data; add .*Handover"):
        fit(tmp_path, Images(), make_task(), BestCheckpoint("val/dice", "max"), FittedThresholds())


def test_a_given_threshold_is_not_fitted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = Images()
    for batch in data.batches["val"]:
        batch["mask"] = batch["mask"][:, :1]
    task = RoadsTask("pspnet", threshold=0.4, optimizer=lambda p: torch.optim.SGD(p, lr=0.0))
    task.network = Colors(1)
    with caplog.at_level("INFO"):
        fit(tmp_path, data, task)
    assert task.decision.thresholds.tolist() == pytest.approx([0.4])
    assert "threshold was given, 0.4" in caplog.text
    assert not (tmp_path / "thresholds.csv").exists()


def test_one_class_is_fitted_too(tmp_path: Path) -> None:
    data, task = Images(), make_task(["Red"])
    for batch in data.batches["val"]:
        batch["mask"] = batch["mask"][:, :1]
    fit(tmp_path, data, task)
    assert task.decision.thresholds.tolist() == pytest.approx([0.3])


def test_without_a_best_epoch_nothing_is_fitted(tmp_path: Path) -> None:
    task = make_task()
    fit(tmp_path, Images(), task, FittedThresholds())
    assert not (tmp_path / "thresholds.csv").exists()
    assert task.decision.thresholds.tolist() == [0.5, 0.5]


class Presence(nn.Module):
    """Marks both classes by red and green; the mean of blue says whether an image shows any."""

    def __init__(self) -> None:
        super().__init__()
        self.strength = nn.Parameter(torch.ones(1))

    def forward(self, image: Tensor) -> Tensor:
        colors = (image[:, [0, 1, 2, 2]] * self.strength).clamp(1e-4, 1 - 1e-4)
        return torch.logit(
            torch.cat([colors[:, :2], colors[:, 2:].mean(dim=(2, 3), keepdim=True).expand_as(colors[:, 2:])], 1)
        )


def test_presence_is_fitted_with_threshold_and_area(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = Images()
    for number, batch in enumerate(data.batches["val"]):
        present = torch.tensor([1.0, number % 2])  # all images show red, half of the pairs green
        batch["mask"] *= (present > 0.5).float().view(2, 1, 1, 1)
        batch["image"][:, 2] = (0.2 + 0.6 * present).view(2, 1, 1)
    task = CloudsTask(architecture="pspnet", pretrained=False, classes=CLASSES, presence_head=True,
                      optimizer=lambda p: torch.optim.SGD(p, lr=0.0))  # fmt: skip
    task.network = Presence()
    with caplog.at_level("INFO"):
        fit(tmp_path, data, task)
    rows = csv_rows(tmp_path / "thresholds.csv")
    assert [float(row["presence"]) for row in rows] == pytest.approx([0.25, 0.25])
    assert [float(row["threshold"]) for row in rows] == pytest.approx([0.3, 0.7])
    kept = torch.load(tmp_path / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    assert kept["decision.presence_thresholds"].tolist() == pytest.approx([0.25, 0.25])
    assert "presence 0.25" in caplog.text
    assert dice(task, data) == pytest.approx(sum(float(row["dice_fitted"]) for row in rows) / 2, abs=1e-4)
