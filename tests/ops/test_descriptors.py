import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import moment
from torch import Tensor

from ops.color.lab import rgb_to_lab
from ops.descriptors import color_moments, gradient_histograms
from tests.checks import rejects


def drawn(height: int, width: int) -> NDArray[np.float64]:
    """An image of waves, another one a channel."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(0.31 * x + 0.17 * y), np.cos(0.11 * x * y / 9), np.sin(0.05 * x * x - 0.23 * y)]
    return np.stack(waves, axis=-1) / 2 + 0.5


def batch(*pictures: NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float()


def slow_histograms(picture: NDArray[np.float64], cells: int) -> NDArray[np.float64]:
    """Dalal and Triggs' descriptor, pixel by pixel and block by block."""
    height, width, _ = picture.shape
    rows, columns = height // cells, width // cells
    found = np.zeros((cells, cells, 9))
    for y in range(rows * cells):
        for x in range(columns * cells):
            longest, angle = 0.0, 0.0
            for channel in range(3):
                down = picture[y + 1, x, channel] - picture[y - 1, x, channel] if 0 < y < height - 1 else 0.0
                across = picture[y, x + 1, channel] - picture[y, x - 1, channel] if 0 < x < width - 1 else 0.0
                if math.hypot(down, across) > longest:
                    longest, angle = math.hypot(down, across), math.degrees(math.atan2(down, across)) % 180
            found[y // rows, x // columns, int(angle // 20) % 9] += longest / (rows * columns)
    blocks = []
    for y in range(cells - 1):
        for x in range(cells - 1):
            block = found[y : y + 2, x : x + 2].ravel()
            block = np.minimum(block / math.sqrt((block**2).sum() + 1e-10), 0.2)
            blocks.append(block / math.sqrt((block**2).sum() + 1e-10))
    return np.concatenate(blocks)


@pytest.mark.parametrize(("size", "cells"), [((12, 18), 2), ((29, 37), 4), ((9, 9), 9)])
def test_histograms_are_those_of_a_loop(size: tuple[int, int], cells: int) -> None:
    noise = np.random.default_rng(0).random((*size, 3))
    found = gradient_histograms(batch(noise, drawn(*size)), cells).numpy()
    assert found.shape == (2, 36 * (cells - 1) ** 2)
    np.testing.assert_allclose(found, [slow_histograms(each, cells) for each in (noise, drawn(*size))], atol=2e-6)


def test_histograms_are_those_of_scikit_image() -> None:
    # skimage.feature.hog(drawn(29, 37), 9, (7, 9), (2, 2), channel_axis=2) of version 0.26.0
    found = gradient_histograms(batch(drawn(29, 37)), cells=4)[0].double()
    assert len(found) == 324
    assert found.sum().item() == pytest.approx(28.447996687270454, rel=1e-6)
    assert (found * torch.arange(324)).sum().item() == pytest.approx(4602.198610539872, rel=1e-6)
    first = [0.11469978834865702, 0.1570575325203136, 0, 0, 0.04199851136060499, 0, 0.06252211085143101,
             0.37732259855215516, 0.16588924282753117]  # fmt: skip
    assert found[:9].tolist() == pytest.approx(first, abs=1e-6)


def test_a_constant_image_has_only_a_mean() -> None:
    image = torch.tensor([0.8, 0.3, 0.1]).view(1, 3, 1, 1).expand(2, 3, 20, 31)
    assert gradient_histograms(image).abs().max() == 0
    mean, deviation, skewness = color_moments(image, grid=2).view(2, 4, 3, 3).unbind(2)
    torch.testing.assert_close(mean, rgb_to_lab(image)[:, None, :, 0, 0].expand(2, 4, 3))
    assert deviation.max() < 1e-3  # of units of L, a and b
    assert skewness.abs().max() < 1e-3


def test_moments_are_those_of_scipy() -> None:
    lab = rgb_to_lab(batch(drawn(31, 47)))[0].permute(1, 2, 0).double().numpy()
    wanted = []
    for rows in (slice(0, 10), slice(10, 20), slice(20, 31)):  # what is left over belongs to the last
        for columns in (slice(0, 15), slice(15, 30), slice(30, 47)):
            field = lab[rows, columns].reshape(-1, 3)
            wanted += [field.mean(axis=0), field.std(axis=0), np.cbrt(moment(field, order=3))]
    np.testing.assert_allclose(color_moments(batch(drawn(31, 47)))[0], np.concatenate(wanted), rtol=1e-3, atol=1e-3)


def test_autocast_changes_nothing() -> None:
    image = batch(drawn(40, 40))
    for descriptor in (color_moments, gradient_histograms):
        alone = descriptor(image)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = descriptor(image)
        assert found.dtype == torch.float32
        assert torch.equal(found, alone)


def test_rejects_other_shapes() -> None:
    image = torch.zeros(1, 3, 16, 16)
    rejects(r"\(B, 3, H, W\).* got \(1, 1, 16, 16\) and 8", gradient_histograms, image[:, :1])
    rejects(r"got \(3, 16, 16\)", gradient_histograms, image[0])
    rejects(r"no more than pixels, got \(1, 3, 16, 7\)", gradient_histograms, image[..., :7])
    rejects("at least 2 cells", gradient_histograms, image, cells=1)
    rejects(r"got 3 and images of \(16, 2\)", color_moments, image[..., :2], 3)
    rejects("got 0 and", color_moments, image, 0)
    rejects("expected rgb", color_moments, image[:, :1], 3)
