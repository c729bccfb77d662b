import pytest
import torch

from ops.augment import bits_of


def test_every_bit_of_neighbouring_seeds_is_fair() -> None:
    bits = bits_of(torch.arange(4096))
    for place in range(63):
        assert abs((bits >> place & 1).float().mean() - 0.5) < 0.04  # five standard deviations


def test_other_numbers_than_whole_ones_are_refused() -> None:
    with pytest.raises(ValueError, match=r"seeds of torch\.float32; wanted torch\.int64: convert them with \.long\(\)"):
        bits_of(torch.rand(3))
