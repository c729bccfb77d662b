import numpy as np
import pandas as pd
import pytest

from datamodules.describe.study import bars, by_split, counts, histogram, size_range, split_column, spread, summary


def test_items_are_spread_over_the_whole_sequence() -> None:
    assert spread([0, 3, 2, 5, 4, 1], 3) == [0, 2, 1]
    assert spread("abc") == ["a", "b", "c"]
    assert spread([]) == []


def test_a_summary_has_a_row_per_split_and_one_for_all() -> None:
    table = pd.DataFrame({"split": ["val", "train", "train", ""], "height": [3, 5, 2, 1], "width": [4, 6, 9, 1]})
    found = summary("split", by_split(table), lambda part: {"mean": part["width"].mean(), **size_range(part)}, 1)
    assert found["split"].tolist() == ["train", "val", "test", "all"]
    assert found["mean"].tolist() == pytest.approx([7.5, 4, float("nan"), 5], nan_ok=True)
    assert found["smallest_size"].tolist() == ["9 x 2", "4 x 3", "", "1 x 1"]
    assert found["largest_size"].tolist() == ["6 x 5", "4 x 3", "", "6 x 5"]


def test_the_split_of_an_image_in_none_is_empty() -> None:
    assert split_column({"train": ["b"], "val": ["a"]}, ["a", "b", "c"]) == ["val", "train", ""]


def test_charts_name_their_axes() -> None:
    found = histogram([0.01, 0.5, 1.0], (0, 1), "share", "masks")
    assert (len(found), found.sum(), found.index.name, found.name) == (20, 3, "share", "masks")
    assert found.loc[0.03] == found.loc[0.99] == 1
    assert histogram([1, 2, 2], np.array([0, 2, 4]), "votes").tolist() == [1, 2]
    assert bars([5, 6], ["a", "b"], "class").to_dict() == {"a": 5, "b": 6}
    assert bars([5, 6], range(0, 21, 10), "level").loc[15] == 6
    assert counts(pd.Series(["x", "", "x"], name="split"), "none").to_dict() == {"x": 2, "none": 1}
    splits = pd.Series(["test", "val", "val", "", "train"], name="split")
    assert list(counts(splits, "none").items()) == [("train", 1), ("val", 2), ("test", 1), ("none", 1)]
