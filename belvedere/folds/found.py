"""What networks find of images that they were not trained on, image by image."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from lightning.fabric.utilities import move_data_to_device
from numpy.typing import NDArray

from belvedere.checkpoints import run_config
from belvedere.folds.doubts import reduced
from belvedere.prediction import configured
from datamodules.base import ImageDataModule
from ops.errors import ArgumentError
from ops.progress import progress
from ops.statistics.calibration import Counts, log_odds_counts
from ops.statistics.selection import entropy
from tasks.base import ImageTask
from tasks.decision import ThresholdSearch
from tasks.judging import JudgingTask
from tasks.metrics.meter import Meter, States, Step
from tasks.segmentation import SegmentationTask


@dataclass
class FoldResult:
    """What was found of an image by the network that was trained without it.

    Attributes:
        name: Its name.
        fold: Its fold.
        states: What it adds to the metrics.
        quality: Dice of its masks, the mean over the classes; or 1 for a right judgement and 0 for a wrong one.
        expected: The same as the network expects it by its probabilities.
        uncertainty: Mean of 4 p (1 - p), 0 if the network is sure of everything.
        counts: Its probabilities and truth, by class.
        cells: Dice of each class, threshold and minimum area (K, T, A), in `DICE_UNITS`; None without masks.
        label: Reduced truth (K, h, w).
        probability: Reduced probability (K, h, w).
        mask: Reduced masks (K, h, w) of the network's own decision.
    """

    name: str
    fold: int
    states: States
    quality: float
    expected: float
    uncertainty: float
    counts: list[Counts]
    cells: NDArray[np.int64] | None
    label: NDArray[np.float32]
    probability: NDArray[np.float32]
    mask: NDArray[np.float32]


def fold_modules(paths: Sequence[Path], trust: bool) -> Iterator[ImageDataModule]:
    """Yields the data module of each checkpoint, ready for its test.

    Raises:
        ArgumentError: They are not the folds of one cross-validation.
    """
    modules = [configured(run_config(path, trust), {})[0] for path in paths]
    kinds = {(str(each.root), each.folds, each.split_seed, each.fold_by) for each in modules}
    if len(kinds) > 1 or modules[0].folds is None or len({each.fold for each in modules}) < len(modules):
        shown = ", ".join(f"fold {each.fold} of {each.folds} of {each.root}" for each in modules)
        raise ArgumentError(f"expected checkpoints of different folds of one dataset (--data.folds), got {shown}.")
    yield from modules


def check_labeled(task: ImageTask) -> None:
    """Checks that a task answers with labels.

    Raises:
        ArgumentError: It neither marks nor judges images.
    """
    if not isinstance(task, SegmentationTask | JudgingTask):
        raise ArgumentError(f"This is for tasks that mark regions or judge images, not for {type(task).__name__}.")


@torch.no_grad()
def fold_results(
    task: ImageTask, data: ImageDataModule, meter: Meter, device: torch.device, split: str = "test"
) -> Iterator[FoldResult]:
    """Yields what a task finds of the images of a split, by default the test images of a fold.

    Raises:
        ArgumentError: The task neither marks nor judges images.
    """
    check_labeled(task)
    data.prepare_data()
    data.setup("test")
    task.eval()
    task.receive(data.facts())
    if not len(data.datasets[split]):
        return
    loader = data.loader(split)
    named = split if data.folds is None else f"fold {data.fold}, {split}"
    for batch in progress(loader, named, len(loader)):
        moved = data.on_after_batch_transfer(move_data_to_device(batch, device), 0)
        step = task.step(moved)
        meter.each = []
        meter.update(step, len(moved["image"]))
        for index, states in enumerate(meter.each):
            hosted = {key: value.cpu() for key, value in states.items()}
            of_one = _marked if isinstance(task, SegmentationTask) else _judged
            yield of_one(step, index, batch["name"][index], data.fold, hosted)


def _marked(step: Step, index: int, name: str, fold: int, states: States) -> FoldResult:
    """Returns what was found of an image with masks."""
    assert step.probability is not None
    probability = step.probability[index].float().cpu()
    valid = torch.ones_like(probability[:1], dtype=torch.bool) if step.valid is None else step.valid[index].cpu()
    truth, mask = (each[index].cpu() > 0.5 for each in (step.target, step.prediction.float()))
    there = valid[0].numpy()
    search = ThresholdSearch([""] * len(probability))
    search.update(probability[None], truth[None], valid[None])
    quality, expected = [], []
    for found, true, chance in zip(mask & valid, truth & valid, probability * valid, strict=True):
        marked, total = float(found.sum()), float(found.sum() + true.sum())
        quality.append(2 * float((found & true).sum()) / total if total else 1.0)
        total = marked + float(chance.sum())
        expected.append(2 * float((found * chance).sum()) / total if total else 1.0)
    inside = probability[valid.expand_as(probability)]
    return FoldResult(
        name=name,
        fold=fold,
        states=states,
        quality=float(np.mean(quality)),
        expected=float(np.mean(expected)),
        uncertainty=float(entropy(inside).mean()) if inside.numel() else 0.0,
        counts=[
            log_odds_counts(chance.numpy()[there], true.numpy()[there])
            for chance, true in zip(probability, truth, strict=True)
        ],
        cells=search.dice_sum[..., 0].numpy(),
        label=reduced((truth & valid).float().numpy()),
        probability=reduced((probability * valid).numpy()),
        mask=reduced((mask & valid).float().numpy()),
    )


def _judged(step: Step, index: int, name: str, fold: int, states: States) -> FoldResult:
    """Returns what was found of a judged photograph."""
    chance, true = step.prediction[index].float().cpu().reshape(1), step.target[index].cpu().reshape(1) > 0.5
    certain = float(chance)
    return FoldResult(
        name=name,
        fold=fold,
        states=states,
        quality=float((certain >= 0.5) == bool(true)),
        expected=max(certain, 1 - certain),
        uncertainty=float(entropy(chance)),
        counts=[log_odds_counts(chance.numpy(), true.numpy())],
        cells=None,
        label=np.zeros((0, 1, 1), np.float32),
        probability=np.zeros((0, 1, 1), np.float32),
        mask=np.zeros((0, 1, 1), np.float32),
    )
