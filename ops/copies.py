"""A batch and its altered copies: the roads paper's ways to make much of few pictures, on the device."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from ops.filters import filtered
from ops.seeds import bits_of

Strategy = Literal["few", "rotations", "filters", "both"]


def copies(
    image: Tensor, mask: Tensor, strategy: Strategy, filters: Sequence[str], seeds: Tensor
) -> tuple[Tensor, Tensor]:
    """A batch of B pictures and its altered copies: B pictures become nB.

    Kebir, Taibi and Serradilla, "Compressed VGG16 auto-encoder for road segmentation from aerial images with few data
    training", ICCSA 2021, table 1:

    - `few`: the pictures alone.
    - `rotations`: then each turned by 90°, 180° and 270°, with its mask (n = 4).
    - `filters`: then each filtered in each way, with its mask as it is (n = 1 + the number of filters).
    - `both`, not in the paper: the four rotations, 0° among them, each filtered in another way or not at all. Which
      gets which filter follows from the sample's seed, so that all pairs come up over the epochs (n = 4).

    Args:
        image: Pictures (B, C, H, W), uint8 or floating point in [0, 1]; H = W for rotations.
        mask: Their masks (B, K, H, W).
        strategy: One of the four.
        filters: Names of `ops.filters.FILTERS`.
        seeds: A whole number a picture, (B,).

    Returns:
        Pictures (nB, C, H, W) and masks (nB, K, H, W): copy 0 of each, then copy 1 of each, ….

    Raises:
        ValueError: The pictures are not square where they are to be turned, or a filter is unknown.
    """
    if strategy == "few":
        return image, mask
    if strategy == "filters":
        return torch.cat([image, *filtered(image, filters)]), mask.repeat(1 + len(filters), 1, 1, 1)
    if image.shape[-1] != image.shape[-2]:
        raise ValueError(
            f"pictures of {image.shape[-2]} x {image.shape[-1]} pixels were given to be turned by 90 degrees; wanted "
            "are square ones: make height and width equal, or take the strategy `few` or `filters`"
        )
    turned_masks = torch.cat([torch.rot90(mask, turn, (2, 3)) for turn in range(4)])
    if strategy == "rotations":
        return torch.cat([torch.rot90(image, turn, (2, 3)) for turn in range(4)]), turned_masks
    ways = torch.stack([image, *filtered(image, filters)])
    first = (bits_of(seeds) & 0xFFFF) % len(ways)
    rows = torch.arange(len(image), device=image.device)
    turned = [torch.rot90(ways[(first.to(image.device) + turn) % len(ways), rows], turn, (2, 3)) for turn in range(4)]
    return torch.cat(turned), turned_masks
