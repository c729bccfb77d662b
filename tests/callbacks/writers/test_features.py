import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from callbacks.writers.features import FeatureWriter
from tasks.base import Batch

SPLITS = {"train": 7, "test": 4}


def vectors_of(split: str, index: int) -> list[float]:
    return [len(split) + index / 8, -index, 2.0**-20]


def batches_of(split: str, order: list[list[int]], known: bool = True) -> list[Batch]:
    """Batches of pictures, of whose number the vectors are made."""
    batches = []
    for rows in order:
        batch: Batch = {"name": [f"{split}/{i}.jpg" for i in rows], "index": torch.tensor(rows)}
        batch["image"] = torch.tensor([vectors_of(split, i) for i in rows])
        if known:
            batch["professional"] = torch.tensor([float(i % 2) for i in rows])
        batches.append(batch)
    return batches


class Pictures(LightningDataModule):
    """Batches of two splits, not in order; of an album, where one picture cannot be used."""

    def __init__(self, album: bool = False) -> None:
        super().__init__()
        if album:
            self.splits, self.batches = ["predict"], [batches_of("predict", [[0, 1], [2]], known=False)]
            self.batches[0][0]["problem"] = ["", "predict/1.jpg is no picture"]
            self.batches[0][1]["problem"] = [""]
        else:
            self.splits = list(SPLITS)
            self.batches = [batches_of("train", [[5, 1, 3], [0, 2], [6, 4]]), batches_of("test", [[2, 3], [1, 0]])]

    def predict_dataloader(self) -> list[DataLoader[Any]]:
        return [DataLoader(each, batch_size=None, collate_fn=lambda batch: batch) for each in self.batches]  # type: ignore[arg-type]  # a list is a data set


class Network(LightningModule):
    """Predicts two kinds of vectors."""

    def predict_step(self, batch: Batch, batch_index: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        return {"fc7": batch["image"].half(), "color_moments": batch["image"][:, :2]}


def predict(folder: Path, data: Pictures) -> None:
    trainer = Trainer(default_root_dir=folder, accelerator="cpu", logger=False, enable_progress_bar=False,
                      callbacks=[FeatureWriter(data)])  # fmt: skip
    trainer.predict(Network(), data, return_predictions=False)


def rows(folder: Path) -> list[list[str]]:
    with (folder / "vectors" / "names.csv").open(newline="") as file:
        return list(csv.reader(file))


def check(folder: Path) -> None:
    """Both arrays are those of the pictures, row by row in the order of splits and indices."""
    pictures = [(split, i) for split, count in SPLITS.items() for i in range(count)]
    assert rows(folder) == [["name", "split", "professional"],
                            *([f"{split}/{i}.jpg", split, str(i % 2)] for split, i in pictures)]  # fmt: skip
    wanted = np.array([vectors_of(*picture) for picture in pictures])
    for name, columns in (("fc7", 3), ("color_moments", 2)):
        found = np.load(folder / "vectors" / f"{name}.npy")
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, wanted[:, :columns])
    assert sorted(path.name for path in folder.rglob("*")) == ["color_moments.npy", "fc7.npy", "names.csv", "vectors"]


def test_rows_are_in_the_order_of_the_data(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    predict(tmp_path, Pictures())
    check(tmp_path)
    assert caplog.messages[-1] == f"Pictures: 11.\n  {tmp_path / 'vectors'}"


def test_pictures_that_cannot_be_used_have_no_row(tmp_path: Path) -> None:
    predict(tmp_path, Pictures(album=True))
    assert rows(tmp_path)[1:] == [["predict/0.jpg", "predict", ""], ["predict/2.jpg", "predict", ""]]
    wanted = np.array([vectors_of("predict", 0), vectors_of("predict", 2)])
    np.testing.assert_array_equal(np.load(tmp_path / "vectors" / "fc7.npy"), wanted)


@pytest.mark.parametrize("world", [2, 4])
def test_processes_write_what_one_writes(tmp_path: Path, world: int) -> None:
    data = Pictures()
    turns = [(loader, batch) for loader, batches in enumerate(data.batches) for batch in batches]
    if world == 4:
        turns = turns[:3]  # leaves one process without a picture
        turns += [(1, batch) for batch in data.batches[1]]
    strategy = SimpleNamespace(broadcast=lambda value: value, barrier=lambda: None)
    module, writers = Network(), []
    trainers: list[Any] = [
        SimpleNamespace(strategy=strategy, default_root_dir=str(tmp_path), is_global_zero=rank == 0, global_rank=rank,
                        world_size=world) for rank in range(world)
    ]  # fmt: skip
    for trainer in trainers:
        writers.append(FeatureWriter(data))
        writers[-1].on_predict_start(trainer, module)
    for turn, (loader, batch) in enumerate(turns):
        rank = turn % min(world, 3)
        outputs = module.predict_step(batch, turn, loader)
        writers[rank].on_predict_batch_end(trainers[rank], module, outputs, batch, turn, loader)
    for writer, trainer in reversed(list(zip(writers, trainers, strict=True))):
        writer.on_predict_end(trainer, module)
    check(tmp_path)


def test_arrays_and_names_are_whole_or_not_there(tmp_path: Path) -> None:
    broken = Pictures()
    del broken.batches[1][1]["index"]
    with pytest.raises(KeyError):
        predict(tmp_path / "new", broken)
    assert not (tmp_path / "new").exists()
    predict(tmp_path, Pictures())
    with pytest.raises(KeyError):
        predict(tmp_path, broken)
    check(tmp_path)


def test_another_kind_of_vector_does_not_stay_beside_new_names(tmp_path: Path) -> None:
    (tmp_path / "vectors").mkdir()
    np.save(tmp_path / "vectors" / "pooled.npy", np.zeros((3, 2)))
    predict(tmp_path, Pictures())
    check(tmp_path)
