from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import MultilabelAveragePrecision

from tasks.metrics.dice import DiceScores, MeanLoss, PixelAveragePrecision, scattered
from tests.checks import rejects
from tests.tasks.metrics.helpers import by_processes, numbers

CLASSES = ["Fish", "Flower", "Gravel", "Sugar"]
DTYPES = [torch.bool, torch.uint8, torch.float32, torch.float16, torch.bfloat16]


def random_masks(images: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Predictions and truths (images, 4, 9, 7): overlapping, and with one, the other or both empty."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.rand(2, images, 4, 9, 7, generator=generator) > 0.6
    masks &= torch.rand(2, images, 4, 1, 1, generator=generator) > 0.4
    prediction, target = masks
    assert (~prediction.any(-1).any(-1) & ~target.any(-1).any(-1)).any()
    return prediction, target


def random_probabilities(images: int = 6, deviation: float = 2.0, size: int = 30) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(images, 4, size, size, generator=generator) > 0.8
    log_odds = torch.randn(target.shape, generator=generator) + 1.5 * target - 0.5
    return (deviation * log_odds).sigmoid(), target


def dice_loop(prediction: Tensor, target: Tensor) -> dict[str, float]:
    every, positive, by_class, overlap, marked = [], [], {name: [] for name in CLASSES}, 0, 0
    for predicted_maps, true_maps in zip(prediction.numpy(), target.numpy(), strict=True):
        for name, p, y in zip(CLASSES, predicted_maps, true_maps, strict=True):
            dice = 2 * np.sum(p & y) / (p.sum() + y.sum()) if p.any() or y.any() else 1.0
            every.append(dice)
            by_class[name].append(dice)
            positive += [dice] if y.any() else []
            overlap, marked = overlap + np.sum(p & y), marked + p.sum() + y.sum()
    scores = {"dice": np.mean(every), "dice_positive": np.mean(positive), "dice_global": 2 * overlap / marked}
    return scores | {f"dice_{name.lower()}": np.mean(by_class[name]) for name in CLASSES}


@pytest.mark.parametrize("dtype", DTYPES)
def test_dice_scores_are_those_of_a_loop(dtype: torch.dtype) -> None:
    prediction, target = random_masks()
    metric = DiceScores(CLASSES)
    for batch in (slice(0, 4), slice(4, 6)):
        metric.update(prediction[batch].to(dtype), target[batch].to(dtype))
    assert numbers(metric.compute()) == pytest.approx(dice_loop(prediction, target), abs=1e-7)


def test_dice_by_hand() -> None:
    target = torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]).view(3, 1, 2, 2)
    prediction = torch.tensor([[1, 0, 1, 1], [0, 0, 0, 0], [0, 0, 0, 1]]).view(3, 1, 2, 2)
    metric = DiceScores(["sky"])
    metric.update(prediction, target)
    expected = {"dice": (0.4 + 1 + 0) / 3, "dice_positive": 0.4, "dice_global": 2 / 6}
    assert numbers(metric.compute()) == pytest.approx(expected, abs=1e-7)


def test_dice_of_empty_masks() -> None:
    metric = DiceScores(["sky"])
    metric.update(torch.zeros(2, 1, 4, 4), torch.zeros(2, 1, 4, 4))
    assert numbers(metric.compute()) == {"dice": 1, "dice_positive": 0, "dice_global": 1}


@pytest.mark.parametrize("dtype", DTYPES)
def test_dice_counts_every_pixel_of_a_full_size_image(dtype: torch.dtype) -> None:
    full = torch.ones(1, 1, 1400, 2100, dtype=dtype)
    part = full.clone()
    part[..., :1000] = 0
    metric = DiceScores(["sky"])
    metric.update(full, full)
    metric.update(part, full)
    dice = (1 + 2 * 1100 / 3200) / 2
    expected = {"dice": dice, "dice_positive": dice, "dice_global": 2 * 3200 / 7400}
    assert numbers(metric.compute()) == pytest.approx(expected, abs=1e-7)


@pytest.mark.filterwarnings("ignore:No positive samples")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_average_precision_is_that_of_torchmetrics(dtype: torch.dtype) -> None:
    probability, target = random_probabilities()
    probability = ((probability * 100).round() / 100).to(dtype)  # every value has a bin of its own
    assert {0, 1} <= set(probability.unique().tolist())
    target[:, 2] = False
    metric = PixelAveragePrecision(CLASSES)
    for batch in (slice(0, 4), slice(4, 6)):
        metric.update(probability[batch], target[batch].to(dtype))
    by_class = MultilabelAveragePrecision(4, average="none")(probability.float(), target.long()).tolist()
    by_class[2] = 0.0
    expected = {f"auprc_{name.lower()}": score for name, score in zip(CLASSES, by_class, strict=True)}
    expected["auprc"] = sum(by_class) / 3
    assert numbers(metric.compute()) == pytest.approx(expected, abs=1e-6)


def test_average_precision_by_hand() -> None:
    metric = PixelAveragePrecision(["sky"])
    metric.update(torch.tensor([0.9, 0.8, 0.7, 0.2]).view(1, 1, 2, 2), torch.tensor([1, 0, 1, 0]).view(1, 1, 2, 2))
    assert numbers(metric.compute()) == pytest.approx({"auprc": 1 / 2 * 1 + 1 / 2 * 2 / 3})


@pytest.mark.parametrize("deviation", [1.0, 3.0, 10.0])
def test_bins_cost_less_than_a_thousandth(deviation: float) -> None:
    probability, target = random_probabilities(deviation=deviation, size=100)
    metric = PixelAveragePrecision(CLASSES)
    metric.update(probability, target)
    exact = MultilabelAveragePrecision(4)(probability, target.long()).item()
    assert metric.compute()["auprc"].item() == pytest.approx(exact, abs=1e-3)


def test_average_precision_without_true_pixels_and_with_nan() -> None:
    metric = PixelAveragePrecision(["sky"])
    metric.update(torch.full((1, 1, 2, 2), torch.nan), torch.zeros(1, 1, 2, 2))
    assert numbers(metric.compute()) == {"auprc": 0}
    metric.update(torch.ones(1, 1, 2, 2), torch.ones(1, 1, 2, 2))
    assert numbers(metric.compute()) == {"auprc": 1}


def test_average_precision_counts_every_pixel_of_a_full_size_image() -> None:
    half = torch.ones(1, 1, 1400, 2100, dtype=torch.float16)
    half[..., :1050] = 0
    metric = PixelAveragePrecision(["sky"])
    metric.update(torch.ones_like(half), half)
    assert numbers(metric.compute()) == {"auprc": 0.5}


def test_scattered_equals_bincount() -> None:
    numbers = torch.randint(0, 40, (5000,), dtype=torch.int32, generator=torch.Generator().manual_seed(0))
    numbers = numbers[numbers % 7 > 0]
    assert torch.equal(scattered(numbers, 50), torch.bincount(numbers, minlength=50))
    assert torch.equal(scattered(numbers[:0], 3), torch.zeros(3, dtype=torch.int64))


def test_the_mean_loss_is_that_of_torchmetrics_and_hides_no_nan() -> None:
    ours, theirs = MeanLoss(), MeanMetric()
    for value, pictures in ((0.5, 4), (0.25, 3), (2.0, 1)):
        ours.update(torch.tensor(value), pictures)
        theirs.update(torch.tensor(value), weight=pictures)
    assert ours.compute() == theirs.compute() == (2 + 0.75 + 2) / 8
    ours.update(torch.tensor(torch.nan), 1)
    assert ours.compute().isnan()


@pytest.mark.parametrize("compute_groups", [False, True])
def test_metrics_share_a_collection(compute_groups: bool) -> None:
    prediction, target = random_masks()
    metrics = {"dice": DiceScores(CLASSES), "auprc": PixelAveragePrecision(CLASSES)}
    collection = MetricCollection(metrics, compute_groups=compute_groups)
    results = []
    for _ in range(2):
        collection.update(prediction=prediction, target=target, probability=prediction.float())
        results.append(numbers(collection.compute()))
        collection.reset()
    assert results[0] == results[1]
    names = ["dice", "dice_positive", "dice_global", "auprc"]
    names += [f"{score}_{name.lower()}" for score in ("dice", "auprc") for name in CLASSES]
    assert sorted(results[0]) == sorted(names)


def test_training_in_bfloat16_leaves_the_metrics_exact() -> None:
    prediction, target = random_masks(images=40)
    metric = DiceScores(CLASSES).to(torch.bfloat16)
    torch.set_default_dtype(torch.bfloat16)
    try:
        metric.update(prediction, target)
        scores = numbers(metric.compute())
    finally:
        torch.set_default_dtype(torch.float32)
    assert scores == pytest.approx(dice_loop(prediction, target), abs=1e-7)


def test_rejects_wrong_shapes_and_ambiguous_names() -> None:
    for shapes in [((2, 4, 8, 8), (2, 4, 8, 9)), ((2, 1, 8, 8), (2, 1, 8, 8)), ((4, 8, 8), (4, 8, 8))]:
        pair = [torch.zeros(shape) for shape in shapes]
        rejects(r"prediction is .*\(B, 4, H, W\)", DiceScores(CLASSES).update, *pair)
        rejects(r"probability is \(", PixelAveragePrecision(CLASSES).update, *pair)
    rejects("metric called dice_positive", DiceScores, ["positive", "negative"])
    rejects("metric called dice_snow", DiceScores, ["Snow", "snow"])


def collected(batches: list[slice]) -> dict[str, Tensor]:
    prediction, target = random_masks(images=33)
    probability = torch.rand(target.shape, generator=torch.Generator().manual_seed(0))
    collection = MetricCollection([DiceScores(CLASSES), PixelAveragePrecision(CLASSES)], compute_groups=False)
    for batch in batches:
        collection.update(prediction=prediction[batch], target=target[batch], probability=probability[batch])
    return collection.compute()


@pytest.mark.slow
def test_two_processes_score_as_one(tmp_path: Path) -> None:
    alone = numbers(collected([slice(0, 33)]))
    shares = [[slice(0, 17)], [slice(17, 30), slice(30, 33)]]
    assert by_processes(collected, shares, tmp_path / "processes") == [alone, alone]
