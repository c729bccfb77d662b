"""Black gaps in satellite pictures: the stripes between two orbits, which no satellite has seen."""

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

BLACK = 0.05
"""The brightest level in [0, 1] that counts as black.

In resized MODIS pictures gaps lie below 0.03 (JPEG noise; 0 before compression), the ocean above 0.1.
"""


def seen(image: Tensor, level: float = BLACK, width: int = 3) -> Tensor:
    """Which pixels a satellite has seen, that is, all that do not lie in a black gap.

    The gaps are the morphological opening of the black pixels by a square: all pixels that some wholly black
    square covers. The square may hang over the picture's edge, because gaps do not end there. Dark pixels on
    their own remain seen. Made for MODIS true colour: where land or shadows are as black as gaps, as in
    contrast-stretched Landsat tiles, those are taken for gaps.

    Args:
        image: Pictures in [0, 1] of shape (B, 3, H, W).
        level: A pixel is black if none of its channels is above this level.
        width: Side of the square in pixels of this picture.

    Returns:
        True where the picture was seen, False in gaps, of shape (B, 1, H, W).

    Raises:
        ValueError: If the picture is not a floating-point one or the width is below 1.
    """
    if not image.is_floating_point():
        raise ValueError(f"a picture of {image.dtype}; wanted floating point in [0, 1]: divide it by 255")
    if width < 1:
        raise ValueError(f"a gap width of {width} pixels; wanted 1 or more")
    light = (image.amax(dim=1, keepdim=True) > level).float()
    light_in_square = functional.max_pool2d(functional.pad(light, [width - 1] * 4), width, stride=1)
    in_black_square = functional.max_pool2d(1 - light_in_square, width, stride=1)
    return in_black_square == 0


def share_of_black(image: NDArray[np.uint8], level: float = BLACK) -> float:
    """The share of a picture's pixels that are black, in gaps or on their own.

    Args:
        image: Picture of shape (H, W, 3).
        level: A pixel is black if none of its channels is above this level, in [0, 1].

    Returns:
        Share in [0, 1].
    """
    black = cv2.inRange(image, (0, 0, 0), (int(level * 255),) * 3)
    return float(cv2.countNonZero(black) / black.size)
