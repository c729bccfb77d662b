from collections.abc import Callable
from typing import get_args

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from ops.statistics import selection
from ops.statistics.selection import By, Covered, chosen, entropy

RNG = np.random.default_rng(0)
VECTORS = (RNG.normal(size=(60, 7)) * [1, 5, 0.1, 2, 1, 3, 0] + 4).astype(np.float32)  # the last value is constant
UNSURE = RNG.random(60)
STANDARD = (VECTORS - VECTORS.mean(axis=0))[:, :6] / VECTORS.std(axis=0)[:6] / np.sqrt(6)
DISTANCES = cdist(STANDARD, STANDARD)
LABELED = [3, 17, 40]


def suggested(by: By, count: int, labeled: list[int], **options: object) -> list[tuple[int, float, int]]:
    covered = Covered(VECTORS)
    covered.cover(labeled)
    candidates = ~np.isin(np.arange(60), labeled)
    found = chosen(by, UNSURE, covered, candidates, **options)  # type: ignore[arg-type]  # by name
    return [each for each, _ in zip(found, range(count), strict=False)]


def slowly(value: Callable[[int, list[int]], float], count: int) -> list[int]:
    """The best image by a function of it and of all covered ones, again and again."""
    covered = list(LABELED)
    for _ in range(count):
        covered.append(max((row for row in range(60) if row not in covered), key=lambda row: value(row, covered)))
    return covered[len(LABELED) :]


def gain(row: int, covered: list[int], weights: np.ndarray) -> float:
    pool = [each for each in range(60) if each not in LABELED]
    before = DISTANCES[pool][:, covered].min(axis=1)
    return float(((before - np.minimum(before, DISTANCES[pool, row])) * weights[pool]).sum())


@pytest.mark.parametrize(
    ("by", "value"),
    [
        ("uncertainty", lambda row, covered: UNSURE[row]),
        ("diversity", lambda row, covered: DISTANCES[row, covered].min()),
        ("product", lambda row, covered: UNSURE[row] * DISTANCES[row, covered].min()),
        ("coverage", lambda row, covered: gain(row, covered, np.ones(60))),
        ("unsure_coverage", lambda row, covered: gain(row, covered, UNSURE)),
        (
            "alternate",
            lambda row, covered: UNSURE[row] if len(covered) % 2 == 1 else gain(row, covered, np.ones(60)),
        ),
    ],
)
def test_images_are_chosen_as_by_a_slow_loop(
    by: By, value: Callable[[int, list[int]], float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selection, "BLOCK", 13)  # several blocks, the last of another size
    found = suggested(by, 8, LABELED)
    assert [row for row, *_ in found] == slowly(value, 8)
    covered = list(LABELED)
    for row, distance, center in found:
        assert distance == pytest.approx(DISTANCES[row, covered].min(), abs=1e-4)
        assert center == covered[DISTANCES[row, covered].argmin()]
        covered.append(row)


@pytest.mark.parametrize("by", get_args(By))
def test_every_image_comes_once_and_rejected_ones_do_not_come(by: By) -> None:
    assert sorted(row for row, *_ in suggested(by, 99, [])) == list(range(60))
    even = suggested(by, 99, LABELED, accept=lambda row: row % 2 == 0)
    assert sorted(row for row, *_ in even) == [row for row in range(0, 60, 2) if row not in LABELED]


def test_the_first_image_without_any_label() -> None:
    (row, distance, center), *_ = suggested("product", 1, [])
    assert (row, distance, center) == (int(UNSURE.argmax()), np.inf, -1)
    (row, *_), *_ = suggested("diversity", 1, [])
    assert DISTANCES[row].mean() < np.median(DISTANCES.mean(axis=1))  # a typical one, no outlier


def test_random_images_follow_the_seed() -> None:
    assert suggested("random", 5, LABELED, seed=1) == suggested("random", 5, LABELED, seed=1)
    assert suggested("random", 5, LABELED, seed=1) != suggested("random", 5, LABELED, seed=2)


def test_a_large_pool_is_covered_by_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "SAMPLE", 20)
    rows = [row for row, *_ in suggested("coverage", 10, LABELED)]
    assert len({*rows} - {*LABELED}) == 10


def test_entropy_by_hand() -> None:
    found = entropy(torch.tensor([0.5, 0.25, 0.0, 1.0]))
    torch.testing.assert_close(found, torch.tensor([1.0, 0.811278, 0.0, 0.0]), atol=1e-4, rtol=0)
