"""Picture, truth and prediction side by side, drawn while a task is trained."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from drawing import pictures as drawing
from ops.coloring import grey
from tasks.base import Batch, ImageTask
from tasks.segmentation import SegmentationTask

SIDE = 480  # pixels of a drawn picture's longer side: three fit across a screen, outlines stay crisp


class Panels(Callback):
    """Draws what the task makes of the same few validation pictures, epoch after epoch.

    The panel is written to `<default_root_dir>/panels/epoch_0003.png` (`validate.png` where no epoch is
    trained) and shown by those of the trainer's loggers that can show pictures, Weights & Biases and
    TensorBoard. A predicted `mask` is drawn over the picture, a predicted `image` between the grey that it was made of
    and the picture; a task that predicts neither has no panel.

    Args:
        pictures: How many pictures: the first ones of the first validation batch.
        every_n_epochs: After how many epochs a panel is drawn; 5 draws after epochs 4, 9, 14, counted from 0.

    Raises:
        ValueError: One of them is below 1.
    """

    def __init__(self, pictures: int = 4, every_n_epochs: int = 1) -> None:
        if pictures < 1 or every_n_epochs < 1:
            raise ValueError(
                f"{pictures=} and {every_n_epochs=} were given, both must be at least 1; "
                "leave the callback out to draw nothing"
            )
        self.pictures = pictures
        self.every_n_epochs = every_n_epochs
        self._samples: Batch | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuses a module that cannot predict.

        Raises:
            TypeError: The module is not an ImageTask.
        """
        if not isinstance(pl_module, ImageTask):
            raise TypeError(
                f"Panels was given a {type(pl_module).__name__}, an ImageTask was wanted: "
                "derive the module from tasks.base.ImageTask or leave the callback out"
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
        """Keeps the first samples of the first batch, where this epoch is drawn."""
        first = batch_idx == 0 and dataloader_idx == 0 and len(batch["image"]) > 0
        due = (trainer.current_epoch + 1) % self.every_n_epochs == 0 or not _fitting(trainer)
        if first and due and trainer.is_global_zero and not trainer.sanity_checking:
            self._samples = {key: _first(value, self.pictures) for key, value in batch.items()}

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Predicts, draws, writes and shows."""
        samples, self._samples = self._samples, None
        if samples is None or not isinstance(pl_module, ImageTask):
            return
        prediction = _predicted(trainer, pl_module, samples)
        panel = _panel(samples, prediction, list(getattr(pl_module, "classes", ())))
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
    """The first `count` of a batched value; a copy, so that the rest of the batch is not kept alive."""
    if isinstance(value, Tensor) and value.ndim:
        return value[:count].clone()
    return value[:count] if isinstance(value, list | tuple) else value


def _predicted(trainer: Trainer, task: ImageTask, samples: Batch) -> dict[str, Any]:
    """What the task predicts in the trainer's precision; the training's random state is left alone.

    Lightning has the task in evaluation mode and without gradients during the hook that calls this, and gives
    every layer its own mode back after it.
    """
    devices = [task.device] if task.device.type == "cuda" else []
    with torch.random.fork_rng(devices), trainer.precision_plugin.val_step_context():
        predicted = task.predict(samples)
        if isinstance(task, SegmentationTask):
            predicted["mask"] = task.masks(predicted["probability"])
        return predicted


def _panel(samples: Batch, prediction: Mapping[str, Any], classes: Sequence[str]) -> drawing.Picture | None:
    """The panel, a row a picture, and the legend of its classes; None where the task predicts no pictures."""
    images, names = _pictures(samples["image"]), samples.get("name")
    if "mask" not in prediction:
        if "image" not in prediction:
            return None
        predicted = prediction["image"]
        if "valid" in samples:  # the colours of padding mean nothing
            predicted = predicted.masked_fill(~samples["valid"], 1)
        rows = zip(map(grey, images), _pictures(predicted), images, strict=True)
        return drawing.panel(list(rows), ["grey", "prediction", "truth"], names)
    maps = {"truth": samples.get("mask"), "prediction": prediction["mask"]}
    masks = {title: _masks(value, images) for title, value in maps.items() if value is not None}
    overlays = [[drawing.overlay(*pair) for pair in zip(images, column, strict=True)] for column in masks.values()]
    panel = drawing.panel(list(zip(images, *overlays, strict=True)), ["picture", *masks], names)
    present = np.any([mask.any(axis=(1, 2)) for column in masks.values() for mask in column], axis=0)
    classes = classes or [f"class {k}" for k in range(len(present))]
    size = drawing.letter_size(max(image.shape[1] for image in images))
    return np.vstack([panel, drawing.legend(classes, panel.shape[1], present.tolist(), size)])


def _pictures(images: Tensor | Sequence[Tensor]) -> list[drawing.Picture]:
    """Tensors (3, H, W) in [0, 1] as arrays (h, w, 3) of bytes, `SIDE` pixels long."""
    arrays = [(image.float().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy() for image in images]
    return [drawing.scaled(np.ascontiguousarray(array), SIDE, SIDE) for array in arrays]


def _masks(masks: Tensor, images: Sequence[drawing.Picture]) -> list[drawing.Masks]:
    """Tensors (K, H, W) as bool, each at the size of its picture."""
    arrays = [(mask > 0.5).cpu().numpy() for mask in masks]
    return [drawing.scaled_masks(array, *image.shape[1::-1]) for array, image in zip(arrays, images, strict=True)]
