from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser

from datamodules.clouds import CloudsDataModule
from datamodules.segmentation import SegmentationDataModule
from ops.errors import ArgumentError, DataError
from tests.datamodules.helpers import Keeping, noise, write


class GlaciersDataModule(SegmentationDataModule):
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


def test_a_task_of_one_class_is_its_defaults(root: Path, make_trainer: Callable[..., Trainer]) -> None:
    data = GlaciersDataModule(root, size=(20, 30), window=(12, 16), pictures=root / "images", batch_size=4, flips=False)
    assert (data.classes, data.task) == (["glacier"], "glaciers")
    task, trainer = Keeping(), make_trainer(max_epochs=1, use_distributed_sampler=False)
    trainer.fit(task, datamodule=data)
    trainer.test(task, datamodule=data, verbose=False)
    trainer.predict(task, datamodule=data)
    counts = {split: len(set(task.names(split))) for split in ("train", "val", "test", "predict")}
    assert counts == {"train": 7, "val": 2, "test": 1, "predict": 10}
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
    parser.add_lightning_class_args(GlaciersDataModule, "data")
    made = parser.instantiate_classes(parser.parse_args([f"--data.root={root}", "--data.window=[8,8]"])).data
    assert (made.root, made.window, made.classes, made.overlap) == (root, (8, 8), ["glacier"], 0.25)


def test_images_to_predict_are_asked_for(root: Path) -> None:
    with pytest.raises(DataError, match=r"--data\.pictures"):
        GlaciersDataModule(root).setup("predict")


def test_kaggle_tables_are_for_clouds_alone(clouds_root: Path) -> None:
    with pytest.raises(DataError, match=r"(?s)No dataset in .*masks/<class>"):
        GlaciersDataModule(clouds_root).setup("fit")


@pytest.mark.parametrize("kind", [GlaciersDataModule, CloudsDataModule])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": []}, r"classes are \[\]"),
        ({"classes": ["a", "a"]}, "expected one or more different names"),
        ({"size": (0, 8)}, r"size is \[0, 8\]"),
        ({"output_size": (8, 0)}, r"output_size is \[8, 0\]"),
        ({"window": (0, 0)}, r"window is \[0, 0\]"),
        ({"overlap": 1.0}, r"overlap is 1\.0"),
        ({"window": (8, 8), "output_size": (8, 8)}, "one of them to null"),
        ({"val_fraction": 0.5, "test_fraction": 0.5}, "val_fraction is 0.5"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"num_workers": -1}, "num_workers is -1"),
    ],
)
def test_arguments_out_of_range_are_rejected(
    kind: type[SegmentationDataModule], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ArgumentError, match=message):
        kind(**options)


def test_small_mask_areas_are_shares() -> None:
    with pytest.raises(ArgumentError, match=r"small_mask_area is 1\.5"):
        CloudsDataModule(small_mask_area=1.5)
