"""Geometry on the host, before a sample is on the device: the only file that knows albumentations.

albumentations 2.0.8 is its last MIT release; should it go, this file is what has to change.
"""

import os
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import albumentations


@cache
def _resize(height: int, width: int, interpolation: int) -> "albumentations.Resize":
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # its import asks the network for a newer version
    import albumentations

    return albumentations.Resize(height, width, interpolation=interpolation, p=1)


def resized(picture: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """A picture (H, W, C) at another height and width: area means when it shrinks, bilinear when it grows."""
    import cv2

    if picture.shape[:2] == tuple(size):
        return picture
    shrinks = size[0] * size[1] < picture.shape[0] * picture.shape[1]
    transform = _resize(*size, cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    result: NDArray[np.uint8] = transform(image=picture)["image"]
    return result


def resized_mask(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    """A mask (H, W) at another height and width: true where at least half of a new pixel's area was."""
    return resized(mask.astype(np.uint8)[..., None] * 255, size).reshape(size) >= 128
