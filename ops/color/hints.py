"""Spreads colors that a person gives for some pixels over an image, to where it is near and equally light.

The difference between the given colors and an estimate is interpolated by a Gaussian process (C. E. Rasmussen and
C. K. I. Williams, "Gaussian processes for machine learning", 2006, chapter 2): two pixels' differences are the more
alike, the nearer the pixels are and the less their lightness differs. It is computed on a coarse grid of place and
luminance (J. Chen, S. Paris and F. Durand, "Real-time edge-aware image processing with the bilateral grid", 2007), so
that time and memory hardly grow with the number of hints, and not at all with the image.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

REACH, LIGHT = 0.5, 0.4
"""Distance in longer sides of the image, and difference in scaled luminance, at which colors are much less alike."""
NOISE = 0.05
"""Variance of what a hint does not tell about its neighborhood, as a share of the variance of the differences."""
NODES, LEVELS = 64, 33
"""Steps of the grid along the longer side, and levels of luminance."""
CENTERS = 400
"""Most places that hints are merged to: strokes have thousands of pixels."""


@dataclass(frozen=True)
class Hints:
    """Colors of some pixels of an image.

    Attributes:
        places: Row and column of each, int64 (N, 2).
        chroma: Scaled chroma of each, float32 (N, 2).
    """

    places: NDArray[np.int64]
    chroma: NDArray[np.float32]

    def within(self, rows: slice) -> "Hints":
        """Returns those in some rows."""
        inside = (self.places[:, 0] >= rows.start) & (self.places[:, 0] < rows.stop)
        return Hints(self.places[inside], self.chroma[inside])


def spread(hints: Hints, estimate: Tensor, luminance: Tensor, height: int, width: int) -> Tensor:
    """Computes what `spread_rows` needs.

    Args:
        hints: At least one.
        estimate: Scaled chroma of the hinted pixels without the hints, (N, 2).
        luminance: Scaled luminance of these pixels, (N,).
        height: Height of the image.
        width: Its width.

    Returns:
        What is added to the chroma at each node of the grid, (2, levels, rows, columns), float32.
    """
    longer = max(height, width)
    given = torch.from_numpy(hints.chroma).double() - estimate.double().cpu()
    points = torch.cat([torch.from_numpy(hints.places).double() / longer, luminance.double().cpu()[:, None]], dim=1)
    points, given = _merged(points, given)
    covariance = _alike(points, points)
    weights = torch.linalg.solve(covariance + NOISE * torch.eye(len(points), dtype=torch.float64), given)
    rows, columns = (torch.linspace(0, side / longer, nodes(side, longer), dtype=torch.float64)
                     for side in (height, width))  # fmt: skip
    grid = torch.cartesian_prod(rows, columns)
    levels = torch.linspace(-1, 1, LEVELS, dtype=torch.float64)
    near, light = _near(points[:, :2], grid), _light(levels, points[:, 2])
    added = torch.stack([(light * weight) @ near for weight in weights.T])
    return added.view(2, LEVELS, len(rows), len(columns)).float().to(estimate.device)


def spread_rows(added: Tensor, luminance: Tensor, top: int, height: int) -> Tensor:
    """Returns what is added to the chroma of some rows of the image.

    Args:
        added: What `spread` returned.
        luminance: Scaled luminance of these rows, (1, 1, rows, W).
        top: The first of them.
        height: Height of the image.

    Returns:
        (1, 2, rows, W).
    """
    rows, width = luminance.shape[2:]
    device = luminance.device
    y = (torch.arange(top, top + rows, device=device) / height * 2 - 1)[:, None].expand(rows, width)
    x = (torch.arange(width, device=device) / width * 2 - 1)[None].expand(rows, width)
    places = torch.stack([x, y, luminance[0, 0].float().clamp(-1, 1)], dim=2)[None, None]
    found = functional.grid_sample(added[None].to(device), places, align_corners=True, padding_mode="border")
    return found[:, :, 0]


def nodes(side: int, longer: int) -> int:
    """Returns the number of the grid's nodes along a side of an image."""
    return max(2, round(NODES * side / longer) + 1)


def _merged(points: Tensor, given: Tensor) -> tuple[Tensor, Tensor]:
    """Returns means of neighboring, equally light points (N, 3) and their differences (N, 2), `CENTERS` at most."""
    step = 1 / NODES / 2
    while True:
        keys = torch.cat([(points[:, :2] / step).floor(), (points[:, 2:] / 0.1).floor()], dim=1)
        _, group = torch.unique(keys, dim=0, return_inverse=True)
        count = int(group.max()) + 1
        if count <= CENTERS or step > 1:
            break
        step *= 1.5
    sizes = torch.bincount(group, minlength=count).double()[:, None]
    both = torch.cat([points, given], dim=1)
    means = torch.zeros(count, both.shape[1], dtype=torch.float64).index_add_(0, group, both) / sizes
    return means[:, :3], means[:, 3:]


def _alike(one: Tensor, other: Tensor) -> Tensor:
    """Returns the covariance of points (N, 3) and (M, 3), (N, M)."""
    return _near(one[:, :2], other[:, :2]) * _light(one[:, 2], other[:, 2])


def _near(one: Tensor, other: Tensor) -> Tensor:
    return torch.exp(-torch.cdist(one, other) / REACH)


def _light(one: Tensor, other: Tensor) -> Tensor:
    return torch.exp(-((one[:, None] - other) / LIGHT).square() / 2)
