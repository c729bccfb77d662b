"""Computes classic image descriptors, baselines for the features of networks.

Bins and cells are summed in float32, with autocast off, on any device.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from ops.color.lab import joined, luminance_and_chroma

ORIENTATIONS = 9
"""Number of bins of unsigned gradient directions, 20° each."""
BLOCK = 2
"""Cells per side that are normalized together."""
CLIP = 0.2
"""Upper bound of a normalized block's values before it is normalized again."""


def color_moments(image: Tensor, grid: int = 3) -> Tensor:
    """Returns mean, standard deviation and skewness of L, a and b in each field of a grid.

    M. A. Stricker and M. Orengo, "Similarity of color images", SPIE Storage and Retrieval for Image and Video Databases
    III, 1995, equation 1: the third is the cube root of the third central moment, so that all have the channel's unit.
    The paper uses hue, saturation and value; hue is circular and undefined for gray, so this uses CIE L*a*b*.

    Args:
        image: sRGB images (B, 3, H, W) in [0, 1].
        grid: Fields per side; pixels left over at the right and bottom belong to the last ones.

    Returns:
        (B, 9 grid²): fields row by row, in each the means of L, a, b, then the deviations, then the skewnesses.

    Raises:
        ValueError: The input is not floating point of shape (B, 3, H, W), or has fewer pixels than fields per side.
    """
    if grid < 1 or min(image.shape[-2:]) < grid:
        raise ValueError(
            f"expected at least 1 field per side and at most as many as pixels, got {grid} and images of "
            f"{tuple(image.shape[-2:])} pixels"
        )
    lab = joined(*luminance_and_chroma(image)).float()
    moments = []
    for rows in _fields(lab, grid, dim=2):
        for field in _fields(rows, grid, dim=3):
            pixels = field.flatten(2)
            mean = pixels.mean(dim=2)
            rest = pixels - mean[..., None]
            third = rest.pow(3).mean(dim=2)
            moments += [mean, rest.square().mean(dim=2).sqrt(), third.sign() * third.abs().pow(1 / 3)]
    return torch.cat(moments, dim=1)


def _fields(maps: Tensor, grid: int, dim: int) -> list[Tensor]:
    side = maps.shape[dim] // grid
    return list(torch.split(maps, [side] * (grid - 1) + [maps.shape[dim] - side * (grid - 1)], dim=dim))


def gradient_histograms(image: Tensor, cells: int = 8) -> Tensor:
    """Returns histograms of oriented gradients, normalized in overlapping blocks of cells.

    N. Dalal and B. Triggs, "Histograms of oriented gradients for human detection", CVPR 2005: centered differences
    without smoothing, of the channel with the longest gradient; nine unsigned directions; blocks of 2 x 2 cells,
    "L2-Hys". As in scikit-image's `hog`, a gradient votes for its own bin and cell only, and is zero across the image's
    edge. Cells are shares of the image, so that images of any size have descriptors of one length.

    Args:
        image: sRGB images (B, 3, H, W) in [0, 1].
        cells: Cells per side; pixels left over at the right and bottom do not count.

    Returns:
        (B, 36 (cells - 1)²) in [0, 1]: blocks row by row, in each the cells row by row, in each the directions from 0°.
        An image of one color has zeros only.

    Raises:
        ValueError: The images have another shape, or fewer pixels than cells per side.
    """
    if image.ndim != 4 or image.shape[1] != 3 or cells < BLOCK or min(image.shape[-2:]) < cells:
        raise ValueError(
            f"expected images (B, 3, H, W), at least {BLOCK} cells per side and no more than pixels, got "
            f"{tuple(image.shape)} and {cells}"
        )
    with torch.autocast(image.device.type, enabled=False):
        return _blocks(_cell_histograms(image.float(), cells))


def _cell_histograms(image: Tensor, cells: int) -> Tensor:
    """Returns the mean length of the gradients of each direction in each cell, (B, 9, cells, cells)."""
    down, across = torch.zeros_like(image), torch.zeros_like(image)
    down[:, :, 1:-1] = image[:, :, 2:] - image[:, :, :-2]
    across[..., 1:-1] = image[..., 2:] - image[..., :-2]
    length, channel = torch.hypot(down, across).max(dim=1, keepdim=True)
    down, across = down.gather(1, channel), across.gather(1, channel)
    angle = torch.rad2deg(torch.atan2(down, across)).remainder(180)
    bins = (angle * (ORIENTATIONS / 180)).long().clamp(max=ORIENTATIONS - 1)  # a hair below 180° is rounded to it
    height, width = (side // cells for side in image.shape[-2:])
    inside = (..., slice(height * cells), slice(width * cells))
    length, bins = length[inside], bins[inside]
    # One direction at a time: nine maps of a batch of photos would be as large as a network's own.
    means = [F.avg_pool2d(length * (bins == k), (height, width)) for k in range(ORIENTATIONS)]
    return torch.cat(means, dim=1)


def _blocks(histograms: Tensor) -> Tensor:
    """Returns normalized blocks of cells, one after the other, (B, N)."""
    blocks = histograms.unfold(2, BLOCK, 1).unfold(3, BLOCK, 1)  # (B, 9, rows, columns, 2, 2)
    blocks = blocks.permute(0, 2, 3, 4, 5, 1).flatten(3)
    blocks = _unit(blocks).clamp(max=CLIP)
    return _unit(blocks).flatten(1)


def _unit(blocks: Tensor) -> Tensor:
    return blocks / (blocks.square().sum(dim=-1, keepdim=True) + 1e-10).sqrt()  # scikit-image's 1e-5, squared
