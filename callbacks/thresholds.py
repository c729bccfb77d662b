"""Thresholds and minimum areas a class, fitted on the validation pictures when training is over."""

import csv
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from tqdm.auto import tqdm

from callbacks.best import BestCheckpoint
from tasks.base import ImageTask
from tasks.thresholds import ThresholdSearch


class FittedThresholds(Callback):
    """Fits a task's `thresholds` and `minimum_areas` on the best epoch's validation masks.

    They are written into `best.ckpt`, so that test and predict use them, and into `thresholds.csv`. The dice
    that they reach there is a figure of the fit; the honest one is that of the test pictures.
    """

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Goes back to the best epoch, fits, and keeps what was fitted."""
        best = next(
            (each.best_model_path for each in trainer.checkpoint_callbacks if isinstance(each, BestCheckpoint)), ""
        )
        if not best:
            return
        assert isinstance(pl_module, ImageTask)
        checkpoint = torch.load(best, map_location="cpu", weights_only=True)
        pl_module.load_state_dict(checkpoint["state_dict"])
        fitted = fit_thresholds(trainer, pl_module)
        for name in ("thresholds", "minimum_areas"):
            buffer: Tensor = getattr(pl_module, name)
            buffer.copy_(fitted[name])
            checkpoint["state_dict"][name] = buffer.cpu()
        if trainer.is_global_zero:
            temporary = Path(f"{best}.part")
            torch.save(checkpoint, temporary)
            temporary.replace(best)
            _write_table(fitted, pl_module.classes, Path(trainer.default_root_dir) / "thresholds.csv")
        trainer.strategy.barrier()


@torch.no_grad()
def fit_thresholds(trainer: Trainer, task: ImageTask) -> dict[str, Tensor]:
    """The best threshold and minimum area of each class on the validation pictures, at the size of their masks.

    Args:
        trainer: Gives the validation batches and the device.
        task: Its steps have a probability, and it has classes.

    Returns:
        `thresholds`, `minimum_areas`, `dice` and `dice_at_half`, (K,) each.
    """
    search = ThresholdSearch(task.classes).to(task.device)
    task.eval()
    trainer.validating = True  # data modules do not augment then
    datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]  # untyped there
    count = int(trainer.num_val_batches[0])  # as many as training validated on
    batches = islice(datamodule.val_dataloader(), count)
    for batch in tqdm(batches, "Fitting thresholds", count, disable=not trainer.is_global_zero, leave=False):
        batch = trainer.strategy.batch_to_device(batch)  # runs the data module's hooks too
        with trainer.precision_plugin.forward_context():
            step = task.step(batch)
        assert step.probability is not None
        search.update(step.probability, step.target)
    # torchmetrics makes scalars of what has one entry
    return {name: value.reshape(-1) for name, value in search.compute().items()}


def _write_table(fitted: dict[str, Tensor], classes: Sequence[str], path: Path) -> None:
    columns = ("thresholds", "minimum_areas", "dice_at_half", "dice")
    rows = [
        [name, *(round(float(fitted[column][index]), 4) for column in columns)] for index, name in enumerate(classes)
    ]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["class", "threshold", "minimum_area", "dice_at_half", "dice_fitted"], *rows])
    rank_zero_info("Fitted on the validation pictures:\n" + "\n".join(
        f"  {name:<10} threshold {threshold:.2f}, minimum area {area:.2%} of the picture: dice {half:.4f} -> {dice:.4f}"
        for name, threshold, area, half, dice in rows))  # fmt: skip
