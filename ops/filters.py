"""Pillow's contour, detail, edge-enhance and find-edges filters for batches, on any device."""

from collections.abc import Sequence

import torch
from torch import Tensor

FILTERS = ("contour", "detail", "edge_enhance", "find_edges")


def filtered(image: Tensor, filters: Sequence[str]) -> Tensor:
    """Temporary."""
    s = image.to(torch.int16)
    out = s[None].repeat(len(filters), 1, 1, 1, 1)
    if min(s.shape[-2:]) < 3 or not filters:
        return out.to(image.dtype)
    v = s[..., :-2, :] + s[..., 2:, :]
    col = v + s[..., 1:-1, :]
    n9 = col[..., :-2] + col[..., 1:-1] + col[..., 2:]
    c = s[..., 1:-1, 1:-1]
    e = 9 * c - n9
    f = image.float()
    a, b = torch.tensor(-1.0) / 6, torch.tensor(10.0) / 6
    l, r, m = f[..., 1:-1, :-2], f[..., 1:-1, 2:], f[..., 1:-1, 1:-1]
    u, d = f[..., :-2, 1:-1], f[..., 2:, 1:-1]
    for k, name in enumerate(filters):
        inner = out[k, ..., 1:-1, 1:-1]
        if name == "contour":
            inner.copy_((e + 255).clamp(0, 255))
        elif name == "find_edges":
            inner.copy_(e.clamp(0, 255))
        elif name == "edge_enhance":
            inner.copy_(((11 * c - n9 + 1) >> 1).clamp(0, 255))
        else:
            inner.copy_((((0.5 + d * a) + ((l * a + m * b) + r * a)) + u * a).clamp(0, 255).to(torch.int16))
    return out.to(image.dtype)
