"""Draws several plausible colorings of one image, each of them coherent.

What is near and about as light gets the same choice: noise is a Gaussian process of place and luminance, whose parts
were measured on the errors of `colorization/best` on 18 left-out paintings, by distance and difference in luminance.
"""

import torch
from torch import Tensor

from ops.color.bins import TEMPERATURE, annealed_mean
from ops.color.hints import spread_rows

REACH, LIGHT = 0.15, 0.5
"""Distance in sides of the image, and difference in scaled luminance, at which errors are much less alike."""
EVERYWHERE = 1 / 3
"""Share of this likeness that equally light parts of an image have at any distance: a cast of the whole image."""
SHARED = 0.45
"""Share of the errors' variance that next cells have in common. The rest is detail, which a sample lacks: it would be
noise."""
NODES, LEVELS = 17, 13
"""Nodes of the grid along each side, and levels of luminance."""


def fields(seed: int, channels: int) -> Tensor:
    """Draws noise of unit variance on a grid of luminance, row and column.

    Args:
        seed: Seed of the noise.
        channels: Number of independent fields.

    Returns:
        (channels, LEVELS, NODES, NODES), float32 on the host, for `ops.color.hints.spread_rows`.
    """
    generator = torch.Generator().manual_seed(seed % (1 << 63))
    white = torch.randn((channels, LEVELS, NODES, NODES), generator=generator, dtype=torch.float64)
    common = torch.randn((channels, LEVELS, 1, 1), generator=generator, dtype=torch.float64)
    along, light = _root(NODES, 1 / REACH), _root(LEVELS, 2 / LIGHT)
    rough = EVERYWHERE**0.5 * common + (1 - EVERYWHERE) ** 0.5 * along @ white @ along.T
    return torch.einsum("lm,cmyx->clyx", light, rough).float()


def around(chroma: Tensor, luminance: Tensor, covariance: Tensor, seed: int) -> Tensor:
    """Draws a coloring from normal distributions around an estimate, the `SHARED` part of them.

    Args:
        chroma: The estimate, scaled chroma (2, H, W).
        luminance: Scaled luminance (1, H, W).
        covariance: Of the scaled chroma at each of `levels`, (N, 2, 2).
        seed: Seed of the noise.

    Returns:
        (2, H, W).
    """
    places = torch.linspace(0, len(covariance) - 1, LEVELS).round().long()
    values, vectors = torch.linalg.eigh(covariance.double().cpu()[places])
    roots = vectors * values.clamp(min=0).sqrt()[:, None]
    noise = SHARED**0.5 * torch.einsum("lck,klyx->clyx", roots, fields(seed, 2).double()).float()
    return chroma + spread_rows(noise.to(chroma), luminance[None], 0, luminance.shape[1])[0]


def from_classes(
    logits: Tensor, luminance: Tensor, centres: Tensor, seed: int, temperature: float = TEMPERATURE
) -> Tensor:
    """Draws a coloring from distributions over classes of color, by the Gumbel-max trick with smooth noise.

    Each pixel alone follows its distribution.

    Args:
        logits: (Q, h, w).
        luminance: Scaled luminance at this size, (1, h, w).
        centres: Centers of the classes in CIE units, (Q, 2).
        seed: Seed of the noise.
        temperature: Near 0, each pixel gets one class (E. J. Gumbel, 1954); above, classes nearly as likely are mixed
            in, so that colors change gradually (C. J. Maddison, A. Mnih and Y. W. Teh, "The Concrete distribution",
            2017).

    Returns:
        a and b in CIE units, (2, h, w).
    """
    noise = spread_rows(fields(seed, len(logits)).to(logits), luminance[None], 0, luminance.shape[1])
    uniform = torch.special.ndtr(noise.double()).clamp(1e-12, 1 - 1e-12)
    gumbel = -(-uniform.log()).log()
    return annealed_mean((logits[None].double() + gumbel).float(), centres, temperature)[0]


def class_spread(logits: Tensor, centres: Tensor) -> Tensor:
    """Returns the standard deviation of distributions over classes (Q, h, w), in CIE units of a and b, (1, h, w)."""
    shares = torch.softmax(logits.float(), dim=0)
    mean = torch.einsum("qhw,qc->chw", shares, centres.to(shares))
    square = torch.einsum("qhw,q->hw", shares, centres.to(shares).square().sum(dim=1))
    return (square - mean.square().sum(dim=0)).clamp(min=0).sqrt()[None]


def levels(luminance: Tensor, count: int) -> Tensor:
    """Returns the nearest of `count` equally distant levels, from 0, for scaled luminance."""
    return ((luminance.float() + 1) / 2 * (count - 1)).round().long().clamp(0, count - 1)


def normal_spread(luminance: Tensor, covariance: Tensor) -> Tensor:
    """Returns the standard deviation of normal distributions, see `around`, in the units of the chroma, (1, H, W)."""
    trace = covariance.diagonal(dim1=1, dim2=2).sum(dim=1).clamp(min=0).sqrt().float().to(luminance.device)
    place = (luminance.float().clamp(-1, 1) + 1) / 2 * (len(trace) - 1)
    low = place.floor().long().clamp(max=len(trace) - 2)
    spread: Tensor = torch.lerp(trace[low], trace[low + 1], place - low)
    return spread


def _root(nodes: int, length: float) -> Tensor:
    """Returns the root of the covariance of equally distant nodes.

    Args:
        nodes: Their number.
        length: Distance of the first and the last, where 1 is the reach.
    """
    places = torch.linspace(0, length, nodes, dtype=torch.float64)
    covariance = torch.exp(-(places[:, None] - places).square() / 2)
    values, vectors = torch.linalg.eigh(covariance)
    root: Tensor = vectors * values.clamp(min=0).sqrt()
    return root
