"""Measures masks of whole images that are predicted in windows."""

from collections.abc import Callable

import torch
from torch import Tensor

from datamodules.batch import Batch
from ops.windows import blended, resized_maps

AT_ONCE = 16  # windows that the network gets together


def stitched(probability: Callable[[Batch], Tensor], batch: Batch) -> Tensor:
    """Returns the probability of whole images, blended from that of their windows as prediction blends it.

    Args:
        probability: Returns the probability (n, K, h, w) of a batch that has `image` only.
        batch: One image, with `windows`, `window`, `overlap` and `mask`; see `datamodules.batch`.

    Returns:
        (1, K, H, W), float32 in [0, 1], at the size of the mask.

    Raises:
        ValueError: There is more than one image, whose numbers of windows differ.
    """
    if len(batch["windows"]) != 1:
        raise ValueError(f"expected one whole image per batch, got {len(batch['windows'])}")
    height, width = batch["window"][0].tolist()
    maps = (
        resized_maps(probability({"image": part.float() / 255}).float(), (height, width))
        for part in batch["windows"][0].split(AT_ONCE)
    )
    windows = (window for part in maps for window in part)
    size = (batch["mask"].shape[-2], batch["mask"].shape[-1])
    blend: Tensor = blended(windows, size, (height, width), batch["overlap"][0])
    return blend[None]


def log_odds(probability: Tensor) -> Tensor:
    """Returns the logits of probabilities, at most 16.6 where float32 cannot tell them from 0 or 1."""
    return torch.logit(probability.float(), eps=2**-24)
