"""Random flips that depend on a sample's own seed and on nothing else."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ops.seeds import bits_of


def flip_by_seed(tensors: Sequence[Tensor], seeds: Tensor) -> list[Tensor]:
    """Tensors flipped left to right and top to bottom, each with probability 1/2, sample by sample.

    A sample's two flips follow from its seed alone, not from the batch it is in, the worker, the process or
    the device, and are the same in every tensor, so that masks follow their pictures. Neighbouring seeds are
    as good as far ones.

    Args:
        tensors: Tensors of shape (B, C, H, W), with any C, H and W of their own.
        seeds: Whole numbers of shape (B,).

    Returns:
        The flipped tensors, each of its own shape, type and device.

    Raises:
        ValueError: If the seeds are not whole numbers, or not one for each sample of every tensor.
    """
    for tensor in tensors:
        if tensor.ndim != 4 or seeds.shape != tensor.shape[:1]:
            raise ValueError(
                f"a tensor of shape {tuple(tensor.shape)} with seeds of shape {tuple(seeds.shape)}; "
                "wanted (B, C, H, W) with (B,): give every sample one seed"
            )
    bits = bits_of(seeds).view(-1, 1, 1, 1)
    horizontal, vertical = (bits & 1).bool(), (bits & 2).bool()
    flipped = []
    for tensor in tensors:
        tensor = torch.where(horizontal.to(tensor.device), tensor.flip(3), tensor)
        flipped.append(torch.where(vertical.to(tensor.device), tensor.flip(2), tensor))
    return flipped
