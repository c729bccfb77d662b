"""Colors a full image by the chroma of a small one, and keeps the full image's luminance.

Enlarged chroma is bicubic chroma plus its local slope along luminance times what bicubic luminance misses, a variant
of He and Sun, "Fast guided filter" (arXiv:1505.00996, 2015). It works on bands of rows and is guided by the full
luminance; kornia's `guided_blur` filters at one size only.
"""

import math
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ops.color.hints import Hints, spread, spread_rows
from ops.color.lab import in_gamut, joined, lab_to_rgb, luminance_and_chroma

RADIUS = 2
"""Pixels of the small image on each side of a window's center."""
EPSILON = 0.01
"""Variance of luminance, in its scaled unit, at which slopes are halved: flatter windows determine them poorly."""
BAND = 1 << 18
"""Pixels of the full image processed at once."""
KEYS = -0.75
"""Parameter of bicubic interpolation in torch and OpenCV."""
GREY_LEVELS = 16
"""Largest distance between the channels of a gray image, in 8-bit levels: noise of a scan, or of JPEG."""
COLORED_SHARE = 1e-3
"""Share of the pixels whose channels must lie further apart in a color image."""


@torch.no_grad()
def colored(
    picture: NDArray[np.uint8], chroma: Tensor, luminance: Tensor, guided: bool = True, hints: Hints | None = None
) -> NDArray[np.uint8]:
    """Colors an image at its own size and with its own luminance.

    Colors outside sRGB lose chroma, so that L, after rounding to 8 bits, stays within 0.5 of the image's. Beside the
    image and the result, memory holds one band of rows.

    Args:
        picture: Image (H, W, 3); only its luminance is used.
        chroma: Scaled chroma of the same image, reduced and without padding, (2, h, w); sets the device.
        luminance: Scaled luminance of the reduced image, (1, h, w).
        guided: Whether colors stop at edges of the luminance, see `guide`; otherwise chroma is interpolated.
        hints: Given colors, which their pixels get and which spread from there, see `ops.color.hints`.

    Returns:
        (H, W, 3).

    Raises:
        ValueError: The shapes of chroma and luminance do not match.
    """
    small = guide(chroma[None], luminance[None], epsilon=EPSILON if guided else math.inf)  # infinity: no slopes
    result, height = np.empty_like(picture), picture.shape[0]
    added = None if hints is None or not len(hints.places) else _spread(picture, small, hints)
    for rows in bands(height, picture.shape[1]):
        full = luminance_and_chroma(pixels(picture[rows], chroma.device))[0]
        estimate = guided_rows(small, full, rows.start, height)
        if added is not None and hints is not None:
            estimate += spread_rows(added, full, rows.start, height)
            given = hints.within(rows)
            row, column = torch.from_numpy(given.places).to(chroma.device).unbind(1)
            estimate[0, :, row - rows.start, column] = torch.from_numpy(given.chroma).to(estimate).T
        rgb = lab_to_rgb(in_gamut(joined(full, estimate)))
        result[rows] = (255 * rgb[0]).round().byte().permute(1, 2, 0).cpu().numpy()
    return result


def _spread(picture: NDArray[np.uint8], small: Tensor, hints: Hints) -> Tensor:
    """Returns what hints add to the estimate, see `ops.color.hints.spread`."""
    height, width = picture.shape[:2]
    order, estimates, luminances = [], [], []
    for rows in bands(height, width):
        inside = hints.within(rows)
        if not len(inside.places):
            continue
        order.append(inside)
        full = luminance_and_chroma(pixels(picture[rows], small.device))[0]
        row, column = torch.from_numpy(inside.places).to(small.device).unbind(1)
        estimates.append(guided_rows(small, full, rows.start, height)[0, :, row - rows.start, column].T)
        luminances.append(full[0, 0, row - rows.start, column])
    together = Hints(*(np.concatenate([getattr(each, key) for each in order]) for key in ("places", "chroma")))
    return spread(together, torch.cat(estimates), torch.cat(luminances), height, width)


def grey(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Returns an image (H, W, 3) without its colors: the same luminance, in three equal channels."""
    return colored(picture, torch.zeros(2, 1, 1), torch.zeros(1, 1, 1), guided=False)


def has_colors(picture: NDArray[np.uint8]) -> bool:
    """Returns whether an image (H, W, 3) is more than gray: one pixel in a thousand suffices, a toned print counts."""
    found = 0
    for rows in bands(*picture.shape[:2]):
        red, green, blue = np.moveaxis(picture[rows], 2, 0)
        highest, lowest = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)
        found += int(np.count_nonzero(highest - lowest > GREY_LEVELS))
    return bool(found > COLORED_SHARE * picture.shape[0] * picture.shape[1])


def guided_upsample(
    chroma: Tensor, luminance_small: Tensor, luminance: Tensor, radius: int = RADIUS, epsilon: float = EPSILON
) -> Tensor:
    """Enlarges chroma to the size of the full luminance, in float32.

    Beside input and output, memory holds one band of rows, however large the image.

    Args:
        chroma: (B, 2, h, w), without padding.
        luminance_small: Scaled luminance, in [-1, 1], of the image that the chroma belongs to, (B, 1, h, w).
        luminance: Scaled luminance of the full image, (B, 1, H, W).
        radius: See `guide`.
        epsilon: See `guide`.

    Returns:
        (B, 2, H, W).

    Raises:
        ValueError: Shapes do not match, the radius is below 1 or epsilon is not above 0.
    """
    small = guide(chroma, luminance_small, radius, epsilon)
    if luminance.ndim != 4 or luminance.shape[:2] != luminance_small.shape[:2]:
        raise ValueError(
            f"expected the full luminance (B, 1, H, W) of the same images, got {tuple(luminance.shape)} with chroma "
            f"{tuple(chroma.shape)}"
        )
    height, width = luminance.shape[2:]
    result = torch.empty((chroma.shape[0], 2, height, width), dtype=torch.float32, device=chroma.device)
    for rows in bands(height, chroma.shape[0] * width):
        result[:, :, rows] = guided_rows(small, luminance[:, :, rows], rows.start, height)
    return result


def guide(chroma: Tensor, luminance_small: Tensor, radius: int = RADIUS, epsilon: float = EPSILON) -> Tensor:
    """Computes from the small image what `guided_rows` needs.

    Args:
        chroma: (B, 2, h, w), without padding.
        luminance_small: Scaled luminance of the same image, (B, 1, h, w).
        radius: Pixels on each side of a window's center; windows are cut off at the image's border.
        epsilon: Variance of luminance at which slopes are halved: the larger, the less chroma follows luminance.

    Returns:
        (B, 5, h, w): chroma, its two slopes along luminance, and luminance.

    Raises:
        ValueError: Shapes do not match, the radius is below 1 or epsilon is not above 0.
    """
    fits = chroma.ndim == 4 and chroma.shape[1] == 2
    if not fits or luminance_small.shape != (chroma.shape[0], 1, *chroma.shape[2:]):
        raise ValueError(
            f"expected chroma (B, 2, h, w) and its luminance (B, 1, h, w), got {tuple(chroma.shape)} and "
            f"{tuple(luminance_small.shape)}: crop both to the image's box"
        )
    if radius < 1 or not epsilon > 0:
        raise ValueError(f"expected a radius of 1 pixel or more and epsilon above 0, got {radius} and {epsilon}")
    chroma, luminance = chroma.float(), luminance_small.float()
    means = _box_mean(torch.cat([chroma, luminance, luminance * chroma, luminance * luminance], dim=1), radius)
    chroma_mean, mean, product, square = torch.split(means, [2, 1, 2, 1], dim=1)
    variance = (square - mean * mean).clamp(min=0)
    slopes = _box_mean((product - mean * chroma_mean) / (variance + epsilon), radius)
    return torch.cat([chroma, slopes, luminance], dim=1)


def guided_rows(small: Tensor, luminance: Tensor, top: int, height: int) -> Tensor:
    """Enlarges chroma for some rows of the full image, for images that are processed band by band.

    Args:
        small: What `guide` returned, (B, 5, h, w).
        luminance: Scaled luminance of these rows, (B, 1, rows, W).
        top: The first of them.
        height: Height H of the full image.

    Returns:
        (B, 2, rows, W): these rows of what `guided_upsample` returns.

    Raises:
        ValueError: The rows are not inside the image.
    """
    rows, width = luminance.shape[-2:]
    if top < 0 or top + rows > height:
        raise ValueError(f"expected rows inside an image of {height}, got rows {top} to {top + rows}")
    band = _rows(small, top, rows, height)
    large = functional.interpolate(band, (rows, width), mode="bicubic", align_corners=False)
    chroma, slopes, blurred = torch.split(large, [2, 2, 1], dim=1)
    return chroma + slopes * (luminance.float() - blurred)


def bands(height: int, width: int) -> Iterator[slice]:
    """Yields the rows of an image that are processed at once, from the top."""
    rows = max(1, BAND // max(1, width))
    for top in range(0, height, rows):
        yield slice(top, min(top + rows, height))


def pixels(picture: NDArray[np.uint8], device: torch.device) -> Tensor:
    """Moves an 8-bit image (H, W, 3) to a device as (1, 3, H, W) float32 in [0, 1]."""
    return torch.tensor(picture, device=device).permute(2, 0, 1)[None].float() / 255


def _rows(maps: Tensor, top: int, rows: int, height: int) -> Tensor:
    """Enlarges maps bicubically along their height, to some rows only, unlike `functional.interpolate`."""
    places = (torch.arange(top, top + rows, device=maps.device) + 0.5) * (maps.shape[2] / height) - 0.5
    first = places.floor()
    share = (places - first)[:, None]
    result = torch.zeros((*maps.shape[:2], rows, maps.shape[3]), device=maps.device)
    for tap in (-1, 0, 1, 2):
        row = (first.long() + tap).clamp(0, maps.shape[2] - 1)
        result += _keys((share - tap).abs()) * maps[:, :, row]
    return result


def _keys(distance: Tensor) -> Tensor:
    """Returns the kernel of R. G. Keys, "Cubic convolution interpolation for digital image processing", 1981."""
    near = ((KEYS + 2) * distance - (KEYS + 3)) * distance**2 + 1
    far = KEYS * (((distance - 5) * distance + 8) * distance - 4)
    return torch.where(distance <= 1, near, far)


def _box_mean(maps: Tensor, radius: int) -> Tensor:
    return functional.avg_pool2d(maps, 2 * radius + 1, stride=1, padding=radius, count_include_pad=False)
