"""Writes what `predict` found: tables for machines, pictures for people."""

import csv
import shutil
from pathlib import Path
from typing import Any, cast

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from callbacks.drawing import labelled, overlay, save_picture, scaled_masks
from ops.rle import encode
from tasks.base import Batch


class SegmentationWriter(Callback):
    """Writes `submission.csv`, `overlays/<stem>.jpg` and `masks/<class>/<stem>.png` into the run's folder.

    `submission.csv` has the columns of Kaggle's, `Image_Label,EncodedPixels`, K rows a picture in the order of the
    data, run lengths as in `ops.rle`. Several processes write their own pictures; the tables are merged at the end.
    All is written into the folder `part` and moved when it is whole, in the place of an earlier prediction's.
    """

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Makes the folders and an empty table."""
        self.folder = Path(trainer.strategy.broadcast(trainer.default_root_dir))
        self.part = self.folder / "part"
        self.task = cast(Any, pl_module)  # any task with classes whose `masks` decides by probabilities
        self.classes: list[str] = list(self.task.classes)
        if trainer.is_global_zero:
            shutil.rmtree(self.part, ignore_errors=True)
            for name in ("overlays", *(f"masks/{name}" for name in self.classes)):
                (self.part / name).mkdir(parents=True)
        trainer.strategy.barrier()
        self._table(trainer.global_rank).write_text("")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leaves nothing that is half written."""
        if trainer.predicting and trainer.is_global_zero:
            shutil.rmtree(self.part, ignore_errors=True)

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
        rows = []
        for i, name in enumerate(batch["name"]):
            size = batch["size"][i].tolist()
            masks = self.task.masks(outputs["probability"][i : i + 1], size)[0].cpu().numpy()
            source = batch["source"][i]
            drawn = overlay(source, scaled_masks(masks, source.shape[1], source.shape[0]))
            stem = Path(name).stem
            save_picture(
                labelled(drawn, self.classes, masks.any(axis=(1, 2)).tolist()),
                self.part / "overlays" / f"{stem}.jpg",
            )
            for label, mask in zip(self.classes, masks, strict=True):
                save_picture(mask.astype(np.uint8) * 255, self.part / "masks" / label / f"{stem}.png")
                rows.append([int(batch["index"][i]), f"{name}_{label}", encode(mask)])
        with self._table(trainer.global_rank).open("a", newline="") as file:
            csv.writer(file).writerows(rows)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Merges the tables in the order of the data."""
        trainer.strategy.barrier()
        if not trainer.is_global_zero:
            return
        rows: list[list[str]] = []
        csv.field_size_limit(1 << 30)
        for rank in range(trainer.world_size):
            with self._table(rank).open(newline="") as file:
                rows.extend(csv.reader(file))
            self._table(rank).unlink()
        rows.sort(key=lambda row: int(row[0]))  # stable: the classes of a picture stay in order
        with (self.part / "submission.csv").open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(
                [["Image_Label", "EncodedPixels"], *(row[1:] for row in rows)]
            )
        for written in sorted(self.part.iterdir()):
            place = self.folder / written.name
            if place.is_dir():
                shutil.rmtree(place)
            written.replace(place)
        self.part.rmdir()
        rank_zero_info(
            f"Pictures predicted: {len(rows) // len(self.classes)}.\n  {self.folder / 'submission.csv'}\n"
            f"  {self.folder / 'overlays'}\n  {self.folder / 'masks'}"
        )
