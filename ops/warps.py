"""Random rotations, zooms, shears and flips that depend on a sample's own seed and on nothing else."""

import math

import torch
from torch import Tensor

from ops.seeds import bits_of

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
