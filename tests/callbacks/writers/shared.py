"""What tests of writers share: batches to predict, a quiet trainer, and several processes in one."""

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader

from callbacks.writers.base import Writer
from tasks.base import Batch


class Batches(LightningDataModule):
    """Gives one predict loader for each list of batches."""

    def __init__(self, *loaders: Sequence[Batch]) -> None:
        super().__init__()
        self.loaders = [list(batches) for batches in loaders]

    def predict_dataloader(self) -> list[DataLoader[Any]]:
        return [DataLoader(each, batch_size=None, collate_fn=lambda batch: batch) for each in self.loaders]  # type: ignore[arg-type]  # a list is a dataset


def predict(folder: Path, task: LightningModule, data: LightningDataModule, writer: Callback) -> None:
    """Predicts quietly on the CPU."""
    options = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False}
    trainer = Trainer(default_root_dir=folder, callbacks=[writer], **options)  # type: ignore[arg-type]  # one dict
    trainer.predict(task, data, return_predictions=False)


def predict_in_processes(
    folder: Path, task: LightningModule, data: Batches, make: Callable[[], Writer[Any]], count: int = 2, idle: int = 0
) -> None:
    """Plays several processes that take turns; the last `idle` of them get no batch."""
    strategy = SimpleNamespace(broadcast=lambda value: value, barrier=lambda: None)
    trainers: list[Any] = [
        SimpleNamespace(strategy=strategy, default_root_dir=folder, world_size=count, global_rank=rank,
                        is_global_zero=rank == 0) for rank in range(count)
    ]  # fmt: skip
    writers = [make() for _ in trainers]
    for writer, trainer in zip(writers, trainers, strict=True):
        writer.on_predict_start(trainer, task)
    turns = [(batch, loader) for loader, batches in enumerate(data.loaders) for batch in batches]
    for turn, (batch, loader) in enumerate(turns):
        rank = turn % (count - idle)
        writers[rank].on_predict_batch_end(trainers[rank], task, task.predict_step(batch, turn), batch, turn, loader)
    for writer, trainer in reversed(list(zip(writers, trainers, strict=True))):
        writer.on_predict_end(trainer, task)


def read(path: Path) -> NDArray[np.uint8]:
    """Returns an image file as an array."""
    return np.asarray(Image.open(path))


def read_mask(path: Path) -> NDArray[np.bool_]:
    """Returns a mask file, which has nothing but 0 and 255."""
    values = read(path)
    assert (values.dtype, set(np.unique(values)) - {0, 255}) == (np.uint8, set())
    return values > 0
