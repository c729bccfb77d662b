import numpy as np
import pytest
import torch
from torch import Tensor

from ops.color import bins as color_bins
from ops.color.bins import annealed_mean, bins, rebalancing, smoothed, soft_encoding
from ops.color.lab import rgb_to_lab
from tests.checks import rejects


def colours(side: int = 60) -> Tensor:
    """a and b of random sRGB colors, (2, 2, side, side)."""
    return rgb_to_lab(torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0)))[:, 1:]


def test_every_color_of_srgb_has_its_bin() -> None:
    centres = bins()
    assert centres.shape == (261, 2)
    assert (centres % 10 == 0).all()
    found = (colours(300) / 10).round().permute(0, 2, 3, 1).reshape(-1, 2).unique(dim=0) * 10
    known = set(map(tuple, centres.tolist()))
    assert len(known) == 261
    assert set(map(tuple, found.tolist())) <= known
    assert sorted(known) == list(map(tuple, centres.tolist()))


def test_bins_returns_a_copy() -> None:
    bins().zero_()
    assert bins().abs().max() == 110


@pytest.mark.parametrize(("neighbours", "sigma"), [(5, 5.0), (1, 5.0), (9, 2.0)])
def test_soft_labels_equal_a_sorted_list(neighbours: int, sigma: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(color_bins, "BLOCK", 100)
    centres, chroma = bins(), colours(12)
    indices, weights = soft_encoding(chroma, centres, neighbours, sigma)
    assert indices.shape == weights.shape == (2, neighbours, 12, 12)
    for pixel in [(0, 0, 0), (0, 11, 3), (1, 5, 5), (1, 11, 11)]:
        picture, row, column = pixel
        distances = np.linalg.norm(centres.double().numpy() - chroma[picture, :, row, column].double().numpy(), axis=1)
        order = np.argsort(distances)[:neighbours]
        gaussians = np.exp(-(distances[order] ** 2) / (2 * sigma**2))
        assert indices[picture, :, row, column].tolist() == order.tolist()
        np.testing.assert_allclose(weights[picture, :, row, column], gaussians / gaussians.sum(), atol=1e-5)


def test_a_color_far_from_all_bins_has_weights() -> None:
    _, weights = soft_encoding(torch.full((1, 2, 1, 1), 1000.0), bins())
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(1, 1, 1))


def test_a_smoothed_prior_keeps_its_sum_and_spreads() -> None:
    centres = torch.tensor([[0.0, 0], [10, 0], [0, 20]])
    found = smoothed(torch.tensor([4, 0, 0]), centres, sigma=5)
    kernel = np.exp([0, -100 / 50, -400 / 50])
    np.testing.assert_allclose(found, kernel / kernel.sum(), rtol=1e-5)
    counts = torch.randint(0, 1000, (261,), generator=torch.Generator().manual_seed(0))
    assert smoothed(counts, bins()).sum().item() == pytest.approx(1, abs=1e-5)


def test_rare_colors_weigh_more() -> None:
    # Shares .75 and .25, mixed with .5 each: .625 and .375; their inverses have the mean 1.2 + 2/3 under the prior.
    found = rebalancing(torch.tensor([30, 10]))
    np.testing.assert_allclose(found, np.array([1 / 0.625, 1 / 0.375]) / (1.2 + 2 / 3), rtol=1e-6)
    assert rebalancing(torch.tensor([1, 0, 7]), mix=1).tolist() == pytest.approx([1, 1, 1])
    prior = torch.rand(261, generator=torch.Generator().manual_seed(0))
    assert (rebalancing(prior) * prior / prior.sum()).sum().item() == pytest.approx(1, abs=1e-5)


def test_the_annealed_mean_lies_between_mean_and_mode() -> None:
    centres = torch.tensor([[10.0, 0], [-30, 20], [0, 50]])
    shares = torch.tensor([0.5, 0.3, 0.2])
    logits = shares.log().view(1, 3, 1, 1).expand(2, 3, 4, 5)

    def at(temperature: float) -> list[float]:
        found = annealed_mean(logits, centres, temperature)
        assert found.shape == (2, 2, 4, 5)
        return [float(each) for each in found[1, :, 3, 4]]

    assert at(1) == pytest.approx([5 - 9, 6 + 10], abs=1e-4)
    assert at(0.01) == pytest.approx([10, 0], abs=1e-4)
    sharp = np.array([0.5, 0.3, 0.2]) ** (1 / 0.38)
    assert at(0.38) == pytest.approx((sharp / sharp.sum() @ centres.numpy()).tolist(), abs=1e-4)


def test_the_annealed_mean_is_exact_under_autocast_and_of_half_precision() -> None:
    centres = bins()
    logits = torch.randn(2, 261, 6, 7, generator=torch.Generator().manual_seed(0)) * 3
    expected = annealed_mean(logits, centres)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(annealed_mean(logits, centres), expected, atol=1e-4, rtol=0)
        half = annealed_mean(logits.bfloat16(), centres)
    torch.testing.assert_close(half, annealed_mean(logits.bfloat16().float(), centres), atol=1e-4, rtol=0)


def test_rejects_wrong_arguments() -> None:
    centres = bins()
    rejects(r"expected chroma .* got \(1, 3, 4, 4\)", soft_encoding, torch.zeros(1, 3, 4, 4), centres)
    rejects(r"1 to 261 neighbors .* got 0", soft_encoding, torch.zeros(1, 2, 4, 4), centres, neighbours=0)
    rejects(r"each of 261 bins, got a prior of \(3,\)", smoothed, torch.ones(3), centres)
    for wrong in (torch.zeros(4), torch.tensor([1.0, -1, 3]), torch.tensor([1.0, float("nan")]), torch.ones(2, 2)):
        rejects("count the colors of training images first", rebalancing, wrong)
    rejects(r"expected a mix in \(0, 1\]", rebalancing, torch.ones(4), mix=0)
    rejects(r"temperature above 0, got .* and 0", annealed_mean, torch.zeros(1, 261, 2, 2), centres, temperature=0)
