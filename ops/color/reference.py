"""Takes colors from a reference image: to where a frozen network sees alike and the luminance is alike.

After T. Welsh, M. Ashikhmin and K. Mueller, "Transferring color to greyscale images" (2002), which matches luminance
and its deviation; here cells are matched by features of a network, and a Gaussian process, as in `ops.color.hints`,
decides how far each match is trusted.
"""

import torch
from torch import Tensor
from torch.nn import functional

SIMILARITY, LIGHT = 0.4, 0.4
"""Difference in cosine similarity, and in scaled luminance, at which the colors of two cells are much less alike."""
NOISE = 80.0
"""Variance of what a cell of the reference does not tell about another image's, as a share of the variance of the
colors; large, because the cells of one image are alike in what they do not tell."""


def nearest(features: Tensor, references: Tensor) -> int:
    """Returns which reference looks most like an image.

    Args:
        features: Standardized features of the image's cells, (N, D).
        references: The mean features of each reference's cells, (R, D).
    """
    return int(functional.cosine_similarity(features.mean(dim=0)[None], references).argmax())


def transferred(
    features: Tensor, luminance: Tensor, reference: Tensor, its_luminance: Tensor, difference: Tensor
) -> Tensor:
    """Returns what is added to the chroma of an image's cells.

    Args:
        features: Standardized features of the image's cells, (N, D).
        luminance: Their mean scaled luminance, (N,).
        reference: Standardized features of the reference's cells, (M, D).
        its_luminance: Their mean scaled luminance, (M,).
        difference: The chroma of the reference's cells minus what is estimated for them, (M, 2).

    Returns:
        (N, 2).
    """
    own = functional.normalize(reference.double(), dim=1)
    light = its_luminance.double()
    inside = _alike(own, light, own, light) + NOISE * torch.eye(len(own), dtype=torch.float64, device=own.device)
    weights = torch.linalg.solve(inside, difference.double())
    between = _alike(functional.normalize(features.double(), dim=1), luminance.double(), own, light)
    added: Tensor = between @ weights
    return added.to(features)


def _alike(one: Tensor, light: Tensor, other: Tensor, other_light: Tensor) -> Tensor:
    seen = torch.exp((one @ other.T - 1) / SIMILARITY)
    near = torch.exp(-((light[:, None] - other_light) / LIGHT).square() / 2)
    return seen * near
