"""Draws image, truth and prediction side by side during training."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from callbacks.handover import UsesData
from datamodules.batch import Batch
from drawing import pictures as drawing
from ops.color.coloring import colored, grey
from ops.color.lab import luminance_and_chroma
from ops.errors import ArgumentError
from tasks.base import ImageTask
from tasks.segmentation import SegmentationTask

SIDE = 480  # pixels across an image: three fit across a screen, and outlines stay crisp


class Panels(UsesData):
    """Draws the predictions of the same few validation images, epoch after epoch.

    The panel goes to `<default_root_dir>/panels/epoch_0003.png` (`validate.png` outside of training) and to the
    loggers that show images, Weights & Biases and TensorBoard. Masks of a segmentation task are drawn over the image,
    and stripes over ignored pixels; a predicted `image` stands between its gray input and the original. Other tasks
    have no panel. Images are shown as in their files, where the data module can read them, not as the network gets
    them.

    Args:
        pictures: Number of images, the first ones of the first validation batch; of images that come in windows, one
            per batch, the first ones of all.
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
            self._samples.append({key: _first(value, room) for key, value in batch.items()})

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        samples, self._samples = self._samples, []
        if not samples or not isinstance(pl_module, ImageTask):
            return
        predictions = [_predicted(trainer, pl_module, each) for each in samples]
        originals = [self.data.picture(name, SIDE) if self.data else None
                     for each in samples for name in each.get("name", [""] * len(each["image"]))]  # fmt: skip
        classes = list(getattr(pl_module, "classes", ()))
        panel = _panel(_joined(samples), _joined(predictions), originals, classes)
        if panel is None:
            return
        name = f"epoch_{trainer.current_epoch:04d}" if _fitting(trainer) else "validate"
        drawing.save_picture(panel, Path(trainer.default_root_dir, "panels", f"{name}.png"))
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_image(key="panels", images=[panel], step=trainer.global_step)
            elif isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image("panels", panel, trainer.global_step, dataformats="HWC")


def _fitting(trainer: Trainer) -> bool:
    return trainer.state.fn == TrainerFn.FITTING


def _first(value: Any, count: int) -> Any:
    """Returns the first `count` of a batched value, copied so that the rest of the batch can be freed."""
    if isinstance(value, Tensor) and value.ndim:
        return value[:count].clone()
    return value[:count] if isinstance(value, list | tuple) else value


def _joined(batches: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Returns one batch as it is, and of several what is drawn of segmented images, in lists: sizes may differ."""
    if len(batches) == 1:
        return batches[0]
    drawn = batches[0].keys() & {"image", "mask", "name", "ignored"}
    return {key: [value for batch in batches for value in batch[key]] for key in drawn}


def _predicted(trainer: Trainer, task: ImageTask, samples: Batch) -> dict[str, Any]:
    """Returns the task's predictions in the trainer's precision, and the `mask` of a segmentation task.

    Training's random state stays as it is. During the hook that calls this, Lightning keeps the task in evaluation mode
    without gradients, and restores the mode of every layer afterwards.
    """
    devices = [task.device] if task.device.type == "cuda" else []
    with torch.random.fork_rng(devices), trainer.precision_plugin.val_step_context():
        predicted = task.predict(samples)
        if isinstance(task, SegmentationTask):
            predicted["mask"] = task.masks(predicted["probability"])
        return predicted


def _panel(
    samples: Mapping[str, Any],
    prediction: Mapping[str, Any],
    originals: Sequence[drawing.Picture | None],
    classes: Sequence[str],
) -> drawing.Picture | None:
    """Returns a row per image and a legend of the classes, or None if the task predicts no images.

    Args:
        samples: Batches of `image`, `mask` and others.
        prediction: What the task predicts for them.
        originals: The images as in their files, None where unknown.
        classes: Names of the classes.
    """
    names = samples.get("name")
    if "mask" not in prediction:
        return _colored_panel(samples, prediction, originals, names) if "image" in prediction else None
    images = [_array(image) if original is None else _fitted(original)
              for image, original in zip(samples["image"], originals, strict=True)]  # fmt: skip
    maps = {"truth": samples.get("mask"), "prediction": prediction["mask"]}
    masks = {title: _masks(value, images) for title, value in maps.items() if value is not None}
    overlays = {title: [drawing.overlay(*pair) for pair in zip(images, column, strict=True)]
                for title, column in masks.items()}  # fmt: skip
    ignored = _masks(samples["ignored"], images) if "ignored" in samples else []
    if ignored and "truth" in overlays:
        pairs = zip(overlays["truth"], ignored, strict=True)
        overlays["truth"] = [drawing.hatched(overlay, mask[0]) for overlay, mask in pairs]
    panel = drawing.panel(list(zip(images, *overlays.values(), strict=True)), ["image", *masks], names)
    present = np.any([mask.any(axis=(1, 2)) for column in masks.values() for mask in column], axis=0)
    classes = classes or [f"class {k}" for k in range(len(present))]
    size = drawing.letter_size(max(image.shape[1] for image in images))
    ignoring = any(mask.any() for mask in ignored)
    return np.vstack([panel, drawing.legend(classes, panel.shape[1], present.tolist(), size, ignoring)])


def _colored_panel(
    samples: Mapping[str, Any],
    prediction: Mapping[str, Any],
    originals: Sequence[drawing.Picture | None],
    names: Sequence[str] | None,
) -> drawing.Picture:
    """Returns a row of the gray image, the colored one and the original for each image."""
    rows = []
    for k, original in enumerate(originals):
        inside = _inside(samples["valid"][k, 0]) if "valid" in samples else (slice(None), slice(None))
        image, predicted = (each[k][:, inside[0], inside[1]] for each in (samples["image"], prediction["image"]))
        if original is None:
            rows.append([grey(_array(image)), _array(predicted), _array(image)])
            continue
        shown = _fitted(original)  # with its own luminance: predicted colors are small
        luminance, chroma = luminance_and_chroma(predicted[None].float().clamp(0, 1))
        rows.append([grey(shown), colored(shown, chroma[0], luminance[0]), shown])
    return drawing.panel(rows, ["gray", "prediction", "truth"], names)


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


def _masks(masks: Tensor | Sequence[Tensor], images: Sequence[drawing.Picture]) -> list[drawing.Masks]:
    """Converts tensors (K, H, W) to bool arrays, each at the size of its image."""
    arrays = [(mask > 0.5).cpu().numpy() for mask in masks]
    return [drawing.scaled_masks(array, *image.shape[1::-1]) for array, image in zip(arrays, images, strict=True)]
