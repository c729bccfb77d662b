"""Square crops of square pictures: from the middle, or from anywhere, as a sample's own seed says."""

import torch
from torch import Tensor

from ops.seeds import bits_of


def central_crops(image: Tensor, side: int) -> Tensor:
    """The middle of pictures.

    Args:
        image: Pictures (B, C, H, W).
        side: Height and width of the crops, in pixels.

    Returns:
        A view (B, C, side, side). Of an odd rest, the larger half is left out below and to the right.

    Raises:
        ValueError: The pictures are smaller.
    """
    height, width = _checked(image, side)
    top, left = (height - side) // 2, (width - side) // 2
    return image[:, :, top : top + side, left : left + side]


def crops_by_seed(image: Tensor, side: int, seeds: Tensor, flips: bool = False) -> Tensor:
    """Crops from anywhere, all places equally likely, and flipped left to right with probability 1/2 where asked for.

    A sample's place and flip follow from its seed alone, not from the batch it is in, the worker, the process or the
    device.

    Args:
        image: Pictures (B, C, H, W).
        side: Height and width of the crops, in pixels.
        seeds: Whole numbers (B,).
        flips: Whether crops are flipped.

    Returns:
        (B, C, side, side).

    Raises:
        ValueError: The pictures are smaller, or the seeds are not whole numbers, or not one for each picture.
    """
    height, width = _checked(image, side)
    if seeds.shape != image.shape[:1]:
        raise ValueError(
            f"{len(image)} pictures with seeds of shape {tuple(seeds.shape)}; wanted is (B,): give every picture one"
        )
    bits = bits_of(seeds)
    tops = ((bits >> 1) & 0x7FFFFFFF) % (height - side + 1)
    lefts = ((bits >> 32) & 0x7FFFFFFF) % (width - side + 1)
    places = torch.stack([tops, lefts, (bits & 1) * flips], dim=1).tolist()
    # Slices: indices (B, C, side, side) would take the processor thirty times as long.
    crops = [
        picture[:, top : top + side, left : left + side] for picture, (top, left, _) in zip(image, places, strict=True)
    ]
    return torch.stack([crop.flip(2) if flip else crop for crop, (*_, flip) in zip(crops, places, strict=True)])


def _checked(image: Tensor, side: int) -> tuple[int, int]:
    height, width = image.shape[-2:]
    if image.ndim != 4 or not 1 <= side <= min(height, width):
        raise ValueError(
            f"crops of {side} pixels from pictures of shape {tuple(image.shape)}; wanted are (B, C, H, W) and 1 to "
            "min(H, W) pixels"
        )
    return height, width
