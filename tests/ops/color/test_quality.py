import math
from collections.abc import Callable

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor

from ops.color import quality
from ops.color.lab import rgb_to_lab
from ops.color.quality import PSNR_LIMIT, SCORES, colorfulness, delta_e76, delta_e2000, picture_scores, psnr, ssim
from tests.checks import rejects


def random_pair(height: int = 40, width: int = 50, pictures: int = 3) -> tuple[Tensor, Tensor]:
    """Smooth images, uint8, and noisy ones of them."""
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


def test_psnr_of_equal_images_is_the_limit() -> None:
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


@pytest.mark.parametrize("score", [psnr, ssim])
@pytest.mark.parametrize("rows", [1, 16])
def test_bands_and_padding_change_nothing(
    score: Callable[..., Tensor], rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    prediction, target = random_pair()
    whole = score(prediction, target)
    monkeypatch.setattr(quality, "PIXELS_AT_ONCE", rows * 3 * 54)
    (wrong, valid), (white, _) = letterboxed(prediction, math.nan), letterboxed(target, 1.0)
    torch.testing.assert_close(score(wrong, white, valid), whole, atol=1e-4, rtol=0)
    torch.testing.assert_close(score(wrong, white, valid.float()), whole, atol=1e-4, rtol=0)


def test_images_without_valid_pixels_have_no_score() -> None:
    image, valid = torch.rand(2, 3, 20, 20), torch.ones(2, 1, 20, 20, dtype=torch.bool)
    valid[1] = False
    assert psnr(image, image, valid).isnan().tolist() == [False, True]
    valid[1, :, :10] = True  # a window has 11 rows
    assert ssim(image, image, valid).isnan().tolist() == [False, True]
    assert psnr(image, image, valid).tolist() == pytest.approx([PSNR_LIMIT] * 2)
    assert ssim(image[..., :10], image[..., :10]).isnan().all()


def test_nan_counts_as_black() -> None:
    broken, black = torch.full((1, 3, 12, 12), math.nan), torch.zeros(1, 3, 12, 12)
    assert psnr(broken, black).item() == pytest.approx(PSNR_LIMIT)
    assert psnr(broken, black + 1).item() == pytest.approx(0)
    assert psnr(black + 7, black + 1).item() == pytest.approx(PSNR_LIMIT)  # clipped


@pytest.mark.parametrize("score", [psnr, ssim])
def test_computes_in_single_precision(score: Callable[..., Tensor]) -> None:
    prediction, target = random_pair()
    expected = score(prediction, target)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(score(prediction, target), expected)
    assert score((prediction / 255).bfloat16(), target.bfloat16() / 255).dtype == torch.float32


# Table 1 of Sharma, Wu and Dalal 2005: L, a, b; L, a, b; the difference.
SHARMA = """
50 2.6772 -79.7751 50 0 -82.7485 2.0425   50 3.1571 -77.2803 50 0 -82.7485 2.8615
50 2.8361 -74.0200 50 0 -82.7485 3.4412   50 -1.3802 -84.2814 50 0 -82.7485 1.0000
50 -1.1848 -84.8006 50 0 -82.7485 1.0000  50 -0.9009 -85.5211 50 0 -82.7485 1.0000
50 0 0 50 -1 2 2.3669                     50 -1 2 50 0 0 2.3669
50 2.49 -0.001 50 -2.49 0.0009 7.1792     50 2.49 -0.001 50 -2.49 0.0010 7.1792
50 2.49 -0.001 50 -2.49 0.0011 7.2195     50 2.49 -0.001 50 -2.49 0.0012 7.2195
50 -0.001 2.49 50 0.0009 -2.49 4.8045     50 -0.001 2.49 50 0.0010 -2.49 4.8045
50 -0.001 2.49 50 0.0011 -2.49 4.7461     50 2.5 0 50 0 -2.5 4.3065
50 2.5 0 73 25 -18 27.1492                50 2.5 0 61 -5 29 22.8977
50 2.5 0 56 -27 -3 31.9030                50 2.5 0 58 24 15 19.4535
50 2.5 0 50 3.1736 0.5854 1.0000          50 2.5 0 50 3.2972 0 1.0000
50 2.5 0 50 1.8634 0.5757 1.0000          50 2.5 0 50 3.2592 0.3350 1.0000
60.2574 -34.0099 36.2677 60.4626 -34.1751 39.4387 1.2644
63.0109 -31.0961 -5.8663 62.8187 -29.7946 -4.0864 1.2630
61.2901 3.7196 -5.3901 61.4292 2.2480 -4.9620 1.8731
35.0831 -44.1164 3.7933 35.0232 -40.0716 1.5901 1.8645
22.7233 20.0904 -46.6940 23.0331 14.9730 -42.5619 2.0373
36.4612 47.8580 18.3852 36.2715 50.5065 21.2231 1.4146
90.8027 -2.0831 1.4410 91.1528 -1.6435 0.0447 1.4441
90.9257 -0.5406 -0.9208 88.6381 -0.8985 -0.7239 1.5381
6.7747 -0.2908 -2.4247 5.8714 -0.0985 -2.2286 0.6377
2.0776 0.0795 -1.1350 0.9033 -0.0636 -0.5514 0.9082
"""


def sharma() -> tuple[Tensor, Tensor, list[float]]:
    table = torch.tensor([float(word) for word in SHARMA.split()], dtype=torch.float64).view(34, 7)
    one, other = (part.T.reshape(1, 3, 1, 34) for part in (table[:, :3], table[:, 3:6]))
    return one, other, table[:, 6].tolist()


def slow_delta_e2000(lab: list[float], other: list[float]) -> float:
    """The formula as the CIE prints it (CIE 142-2001), for one pair, in double precision and with hues in degrees."""
    (l1, a1, b1), (l2, a2, b2) = lab, other
    mean = (math.hypot(a1, b1) + math.hypot(a2, b2)) / 2
    g = 0.5 * (1 - math.sqrt(mean**7 / (mean**7 + 25**7)))
    a1, a2 = (1 + g) * a1, (1 + g) * a2
    c1, c2 = math.hypot(a1, b1), math.hypot(a2, b2)
    h1, h2 = (math.degrees(math.atan2(b, a)) % 360 for a, b in ((a1, b1), (a2, b2)))
    turn, mean_hue = h2 - h1, (h1 + h2) / 2
    if abs(turn) > 180:
        turn += -360 if turn > 0 else 360
        mean_hue += 180 if mean_hue < 180 else -180
    t = 1 - 0.17 * math.cos(math.radians(mean_hue - 30)) + 0.24 * math.cos(math.radians(2 * mean_hue))
    t += 0.32 * math.cos(math.radians(3 * mean_hue + 6)) - 0.2 * math.cos(math.radians(4 * mean_hue - 63))
    c, away = (c1 + c2) / 2, ((l1 + l2) / 2 - 50) ** 2
    dl = (l2 - l1) / (1 + 0.015 * away / math.sqrt(20 + away))
    dc = (c2 - c1) / (1 + 0.045 * c)
    dh = 2 * math.sqrt(c1 * c2) * math.sin(math.radians(turn / 2)) / (1 + 0.015 * c * t)
    rotation = (
        -2 * math.sqrt(c**7 / (c**7 + 25**7)) * math.sin(math.radians(60 * math.exp(-(((mean_hue - 275) / 25) ** 2))))
    )
    return math.sqrt(dl**2 + dc**2 + dh**2 + rotation * dc * dh)


def slow_colorfulness(picture: np.ndarray) -> float:
    red, green, blue = (picture[..., channel].astype(np.float64) for channel in range(3))
    first, second = red - green, 0.5 * (red + green) - blue
    return float(np.hypot(first.std(), second.std()) + 0.3 * np.hypot(first.mean(), second.mean()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ciede2000_is_that_of_the_published_table(dtype: torch.dtype) -> None:
    one, other, expected = sharma()
    # Pairs 10 and 14 lie 180 degrees apart, where the mean hue jumps: in single precision their side is chance.
    exact = dtype == torch.float64
    kept = [index for index in range(34) if exact or index not in (9, 13)]
    for found in (delta_e2000(one.to(dtype), other.to(dtype)), delta_e2000(other.to(dtype), one.to(dtype))):
        assert found.dtype == dtype
        assert found[0, 0, kept].tolist() == pytest.approx([expected[index] for index in kept], abs=1e-4)


def test_ciede2000_is_that_of_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    scale, origin = torch.tensor([100, 200, 200.0]).view(1, 3, 1, 1), torch.tensor([0, -100, -100.0]).view(1, 3, 1, 1)
    one, other = (torch.rand(1, 3, 1, 500, generator=generator) * scale + origin for _ in range(2))
    other[..., 100:200] = one[..., 100:200] + torch.rand(1, 3, 1, 100, generator=generator)
    pairs = zip(one[0, :, 0].T.tolist(), other[0, :, 0].T.tolist(), strict=True)
    expected = [slow_delta_e2000(*pair) for pair in pairs]
    assert delta_e2000(one, other).flatten().tolist() == pytest.approx(expected, abs=2e-3)


def test_equal_colors_have_no_difference() -> None:
    lab = rgb_to_lab(torch.rand(2, 3, 16, 16))
    assert delta_e76(lab, lab).max() == 0
    assert delta_e2000(lab, lab).max() == 0
    grey = lab * torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1)
    assert delta_e2000(grey, lab).isfinite().all()


def test_cie76_is_the_distance_in_lab() -> None:
    generator = torch.Generator().manual_seed(0)
    one, other = (100 * torch.rand(2, 3, 5, 7, generator=generator) for _ in range(2))
    expected = np.linalg.norm(one.numpy() - other.numpy(), axis=1)
    assert delta_e76(one, other).shape == (2, 5, 7)
    np.testing.assert_allclose(delta_e76(one, other).numpy(), expected, atol=1e-4)


def test_colorfulness_is_that_of_numpy() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (2, 9, 13, 3), dtype=np.uint8)
    picture[1] //= 2
    expected = [slow_colorfulness(each) for each in picture]
    rgb = torch.from_numpy(picture).permute(0, 3, 1, 2)
    assert colorfulness(rgb).tolist() == pytest.approx(expected, rel=1e-5)
    assert colorfulness(rgb / 255).tolist() == pytest.approx(expected, rel=1e-5)


def test_scores_of_an_image_are_those_of_its_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(3, 3, 30, 20, generator=generator)
    prediction = (target + 0.1 * torch.randn(target.shape, generator=generator)).clamp(0, 1)
    lab, other = rgb_to_lab(prediction), rgb_to_lab(target)
    found, true = colorfulness(prediction), colorfulness(target)
    expected = {
        "psnr": psnr(prediction, target),
        "ssim": ssim(prediction, target),
        "delta_e76": delta_e76(lab, other).mean(dim=(1, 2)),
        "delta_e2000": delta_e2000(lab, other).mean(dim=(1, 2)),
        "colorfulness": found,
        "colorfulness_true": true,
        "colorfulness_difference": found - true,
    }
    assert tuple(expected) == SCORES
    monkeypatch.setattr(quality, "PIXELS_AT_ONCE", 7 * 20 * 3)
    torch.testing.assert_close(picture_scores(prediction, target), expected, atol=1e-4, rtol=1e-4)
    assert list(picture_scores(prediction, target, names=("ssim", "delta_e76"))) == ["ssim", "delta_e76"]


def test_padding_counts_nowhere() -> None:
    generator = torch.Generator().manual_seed(0)
    prediction, target = (torch.rand(2, 3, 24, 18, generator=generator) for _ in range(2))
    padded, white = torch.full((2, 3, 24, 24), math.nan), torch.ones(2, 3, 24, 24)
    padded[..., 2:20], white[..., 2:20] = prediction, target
    valid = torch.zeros(2, 1, 24, 24, dtype=torch.bool)
    valid[..., 2:20] = True
    expected = picture_scores(prediction, target)
    torch.testing.assert_close(picture_scores(padded, white, valid), expected, atol=1e-4, rtol=1e-5)


def test_rejects_unknown_scores_and_wrong_shapes() -> None:
    image = torch.rand(1, 3, 16, 16)
    rejects(r"psnr, ssim.* got \['lpips'\]", picture_scores, image, image, names=["lpips"])
    for difference in (delta_e76, delta_e2000):
        rejects(r"Lab of one shape .*\(1, 1, 16, 16\)", difference, image, image[:, :1])
    for score in (psnr, ssim):
        rejects(r"one shape .*\(1, 3, 16, 15\)", score, image, image[..., 1:])
        rejects(r"\(1, 1, 16, 16\).* got \(1, 16, 16\)", score, image, image, torch.ones(1, 16, 16))
