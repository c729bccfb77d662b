import math

import cv2
import numpy as np
import pytest
import torch

from ops.augment import random_warps, warped


def some(count: int, height: int, width: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise, valid everywhere."""
    image = torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed))
    return image, torch.ones(count, 1, height, width, dtype=torch.bool)


def test_warps_are_what_shear_zoom_and_rotation_say() -> None:
    warps = random_warps(torch.arange(4000), shear=0.2, zoom=0.1, rotation=20, flip=True).double()
    mirrored = torch.det(warps) < 0
    assert 0.47 < mirrored.double().mean() < 0.53
    warps[mirrored] = warps[mirrored] @ torch.diag(torch.tensor([-1.0, 1.0])).double()
    # R·[[1, k], [0, 1]]·s: the first column has s and the angle, the rest is the shear
    angle = torch.atan2(warps[:, 1, 0], warps[:, 0, 0])
    scale = warps[:, :, 0].norm(dim=1)
    cosine, sine = torch.cos(angle), torch.sin(angle)
    slope = (cosine * warps[:, 0, 1] + sine * warps[:, 1, 1]) / scale
    torch.testing.assert_close(torch.det(warps), scale**2)
    for values, low, high in ((angle, -math.radians(20), math.radians(20)), (scale, 0.9, 1.1), (slope, -0.2, 0.2)):
        assert low - 1e-6 <= values.min() < low + 0.01 * (high - low)
        assert high - 0.01 * (high - low) < values.max() <= high + 1e-6
        assert abs((values.mean() - (low + high) / 2) / (high - low)) < 0.02
    figures = torch.stack([angle, scale, slope, mirrored.double()])
    assert (torch.corrcoef(figures) - torch.eye(4)).abs().max() < 0.06


def test_nothing_is_moved_where_all_is_nought() -> None:
    image, valid = some(3, 5, 9)
    warps = random_warps(torch.arange(3), 0, 0, 0, flip=False)
    assert torch.equal(warps, torch.eye(2).expand(3, 2, 2))
    moved, kept = warped(image, valid, warps)
    torch.testing.assert_close(moved, image, atol=1e-5, rtol=0)
    assert kept.all()


def test_a_sample_depends_on_its_seed_alone() -> None:
    seeds = torch.tensor([3, 99, -7, 3])
    together = random_warps(seeds, 0.2, 0.2, 20, True)
    alone = torch.cat([random_warps(seed[None], 0.2, 0.2, 20, True) for seed in seeds])
    assert torch.equal(together, alone)
    assert torch.equal(together[0], together[3])
    assert not torch.equal(together[0], together[1])


@pytest.mark.parametrize("size", [(24, 24), (20, 31)])
def test_pictures_move_as_in_opencv(size: tuple[int, int]) -> None:
    height, width = size
    image, valid = some(6, height, width)
    warps = random_warps(torch.arange(6), 0.2, 0.2, 30, True)
    moved, _ = warped(image, valid, warps)
    middle = np.array([(width - 1) / 2, (height - 1) / 2])
    for picture, matrix, result in zip(image.numpy(), warps.double().numpy(), moved.numpy(), strict=True):
        forward = np.hstack([matrix, (middle - matrix @ middle)[:, None]])
        expected = cv2.warpAffine(picture.transpose(1, 2, 0), forward, (width, height), flags=cv2.INTER_LINEAR,
                                  borderValue=(1, 1, 1))  # fmt: skip
        np.testing.assert_allclose(result.transpose(1, 2, 0), expected, atol=0.04)  # which counts 32nds of a pixel


def test_a_quarter_turn_and_a_mirror_are_exact() -> None:
    image, valid = some(2, 6, 6)
    warps = torch.tensor([[[0.0, 1.0], [-1.0, 0.0]], [[-1.0, 0.0], [0.0, 1.0]]])
    moved, kept = warped(image, valid, warps)
    torch.testing.assert_close(moved[0], torch.rot90(image[0], 1, (1, 2)), atol=1e-5, rtol=0)
    torch.testing.assert_close(moved[1], image[1].flip(2), atol=1e-5, rtol=0)
    assert kept.all()


def test_white_comes_in_and_is_mixed_into_nothing_valid() -> None:
    image = torch.ones(20, 3, 40, 40)
    valid = torch.zeros(20, 1, 40, 40, dtype=torch.bool)
    image[:, :, 8:32] = 0.25  # letterboxed: white above and below
    valid[:, :, 8:32] = True
    moved, kept = warped(image, valid, random_warps(torch.arange(20), 0.2, 0.2, 20, True))
    assert (moved[:, :, 0, 0] == 1).all()
    assert (moved[kept.expand(-1, 3, -1, -1)] - 0.25).abs().max() < 1e-3
    # what is pure is valid, but for the rims at the picture's sides
    pure = (moved[:, :1] < 0.2501).float().mean(dim=(1, 2, 3))
    assert ((pure - kept.float().mean(dim=(1, 2, 3))).abs() < 0.03).all()
    assert (kept.float().mean(dim=(1, 2, 3)) > 0.3).all()


def test_half_precision_moves_as_single_does() -> None:
    image, valid = some(2, 16, 16)
    warps = random_warps(torch.arange(2), 0.2, 0.2, 20, True)
    single, kept = warped(image, valid, warps)
    half, kept_half = warped(image.bfloat16(), valid, warps)
    assert half.dtype == torch.bfloat16
    assert (half.float() - single).abs().max() < 0.15
    assert torch.equal(kept, kept_half)


def test_shapes_that_do_not_fit_are_refused() -> None:
    image, valid = some(2, 4, 4)
    with pytest.raises(
        ValueError, match=r"warps of \(1, 2, 2\); wanted \(B, C, H, W\), \(B, 1, H, W\) and \(B, 2, 2\)"
    ):
        warped(image, valid, torch.eye(2)[None])
    with pytest.raises(ValueError, match=r"valid of \(2, 1, 4, 3\)"):
        warped(image, valid[..., :3], torch.eye(2).expand(2, 2, 2))


def test_seeds_are_whole_numbers() -> None:
    with pytest.raises(ValueError, match=r"seeds of torch\.float32; wanted torch\.int64"):
        random_warps(torch.zeros(2), 0.2, 0.2, 20, True)
