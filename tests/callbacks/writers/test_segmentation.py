import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader

from callbacks.writers.segmentation import SegmentationWriter
from drawing.pictures import labelled, overlay
from ops.rle import decode
from tasks.base import Batch
from tasks.clouds import CloudsTask

CLASSES = ["Red", "Green", "Blue"]
NAMES = ["z.jpg", "a.b.png", "m.jpg", "empty.tif", "c.jpg"]  # in an order of their own
SIZES = [(40, 60), (33, 21), (10, 70), (40, 60), (24, 24)]


class Colours(nn.Module):
    """Finds each class where its colour is bright, and none in a black picture."""

    def forward(self, image: Tensor) -> Tensor:
        return 20 * (image - 0.5)


class Pictures(LightningDataModule):
    """Pictures that are predicted at 16 x 24 and written at their own size; the fourth is black."""

    def __init__(self, broken: bool = False) -> None:
        super().__init__()
        rng = np.random.default_rng(0)
        self.sources = [rng.integers(0, 255, (*size, 3), np.uint8) for size in SIZES]
        images = nn.functional.interpolate(torch.rand(5, 3, 4, 6), (16, 24), mode="bilinear")
        images[3] = 0
        self.batches = [self.batch(images, rows) for rows in ([2, 0], [1, 3], [4])]  # as two processes may find them
        if broken:
            self.batches[1]["source"] = []

    def batch(self, images: Tensor, rows: list[int]) -> Batch:
        return {
            "image": images[rows],
            "index": torch.tensor(rows),
            "name": [NAMES[row] for row in rows],
            "size": torch.tensor([SIZES[row] for row in rows]),
            "window": torch.tensor([SIZES[row] for row in rows]),
            "origin": torch.zeros(len(rows), 2, dtype=torch.int64),
            "overlap": [0.0] * len(rows),
            "source": [self.sources[row] for row in rows],
        }

    def predict_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.batches, batch_size=None, collate_fn=lambda batch: batch)  # type: ignore[arg-type]  # a list is a data set


def make_task() -> CloudsTask:
    task = CloudsTask("pspnet", pretrained=False, classes=CLASSES)
    task.network = Colours()
    task.decision.thresholds.copy_(torch.tensor([0.5, 0.3, 0.7]))
    task.decision.minimum_areas.copy_(torch.tensor([0.0, 0.0, 0.05]))
    return task.eval()


def predict(folder: Path, data: Pictures) -> CloudsTask:
    task = make_task()
    trainer = Trainer(default_root_dir=folder, accelerator="cpu", logger=False, enable_progress_bar=False,
                      callbacks=[SegmentationWriter()])  # fmt: skip
    trainer.predict(task, data, return_predictions=False)
    return task


def expected_masks(task: CloudsTask, data: Pictures) -> dict[str, NDArray[np.bool_]]:
    found = {}
    for batch in data.batches:
        for k, name in enumerate(batch["name"]):
            probability = (20 * (batch["image"][k : k + 1] - 0.5)).sigmoid()
            found[name] = task.masks(probability, batch["size"][k].tolist())[0].numpy()
    return found


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_table_and_files_hold_the_same_masks(tmp_path: Path) -> None:
    data = Pictures()
    task = predict(tmp_path, data)
    runs = {row["Image_Label"]: row["EncodedPixels"] for row in table(tmp_path / "submission.csv")}
    masks = expected_masks(task, data)
    for name, size in zip(NAMES, SIZES, strict=True):
        for k, label in enumerate(CLASSES):
            drawn = np.asarray(Image.open(tmp_path / "masks" / label / f"{Path(name).stem}.png"))
            assert drawn.dtype == np.uint8
            assert set(np.unique(drawn)) <= {0, 255}
            np.testing.assert_array_equal(drawn > 0, masks[name][k])
            np.testing.assert_array_equal(decode(runs[f"{name}_{label}"], size), masks[name][k])
    assert sum(mask.any() for mask in masks["z.jpg"]) >= 2
    assert not masks["empty.tif"].any()


def test_rows_are_in_the_order_of_the_data(tmp_path: Path) -> None:
    predict(tmp_path, Pictures())
    text = (tmp_path / "submission.csv").read_bytes().decode()
    assert text.startswith("Image_Label,EncodedPixels\nz.jpg_Red,")
    assert "\r" not in text
    found = table(tmp_path / "submission.csv")
    assert [row["Image_Label"] for row in found] == [f"{name}_{label}" for name in NAMES for label in CLASSES]
    assert [row["EncodedPixels"] for row in found if row["Image_Label"].startswith("empty")] == ["", "", ""]


def test_overlays_show_the_masks_over_the_picture(tmp_path: Path) -> None:
    data = Pictures()
    masks = expected_masks(predict(tmp_path, data), data)
    assert sorted(path.name for path in (tmp_path / "overlays").iterdir()) == sorted(
        f"{Path(n).stem}.jpg" for n in NAMES
    )
    for name, source in zip(NAMES, data.sources, strict=True):
        drawn = Image.open(tmp_path / "overlays" / f"{Path(name).stem}.jpg")
        wanted = labelled(overlay(source, masks[name]), CLASSES, masks[name].any(axis=(1, 2)).tolist())
        assert drawn.size == wanted.shape[1::-1]
        assert np.abs(np.asarray(drawn).astype(int) - wanted).mean() < 20  # a JPEG of noise


def test_nothing_but_whole_files_is_left(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    predict(tmp_path, Pictures())
    predict(tmp_path, Pictures())  # again into the same folder: written anew, not added to
    assert sorted(path.name for path in tmp_path.iterdir()) == ["masks", "overlays", "submission.csv"]
    assert len(table(tmp_path / "submission.csv")) == 15
    assert [path for path in tmp_path.rglob("*") if path.name.startswith(".") or path.suffix == ".part"] == []
    assert caplog.messages[-1].startswith(f"Images predicted: 5.\n  {tmp_path / 'submission.csv'}\n")


def test_a_table_is_whole_or_not_there(tmp_path: Path) -> None:
    with pytest.raises(IndexError):
        predict(tmp_path, Pictures(broken=True))
    assert not tmp_path.exists(), "not even an empty folder is left"
    predict(tmp_path, Pictures())
    whole = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(IndexError):
        predict(tmp_path, Pictures(broken=True))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == whole, "the earlier one stays"
    assert len(table(tmp_path / "submission.csv")) == 15
