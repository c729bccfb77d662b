import pickle
import statistics as reference
from pathlib import Path

import numpy as np
import pytest

from datamodules.votes.files import read_votes
from datamodules.votes.votes import (
    Names,
    Singles,
    by_score,
    default_threshold,
    drawn_evenly,
    mean_votes,
    median_votes,
    near,
    statistics,
    vote_spreads,
)

COUNTS = np.random.default_rng(0).integers(0, 4, (200, 5)).astype(np.uint8) + np.eye(5, dtype=np.uint8)[0]
VOTES = [[vote for vote, count in enumerate(row, start=1) for _ in range(count)] for row in COUNTS.tolist()]


def test_means_medians_and_spreads_are_those_of_the_single_votes() -> None:
    np.testing.assert_allclose(mean_votes(COUNTS), [reference.mean(votes) for votes in VOTES])
    np.testing.assert_array_equal(median_votes(COUNTS), [reference.median(votes) for votes in VOTES])
    np.testing.assert_allclose(vote_spreads(COUNTS), [reference.pstdev(votes) for votes in VOTES], atol=1e-12)
    assert statistics(COUNTS, "mean").tolist() == mean_votes(COUNTS).tolist()
    assert statistics(COUNTS, "median").tolist() == median_votes(COUNTS).tolist()
    counts = np.full((1, 10), 250, np.uint8)  # whose sum is no byte
    assert mean_votes(counts).tolist() == median_votes(counts).tolist() == [5.5]
    assert vote_spreads(counts).tolist() == pytest.approx([np.std(range(10))])


def test_means_at_the_threshold_are_not_above_it() -> None:
    counts = np.zeros((1000, 10), np.int64)
    numbers = np.arange(1, 1001)
    counts[:, 2] = counts[:, 6] = numbers  # 3 and 7: 5 exactly
    counts[:, 4] = numbers % 7
    assert not (mean_votes(counts) > default_threshold(10)).any()
    counts[:, 9] = 1
    assert (mean_votes(counts) > default_threshold(10)).all()


def test_ten_votes_have_the_published_threshold_and_others_their_middle() -> None:
    assert [default_threshold(bins) for bins in (10, 5, 2, 4)] == [5.0, 3.0, 1.5, 2.5]


def test_near_are_those_within_delta_and_none_where_it_is_0() -> None:
    scores = np.array([4.4, 4.5, 4.9, 5.0, 5.1, 5.5, 5.6])
    assert near(scores, 5, 0).tolist() == [False] * 7
    assert near(scores, 5, 0.1).tolist() == [False, False, True, True, True, False, False]
    assert near(scores, 5, 0.5).tolist() == [False, True, True, True, True, True, False]


def test_names_are_kept_as_they_are() -> None:
    given = ["a.jpg", "", "Straße/жанр.png", "\udcff.jpg", "a.jpg"]
    names = pickle.loads(pickle.dumps(Names(given)))
    assert list(names) == given
    assert [names[place] for place in range(-5, 5)] == given + given
    assert names[1:4] == given[1:4]
    assert names[::-2] == given[::-2]
    assert len(names) == 5
    assert len(Names([])) == len(list(Names([]))) == 0
    with pytest.raises(IndexError):
        names[5]


def test_singles_are_like_the_list_of_them() -> None:
    singles, wanted = Singles(7), [range(place, place + 1) for place in range(7)]
    assert len(singles) == 7
    assert list(singles) == wanted
    assert singles[1::3] == wanted[1::3]
    assert singles[-1] == wanted[-1]


def test_the_order_is_by_score_and_then_by_name() -> None:
    assert by_score(np.array([2.0, 1.0, 2.0, 1.0]), ["b", "d", "a", "é"]).tolist() == [1, 3, 2, 0]


def test_a_drawn_sample_keeps_the_share_above_any_threshold() -> None:
    scores = np.random.default_rng(1).normal(5.4, 0.7, 1000).round(1)
    names = [f"{place}" for place in range(1000)]
    for seed in range(5):
        rows = drawn_evenly(by_score(scores, names), 80, np.random.default_rng(seed))
        assert len(set(rows.tolist())) == 80
        assert (np.diff(rows) > 0).all()
        for threshold in (4.0, 5.0, 5.5, 6.5):
            assert abs((scores[rows] > threshold).sum() - 80 * (scores > threshold).mean()) <= 1


def test_all_rows_have_the_same_chance_to_be_drawn() -> None:
    rng, times = np.random.default_rng(0), np.zeros(10, np.int64)
    for _ in range(3000):
        times[drawn_evenly(np.arange(10), 3, rng)] += 1
    # Blocks of 3, 3 and 4: one in three and one in four.
    np.testing.assert_allclose(times / 3000, [1 / 3] * 6 + [1 / 4] * 4, atol=0.045)
    for count, expected in ((5, [2, 4]), (0, [])):
        assert drawn_evenly(np.array([4, 2]), count, rng).tolist() == expected


@pytest.mark.real
def test_real_votes_have_the_published_class_ratio(real_data: Path) -> None:
    counts = read_votes(real_data / "ava_labels" / "ava_labels_test.json").counts
    assert counts.shape == (25_551, 10)
    assert (mean_votes(counts) > 5).mean() == pytest.approx(0.70, abs=0.01)
    assert (mean_votes(counts) > 5.5).mean() == pytest.approx(0.43, abs=0.01)
