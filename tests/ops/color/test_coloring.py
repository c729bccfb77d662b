import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

import ops.color.coloring
from ops.color.coloring import colored, grey, guide, guided_rows, guided_upsample, has_colors, pixels
from ops.color.lab import luminance_and_chroma, to_rgb
from ops.pictures import box, cropped, letterboxed
from tests.checks import rejects

Picture = NDArray[np.uint8]
HOST = torch.device("cpu")


def lightness(picture: Picture) -> NDArray[np.float64]:
    """CIE L by hand, in double precision."""
    levels = picture / 255
    linear = np.where(levels > 0.04045, ((levels + 0.055) / 1.055) ** 2.4, levels / 12.92)
    y = linear @ [0.212671, 0.715160, 0.072169]
    return np.asarray(116 * np.where(y > 0.008856, np.cbrt(y), 7.787 * y + 16 / 116) - 16)


def make_picture(height: int = 60, width: int = 90, seed: int = 0) -> Picture:
    coarse = torch.rand(1, 3, 6, 9, generator=torch.Generator().manual_seed(seed))
    fine = functional.interpolate(coarse, (height, width), mode="bilinear")[0]
    return (255 * fine).byte().permute(1, 2, 0).numpy()


def small(picture: Picture, side: int) -> tuple[Tensor, Tensor]:
    """Chroma and luminance of an image in a square, without the padding."""
    luminance, chroma = luminance_and_chroma(pixels(letterboxed(picture, side), HOST))
    place = box((picture.shape[0], picture.shape[1]), side)
    return cropped(chroma, place)[0], cropped(luminance, place)[0]


@pytest.mark.parametrize("guided", [True, False])
def test_an_image_in_its_own_colors_comes_back(guided: bool) -> None:
    picture = make_picture()
    luminance, chroma = luminance_and_chroma(pixels(picture, HOST))
    found = colored(picture, chroma[0], luminance[0], guided)
    assert found.dtype == np.uint8
    assert np.abs(found.astype(int) - picture).max() <= 1  # a bicubic of nothing to do is exact to rounding


def test_wild_colors_leave_the_luminance_as_it_was() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    chroma = 3 * torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))
    found = colored(picture, chroma, torch.zeros(1, 5, 7))
    assert np.abs(lightness(found) - lightness(picture)).max() <= 0.5
    assert np.abs(found.astype(int) - picture).max() > 50


def test_without_guidance_colors_are_enlarged_as_torch_does_it() -> None:
    picture = np.repeat(np.arange(40, 215, dtype=np.uint8).reshape(25, 7, 1), 3, axis=2)
    chroma = 0.05 * torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(1))
    enlarged = functional.interpolate(chroma[None], (25, 7), mode="bicubic", align_corners=False)
    expected = to_rgb(luminance_and_chroma(pixels(picture, HOST))[0], enlarged)[0].permute(1, 2, 0).numpy()
    found = colored(picture, chroma, torch.randn(1, 4, 3), guided=False)
    np.testing.assert_allclose(found, 255 * expected, atol=0.6)


@pytest.mark.parametrize("rows", [1, 7, 60])
def test_an_image_in_bands_is_the_same(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = make_picture()
    chroma, luminance = small(picture, 20)
    whole = colored(picture, chroma, luminance)
    monkeypatch.setattr(ops.color.coloring, "BAND", rows * picture.shape[1])
    found = colored(picture, chroma, luminance)
    assert np.abs(found.astype(int) - whole).max() <= 1
    assert has_colors(picture)


@pytest.mark.real
def test_guided_colors_are_nearer_to_the_truth(real_data: Path) -> None:
    path = real_data / "colorization" / "images" / "vincent_van_gogh__the_bedroom.jpg"
    picture = np.asarray(Image.open(path).convert("RGB"))[100:400, 200:600]
    chroma, luminance = small(picture, 128)
    true = luminance_and_chroma(pixels(picture, HOST))[1]
    errors = []
    for guided in (True, False):
        found = colored(picture, chroma, luminance, guided)
        assert np.abs(lightness(found) - lightness(picture)).max() <= 0.5
        errors.append(128 * (luminance_and_chroma(pixels(found, HOST))[1] - true).norm(dim=1).mean().item())
    assert errors[0] < 0.95 * errors[1]


def test_gray_keeps_the_luminance_alone() -> None:
    picture = make_picture()
    found = grey(picture)
    assert np.ptp(found, axis=2).max() <= 1  # the sums of sRGB's matrix are not quite the white of D65
    assert np.abs(lightness(found) - lightness(picture)).max() <= 0.25
    levels = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], 3, axis=2)
    np.testing.assert_array_equal(grey(levels), levels)


@pytest.mark.parametrize(
    ("red", "blue", "spot", "wanted"),
    [(0, 0, 0, False), (16, 0, 0, False), (8, -9, 0, True), (0, 0, 11, True), (0, 0, 10, False), (30, -20, 0, True)],
)
def test_one_pixel_in_a_thousand_makes_an_image_colored(red: int, blue: int, spot: int, wanted: bool) -> None:
    levels = np.random.default_rng(0).integers(40, 200, (100, 100, 1))
    picture = (levels + np.array([red, 0, blue])).astype(np.uint8)
    picture[3, :spot] = (255, 0, 0)
    assert has_colors(picture) is wanted


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def pictures(size: tuple[int, int] = (70, 90)) -> tuple[Tensor, Tensor, Tensor]:
    return noise(2, 2, 14, 11), noise(2, 1, 14, 11, seed=1), noise(2, 1, *size, seed=2)


def slow_slopes(chroma: Tensor, luminance: Tensor, radius: int, epsilon: float) -> np.ndarray:
    """The slopes of one image, window by window, in double precision."""
    colours, light = chroma.double().numpy(), luminance[0].double().numpy()
    height, width = light.shape
    windows = {
        (y, x): np.s_[max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1]
        for y, x in itertools.product(range(height), range(width))
    }
    slopes = np.zeros_like(colours)
    for (y, x), window in windows.items():
        for channel in range(2):
            covariance = np.cov(light[window].ravel(), colours[channel][window].ravel(), bias=True)
            slopes[channel, y, x] = covariance[0, 1] / (covariance[0, 0] + epsilon)
    means = np.zeros_like(slopes)
    for (y, x), window in windows.items():
        means[:, y, x] = slopes[:, *window].mean(axis=(1, 2))
    return means


@pytest.mark.parametrize(("radius", "epsilon"), [(1, 0.1), (2, 0.01), (20, 0.003)])
def test_slopes_equal_a_slow_loop(radius: int, epsilon: float) -> None:
    chroma, small, _ = pictures()
    found = guide(chroma, small, radius, epsilon)
    assert found[:, :2].equal(chroma)
    assert found[:, 4:].equal(small)
    for index in range(2):
        expected = slow_slopes(chroma[index], small[index], radius, epsilon)
        np.testing.assert_allclose(found[index, 2:4], expected, atol=1e-5)


@pytest.mark.parametrize("size", [(70, 90), (14, 11), (9, 300), (1, 1)])
def test_a_full_image_is_the_sum_of_enlarged_maps(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    chroma, small, full = pictures(size)
    maps = functional.interpolate(guide(chroma, small), size, mode="bicubic", align_corners=False)
    expected = maps[:, :2] + maps[:, 2:4] * (full - maps[:, 4:])
    for block in (ops.color.coloring.BAND, 500, 1):  # bands down to one row
        monkeypatch.setattr(ops.color.coloring, "BAND", block)
        found = guided_upsample(chroma, small, full)
        assert found.shape == (2, 2, *size)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_half_precision_and_autocast_give_single_precision() -> None:
    chroma, small, full = pictures()
    expected = guided_upsample(chroma, small, full)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(guided_upsample(chroma, small, full), expected, atol=1e-6, rtol=0)
    found = guided_upsample(chroma.bfloat16(), small, full)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=0.05, rtol=0)


def test_rejects_wrong_arguments() -> None:
    chroma, small, full = pictures()
    rejects("crop both to the image's box", colored, make_picture(), torch.zeros(2, 5, 7), torch.zeros(1, 7, 5))
    rejects(r"got .*\(2, 1, 70, 90\): crop both", guided_upsample, chroma, full, full)
    rejects(r"full luminance .* got \(1, 1, 70, 90\)", guided_upsample, chroma, small, full[:1])
    rejects(r"got 0 and 0\.01", guided_upsample, chroma, small, full, radius=0)
    rejects(r"epsilon above 0, got 2 and 0", guide, chroma, small, epsilon=0)
    rejects("image of 70, got rows 60 to 81", guided_rows, guide(chroma, small), full[:, :, :21], 60, 70)
