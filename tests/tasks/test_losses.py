import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tasks.losses import bce_dice_loss, bins_loss, chroma_loss, squared_dice_loss
from tests.checks import rejects

Loss = Callable[..., Tensor]
LOSSES: list[Loss] = [squared_dice_loss, bce_dice_loss]


def random_batch(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(3, 2, 6, 8, generator=generator)
    return logits, (torch.rand(3, 2, 6, 8, generator=generator) > 0.6).float()


def gradient(loss: Tensor, logits: Tensor) -> Tensor:
    return torch.autograd.grad(loss, logits)[0]


@pytest.mark.parametrize(("smooth", "expected"), [(0.0, 1 - 2 / 3), (1.0, 1 - 3 / 4)])
def test_dice_by_hand(smooth: float, expected: float) -> None:
    # probabilities .5 on four pixels, two of them true: overlap 1, squares 4 x .25 + 2 = 3
    target = torch.tensor([1.0, 1.0, 0.0, 0.0]).view(1, 1, 2, 2)
    assert squared_dice_loss(torch.zeros(1, 1, 2, 2), target, smooth=smooth).item() == pytest.approx(expected)


def test_bce_dice_by_hand() -> None:
    target = torch.tensor([1.0, 1.0, 0.0, 0.0]).view(1, 1, 2, 2)
    assert bce_dice_loss(torch.zeros(1, 1, 2, 2), target).item() == pytest.approx(math.log(2) + 0.25)


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


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", [torch.bool, torch.float32])
def test_valid_is_as_good_as_cutting_the_picture(loss: Loss, dtype: torch.dtype) -> None:
    logits, target = random_batch()
    valid = torch.zeros(3, 1, 6, 8, dtype=dtype)
    valid[..., :5] = 1
    cut = loss(logits[..., :5], target[..., :5])
    torch.testing.assert_close(loss(logits, target, valid), cut)
    target[..., 5:] = 1 - target[..., 5:]
    torch.testing.assert_close(loss(logits, target, valid), cut)


@pytest.mark.parametrize("loss", LOSSES)
def test_pictures_weigh_the_same_however_many_pixels_are_valid(loss: Loss) -> None:
    logits, target = random_batch()
    valid = torch.ones(3, 1, 6, 8)
    valid[1, :, :, 1:] = 0
    singles = [loss(logits[i : i + 1], target[i : i + 1], valid[i : i + 1]).item() for i in range(3)]
    assert loss(logits, target, valid).item() == pytest.approx(np.mean(singles), abs=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("blank", [[1], [0, 1, 2]])
def test_pictures_without_a_valid_pixel_cost_nothing(loss: Loss, blank: list[int]) -> None:
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
def test_good_prediction_costs_less_than_bad(loss: Loss) -> None:
    _, target = random_batch()
    good, unsure, bad = (loss(scale * (target - 0.5), target).item() for scale in (20, 0, -20))
    assert good < unsure < bad
    assert good < 0.01


def test_false_positives_on_an_empty_truth_cost_something() -> None:
    smp_losses = pytest.importorskip("segmentation_models_pytorch.losses")
    logits, target = torch.zeros(2, 2, 8, 8, requires_grad=True), torch.zeros(2, 2, 8, 8)

    library = smp_losses.DiceLoss(mode="multilabel")(logits, target)
    assert library.item() == 0
    assert (gradient(library, logits) == 0).all()

    ours = squared_dice_loss(logits, target)
    slope = gradient(ours, logits)
    assert ours.item() == pytest.approx(1 - 1 / (64 * 0.25 + 1))
    assert (slope > 0).all()
    assert squared_dice_loss(logits - slope, target) < ours


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_full_size_pictures_in_half_precision(loss: Loss, dtype: torch.dtype) -> None:
    target = torch.ones(1, 1, 1400, 2100, dtype=dtype)
    assert loss(torch.full_like(target, 30), target).item() == pytest.approx(0, abs=1e-5)
    wrong = torch.full_like(target, -30).requires_grad_()
    value = loss(wrong, target)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(1 if loss is squared_dice_loss else 31, abs=1e-4)
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


@pytest.mark.parametrize("loss", LOSSES)
def test_shapes_that_do_not_belong_together_are_refused(loss: Loss) -> None:
    logits, target = random_batch()
    rejects(r"logits .*\(3, 2, 6, 8\) .*\(3, 1, 6, 8\)", loss, logits, target[:, :1])
    rejects(r"valid is \(3, 6, 8\); expected \(3, 1, 6, 8\)", loss, logits, target, torch.ones(3, 6, 8))


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
def test_color_losses_leave_padding_out(kind: str) -> None:
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


def test_color_shapes_that_do_not_belong_together_are_refused() -> None:
    logits, indices, shares, class_weights = random_labels()
    prediction, target = random_chroma()
    rejects(r"prediction .*\(3, 1, 6, 8\).*a and b", chroma_loss, prediction, target[:, :1])
    rejects(r"valid is \(3, 6, 8\); expected \(3, 1, 6, 8\)", chroma_loss, prediction, target, torch.ones(3, 6, 8))
    rejects(r"indices \(3, 3, 6, 7\)", bins_loss, logits, indices[..., 1:], shares[..., 1:])
    rejects(r"class_weights are \(6,\) for 7 bins", bins_loss, logits, indices, shares, class_weights[1:])
