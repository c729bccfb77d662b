import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from callbacks.writers.features import FeatureWriter
from tasks.base import Batch
from tests.callbacks.writers.shared import Batches, predict, predict_in_processes

SPLITS = {"train": 7, "test": 4}


def vectors_of(split: str, index: int) -> list[float]:
    return [len(split) + index / 8, -index, 2.0**-20]


def batches_of(split: str, order: list[list[int]], known: bool = True) -> list[Batch]:
    """Batches of images whose vectors are made from their number."""
    batches = []
    for rows in order:
        batch: Batch = {"name": [f"{split}/{i}.jpg" for i in rows], "split": split, "index": torch.tensor(rows)}
        batch["image"] = torch.tensor([vectors_of(split, i) for i in rows])
        if known:
            batch["professional"] = torch.tensor([float(i % 2) for i in rows])
        batches.append(batch)
    return batches


def splits() -> Batches:
    """Batches of two splits, not in order."""
    return Batches(batches_of("train", [[5, 1, 3], [0, 2], [6, 4]]), batches_of("test", [[2, 3], [1, 0]]))


class Network(LightningModule):
    """Predicts two kinds of vectors."""

    def predict_step(self, batch: Batch, batch_index: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        return {"fc7": batch["image"].half(), "color_moments": batch["image"][:, :2]}


def rows(folder: Path) -> list[list[str]]:
    with (folder / "vectors" / "names.csv").open(newline="") as file:
        return list(csv.reader(file))


def check(folder: Path) -> None:
    """Both arrays are those of the images, row by row in the order of splits and indices."""
    images = [(split, i) for split, count in SPLITS.items() for i in range(count)]
    assert rows(folder) == [["name", "split", "professional"],
                            *([f"{split}/{i}.jpg", split, str(i % 2)] for split, i in images)]  # fmt: skip
    wanted = np.array([vectors_of(*image) for image in images])
    for name, columns in (("fc7", 3), ("color_moments", 2)):
        found = np.load(folder / "vectors" / f"{name}.npy")
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, wanted[:, :columns])
    assert sorted(path.name for path in folder.rglob("*")) == ["color_moments.npy", "fc7.npy", "names.csv", "vectors"]


def test_rows_are_in_the_order_of_the_data(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    predict(tmp_path, Network(), splits(), FeatureWriter())
    check(tmp_path)
    assert caplog.messages[-1] == f"Images predicted: 11.\n  {tmp_path / 'vectors'}"


def test_images_that_cannot_be_used_have_no_row(tmp_path: Path) -> None:
    batches = batches_of("predict", [[0, 1], [2]], known=False)
    batches[0]["problem"], batches[1]["problem"] = ["", "predict/1.jpg is no image"], [""]
    predict(tmp_path, Network(), Batches(batches), FeatureWriter())
    assert rows(tmp_path)[1:] == [["predict/0.jpg", "predict", ""], ["predict/2.jpg", "predict", ""]]
    wanted = np.array([vectors_of("predict", 0), vectors_of("predict", 2)])
    np.testing.assert_array_equal(np.load(tmp_path / "vectors" / "fc7.npy"), wanted)


@pytest.mark.parametrize(("world", "idle"), [(2, 0), (4, 1)])
def test_processes_write_the_same_files(tmp_path: Path, world: int, idle: int) -> None:
    predict_in_processes(tmp_path, Network(), splits(), FeatureWriter, world, idle)
    check(tmp_path)
