import time
from itertools import product

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from ops.masks.regions import without_small_regions
from tasks.decision import MINIMUM_AREAS, PRESENCES, THRESHOLDS, Decision, ThresholdSearch
from tasks.metrics.dice import DiceScores
from tests.checks import rejects


def blobs(images: int, classes: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Smooth probabilities with speckles, low where the truth is empty, and truths of a like shape."""
    generator = np.random.default_rng(0)
    shape = (images * classes, height, width)
    smooth, other = (
        np.stack([cv2.GaussianBlur(field, (0, 0), height / 14) for field in fields]) * height / 4
        for fields in generator.standard_normal((2, *shape), dtype=np.float32)
    )
    present = generator.random((len(smooth), 1, 1)) > 0.5
    log_odds = 2 * smooth + 0.5 * generator.standard_normal(shape) - np.where(present, 0, 3)
    probability = torch.from_numpy(log_odds.astype(np.float32)).sigmoid()
    target = torch.from_numpy((smooth + other / 2 > 0) & present)
    return probability.view(images, classes, height, width), target.view(images, classes, height, width)


def kept_by_scipy(probability: NDArray[np.float32], threshold: float, minimum_area: float) -> NDArray[np.bool_]:
    labels, count = ndimage.label(probability >= np.float32(threshold), structure=np.ones((3, 3)))
    mask = np.zeros(labels.shape, bool)
    for label in range(1, count + 1):
        region = labels == label
        mask |= region & (region.sum() / region.size >= minimum_area)
    return mask


def dice_loop(masks: list[NDArray[np.bool_]], truths: NDArray[np.bool_]) -> float:
    pairs = [(np.sum(p & y), p.sum() + y.sum()) for p, y in zip(masks, truths, strict=True)]
    return float(np.mean([2 * overlap / marked if marked else 1.0 for overlap, marked in pairs]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_best_cells_are_those_of_a_loop(dtype: torch.dtype) -> None:
    thresholds, areas = (0.5, 0.2, 0.35, 0.8, 0.95), (0, 0.02, 0.08, 0.15, 0.3)
    probability, target = blobs(8, 3, 28, 40)
    probability = probability.to(dtype)
    search = ThresholdSearch(["a", "b", "c"], thresholds, areas)
    for batch in (slice(0, 5), slice(5, 8)):
        search.update(probability[batch], target[batch].to(dtype))
    found = {name: value.tolist() for name, value in search.compute().items()}
    maps, truths = probability.float().numpy(), target.numpy()
    for k in range(3):
        table = {
            cell: dice_loop([kept_by_scipy(picture[k], *cell) for picture in maps], truths[:, k])
            for cell in product(thresholds, areas)
        }
        best = (found["thresholds"][k], found["minimum_areas"][k])
        assert found["dice"][k] == pytest.approx(max(table.values()), abs=1e-6)
        assert best == pytest.approx(max(table, key=table.__getitem__))
        assert found["dice_at_half"][k] == pytest.approx(table[0.5, 0], abs=1e-6)
    assert all(0 < area < 0.3 for area in found["minimum_areas"])  # not won by the edge of the grid


def test_cells_of_the_default_grid_equal_dice_of_their_masks() -> None:
    probability, target = blobs(4, 2, 60, 80)
    search = ThresholdSearch(["a", "b"])
    search.update(probability, target)
    cells = list(product(search.thresholds, search.minimum_areas))
    assert sorted(cells) == sorted(product(THRESHOLDS, MINIMUM_AREAS))
    assert len(cells) == 19 * 7
    dices = search.dice_sum.flatten(1) / search.dice_sum.new_tensor(4 * 2**30)
    for index, (threshold, area) in list(enumerate(cells))[::5]:
        masks = [without_small_regions(maps.numpy() >= threshold, [area, area]) for maps in probability]
        scores = DiceScores(["a", "b"])
        scores.update(torch.from_numpy(np.stack(masks)), target)
        expected = scores.compute()
        torch.testing.assert_close(dices[:, index], torch.stack([expected["dice_a"], expected["dice_b"]]))


def test_a_small_false_region_is_dropped_by_area() -> None:
    probability, target = torch.zeros(1, 1, 20, 20), torch.zeros(1, 1, 20, 20)
    target[..., :10] = 1
    probability[..., :10] = 0.9
    probability[..., 5, 12:16] = 0.9  # 4 of 400 pixels: a hundredth
    probability[..., 6, 16] = 0.9  # touches them at a corner, so 5
    search = ThresholdSearch(["sky"], (0.5,), (0, 0.01, 0.0125, 0.02))
    search.update(probability, target)
    found = search.compute()
    assert found["minimum_areas"].item() == pytest.approx(0.02)
    assert found["dice"].item() == 1
    assert found["dice_at_half"].item() == pytest.approx(400 / 405)


@pytest.mark.parametrize(
    ("probability", "expected"), [(0.0, (0.5, 0.0)), (0.5, (0.5, 0.0)), (0.44, (0.4, 0.0)), (0.01, (0.5, 0.0))]
)
def test_ties_go_to_the_cell_nearest_the_default(probability: float, expected: tuple[float, float]) -> None:
    search = ThresholdSearch(["sky"])
    search.update(torch.full((2, 1, 10, 10), probability), torch.full((2, 1, 10, 10), probability > 0.1))
    found = search.compute()
    assert (found["thresholds"].item(), found["minimum_areas"].item()) == pytest.approx(expected)
    assert found["dice"].item() == 1


def test_of_equally_near_thresholds_the_lower_wins() -> None:
    probability, target = torch.tensor([[0.47, 0.52], [1.0, 0.0]]).view(2, 2, 1, 1, 1).expand(2, 2, 1, 10, 10)
    search = ThresholdSearch(["sky"])
    search.update(probability, target)
    assert search.compute()["thresholds"].item() == pytest.approx(0.45)  # as good as 0.55


def test_caution_keeps_the_default_unless_the_gain_is_clear() -> None:
    probability, target = torch.full((4, 2, 10, 10), 0.6), torch.ones(4, 2, 10, 10)
    lacking = np.array([(30, 0), (50, 0), (40, 90), (40, 2)])  # pixels that only 0.3 marks, by image and class
    for maps, counts in zip(probability, lacking, strict=True):
        for values, count in zip(maps, counts, strict=True):
            values.view(-1)[:count] = 0.4
    gains = 1 - 2 * (100 - lacking[:, 1]) / (200 - lacking[:, 1])
    ratio = gains.mean() / (gains.std(ddof=1) / 2)  # in standard errors
    for caution, expected in ((0.0, [0.3, 0.3]), (ratio * 0.99, [0.3, 0.3]), (ratio * 1.01, [0.3, 0.5])):
        search = ThresholdSearch(["steady", "chance"], (0.5, 0.3), (0.0,), caution=caution)
        search.update(probability, target)
        assert search.compute()["thresholds"].tolist() == pytest.approx(expected)
    alone = ThresholdSearch(["steady", "chance"], (0.5, 0.3), (0.0,), caution=0.1)
    alone.update(probability[2:3], target[2:3])
    assert alone.compute()["thresholds"].tolist() == [0.5, 0.5], "one image has no standard error"
    rejects("caution is -1", ThresholdSearch, ["sky"], caution=-1)


def test_a_full_size_image_in_half_precision() -> None:
    full = torch.ones(1, 1, 1400, 2100, dtype=torch.float16)
    half = full.clone()
    half[..., :1050] = 0
    search = ThresholdSearch(["sky"], (0.5,), (0, 0.02))
    search.update(half, full)
    assert search.compute()["dice"].item() == pytest.approx(2 / 3)


def test_reset_and_merged_states_start_over_and_add_up() -> None:
    probability, target = blobs(6, 2, 20, 30)
    whole, first, second = (ThresholdSearch(["a", "b"]) for _ in range(3))
    first.update(probability, target)
    first.reset()
    whole.update(probability, target)
    first.update(probability[:4], target[:4])
    second.update(probability[4:], target[4:])
    assert torch.equal(first.dice_sum + second.dice_sum, whole.dice_sum)
    assert first.images + second.images == whole.images == 6


def test_rejects_wrong_arguments() -> None:
    rejects(r"\[0\.3\].* expected 0\.5", ThresholdSearch, ["sky"], thresholds=(0.3,))
    rejects(r"minimum_areas \[0\.1\].* 0 among the areas", ThresholdSearch, ["sky"], minimum_areas=(0.1,))
    rejects(
        r"\(1, 2, 4, 4\).*\(B, 1, H, W\)",
        ThresholdSearch(["sky"]).update,
        torch.zeros(1, 2, 4, 4),
        torch.zeros(1, 2, 4, 4),
    )


@pytest.mark.slow
def test_a_hundred_images_take_less_than_a_minute() -> None:
    probability, target = blobs(10, 4, 350, 525)
    search = ThresholdSearch(["a", "b", "c", "d"])
    start = time.perf_counter()
    search.update(probability, target)
    assert 10 * (time.perf_counter() - start) < 60


def test_presence_thresholds_are_searched_together_with_the_others() -> None:
    probability, target = blobs(9, 2, 28, 40)
    target[::3, 0] = 0
    generator = np.random.default_rng(0)
    presence = torch.from_numpy(generator.random((9, 2))).float()
    presence[::3, 0] *= 0.3  # most images without the first class have a low probability of it
    thresholds, areas = (0.5, 0.35), (0.0, 0.05)
    search = ThresholdSearch(["a", "b"], thresholds, areas, presence=True)
    for batch in (slice(0, 4), slice(4, 9)):
        search.update(probability[batch], target[batch], presence=presence[batch])
    found = search.compute()
    for k in range(2):
        table = {}
        for cell in product(thresholds, areas, PRESENCES):
            masks = [
                kept_by_scipy(maps[k], *cell[:2]) & bool(present[k] >= torch.tensor(cell[2]))
                for maps, present in zip(probability.numpy(), presence, strict=True)
            ]
            table[cell] = dice_loop(masks, target.numpy()[:, k])
        names = ("thresholds", "minimum_areas", "presence_thresholds")
        assert found["dice"][k].item() == pytest.approx(max(table.values()), abs=1e-6)
        assert [found[name][k].item() for name in names] == pytest.approx(max(table, key=table.__getitem__))
    assert found["presence_thresholds"][0] > 0
    decision = Decision(2, presence=True)
    decision.presence_thresholds.copy_(torch.tensor([0.5, 0.0]))
    gated = decision.gated(probability, presence)
    assert torch.equal(gated[:, 1], probability[:, 1])
    assert torch.equal(gated[:, 0], probability[:, 0] * (presence[:, 0] >= 0.5)[:, None, None])
    decision.reset()
    assert torch.equal(decision.gated(probability, presence), probability)
