"""Treats colors as classes: squares of the ab plane, soft labels, weights of rare colors, colors from distributions.

R. Zhang, P. Isola, A. A. Efros, "Colorful Image Colorization", ECCV 2016, arXiv:1603.08511. Chroma is in CIE units
here, 128 times the scaled chroma of `ops.color.lab`.
"""

from functools import cache

import torch
from torch import Tensor

from ops.color.lab import rgb_to_lab

SIDE = 10.0
"""Side of a bin in units of a and b."""
NEIGHBOURS, SIGMA = 5, 5.0
"""Number of nearest bins that share a color, and the width of the Gaussian, in units of a and b, that weights them."""
MIX = 0.5
"""Share of the uniform distribution in `rebalancing`; lambda in the paper."""
TEMPERATURE = 0.38
"""Temperature of the annealed mean: 1 gives the mean, towards 0 it becomes the mode."""
BLOCK, DEVICE_BLOCK = 1 << 12, 1 << 16
"""Pixels whose distances to all bins are held at once, on the host and on a device."""


def bins() -> Tensor:
    """Returns the centers (Q, 2) of the bins, sorted by a, then b.

    They are the multiples of 10 whose squares contain an sRGB color of any lightness, so that every image's colors lie
    in one: Q = 261. The paper has 313, some of them outside sRGB.
    """
    return _bins().clone()


@cache
def _bins() -> Tensor:
    # A line of rising L leaves the gamut through its surface, so the cube's faces contain every a and b.
    levels = torch.arange(256, dtype=torch.float64) / 255
    first, second = torch.meshgrid(levels, levels, indexing="ij")
    faces = []
    for level in (torch.zeros_like(first), torch.ones_like(first)):
        faces += [
            torch.stack(each) for each in ((level, first, second), (first, level, second), (first, second, level))
        ]
    chroma = rgb_to_lab(torch.stack(faces))[:, 1:]
    places = (chroma / SIDE).round().permute(0, 2, 3, 1).reshape(-1, 2)
    found: Tensor = torch.unique(places, dim=0)
    return found.float() * SIDE


def soft_encoding(
    chroma: Tensor, centres: Tensor, neighbours: int = NEIGHBOURS, sigma: float = SIGMA
) -> tuple[Tensor, Tensor]:
    """Returns the nearest bins of every pixel, weighted by a Gaussian of their distances (section 2.2 of the paper).

    Args:
        chroma: a and b in CIE units, (B, 2, H, W).
        centres: Centers of the bins, (Q, 2).
        neighbours: Number K of bins that share a pixel; 1 returns its bin alone.
        sigma: Width of the Gaussian in CIE units.

    Returns:
        Bin indices, the nearest first, int64 (B, K, H, W), and their weights, which add up to 1, float32 (B, K, H, W).

    Raises:
        ValueError: Shapes do not match, there are fewer bins than neighbors, or sigma is not above 0.
    """
    if chroma.ndim != 4 or chroma.shape[1] != 2 or centres.ndim != 2 or centres.shape[1] != 2:
        raise ValueError(
            f"expected chroma (B, 2, H, W) and centers (Q, 2), got {tuple(chroma.shape)} and {tuple(centres.shape)}"
        )
    if not 1 <= neighbours <= len(centres) or not sigma > 0:
        raise ValueError(f"expected 1 to {len(centres)} neighbors and sigma above 0, got {neighbours} and {sigma}")
    pixels = chroma.detach().float().permute(0, 2, 3, 1).reshape(-1, 2)
    centres = centres.to(pixels)
    indices = torch.empty((len(pixels), neighbours), dtype=torch.int64, device=pixels.device)
    squares = torch.empty((len(pixels), neighbours), device=pixels.device)
    block = BLOCK if pixels.device.type == "cpu" else DEVICE_BLOCK
    for start in range(0, len(pixels), block):
        part = slice(start, start + block)
        a, b = pixels[part, :1] - centres[:, 0], pixels[part, 1:] - centres[:, 1]
        squares[part], indices[part] = (a * a + b * b).topk(neighbours, largest=False, sorted=True)
    # Minus the smallest, so that a color far from all bins does not divide 0 by 0.
    weights = torch.softmax((squares[:, :1] - squares) / (2 * sigma**2), dim=1)
    shape = (chroma.shape[0], *chroma.shape[2:], neighbours)
    return indices.view(shape).movedim(3, 1).contiguous(), weights.view(shape).movedim(3, 1).contiguous()


def smoothed(prior: Tensor, centres: Tensor, sigma: float = SIGMA) -> Tensor:
    """Spreads each bin's share of the colors over its neighbors by a Gaussian.

    Args:
        prior: Counts or shares of the bins, (Q,).
        centres: Their centers, (Q, 2).
        sigma: Width of the Gaussian in CIE units.

    Returns:
        Shares (Q,), which add up to 1.

    Raises:
        ValueError: Shapes do not match, a count is negative or NaN, or all are 0.
    """
    if prior.shape != centres.shape[:1]:
        raise ValueError(f"expected one count for each of {len(centres)} bins, got a prior of {tuple(prior.shape)}")
    shares = _shares(prior)
    centres = centres.to(shares)
    kernel = torch.exp(-(centres[:, None] - centres).square().sum(dim=2) / (2 * sigma**2))
    return ((shares / kernel.sum(dim=1))[:, None] * kernel).sum(dim=0).float()


def rebalancing(prior: Tensor, mix: float = MIX) -> Tensor:
    """Returns weights that let rare colors count as much as frequent ones (equation 4 of the paper).

    Args:
        prior: Counts or shares of the bins, (Q,), `smoothed` or not.
        mix: Share of the uniform distribution, in (0, 1]; at 1 all weights are 1.

    Returns:
        Weights (Q,), whose mean under the prior is 1.

    Raises:
        ValueError: A count is negative or NaN, all are 0, or the mix is outside (0, 1].
    """
    if not 0 < mix <= 1:
        raise ValueError(f"expected a mix in (0, 1], above 0 for bins that never occur, got {mix}")
    shares = _shares(prior)
    weights = 1 / ((1 - mix) * shares + mix / len(shares))
    return (weights / (shares * weights).sum()).float()


def annealed_mean(logits: Tensor, centres: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """Returns one color per pixel: the mean of its sharpened distribution (equation 5 of the paper).

    Args:
        logits: (B, Q, H, W).
        centres: Centers of the bins in CIE units, (Q, 2).
        temperature: 1 returns the mean of the distribution; towards 0 it becomes the mode.

    Returns:
        a and b in CIE units, float32 (B, 2, H, W).

    Raises:
        ValueError: Shapes do not match, or the temperature is not above 0.
    """
    if logits.ndim != 4 or centres.shape != (logits.shape[1], 2) or not temperature > 0:
        raise ValueError(
            f"expected logits (B, Q, H, W), centers (Q, 2) and a temperature above 0, got {tuple(logits.shape)}, "
            f"{tuple(centres.shape)} and {temperature}"
        )
    pictures = []
    with torch.autocast(logits.device.type, enabled=False):
        for each in logits:  # one by one: a distribution is a hundred times as large as the colors
            shares = torch.softmax(each.float() / temperature, dim=0)
            pictures.append(torch.einsum("qhw,qc->chw", shares, centres.to(shares)))
    return torch.stack(pictures)


def _shares(prior: Tensor) -> Tensor:
    counts = prior.float()
    total = counts.sum()
    if prior.ndim != 1 or not bool((counts >= 0).all()) or not 0 < float(total) < float("inf"):
        raise ValueError(
            f"expected a prior (Q,) of counts, none negative and not all 0, got {tuple(prior.shape)} from "
            f"{float(counts.min()):g} with the sum {float(total):g}: count the colors of training images first"
        )
    return counts / total
