"""The colours of a small picture laid onto the full one, whose own luminance stays as it is."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ops.color import in_gamut, joined, lab_to_rgb, luminance_and_chroma
from ops.guided import EPSILON, guide, guided_rows

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
        guided: Whether colours stop at edges of the luminance, see `ops.guided`; otherwise they are interpolated.

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
