import math
from collections.abc import Callable

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from ops import color_quality as similarity
from ops.color_quality import PSNR_LIMIT, psnr, ssim


def random_pair(height: int = 40, width: int = 50, pictures: int = 3) -> tuple[Tensor, Tensor]:
    """Smooth pictures, uint8, and noisy ones of them."""
    generator = np.random.default_rng(0)
    shape = (pictures, 3, height, width)
    smooth = gaussian_filter(generator.normal(size=shape), (0, 0, 3, 3)) * 400 + 128
    noisy = smooth + generator.normal(size=shape) * np.array([5, 20, 60])[:pictures, None, None, None]
    target, prediction = (torch.from_numpy(each.clip(0, 255).round().astype(np.uint8)) for each in (smooth, noisy))
    return prediction, target


def letterboxed(image: Tensor, value: float) -> tuple[Tensor, Tensor]:
    valid = torch.zeros(len(image), 1, image.shape[2] + 9, image.shape[3] + 4, dtype=torch.bool)
    valid[:, :, 3:-6, 1:-3] = True
    padded = torch.full((len(image), 3, *valid.shape[2:]), value)
    padded[:, :, 3:-6, 1:-3] = image.float() / 255
    return padded, valid


def slow_ssim(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """What scikit-image computes of (C, H, W), step by step in double precision."""
    values = []
    for a, b in zip(x, y, strict=True):
        mean_a, mean_b, squares_a, squares_b, products = (
            gaussian_filter(each, sigma=1.5, truncate=3.5) for each in (a, b, a * a, b * b, a * b)
        )
        variance_a, variance_b = squares_a - mean_a**2, squares_b - mean_b**2
        above = (2 * mean_a * mean_b + 0.01**2) * (2 * (products - mean_a * mean_b) + 0.03**2)
        below = (mean_a**2 + mean_b**2 + 0.01**2) * (variance_a + variance_b + 0.03**2)
        values.append((above / below)[5:-5, 5:-5].mean())
    return float(np.mean(values))


def test_psnr_is_that_of_opencv() -> None:
    prediction, target = random_pair()
    expected = [cv2.PSNR(p.numpy(), t.numpy()) for p, t in zip(prediction, target, strict=True)]
    assert max(expected) > 30
    assert psnr(prediction, target).tolist() == pytest.approx(expected, abs=1e-3)
    assert psnr(prediction / 255, target / 255).tolist() == pytest.approx(expected, abs=1e-3)


def test_psnr_of_equal_pictures_is_the_limit() -> None:
    image = torch.rand(2, 3, 8, 8)
    assert psnr(image, image).tolist() == pytest.approx([PSNR_LIMIT] * 2)
    rounded = (image * 255).round() / 255
    assert psnr(rounded, image).tolist() == pytest.approx([58.9] * 2, abs=1)


def test_ssim_is_that_of_scikit_image() -> None:
    prediction, target = random_pair()
    expected = [
        slow_ssim(*(each.double().numpy() / 255 for each in pair)) for pair in zip(prediction, target, strict=True)
    ]
    assert min(expected) < 0.4 < 0.9 < max(expected)
    assert ssim(prediction, target).tolist() == pytest.approx(expected, abs=1e-5)


def test_ssim_is_that_of_torchmetrics() -> None:
    prediction, target = (each.float() / 255 for each in random_pair())
    _, full = structural_similarity_index_measure(prediction, target, data_range=1.0, return_full_image=True)
    assert isinstance(full, Tensor)
    assert full.shape == target.shape  # with windows that reach over the edge, and reflect it
    expected = full[..., 5:-5, 5:-5].mean(dim=(1, 2, 3))
    assert ssim(prediction, target).tolist() == pytest.approx(expected.tolist(), abs=1e-4)


@pytest.mark.parametrize("score", [psnr, ssim])
@pytest.mark.parametrize("rows", [1, 16])
def test_bands_and_padding_change_nothing(
    score: Callable[..., Tensor], rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    prediction, target = random_pair()
    whole = score(prediction, target)
    monkeypatch.setattr(similarity, "PIXELS_AT_ONCE", rows * 3 * 54)
    (wrong, valid), (white, _) = letterboxed(prediction, math.nan), letterboxed(target, 1.0)
    torch.testing.assert_close(score(wrong, white, valid), whole, atol=1e-4, rtol=0)
    torch.testing.assert_close(score(wrong, white, valid.float()), whole, atol=1e-4, rtol=0)


def test_pictures_without_anything_to_count_have_no_score() -> None:
    image, valid = torch.rand(2, 3, 20, 20), torch.ones(2, 1, 20, 20, dtype=torch.bool)
    valid[1] = False
    assert psnr(image, image, valid).isnan().tolist() == [False, True]
    valid[1, :, :10] = True  # a window has 11 rows
    assert ssim(image, image, valid).isnan().tolist() == [False, True]
    assert psnr(image, image, valid).tolist() == pytest.approx([PSNR_LIMIT] * 2)
    assert ssim(image[..., :10], image[..., :10]).isnan().all()


def test_values_that_are_none_count_as_black() -> None:
    broken, black = torch.full((1, 3, 12, 12), math.nan), torch.zeros(1, 3, 12, 12)
    assert psnr(broken, black).item() == pytest.approx(PSNR_LIMIT)
    assert psnr(broken, black + 1).item() == pytest.approx(0)
    assert psnr(black + 7, black + 1).item() == pytest.approx(PSNR_LIMIT)  # clipped


@pytest.mark.parametrize("score", [psnr, ssim])
def test_autocast_and_half_precision_are_left_behind(score: Callable[..., Tensor]) -> None:
    prediction, target = random_pair()
    expected = score(prediction, target)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(score(prediction, target), expected)
    assert score((prediction / 255).bfloat16(), target.bfloat16() / 255).dtype == torch.float32


@pytest.mark.parametrize("score", [psnr, ssim])
def test_shapes_that_do_not_belong_together_are_refused(score: Callable[..., Tensor]) -> None:
    image = torch.rand(2, 3, 12, 12)
    with pytest.raises(ValueError, match=r"prediction is \(2, 3, 12, 12\) and target is \(2, 3, 12, 11\).*resize them"):
        score(image, image[..., 1:])
    with pytest.raises(ValueError, match=r"valid is \(2, 12, 12\); wanted is \(2, 1, 12, 12\)"):
        score(image, image, torch.ones(2, 12, 12))
