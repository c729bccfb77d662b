import math

import pytest
import torch

from ops.color.hints import spread_rows
from ops.color.samples import (
    EVERYWHERE,
    LEVELS,
    LIGHT,
    REACH,
    SHARED,
    around,
    class_spread,
    fields,
    from_classes,
    normal_spread,
)

CENTERS = torch.tensor([[0.0, 0.0], [60.0, 0.0], [0.0, -40.0]])


def test_noise_is_normal_and_as_alike_as_near() -> None:
    noise = torch.stack([fields(seed, 4) for seed in range(150)]).flatten(0, 1)  # (600, levels, y, x)
    assert abs(float(noise.mean())) < 0.03
    assert float(noise.var(dim=0).sub(1).abs().mean()) < 0.06
    places = torch.linspace(0, 1, noise.shape[-1])
    for axis in (2, 3):
        along = noise.movedim(axis, 1)
        for node in (2, 6):
            near = float(torch.exp(-(places[node] / REACH).square() / 2))
            found = float((along[:, 0] * along[:, node]).mean())
            assert found == pytest.approx(EVERYWHERE + (1 - EVERYWHERE) * near, abs=0.06)
    for level in (2, 6):
        near = math.exp(-((2 * level / (LEVELS - 1) / LIGHT) ** 2) / 2)
        assert float((noise[:, 0] * noise[:, level]).mean()) == pytest.approx(near, abs=0.06)
    assert torch.equal(fields(7, 2), fields(7, 2))
    assert not torch.equal(fields(7, 2), fields(8, 2))


def test_colorings_around_an_estimate_have_its_mean_and_the_errors_covariance() -> None:
    luminance = torch.full((1, 8, 8), -1.0)
    luminance[:, :, 4:] = 1.0
    dark, bright = torch.tensor([[0.04, 0.03], [0.03, 0.09]]), torch.tensor([[0.01, 0.0], [0.0, 0.0]])
    covariance = torch.stack([dark, bright])
    chroma = torch.tensor([0.1, -0.2]).view(2, 1, 1).expand(2, 8, 8)
    drawn = torch.stack([around(chroma, luminance, covariance, seed) for seed in range(1000)])
    for column, wanted in ((0, dark), (7, bright)):
        values = drawn[:, :, 3, column]
        torch.testing.assert_close(values.mean(dim=0), chroma[:, 0, 0], atol=0.03, rtol=0)
        torch.testing.assert_close(torch.cov(values.T), SHARED * wanted, atol=0.008, rtol=0)
    spread = normal_spread(luminance, covariance)
    torch.testing.assert_close(spread[0, 0], torch.tensor([0.13, 0.01]).sqrt().repeat_interleave(4))


def test_every_pixel_follows_its_distribution_over_classes() -> None:
    shares = torch.tensor([[0.6, 0.3, 0.1], [0.1, 0.1, 0.8]])
    logits = shares.log().T.reshape(3, 1, 2).repeat(1, 6, 3)  # columns in turn
    luminance = torch.zeros(1, 6, 6)
    drawn = torch.stack([from_classes(logits, luminance, CENTERS, seed, temperature=1e-3) for seed in range(800)])
    for row, column in ((0, 0), (5, 1), (2, 4)):
        nearest = torch.cdist(drawn[:, :, row, column], CENTERS).argmin(dim=1)
        found = torch.bincount(nearest, minlength=3) / 800
        torch.testing.assert_close(found, shares[column % 2], atol=0.06, rtol=0)
    same = (drawn[..., 0] == drawn[..., 2]).all(dim=1).float().mean()
    assert same > 0.55, "near pixels of one distribution choose alike more often: 0.46 if they were independent"
    assert len(drawn[:, :, 0, 0].unique(dim=0)) >= 3


def test_spread_is_the_standard_deviation_of_the_classes() -> None:
    shares = torch.tensor([0.5, 0.3, 0.2])
    mean = shares @ CENTERS
    wanted = (shares * (CENTERS - mean).square().sum(dim=1)).sum().sqrt()
    found = class_spread(shares.log().view(3, 1, 1).expand(3, 2, 2), CENTERS)
    torch.testing.assert_close(found, wanted.expand(1, 2, 2))
    assert spread_rows(fields(0, 3), torch.zeros(1, 1, 2, 2), 0, 2).shape == (1, 3, 2, 2)
