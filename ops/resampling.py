"""Resizes images by matrices whose entries follow from the sizes, so that exported networks resize any image.

A matrix (h, H) maps a side of H pixels to one of h. Sizes may be numbers or float64 tensors, since an exported network
knows none of them. `levels_resized` follows OpenCV, as `datamodules.read.pictures.resized` calls it.
"""

from typing import Any, Literal

import torch
from torch import Tensor

Kernel = Literal["area", "stretch", "linear", "triangle", "cubic"]
KEYS = -0.75
"""Parameter of bicubic interpolation in torch and OpenCV."""


def number(value: Any) -> Tensor:
    """Returns a number as a float64 tensor."""
    return value.double() if isinstance(value, Tensor) else torch.full((), value, dtype=torch.float64)


def matrix(
    kernel: Kernel, length: int, out: int, source: tuple[Any, Any] | None = None, target: tuple[Any, Any] | None = None
) -> Tensor:
    """Returns a matrix (out, length), float32, that resizes a part of a side to a part of another one.

    Args:
        kernel: `area`, means as OpenCV takes them of sides that shrink; `stretch`, what it does instead where one side
            shrinks and the other grows; `linear`, interpolation; `triangle`, torch's interpolation with `antialias`; or
            `cubic`, torch's bicubic interpolation.
        length: Pixels of the side.
        out: Pixels of the result; those outside the `target` are 0.
        source: First pixel and number of pixels of the part that is resized; all by default.
        target: First pixel and number of pixels that it is resized to; all by default.
    """
    first, span = (number(value) for value in source or (0, length))
    begin, count = (number(value) for value in target or (0, out))
    rows = torch.arange(out, dtype=torch.float64)[:, None] - begin
    columns = torch.arange(length, dtype=torch.float64)[None] - first
    scale = span / count
    match kernel:
        case "area":
            top = rows * scale
            weights = (torch.minimum(columns + 1, top + scale) - torch.maximum(columns, top)).clamp(min=0) / scale
        case "stretch":
            before = (rows * scale).floor()
            share = rows + 1 - (before + 1) / scale
            share = torch.where(share <= 0, 0, share - share.floor())
            after = torch.minimum(before + 1, span - 1)
            weights = torch.where(columns == before, 1 - share, 0) + torch.where(columns == after, share, 0)
        case "linear":
            place = torch.minimum(((rows + 0.5) * scale - 0.5).clamp(min=0), span - 1)
            weights = (1 - (columns - place).abs()).clamp(min=0)
        case "triangle":
            center = (rows + 0.5) * scale
            weights = (1 - (columns + 0.5 - center).abs() / scale.clamp(min=1)).clamp(min=0)
            weights = torch.where((columns >= 0) & (columns < span), weights, 0)
            weights = weights / weights.sum(dim=1, keepdim=True).clamp(min=1e-9)
        case "cubic":
            place = (rows + 0.5) * scale - 0.5
            before = place.floor()
            weights = torch.zeros((), dtype=torch.float64)
            for tap in (-1, 0, 1, 2):
                column = torch.minimum((before + tap).clamp(min=0), span - 1)
                weights = weights + torch.where(columns == column, keys((place - before - tap).abs()), 0)
    return torch.where((rows >= 0) & (rows < count), weights, 0).float()


def keys(distance: Tensor) -> Tensor:
    """Returns the kernel of R. G. Keys, "Cubic convolution interpolation for digital image processing", 1981."""
    near = ((KEYS + 2) * distance - (KEYS + 3)) * distance**2 + 1
    far = KEYS * (((distance - 5) * distance + 8) * distance - 4)
    return torch.where(distance <= 1, near, far)


def resampled(maps: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Returns maps (B, C, H, W) resized by the matrices of their height and width."""
    return rows @ maps @ columns.T


def levels_resized(
    levels: Tensor,
    size: tuple[int, int],
    sources: tuple[tuple[Any, Any], tuple[Any, Any]] | None = None,
    targets: tuple[tuple[Any, Any], tuple[Any, Any]] | None = None,
) -> Tensor:
    """Resizes 8-bit images as OpenCV does: area means if they shrink, bilinear if they grow.

    Means are rounded like OpenCV's; interpolated levels, which OpenCV computes with 11 bits, may differ by 1.

    Args:
        levels: 0 to 255 as floats, (B, C, H, W).
        size: Height and width of the result.
        sources: Of height and width, see `matrix`.
        targets: Of height and width, see `matrix`; levels outside are 0.

    Returns:
        (B, C, *size), whole numbers from 0 to 255.
    """
    lengths = levels.shape[-2:]
    sources = sources or ((0, lengths[0]), (0, lengths[1]))
    targets = targets or ((0, size[0]), (0, size[1]))
    scales = [number(source[1]) / number(target[1]) for source, target in zip(sources, targets, strict=True)]
    shrinks, both = scales[0] * scales[1] > 1, (scales[0] >= 1) & (scales[1] >= 1)
    matrices = []
    for sides in zip(lengths, size, sources, targets, strict=True):
        shrunk = torch.where(both, matrix("area", *sides), matrix("stretch", *sides))
        matrices.append(torch.where(shrinks, shrunk, matrix("linear", *sides)))
    found = resampled(levels, *matrices)
    halves = (scales[0] == 2) & (scales[1] == 2)  # OpenCV rounds these up, others to even
    return torch.where(halves, (found + 0.5).floor(), found.round()).clamp(0, 255)
