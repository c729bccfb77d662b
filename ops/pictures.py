"""Pictures of any size in a square: their aspect kept, in the middle, white around them."""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

Box = tuple[int, int, int, int]
"""Top, left, height and width in pixels."""
WHITE = 255


def box(size: tuple[int, int], side: int) -> Box:
    """Where a picture lies in a square: as large as fits, in the middle, at least one pixel high and wide.

    Args:
        size: Height and width of the picture.
        side: Side of the square.

    Returns:
        Top, left, height and width. Of an odd rest, the larger half is below or to the right.

    Raises:
        ValueError: A side is below 1.
    """
    if min(*size, side) < 1:
        raise ValueError(
            f"a picture of {size[0]} x {size[1]} in a square of {side}; wanted are sides of 1 pixel or more: leave "
            "empty pictures out"
        )
    longest = max(size)
    # Rounded half up, in whole numbers: round() takes halves to even ones.
    height, width = (max(1, (2 * length * side + longest) // (2 * longest)) for length in size)
    return (side - height) // 2, (side - width) // 2, height, width


def letterboxed(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """A picture in a white square: area means when it shrinks, bilinear when it grows.

    Args:
        image: Picture (H, W, 3) of 8 bits.
        side: Side of the square.

    Returns:
        (side, side, 3). Where the picture lies in it says `box`.

    Raises:
        ValueError: It is no such picture, or a side is below 1.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(
            f"a picture of shape {image.shape} and {image.dtype}; wanted (H, W, 3) of uint8: read it by "
            "datamodules.read.pictures.read_picture"
        )
    top, left, height, width = box((image.shape[0], image.shape[1]), side)
    square = np.full((side, side, 3), WHITE, np.uint8)
    method = cv2.INTER_AREA if max(image.shape[:2]) > side else cv2.INTER_LINEAR
    square[top : top + height, left : left + width] = cv2.resize(image, (width, height), interpolation=method)
    return square


def valid_pixels(boxes: Tensor, side: int) -> Tensor:
    """Where the pictures lie in their squares.

    Args:
        boxes: Top, left, height and width of each, whole numbers (B, 4).
        side: Side of the squares.

    Returns:
        True inside the pictures, (B, 1, side, side), on the same device.

    Raises:
        ValueError: The boxes have another shape.
    """
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(
            f"boxes of shape {tuple(boxes.shape)}; wanted (B, 4): top, left, height, width of each picture"
        )
    top, left, height, width = boxes.view(-1, 4, 1).unbind(1)
    places = torch.arange(side, device=boxes.device)
    rows = (places >= top) & (places < top + height)
    columns = (places >= left) & (places < left + width)
    return (rows[:, :, None] & columns[:, None, :])[:, None]


def cropped(maps: Tensor, box: Sequence[int] | Tensor) -> Tensor:
    """What lies in a box, a view without the padding.

    Args:
        maps: Any tensor whose last two axes are those of the square.
        box: Top, left, height and width, numbers or a tensor (4,).

    Raises:
        ValueError: The box is empty or reaches over the square's edge.
    """
    top, left, height, width = (int(each) for each in box)
    bottom, right = top + height, left + width
    if min(top, left, height - 1, width - 1) < 0 or bottom > maps.shape[-2] or right > maps.shape[-1]:
        raise ValueError(
            f"a box of top {top}, left {left}, height {height} and width {width} in maps of {maps.shape[-2]} x "
            f"{maps.shape[-1]}; wanted is one inside them: letterbox both with the same side"
        )
    return maps[..., top:bottom, left:right]


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
