import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from belvedere.folds.doubts import best_shift, doubts, reduced

COUNT = 30


def blob(seed: int) -> np.ndarray:
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=(96, 128)), 12)
    inner = np.zeros((96, 128))
    inner[20:-20, 25:-25] = 1
    return ((noise > np.quantile(noise, 0.6)) & (inner > 0)).astype(np.float32)[None]


def test_planted_faults_are_listed_first_with_their_kind() -> None:
    truth = [blob(seed) for seed in range(COUNT)]
    rng = np.random.default_rng(0)
    found = [np.clip(gaussian_filter(each, (0, 1.5, 1.5)) + rng.normal(0, 0.05, each.shape), 0, 1) for each in truth]
    found[25] = np.full_like(found[25], 0.05)  # the network knows no such image: that is no fault of the label
    labels = list(truth)
    labels[3], labels[8] = truth[8], truth[3]
    labels[12] = np.roll(truth[12], (12, -16), (1, 2))
    labels[20] = np.zeros_like(truth[20])
    small, guesses = [reduced(each) for each in labels], [reduced(each) for each in found]
    gaps = [
        0.95 - 2 * (one * two).sum() / max(one.sum() + two.sum(), 1) for one, two in zip(small, guesses, strict=True)
    ]
    listed = doubts([str(row) for row in range(COUNT)], small, guesses, gaps)
    hints = {each.name: each.hint for each in listed}
    assert {each.name for each in listed[:3]} == {"3", "8", "12"}
    assert gaps[25] > min(gaps[row] for row in (3, 8, 12))
    assert [each.name for each in listed[3:5]] == ["20", "25"]
    assert (hints["3"], hints["8"]) == ("swapped with 8?", "swapped with 3?")
    assert hints["12"] == "fits better moved by +12% of the width and -12% of the height"
    assert hints["20"] == "nothing is labeled"
    assert all(each.hint == "" for each in listed[4:])


def test_a_swap_is_named_although_a_third_image_fits_better() -> None:
    """By both labels of the pair fitting each other's image."""
    left, right, lower = (np.zeros((1, 64, 64), np.float32) for _ in range(3))
    left[0, 20:44, 2:16], right[0, 20:44, 44:60], lower[0, 24:44, 44:60] = 1, 1, 1
    labels, found = [right, left, right], [left, lower, right]
    hints = {each.name: each.hint for each in doubts(["a", "b", "c"], labels, found, [0.9, 0.9, 0.0])}
    assert hints == {"a": "swapped with b?", "b": "swapped with a?"}


@pytest.mark.parametrize("shift", [(0, 0), (5, -7), (-12, 3)])
def test_the_shift_of_a_mask_is_found(shift: tuple[int, int]) -> None:
    label = np.zeros((1, 64, 64), np.float32)
    label[0, 24:40, 20:44] = 1
    found = np.roll(label, shift, (1, 2))
    down, right, gain = best_shift(label, found)
    assert (down, right) == shift
    overlap = 2 * (label * found).sum() / (label.sum() + found.sum())
    assert gain == pytest.approx(1 - overlap, abs=1e-4)
