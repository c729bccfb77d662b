import csv
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from datamodules.describe.aesthetics import (
    FINE,
    WHOLE,
    across,
    charts,
    delta_table,
    edges,
    picture_table,
    size_table,
    tables,
)
from datamodules.votes.checked import Checked
from datamodules.votes.files import read_votes
from datamodules.votes.tags import packed
from datamodules.votes.votes import Names, Statistic, Votes
from datamodules.votes.votes import statistics as statistics_of

NAMES = ["a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg", "f.jpg"]
VOTES = np.array([[4, 0, 0, 0, 0], [0, 0, 0, 0, 2], [1, 0, 0, 0, 1], [0, 1, 3, 0, 0], [0, 0, 6, 2, 0], [1, 1, 1, 1, 1]])
#                  mean 1           5                3                2.75             3.25             3
TAGS = [["Sky"], ["Sky", "Water"], [], ["Water", "Water"], ["Sky"], []]


def checked(
    counts: np.ndarray = VOTES, statistic: Statistic = "mean", threshold: float = 3.0, **others: Any
) -> Checked:
    names = NAMES if len(counts) == 6 else [str(row) for row in range(len(counts))]
    votes = Votes(Path("labels.csv"), Names(names), counts, np.zeros((len(names), 0), np.uint8))
    scores = statistics_of(counts, statistic)
    splits = {"train": np.array([0, 1, 3]), "val": np.array([2]), "test": np.array([4])}
    tags = packed({(row, tag) for row, each in enumerate(TAGS) for tag in each}, len(counts))
    known = {"tags": tags, "splits": splits, "trained": splits["train"], "problems": {}, **others}
    return Checked(votes=votes, scores=scores, threshold=threshold, professional=scores > threshold, **known)


def tables_of(found: Checked, statistic: Statistic = "mean") -> dict[str, pd.DataFrame]:
    return tables(found, picture_table(found), statistic, 0.25)


@pytest.fixture(scope="module")
def made() -> dict[str, pd.DataFrame]:
    return tables_of(checked())


def test_each_picture_has_its_votes_by_pythons_own_statistics() -> None:
    rng = np.random.default_rng(0)
    votes = rng.integers(0, 6, (200, 10)) + np.eye(10, dtype=int)[rng.integers(0, 10, 200)]
    found = picture_table(checked(votes, threshold=5.0))
    for row, counts in zip(found.itertuples(), votes, strict=True):
        each = [vote for vote, count in enumerate(counts.tolist(), start=1) for _ in range(count)]
        assert row.votes == len(each)
        assert row.mean == pytest.approx(statistics.fmean(each))
        assert row.median == statistics.median(each)
        assert row.spread == pytest.approx(statistics.pstdev(each), abs=1e-7)
        assert row.professional == (statistics.fmean(each) > 5)


def test_small_counts_do_not_overflow() -> None:
    votes = np.full((3, 10), 250, np.uint8)
    found = picture_table(checked(votes, splits={}))
    assert found["votes"].tolist() == [2500] * 3
    assert found["mean"].tolist() == found["median"].tolist() == [5.5] * 3
    assert found["spread"].tolist() == pytest.approx([np.std(range(10))] * 3)


def test_the_summary_is_that_by_hand(made: dict[str, pd.DataFrame]) -> None:
    assert next(iter(made)) == "summary"
    table = made["summary"].set_index("split")
    assert table.index.tolist() == ["train", "val", "test", "all"]
    assert table["pictures"].tolist() == [3, 1, 1, 6]
    assert table["mean_above_3"].tolist() == [1, 0, 1, 2]
    assert table["professional"].tolist() == [0.333, 0, 1, 0.333]
    assert table["majority"].tolist() == [0.667, 1, 1, 0.667]
    assert table["votes_a_picture"].tolist() == [3.333, 2, 8, 4.167]
    assert table["mean"].tolist() == [2.917, 3, 3.25, 3]


def test_the_class_is_that_of_the_statistic() -> None:
    found = tables_of(checked(statistic="median", threshold=2.5), "median")
    assert found["summary"]["median_above_2.5"].tolist() == [2, 1, 1, 5]
    assert found["deltas"].set_index("delta")["near"].loc[0.5] == 4  # medians 1, 5, 3, 3, 3, 3


def test_votes_are_counted_in_each_split(made: dict[str, pd.DataFrame]) -> None:
    table = made["votes"].set_index("vote")
    assert table.index.tolist() == [1, 2, 3, 4, 5]
    assert table["train"].tolist() == [4, 1, 3, 0, 2]
    assert table["all"].tolist() == VOTES.sum(axis=0).tolist()
    assert table["train_share"].tolist() == [0.4, 0.1, 0.3, 0, 0.2]
    assert table["test_share"].tolist() == [0, 0, 0.75, 0.25, 0]


def test_pictures_near_the_threshold_are_counted_for_each_delta(made: dict[str, pd.DataFrame]) -> None:
    table = made["deltas"].set_index("delta")
    assert table.index.is_monotonic_increasing
    assert table.index.tolist() == [0, 0.1, 0.2, 0.25, 0.3, 0.5, 0.75, 1, 1.5]  # 0.25 was asked for; 2 would be all
    assert table.loc[0.0].tolist() == [0, 0, 3, 0.3333]
    assert table.loc[0.25].tolist() == [4, 1, 2, 0.5]  # c, d, e and f; of training d
    far = delta_table(checked(), picture_table(checked()), 9.0).set_index("delta")
    assert far.loc[9.0].tolist() == [6, 3, 0, 0.0]


def test_tags_are_counted_once_a_picture(made: dict[str, pd.DataFrame]) -> None:
    table = made["tags"].set_index("tag")
    assert table["pictures"].to_dict() == {"Sky": 3, "Water": 2}
    assert table[["train", "val", "test"]].to_numpy().tolist() == [[2, 0, 1], [2, 0, 0]]
    assert table["professional"].to_dict() == {"Sky": 0.667, "Water": 0.5}
    assert table.loc["Water", "mean"] == 3.875
    assert "tags" not in tables_of(checked(tags=packed(set(), 6)))


def test_what_cannot_be_used_is_listed_and_counts_nowhere(made: dict[str, pd.DataFrame]) -> None:
    usable = {"train": np.array([0, 3]), "val": np.array([2]), "test": np.array([4])}
    found = tables_of(checked(problems={"b.jpg": "There is no file b.jpg."}, splits=usable))
    assert found["unusable"].to_numpy().tolist() == [["b.jpg", "There is no file b.jpg."]]
    assert found["summary"].set_index("split")["pictures"].tolist() == [2, 1, 1, 5]
    assert found["votes"]["all"].tolist() == (VOTES.sum(axis=0) - VOTES[1]).tolist()
    assert found["tags"].set_index("tag")["pictures"].to_dict() == {"Sky": 2, "Water": 1}
    assert found["pictures"]["name"].tolist() == ["a.jpg", "c.jpg", "d.jpg", "e.jpg", "f.jpg"]
    assert "unusable" not in made


def test_sizes_have_what_the_paper_prints_beside_them() -> None:
    table = size_table().set_index(["network", "dense_width"])
    assert len(table) == 12
    assert table.loc[("vgg16", 250)].tolist() == [21_050_190, 80.3, 0.1568, 21, 81]
    assert table.loc[("alexnet", 4096)].tolist() == [58_289_538, 222.357, 1, 60, 223]
    assert table.loc["alexnet_torchvision", "printed_mb"].isna().all()


def test_charts_count_all_pictures() -> None:
    pictures = picture_table(checked())
    found = charts(checked(), pictures, "mean", delta_table(checked(), pictures, 0.25))
    for title in ("Mean votes", "Spread of the votes", "Votes on a picture"):
        assert found[title].sum() == 6, title
    assert found["Votes"].to_dict() == pytest.approx(dict(enumerate(VOTES.sum(axis=0) / VOTES.sum(), start=1)))
    assert found["Professional shots"].to_dict() == pytest.approx({"train": 1 / 3, "val": 0, "test": 1, "all": 1 / 3})
    assert found["Professional shots"].index.name == "mean above 3"
    assert found["Training pictures near the threshold"].loc[0.25] == 1
    sizes = found["Sizes of the networks"]
    assert (len(sizes), sizes.loc["vgg16 1000"], sizes.loc["alexnet_torchvision 250"]) == (12, 155.7, 18.5)


def test_bins_are_a_round_number_wide() -> None:
    assert edges(1, 10, FINE).tolist() == [1 + place / 2 for place in range(19)]
    assert edges(1, 5, FINE).tolist() == [1 + place / 4 for place in range(17)]
    assert edges(0, 4.5, FINE).tolist() == [place / 4 for place in range(19)]
    assert edges(0, 1, WHOLE).tolist() == [0, 1]
    assert edges(0, 21, WHOLE).tolist() == list(range(0, 23, 2))
    assert edges(0, 549, WHOLE).tolist() == list(range(0, 571, 30))


def test_pictures_are_chosen_across_all_means() -> None:
    pictures = picture_table(checked())
    assert across(pictures, 3) == [0, 2, 1]
    assert across(pictures, 99) == [0, 3, 2, 5, 4, 1]


@pytest.mark.real
def test_real_stars_have_the_means_that_came_with_them(real_data: Path) -> None:
    path = real_data / "aesthetics" / "labels.csv"
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = picture_table(checked(read_votes(path).counts))
    assert len(found) == 717
    np.testing.assert_allclose(found["mean"], [float(row["mos"]) for row in rows], atol=1e-4)
    deviations = found["spread"] * np.sqrt(found["votes"] / (found["votes"] - 1))  # theirs is that of a sample
    np.testing.assert_allclose(deviations, [float(row["std"]) for row in rows], atol=1e-4)
