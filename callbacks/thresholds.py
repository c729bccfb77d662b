"""Fits thresholds and minimum areas per class on the validation images after training."""

from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from callbacks.best import BestCheckpoint
from callbacks.handover import UsesData
from callbacks.resuming import validation_batches
from datamodules.batch import Batch
from ops.atomic import replacing, write_table
from ops.progress import progress
from tasks.base import ImageTask
from tasks.decision import HALF, MINIMUM_AREAS, ThresholdSearch
from tasks.segmentation import SegmentationTask, known


class FittedThresholds(UsesData):
    """Fits a task's `decision` on the validation masks with the best epoch's weights.

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
        given = pl_module.active_decision.initial_threshold
        if given != HALF:
            rank_zero_info(f"The threshold was given, {given}: neither it nor a minimum area is fitted.")
            return
        batches = self.source().unaugmented("val")
        fitted = fit_decision(trainer, pl_module, batches, self.minimum_areas, self.caution)
        keep_in_best(trainer, pl_module, "decision.")
        if trainer.is_global_zero:
            path = Path(trainer.default_root_dir) / "thresholds.csv"
            rank_zero_info(write_fitted(fitted, pl_module.classes, path, self.caution))


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
    found = (each.best_model_path for each in trainer.checkpoint_callbacks if isinstance(each, BestCheckpoint))
    name = next(found, "")
    return Path(name) if name else None


def keep_in_best(trainer: Trainer, task: ImageTask, prefix: str) -> None:
    """Writes a task's weights and buffers with this prefix into the checkpoint of the best epoch."""
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
    task: SegmentationTask,
    batches: Iterable[Batch],
    minimum_areas: Sequence[float] = MINIMUM_AREAS,
    caution: float = 0.0,
) -> dict[str, Tensor]:
    """Finds and sets the best threshold and minimum area of each class, at the size of the masks.

    Args:
        trainer: Supplies the precision, and how many validation batches training used.
        task: Its `active_decision` is changed.
        batches: This process's validation batches on its device.
        minimum_areas: Shares of an image to try, 0 among them.
        caution: See `tasks.decision.ThresholdSearch`.

    Returns:
        `thresholds`, `minimum_areas`, `dice` and `dice_at_half`, (K,) each.
    """
    search = ThresholdSearch(task.classes, minimum_areas=minimum_areas, caution=caution).to(task.device)
    task.eval()
    count = validation_batches(trainer)
    for batch in progress(islice(batches, count), "Fitting thresholds", count, trainer.is_global_zero):
        with trainer.precision_plugin.forward_context():
            probability = task.probability(batch)
        search.update(probability, task.target(batch), known(batch))
    # torchmetrics makes scalars of values with one entry
    fitted = {name: value.reshape(-1) for name, value in search.compute().items()}
    task.active_decision.thresholds.copy_(fitted["thresholds"])
    task.active_decision.minimum_areas.copy_(fitted["minimum_areas"])
    return fitted


def write_fitted(fitted: dict[str, Tensor], classes: Sequence[str], path: Path, caution: float = 0.0) -> str:
    """Writes one row per class and returns the same as text, which says where the defaults were kept."""
    columns = ("thresholds", "minimum_areas", "dice_at_half", "dice")
    rows = [
        [name, *(round(float(fitted[column][index]), 4) for column in columns)] for index, name in enumerate(classes)
    ]
    write_table(path, ("class", "threshold", "minimum_area", "dice_at_half", "dice_fitted"), rows)
    better = f" by more than {caution:g} standard errors (caution)" if caution else ""
    lines = []
    for name, threshold, area, half, dice in rows:
        found = f"  {name:<10} threshold {threshold:.2f}, minimum area {area:.2%} of the image: dice {half:.4f}"
        kept = (threshold, area) == (HALF, 0)
        lines.append(f"{found}, kept: no other is better{better}" if kept else f"{found} -> {dice:.4f}")
    return "Thresholds on the validation images:\n" + "\n".join(lines)
