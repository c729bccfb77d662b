import numpy as np
import pytest
import torch
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.functional.classification import (
    binary_accuracy,
    binary_f1_score,
    binary_jaccard_index,
    binary_precision,
    binary_recall,
    binary_specificity,
)

from tasks.metrics.dice import DiceScores
from tasks.metrics.pixels import PixelScores
from tests.checks import rejects

NAMES = ("f_measure", "precision", "recall", "specificity", "accuracy", "iou")
LIBRARY = dict(zip(NAMES, (binary_f1_score, binary_precision, binary_recall, binary_specificity, binary_accuracy,
                           binary_jaccard_index), strict=True))  # fmt: skip


def random_masks(images: int = 6) -> tuple[Tensor, Tensor]:
    """Predictions and truths (images, 1, 9, 7) that agree in three pixels of four."""
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(images, 1, 9, 7, generator=generator) > 0.7
    return target ^ (torch.rand(target.shape, generator=generator) > 0.75), target


def scored(*batches: tuple[Tensor, Tensor]) -> PixelScores:
    metric = PixelScores()
    for prediction, target in batches:
        metric.update(prediction, target)
    return metric


def numbers(metric: PixelScores) -> dict[str, float]:
    scores = metric.compute()
    assert all(score.shape == () and score.dtype == torch.float32 for score in scores.values())
    return {name: score.item() for name, score in scores.items()}


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float32, torch.float16, torch.bfloat16])
def test_scores_are_those_of_torchmetrics(dtype: torch.dtype) -> None:
    prediction, target = random_masks()
    batches = ((prediction[part].to(dtype), target[part].to(dtype)) for part in (slice(0, 4), slice(4, 6)))
    expected = {name: score(prediction.int(), target.int()).item() for name, score in LIBRARY.items()}
    assert numbers(scored(*batches)) == pytest.approx(expected, abs=1e-7)


def test_scores_are_those_of_a_loop() -> None:
    prediction, target = random_masks()
    counts = {(p, y): 0 for p in (False, True) for y in (False, True)}
    for pair in zip(prediction.flatten().tolist(), target.flatten().tolist(), strict=True):
        counts[pair] += 1
    tn, fn, fp, tp = counts.values()
    precision, recall = tp / (tp + fp), tp / (tp + fn)
    expected = {"precision": precision, "recall": recall, "f_measure": 2 * precision * recall / (precision + recall),
                "specificity": tn / (tn + fp), "accuracy": (tp + tn) / sum(counts.values()),
                "iou": tp / (tp + fp + fn)}  # fmt: skip
    assert numbers(scored((prediction, target))) == pytest.approx(expected, abs=1e-7)


def test_scores_by_hand() -> None:
    target = torch.tensor([1, 1, 1, 0, 0, 0, 0, 0]).view(1, 1, 2, 4)
    prediction = torch.tensor([1, 1, 0, 1, 1, 0, 0, 0]).view(1, 1, 2, 4)
    expected = {"precision": 1 / 2, "recall": 2 / 3, "f_measure": 4 / 7, "specificity": 3 / 5, "accuracy": 5 / 8,
                "iou": 2 / 5}  # fmt: skip
    assert numbers(scored((prediction, target))) == pytest.approx(expected, abs=1e-7)


def test_f_measure_is_the_pooled_dice_and_tells_the_iou() -> None:
    prediction, target = random_masks()
    dice = DiceScores(["road"])
    dice.update(prediction, target)
    scores = numbers(scored((prediction, target)))
    assert scores["f_measure"] == pytest.approx(dice.compute()["dice_global"].item(), abs=1e-7)
    assert scores["iou"] == pytest.approx(scores["f_measure"] / (2 - scores["f_measure"]), abs=1e-7)


@pytest.mark.parametrize(
    ("marked", "true", "ones"),
    [
        (False, False, {"specificity", "accuracy"}),
        (True, True, {"f_measure", "precision", "recall", "accuracy", "iou"}),
        (False, True, set()),
        (True, False, set()),
    ],
)
def test_a_score_without_a_denominator_is_zero(marked: bool, true: bool, ones: set[str]) -> None:
    shape = (2, 1, 3, 5)
    scores = numbers(scored((torch.full(shape, marked), torch.full(shape, true))))
    assert scores == {name: float(name in ones) for name in NAMES}


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_without_a_picture_every_score_is_zero() -> None:
    assert numbers(PixelScores()) == dict.fromkeys(NAMES, 0.0)


def test_one_pixel_in_millions_is_seen() -> None:
    full = torch.ones(1, 1, 4100, 4100, dtype=torch.bool)  # more than 2²⁴ pixels
    part = full.clone()
    part[..., 0, 0] = False
    expected = np.float32((full.numel() - 1) / full.numel())
    assert numbers(scored((part, full)))["recall"] == expected < 1


def test_billions_of_pixels_are_counted() -> None:
    metric = scored((torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 2, 2)))
    metric.true_positives += 2**40
    metric.false_negatives += 2**40 + 2**17
    scores = numbers(metric)
    assert scores["recall"] == np.float32(2**40 / (2**41 + 2**17)) < 0.5
    assert scores["precision"] == np.float32(2**40 / (2**40 + 4))


def test_two_processes_score_as_one() -> None:
    prediction, target = random_masks(images=33)
    first, second = (scored((prediction[part], target[part])) for part in (slice(0, 17), slice(17, 33)))
    first.merge_state(second)  # adds the states, as between processes
    assert numbers(first) == numbers(scored((prediction, target)))


def test_training_in_bfloat16_leaves_the_scores_exact() -> None:
    prediction, target = random_masks(images=40)
    metric = PixelScores().to(torch.bfloat16)
    torch.set_default_dtype(torch.bfloat16)
    try:
        metric.update(prediction, target)
        scores = numbers(metric)
    finally:
        torch.set_default_dtype(torch.float32)
    assert scores == numbers(scored((prediction, target)))


def test_a_task_has_dice_and_pixel_scores_side_by_side_and_none_twice() -> None:
    prediction, target = random_masks()
    metrics = {"dice": DiceScores(["road"], pooled=False), "pixels": PixelScores()}
    collection = MetricCollection(metrics, compute_groups=False)
    collection.update(prediction=prediction, target=target, probability=prediction.float())
    assert sorted(collection.compute()) == sorted(["dice", "dice_positive", *NAMES])
    collection.reset()
    collection.update(prediction=target, target=target)
    assert collection.compute()["accuracy"] == 1


@pytest.mark.parametrize("target", [(2, 2, 8, 8), (2, 8, 8), (2, 1, 8, 9)])
def test_shapes_that_do_not_belong_together_are_refused(target: tuple[int, ...]) -> None:
    rejects(r"prediction is .*\(B, 1, H, W\)", PixelScores().update, torch.zeros(2, 1, 8, 8), torch.zeros(target))
    rejects(r"one shape \(B, 1, H, W\)", PixelScores().update, torch.zeros(2, 2, 8, 8), torch.zeros(2, 2, 8, 8))


def test_only_the_scores_asked_for() -> None:
    prediction, target = random_masks()
    metric = PixelScores(["iou", "balanced_accuracy"])
    metric.update(prediction, target)
    expected = (binary_recall(prediction.int(), target.int()) + binary_specificity(prediction.int(), target.int())) / 2
    found = numbers(metric)
    assert list(found) == ["iou", "balanced_accuracy"]
    assert found["balanced_accuracy"] == pytest.approx(expected.item(), abs=1e-7)
