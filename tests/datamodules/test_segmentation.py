from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.cli import LightningArgumentParser

from datamodules.segmentation import SegmentationDataModule
from ops.errors import DataError
from tests.datamodules.helpers import Keeping, noise, write


class IceDataModule(SegmentationDataModule):
    """A sixth task: its folder and its class, and nothing else."""

    def __init__(self, root: str | Path = "glaciers", classes: Sequence[str] = ("glacier",), **options: Any) -> None:
        super().__init__(root, classes, **options)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Ten images of noise, 20 x 30, with a mask where they are red."""
    for index in range(10):
        picture = noise(20, 30, seed=index)
        write(tmp_path / "images" / f"{index}.png", picture)
        write(tmp_path / "masks" / "glacier" / f"{index}.png", (picture[..., 0] > 127) * np.uint8(255))
    return tmp_path


def test_a_task_of_one_class_is_its_defaults(root: Path, keep: Callable[..., Keeping]) -> None:
    data = IceDataModule(root, size=(20, 30), window=(12, 16), pictures=root / "images", batch_size=4, flips=False)
    assert (data.classes, data.task) == (["glacier"], "ice")
    task = keep(data, "fit", "test", "predict")
    assert {split: len(set(task.names(split))) for split in task.seen} == {
        "train": 7, "val": 2, "test": 1, "predict": 10}  # fmt: skip
    for split in ("train", "val", "test"):
        for batch in task.seen[split]:
            assert batch["mask"].shape == (len(batch["name"]), 1, 20, 30)
            assert torch.equal(batch["mask"], (batch["image"][:, :1] * 255 > 127.5).float())
    covered = np.zeros((20, 30), int)
    for batch in task.seen["predict"]:
        assert batch["image"].shape[1:] == (3, 20, 30)
        for name, (top, left) in zip(batch["name"], batch["origin"].tolist(), strict=True):
            covered[top : top + 12, left : left + 16] += name == "0.png"
    assert covered.min() >= 1


def test_the_command_line_knows_all_options_of_a_task(root: Path) -> None:
    parser = LightningArgumentParser()
    parser.add_lightning_class_args(IceDataModule, "data")
    made = parser.instantiate_classes(parser.parse_args([f"--data.root={root}", "--data.window=[8,8]"])).data
    assert (made.root, made.window, made.classes, made.overlap) == (root, (8, 8), ["glacier"], 0.25)


def test_predict_needs_images(root: Path) -> None:
    with pytest.raises(DataError, match=r"--data\.pictures"):
        IceDataModule(root).setup("predict")


def test_ignored_pixels_of_one_class_are_ignored_for_all(tmp_path: Path, keep: Callable[..., Keeping]) -> None:
    rng = np.random.default_rng(0)
    void = np.zeros((16, 16), np.bool_)
    void[:5] = True
    for index in range(10):
        write(tmp_path / "images" / f"{index}.png", rng.integers(0, 256, (16, 16, 3), np.uint8))
        marked = rng.random((16, 16)) < 0.5
        write(tmp_path / "masks" / "ice" / f"{index}.png", np.where(void, 9, marked).astype(np.uint8))
        write(tmp_path / "masks" / "snow" / f"{index}.png", (~marked).astype(np.uint8))
    data = SegmentationDataModule(tmp_path, ["ice", "snow"], size=(16, 16), output_size=(8, 8), flips=False,
                                  batch_size=4, ignore_value=9)  # fmt: skip
    seen = keep(data, "fit", "test").seen
    for split, side, rows in (("train", 16, 5), ("val", 8, 3), ("test", 8, 3)):
        for batch in seen[split]:
            assert batch["mask"].shape[1:] == (2, side, side)
            assert batch["ignored"].shape[1:] == (1, side, side)
            assert batch["ignored"][:, :, :rows].all()
            assert not batch["ignored"][:, :, rows:].any()
            assert not batch["mask"][:, :, :rows].any()
            assert batch["mask"][:, :, rows:].sum(dim=1).min() >= 1 or side == 8
