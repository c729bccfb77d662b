from pathlib import Path

import cv2
import kornia
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from ops import color
from ops.color import in_gamut, joined, lab_to_rgb, luminance_and_chroma, rgb_to_lab, scaled, to_rgb


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def wild(side: int = 128) -> Tensor:
    """Any lightness with chroma far beyond sRGB."""
    return joined(noise(1, 1, side, side) * 2 - 1, noise(1, 2, side, side, seed=1) * 3 - 1.5)


def lab_of(rgb: NDArray[np.float64]) -> list[float]:
    """L, a and b of one colour, by the formulas of IEC 61966-2-1 and CIE 15."""
    linear = [level / 12.92 if level <= 0.04045 else ((level + 0.055) / 1.055) ** 2.4 for level in rgb]
    matrix = np.array(
        [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    )
    ratios = matrix @ linear / [0.95047, 1, 1.08883]
    x, y, z = (t ** (1 / 3) if t > (6 / 29) ** 3 else t / (3 * (6 / 29) ** 2) + 4 / 29 for t in ratios)
    return [116 * y - 16, 500 * (x - y), 200 * (y - z)]


def codes(rgb: Tensor) -> Tensor:
    """8-bit levels, in [0, 1]."""
    return (rgb * 255).round() / 255


def test_lab_equals_the_standards_formulas() -> None:
    rgb = noise(1, 3, 16, 16).double()
    expected = np.array([lab_of(each) for each in rgb[0].flatten(1).T.numpy()])
    # The matrix of the standard has one digit more than that of kornia and scikit-image.
    np.testing.assert_allclose(rgb_to_lab(rgb)[0].flatten(1).T, expected, atol=0.01)


@pytest.mark.parametrize(
    ("rgb", "lab"),
    [
        ((1, 1, 1), (100, 0, 0)),
        ((0, 0, 0), (0, 0, 0)),
        ((1, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 1, 0), (87.73, -86.18, 83.18)),
        ((0, 0, 1), (32.30, 79.19, -107.86)),
    ],
)
def test_lab_of_known_colours(rgb: tuple[int, ...], lab: tuple[float, ...]) -> None:
    found = rgb_to_lab(torch.tensor(rgb, dtype=torch.float32).view(1, 3, 1, 1)).flatten()
    assert found.tolist() == pytest.approx(lab, abs=0.01)


def test_kornia_is_the_other_backend_and_autocast_stays_out_of_it() -> None:
    rgb = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        lab = rgb_to_lab(rgb, backend="kornia")
        back = lab_to_rgb(lab, backend="kornia")
    torch.testing.assert_close(lab, rgb_to_lab(rgb), atol=1e-3, rtol=0)
    torch.testing.assert_close(back, rgb, atol=1e-4, rtol=0)


def test_both_ways_equal_kornia() -> None:
    rgb = noise(2, 3, 40, 50)
    expected = kornia.color.rgb_to_lab(rgb.double())
    torch.testing.assert_close(rgb_to_lab(rgb.double()), expected, atol=1e-10, rtol=0)
    torch.testing.assert_close(rgb_to_lab(rgb).double(), expected, atol=1e-3, rtol=0)
    lab = wild()  # also outside sRGB
    torch.testing.assert_close(lab_to_rgb(lab), kornia.color.lab_to_rgb(lab), atol=1e-5, rtol=0)


def test_lab_is_exact_under_autocast_and_of_half_precision() -> None:
    rgb = noise(1, 3, 32, 32)
    lab = rgb_to_lab(rgb)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(rgb_to_lab(rgb), lab, atol=0, rtol=0)
        torch.testing.assert_close(lab_to_rgb(lab), rgb, atol=2e-5, rtol=0)
        assert (kornia.color.rgb_to_lab(rgb) - lab).abs().max() > 1  # what would go wrong
    found = rgb_to_lab(rgb.bfloat16())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, rgb_to_lab(rgb.bfloat16().float()), atol=0, rtol=0)


def test_every_code_comes_back() -> None:
    levels = torch.arange(256).view(1, 1, 16, 16).expand(1, 3, 16, 16) / 255
    for rgb in (levels, codes(noise(1, 3, 300, 300))):
        torch.testing.assert_close(codes(lab_to_rgb(rgb_to_lab(rgb))), rgb, atol=1e-6, rtol=0)
        torch.testing.assert_close(codes(to_rgb(*luminance_and_chroma(rgb))), rgb, atol=1e-6, rtol=0)


def test_scaled_values_lie_in_minus_one_to_one() -> None:
    lab = torch.tensor([[0.0, 50, 100], [-128, 0, 128], [64, 32, -64]]).view(1, 3, 1, 3)
    luminance, chroma = scaled(lab)
    assert luminance.flatten().tolist() == [-1, 0, 1]
    assert chroma.flatten().tolist() == [-1, 0, 1, 0.5, 0.25, -0.5]
    assert joined(luminance, chroma).equal(lab)
    luminance, chroma = luminance_and_chroma(noise(1, 3, 64, 64).round())  # the corners of the cube
    assert luminance.abs().max() < 1 + 1e-5
    assert chroma.abs().max() < 1


def test_gradients_are_finite_at_black_and_white() -> None:
    rgb = torch.tensor([0.0, 1, 0.5]).expand(1, 3, 1, 3).clone().requires_grad_()
    lab = rgb_to_lab(rgb)
    lab_to_rgb(lab).sum().backward()
    assert rgb.grad is not None
    assert rgb.grad.isfinite().all()
    assert rgb.grad[..., 2].abs().min() > 0.1


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rgb, lab = noise(2, 3, 33, 17).double(), wild(33).double()
    expected = rgb_to_lab(rgb), lab_to_rgb(lab), in_gamut(lab)
    monkeypatch.setattr(color, "BLOCK", 50)
    for found, whole in zip((rgb_to_lab(rgb), lab_to_rgb(lab), in_gamut(lab)), expected, strict=True):
        torch.testing.assert_close(found, whole, atol=1e-9, rtol=0)
    assert rgb_to_lab(torch.zeros(2, 3, 0, 4)).shape == (2, 3, 0, 4)


def test_colours_of_srgb_stay_as_they_are() -> None:
    lab = rgb_to_lab(torch.cat([noise(1, 3, 200, 200), noise(1, 3, 200, 200).round()]))
    assert in_gamut(lab).equal(lab)


def test_wild_colours_keep_lightness_and_hue() -> None:
    lab = wild()
    found = in_gamut(lab)
    assert found[:, 0].equal(lab[:, 0])
    share = (found[:, 1:] / lab[:, 1:]).double()
    torch.testing.assert_close(share[:, 0], share[:, 1], atol=1e-5, rtol=0)
    assert share.min() >= 0
    assert share.max() == 1
    lightness = rgb_to_lab(codes(lab_to_rgb(found)))[:, 0]
    assert (lightness - lab[:, 0]).abs().max() <= 0.3
    clipped = rgb_to_lab(codes(lab_to_rgb(lab)))[:, 0]
    assert (clipped - lab[:, 0]).abs().max() > 10  # what would go wrong


def test_chroma_is_reduced_no_more_than_needed() -> None:
    lab = wild(24)
    found = in_gamut(lab)
    shares = torch.linspace(0, 1, 1001)
    line = joined(
        (lab[:, :1].flatten() / 50 - 1).view(-1, 1, 1, 1).expand(-1, 1, 1, 1001), torch.zeros(576, 2, 1, 1001)
    )
    line[:, 1:, 0] = lab[0, 1:].flatten(1).T[:, :, None] * shares
    rgb = kornia.color.lab_to_rgb(line.double(), clip=False)
    inside = ((rgb > -1e-4) & (rgb < 1 + 1e-4)).all(dim=1)[:, 0]
    expected = (inside.int().cumprod(dim=1).sum(dim=1) - 1) / 1000
    share = found[0, 1:].flatten(1).norm(dim=0) / lab[0, 1:].flatten(1).norm(dim=0)
    torch.testing.assert_close(share, expected, atol=0.002, rtol=0)


def test_black_and_white_have_no_colour() -> None:
    lab = torch.tensor([[0.0, 100], [60, 60], [-40, 40]]).view(1, 3, 1, 2)
    found = lab_to_rgb(in_gamut(lab))
    torch.testing.assert_close(codes(found)[0, :, 0], torch.tensor([[0.0, 1], [0, 1], [0, 1]]), atol=0, rtol=0)


def test_what_is_no_picture_is_refused() -> None:
    with pytest.raises(ValueError, match=r"rgb of shape \(3, 4, 4\) and torch.float32; wanted \(B, 3, H, W\)"):
        rgb_to_lab(torch.zeros(3, 4, 4))
    with pytest.raises(ValueError, match=r"torch.uint8; wanted .* divide 8-bit levels by 255"):
        rgb_to_lab(torch.zeros(1, 3, 4, 4, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"lab of shape \(1, 2, 4, 4\)"):
        in_gamut(torch.zeros(1, 2, 4, 4))
    with pytest.raises(ValueError, match=r"chroma of \(1, 2, 2, 2\); wanted .* enlarge the chroma"):
        to_rgb(torch.zeros(1, 1, 4, 4), torch.zeros(1, 2, 2, 2))


@pytest.mark.real
def test_real_pictures_with_wild_colours_keep_their_luminance(real_data: Path) -> None:
    paths = sorted((real_data / "colorization" / "images").iterdir())[::30]
    assert paths
    for path in paths:
        levels = cv2.resize(cv2.imread(str(path)), (300, 300), interpolation=cv2.INTER_AREA)[..., ::-1] / np.float32(
            255
        )
        lab = rgb_to_lab(torch.from_numpy(levels.copy()).permute(2, 0, 1)[None])
        loud = torch.cat([lab[:, :1], 4 * lab[:, 1:] + 30], dim=1)
        lightness = rgb_to_lab(codes(lab_to_rgb(in_gamut(loud))))[:, 0]
        assert (lightness - lab[:, 0]).abs().max() <= 0.5
