import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.distance import cdist

from tasks.metrics.pixels import BoundaryDistance, _distances, hausdorff95
from tests.checks import rejects

Mask = NDArray[np.bool_]
DTYPES = [torch.bool, torch.uint8, torch.float32, torch.bfloat16]


def random_masks(count: int = 6, size: tuple[int, int] = (40, 30)) -> tuple[Mask, Mask]:
    """Pairs (count, H, W) of blobs, some of them cut by the picture's edges."""
    noise = np.random.default_rng(0).standard_normal((2, count, *size))
    predictions, truths = ndimage.gaussian_filter(noise, (0, 0, 3, 3)) > 0.05
    return predictions, truths


def brute_force(mask: Mask, other: Mask) -> float:
    """All distances between all pixels of the two outlines."""
    points, others = (np.argwhere(pixels ^ ndimage.binary_erosion(pixels)) for pixels in (mask, other))
    distances = cdist(points, others)
    return float(max(np.percentile(distances.min(axis=1), 95), np.percentile(distances.min(axis=0), 95)))


def test_distance_is_that_of_all_pairs() -> None:
    for prediction, truth in zip(*random_masks(20), strict=True):
        assert hausdorff95(prediction, truth) == pytest.approx(brute_force(prediction, truth), rel=1e-6)
        assert hausdorff95(prediction, truth) == hausdorff95(truth, prediction) > 0
        assert hausdorff95(truth, truth) == 0


def test_distances_are_exact_wherever_the_mask_lies_in_memory() -> None:
    used = cv2.ipp.useIPP()
    outline = random_masks(1, (100, 110))[1][0]
    expected = ndimage.distance_transform_edt(~outline).astype(np.float32)
    memory = np.zeros(outline.size + 64, dtype=bool)
    for offset in range(64):
        placed = memory[offset : offset + outline.size].reshape(outline.shape)
        placed[:] = outline
        assert np.array_equal(_distances(placed), expected)
    assert cv2.ipp.useIPP() == used


def test_masks_that_fill_little_of_a_picture() -> None:
    mask, other = np.zeros((2, 70, 90), dtype=bool)
    mask[20:40, 30:60], mask[25:30, 40:44] = True, False
    other[23:45, 31:50] = True
    assert hausdorff95(mask, other) == pytest.approx(brute_force(mask, other), rel=1e-6)
    mask[:], other[:] = False, False
    mask[3, 4], other[6, 8] = True, True
    assert hausdorff95(mask, other) == 5


def test_one_side_may_be_far_from_the_other() -> None:
    square, both = np.zeros((2, 20, 60), dtype=bool)
    square[2:12, 2:12] = True  # 36 outline pixels
    both[2:12, 2:12], both[2:12, 42:52] = True, True
    # From the square nothing is far; from the pair, the second square's outline is half of the pixels.
    assert hausdorff95(square, both) == pytest.approx(brute_force(square, both)) == pytest.approx(40)


def test_a_few_strays_do_not_count() -> None:
    line = np.zeros((50, 100), dtype=bool)
    line[10] = True
    stray = line.copy()
    stray[49, 50:54] = True
    assert hausdorff95(line, stray) == 0
    stray[49, 50:56] = True  # 6 of 106: the percentile lies three quarters of the way from number 99 to 100, a stray
    assert hausdorff95(line, stray) == pytest.approx(0.75 * 39)


def test_the_pictures_edge_is_part_of_an_outline() -> None:
    full = np.ones((30, 40), dtype=bool)
    inner = np.zeros_like(full)
    inner[3:-3, 3:-3] = True
    assert 3 <= hausdorff95(full, inner) <= 3 * 2**0.5


def test_empty_masks() -> None:
    empty = np.zeros((30, 40), dtype=bool)
    mask = empty.copy()
    mask[5, 5] = True
    assert hausdorff95(empty, empty) == 0
    assert hausdorff95(empty, mask) == hausdorff95(mask, empty) == 50


@pytest.mark.parametrize("dtype", DTYPES)
def test_metric_is_the_mean_over_pictures(dtype: torch.dtype) -> None:
    predictions, truths = random_masks()
    truths[2] = False
    expected = [brute_force(*pair) for pair in zip(predictions, truths, strict=True) if pair[1].any()] + [50]
    prediction, target = (torch.from_numpy(masks).unsqueeze(1).to(dtype) for masks in (predictions, truths))
    metric = BoundaryDistance()
    for batch in (slice(0, 4), slice(4, 6)):
        metric.update(prediction[batch], target[batch])
    scores = metric.compute()
    assert list(scores) == ["hausdorff95"]
    assert (scores["hausdorff95"].shape, scores["hausdorff95"].dtype) == ((), torch.float32)
    assert scores["hausdorff95"].item() == pytest.approx(np.mean(expected), rel=1e-6)


def test_the_order_of_pictures_and_bfloat16_change_nothing() -> None:
    prediction, target = (torch.from_numpy(masks).unsqueeze(1) for masks in random_masks(30))
    forth, back = BoundaryDistance(), BoundaryDistance().to(torch.bfloat16)
    forth.update(prediction, target)
    for index in reversed(range(30)):
        back.update(prediction[index : index + 1], target[index : index + 1])
    assert back.compute()["hausdorff95"] == forth.compute()["hausdorff95"] > 0


def test_metric_without_pictures_and_after_reset() -> None:
    metric = BoundaryDistance()
    metric.update(torch.zeros(1, 1, 3, 4), torch.ones(1, 1, 3, 4))
    assert metric.compute()["hausdorff95"] == 5
    metric.reset()
    metric.update(torch.zeros(0, 1, 3, 4), torch.zeros(0, 1, 3, 4))
    assert metric.compute()["hausdorff95"] == 0


def test_shapes_that_do_not_belong_together_are_refused() -> None:
    rejects(r"\(3, 4\) and \(4, 3\)", hausdorff95, np.zeros((3, 4), dtype=bool), np.zeros((4, 3), dtype=bool))
    rejects(
        r"\(2, 2, 3, 4\) .*\(B, 1, H, W\)", BoundaryDistance().update, torch.zeros(2, 2, 3, 4), torch.zeros(2, 2, 3, 4)
    )
