"""Letterboxes images in a white square, aspect kept, and finds black gaps in satellite images."""

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
BLACK = 0.05
"""Brightest level in [0, 1] that counts as black. In resized MODIS images gaps are below 0.03 (JPEG noise; 0 before
compression), the ocean above 0.1."""


def box(size: tuple[int, int], side: int) -> Box:
    """Returns the box of a letterboxed image: as large as fits, centered, at least one pixel high and wide.

    Args:
        size: Height and width of the image.
        side: Side of the square.

    Returns:
        Top, left, height and width. An odd margin has its larger half below or to the right.

    Raises:
        ValueError: A side is below 1.
    """
    if min(*size, side) < 1:
        raise ValueError(
            f"expected sides of 1 pixel or more, got an image of {size[0]} x {size[1]} in a square of {side}: remove "
            "empty images"
        )
    longest = max(size)
    # Rounds half up, in integers: round() rounds halves to even.
    height, width = (max(1, (2 * length * side + longest) // (2 * longest)) for length in size)
    return (side - height) // 2, (side - width) // 2, height, width


def letterboxed(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Fits an image into a white square: by area means when it shrinks, bilinearly when it grows.

    Args:
        image: 8-bit image (H, W, 3).
        side: Side of the square.

    Returns:
        (side, side, 3). `box` returns where the image lies in it.

    Raises:
        ValueError: The image has another shape or type, or a side is below 1.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(
            f"expected an image (H, W, 3) of uint8, got {image.dtype} of shape {image.shape}: read it by "
            "datamodules.read.pictures.read_picture"
        )
    top, left, height, width = box((image.shape[0], image.shape[1]), side)
    square = np.full((side, side, 3), WHITE, np.uint8)
    method = cv2.INTER_AREA if max(image.shape[:2]) > side else cv2.INTER_LINEAR
    square[top : top + height, left : left + width] = cv2.resize(image, (width, height), interpolation=method)
    return square


def valid_pixels(boxes: Tensor, side: int) -> Tensor:
    """Marks where the images lie in their squares.

    Args:
        boxes: Top, left, height and width of each, integers (B, 4).
        side: Side of the squares.

    Returns:
        True inside the images, (B, 1, side, side), on the same device.

    Raises:
        ValueError: The boxes have another shape.
    """
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"expected boxes (B, 4) of top, left, height and width, got shape {tuple(boxes.shape)}")
    top, left, height, width = boxes.view(-1, 4, 1).unbind(1)
    places = torch.arange(side, device=boxes.device)
    rows = (places >= top) & (places < top + height)
    columns = (places >= left) & (places < left + width)
    return (rows[:, :, None] & columns[:, None, :])[:, None]


def cropped(maps: Tensor, box: Sequence[int] | Tensor) -> Tensor:
    """Returns a view of what lies in a box, without the padding.

    Args:
        maps: Any tensor whose last two axes are those of the square.
        box: Top, left, height and width, numbers or a tensor (4,).

    Raises:
        ValueError: The box is empty or crosses the square's edge.
    """
    top, left, height, width = (int(each) for each in box)
    bottom, right = top + height, left + width
    if min(top, left, height - 1, width - 1) < 0 or bottom > maps.shape[-2] or right > maps.shape[-1]:
        raise ValueError(
            f"expected a box inside maps of {maps.shape[-2]} x {maps.shape[-1]}, got top {top}, left {left}, height "
            f"{height} and width {width}: letterbox both with the same side"
        )
    return maps[..., top:bottom, left:right]


def seen(image: Tensor, level: float = BLACK, width: int = 3) -> Tensor:
    """Marks the pixels that a satellite has seen: all that do not lie in a black gap.

    Gaps are the morphological opening of the black pixels by a square: all pixels covered by some entirely black
    square. The square may extend over the image's edge, because gaps do not end there. Single dark pixels count as
    seen. Made for MODIS true color: where land or shadows are as black as gaps, as in contrast-stretched Landsat
    tiles, they are taken for gaps.

    Args:
        image: Images (B, 3, H, W) in [0, 1].
        level: A pixel is black if none of its channels is above this level.
        width: Side of the square in pixels of this image.

    Returns:
        True where the image was seen, False in gaps, (B, 1, H, W).

    Raises:
        ValueError: The images are not floating point or the width is below 1.
    """
    if not image.is_floating_point():
        raise ValueError(f"expected images of floating point in [0, 1], got {image.dtype}: divide them by 255")
    if width < 1:
        raise ValueError(f"expected a gap width of 1 pixel or more, got {width}")
    light = (image.amax(dim=1, keepdim=True) > level).float()
    light_in_square = functional.max_pool2d(functional.pad(light, [width - 1] * 4), width, stride=1)
    in_black_square = functional.max_pool2d(1 - light_in_square, width, stride=1)
    return in_black_square == 0


def share_of_black(image: NDArray[np.uint8], level: float = BLACK) -> float:
    """Returns the share of an image's pixels that are black, in gaps or on their own.

    Args:
        image: Image (H, W, 3).
        level: A pixel is black if none of its channels is above this level, in [0, 1].

    Returns:
        Share in [0, 1].
    """
    black = cv2.inRange(image, (0, 0, 0), (int(level * 255),) * 3)
    return float(cv2.countNonZero(black) / black.size)
