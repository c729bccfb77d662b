import itertools
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from ops import coloring as guided
from ops.color import luminance_and_chroma
from ops.coloring import guide, guided_rows, guided_upsample
from ops.pictures import box, cropped, letterboxed


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def pictures(size: tuple[int, int] = (70, 90)) -> tuple[Tensor, Tensor, Tensor]:
    return noise(2, 2, 14, 11), noise(2, 1, 14, 11, seed=1), noise(2, 1, *size, seed=2)


def slow_slopes(chroma: Tensor, luminance: Tensor, radius: int, epsilon: float) -> np.ndarray:
    """The slopes of one picture, window by window, in double precision."""
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
def test_a_full_picture_is_the_sum_of_enlarged_maps(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    chroma, small, full = pictures(size)
    maps = functional.interpolate(guide(chroma, small), size, mode="bicubic", align_corners=False)
    expected = maps[:, :2] + maps[:, 2:4] * (full - maps[:, 4:])
    for block in (guided.BLOCK, 500, 1):  # bands down to one row
        monkeypatch.setattr(guided, "BLOCK", block)
        found = guided_upsample(chroma, small, full)
        assert found.shape == (2, 2, *size)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_rows_are_those_of_the_full_picture() -> None:
    chroma, small, full = pictures()
    whole = guided_upsample(chroma, small, full)
    found = guided_rows(guide(chroma, small), full[:, :, 31:52], 31, 70)
    torch.testing.assert_close(found, whole[:, :, 31:52], atol=1e-6, rtol=0)


def test_colours_stop_at_an_edge_of_the_luminance() -> None:
    full = torch.full((1, 1, 160, 160), -0.5)
    full[..., 75:] = 0.5
    truth = torch.cat([0.4 * full, -0.2 * full], dim=1)
    small, chroma = (functional.avg_pool2d(each, 10) for each in (full, truth))  # a column of both colours between
    errors = {
        method: (guided_upsample(chroma, small, full, epsilon=1e-4, method=method) - truth).abs().max()  # type: ignore[arg-type]
        for method in ("guided", "bicubic", "bilinear")
    }
    assert errors["guided"] < 0.01
    assert min(errors["bicubic"], errors["bilinear"]) > 0.1


def test_one_colour_stays_one_colour_whatever_the_luminance() -> None:
    _, small, full = pictures()
    chroma = torch.tensor([0.3, -0.6]).view(1, 2, 1, 1).expand(2, 2, 14, 11)
    torch.testing.assert_close(guided_upsample(chroma, small, full), chroma[..., :1, :1].expand(2, 2, 70, 90))


def test_flat_luminance_leaves_bicubic_colours() -> None:
    chroma, _, _ = pictures()
    found = guided_upsample(chroma, torch.zeros(2, 1, 14, 11), torch.zeros(2, 1, 40, 50))
    expected = functional.interpolate(chroma, (40, 50), mode="bicubic", align_corners=False)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_half_precision_and_autocast_give_single_precision() -> None:
    chroma, small, full = pictures()
    expected = guided_upsample(chroma, small, full)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(guided_upsample(chroma, small, full), expected, atol=1e-6, rtol=0)
    found = guided_upsample(chroma.bfloat16(), small, full)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=0.05, rtol=0)
    assert guided_upsample(chroma.half(), small, full, method="bilinear").dtype == torch.float32


def test_what_does_not_fit_is_refused() -> None:
    chroma, small, full = pictures()
    with pytest.raises(ValueError, match=r"its luminance of \(2, 1, 70, 90\); wanted .* crop both"):
        guided_upsample(chroma, full, full)
    with pytest.raises(ValueError, match=r"full luminance of shape \(1, 1, 70, 90\) for chroma"):
        guided_upsample(chroma, small, full[:1])
    with pytest.raises(ValueError, match=r"radius 0 and epsilon 0\.01"):
        guided_upsample(chroma, small, full, radius=0)
    with pytest.raises(ValueError, match=r"epsilon 0; wanted .* more than 0"):
        guide(chroma, small, epsilon=0)
    with pytest.raises(ValueError, match="method 'nearest'; wanted is 'guided'"):
        guided_upsample(chroma, small, full, method="nearest")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="rows 60 to 81 of a picture of 70"):
        guided_rows(guide(chroma, small), full[:, :, :21], 60, 70)


@pytest.mark.real
def test_guided_colours_are_nearer_to_paintings_than_plain_ones(real_data: Path) -> None:
    errors: dict[str, list[float]] = {"guided": [], "bicubic": [], "bilinear": []}
    for path in sorted((real_data / "colorization" / "images").iterdir())[::12]:
        picture = np.ascontiguousarray(cv2.imread(str(path))[..., ::-1])
        square = torch.from_numpy(letterboxed(picture, 224)).permute(2, 0, 1)[None] / 255
        reduced = cropped(square, box(picture.shape[:2], 224))
        luminance, truth = luminance_and_chroma(torch.from_numpy(picture).permute(2, 0, 1)[None] / 255)
        small, chroma = luminance_and_chroma(reduced)
        for method, values in errors.items():
            found = guided_upsample(chroma, small, luminance, method=method)  # type: ignore[arg-type]
            values.append(float((found - truth).norm(dim=1).mean()))
    means = {method: np.mean(values) for method, values in errors.items()}
    assert means["guided"] < 0.98 * means["bicubic"] < 0.98 * means["bilinear"]
