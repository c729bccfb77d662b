"""Random bits that depend on a sample's own seed and on nothing else."""

import torch
from torch import Tensor


def bits_of(seeds: Tensor) -> Tensor:
    """64 well-mixed bits for each seed: the first output of SplitMix64.

    Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014, with the multipliers
    of Vigna's splitmix64.c. Products wrap round modulo 2^64. Neighbouring seeds are as good as far ones.

    Args:
        seeds: Whole numbers of any shape.

    Returns:
        int64 of the same shape.

    Raises:
        ValueError: If the seeds are not whole numbers.
    """
    if seeds.dtype != torch.int64:
        raise ValueError(f"seeds of {seeds.dtype}; wanted torch.int64: convert them with .long()")
    mixed = seeds + _signed(0x9E3779B97F4A7C15)
    mixed = (mixed ^ _shifted(mixed, 30)) * _signed(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ _shifted(mixed, 27)) * _signed(0x94D049BB133111EB)
    return mixed ^ _shifted(mixed, 31)


def _shifted(bits: Tensor, places: int) -> Tensor:
    # `>>` repeats the sign bit; SplitMix64 shifts zeros in.
    return (bits >> places) & ((1 << (64 - places)) - 1)


def _signed(constant: int) -> int:
    return constant - (1 << 64)
