"""Draws image, truth and prediction side by side, of validation images during training and of test images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.nn.functional import max_pool2d

from callbacks.handover import UsesData
from callbacks.writers.segmentation.polygons import drawn_polygon, outlined
from datamodules.batch import Batch
from drawing import pictures as drawing
from drawing.charts import shares_chart
from ops.color.coloring import colored, grey
from ops.color.lab import luminance_and_chroma
from ops.errors import ArgumentError
from ops.exact.edges import canny
from ops.files.names import safe_path
from tasks.base import ImageTask
from tasks.segmentation import SegmentationTask

SIDE = 480  # pixels across an image: three fit across a screen, and outlines stay crisp
Row = dict[str, drawing.Picture]
"""Images by title: `input`, `truth` if it is known, `prediction`, then the steps to it, if the task has any."""
SHOWN = ("input", "truth", "prediction")
CHART = SIDE * 2 // 3  # pixels down a chart of votes


class Panels(UsesData):
    """Draws the predictions of a few images: the same validation images epoch after epoch, then test images.

    In training, the panel goes to `<default_root_dir>/panels/epoch_0003.png` (`validate.png` outside of training). In a
    test it goes to `panel.png`, and each image of it to `panels/<path and stem>/<number>_<title>.jpg`, also the steps
    to a prediction, such as an avalanche's masks, their edges and its polygon. Loggers that show images, Weights &
    Biases and TensorBoard, get every panel.

    Masks of a segmentation task are drawn over the image, and stripes over ignored pixels. A predicted `image` follows
    its gray input and the original. Votes and a predicted judgement are bars. Images are shown as in their files, where
    the data module can read them, not as the network gets them.

    Args:
        pictures: Number of images. In validation, the first ones of the first batch; of images that come in windows,
            one per batch, the first ones of all. In a test, evenly spaced ones of the sorted names.
        every_n_epochs: Draw after every n-th epoch; 5 draws after epochs 4, 9, 14, counted from 0.

    Raises:
        ArgumentError: One of them is below 1.
    """

    def __init__(self, pictures: int = 4, every_n_epochs: int = 1) -> None:
        if pictures < 1 or every_n_epochs < 1:
            raise ArgumentError(
                f"expected pictures and every_n_epochs of at least 1, got {pictures} and {every_n_epochs}; remove the "
                "callback to draw nothing"
            )
        self.pictures = pictures
        self.every_n_epochs = every_n_epochs
        self._samples: list[Batch] = []
        self._wanted: set[str] = set()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if not isinstance(pl_module, ImageTask):
            raise TypeError(
                f"Panels expected an ImageTask, got {type(pl_module).__name__}; derive the module from "
                "tasks.base.ImageTask or remove the callback"
            )

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        room = self.pictures - sum(len(each["image"]) for each in self._samples)
        first = (batch_idx == 0 or "windows" in batch) and dataloader_idx == 0 and len(batch["image"]) > 0 < room
        due = (trainer.current_epoch + 1) % self.every_n_epochs == 0 or not _fitting(trainer)
        if first and due and trainer.is_global_zero and not trainer.sanity_checking:
            self._samples.append(_chosen(batch, range(min(room, len(batch["image"])))))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        name = f"epoch_{trainer.current_epoch:04d}" if _fitting(trainer) else "validate"
        self._draw(trainer, pl_module, "panels", Path("panels", f"{name}.png"))

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Chooses the images: the same ones for every task that is tested on these data."""
        names = sorted(self.data.picture_names().get("test", ())) if self.data else []
        spread = np.linspace(0, len(names) - 1, min(self.pictures, len(names)))
        self._wanted = {names[round(place)] for place in spread}

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        rows = [row for row, name in enumerate(batch.get("name", ())) if name in self._wanted]
        if rows and trainer.is_global_zero:
            self._wanted -= {batch["name"][row] for row in rows}  # not every window of an image
            self._samples.append(_chosen(batch, rows))

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._draw(trainer, pl_module, "test/panel", Path("panel.png"), parts=True)

    def _draw(self, trainer: Trainer, task: LightningModule, key: str, file: Path, parts: bool = False) -> None:
        """Draws the samples, and with `parts` also writes every image of the panel."""
        samples, self._samples = self._samples, []
        if not samples or not isinstance(task, ImageTask):
            return
        folder = Path(trainer.default_root_dir)
        names = [name for each in samples for name in each.get("name", [""] * len(each["image"]))]
        rows: list[Row] = []
        marked = Marked(getattr(task, "classes", ()))
        edges = task.edge_thresholds if isinstance(task, SegmentationTask) else None
        for each in samples:
            named = names[len(rows) : len(rows) + len(each["image"])]
            originals = [self.data.picture(name, SIDE) if self.data else None for name in named]
            rows += _rows(each, _predicted(trainer, task, each, parts), originals, marked, edges if parts else None)
        if not rows:
            return
        titles = [title for title in SHOWN if title in rows[0]]
        grid = [[row[title] for title in titles] for row in rows]
        panel = drawing.panel(grid, titles, names if "name" in samples[0] else None)
        if marked.present:
            size = drawing.letter_size(max(row["input"].shape[1] for row in rows))
            strip = drawing.legend(marked.names, panel.shape[1], marked.present, size, marked.ignoring)
            panel = np.vstack([panel, strip])
        drawing.save_picture(panel, folder / file)
        for name, row in zip(names, rows, strict=True) if parts else ():
            for number, (title, image) in enumerate(row.items()):
                place = folder / "panels" / safe_path(name, "") / f"{number}_{title.replace(' ', '_')}.jpg"
                drawing.save_picture(image, place)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_image(key=key, images=[panel], step=trainer.global_step)
            elif isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image(key, panel, trainer.global_step, dataformats="HWC")


class Marked:
    """Collects for the legend which classes are marked in any image.

    Args:
        classes: Names of the classes, if they are known.

    Attributes:
        present: Whether each class is marked; empty without masks.
        ignoring: Whether pixels are ignored.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = list(classes)
        self.present: list[bool] = []
        self.ignoring = False

    @property
    def names(self) -> list[str]:
        """Names of the classes."""
        return self.classes or [f"class {k}" for k in range(len(self.present))]

    def add(self, masks: drawing.Masks) -> None:
        """Adds the masks (K, H, W) of an image."""
        found = [bool(mask.any()) for mask in masks]
        self.present = [a or b for a, b in zip(self.present or [False] * len(found), found, strict=True)]


def _fitting(trainer: Trainer) -> bool:
    return trainer.state.fn == TrainerFn.FITTING


def _chosen(batch: Batch, rows: Sequence[int]) -> Batch:
    """Returns some images of a batch, copied so that the rest can be freed."""
    chosen: Batch = {}
    for key, value in batch.items():
        if isinstance(value, Tensor) and value.ndim:
            chosen[key] = value[list(rows)]
        else:
            chosen[key] = [value[row] for row in rows] if isinstance(value, list | tuple) else value
    return chosen


def _predicted(trainer: Trainer, task: ImageTask, samples: Batch, steps: bool) -> dict[str, Any]:
    """Returns the task's predictions in the trainer's precision; the `mask` of a segmentation task, `shares` of votes.

    With `steps`, a task of several passes makes them all.

    Training's random state stays as it is. During the hook that calls this, Lightning keeps the task in evaluation mode
    without gradients, and restores the mode of every layer afterwards.
    """
    devices = [task.device] if task.device.type == "cuda" else []
    with torch.random.fork_rng(devices), trainer.precision_plugin.val_step_context():
        if "votes" in samples:
            return {"shares": task.probability(samples)}
        with task.with_stages(steps):
            predicted = task.predict(samples)
        if isinstance(task, SegmentationTask):
            predicted["mask"] = task.masks(predicted["probability"])
        return predicted


def _rows(
    samples: Batch,
    prediction: dict[str, Any],
    originals: Sequence[drawing.Picture | None],
    marked: Marked,
    steps: tuple[float, float] | None,
) -> list[Row]:
    """Returns what to show of each image; nothing if the task predicts no images, masks or votes.

    Args:
        samples: A batch.
        prediction: What the task predicts for it.
        originals: The images as in their files, None where unknown.
        marked: Gets the classes.
        steps: Canny's thresholds of the true edges, to show the steps to the prediction too; None shows none.
    """
    if "mask" in prediction:
        return [_marked_row(samples, prediction, k, each, marked, steps) for k, each in enumerate(originals)]
    if "image" in prediction:
        return [_colored_row(samples, prediction, k, each) for k, each in enumerate(originals)]
    if "shares" in prediction:
        return [_judged_row(samples, prediction, k, each) for k, each in enumerate(originals)]
    return []


def _marked_row(
    samples: Batch,
    prediction: dict[str, Any],
    k: int,
    original: drawing.Picture | None,
    marked: Marked,
    steps: tuple[float, float] | None,
) -> Row:
    image = _array(samples["image"][k]) if original is None else _fitted(original)
    row = {"input": image}
    for title, maps in (("truth", samples.get("mask")), ("prediction", prediction["mask"])):
        if maps is not None:
            masks = _masks(maps[k], image)
            marked.add(masks)
            row[title] = drawing.overlay(image, masks)
    if "ignored" in samples and "truth" in row:
        ignored = _masks(samples["ignored"][k], image)[0]
        marked.ignoring |= bool(ignored.any())
        row["truth"] = drawing.hatched(row["truth"], ignored)
    if steps and "stages" in prediction and "mask" in samples:
        row |= _steps(image, samples["mask"][k], prediction, k, steps)
    return row


def _steps(
    image: drawing.Picture, truth: Tensor, prediction: dict[str, Any], k: int, thresholds: tuple[float, float]
) -> Row:
    """Returns the truth as outline, mask and edges, the steps to the prediction in order, and its polygon."""
    edges = canny((truth[None] > 0.5).byte() * 255, *thresholds)[0]
    row = {"reference": drawing.overlay(image, _masks(truth, image), opacity=0), "true mask": _level(truth, image)}
    for name, stage in prediction["stages"].items():
        if not name.endswith("probability"):
            row[name.replace("_", " ")] = _level(stage[k], image)
        if name.endswith("edges") and "true edges" not in row:
            row["true edges"] = _level(edges, image)
    mask = prediction["mask"][k, 0].cpu().numpy()
    row["polygon"] = drawn_polygon(image, mask, outlined(mask, outline="clean").rings)
    return row


def _colored_row(samples: Batch, prediction: dict[str, Any], k: int, original: drawing.Picture | None) -> Row:
    inside = _inside(samples["valid"][k, 0]) if "valid" in samples else (slice(None), slice(None))
    image, predicted = (each[k][:, inside[0], inside[1]] for each in (samples["image"], prediction["image"]))
    if original is None:
        return {"input": grey(_array(image)), "truth": _array(image), "prediction": _array(predicted)}
    shown = _fitted(original)  # with its own luminance: predicted colors are small
    luminance, chroma = luminance_and_chroma(predicted[None].float().clamp(0, 1))
    return {"input": grey(shown), "truth": shown, "prediction": colored(shown, chroma[0], luminance[0])}


def _judged_row(samples: Batch, prediction: dict[str, Any], k: int, original: drawing.Picture | None) -> Row:
    image = _array(samples["image"][k]) if original is None else _fitted(original)
    votes, shares = samples["votes"][k].float(), prediction["shares"][k].float()
    charts = {"truth": (votes / votes.sum()).tolist(), "prediction": shares.tolist()}
    return {"input": image, **{title: shares_chart(values, SIDE, CHART) for title, values in charts.items()}}


def _inside(valid: Tensor) -> tuple[slice, slice]:
    """Returns the rows and columns (H, W) that are not padding."""
    rows, columns = (valid.any(dim=dim).nonzero()[:, 0] for dim in (1, 0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _array(image: Tensor) -> drawing.Picture:
    """Converts a tensor (3, H, W) in [0, 1] to a uint8 array (h, w, 3) that fits a cell."""
    image = image[:3] if len(image) != 2 else image[:1].expand(3, -1, -1)  # a raster's first three bands
    array = (image.float().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    return _fitted(np.ascontiguousarray(array))


def _fitted(image: drawing.Picture) -> drawing.Picture:
    """Returns the image as large as a cell, `SIDE` pixels wide."""
    return drawing.scaled(image, SIDE, round(drawing.TALLEST * SIDE))


def _masks(masks: Tensor, image: drawing.Picture) -> drawing.Masks:
    """Converts a tensor (K, H, W) to a bool array at the size of its image."""
    return drawing.scaled_masks((masks > 0.5).cpu().numpy(), *image.shape[1::-1])


def _level(stage: Tensor, image: drawing.Picture) -> drawing.Picture:
    """Converts a map (1 or 3, H, W) in [0, 1] to an image; thin lines stay visible where it is reduced."""
    array = (stage.float().clamp(0, 1) * 255).round().byte()
    down = max(1, -(-array.shape[-1] // image.shape[1]))
    if down > 1:
        array = max_pool2d(array.float(), down, ceil_mode=True).byte()
    levels = array.expand(3, -1, -1).permute(1, 2, 0).cpu().numpy()
    return drawing.scaled(np.ascontiguousarray(levels), *image.shape[1::-1])
