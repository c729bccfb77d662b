from itertools import product

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torchmetrics import Metric

from ops.geo.apls import path_similarity
from ops.geo.centerlines import center_lines
from tasks.metrics.topology import PathSimilarity, RelaxedScores
from tests.checks import rejects
from tests.tasks.metrics import helpers


def streets(lost: bool, shift: int = 0) -> NDArray[np.bool_]:
    """Two streets that cross, one of them cut off if it is lost."""
    canvas = np.zeros((150, 200), np.uint8)
    cv2.line(canvas, (0, 70 + shift), (199, 70 + shift), 1, 9)
    cv2.line(canvas, (90 + shift, 0), (90 + shift, 40 if lost else 149), 1, 9)
    return canvas.astype(bool)


def masks(*arrays: NDArray[np.bool_]) -> Tensor:
    return torch.from_numpy(np.stack(arrays)[:, None])


def numbers(metric: Metric) -> dict[str, float]:
    return helpers.numbers(metric.compute())


@pytest.mark.parametrize("buffer", [0, 1, 3, 4.5])
def test_relaxed_scores_are_those_of_a_dilated_mask(buffer: float) -> None:
    rng = np.random.default_rng(0)
    predicted, true = rng.random((2, 3, 40, 50)) < 0.004
    offsets = range(-5, 6)
    disk = np.array([y * y + x * x <= buffer * buffer for y, x in product(offsets, offsets)]).reshape(11, 11)
    hits, found = np.zeros(2), np.zeros(2)
    for one, other in zip(predicted, true, strict=True):
        for place, (mask, thick) in enumerate([(one, other), (other, one)]):
            hits[place] += (mask & ndimage.binary_dilation(thick, disk)).sum()
            found[place] += mask.sum()
    metric = RelaxedScores(buffer)
    metric.update(masks(*predicted[:2]), masks(*true[:2]))
    metric.update(masks(predicted[2]), masks(true[2]))
    precision, recall = hits / found
    assert numbers(metric) == pytest.approx(
        {"relaxed_precision": precision, "relaxed_recall": recall,
         "relaxed_f1": 2 * precision * recall / max(precision + recall, 1e-9)}, abs=1e-6)  # fmt: skip


def test_relaxed_scores_forgive_a_shift_and_ignore_what_is_unknown() -> None:
    metric = RelaxedScores(3)
    metric.update(masks(streets(False, shift=3)), masks(streets(False)))
    assert numbers(metric)["relaxed_f1"] == pytest.approx(1, abs=0.01)
    metric = RelaxedScores(3)
    known = torch.ones(1, 1, 150, 200, dtype=torch.bool)
    known[..., 40:, :] = False
    metric.update(masks(streets(lost=True)), masks(streets(lost=False)), known)
    assert set(numbers(metric).values()) == {1.0}
    assert set(numbers(RelaxedScores()).values()) == {0.0}
    rejects(r"\(3, 150, 200\)", metric.update, masks(streets(True))[0].repeat(3, 1, 1), masks(streets(False)))


def test_routes_are_those_of_the_center_lines() -> None:
    true, lost, shifted = streets(False), streets(lost=True), streets(False, shift=2)
    metric = PathSimilarity()
    metric.update(masks(true, true), masks(true, np.zeros_like(true)))  # an image without road does not count
    assert numbers(metric) == {"apls": pytest.approx(1)}
    metric.update(masks(lost, shifted), masks(true, true))
    expected = [path_similarity(center_lines(true), center_lines(mask)) for mask in (true, lost, shifted)]
    assert numbers(metric) == {"apls": pytest.approx(np.mean(expected), abs=1e-6)}
    assert expected[1] < 0.6 < 0.9 < expected[2]


def test_lengths_are_in_meters() -> None:
    true, shifted = streets(False), streets(False, shift=6)
    found = []
    for pixel_size in (1.0, 0.5):  # 6 pixels are more than APLS's 4 m, then less
        metric = PathSimilarity(pixel_size)
        metric.update(masks(shifted), masks(true))
        found.append(numbers(metric)["apls"])
    assert found[0] < 0.2 < 0.8 < found[1]
