"""Augments batches on their device, by each sample's seed alone: flips, warps, crops, and rotated or filtered copies.

What happens to a sample does not depend on its batch, the worker, the process or the device.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from ops.exact.backends import Backend, full_precision
from ops.exact.filters import filtered

Strategy = Literal["few", "rotations", "filters", "both"]

WHOLE = 0.999
"""Least share of a warped pixel that must come from valid ones, below 1 only by what rounding may take."""


def bits_of(seeds: Tensor) -> Tensor:
    """Returns 64 well-mixed bits per seed: the first output of SplitMix64.

    Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014, with the multipliers of
    Vigna's splitmix64.c. Products wrap modulo 2^64. Neighboring seeds are as good as distant ones.

    Args:
        seeds: int64 of any shape.

    Returns:
        int64 of the same shape.

    Raises:
        ValueError: The seeds are not int64.
    """
    if seeds.dtype != torch.int64:
        raise ValueError(f"expected seeds of torch.int64, got {seeds.dtype}: convert them with .long()")
    mixed = seeds + _signed(0x9E3779B97F4A7C15)
    mixed = (mixed ^ _shifted(mixed, 30)) * _signed(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ _shifted(mixed, 27)) * _signed(0x94D049BB133111EB)
    return mixed ^ _shifted(mixed, 31)


def _shifted(bits: Tensor, places: int) -> Tensor:
    # `>>` repeats the sign bit; SplitMix64 shifts zeros in.
    return (bits >> places) & ((1 << (64 - places)) - 1)


def _signed(constant: int) -> int:
    return constant - (1 << 64)


def _check(image: Tensor, seeds: Tensor) -> None:
    if image.ndim != 4 or seeds.shape != image.shape[:1]:
        raise ValueError(
            f"expected a tensor (B, C, H, W) with one seed per sample, (B,), got {tuple(image.shape)} with seeds of "
            f"shape {tuple(seeds.shape)}"
        )


def flip_by_seed(tensors: Sequence[Tensor], seeds: Tensor) -> list[Tensor]:
    """Flips samples left to right and top to bottom, each with probability 1/2.

    A sample is flipped the same way in every tensor, so that masks follow their images.

    Args:
        tensors: Tensors (B, C, H, W), each with its own C, H and W.
        seeds: int64 (B,).

    Returns:
        The flipped tensors, each of its own shape, type and device.

    Raises:
        ValueError: The seeds are not int64, or not one per sample of every tensor.
    """
    for tensor in tensors:
        _check(tensor, seeds)
    bits = bits_of(seeds).view(-1, 1, 1, 1)
    horizontal, vertical = (bits & 1).bool(), (bits & 2).bool()
    flipped = []
    for tensor in tensors:
        tensor = torch.where(horizontal.to(tensor.device), tensor.flip(3), tensor)
        flipped.append(torch.where(vertical.to(tensor.device), tensor.flip(2), tensor))
    return flipped


def random_warps(seeds: Tensor, shear: float, zoom: float, rotation: float, flip: bool) -> Tensor:
    """Draws a random linear map about the image center for each sample.

    An image is mirrored left to right with probability 1/2, then zoomed, sheared and rotated.

    Args:
        seeds: int64 (B,).
        shear: A point moves sideways by up to this share of its height above the center.
        zoom: Both sides grow or shrink by up to this share.
        rotation: Largest angle in degrees, in either direction.
        flip: Whether images are mirrored at all.

    Returns:
        Matrices (B, 2, 2), float32: where the pixel at (x, y) moves to, in pixels from the center, y downwards.

    Raises:
        ValueError: The seeds are not int64.
    """
    bits = [bits_of(seeds)]
    for _ in range(3):
        bits.append(bits_of(bits[-1]))
    mirrored = 1 - 2 * (bits[0] & 1).float() if flip else torch.ones_like(seeds, dtype=torch.float32)
    # The 24 highest bits, which is what float32 holds, as numbers from -1 up to 1.
    share, angle, slope = (((each >> 40) & 0xFFFFFF).float() / (1 << 23) - 1 for each in bits[1:])
    scale, angle, slope = 1 + zoom * share, math.radians(rotation) * angle, shear * slope
    cosine, sine = torch.cos(angle), torch.sin(angle)
    first = torch.stack([cosine * mirrored, cosine * slope - sine], dim=1)
    second = torch.stack([sine * mirrored, sine * slope + cosine], dim=1)
    return scale[:, None, None] * torch.stack([first, second], dim=1)


def warped(image: Tensor, valid: Tensor, warps: Tensor) -> tuple[Tensor, Tensor]:
    """Warps images about their center, by kornia, and fills what comes from outside with white.

    Args:
        image: Images (B, C, H, W) in [0, 1].
        valid: Pixels that count, bool (B, 1, H, W).
        warps: Where pixels move to (B, 2, 2), see `random_warps`.

    Returns:
        The images, interpolated bilinearly, and bool (B, 1, H, W): true where a pixel comes from valid ones only, with
        no white mixed in.

    Raises:
        ValueError: The shapes do not match.
    """
    count, _, height, width = image.shape
    if valid.shape != (count, 1, height, width) or warps.shape != (count, 2, 2):
        raise ValueError(
            f"expected images (B, C, H, W), valid (B, 1, H, W) and warps (B, 2, 2), got {tuple(image.shape)}, "
            f"{tuple(valid.shape)} and {tuple(warps.shape)}"
        )
    from kornia.geometry.transform import warp_affine

    x, y = (warps.new_full((), (side - 1) / 2, dtype=torch.float32) for side in (width, height))
    middle = torch.stack([x, y])
    both = torch.cat([image.float() - 1, valid.float()], dim=1)  # what comes from outside is 0: white, and not valid
    with full_precision(image.device):
        shift = middle - warps.float() @ middle
        moved = warp_affine(both, torch.cat([warps.float(), shift[..., None]], dim=2), (height, width))
    return (moved[:, :-1] + 1).clamp(0, 1).to(image.dtype), moved[:, -1:] > WHOLE


def central_crops(image: Tensor, side: int) -> Tensor:
    """Crops the center of images.

    Args:
        image: Images (B, C, H, W).
        side: Height and width of the crops in pixels.

    Returns:
        A view (B, C, side, side). An odd margin loses its larger half at the bottom and right.

    Raises:
        ValueError: The images are smaller.
    """
    height, width = _crop_room(image, side)
    top, left = (height - side) // 2, (width - side) // 2
    return image[:, :, top : top + side, left : left + side]


def crops_by_seed(image: Tensor, side: int, seeds: Tensor, flips: bool = False) -> Tensor:
    """Crops anywhere, all places equally likely, and optionally flips left to right with probability 1/2.

    Args:
        image: Images (B, C, H, W).
        side: Height and width of the crops in pixels.
        seeds: int64 (B,).
        flips: Whether crops are flipped.

    Returns:
        (B, C, side, side).

    Raises:
        ValueError: The images are smaller, or the seeds are not int64, or not one per image.
    """
    height, width = _crop_room(image, side)
    _check(image, seeds)
    bits = bits_of(seeds)
    tops = ((bits >> 1) & 0x7FFFFFFF) % (height - side + 1)
    lefts = ((bits >> 32) & 0x7FFFFFFF) % (width - side + 1)
    places = torch.stack([tops, lefts, mirrored_by_seed(seeds) * flips], dim=1).tolist()
    # Slices: indexing by (B, C, side, side) indices takes a CPU thirty times as long.
    crops = [each[:, top : top + side, left : left + side] for each, (top, left, _) in zip(image, places, strict=True)]
    return torch.stack([crop.flip(2) if flip else crop for crop, (*_, flip) in zip(crops, places, strict=True)])


def mirrored_by_seed(seeds: Tensor) -> Tensor:
    """Returns which images `crops_by_seed` flips with these seeds (B,): bool (B,)."""
    return (bits_of(seeds) & 1).bool()


def _crop_room(image: Tensor, side: int) -> tuple[int, int]:
    height, width = image.shape[-2:]
    if image.ndim != 4 or not 1 <= side <= min(height, width):
        raise ValueError(
            f"expected images (B, C, H, W) and crops of 1 to min(H, W) pixels, got {tuple(image.shape)} and {side}"
        )
    return height, width


def copy_count(strategy: Strategy, filters: Sequence[str]) -> int:
    """Returns how many images `copies` makes of one, itself included."""
    return {"few": 1, "filters": 1 + len(filters)}.get(strategy, 4)


def copies(
    image: Tensor, mask: Tensor, strategy: Strategy, filters: Sequence[str], seeds: Tensor, backend: Backend = "exact"
) -> tuple[Tensor, Tensor]:
    """Adds altered copies to a batch: B images become nB.

    Kebir, Taibi and Serradilla, "Compressed VGG16 auto-encoder for road segmentation from aerial images with few data
    training", ICCSA 2021, table 1:

    - `few`: only the images.
    - `rotations`: adds each rotated by 90°, 180° and 270°, with its mask (n = 4).
    - `filters`: adds each filtered in each way, with its mask as it is (n = 1 + number of filters).
    - `both`, not in the paper: the four rotations, 0° included, each filtered in another way or not at all. The
      sample's seed decides which rotation gets which filter, so that all pairs come up over the epochs (n = 4).

    Args:
        image: Images (B, C, H, W), uint8 or floating point in [0, 1]; H = W for rotations.
        mask: Their masks (B, K, H, W).
        strategy: One of the four.
        filters: Names from `ops.exact.filters.FILTERS`.
        seeds: int64 (B,).
        backend: Computes the filters, see `ops.exact.filters`.

    Returns:
        Images (nB, C, H, W) and masks (nB, K, H, W): copy 0 of each, then copy 1 of each, ….

    Raises:
        ValueError: Images to rotate are not square, or a filter is unknown.
    """
    if strategy == "few":
        return image, mask
    if strategy == "filters":
        return torch.cat([image, *filtered(image, filters, backend)]), mask.repeat(1 + len(filters), 1, 1, 1)
    if image.shape[-1] != image.shape[-2]:
        raise ValueError(
            f"expected square images to rotate by 90 degrees, got {image.shape[-2]} x {image.shape[-1]} pixels: make "
            "height and width equal, or use the strategy `few` or `filters`"
        )
    rotated_masks = torch.cat([torch.rot90(mask, turn, (2, 3)) for turn in range(4)])
    if strategy == "rotations":
        return torch.cat([torch.rot90(image, turn, (2, 3)) for turn in range(4)]), rotated_masks
    ways = torch.stack([image, *filtered(image, filters, backend)])
    first = (bits_of(seeds) & 0xFFFF) % len(ways)
    rows = torch.arange(len(image), device=image.device)
    rotated = [torch.rot90(ways[(first.to(image.device) + turn) % len(ways), rows], turn, (2, 3)) for turn in range(4)]
    return torch.cat(rotated), rotated_masks
