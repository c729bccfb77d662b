"""Pillow's contour, detail, edge-enhance and find-edges filters for batches, on any device.

All four follow from three numbers a pixel: its own value c, the sum n9 of the 3 x 3 box around it and the sum n4 of
its four neighbours.

| filter | value, of a level from 0 to 255 |
|---|---|
| contour | 255 + 9 c - n9 |
| detail | (10 c - n4) / 6 |
| edge_enhance | (11 c - n9) / 2 |
| find_edges | 9 c - n9 |
"""

import difflib
from collections.abc import Sequence

import torch
from torch import Tensor

FILTERS = ("contour", "detail", "edge_enhance", "find_edges")

CACHED = 2**18  # values that a CPU thread works on at once: 256 x 256 x 3 of them were the fastest


def filtered(image: Tensor, filters: Sequence[str]) -> Tensor:
    """Pictures filtered as Pillow's `ImageFilter` does it, the outermost pixels copied.

    uint8 pictures become what Pillow makes of them, to the last bit. Floating-point pictures in [0, 1] are filtered
    without rounding to levels, differentiably, in float32 (float64 in its own precision). Where they are levels
    divided by 255, the result is within 0.5/255 of Pillow's, but for the last bits of float32. float16 and bfloat16
    hold such levels rounded, which the filters enlarge: the result is within 1.2/255 and 4.5/255 (on aerial tiles
    1.04/255 and 4.31/255).

    Autocast changes nothing: it leaves sums and products of elements as they are.

    Args:
        image: Pictures (B, C, H, W), uint8 or floating point in [0, 1].
        filters: Names of `FILTERS`.

    Returns:
        (F, B, C, H, W), a batch for each filter in the order of `filters`, of the picture's type.

    Raises:
        ValueError: The pictures have another shape or type, or a filter is unknown.
    """
    if image.ndim != 4 or not (image.dtype == torch.uint8 or image.is_floating_point()):
        raise ValueError(
            f"pictures of shape {tuple(image.shape)} and {image.dtype}; wanted is (B, C, H, W), torch.uint8 or float "
            "in [0, 1]"
        )
    for name in filters:
        if name not in FILTERS:
            near = difflib.get_close_matches(name, FILTERS, n=1, cutoff=0.4)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise ValueError(f"the filter {name!r} is unknown; wanted is one of {', '.join(FILTERS)}.{hint}")
    if image.device.type != "cpu":
        return _filtered(image, filters)
    # a large batch would leave the cache between any two steps
    size = max(1, CACHED * torch.get_num_threads() // max(1, image.shape[1:].numel()))
    return torch.cat([_filtered(part, filters) for part in torch.split(image, size)], dim=1)


def _filtered(image: Tensor, filters: Sequence[str]) -> Tensor:
    """The same of pictures and filters that are known to be right, all at once."""
    result = image.unsqueeze(0).repeat(len(filters), 1, 1, 1, 1)
    if filters and min(image.shape[-2:]) >= 3:
        made = _filter_levels(image, filters) if image.dtype == torch.uint8 else _filter_values(image, filters)
        for place, name in enumerate(filters):
            result[place, ..., 1:-1, 1:-1] = made[name]
    return result


def _filter_levels(image: Tensor, filters: Sequence[str]) -> dict[str, Tensor]:
    """What each filter makes of the inner pixels of uint8 pictures, (B, C, H - 2, W - 2)."""
    made = {}
    if "detail" in filters:
        made["detail"] = _detail_levels(image)
    if set(filters) - {"detail"}:
        levels = image.to(torch.int16)  # sums lie between -8 and 11 times 255
        centre = levels[..., 1:-1, 1:-1]
        edges = 9 * centre - _box(levels)
        if "contour" in filters:
            made["contour"] = (edges + 255).clamp_(0, 255)
        if "edge_enhance" in filters:
            made["edge_enhance"] = (edges + 2 * centre + 1 >> 1).clamp_(0, 255)
        if "find_edges" in filters:
            made["find_edges"] = edges.clamp_(0, 255)
    return made


def _detail_levels(image: Tensor) -> Tensor:
    """Detail in Pillow's own float32 steps and order, which decide the ties: one sixth is no float32.

    The result still has its fraction, which storing it as uint8 cuts off.
    """
    values = image.float()
    sides = values * (-1 / 6)
    middle = sides[..., 1:-1, :-2] + values[..., 1:-1, 1:-1] * (10 / 6) + sides[..., 1:-1, 2:]
    return (sides[..., 2:, 1:-1] + 0.5 + middle + sides[..., :-2, 1:-1]).clamp_(0, 255)


def _filter_values(image: Tensor, filters: Sequence[str]) -> dict[str, Tensor]:
    """The same of floating-point pictures, without rounding to levels."""
    values = image if image.dtype == torch.float64 else image.float()
    centre = values[..., 1:-1, 1:-1]
    made = {}
    if "detail" in filters:
        cross = values[..., :-2, 1:-1] + values[..., 2:, 1:-1] + values[..., 1:-1, :-2] + values[..., 1:-1, 2:]
        made["detail"] = (10 * centre - cross) / 6
    if set(filters) - {"detail"}:
        edges = 9 * centre - _box(values)
        made |= {"contour": edges + 1, "edge_enhance": edges / 2 + centre, "find_edges": edges}
    return {name: made[name].clamp(0, 1) for name in made if name in filters}


def _box(values: Tensor) -> Tensor:
    """Sums of the 3 x 3 boxes around the inner pixels."""
    rows = values[..., :-2, :] + values[..., 1:-1, :] + values[..., 2:, :]
    return rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
