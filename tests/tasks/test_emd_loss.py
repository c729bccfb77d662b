import math

import numpy as np
import pytest
import torch
from scipy.stats import wasserstein_distance
from torch import Tensor

from tasks.losses import earth_movers_distance, emd_loss
from tests.checks import rejects


def polls(pictures: int = 12, bins: int = 10) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(pictures, bins, generator=generator)
    return logits, torch.randint(0, 30, (pictures, bins), generator=generator).float()


def test_the_distance_by_hand() -> None:
    # cumulative shares .5, .5, 1, 1 and .25, .5, .75, 1: differences .25, 0, .25, 0
    probability, votes = torch.tensor([[0.5, 0, 0.5, 0]]), torch.tensor([[3.0, 3, 3, 3]])
    assert emd_loss(probability, votes).item() == pytest.approx(math.sqrt(2 * 0.25**2 / 4))
    assert emd_loss(probability, votes, r=1).item() == pytest.approx(2 * 0.25 / 4)
    # everything at the one end, everything at the other: all but the last differ by 1
    ends = torch.eye(10)[[0, 9]]
    assert earth_movers_distance(ends, ends.flip(0), r=1).tolist() == pytest.approx([0.9, 0.9])


@pytest.mark.parametrize("bins", [5, 10])
def test_with_r_1_it_is_scipys_distance_over_the_number_of_votes(bins: int) -> None:
    logits, votes = polls(bins=bins)
    probability = logits.double().softmax(dim=1)
    places = np.arange(bins)
    expected = [wasserstein_distance(places, places, p, v) / bins for p, v in zip(probability, votes, strict=True)]
    torch.testing.assert_close(earth_movers_distance(probability, votes, r=1).double(), torch.tensor(expected))


@pytest.mark.parametrize("r", [1, 1.5, 2, 3])
def test_the_loss_is_a_slow_loops_mean(r: float) -> None:
    logits, votes = polls()
    probability, total = logits.softmax(dim=1), 0.0
    for predicted, counts in zip(probability.tolist(), votes.tolist(), strict=True):
        powers = (abs(sum(predicted[: k + 1]) - sum(counts[: k + 1]) / sum(counts)) ** r for k in range(10))
        total += (sum(powers) / 10) ** (1 / r) / len(votes)
    assert emd_loss(probability, votes, r).item() == pytest.approx(total, abs=1e-6)


def test_counts_and_shares_are_the_same_votes() -> None:
    logits, votes = polls()
    probability = logits.softmax(dim=1)
    shares = votes / votes.sum(dim=1, keepdim=True)
    torch.testing.assert_close(emd_loss(probability, shares), emd_loss(probability, 7 * votes))


def test_mistaking_votes_for_their_neighbours_costs_less() -> None:
    votes = torch.eye(10)[[4] * 3]
    distances = earth_movers_distance(torch.eye(10)[[4, 5, 9]], votes)
    assert distances[0] == 0
    assert distances[1] < distances[2]


@pytest.mark.parametrize("r", [1, 2])
def test_a_prediction_that_is_the_truth_has_no_gradient_and_no_nan(r: float) -> None:
    votes = torch.tensor([[1.0, 2, 1, 0], [0, 0, 4, 0]])
    probability = torch.stack([votes[0] / 4, torch.tensor([0.0, 1, 0, 0])]).requires_grad_()
    (gradient,) = torch.autograd.grad(emd_loss(probability, votes, r), probability)
    assert (gradient[0] == 0).all()
    assert gradient[1].isfinite().all()
    assert gradient[1].abs().sum() > 0


def test_descending_finds_the_votes() -> None:
    logits, votes = polls(pictures=4)
    logits.requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.1)
    for _ in range(300):
        optimizer.zero_grad()
        emd_loss(logits.softmax(dim=1), votes).backward()
        optimizer.step()
    shares = votes / votes.sum(dim=1, keepdim=True)
    torch.testing.assert_close(logits.softmax(dim=1), shares, atol=0.03, rtol=0)


def test_it_is_reckoned_in_single_precision() -> None:
    logits, votes = polls()
    probability = logits.softmax(dim=1)
    with torch.autocast("cpu", torch.bfloat16):
        value = emd_loss(probability.bfloat16(), votes)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(emd_loss(probability.bfloat16().float(), votes).item(), abs=1e-7)


def test_shapes_and_powers_that_do_not_fit_are_refused() -> None:
    rejects(r"\(3, 2\) and votes are \(3, 10\)", emd_loss, torch.ones(3, 2), torch.ones(3, 10))
    for r in (0.5, math.inf):
        rejects(f"r is {r}; expected a number of at least 1", emd_loss, torch.ones(3, 10), torch.ones(3, 10), r)
