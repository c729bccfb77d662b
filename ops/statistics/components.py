"""Computes principal components of windows that do not fit into memory together."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor

# Entries of an axis that differ by less than this share count as equally large.
TIE = 1e-6


class Components(NamedTuple):
    """Holds the principal components of windows of D values, in float64 on the CPU.

    Attributes:
        mean: Mean of all windows (D,).
        axes: Directions of the first components (n, D), orthonormal. The first of the largest entries of each is
            positive, so that an axis does not depend on the sign that a library happens to return.
        variances: Variances of all components (D,), descending, with the denominator N - 1.
    """

    mean: Tensor
    axes: Tensor
    variances: Tensor


def principal_components(
    blocks: Iterable[Tensor], axes: int, total: Callable[[Tensor], Tensor] | None = None
) -> Components:
    """Computes the principal components of windows that come in blocks.

    Memory holds one block and about five D x D matrices in float64; time grows with D² per window and D³ at the end.
    Computes on the CPU, wherever the blocks are.

    Args:
        blocks: Windows (B, …) of any number type, D values each, B at least 1.
        axes: Number of components whose direction is returned, 0 to D. With 0, the end takes a fifth of the time.
        total: Sums a float64 tensor over the processes, if each has some of the windows; each needs at least one.

    Raises:
        ValueError: There are fewer than two windows, their sizes differ, or `axes` is not in 0 to D.
    """
    mean, covariance = _moments(blocks, total)
    if not 0 <= axes <= len(mean):
        raise ValueError(f"expected 0 to {len(mean)} axes of windows of {len(mean)} values, got {axes}")
    if axes == 0:
        variances, vectors = torch.linalg.eigvalsh(covariance), covariance[:, :0]
    else:
        variances, vectors = torch.linalg.eigh(covariance)
    directions = vectors.T.flip(0)[:axes]
    return Components(mean, directions * _signs(directions), variances.flip(0).clamp_min(0))


def _moments(blocks: Iterable[Tensor], summed: Callable[[Tensor], Tensor] | None = None) -> tuple[Tensor, Tensor]:
    """Returns mean (D,) and covariance (D, D) of windows, in one pass."""
    origin = products = total = torch.empty(0, dtype=torch.float64)
    count = 0
    for block in blocks:
        windows = block.flatten(1).to("cpu", torch.float64)
        if not count:
            # Sums of squares around a window lose almost nothing to rounding, and nothing where all are equal.
            origin = windows[0].clone()
            total, products = torch.zeros_like(origin), origin.new_zeros(len(origin), len(origin))
        if windows.shape[1] != len(origin):
            raise ValueError(
                f"expected all windows to have {len(origin)} values, got a block of windows of {windows.shape[1]}"
            )
        windows = windows - origin
        total += windows.sum(dim=0)
        products.addmm_(windows.T, windows)
        count += len(windows)
    everywhere = count if summed is None else int(summed(torch.tensor(float(count), dtype=torch.float64)))
    if everywhere < 2:
        raise ValueError(f"principal components need two or more windows, got {everywhere}")
    products.addr_(total, total, alpha=-1 / count)
    mean = origin + total / count
    if summed is not None and everywhere > count:  # add up the processes' scatter around the mean of all
        own, mean = mean, summed(count * mean) / everywhere
        products = summed(products.addr_(own - mean, own - mean, alpha=count))
    return mean, products.div_(everywhere - 1)


def _signs(axes: Tensor) -> Tensor:
    """Returns the sign, 1.0 or -1.0 (n, 1), of the first of the largest entries of each axis."""
    sizes = axes.abs()
    largest = sizes >= (1 - TIE) * sizes.amax(dim=1, keepdim=True)
    return axes.gather(1, largest.int().argmax(dim=1, keepdim=True)).sign()
