"""Pillow's contour, detail, edge-enhance and find-edges filters for batches, on any device.

The exact backend derives all four from three values per pixel: the pixel itself c, the sum n9 of the 3 x 3 box around
it, and the sum n4 of its four neighbors.

| filter | value, for levels of 0 to 255 |
|---|---|
| contour | 255 + 9 c - n9 |
| detail | (10 c - n4) / 6 |
| edge_enhance | (11 c - n9) / 2 |
| find_edges | 9 c - n9 |
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ops.errors import nearest
from ops.exact.backends import Backend, check_backend, full_precision

# For kornia: the weights of the pixel, its four neighbors and its four corners, and what is added to white = 1.
WEIGHTS = {
    "contour": (8.0, -1.0, -1.0, 1.0),
    "detail": (10 / 6, -1 / 6, 0.0, 0.0),
    "edge_enhance": (5.0, -0.5, -0.5, 0.0),
    "find_edges": (8.0, -1.0, -1.0, 0.0),
}
FILTERS = tuple(WEIGHTS)
CACHED = 2**18  # values that a CPU thread processes at once: 256 x 256 x 3 of them were the fastest


def filtered(image: Tensor, filters: Sequence[str], backend: Backend = "exact") -> Tensor:
    """Applies filters of Pillow's `ImageFilter`; like there, the outermost pixels are copied.

    `exact` equals Pillow to the last bit for uint8. Floating-point images in [0, 1] are filtered differentiably and
    without rounding to levels, in float32 (float64 in float64). For levels divided by 255 the result is within 0.5/255
    of Pillow's, up to float32 rounding. float16 and bfloat16 hold such levels rounded, which the filters amplify:
    results are within 1.2/255 and 4.5/255 (1.04/255 and 4.31/255 on aerial tiles). Autocast changes nothing.

    `kornia` computes one `kornia.filters.filter2d` per filter, five times as slow per filter on a CPU. It differs from
    `exact` by at most one level for uint8, only in `detail` (about 5 % of its pixels, all ties), and by 1e-5 for
    float32.

    Args:
        image: Images (B, C, H, W), uint8 or floating point in [0, 1].
        filters: Names from `FILTERS`.
        backend: Which implementation to use.

    Returns:
        (F, B, C, H, W), one batch per filter in the order of `filters`, of the images' type.

    Raises:
        ValueError: The images have another shape or type, or a filter or the backend is unknown.
    """
    check_backend(backend)
    if image.ndim != 4 or not (image.dtype == torch.uint8 or image.is_floating_point()):
        raise ValueError(
            f"expected images (B, C, H, W) of uint8 or floats in [0, 1], got {image.dtype} of shape "
            f"{tuple(image.shape)}"
        )
    for name in filters:
        if name not in FILTERS:
            hint = nearest(name, FILTERS, cutoff=0.4)
            raise ValueError(f"filter {name!r} is unknown; expected one of {', '.join(FILTERS)}.{hint}")
    if image.device.type != "cpu":
        return _filtered(image, filters, backend)
    # A large batch would leave the cache between any two steps.
    size = max(1, CACHED * torch.get_num_threads() // max(1, image.shape[1:].numel()))
    return torch.cat([_filtered(part, filters, backend) for part in torch.split(image, size)], dim=1)


def _filtered(image: Tensor, filters: Sequence[str], backend: Backend) -> Tensor:
    result = image.unsqueeze(0).repeat(len(filters), 1, 1, 1, 1)
    if filters and min(image.shape[-2:]) >= 3:
        if backend == "kornia":
            inner = _filter_by_kornia(image, filters)
        else:
            inner = _filter_levels(image, filters) if image.dtype == torch.uint8 else _filter_values(image, filters)
        for place, name in enumerate(filters):
            result[place, ..., 1:-1, 1:-1] = inner[name]
    return result


def _filter_by_kornia(image: Tensor, filters: Sequence[str]) -> dict[str, Tensor]:
    """Filters the inner pixels, (B, C, H - 2, W - 2), by convolution."""
    from kornia.filters import filter2d

    values = image if image.dtype == torch.float64 else image.float()
    white, half = (255.0, 0.5) if image.dtype == torch.uint8 else (1.0, 0.0)  # storing as uint8 cuts off the fraction
    inner = {}
    with full_precision(image.device):
        for name in filters:
            center, side, corner, offset = WEIGHTS[name]
            rows = [[corner, side, corner], [side, center, side], [corner, side, corner]]
            sums = filter2d(values, values.new_tensor([rows]), padding="valid")
            inner[name] = (sums + (offset * white + half)).clamp(0, white)
    return inner


def _filter_levels(image: Tensor, filters: Sequence[str]) -> dict[str, Tensor]:
    """Filters the inner pixels of uint8 images, (B, C, H - 2, W - 2)."""
    inner = {}
    if "detail" in filters:
        inner["detail"] = _detail_levels(image)
    if set(filters) - {"detail"}:
        levels = image.to(torch.int16)  # sums lie between -8 and 11 times 255
        center = levels[..., 1:-1, 1:-1]
        edges = 9 * center - _box(levels)
        if "contour" in filters:
            inner["contour"] = (edges + 255).clamp_(0, 255)
        if "edge_enhance" in filters:
            inner["edge_enhance"] = (edges + 2 * center + 1 >> 1).clamp_(0, 255)
        if "find_edges" in filters:
            inner["find_edges"] = edges.clamp_(0, 255)
    return inner


def _detail_levels(image: Tensor) -> Tensor:
    """Repeats Pillow's own float32 steps in their order, which decide the ties: 1/6 is no float32.

    The result still has its fraction, which storing it as uint8 cuts off.
    """
    values = image.float()
    sides = values * (-1 / 6)
    middle = sides[..., 1:-1, :-2] + values[..., 1:-1, 1:-1] * (10 / 6) + sides[..., 1:-1, 2:]
    return (sides[..., 2:, 1:-1] + 0.5 + middle + sides[..., :-2, 1:-1]).clamp_(0, 255)


def _filter_values(image: Tensor, filters: Sequence[str]) -> dict[str, Tensor]:
    """Filters the inner pixels of floating-point images without rounding to levels."""
    values = image if image.dtype == torch.float64 else image.float()
    center = values[..., 1:-1, 1:-1]
    inner = {}
    if "detail" in filters:
        cross = values[..., :-2, 1:-1] + values[..., 2:, 1:-1] + values[..., 1:-1, :-2] + values[..., 1:-1, 2:]
        inner["detail"] = (10 * center - cross) / 6
    if set(filters) - {"detail"}:
        edges = 9 * center - _box(values)
        inner |= {"contour": edges + 1, "edge_enhance": edges / 2 + center, "find_edges": edges}
    return {name: inner[name].clamp(0, 1) for name in inner if name in filters}


def _box(values: Tensor) -> Tensor:
    """Sums the 3 x 3 boxes around the inner pixels."""
    rows = values[..., :-2, :] + values[..., 1:-1, :] + values[..., 2:, :]
    return rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
