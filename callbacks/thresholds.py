"""Thresholds and minimum areas a class, fitted on the validation pictures when training is over."""

import csv
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from tqdm.auto import tqdm

from callbacks.best import BestCheckpoint
from ops.atomic import replacing
from tasks.base import Batch, ImageTask
from tasks.decision import MINIMUM_AREAS, Decision, ThresholdSearch
from tasks.metrics.meter import Step


class FittedThresholds(Callback):
    """Fits a task's `decision` on the best epoch's validation masks.

    Thresholds and minimum areas are written into `best.ckpt`, so that test and predict use them, and into
    `thresholds.csv`. The dice that they reach there is one of the fit; the honest one is that of the test pictures.

    Args:
        minimum_areas: Shares of a picture that are tried, 0 among them; large ones are for many validation pictures.
    """

    def __init__(self, minimum_areas: Sequence[float] = MINIMUM_AREAS) -> None:
        self.minimum_areas = list(minimum_areas)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Goes back to the best epoch, fits, and keeps what was fitted."""
        assert isinstance(pl_module, ImageTask)
        if not go_to_best(trainer, pl_module):
            return
        decision: Decision = pl_module.decision  # type: ignore[assignment]  # a module, as far as nn.Module knows
        fitted = fit_decision(trainer, pl_module, decision, self.minimum_areas)
        keep_in_best(trainer, pl_module, "decision.")
        if trainer.is_global_zero:
            path = Path(trainer.default_root_dir) / "thresholds.csv"
            rank_zero_info(write_table(fitted, pl_module.classes, path))


def go_to_best(trainer: Trainer, task: ImageTask) -> bool:
    """Gives a task the weights of the best epoch, where one is kept, on its device; says whether there is one."""
    path = best_path(trainer)
    if path is not None:
        task.to(trainer.strategy.root_device)  # when training has ended, Lightning has moved it to the host
        task.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["state_dict"])
    return path is not None


def best_path(trainer: Trainer) -> Path | None:
    """The checkpoint of the best epoch."""
    found = (each.best_model_path for each in trainer.checkpoint_callbacks if isinstance(each, BestCheckpoint))
    name = next(found, "")
    return Path(name) if name else None


def keep_in_best(trainer: Trainer, task: ImageTask, prefix: str) -> None:
    """Writes those of a task's weights and buffers whose names begin so into the checkpoint of the best epoch."""
    path = best_path(trainer)
    if path is not None and trainer.is_global_zero:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        chosen = {name: value.cpu() for name, value in task.state_dict().items() if name.startswith(prefix)}
        checkpoint["state_dict"].update(chosen)
        with replacing(path, sync=True) as temporary:
            torch.save(checkpoint, temporary)
    trainer.strategy.barrier()


@torch.no_grad()
def fit_decision(
    trainer: Trainer,
    task: ImageTask,
    decision: Decision,
    minimum_areas: Sequence[float] = MINIMUM_AREAS,
    step: Callable[[Batch], Step] | None = None,
) -> dict[str, Tensor]:
    """The best threshold and minimum area of each class on the validation pictures, at the size of their masks.

    Args:
        trainer: Gives the validation batches and the device.
        task: It has classes.
        decision: Is given what is found.
        minimum_areas: Shares of a picture that are tried, 0 among them.
        step: Its probability is decided about; the task's own step by default.

    Returns:
        `thresholds`, `minimum_areas`, `dice` and `dice_at_half`, (K,) each.
    """
    search = ThresholdSearch(task.classes, minimum_areas=minimum_areas).to(task.device)
    task.eval()
    trainer.validating = True  # data modules do not augment then
    datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]  # untyped there
    if not trainer.num_val_batches:  # training was over already when it was gone on with
        trainer.fit_loop.epoch_loop.val_loop.setup_data()
    count = int(trainer.num_val_batches[0])  # as many as training validated on
    batches = islice(datamodule.val_dataloader(), count)
    for batch in tqdm(batches, "Fitting thresholds", count, disable=not trainer.is_global_zero, leave=False):
        batch = trainer.strategy.batch_to_device(batch)  # runs the data module's hooks too
        with trainer.precision_plugin.forward_context():
            found = (step or task.step)(batch)
        assert found.probability is not None
        search.update(found.probability, found.target)
    # torchmetrics makes scalars of what has one entry
    fitted = {name: value.reshape(-1) for name, value in search.compute().items()}
    decision.thresholds.copy_(fitted["thresholds"])
    decision.minimum_areas.copy_(fitted["minimum_areas"])
    return fitted


def write_table(fitted: dict[str, Tensor], classes: Sequence[str], path: Path) -> str:
    """Writes what was fitted, a row a class, and returns it in words."""
    columns = ("thresholds", "minimum_areas", "dice_at_half", "dice")
    rows = [
        [name, *(round(float(fitted[column][index]), 4) for column in columns)] for index, name in enumerate(classes)
    ]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["class", "threshold", "minimum_area", "dice_at_half", "dice_fitted"], *rows])
    return "Fitted on the validation pictures:\n" + "\n".join(
        f"  {name:<10} threshold {threshold:.2f}, minimum area {area:.2%} of the picture: dice {half:.4f} -> {dice:.4f}"
        for name, threshold, area, half, dice in rows
    )
