"""Views of images for test-time augmentation: symmetries and sizes, and the mean of the maps predicted for them."""

from collections.abc import Callable, Iterator
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

TestTime = Literal["none", "flip", "d4", "scales"]
"""Views that predictions are averaged over: `flip` is two, the image and its mirror; `d4` is all eight flips and
quarter turns; `scales` is three sizes, each mirrored too."""

SCALES = (0.75, 1.0, 1.25)


def check_test_time(views: str) -> None:
    """Raises a ValueError for unknown views."""
    if views not in get_args(TestTime):
        raise ValueError(f"tta is {views!r}; expected one of {', '.join(get_args(TestTime))}")


def mean_over_views(network: Callable[[Tensor], Tensor], image: Tensor, views: TestTime) -> Tensor:
    """Returns the mean of the maps that a network predicts for views of images.

    Args:
        network: Maps (B, 3, h, w) of any size to (B, K, h, w).
        image: Images (B, 3, H, W).
        views: Which views.

    Returns:
        (B, K, H, W), in the geometry of the images.
    """
    maps = [back(network(view)) for view, back in _views(image, views)]
    return torch.stack(maps).mean(dim=0) if len(maps) > 1 else maps[0]


def _views(image: Tensor, views: TestTime) -> Iterator[tuple[Tensor, Callable[[Tensor], Tensor]]]:
    """Yields each view with what takes its maps back."""
    if views == "scales":
        size = image.shape[-2:]
        for scale in SCALES:
            sides = [max(1, round(side * scale)) for side in size]
            view = image if scale == 1 else F.interpolate(image, sides, mode="bilinear", antialias=True)
            yield view, lambda maps: _resized(maps, size)
            yield view.flip(3), lambda maps: _resized(maps.flip(3), size)
        return
    turns = range(4) if views == "d4" else range(1)
    for turn in turns:
        view = torch.rot90(image, turn, (2, 3))
        yield view, lambda maps, turn=turn: torch.rot90(maps, -turn, (2, 3))
        if views != "none":
            yield view.flip(3), lambda maps, turn=turn: torch.rot90(maps.flip(3), -turn, (2, 3))


def _resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return maps if maps.shape[-2:] == size else F.interpolate(maps, size, mode="bilinear", antialias=True)
