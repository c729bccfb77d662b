"""Random flips that depend on a sample's own seed and on nothing else."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from ops.filters import filtered


def flip_by_seed(tensors: Sequence[Tensor], seeds: Tensor) -> list[Tensor]:
    """Tensors flipped left to right and top to bottom, each with probability 1/2, sample by sample.

    A sample's two flips follow from its seed alone, not from the batch it is in, the worker, the process or
    the device, and are the same in every tensor, so that masks follow their pictures. Neighbouring seeds are
    as good as far ones.

    Args:
        tensors: Tensors of shape (B, C, H, W), with any C, H and W of their own.
        seeds: Whole numbers of shape (B,).

    Returns:
        The flipped tensors, each of its own shape, type and device.

    Raises:
        ValueError: If the seeds are not whole numbers, or not one for each sample of every tensor.
    """
    for tensor in tensors:
        if tensor.ndim != 4 or seeds.shape != tensor.shape[:1]:
            raise ValueError(
                f"a tensor of shape {tuple(tensor.shape)} with seeds of shape {tuple(seeds.shape)}; "
                "wanted (B, C, H, W) with (B,): give every sample one seed"
            )
    bits = bits_of(seeds).view(-1, 1, 1, 1)
    horizontal, vertical = (bits & 1).bool(), (bits & 2).bool()
    flipped = []
    for tensor in tensors:
        tensor = torch.where(horizontal.to(tensor.device), tensor.flip(3), tensor)
        flipped.append(torch.where(vertical.to(tensor.device), tensor.flip(2), tensor))
    return flipped


def bits_of(seeds: Tensor) -> Tensor:
    """64 well-mixed bits for each seed: the first output of SplitMix64.

    Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014, with the multipliers
    of Vigna's splitmix64.c. Products wrap round modulo 2^64. Neighbouring seeds are as good as far ones.

    Args:
        seeds: Whole numbers of any shape.

    Returns:
        int64 of the same shape.

    Raises:
        ValueError: If the seeds are not whole numbers.
    """
    if seeds.dtype != torch.int64:
        raise ValueError(f"seeds of {seeds.dtype}; wanted torch.int64: convert them with .long()")
    mixed = seeds + _signed(0x9E3779B97F4A7C15)
    mixed = (mixed ^ _shifted(mixed, 30)) * _signed(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ _shifted(mixed, 27)) * _signed(0x94D049BB133111EB)
    return mixed ^ _shifted(mixed, 31)


def _shifted(bits: Tensor, places: int) -> Tensor:
    # `>>` repeats the sign bit; SplitMix64 shifts zeros in.
    return (bits >> places) & ((1 << (64 - places)) - 1)


def _signed(constant: int) -> int:
    return constant - (1 << 64)


WHOLE = 0.999
"""The least share of a pixel that comes of valid ones, short of 1 by what rounding may take."""


def random_warps(seeds: Tensor, shear: float, zoom: float, rotation: float, flip: bool) -> Tensor:
    """A random linear map about the picture's middle for each sample.

    In this order, a picture is mirrored left to right with probability 1/2, zoomed, sheared and turned.

    Args:
        seeds: Whole numbers (B,).
        shear: A point moves to the side by up to this share of its height over the middle.
        zoom: Both sides grow or shrink by up to this share.
        rotation: It is turned by up to so many degrees, either way.
        flip: Whether pictures are mirrored at all.

    Returns:
        Matrices (B, 2, 2), float32: where the pixel at (x, y) moves to, in pixels from the middle, y downwards.

    Raises:
        ValueError: The seeds are not whole numbers.
    """
    bits = [bits_of(seeds)]
    for _ in range(3):
        bits.append(bits_of(bits[-1]))
    mirrored = 1 - 2 * (bits[0] & 1).float() if flip else torch.ones_like(seeds, dtype=torch.float32)
    # The 24 highest bits are what single precision holds, as numbers from -1 up to 1.
    share, angle, slope = (((each >> 40) & 0xFFFFFF).float() / (1 << 23) - 1 for each in bits[1:])
    scale, angle, slope = 1 + zoom * share, math.radians(rotation) * angle, shear * slope
    cosine, sine = torch.cos(angle), torch.sin(angle)
    first = torch.stack([cosine * mirrored, cosine * slope - sine], dim=1)
    second = torch.stack([sine * mirrored, sine * slope + cosine], dim=1)
    return scale[:, None, None] * torch.stack([first, second], dim=1)


def warped(image: Tensor, valid: Tensor, warps: Tensor) -> tuple[Tensor, Tensor]:
    """Pictures moved about their middle, white where nothing comes from, and where they are valid then.

    Args:
        image: Pictures (B, C, H, W) in [0, 1].
        valid: Where they count (B, 1, H, W), bool.
        warps: Where pixels move to (B, 2, 2), see `random_warps`.

    Returns:
        The pictures, interpolated bilinearly by kornia, and bool (B, 1, H, W): true where all of a pixel comes of valid
        ones, so that no white is mixed into it.

    Raises:
        ValueError: The shapes do not fit together.
    """
    count, _, height, width = image.shape
    if valid.shape != (count, 1, height, width) or warps.shape != (count, 2, 2):
        raise ValueError(
            f"pictures of shape {tuple(image.shape)} with valid of {tuple(valid.shape)} and warps of "
            f"{tuple(warps.shape)}; wanted (B, C, H, W), (B, 1, H, W) and (B, 2, 2)"
        )
    from kornia.geometry.transform import warp_affine

    x, y = (warps.new_full((), (side - 1) / 2, dtype=torch.float32) for side in (width, height))
    middle = torch.stack([x, y])
    shift = middle - warps.float() @ middle
    both = torch.cat([image.float() - 1, valid.float()], dim=1)  # what comes from outside is 0: white, and not valid
    with torch.autocast(image.device.type, enabled=False):  # kornia multiplies matrices, which autocast rounds
        moved = warp_affine(both, torch.cat([warps.float(), shift[..., None]], dim=2), (height, width))
    return (moved[:, :-1] + 1).clamp(0, 1).to(image.dtype), moved[:, -1:] > WHOLE


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
