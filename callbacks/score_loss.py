"""Where the dice of test images is lost: a table per class, one per image, and a figure."""

from collections.abc import Mapping
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray

from datamodules.batch import Batch
from drawing.charts import new_figure, plain, save_figure
from drawing.pictures import printable
from ops.atomic import write_table
from tasks.base import gathered
from tasks.metrics.score_loss import PIECES
from tasks.segmentation import SegmentationTask

FILES = ("score_loss.csv", "score_loss_images.csv", "score_loss.png")
COLORS = ("#D55E00", "#E69F00", "#CC79A7", "#0072B2", "#56B4E9", "#999999")


class ScoreLoss(Callback):
    """Writes where a segmentation task loses its test dice, which `tasks.metrics.score_loss` splits into pieces.

    - `score_loss.csv`: per class the mean `dice` of the images and the pieces that it lacks; they sum to 1.
    - `score_loss_images.csv`: the same per image and class, from the lowest dice up.
    - `score_loss.png`: the pieces per class as stacked bars.

    Of a task with several passes, these are of the final one.
    """

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Removes an earlier test's files."""
        self._rows: list[tuple[str, NDArray[np.float64]]] = []
        for file in FILES:
            (Path(trainer.default_root_dir) / file).unlink(missing_ok=True)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if isinstance(pl_module, SegmentationTask) and "name" in batch:
            self._rows += zip(batch["name"], pl_module.lost, strict=True)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        shares = gathered(self._rows, trainer.world_size)
        rows = [row for share in shares for row in share if np.isfinite(row[1]).all()]
        self._rows = []
        if not (trainer.is_global_zero and rows and isinstance(pl_module, SegmentationTask)):
            return
        folder, classes = Path(trainer.default_root_dir), list(pl_module.classes)
        lost = np.stack([pieces for _, pieces in rows])  # (images, K, pieces)
        means = dict(zip(classes, lost.mean(axis=0), strict=True))
        if len(classes) > 1:
            means["all classes"] = lost.mean(axis=(0, 1))
        write_table(folder / FILES[0], ("class", "dice", *PIECES, "images"),
                    [[name, *_row(pieces), len(rows)] for name, pieces in means.items()])  # fmt: skip
        cells: list[list[Any]] = [
            [name, label, *_row(pieces[k])]
            for name, pieces in sorted(rows, key=itemgetter(0))
            for k, label in enumerate(classes)
        ]
        cells.sort(key=itemgetter(2))
        write_table(folder / FILES[1], ("image", "class", "dice", *PIECES), cells)
        draw_score_loss(means, folder / FILES[2])
        whole = means[list(means)[-1]]
        largest = np.argsort(-whole, kind="stable")[:3]
        named = ", ".join(f"{_words(PIECES[k])} {whole[k]:.3f}" for k in largest if whole[k] > 0)
        rank_zero_info(f"Dice {1 - whole.sum():.3f}; most is lost by {named or 'nothing'}: {folder / FILES[0]}")


def draw_score_loss(means: Mapping[str, NDArray[np.float64]], path: Path) -> None:
    """Writes a figure of the pieces per class, a stacked bar each."""
    figure = new_figure(8, 1.6 + 0.45 * len(means))
    axes = figure.add_subplot()
    names = list(means)
    starts = np.zeros(len(names))
    for k, (piece, color) in enumerate(zip(PIECES, COLORS, strict=True)):
        widths = np.array([pieces[k] for pieces in means.values()])
        axes.barh(range(len(names)), widths, left=starts, color=color, label=_words(piece), height=0.7)
        starts += widths
    for place, missing in enumerate(starts):
        axes.text(missing, place, f" {missing:.3f}", verticalalignment="center", fontsize=8)
    plain(axes, "Where the dice is lost")
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", color="0.92")
    axes.set_yticks(range(len(names)), [printable(name) for name in names])
    axes.invert_yaxis()
    axes.set_xlim(0, max(0.05, 1.15 * float(starts.max())))
    axes.set_xlabel("1 - dice, mean over the test images")
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    save_figure(figure, path)


def _row(pieces: NDArray[np.float64]) -> list[float]:
    return [round(float(value), 6) for value in (1 - pieces.sum(), *pieces)]


def _words(piece: str) -> str:
    return piece.replace("_", " ")
