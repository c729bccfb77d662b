"""Colours as classes: squares of the ab plane, soft labels, weights of rare colours, a colour out of a distribution.

R. Zhang, P. Isola, A. A. Efros, "Colorful Image Colorization", ECCV 2016, arXiv:1603.08511. Chroma is in CIE units
here, that is 128 times the scaled chroma of `ops.color`.
"""

from functools import cache

import torch
from torch import Tensor

from ops.color import rgb_to_lab

SIDE = 10.0
"""Side of a bin in units of a and b."""
NEIGHBOURS, SIGMA = 5, 5.0
"""How many of the nearest bins share a colour, and the Gaussian, in units of a and b, by which they do."""
MIX = 0.5
"""Share of the uniform distribution in the one that weights are made of; lambda in the paper."""
TEMPERATURE = 0.38
"""Of the annealed mean: 1 is the mean, towards 0 it is the mode."""
BLOCK, DEVICE_BLOCK = 1 << 12, 1 << 16
"""Pixels whose distances to all bins are held at a time, on the host and on a device."""


def bins() -> Tensor:
    """Centres (Q, 2) of the bins, in rising order of a, then b.

    They are the multiples of 10 whose squares hold a colour of sRGB, of whatever lightness, so that every picture's
    colours lie in one: Q = 261. The paper has 313, some of them of colours that sRGB lacks.
    """
    return _bins().clone()


@cache
def _bins() -> Tensor:
    # A line of rising L leaves the gamut through its surface: the cube's faces have all a and b that there are.
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
    """The nearest bins of every pixel, weighted by a Gaussian of their distances (section 2.2 of the paper).

    Args:
        chroma: a and b in CIE units, (B, 2, H, W).
        centres: Centres of the bins, (Q, 2).
        neighbours: K, how many bins share a pixel; 1 gives its bin alone.
        sigma: Width of the Gaussian in CIE units.

    Returns:
        Numbers of the bins, the nearest first, int64 (B, K, H, W), and their weights, which add up to 1, float32
        (B, K, H, W).

    Raises:
        ValueError: Shapes do not fit, there are fewer bins than neighbours, or sigma is not above 0.
    """
    if chroma.ndim != 4 or chroma.shape[1] != 2 or centres.ndim != 2 or centres.shape[1] != 2:
        raise ValueError(
            f"chroma of shape {tuple(chroma.shape)} and centres of {tuple(centres.shape)}; wanted (B, 2, H, W) and "
            "(Q, 2)"
        )
    if not 1 <= neighbours <= len(centres) or not sigma > 0:
        raise ValueError(
            f"{neighbours} neighbours of {len(centres)} bins and sigma {sigma}; wanted are 1 to {len(centres)}, and "
            "more than 0"
        )
    pixels = chroma.detach().float().permute(0, 2, 3, 1).reshape(-1, 2)
    centres = centres.to(pixels)
    indices = torch.empty((len(pixels), neighbours), dtype=torch.int64, device=pixels.device)
    squares = torch.empty((len(pixels), neighbours), device=pixels.device)
    block = BLOCK if pixels.device.type == "cpu" else DEVICE_BLOCK
    for start in range(0, len(pixels), block):
        part = slice(start, start + block)
        a, b = pixels[part, :1] - centres[:, 0], pixels[part, 1:] - centres[:, 1]
        squares[part], indices[part] = (a * a + b * b).topk(neighbours, largest=False, sorted=True)
    # Less the smallest, so that a colour far from all bins does not divide nothing by nothing.
    weights = torch.softmax((squares[:, :1] - squares) / (2 * sigma**2), dim=1)
    shape = (chroma.shape[0], *chroma.shape[2:], neighbours)
    return indices.view(shape).movedim(3, 1).contiguous(), weights.view(shape).movedim(3, 1).contiguous()


def smoothed(prior: Tensor, centres: Tensor, sigma: float = SIGMA) -> Tensor:
    """How often colours occur, each bin's share spread over its neighbours by a Gaussian.

    Args:
        prior: Counts or shares of the bins, (Q,).
        centres: Their centres, (Q, 2).
        sigma: Width of the Gaussian in CIE units.

    Returns:
        Shares (Q,), which add up to 1.

    Raises:
        ValueError: Shapes do not fit, a count is negative or no number, or all are 0.
    """
    if prior.shape != centres.shape[:1]:
        raise ValueError(f"a prior of shape {tuple(prior.shape)} of {len(centres)} bins; wanted one number for each")
    shares = _shares(prior)
    centres = centres.to(shares)
    kernel = torch.exp(-(centres[:, None] - centres).square().sum(dim=2) / (2 * sigma**2))
    return ((shares / kernel.sum(dim=1))[:, None] * kernel).sum(dim=0).float()


def rebalancing(prior: Tensor, mix: float = MIX) -> Tensor:
    """Weights that let rare colours count as much as frequent ones (equation 4 of the paper).

    Args:
        prior: Counts or shares of the bins, (Q,), `smoothed` or not.
        mix: Share of the uniform distribution, in (0, 1]; at 1 all weights are 1.

    Returns:
        Weights (Q,), whose mean under the prior is 1.

    Raises:
        ValueError: A count is negative or no number, all are 0, or the mix is outside (0, 1].
    """
    if not 0 < mix <= 1:
        raise ValueError(f"a mix of {mix}; wanted more than 0, for bins that never occur, and 1 at most")
    shares = _shares(prior)
    weights = 1 / ((1 - mix) * shares + mix / len(shares))
    return (weights / (shares * weights).sum()).float()


def annealed_mean(logits: Tensor, centres: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """A colour out of each pixel's distribution: its mean after sharpening (equation 5 of the paper).

    Args:
        logits: (B, Q, H, W).
        centres: Centres of the bins in CIE units, (Q, 2).
        temperature: 1 gives the mean of the distribution, towards 0 it is its mode.

    Returns:
        a and b in CIE units, float32 (B, 2, H, W).

    Raises:
        ValueError: Shapes do not fit, or the temperature is not above 0.
    """
    if logits.ndim != 4 or centres.shape != (logits.shape[1], 2) or not temperature > 0:
        raise ValueError(
            f"logits of shape {tuple(logits.shape)}, centres of {tuple(centres.shape)}, temperature {temperature}; "
            "wanted (B, Q, H, W), (Q, 2) and more than 0"
        )
    pictures = []
    with torch.autocast(logits.device.type, enabled=False):
        for each in logits:  # one by one: a distribution is a hundred times as large as the colours
            shares = torch.softmax(each.float() / temperature, dim=0)
            pictures.append(torch.einsum("qhw,qc->chw", shares, centres.to(shares)))
    return torch.stack(pictures)


def _shares(prior: Tensor) -> Tensor:
    counts = prior.float()
    total = counts.sum()
    if prior.ndim != 1 or not bool((counts >= 0).all()) or not 0 < float(total) < float("inf"):
        raise ValueError(
            f"a prior of shape {tuple(prior.shape)} from {float(counts.min()):g} with the sum {float(total):g}; wanted "
            "(Q,) of counts, none negative and not all 0: count colours of training pictures first"
        )
    return counts / total
