import kornia
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from ops.color import lab as color
from ops.color.lab import in_gamut, joined, lab_to_rgb, luminance_and_chroma, rgb_to_lab, scaled, to_rgb
from tests.checks import rejects


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def wild(side: int = 128) -> Tensor:
    """Any lightness with chroma far beyond sRGB."""
    return joined(noise(1, 1, side, side) * 2 - 1, noise(1, 2, side, side, seed=1) * 3 - 1.5)


SCIKIT_IMAGE = {
    (0, 0, 0): (0, 0, 0),
    (1, 1, 1): (100, -0.00245, 0.00465),
    (1, 0, 0): (53.24059, 80.09231, 67.20275),
    (0, 1, 0): (87.7351, -86.18303, 83.1797),
    (0, 0, 1): (32.29567, 79.18559, -107.8573),
    (0, 1, 1): (91.1133, -48.0906, -14.12633),
    (1, 0, 1): (60.32351, 98.23305, -60.82102),
    (1, 1, 0): (97.13951, -21.55468, 94.47812),
    (0.5, 0.5, 0.5): (53.38896, -0.00147, 0.00278),
    (0.04, 0.04, 0.04): (2.79657, -0.00018, 0.00034),
    (0.041, 0.02, 0.09): (2.16653, 4.60419, -8.22395),
    (0.02, 0.9, 0.3): (80.1087, -75.5723, 59.40561),
    (0.8, 0.35, 0.1): (51.95011, 42.47162, 54.68887),
    (0.25, 0.3, 0.75): (38.00478, 32.18618, -61.82651),
    (0.95, 0.85, 0.8): (88.34256, 6.77843, 9.49579),
    (0.6, 0.1, 0.9): (43.02431, 77.09976, -75.30012),
}
"""L, a and b of sRGB colors: `skimage.color.rgb2lab` of version 0.26.0, in double precision."""


def lab_of(rgb: NDArray[np.float64]) -> NDArray[np.float64]:
    """What scikit-image computes of colors (N, 3), step by step in double precision."""
    linear = np.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    matrix = np.array([[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]])
    ratios = linear @ matrix.T / [0.95047, 1, 1.08883]
    x, y, z = np.where(ratios > 0.008856, np.cbrt(ratios), 7.787 * ratios + 16 / 116).T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)


def codes(rgb: Tensor) -> Tensor:
    """8-bit levels, in [0, 1]."""
    return (rgb * 255).round() / 255


def test_the_second_source_is_scikit_image() -> None:
    found = lab_of(np.array(list(SCIKIT_IMAGE), float))
    np.testing.assert_allclose(found, np.array(list(SCIKIT_IMAGE.values())), atol=1e-5)


@pytest.mark.parametrize("precision", ["highest", "medium"])
@pytest.mark.parametrize("autocast", [False, True])
def test_lab_is_that_of_scikit_image_under_autocast_too(autocast: bool, precision: str) -> None:
    rgb = noise(2, 3, 224, 224)
    expected = torch.from_numpy(lab_of(rgb.double().movedim(1, 3).reshape(-1, 3).numpy()))
    torch.set_float32_matmul_precision(precision)
    try:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            plain, lab = kornia.color.rgb_to_lab(rgb), rgb_to_lab(rgb)
            back = lab_to_rgb(lab)
        assert torch.get_float32_matmul_precision() == precision, "products of networks are as they were"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert lab.dtype == back.dtype == torch.float32
    assert (lab.movedim(1, 3).reshape(-1, 3) - expected).abs().max() < 1e-3
    assert (back - rgb).abs().max() < 2e-5
    if autocast:
        assert (plain - lab).abs().max() > 1  # what would go wrong


def test_both_ways_equal_kornia_in_double_precision() -> None:
    rgb = noise(2, 3, 40, 50).double()
    torch.testing.assert_close(rgb_to_lab(rgb), kornia.color.rgb_to_lab(rgb), atol=1e-10, rtol=0)
    lab = wild().double()  # also outside sRGB
    torch.testing.assert_close(lab_to_rgb(lab), kornia.color.lab_to_rgb(lab), atol=1e-10, rtol=0)
    torch.testing.assert_close(lab_to_rgb(lab.float()), kornia.color.lab_to_rgb(lab).float(), atol=1e-5, rtol=0)


def test_half_precision_is_computed_in_single_precision() -> None:
    rgb = noise(1, 3, 32, 32)
    found = rgb_to_lab(rgb.bfloat16())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, rgb_to_lab(rgb.bfloat16().float()), atol=0, rtol=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_lab_on_a_gpu_is_that_of_scikit_image(dtype: torch.dtype) -> None:
    rgb = noise(2, 3, 224, 224)
    expected = lab_of(rgb.double().movedim(1, 3).reshape(-1, 3).numpy())
    for tf32 in (False, True):
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=tf32), torch.autocast("cuda", dtype):
            lab = rgb_to_lab(rgb.cuda())
            back = lab_to_rgb(lab).cpu()
        np.testing.assert_allclose(lab.cpu().movedim(1, 3).reshape(-1, 3), expected, atol=1e-3)
        torch.testing.assert_close(back, rgb, atol=2e-5, rtol=0)
        torch.testing.assert_close(in_gamut(4 * lab).cpu(), in_gamut(4 * lab.cpu()), atol=0.05, rtol=0)


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


def test_block_size_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rgb, lab = noise(2, 3, 33, 17).double(), wild(33).double()
    expected = rgb_to_lab(rgb), lab_to_rgb(lab), in_gamut(lab)
    monkeypatch.setattr(color, "BLOCK", 50)
    for found, whole in zip((rgb_to_lab(rgb), lab_to_rgb(lab), in_gamut(lab)), expected, strict=True):
        torch.testing.assert_close(found, whole, atol=1e-9, rtol=0)
    assert rgb_to_lab(torch.zeros(2, 3, 0, 4)).shape == (2, 3, 0, 4)


def test_colors_of_srgb_stay_as_they_are() -> None:
    lab = rgb_to_lab(torch.cat([noise(1, 3, 200, 200), noise(1, 3, 200, 200).round()]))
    assert in_gamut(lab).equal(lab)


def test_wild_colors_keep_lightness_and_hue() -> None:
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


def test_black_and_white_have_no_color() -> None:
    lab = torch.tensor([[0.0, 100], [60, 60], [-40, 40]]).view(1, 3, 1, 2)
    found = lab_to_rgb(in_gamut(lab))
    torch.testing.assert_close(codes(found)[0, :, 0], torch.tensor([[0.0, 1], [0, 1], [0, 1]]), atol=0, rtol=0)


def test_rejects_other_shapes_and_types() -> None:
    rejects(r"expected rgb \(B, 3, H, W\)", rgb_to_lab, torch.zeros(3, 4, 4))
    rejects(r"got torch.uint8 .* divide 8-bit levels by 255", rgb_to_lab, torch.zeros(1, 3, 4, 4, dtype=torch.uint8))
    rejects(r"expected lab .* got .*\(1, 2, 4, 4\)", in_gamut, torch.zeros(1, 2, 4, 4))
    rejects(r"\(1, 2, 2, 2\): enlarge the chroma", to_rgb, torch.zeros(1, 1, 4, 4), torch.zeros(1, 2, 2, 2))
