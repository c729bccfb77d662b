"""Fits thresholds and minimum areas per class on the validation images after training."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TypeAlias

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from callbacks.best import best_checkpoint
from callbacks.handover import UsesData
from callbacks.resuming import validation_batches
from datamodules.batch import Batch
from ops.atomic import write_table
from ops.files.tensors import write_tensors
from ops.progress import progress
from tasks.base import ImageTask
from tasks.decision import HALF, MINIMUM_AREAS, Decision, ThresholdSearch
from tasks.segmentation import SegmentationTask, known

FILES = ("thresholds.csv", "second_thresholds.csv")  # of the groups of passes, in the order in which they are fitted
Fitted: TypeAlias = dict[str, Tensor]
"""Fitted values of one pass, (K,) each, by name."""


class FittedThresholds(UsesData):
    """Fits a task's `decision` on the validation masks with the best epoch's weights.

    A task with several passes has those of each fitted, and the dice of each stored, which chooses the final pass.

    Thresholds and minimum areas go into `best.ckpt`, where test and predict find them, and into `thresholds.csv`. The
    dice in that table is optimistic, because it is measured on the images that were fitted on; report the test's. A
    task that was given another threshold than 0.5 keeps it, and fits nothing.

    Args:
        minimum_areas: Shares of an image to try, 0 among them. Large ones need many validation images.
        caution: Keeps 0.5 and 0 unless others gain more than this many standard errors; for few validation images. See
            `tasks.decision.ThresholdSearch`.

    Raises:
        ValueError: `caution` is negative, or 0 is not among the areas.
    """

    def __init__(self, minimum_areas: Sequence[float] = MINIMUM_AREAS, caution: float = 0.0) -> None:
        ThresholdSearch(("",), minimum_areas=minimum_areas, caution=caution)  # rejects them before training
        self.minimum_areas, self.caution = list(minimum_areas), caution

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Loads the best epoch, fits, and writes the result into its checkpoint."""
        assert isinstance(pl_module, SegmentationTask)
        if not go_to_best(trainer, pl_module):
            return
        given = pl_module.decision.initial_threshold
        if given != HALF:
            rank_zero_info(f"The threshold was given, {given}: neither it nor a minimum area is fitted.")
            return
        order = pl_module.fit_order()
        for decisions, file in zip(order, FILES, strict=False):
            batches = self.source().unaugmented("val")
            fitted = fit_decisions(trainer, pl_module, decisions, batches, self.minimum_areas, self.caution)
            if trainer.is_global_zero:
                path = Path(trainer.default_root_dir) / file
                rank_zero_info(write_fitted(fitted, pl_module.classes, path, self.caution))
        keep_in_best(trainer, pl_module, pl_module.fitted_keys)
        if len(order) > 1:
            rank_zero_info(f"Predict will write the pass {pl_module.final!r}, chosen on the validation images.")


def go_to_best(trainer: Trainer, task: ImageTask) -> bool:
    """Loads the weights of the best epoch into a task on its device; returns whether there is a best epoch."""
    path = best_path(trainer)
    if path is not None:
        task.to(trainer.strategy.root_device)  # Lightning moves it to the host when training ends
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        task.on_load_checkpoint(checkpoint)
        task.load_state_dict(checkpoint["state_dict"])
    return path is not None


def best_path(trainer: Trainer) -> Path | None:
    """Returns the checkpoint of the best epoch."""
    best = best_checkpoint(trainer)
    return Path(best.best_model_path) if best is not None and best.best_model_path else None


def keep_in_best(trainer: Trainer, task: ImageTask, prefixes: Sequence[str]) -> None:
    """Writes a task's weights and buffers with these prefixes into the checkpoint of the best epoch."""
    path = best_path(trainer)
    if path is not None and trainer.is_global_zero:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        chosen = {name: value.cpu() for name, value in task.state_dict().items() if name.startswith(tuple(prefixes))}
        checkpoint["state_dict"].update(chosen)
        write_tensors(path, checkpoint, sync=True)
    trainer.strategy.barrier()


@torch.no_grad()
def fit_decisions(
    trainer: Trainer,
    task: SegmentationTask,
    decisions: Mapping[str, Decision],
    batches: Iterable[Batch],
    minimum_areas: Sequence[float] = MINIMUM_AREAS,
    caution: float = 0.0,
) -> dict[str, Fitted]:
    """Finds and sets the best threshold and minimum area of each class, at the size of the masks.

    Args:
        trainer: Supplies the precision, and how many validation batches training used.
        task: Stores the dice of its passes.
        decisions: The task's decisions to fit, by the name of their pass; they are changed.
        batches: This process's validation batches on its device.
        minimum_areas: Shares of an image to try, 0 among them.
        caution: See `tasks.decision.ThresholdSearch`.

    Returns:
        `thresholds`, `minimum_areas`, `presence_thresholds` of a presence head, `dice` and `dice_at_half`, (K,) each,
        by pass.
    """
    searches = {
        name: ThresholdSearch(
            task.classes, minimum_areas=minimum_areas, caution=caution, presence=decision.presence
        ).to(task.device)
        for name, decision in decisions.items()
    }
    task.eval()
    count = validation_batches(trainer)
    for batch in progress(islice(batches, count), "Fitting thresholds", count, trainer.is_global_zero):
        with trainer.precision_plugin.forward_context():
            probabilities, presence = task.passes(batch, decisions), task.presence(batch)
        for name, probability in probabilities.items():
            searches[name].update(probability, task.target(batch), known(batch), presence)
    # torchmetrics makes scalars of values with one entry
    fitted = {
        name: {column: value.reshape(-1) for column, value in search.compute().items()}
        for name, search in searches.items()
    }
    for name, decision in decisions.items():
        decision.thresholds.copy_(fitted[name]["thresholds"])
        decision.minimum_areas.copy_(fitted[name]["minimum_areas"])
        if decision.presence:
            decision.presence_thresholds.copy_(fitted[name]["presence_thresholds"])
    task.keep_dice({name: float(columns["dice"].mean()) for name, columns in fitted.items()})
    return fitted


def write_fitted(passes: Mapping[str, Fitted], classes: Sequence[str], path: Path, caution: float = 0.0) -> str:
    """Writes one row per pass and class and returns the same as text, which says where the defaults were kept."""
    columns = {"threshold": "thresholds", "minimum_area": "minimum_areas", "presence": "presence_thresholds",
               "dice_at_half": "dice_at_half", "dice_fitted": "dice"}  # fmt: skip
    rows = [
        {"pass": each, "class": name}
        | {title: round(float(fitted[key][index]), 4) for title, key in columns.items() if key in fitted}
        for each, fitted in passes.items()
        for index, name in enumerate(classes)
    ]
    several = path.name == FILES[1]
    header = [title for title in rows[0] if several or title != "pass"]
    write_table(path, header, [[row[title] for title in header] for row in rows])
    better = f" by more than {caution:g} standard errors (caution)" if caution else ""
    lines = []
    for row in rows:
        label = f"{row['class']}, {row['pass']}" if several else row["class"]
        presence = f", presence {row['presence']:.2f}" if "presence" in row else ""
        found = (
            f"  {label:<10} threshold {row['threshold']:.2f}, minimum area {row['minimum_area']:.2%} of the image"
            f"{presence}: dice {row['dice_at_half']:.4f}"
        )
        kept = (row["threshold"], row["minimum_area"], row.get("presence", 0)) == (HALF, 0, 0)
        lines.append(f"{found}, kept: no other is better{better}" if kept else f"{found} -> {row['dice_fitted']:.4f}")
    return "Thresholds on the validation images:\n" + "\n".join(lines)
