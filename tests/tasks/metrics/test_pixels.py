import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.distance import cdist
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.functional.classification import (
    binary_accuracy,
    binary_f1_score,
    binary_jaccard_index,
    binary_precision,
    binary_recall,
    binary_specificity,
)

from tasks.metrics.dice import DiceScores
from tasks.metrics.pixels import BoundaryDistance, PixelScores, hausdorff95
from tests.checks import rejects
from tests.tasks.metrics import helpers

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


def numbers(metric: Metric) -> dict[str, float]:
    return helpers.numbers(metric.compute())


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float32, torch.float16, torch.bfloat16])
def test_scores_are_those_of_torchmetrics(dtype: torch.dtype) -> None:
    prediction, target = random_masks()
    batches = ((prediction[part].to(dtype), target[part].to(dtype)) for part in (slice(0, 4), slice(4, 6)))
    expected = {name: score(prediction.int(), target.int()).item() for name, score in LIBRARY.items()}
    assert numbers(scored(*batches)) == pytest.approx(expected, abs=1e-7)


def test_scores_by_hand() -> None:
    target = torch.tensor([1, 1, 1, 0, 0, 0, 0, 0]).view(1, 1, 2, 4)
    prediction = torch.tensor([1, 1, 0, 1, 1, 0, 0, 0]).view(1, 1, 2, 4)
    expected = {"precision": 1 / 2, "recall": 2 / 3, "f_measure": 4 / 7, "specificity": 3 / 5, "accuracy": 5 / 8,
                "iou": 2 / 5}  # fmt: skip
    assert numbers(scored((prediction, target))) == pytest.approx(expected, abs=1e-7)


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
def test_scores_without_images_are_zero() -> None:
    assert numbers(PixelScores()) == dict.fromkeys(NAMES, 0.0)


def test_one_pixel_in_millions_counts() -> None:
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


def test_merged_states_score_as_one() -> None:
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


def test_dice_and_pixel_scores_share_a_collection() -> None:
    prediction, target = random_masks()
    metrics = {"dice": DiceScores(["road"], pooled=False), "pixels": PixelScores()}
    collection = MetricCollection(metrics, compute_groups=False)
    collection.update(prediction=prediction, target=target, probability=prediction.float())
    assert sorted(collection.compute()) == sorted(["dice", "dice_positive", *NAMES])
    collection.reset()
    collection.update(prediction=target, target=target)
    assert collection.compute()["accuracy"] == 1


def test_computes_only_requested_scores() -> None:
    prediction, target = random_masks()
    metric = PixelScores(["iou", "balanced_accuracy"])
    metric.update(prediction, target)
    expected = (binary_recall(prediction.int(), target.int()) + binary_specificity(prediction.int(), target.int())) / 2
    found = numbers(metric)
    assert list(found) == ["iou", "balanced_accuracy"]
    assert found["balanced_accuracy"] == pytest.approx(expected.item(), abs=1e-7)


Mask = NDArray[np.bool_]


def random_blobs(count: int = 6, size: tuple[int, int] = (40, 30)) -> tuple[Mask, Mask]:
    """Pairs (count, H, W) of blobs, some of them cut by the image's edges."""
    noise = np.random.default_rng(0).standard_normal((2, count, *size))
    predictions, truths = ndimage.gaussian_filter(noise, (0, 0, 3, 3)) > 0.05
    return predictions, truths


def brute_force(mask: Mask, other: Mask) -> float:
    """All distances between all pixels of the two outlines."""
    points, others = (np.argwhere(pixels ^ ndimage.binary_erosion(pixels)) for pixels in (mask, other))
    distances = cdist(points, others)
    return float(max(np.percentile(distances.min(axis=1), 95), np.percentile(distances.min(axis=0), 95)))


def test_hausdorff_distance_is_that_of_all_pairs() -> None:
    for prediction, truth in zip(*random_blobs(20), strict=True):
        assert hausdorff95(prediction, truth) == pytest.approx(brute_force(prediction, truth), rel=1e-6)
        assert hausdorff95(prediction, truth) == hausdorff95(truth, prediction) > 0
        assert hausdorff95(truth, truth) == 0


def test_hausdorff_distance_of_small_masks() -> None:
    mask, other = np.zeros((2, 70, 90), dtype=bool)
    mask[20:40, 30:60], mask[25:30, 40:44] = True, False
    other[23:45, 31:50] = True
    assert hausdorff95(mask, other) == pytest.approx(brute_force(mask, other), rel=1e-6)
    mask[:], other[:] = False, False
    assert hausdorff95(mask, mask) == 0
    mask[3, 4] = True
    assert hausdorff95(other, mask) == hausdorff95(mask, other) == pytest.approx(math.hypot(70, 90))
    other[6, 8] = True
    assert hausdorff95(mask, other) == 5


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float32, torch.bfloat16])
def test_boundary_distance_is_the_mean_over_images(dtype: torch.dtype) -> None:
    predictions, truths = random_blobs()
    truths[2] = False
    expected = [brute_force(*pair) for pair in zip(predictions, truths, strict=True) if pair[1].any()] + [50]
    prediction, target = (torch.from_numpy(masks).unsqueeze(1).to(dtype) for masks in (predictions, truths))
    metric = BoundaryDistance().to(torch.bfloat16)
    metric.update(prediction[:0], target[:0])
    assert numbers(metric) == {"hausdorff95": 0}
    metric.reset()
    for batch in (slice(4, 6), slice(0, 4)):
        metric.update(prediction[batch], target[batch])
    assert numbers(metric) == {"hausdorff95": pytest.approx(np.mean(expected), rel=1e-6)}


def test_rejects_wrong_shapes() -> None:
    pair = torch.zeros(2, 2, 8, 8), torch.zeros(2, 2, 8, 8)
    for target in [(2, 2, 8, 8), (2, 8, 8), (2, 1, 8, 9)]:
        rejects(r"prediction is .*\(B, 1, H, W\)", PixelScores().update, torch.zeros(2, 1, 8, 8), torch.zeros(target))
    rejects(r"one shape \(B, 1, H, W\)", PixelScores().update, *pair)
    rejects(r"\(2, 2, 8, 8\) .*\(B, 1, H, W\)", BoundaryDistance().update, *pair)
    rejects(r"\(3, 4\) and \(4, 3\)", hausdorff95, np.zeros((3, 4), dtype=bool), np.zeros((4, 3), dtype=bool))
