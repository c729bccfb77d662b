import numpy as np
import pytest
import torch
from torch import Tensor

from ops.augment import flip_by_seed


def splitmix64(seed: int) -> int:
    """Vigna's splitmix64.c, next() after seeding, in whole numbers without limit."""
    mask = (1 << 64) - 1
    z = (seed + 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


def flips_of(seeds: Tensor) -> tuple[Tensor, Tensor]:
    """Whether each seed flips left to right and top to bottom."""
    marked = torch.zeros(len(seeds), 1, 2, 2)
    marked[:, :, 0, 0] = 1
    (flipped,) = flip_by_seed([marked], seeds)
    position = flipped.flatten(1).argmax(1)
    return position % 2 == 1, position >= 2


def test_reference_generator() -> None:
    assert splitmix64(1234567) == 6457827717110365317  # published first output for this seed


@pytest.mark.parametrize("first", [0, -2000, 1234567, 2**62])
def test_flips_are_bits_of_splitmix64(first: int) -> None:
    seeds = torch.arange(first, first + 4000)
    horizontal, vertical = flips_of(seeds)
    bits = [splitmix64(seed % 2**64) for seed in seeds.tolist()]
    assert horizontal.tolist() == [bool(value & 1) for value in bits]
    assert vertical.tolist() == [bool(value & 2) for value in bits]


@pytest.mark.parametrize("seeds", [torch.arange(4000), torch.arange(4000) * 2**32, -torch.arange(4000)])
def test_a_quarter_each(seeds: Tensor) -> None:
    horizontal, vertical = flips_of(seeds)
    counts = torch.bincount(2 * horizontal + vertical, minlength=4)
    assert ((counts - 1000).abs() < 120).all()  # 4.4 standard deviations
    # Neighbours must not go together either: four standard deviations round one half.
    assert abs((horizontal[1:] == horizontal[:-1]).float().mean() - 0.5) < 0.032


def test_result_does_not_depend_on_the_batch() -> None:
    seeds = torch.arange(100, 132)
    images = torch.rand(32, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    (together,) = flip_by_seed([images], seeds)
    order = torch.randperm(32, generator=torch.Generator().manual_seed(1))
    (shuffled,) = flip_by_seed([images[order]], seeds[order])
    torch.testing.assert_close(shuffled, together[order], rtol=0, atol=0)
    for i in range(32):
        (alone,) = flip_by_seed([images[i : i + 1]], seeds[i : i + 1])
        torch.testing.assert_close(alone[0], together[i], rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bool])
def test_samples_are_flipped_as_numpy_flips_them(dtype: torch.dtype) -> None:
    seeds = torch.arange(16)
    images = torch.randint(0, 256, (16, 3, 4, 5), generator=torch.Generator().manual_seed(0)).to(dtype)
    (flipped,) = flip_by_seed([images], seeds)
    assert flipped.dtype == dtype
    for sample, result, horizontal, vertical in zip(images, flipped, *flips_of(seeds), strict=True):
        expected = sample.numpy()
        expected = expected[:, :, ::-1] if horizontal else expected
        expected = expected[:, ::-1] if vertical else expected
        np.testing.assert_array_equal(result.numpy(), expected)


def test_masks_follow_their_images() -> None:
    images = torch.rand(64, 3, 6, 8, generator=torch.Generator().manual_seed(0))
    masks = images[:, :1] > 0.5
    small = images[:, :, ::2, ::2]
    image, mask, quarter = flip_by_seed([images, masks, small], torch.arange(64))
    torch.testing.assert_close(mask, image[:, :1] > 0.5)
    assert not torch.equal(image, images)
    assert quarter.shape == small.shape
    torch.testing.assert_close(quarter.sum((1, 2, 3)), small.sum((1, 2, 3)))


def test_wrong_seeds_are_refused() -> None:
    images = torch.zeros(4, 3, 2, 2)
    with pytest.raises(ValueError, match=r"seeds of torch.float32; wanted torch.int64"):
        flip_by_seed([images], torch.zeros(4))
    with pytest.raises(ValueError, match=r"shape \(4, 3, 2, 2\) with seeds of shape \(3,\)"):
        flip_by_seed([images], torch.arange(3))
    with pytest.raises(ValueError, match=r"shape \(3, 2, 2\) with .*; wanted \(B, C, H, W\)"):
        flip_by_seed([images[0]], torch.arange(3))
