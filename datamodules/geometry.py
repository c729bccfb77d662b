"""Geometry on the host, before a sample is on the device: the only file that knows albumentations.

albumentations 2.0.8 is its last MIT release; should it go, this file is what has to change.
"""

import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.files import read_picture

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


def read_image(path: Path, size: tuple[int, int]) -> Tensor:
    """A picture file as a task takes it from Python: (1, 3, H, W) float32 in [0, 1], of this height and width.

    Raises:
        DataError: The file is missing or not a picture.
    """
    picture = resized(read_picture(path, at_least=size), size)
    return torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)))[None].float() / 255


def resized_mask(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    """A mask (H, W) at another height and width: true where at least half of a new pixel's area was."""
    return resized(mask.astype(np.uint8)[..., None] * 255, size).reshape(size) >= 128
