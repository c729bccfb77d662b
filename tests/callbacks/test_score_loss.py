from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from callbacks.intervals import Intervals
from callbacks.score_loss import FILES, ScoreLoss
from datamodules.batch import Batch
from tasks.avalanches import AvalanchesTask
from tasks.clouds import CloudsTask
from tasks.metrics.score_loss import PIECES
from tests.callbacks.shared import Given
from tests.datamodules.helpers import csv_rows
from tests.scripted import quiet_trainer

GENERATOR = torch.Generator().manual_seed(0)


class Levels(nn.Module):
    """The first K colors are the probabilities."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, image: Tensor) -> Tensor:
        return torch.logit(image[:, : self.classes].clamp(1e-4, 1 - 1e-4))


def batches(classes: int, count: int = 3) -> list[Batch]:
    coarse = torch.rand(count, 3, 5, 8, generator=GENERATOR)
    image = nn.functional.interpolate(coarse, (40, 64), mode="bilinear")
    mask = (image[:, :classes] + 0.2 * torch.rand(count, classes, 40, 64, generator=GENERATOR) > 0.6).float()
    mask[0, 0] = 0
    return [{"image": image[k : k + 1], "mask": mask[k : k + 1], "name": [f"{k}.png"]} for k in range(count)]


def test_tables_and_figure_show_where_the_dice_is_lost(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = Given([], batches(2))
    unknown = data.batches["val"][0]
    data.batches["val"].append(unknown | {"ignored": torch.ones(1, 1, 40, 64, dtype=torch.bool), "name": ["none.png"]})
    task = CloudsTask(architecture="pspnet", pretrained=False, classes=["Red", "Green"])
    task.network = Levels(2)
    task.decision.minimum_areas.fill_(0.02)
    with caplog.at_level("INFO"):
        [metrics] = quiet_trainer(tmp_path, ScoreLoss(), Intervals(0)).test(task, data, verbose=False)
    rows = csv_rows(tmp_path / "score_loss.csv")
    assert [row["class"] for row in rows] == ["Red", "Green", "all classes"]
    for row, name in zip(rows, ("dice_red", "dice_green", "dice"), strict=True):
        assert float(row["dice"]) == pytest.approx(metrics[f"test/{name}"], abs=1e-5)
        assert float(row["dice"]) + sum(float(row[piece]) for piece in PIECES) == pytest.approx(1, abs=1e-5)
        assert row["images"] == "3"
    assert float(rows[0]["wrongly_present"]) == pytest.approx(1 / 3, abs=1e-6)
    images = csv_rows(tmp_path / "score_loss_images.csv")
    assert {(row["image"], row["class"]) for row in images} == {
        (f"{k}.png", label) for k in range(3) for label in ("Red", "Green")
    }
    dice = [float(row["dice"]) for row in images]
    assert dice == sorted(dice)
    for piece in PIECES:
        mean = sum(float(row[piece]) for row in images) / 6
        assert float(rows[2][piece]) == pytest.approx(mean, abs=1e-5)
    with Image.open(tmp_path / "score_loss.png") as drawn:
        assert drawn.size[0] == 1200
    assert f"Dice {metrics['test/dice']:.3f}; most is lost by" in caplog.text


def test_one_class_has_one_row_and_the_final_pass_counts(tmp_path: Path) -> None:
    data, task = Given([], batches(1)), AvalanchesTask("pspnet")
    task.network = Levels(1)
    task.keep_dice({"first": 0.1, "enhanced": 0.2})
    task.second_decisions["enhanced"].thresholds.fill_(0.7)
    [metrics] = quiet_trainer(tmp_path, ScoreLoss()).test(task, data, verbose=False)
    [row] = csv_rows(tmp_path / "score_loss.csv")
    assert float(row["dice"]) == pytest.approx(metrics["test/second_enhanced_dice"], abs=1e-5)
    assert float(row["dice"]) != pytest.approx(metrics["test/dice"], abs=1e-3)
    assert all((tmp_path / file).is_file() for file in FILES)
