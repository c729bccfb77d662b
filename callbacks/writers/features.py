"""Writes pictures as vectors: an array a kind, and whose rows these are."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray

from callbacks.writers.base import new_part, place, remove_part
from tasks.base import Batch

COLUMNS = ("name", "split", "professional")
FOLDER = "vectors"
NUMBERS = np.float32


class HasSplits(Protocol):
    """A data module with a loader for each of its splits."""

    splits: list[str]


class FeatureWriter(Callback):
    """Writes what is predicted of all pictures as arrays into the folder `vectors` of the run's.

    - `<vector>.npy`: float32 (N, V), a row a picture, for NumPy to load or map.
    - `names.csv`: `name,split,professional` of the same N rows; `professional`, 0 or 1, is empty where it is not known.

    The module predicts vectors (B, V) by name; the batch has `name`, `index`, the row within its split, maybe
    `professional` (B,), and maybe `problem`, "" for pictures that can be used; the others have no row. Rows are in the
    order of splits and indices. Several processes write their own rows; they are merged at the end. Memory holds a
    batch, disk for a moment one array twice. All is written into the folder `part` and moved when it is whole, in the
    place of an earlier one, so that arrays and names belong together.

    Args:
        data: The data module; its loaders are of its `splits`.
    """

    def __init__(self, data: HasSplits) -> None:
        self.data = data
        self.part = Path()

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Makes the folder and an empty table."""
        self.splits = self.data.splits
        self.part = new_part(trainer, [FOLDER])
        self._rows(trainer.global_rank).write_text("")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leaves nothing that is half written."""
        remove_part(trainer, self.part)

    def _rows(self, rank: int) -> Path:
        return self.part / FOLDER / f"rows{rank}.csv"

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Appends a batch."""
        count = len(batch["name"])
        usable = [i for i, problem in enumerate(batch.get("problem", [""] * count)) if not problem]
        professional = batch.get("professional")
        with self._rows(trainer.global_rank).open("a", newline="") as file:
            csv.writer(file).writerows(
                [dataloader_idx, int(batch["index"][i]), batch["name"][i], self.splits[dataloader_idx],
                 "" if professional is None else int(professional[i])] for i in usable
            )  # fmt: skip
        for name, vectors in outputs.items():
            with (self.part / FOLDER / f"{name}.{trainer.global_rank}").open("ab") as file:
                file.write(vectors[usable].cpu().numpy().astype(NUMBERS).tobytes())

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Merges what the processes wrote, in the order of the data, and moves it to its place."""
        trainer.strategy.barrier()
        if not trainer.is_global_zero:
            return
        tables = []
        for rank in range(trainer.world_size):
            with self._rows(rank).open(newline="") as file:
                tables.append(list(csv.reader(file)))
            self._rows(rank).unlink()
        rows = [row for table in tables for row in table]
        order = sorted(range(len(rows)), key=lambda row: (int(rows[row][0]), int(rows[row][1])))
        places = np.argsort(order)
        folder = self.part / FOLDER
        for name in sorted({path.stem for path in folder.iterdir()}):
            shares = [folder / f"{name}.{rank}" for rank in range(trainer.world_size)]
            _merge(shares, [len(table) for table in tables], places, folder / f"{name}.npy")
        with (folder / "names.csv").open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([COLUMNS, *(rows[row][2:] for row in order)])
        rank_zero_info(f"Pictures: {len(rows)}.{place(self.part)}")


def _merge(shares: Sequence[Path], counts: Sequence[int], places: NDArray[np.intp], path: Path) -> None:
    """Puts rows of several files of numbers into one array, each to its place."""
    merged: NDArray[Any] | None = None
    first = 0
    for share, count in zip(shares, counts, strict=True):
        if count:
            vectors = np.memmap(share, NUMBERS, mode="r").reshape(count, -1)
            if merged is None:
                shape = (len(places), vectors.shape[1])
                merged = np.lib.format.open_memmap(path, mode="w+", dtype=NUMBERS, shape=shape)
            merged[places[first : first + count]] = vectors
            first += count
        share.unlink(missing_ok=True)
