"""Answers to "where is the avalanche?" that need no network, and how good masks are; for `benchmarks.avalanches`."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from datamodules.read.mask_files import read_mask
from datamodules.read.pictures import read_picture
from ops.exact.edges import grey
from tasks.metrics.dice import DiceScores
from tasks.metrics.pixels import BoundaryDistance, PixelScores

FIGURES = ("dice", "iou", "accuracy", "balanced_accuracy", "hausdorff95")

Mask = NDArray[np.bool_]
Levels = NDArray[np.uint8]


def mask_of(path: Path) -> Mask:
    """Returns the mask (H, W) in a file."""
    return read_mask(path, 127)


def scores(masks: Sequence[Mask], truth: Sequence[Mask]) -> dict[str, float]:
    """Returns `FIGURES` of masks (H, W): dice and distance as means over pictures, the others over all pixels."""
    metrics = (
        DiceScores(("avalanche",), pooled=False),
        PixelScores(("iou", "accuracy", "balanced_accuracy")),
        BoundaryDistance(),
    )
    for mask, true in zip(masks, truth, strict=True):
        for metric in metrics:
            metric.update(torch.from_numpy(mask)[None, None], torch.from_numpy(true)[None, None])
    return {name: value.item() for metric in metrics for name, value in metric.compute().items()}


def dices_from(levels: Sequence[Levels], truth: Sequence[Mask]) -> NDArray[np.float64]:
    """Returns mean dice of the masks that hold all pixels from a level on, by level (256,)."""
    dices = []
    for picture, true in zip(levels, truth, strict=True):
        found = np.bincount(picture.ravel(), minlength=256)[::-1].cumsum()[::-1]
        overlap = np.bincount(picture[true], minlength=256)[::-1].cumsum()[::-1]
        dices.append(2 * overlap / (found + true.sum()))
    mean: NDArray[np.float64] = np.mean(dices, axis=0)
    return mean


def trivial_answers(data: Path, splits: dict[str, list[str]]) -> dict[str, list[Mask]]:
    """Returns masks of the test pictures by the name of an answer; thresholds are those that do best in training.

    Args:
        data: Holds `images/` and `masks/`; all pictures have one size.
        splits: Names of training and test pictures.
    """
    truth = [mask_of(data / "masks" / name) for name in splits["train"]]
    tests = splits["test"]
    mean = np.rint(255 * np.mean(truth, axis=0)).astype(np.uint8)
    by_mean = dices_from([mean] * len(truth), truth)
    least = int(by_mean.argmax())
    bright = {split: [brightness(data / "images" / name) for name in splits[split]] for split in ("train", "test")}
    dark = {split: [255 - picture for picture in pictures] for split, pictures in bright.items()}
    sides = {"brighter": bright, "darker": dark}
    by_side = {name: dices_from(pictures["train"], truth) for name, pictures in sides.items()}
    side = max(by_side, key=lambda name: by_side[name].max())
    limit = int(by_side[side].argmax())
    said = limit if side == "brighter" else 255 - limit
    return {
        "avalanche everywhere": [np.ones_like(mask_of(data / "masks" / name)) for name in tests],
        f"the mean training mask from {least / 255:.2f} on": [mean >= least] * len(tests),
        f"grey of {said} or {side}": [picture >= limit for picture in sides[side]["test"]],
    }


def brightness(path: Path) -> Levels:
    """Returns grey levels (H, W) of a picture."""
    picture = torch.from_numpy(read_picture(path)).permute(2, 0, 1)[None]
    return grey(picture)[0, 0].numpy()
