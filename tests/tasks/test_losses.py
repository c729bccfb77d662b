import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import wasserstein_distance
from torch import Tensor

from tasks.losses import (
    bce_dice_loss,
    bce_loss,
    bce_lovasz_loss,
    bins_loss,
    chroma_loss,
    earth_movers_distance,
    emd_loss,
    focal_dice_loss,
    focal_loss,
    lovasz_loss,
    squared_dice_loss,
)
from tests.checks import rejects

Loss = Callable[..., Tensor]
LOSSES: list[Loss] = [squared_dice_loss, bce_dice_loss, focal_dice_loss, lovasz_loss, bce_lovasz_loss]

WORST = {
    squared_dice_loss: 1,
    bce_dice_loss: 31,
    focal_dice_loss: 31,
    lovasz_loss: 31,
    bce_lovasz_loss: 61,
}  # at a logit of -30


def random_batch(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(3, 2, 6, 8, generator=generator)
    return logits, (torch.rand(3, 2, 6, 8, generator=generator) > 0.6).float()


def gradient(loss: Tensor, logits: Tensor) -> Tensor:
    return torch.autograd.grad(loss, logits)[0]


@pytest.mark.parametrize(
    ("true", "smooth", "expected"), [(2, 0.0, 1 - 2 / 3), (2, 1.0, 1 - 3 / 4), (0, 1.0, 1 - 1 / 2), (0, 0.0, 1)]
)
def test_dice_by_hand(true: int, smooth: float, expected: float) -> None:
    # probabilities .5 on four pixels, two or none of them true: overlap 1 or 0, squares 4 x .25 + 2 or 0
    target = (torch.arange(4.0) < true).float().view(1, 1, 2, 2)
    logits = torch.zeros(1, 1, 2, 2, requires_grad=True)
    loss = squared_dice_loss(logits, target, smooth=smooth)
    assert loss.item() == pytest.approx(expected)
    if smooth:
        assert bce_dice_loss(logits, target).item() == pytest.approx(math.log(2) + expected)
        assert (gradient(loss, logits)[target == 0] > 0).all(), "false positives on an empty truth cost something"


def test_loss_is_the_mean_of_a_loop_over_pairs() -> None:
    logits, target = random_batch()
    target = 0.7 * target + 0.1  # squares are seen in soft truths only
    probability, truth = torch.sigmoid(logits.double()).numpy(), target.double().numpy()
    dice = []
    for image in range(3):
        for k in range(2):
            p, y = probability[image, k], truth[image, k]
            dice.append((2 * np.sum(y * p) + 1) / (np.sum(p**2) + np.sum(y**2) + 1))
    entropy = -np.mean(truth * np.log(probability) + (1 - truth) * np.log(1 - probability))
    assert squared_dice_loss(logits, target).item() == pytest.approx(1 - np.mean(dice), abs=1e-6)
    assert bce_dice_loss(logits, target).item() == pytest.approx(entropy + 1 - np.mean(dice), abs=1e-6)


def test_focal_and_lovasz_equal_those_of_segmentation_models_pytorch() -> None:
    from segmentation_models_pytorch.losses import FocalLoss, LovaszLoss

    logits, target = random_batch()
    expected = FocalLoss("multilabel", gamma=2.0)(logits, target)
    assert focal_loss(logits, target).item() == pytest.approx(expected.item(), rel=1e-5)
    assert focal_loss(logits, target, gamma=0).item() == pytest.approx(bce_loss(logits, target).item(), rel=1e-5)
    pairs = [
        LovaszLoss("binary")(a[None], b[None]) for a, b in zip(logits.flatten(0, 1), target.flatten(0, 1), strict=True)
    ]
    assert lovasz_loss(logits, target).item() == pytest.approx(torch.stack(pairs).mean().item(), rel=1e-5)
    perfect = 10 * (2 * target - 1)
    assert lovasz_loss(perfect, target).item() == 0
    assert lovasz_loss(-perfect, target).item() > 10


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", [torch.bool, torch.float32])
def test_valid_equals_cropping_the_image(loss: Loss, dtype: torch.dtype) -> None:
    logits, target = random_batch()
    valid = torch.zeros(3, 1, 6, 8, dtype=dtype)
    valid[..., :5] = 1
    cut = loss(logits[..., :5], target[..., :5])
    torch.testing.assert_close(loss(logits, target, valid), cut)
    target[..., 5:] = 1 - target[..., 5:]
    torch.testing.assert_close(loss(logits, target, valid), cut)


@pytest.mark.parametrize("loss", LOSSES)
def test_images_weigh_the_same_whatever_their_valid_pixels(loss: Loss) -> None:
    logits, target = random_batch()
    valid = torch.ones(3, 1, 6, 8)
    valid[1, :, :, 1:] = 0
    singles = [loss(logits[i : i + 1], target[i : i + 1], valid[i : i + 1]).item() for i in range(3)]
    assert loss(logits, target, valid).item() == pytest.approx(np.mean(singles), abs=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("blank", [[1], [0, 1, 2]])
def test_images_without_valid_pixels_cost_nothing(loss: Loss, blank: list[int]) -> None:
    logits, target = random_batch()
    logits.requires_grad_()
    valid = torch.ones(3, 1, 6, 8)
    valid[blank] = 0
    value = loss(logits, target, valid)
    slope = gradient(value, logits)
    assert value.isfinite()
    assert slope.isfinite().all()
    assert (slope[blank] == 0).all()
    if len(blank) == 3:
        assert value.item() == 0


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_full_size_images_in_half_precision(loss: Loss, dtype: torch.dtype) -> None:
    target = torch.ones(1, 1, 1400, 2100, dtype=dtype)
    assert loss(torch.full_like(target, 30), target).item() == pytest.approx(0, abs=1e-5)
    wrong = torch.full_like(target, -30).requires_grad_()
    value = loss(wrong, target)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(WORST[loss], abs=1e-4)
    assert gradient(value, wrong).isfinite().all()


@pytest.mark.parametrize("loss", LOSSES)
def test_extreme_logits_have_a_finite_gradient(loss: Loss) -> None:
    _, target = random_batch()
    logits = torch.linspace(-65504, 65504, target.numel()).view(target.shape).requires_grad_()
    value = loss(logits, target)
    assert value.isfinite()
    assert gradient(value, logits).isfinite().all()


@pytest.mark.parametrize("loss", LOSSES)
def test_autocast_changes_nothing(loss: Loss) -> None:
    logits, target = random_batch()
    with torch.autocast("cpu", torch.bfloat16):
        inside = loss(logits, target)
    assert torch.equal(inside, loss(logits, target))


def test_rejects_wrong_shapes_and_powers() -> None:
    (logits, target), three = random_batch(), torch.ones(3, 6, 8)
    for loss in LOSSES:
        rejects(r"logits .*\(3, 2, 6, 8\) .*\(3, 1, 6, 8\)", loss, logits, target[:, :1])
        rejects(r"valid is \(3, 6, 8\); expected \(3, 1, 6, 8\)", loss, logits, target, three)
    prediction, target = random_chroma()
    rejects(r"prediction .*\(3, 1, 6, 8\).*a and b", chroma_loss, prediction, target[:, :1])
    rejects(r"valid is \(3, 6, 8\); expected \(3, 1, 6, 8\)", chroma_loss, prediction, target, three)
    logits, indices, shares, class_weights = random_labels()
    rejects(r"indices \(3, 3, 6, 7\)", bins_loss, logits, indices[..., 1:], shares[..., 1:])
    rejects(r"class_weights are \(6,\) for 7 bins", bins_loss, logits, indices, shares, class_weights[1:])
    rejects(r"\(3, 2\) and votes are \(3, 10\)", emd_loss, torch.ones(3, 2), torch.ones(3, 10))
    for r in (0.5, math.inf):
        rejects(f"r is {r}", emd_loss, torch.ones(3, 10), torch.ones(3, 10), r)


def random_chroma(seed: int = 0) -> tuple[Tensor, Tensor]:
    first, second = 2 * torch.rand(2, 3, 2, 6, 8, generator=torch.Generator().manual_seed(seed)) - 1
    return first, second


def random_labels(bins: int = 7) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits, indices and shares of three bins a pixel, and weights of the bins."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(3, bins, 6, 8, generator=generator)
    indices = torch.rand(logits.shape, generator=generator).argsort(dim=1)[:, :3]
    shares = torch.rand(indices.shape, generator=generator)
    return logits, indices, shares / shares.sum(dim=1, keepdim=True), 0.1 + torch.rand(bins, generator=generator)


def test_chroma_loss_is_half_of_pytorchs_squared_error_of_both_channels() -> None:
    prediction, target = random_chroma()
    expected = torch.nn.functional.mse_loss(prediction, target)  # over 2 H W: the half is in it
    torch.testing.assert_close(chroma_loss(prediction, target), expected)
    # by hand: both channels of one pixel of four wrong by 1, over 2 x 4
    wrong = torch.zeros(1, 2, 2, 2)
    wrong[..., 0, 0] = 1
    assert chroma_loss(wrong, torch.zeros(1, 2, 2, 2)).item() == pytest.approx(2 / 8)


def test_bins_loss_is_that_of_a_loop() -> None:
    logits, indices, shares, class_weights = random_labels()
    likelihood = np.log(torch.softmax(logits.double(), dim=1).numpy())
    entropies = []
    for image, row, column in np.ndindex(3, 6, 8):
        bins, label = indices[image, :, row, column].tolist(), shares[image, :, row, column].tolist()
        entropy = -sum(share * likelihood[image, k, row, column] for k, share in zip(bins, label, strict=True))
        entropies.append(class_weights[bins[int(np.argmax(label))]].item() * entropy)
    assert bins_loss(logits, indices, shares, class_weights).item() == pytest.approx(np.mean(entropies), rel=1e-5)


def test_bins_loss_is_pytorchs_cross_entropy_where_no_bin_weighs_more() -> None:
    logits, indices, shares, _ = random_labels()
    soft = torch.zeros_like(logits).scatter(1, indices, shares)
    torch.testing.assert_close(bins_loss(logits, indices, shares), torch.nn.functional.cross_entropy(logits, soft))


@pytest.mark.parametrize("kind", ["chroma", "bins"])
def test_color_losses_ignore_padding(kind: str) -> None:
    logits, *label = random_labels()
    prediction, target = random_chroma()
    valid = torch.zeros(3, 1, 6, 8, dtype=torch.bool)
    valid[0], valid[1, ..., :3], valid[2, :, :4] = True, True, True

    def loss(pictures: slice, cut: Any, valid: Tensor | None = None) -> float:
        if kind == "chroma":
            return chroma_loss(prediction[pictures][cut], target[pictures][cut], valid).item()
        indices, shares = (each[pictures][cut] for each in label[:2])
        return bins_loss(logits[pictures][cut], indices, shares, label[2], valid).item()

    every = (slice(None),)
    cuts = [every, (..., slice(3)), (..., slice(4), slice(None))]
    singles = [loss(slice(i, i + 1), cut) for i, cut in enumerate(cuts)]
    assert loss(slice(3), every, valid) == pytest.approx(np.mean(singles), rel=1e-5)
    assert loss(slice(3), every, valid.float()) == pytest.approx(np.mean(singles), rel=1e-5)
    assert loss(slice(3), every, torch.zeros_like(valid)) == 0


def test_color_losses_are_single_precision_and_have_finite_gradients() -> None:
    logits, indices, shares, class_weights = random_labels()
    prediction, target = random_chroma()
    extreme = (20000 * logits).clamp(-65504, 65504).half().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        value = bins_loss(extreme, indices, shares, class_weights)
        chroma = chroma_loss(prediction, target)
    assert value.dtype == chroma.dtype == torch.float32
    assert value.isfinite()
    assert gradient(value, extreme).isfinite().all()
    assert torch.equal(chroma, chroma_loss(prediction, target))


def polls(pictures: int = 12, bins: int = 10) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(pictures, bins, generator=generator)
    return logits, torch.randint(0, 30, (pictures, bins), generator=generator).float()


def test_emd_by_hand() -> None:
    # cumulative shares .5, .5, 1, 1 and .25, .5, .75, 1: differences .25, 0, .25, 0
    probability, votes = torch.tensor([[0.5, 0, 0.5, 0]]), torch.tensor([[3.0, 3, 3, 3]])
    assert emd_loss(probability, votes).item() == pytest.approx(math.sqrt(2 * 0.25**2 / 4))
    assert emd_loss(probability, votes, r=1).item() == pytest.approx(2 * 0.25 / 4)
    # everything at the one end, everything at the other: all but the last differ by 1
    ends = torch.eye(10)[[0, 9]]
    assert earth_movers_distance(ends, ends.flip(0), r=1).tolist() == pytest.approx([0.9, 0.9])


@pytest.mark.parametrize("bins", [5, 10])
def test_emd_with_r_1_is_scipys_distance_over_the_number_of_bins(bins: int) -> None:
    logits, votes = polls(bins=bins)
    probability = logits.double().softmax(dim=1)
    places = np.arange(bins)
    expected = [wasserstein_distance(places, places, p, v) / bins for p, v in zip(probability, votes, strict=True)]
    torch.testing.assert_close(earth_movers_distance(probability, votes, r=1).double(), torch.tensor(expected))


@pytest.mark.parametrize("r", [1, 1.5, 2, 3])
def test_emd_loss_is_a_slow_loops_mean(r: float) -> None:
    logits, votes = polls()
    probability, total = logits.softmax(dim=1), 0.0
    for predicted, counts in zip(probability.tolist(), votes.tolist(), strict=True):
        powers = (abs(sum(predicted[: k + 1]) - sum(counts[: k + 1]) / sum(counts)) ** r for k in range(10))
        total += (sum(powers) / 10) ** (1 / r) / len(votes)
    assert emd_loss(probability, votes, r).item() == pytest.approx(total, abs=1e-6)


def test_emd_loss_takes_counts_or_shares() -> None:
    logits, votes = polls()
    probability = logits.softmax(dim=1)
    shares = votes / votes.sum(dim=1, keepdim=True)
    torch.testing.assert_close(emd_loss(probability, shares), emd_loss(probability, 7 * votes))


@pytest.mark.parametrize("r", [1, 2])
def test_emd_loss_at_the_truth_has_a_finite_gradient(r: float) -> None:
    votes = torch.tensor([[1.0, 2, 1, 0], [0, 0, 4, 0]])
    probability = torch.stack([votes[0] / 4, torch.tensor([0.0, 1, 0, 0])]).requires_grad_()
    (gradient,) = torch.autograd.grad(emd_loss(probability, votes, r), probability)
    assert (gradient[0] == 0).all()
    assert gradient[1].isfinite().all()
    assert gradient[1].abs().sum() > 0


def test_emd_loss_is_in_single_precision() -> None:
    logits, votes = polls()
    probability = logits.softmax(dim=1)
    with torch.autocast("cpu", torch.bfloat16):
        value = emd_loss(probability.bfloat16(), votes)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(emd_loss(probability.bfloat16().float(), votes).item(), abs=1e-7)
