"""The colours of a small picture laid onto the full one, whose own luminance stays as it is."""

import math
from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ops.color import in_gamut, joined, lab_to_rgb, luminance_and_chroma

BAND = 1 << 18
"""Pixels of the full picture at a time."""
GREY_LEVELS = 16
"""How far the channels of a grey picture lie apart at most, in levels of 8 bits: noise of a scan, or of JPEG."""
COLORED_SHARE = 1e-3
"""Share of the pixels that must be further apart in a picture that has colours."""


@torch.no_grad()
def colored(picture: NDArray[np.uint8], chroma: Tensor, luminance: Tensor, guided: bool = True) -> NDArray[np.uint8]:
    """The picture in colours, at its own size and with its own luminance.

    Colours that sRGB lacks lose chroma, so that L, after rounding to 8 bits, is the picture's to 0.5. Beside picture
    and result, memory holds one band of rows.

    Args:
        picture: The picture (H, W, 3), of which the luminance alone is used.
        chroma: Scaled chroma of the same picture, made small, without padding, (2, h, w); its device is computed on.
        luminance: Scaled luminance of the small picture, (1, h, w).
        guided: Whether colours stop at edges of the luminance, see `ops.coloring`; otherwise they are interpolated.

    Returns:
        (H, W, 3).

    Raises:
        ValueError: Chroma and luminance do not belong to each other.
    """
    small = guide(chroma[None], luminance[None], epsilon=EPSILON if guided else math.inf)  # all slopes are 0 then
    result, height = np.empty_like(picture), picture.shape[0]
    for rows in bands(height, picture.shape[1]):
        full = luminance_and_chroma(pixels(picture[rows], chroma.device))[0]
        rgb = lab_to_rgb(in_gamut(joined(full, guided_rows(small, full, rows.start, height))))
        result[rows] = (255 * rgb[0]).round().byte().permute(1, 2, 0).cpu().numpy()
    return result


def grey(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The luminance of a picture (H, W, 3), as such a picture."""
    return colored(picture, torch.zeros(2, 1, 1), torch.zeros(1, 1, 1), guided=False)


def has_colors(picture: NDArray[np.uint8]) -> bool:
    """Whether a picture (H, W, 3) is more than grey: one pixel in a thousand suffices. A toned print has colours."""
    found = 0
    for rows in bands(*picture.shape[:2]):
        red, green, blue = np.moveaxis(picture[rows], 2, 0)
        highest, lowest = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)
        found += int(np.count_nonzero(highest - lowest > GREY_LEVELS))
    return bool(found > COLORED_SHARE * picture.shape[0] * picture.shape[1])


def bands(height: int, width: int) -> Iterator[slice]:
    """Rows of a picture, from the top, that are worked on at once."""
    rows = max(1, BAND // width)
    for top in range(0, height, rows):
        yield slice(top, min(top + rows, height))


def pixels(picture: NDArray[np.uint8], device: torch.device) -> Tensor:
    """A picture (H, W, 3) of 8 bits as (1, 3, H, W) float32 in [0, 1] on a device."""
    return torch.tensor(picture, device=device).permute(2, 0, 1)[None].float() / 255


RADIUS = 2
"""Pixels of the small picture on each side of a window's centre."""
EPSILON = 0.01
"""Variance of luminance, in its scaled unit, at which slopes are halved: flatter windows say little of them."""
BLOCK = 1 << 17
"""Pixels of the full picture at a time."""
KEYS = -0.75
"""The parameter of bicubic interpolation that torch and OpenCV have."""
Method = Literal["guided", "bicubic", "bilinear"]


def guided_upsample(
    chroma: Tensor,
    luminance_small: Tensor,
    luminance: Tensor,
    radius: int = RADIUS,
    epsilon: float = EPSILON,
    method: Method = "guided",
) -> Tensor:
    """Chroma at the size of the full luminance, in single precision.

    Beside input and output, memory holds bands of rows, some 10 MiB however large the picture.

    Args:
        chroma: (B, 2, h, w), without padding.
        luminance_small: Scaled luminance, in [-1, 1], of the picture that the chroma belongs to, (B, 1, h, w).
        luminance: Scaled luminance of the full picture, (B, 1, H, W).
        radius: See `guide`; for `guided` only, like the next.
        epsilon: See `guide`.
        method: Plain interpolation, `bicubic` or `bilinear`, lets colours run over edges.

    Returns:
        (B, 2, H, W).

    Raises:
        ValueError: Shapes do not fit, the radius is below 1, epsilon is not above 0, or there is no such method.
    """
    _check(chroma, luminance_small)
    if luminance.ndim != 4 or luminance.shape[:2] != luminance_small.shape[:2]:
        raise ValueError(
            f"full luminance of shape {tuple(luminance.shape)} for chroma of {tuple(chroma.shape)}; wanted "
            "(B, 1, H, W) of the same pictures"
        )
    height, width = luminance.shape[2:]
    if method in ("bicubic", "bilinear"):
        return functional.interpolate(chroma.float(), (height, width), mode=method, align_corners=False)
    if method != "guided":
        raise ValueError(f"method '{method}'; wanted is 'guided', 'bicubic' or 'bilinear'")
    small = guide(chroma, luminance_small, radius, epsilon)
    rows = max(1, BLOCK // max(1, chroma.shape[0] * width))
    result = torch.empty((chroma.shape[0], 2, height, width), dtype=torch.float32, device=chroma.device)
    for top in range(0, height, rows):
        part = slice(top, top + rows)
        result[:, :, part] = guided_rows(small, luminance[:, :, part], top, height)
    return result


def guide(chroma: Tensor, luminance_small: Tensor, radius: int = RADIUS, epsilon: float = EPSILON) -> Tensor:
    """What `guided_rows` needs of the small picture.

    Args:
        chroma: (B, 2, h, w), without padding.
        luminance_small: Scaled luminance of the same picture, (B, 1, h, w).
        radius: Pixels on each side of a window's centre; windows are cut off at the picture's border.
        epsilon: Variance of luminance at which slopes are halved: the larger, the less does chroma follow luminance.

    Returns:
        (B, 5, h, w): chroma, its two slopes along luminance, and luminance.

    Raises:
        ValueError: Shapes do not fit, the radius is below 1 or epsilon is not above 0.
    """
    _check(chroma, luminance_small)
    if radius < 1 or not epsilon > 0:
        raise ValueError(f"radius {radius} and epsilon {epsilon}; wanted is 1 pixel or more, and more than 0")
    chroma, luminance = chroma.float(), luminance_small.float()
    means = _box_mean(torch.cat([chroma, luminance, luminance * chroma, luminance * luminance], dim=1), radius)
    chroma_mean, mean, product, square = torch.split(means, [2, 1, 2, 1], dim=1)
    variance = (square - mean * mean).clamp(min=0)
    slopes = _box_mean((product - mean * chroma_mean) / (variance + epsilon), radius)
    return torch.cat([chroma, slopes, luminance], dim=1)


def guided_rows(small: Tensor, luminance: Tensor, top: int, height: int) -> Tensor:
    """Chroma of some rows of the full picture, for pictures that are worked through band by band.

    Args:
        small: What `guide` gave, (B, 5, h, w).
        luminance: Scaled luminance of these rows, (B, 1, rows, W).
        top: The first of them.
        height: All rows of the full picture, H.

    Returns:
        (B, 2, rows, W): those rows of what `guided_upsample` gives.

    Raises:
        ValueError: The rows are not inside the picture.
    """
    rows, width = luminance.shape[-2:]
    if top < 0 or top + rows > height:
        raise ValueError(f"rows {top} to {top + rows} of a picture of {height}; wanted are rows inside it")
    band = _rows(small, top, rows, height)
    large = functional.interpolate(band, (rows, width), mode="bicubic", align_corners=False)
    chroma, slopes, blurred = torch.split(large, [2, 2, 1], dim=1)
    return chroma + slopes * (luminance.float() - blurred)


def _rows(maps: Tensor, top: int, rows: int, height: int) -> Tensor:
    """Some rows of maps enlarged along their height, bicubic; `functional.interpolate` knows no part of an output."""
    places = (torch.arange(top, top + rows, device=maps.device) + 0.5) * (maps.shape[2] / height) - 0.5
    first = places.floor()
    share = (places - first)[:, None]
    result = torch.zeros((*maps.shape[:2], rows, maps.shape[3]), device=maps.device)
    for tap in (-1, 0, 1, 2):
        row = (first.long() + tap).clamp(0, maps.shape[2] - 1)
        result += _keys((share - tap).abs()) * maps[:, :, row]
    return result


def _keys(distance: Tensor) -> Tensor:
    """R. G. Keys, "Cubic Convolution Interpolation for Digital Image Processing", IEEE TASSP 29 (1981)."""
    near = ((KEYS + 2) * distance - (KEYS + 3)) * distance**2 + 1
    far = KEYS * (((distance - 5) * distance + 8) * distance - 4)
    return torch.where(distance <= 1, near, far)


def _box_mean(maps: Tensor, radius: int) -> Tensor:
    return functional.avg_pool2d(maps, 2 * radius + 1, stride=1, padding=radius, count_include_pad=False)


def _check(chroma: Tensor, luminance_small: Tensor) -> None:
    fits = chroma.ndim == 4 and chroma.shape[1] == 2
    if not fits or luminance_small.shape != (chroma.shape[0], 1, *chroma.shape[2:]):
        raise ValueError(
            f"chroma of shape {tuple(chroma.shape)} and its luminance of {tuple(luminance_small.shape)}; wanted "
            "(B, 2, h, w) and (B, 1, h, w): crop both to the picture's box"
        )
