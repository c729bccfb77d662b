"""Looks at images with a trained network: how unsure it is of each, and what it sees in it."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from lightning.fabric.utilities import move_data_to_device
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from datamodules.base import ImageDataModule
from datamodules.batch import Batch
from ops.descriptors import color_moments, gradient_histograms
from ops.errors import ArgumentError
from ops.progress import progress
from ops.statistics.selection import entropy
from tasks.base import ImageTask
from tasks.judging import JudgingTask
from tasks.networks.linear_judge import LinearJudge

BACKBONE_SIDE, DESCRIBED_SIDE = 224, 128  # pixels to which images are resized for other networks, and for descriptors
See = Callable[[Batch], Tensor]
"""Maps a batch to vectors (B, V), by which images are compared."""


@dataclass(frozen=True)
class Look:
    """What was found of an image.

    Attributes:
        name: Its name.
        problem: Why it cannot be used, or ""; then the rest is 0.
        uncertainty: Mean entropy in bits of the averaged probability: 0 if the network is sure, 1 if it is undecided.
        disagreement: The part of that on which the averaged answers contradict each other; nan if there is only one.
        vector: What distances are computed from, float32 (V,).
    """

    name: str
    problem: str
    uncertainty: float
    disagreement: float
    vector: NDArray[np.float32]


def seeing(task: ImageTask, backbones: Mapping[str, bool | str | Path] | None) -> See:
    """Returns what makes vectors of images.

    Args:
        task: Its own encoder makes them, if it has one; otherwise they are color moments and histograms of gradients.
        backbones: Other networks and their weights, see `tasks.networks.frozen_linear.FrozenLinear.load`.

    Raises:
        ArgumentError: A network is unknown.
        WeightsError: Weights are missing or do not fit.
    """
    if not backbones:
        return lambda batch: _own(task, batch["image"])
    try:
        others = LinearJudge(list(backbones), 1, "none").eval().to(task.device)
    except ValueError as error:
        raise ArgumentError(f"--backbones: {error}.") from error
    others.load(backbones)
    return lambda batch: others.flat(_resized(batch["image"], BACKBONE_SIDE))


def _own(task: ImageTask, image: Tensor) -> Tensor:
    found = task.vectors(image)
    if found is not None:
        return found
    small = _resized(image, DESCRIBED_SIDE)
    return torch.cat([color_moments(small), gradient_histograms(small)], dim=1)


def _resized(image: Tensor, side: int) -> Tensor:
    return F.interpolate(image[:, :3], (side, side), mode="bilinear", antialias=True)


@torch.no_grad()
def looks(task: ImageTask, data: ImageDataModule, see: See, text: str) -> Iterator[Look]:
    """Yields what a task finds of images to predict, in their order.

    Args:
        task: The task, with its weights and members.
        data: Has been set up to predict.
        see: See `seeing`.
        text: Describes what is done, beside the progress bar.
    """
    task.eval()
    task.receive(data.facts())
    loader = data.loader("predict")
    windows: list[tuple[float, float, NDArray[np.float32]]] = []  # of the image so far
    filled: list[float] = []  # share of each that has data
    for batch in progress(loader, text, len(loader)):
        moved = data.on_after_batch_transfer(move_data_to_device(batch, task.device), 0)
        unsure, apart = answers(task, moved)
        vectors = see(moved).float().cpu().numpy()
        there = batch["valid"].float().flatten(1).mean(dim=1).tolist() if "valid" in batch else [1.0] * len(unsure)
        for row, name in enumerate(batch["name"]):
            windows.append((unsure[row], apart[row], vectors[row]))
            filled.append(there[row])
            if batch["source"][row] is None:  # the image has further windows
                continue
            problem = batch["problem"][row]
            weights = np.array(filled if any(filled) else [1.0] * len(filled))
            unsure_of, spread, vector = (np.average([each[part] for each in windows], axis=0, weights=weights)
                                         for part in range(3))  # fmt: skip
            windows, filled = [], []
            yield Look(name, problem, 0.0 if problem else float(unsure_of), float(spread), vector)


def answers(task: ImageTask, batch: Batch) -> tuple[list[float], list[float]]:
    """Returns the uncertainty and the disagreement of each image of a batch, see `Look`.

    The disagreement is the mutual information of answer and member (N. Houlsby et al., "Bayesian active learning for
    classification and preference learning", arXiv:1112.5745, 2011).
    """
    every = list(task.apart(batch))
    if isinstance(task, JudgingTask):
        every = [task.judgement(shares)[:, None] for shares in every]
    whole = _mean(entropy(torch.stack(every).mean(dim=0)), batch)
    if len(every) == 1:
        return whole.tolist(), [float("nan")] * len(whole)
    alone = torch.stack([_mean(entropy(each), batch) for each in every]).mean(dim=0)
    return whole.tolist(), (whole - alone).clamp(min=0).tolist()


def _mean(maps: Tensor, batch: Batch) -> Tensor:
    """Returns the mean of maps (B, K) or (B, K, h, w) where pixels count, (B,)."""
    valid = batch.get("valid")
    if valid is None or maps.ndim < 4:
        return maps.flatten(1).mean(dim=1)
    there: Tensor = valid.to(maps).expand_as(maps)
    return (maps * there).flatten(1).sum(dim=1) / there.flatten(1).sum(dim=1).clamp(min=1)
