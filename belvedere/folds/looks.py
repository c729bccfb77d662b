"""Vectors that say what images look like to a frozen network."""

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ops.errors import ArgumentError
from ops.progress import progress
from tasks.base import ImageTask
from tasks.networks.backbones import Stages, load_stages
from tasks.segmentation import SegmentationTask

Looks: TypeAlias = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Maps images (N, S, S, 3) to vectors (N, V)."""
AT_ONCE = 16


def looks_of(task: ImageTask | None, backbones: Mapping[str, bool | str] | None) -> Looks | None:
    """Returns what compares images by the last maps of frozen networks, averaged over the image.

    Args:
        task: A trained task, whose encoder is taken if there are no backbones.
        backbones: Frozen networks and their weights, see `tasks.networks.backbones.load_stages`.

    Returns:
        None if there are no backbones and the task has no encoder for images in color.

    Raises:
        ArgumentError: A network is unknown.
        WeightsError: Weights are missing or do not fit.
    """
    if backbones:
        return _in_parts([_frozen(name, weights) for name, weights in backbones.items()])
    if not isinstance(task, SegmentationTask) or task.hparams.get("channels", 3) != 3:
        return None
    with torch.no_grad():
        known = task.vectors(torch.zeros(1, 3, 64, 64)) is not None
    return _in_parts([task.vectors]) if known else None


def _frozen(name: str, weights: bool | str) -> Callable[[Tensor], Tensor]:
    """Returns what maps images (B, 3, H, W) in [0, 1] to the means of a network's last maps (B, V)."""
    try:
        stages = Stages(name).eval()
    except ValueError as error:
        raise ArgumentError(f"--backbones: {error}.") from error
    load_stages(stages, name, weights, "backbones")

    def vectors(image: Tensor) -> Tensor:
        last: Tensor = stages(image)[0][-1]
        return last.mean(dim=(2, 3))

    return vectors


def _in_parts(networks: list[Callable[[Tensor], Tensor | None]]) -> Looks:
    """Returns what maps images to the vectors of networks, a few at a time."""

    @torch.no_grad()
    def looks(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        parts = torch.split(torch.from_numpy(images), AT_ONCE)
        rows = []
        for part in progress(parts, "comparing looks", len(parts)):
            image = part.permute(0, 3, 1, 2).float() / 255
            rows.append(torch.cat([seen for network in networks if (seen := network(image)) is not None], dim=1))
        return np.asarray(torch.cat(rows).float().numpy())

    return looks
