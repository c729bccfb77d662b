"""Writes what `predict` found: tables for machines, pictures for people."""

import csv
from pathlib import Path
from typing import Any, cast

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from callbacks.writers.base import new_part, place, remove_part
from callbacks.writers.mask_files import ReducedMask, mask_file
from callbacks.writers.stitch import Canvas, Marker
from drawing.pictures import Picture, labelled, overlay, save_picture
from ops.rle import encode
from tasks.base import Batch


class SegmentationWriter(Callback):
    """Writes a mask and an overlay of every picture into the run's folder, and, if wanted, a table of run lengths.

    `overlays/<stem>.jpg`, `masks/<class>/<stem>.png` (0 and 255) and `submission.csv` with the columns of Kaggle's,
    `Image_Label,EncodedPixels`, K rows a picture in the order of the data, run lengths as in `ops.rle`. Pictures that
    come in windows are put together first; memory holds a strip of them as high as a window, and, where there is a
    table, the mask of one class at a time, some bytes a pixel. Several processes write their own pictures; the tables
    are merged at the end. All is written into the folder `part` and moved when it is whole, in the place of an earlier
    prediction's.

    Args:
        submission: Whether there is a `submission.csv`.
        folders: Whether each class has a folder of its own in `masks`; otherwise masks of the only class lie there.
    """

    def __init__(self, submission: bool = True, folders: bool = True) -> None:
        self.submission, self.folders = submission, folders
        self._canvas: Canvas | None = None
        self.part = Path()

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Makes the folders and an empty table.

        Raises:
            ValueError: The masks of several classes would overwrite each other.
        """
        self.task = cast(Marker, pl_module)
        self.classes: list[str] = list(self.task.classes)
        if not self.folders and len(self.classes) > 1:
            raise ValueError(f"folders is false and the classes are {self.classes}; one class was wanted, or folders")
        self.part = new_part(trainer, ["overlays", *map(self._masks_of, self.classes)])
        self._table(trainer.global_rank).write_text("")

    def _masks_of(self, label: str) -> str:
        return f"masks/{label}" if self.folders else "masks"

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leaves nothing that is half written."""
        self._close()
        remove_part(trainer, self.part)

    def _table(self, rank: int) -> Path:
        return self.part / f"rows{rank}.csv"

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Writes a batch."""
        for i, name in enumerate(batch["name"]):
            origin, size, window = (_pair(batch[key][i]) for key in ("origin", "size", "window"))
            if origin == (0, 0):
                self._close()
                self._canvas = Canvas(self.task, size, window, batch["overlap"][i], self.part)
            assert self._canvas is not None  # the first window of a picture lies at its beginning
            if self._canvas.add(outputs["probability"][i], origin):
                self._write(self._canvas, name, int(batch["index"][i]), batch["source"][i], trainer.global_rank)
                self._close()

    def _close(self) -> None:
        if self._canvas is not None:
            self._canvas.close()
        self._canvas = None

    def _write(self, canvas: Canvas, name: str, index: int, source: Picture, rank: int) -> None:
        stem, reduced = Path(name).stem, []
        for k, label in enumerate(self.classes):
            reduced.append(ReducedMask(canvas.size, source.shape[:2]))
            with mask_file(self.part / self._masks_of(label) / f"{stem}.png", canvas.size) as append:
                for band in canvas.bands(k):
                    append(band)
                    reduced[k].add(band)
            if self.submission:
                # run lengths go down the columns, so that they want the whole mask
                runs = encode(np.concatenate(list(canvas.bands(k))))
                with self._table(rank).open("a", newline="") as file:
                    csv.writer(file).writerow([index, f"{name}_{label}", runs])
        drawn = overlay(source, np.stack([each.mask for each in reduced]))
        picture = labelled(drawn, self.classes, [each.present for each in reduced])
        save_picture(picture, self.part / "overlays" / f"{stem}.jpg")

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Merges the tables in the order of the data, and moves all to its place."""
        trainer.strategy.barrier()
        if not trainer.is_global_zero:
            return
        self._merge(trainer.world_size)
        count = len(list((self.part / "overlays").iterdir()))
        rank_zero_info(f"Pictures predicted: {count}.{place(self.part)}")

    def _merge(self, world_size: int) -> None:
        rows: list[list[str]] = []
        csv.field_size_limit(1 << 30)
        for rank in range(world_size):
            with self._table(rank).open(newline="") as file:
                rows.extend(csv.reader(file))
            self._table(rank).unlink()
        if self.submission:
            rows.sort(key=lambda row: int(row[0]))  # stable: the classes of a picture stay in order
            with (self.part / "submission.csv").open("w", newline="") as file:
                csv.writer(file, lineterminator="\n").writerows(
                    [["Image_Label", "EncodedPixels"], *(row[1:] for row in rows)]
                )


def _pair(numbers: Tensor) -> tuple[int, int]:
    first, second = numbers.tolist()
    return first, second
