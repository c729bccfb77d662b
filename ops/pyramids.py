"""Gaussian pyramids of batches, on any device: halving and doubling the sides of pictures, and where pixels go.

P. J. Burt, E. H. Adelson, "The Laplacian Pyramid as a Compact Image Code", IEEE Trans. Communications 31 (1983), with
their kernel [1 4 6 4 1] / 16 (a = 0.375) along each axis.

Pixel centres have whole coordinates: the first pixel of a picture is at 0, the next at 1. Pixel k of a level lies at
pixel 2k of the level below it, and so at k · 2^levels of the picture. That is true of the backend "opencv" alone:
kornia's levels lie half a pixel off, at 2k + 1/2.
"""

from collections.abc import Callable
from typing import Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Backend = Literal["opencv", "kornia"]
Points = TypeVar("Points", Tensor, NDArray[np.floating])


def pyramid_down(image: Tensor, backend: Backend = "opencv") -> Tensor:
    """Pictures smoothed and reduced to half their sides.

    - `opencv` is `cv2.pyrDown`, to the last bit for uint8: every second pixel of the smoothed picture, from the first
      on, mirrored at its border (reflect-101). Sides of n pixels become ceil(n / 2); a picture may be one pixel large.
    - `kornia` is `kornia.geometry.transform.pyrdown`, which interpolates between the smoothed pixels: n become
      floor(n / 2), and what was at 30 is at 14.75 instead of 15.

    Half precision is computed in single precision, under autocast too.

    Args:
        image: Pictures (B, C, H, W), uint8 or floating point.
        backend: One of the two.

    Returns:
        Pictures of the same type, (B, C, ceil(H / 2), ceil(W / 2)) or, by kornia, (B, C, H // 2, W // 2).

    Raises:
        ValueError: These are not pictures, or have less than 3 pixels a side, which kornia needs.
    """
    _check(image, backend, least=3)
    if backend == "opencv":
        return _computed(lambda each: _halved(_halved(each, 2), 3).div_(256), image)
    from kornia.geometry.transform import pyrdown

    return _computed(pyrdown, image)


def pyramid_up(image: Tensor, size: tuple[int, int] | None = None, backend: Backend = "opencv") -> Tensor:
    """Pictures enlarged to twice their sides and smoothed.

    - `opencv` is `cv2.pyrUp`, to the last bit for uint8: pixel k goes to pixel 2k.
    - `kornia` is `kornia.geometry.transform.pyrup`, which enlarges bilinearly and smooths: pixel k goes to 2k + 1/2.

    Half precision is computed in single precision, under autocast too.

    Args:
        image: Pictures (B, C, H, W), uint8 or floating point.
        size: Height and width of the output, each 2n - 1 or 2n for a side of n pixels: the two that `pyramid_down`
            reduces to n. Otherwise both are doubled.
        backend: One of the two.

    Returns:
        Pictures of the same type, (B, C, *size).

    Raises:
        ValueError: These are not pictures, they cannot become as large as that, or they have less than 2 pixels a
            side, which kornia needs. Kornia doubles only, and OpenCV's 2n + 1, for which it does one thing to rows
            and another to columns, is not offered.
    """
    _check(image, backend, least=2)
    doubled = (2 * image.shape[2], 2 * image.shape[3])
    height, width = size or doubled
    if height not in (doubled[0] - 1, doubled[0]) or width not in (doubled[1] - 1, doubled[1]):
        raise ValueError(
            f"pictures of {image.shape[2]} x {image.shape[3]} pixels are to be enlarged to {height} x {width}; wanted "
            f"is {doubled[0]} x {doubled[1]}, or one less: take the size that they were reduced from"
        )
    if backend == "opencv":
        return _computed(lambda each: _doubled(_doubled(each, 2, height), 3, width).div_(64), image)
    if (height, width) != doubled:
        raise ValueError(
            f"a size of {height} x {width} for pictures of {image.shape[2]} x {image.shape[3]} pixels; kornia doubles "
            "only: leave the size out, or take the backend 'opencv'"
        )
    from kornia.geometry.transform import pyrup

    return _computed(pyrup, image)


def pyramid(image: Tensor, levels: int, backend: Backend = "opencv") -> list[Tensor]:
    """The picture and what one halving after another makes of it.

    Args:
        image: Pictures (B, C, H, W), uint8 or floating point.
        levels: How often they are halved.
        backend: See `pyramid_down`.

    Returns:
        1 + levels batches, `image` itself first.

    Raises:
        ValueError: There are less than 0 levels, or see `pyramid_down`.
    """
    _scale(levels)
    pictures = [image]
    for _ in range(levels):
        pictures.append(pyramid_down(pictures[-1], backend))
    return pictures


def to_full(points: Points, levels: int) -> Points:
    """Where points of a level lie in the picture, exactly.

    Args:
        points: Coordinates in pixels of the level, in any order and of any shape; centres are whole numbers.
        levels: How often the picture was halved, by the backend "opencv".

    Returns:
        Coordinates in pixels of the picture.

    Raises:
        ValueError: There are less than 0 levels.
    """
    return points * _scale(levels)


def to_level(points: Points, levels: int) -> Points:
    """Where points of the picture lie in a level: the inverse of `to_full`.

    Args:
        points: Coordinates in pixels of the picture, in any order and of any shape; centres are whole numbers.
        levels: How often the picture was halved, by the backend "opencv".

    Returns:
        Coordinates in pixels of the level, between its pixels' centres as well.

    Raises:
        ValueError: There are less than 0 levels.
    """
    return points / _scale(levels)


def _scale(levels: int) -> int:
    if levels < 0:
        raise ValueError(f"{levels} levels of a pyramid; wanted 0 or more: 0 is the picture itself")
    return int(2**levels)


def _check(image: Tensor, backend: str, least: int) -> None:
    if backend not in ("opencv", "kornia"):
        raise ValueError(f"a backend {backend!r}; wanted 'opencv' or 'kornia'")
    if image.ndim != 4 or not (image.dtype == torch.uint8 or image.is_floating_point()):
        raise ValueError(
            f"pictures of {image.dtype} and shape {tuple(image.shape)}; wanted uint8 or floating point, (B, C, H, W)"
        )
    least = least if backend == "kornia" else 1
    if min(image.shape[2:]) < least:
        raise ValueError(
            f"pictures of {image.shape[2]} x {image.shape[3]} pixels; the backend '{backend}' needs at least "
            f"{least} x {least}"
        )


def _computed(function: Callable[[Tensor], Tensor], image: Tensor) -> Tensor:
    """What a function makes of pictures in single or double precision, in the type that they came in.

    A CPU takes one picture after another: what lies between stays in its caches, so that it is 2 to 3 times as fast.
    Sums of levels 0 to 255 are exact, and halves are rounded up, as OpenCV does.
    """
    precision = torch.promote_types(image.dtype, torch.float32)
    parts = image.chunk(len(image) or 1) if image.device.type == "cpu" else [image]
    with torch.autocast(image.device.type, enabled=False):
        result = torch.cat([function(part.to(precision)) for part in parts])
    return result.add_(0.5).to(torch.uint8) if image.dtype == torch.uint8 else result.to(image.dtype)


def _halved(image: Tensor, dim: int) -> Tensor:
    """Sixteen times the smoothed pixels 0, 2, 4, … along one axis.

    Sums of slices: a convolution of so few channels is several times slower on a CPU.
    """
    side = image.shape[dim]
    mirrored = torch.from_numpy(np.pad(np.arange(side), 2, mode="reflect")).to(image.device)
    before, after = image.index_select(dim, mirrored[:2]), image.index_select(dim, mirrored[-2:])
    padded = torch.cat([before, image, after], dim)

    def every_second(start: int) -> Tensor:
        stop = start + side
        return padded[:, :, start:stop:2] if dim == 2 else padded[..., start:stop:2]

    total = every_second(0) + every_second(4)
    return total.add_(every_second(1), alpha=4).add_(every_second(3), alpha=4).add_(every_second(2), alpha=6)


def _doubled(image: Tensor, dim: int, side: int) -> Tensor:
    """Eight times the first `side` pixels of the enlarged picture along one axis.

    The kernel on pictures with a zero after every pixel: even pixels are (1 6 1) / 8 of three pixels, odd ones
    (4 4) / 8 of two. OpenCV reflects the first pixel and repeats the last.
    """
    length = image.shape[dim]
    padded = torch.cat([image.narrow(dim, min(1, length - 1), 1), image, image.narrow(dim, length - 1, 1)], dim)
    after = padded.narrow(dim, 2, length)
    # Written in place: torch.stack takes twice as long.
    pairs = image.new_empty([*image.shape[: dim + 1], 2, *image.shape[dim + 1 :]])
    pairs.select(dim + 1, 0).copy_((padded.narrow(dim, 0, length) + after).add_(image, alpha=6))
    pairs.select(dim + 1, 1).copy_((image + after).mul_(4))
    return pairs.flatten(dim, dim + 1).narrow(dim, 0, side)
