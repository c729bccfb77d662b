import numpy as np
import pytest
from scipy import ndimage

from tasks.metrics.score_loss import PIECES, Mask, lost_dice

SIZE = (100, 200)


def rectangle(top: int, left: int, bottom: int, right: int) -> Mask:
    mask = np.zeros(SIZE, bool)
    mask[top:bottom, left:right] = True
    return mask


def pieces(mask: Mask, truth: Mask, marked: Mask | None = None) -> dict[str, float]:
    found = lost_dice(mask, mask if marked is None else marked, truth)
    return {name: value for name, value in zip(PIECES, found.tolist(), strict=True) if value}


def test_pieces_sum_to_the_missing_dice() -> None:
    generator = np.random.default_rng(0)
    for deviation in (0.5, 3, 8):
        for level in (-0.05, 0.0, 0.05, 1.0):
            fields = ndimage.gaussian_filter(generator.standard_normal((3, *SIZE)), (0, deviation, deviation))
            marked, kept, truth = fields > level
            mask = marked & kept
            found = lost_dice(mask, marked, truth)
            dice = 2 * (mask & truth).sum() / (mask.sum() + truth.sum()) if (mask | truth).any() else 1
            assert found.sum() == pytest.approx(1 - dice, abs=1e-12)
            assert (found >= 0).all()


def test_empty_masks_are_wrongly_present_or_absent() -> None:
    empty, some = np.zeros(SIZE, bool), rectangle(10, 10, 30, 30)
    assert pieces(empty, empty) == {}
    assert pieces(some, some) == {}
    assert pieces(some, empty) == {"wrongly_present": 1}
    assert pieces(empty, some) == {"wrongly_absent": 1}
    assert pieces(empty, some, marked=some) == {"minimum_area": 1}
    half = rectangle(10, 10, 30, 20)
    assert pieces(empty, some, marked=half) == {"minimum_area": 0.5, "wrongly_absent": 0.5}


def test_errors_of_regions_are_told_apart() -> None:
    truth = rectangle(20, 20, 60, 60)
    shifted = rectangle(20, 22, 60, 62)  # 2 pixels are the boundary of an image of 200
    assert pieces(shifted, truth) == {"boundary": pytest.approx(2 * 2 * 40 / 3200)}
    wide = rectangle(20, 20, 60, 80)
    assert pieces(wide, truth) == {
        "boundary": pytest.approx(2 * 40 / 4000),
        "wrong_extent": pytest.approx(18 * 40 / 4000),
    }
    elsewhere = rectangle(20, 100, 60, 140)
    assert pieces(elsewhere, truth) == {"wrong_place": 1}
    both = truth | rectangle(20, 100, 30, 110)
    assert pieces(both, truth) == {"wrong_place": pytest.approx(100 / 3300)}
    assert pieces(truth, both) == {"wrong_place": pytest.approx(100 / 3300)}
    assert pieces(truth, both, marked=both) == {"minimum_area": pytest.approx(100 / 3300)}


def test_a_truth_without_outline_has_no_boundary() -> None:
    assert pieces(rectangle(0, 0, 100, 100), np.ones(SIZE, bool)) == {"wrong_extent": pytest.approx(1 / 3)}
