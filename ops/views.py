"""Views of images for test-time augmentation: symmetries and sizes, and the mean of the maps predicted for them."""

from collections.abc import Callable, Iterator, Sequence
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
    if torch.compiler.is_exporting():
        return _at_once(network, image, views)
    maps = list(each_view(network, image, views))
    return torch.stack(maps).mean(dim=0) if len(maps) > 1 else maps[0]


def each_view(network: Callable[[Tensor], Tensor], image: Tensor, views: TestTime) -> Iterator[Tensor]:
    """Yields the maps of each view, see `mean_over_views`, in the geometry of the images."""
    return (_seen(network, image, *view) for view in _views(views))


def _views(views: TestTime) -> Iterator[tuple[float, int, bool]]:
    """Yields scale, quarter turns, and whether the view is mirrored."""
    for scale in SCALES if views == "scales" else (1.0,):
        for turns in range(4) if views == "d4" else (0,):
            for mirrored in (False,) if views == "none" else (False, True):
                yield scale, turns, mirrored


def _seen(network: Callable[[Tensor], Tensor], image: Tensor, scale: float, turns: int, mirrored: bool) -> Tensor:
    """Returns the maps predicted for one view, taken back to the geometry of the images."""
    maps = network(_view(image, scale, turns, mirrored))
    return _resized(_back(maps, turns, mirrored), image.shape[-2:])


def _view(image: Tensor, scale: float, turns: int, mirrored: bool) -> Tensor:
    size = image.shape[-2:]
    if scale != 1:
        image = _resized(image, [max(1, round(side * scale)) for side in size])
    view = torch.rot90(image, turns, (2, 3))
    return view.flip(3) if mirrored else view


def _back(maps: Tensor, turns: int, mirrored: bool) -> Tensor:
    return torch.rot90(maps.flip(3) if mirrored else maps, -turns, (2, 3))


def _at_once(network: Callable[[Tensor], Tensor], image: Tensor, views: TestTime) -> Tensor:
    """Returns the mean over views, with one pass of the network for all views of one shape: fewer nodes in a file."""
    shapes: dict[tuple[float, int], list[tuple[float, int, bool]]] = {}
    for view in _views(views):
        shapes.setdefault((view[0], view[1] % 2), []).append(view)
    maps: list[Tensor] = []
    for alike in shapes.values():
        found = network(torch.cat([_view(image, *view) for view in alike]))
        parts = found.reshape(len(alike), len(image), *found.shape[1:])
        maps += [_back(parts[number], *view[1:]) for number, view in enumerate(alike)]
    return torch.stack([_resized(each, image.shape[-2:]) for each in maps]).mean(dim=0)


def _resized(maps: Tensor, size: Sequence[int]) -> Tensor:
    if list(maps.shape[-2:]) == list(size):
        return maps
    return F.interpolate(maps, list(size), mode="bilinear", antialias=True)
