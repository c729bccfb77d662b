"""Draws image, truth and prediction side by side during training."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from datamodules.batch import Batch
from drawing import pictures as drawing
from ops.color.coloring import grey
from ops.errors import ArgumentError
from tasks.base import ImageTask
from tasks.segmentation import SegmentationTask

SIDE = 480  # pixels of the longer side of an image: three fit across a screen, and outlines stay crisp


class Panels(Callback):
    """Draws the predictions of the same few validation images, epoch after epoch.

    The panel goes to `<default_root_dir>/panels/epoch_0003.png` (`validate.png` outside of training) and to the
    loggers that show images, Weights & Biases and TensorBoard. Masks of a segmentation task are drawn over the image; a
    predicted `image` stands between its gray input and the original. Other tasks have no panel.

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
        panel = _panel(_joined(samples), _joined(predictions), list(getattr(pl_module, "classes", ())))
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
    drawn = batches[0].keys() & {"image", "mask", "name"}
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


def _panel(samples: Mapping[str, Any], prediction: Mapping[str, Any], classes: Sequence[str]) -> drawing.Picture | None:
    """Returns a row per image and a legend of the classes, or None if the task predicts no images."""
    images, names = _arrays(samples["image"]), samples.get("name")
    if "mask" not in prediction:
        if "image" not in prediction:
            return None
        predicted = prediction["image"]
        if "valid" in samples:  # colors of padding mean nothing
            predicted = predicted.masked_fill(~samples["valid"], 1)
        rows = zip(map(grey, images), _arrays(predicted), images, strict=True)
        return drawing.panel(list(rows), ["gray", "prediction", "truth"], names)
    maps = {"truth": samples.get("mask"), "prediction": prediction["mask"]}
    masks = {title: _masks(value, images) for title, value in maps.items() if value is not None}
    overlays = [[drawing.overlay(*pair) for pair in zip(images, column, strict=True)] for column in masks.values()]
    panel = drawing.panel(list(zip(images, *overlays, strict=True)), ["image", *masks], names)
    present = np.any([mask.any(axis=(1, 2)) for column in masks.values() for mask in column], axis=0)
    classes = classes or [f"class {k}" for k in range(len(present))]
    size = drawing.letter_size(max(image.shape[1] for image in images))
    return np.vstack([panel, drawing.legend(classes, panel.shape[1], present.tolist(), size)])


def _arrays(images: Tensor | Sequence[Tensor]) -> list[drawing.Picture]:
    """Converts tensors (3, H, W) in [0, 1] to uint8 arrays (h, w, 3), `SIDE` pixels long."""
    arrays = [(image.float().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy() for image in images]
    return [drawing.scaled(np.ascontiguousarray(array), SIDE, SIDE) for array in arrays]


def _masks(masks: Tensor, images: Sequence[drawing.Picture]) -> list[drawing.Masks]:
    """Converts tensors (K, H, W) to bool arrays, each at the size of its image."""
    arrays = [(mask > 0.5).cpu().numpy() for mask in masks]
    return [drawing.scaled_masks(array, *image.shape[1::-1]) for array, image in zip(arrays, images, strict=True)]
