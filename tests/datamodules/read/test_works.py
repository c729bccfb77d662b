from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from datamodules.read.works import Work, draw_by_group, groups, read_works
from ops.errors import DataError
from tests.datamodules.helpers import assert_problems, problems_of

SHARES = {"val": 0.1, "test": 0.2}


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_table_is_read_with_columns_of_its_own(tmp_path: Path) -> None:
    rows = 'split,image,artist,title,width,year\ndev,a/1.jpg,El Greco,"Toledo, a view",700,1599\ndev,2.jpg,,,1,\n'
    table = write(tmp_path / "metadata.csv", rows)
    assert read_works(table, ["a/1.jpg", "2.jpg", "3.jpg"]) == {
        "a/1.jpg": Work("El Greco", "Toledo, a view", "1599"),
        "2.jpg": Work(),
    }


def test_titles_and_years_may_be_missing(tmp_path: Path) -> None:
    table = write(tmp_path / "metadata.csv", "artist,image\nGoya,1.jpg\n")
    assert read_works(table, ["1.jpg"]) == {"1.jpg": Work("Goya")}


def test_no_table_says_nothing(tmp_path: Path) -> None:
    assert read_works(tmp_path / "metadata.csv", ["1.jpg"]) == {}


def test_all_wrong_rows_are_listed(tmp_path: Path) -> None:
    table = write(tmp_path / "metadata.csv", "image,artist\na/1.jpg,A\n1.jpg,A\na/1.jpg,B\n")
    assert_problems(
        problems_of(lambda: read_works(table, ["a/1.jpg"])),
        (f"{table}, row 3: ", "no image '1.jpg'", tmp_path / "images"),
        (f"{table}, row 4: ", "'a/1.jpg' already"),
    )


def test_an_artist_is_missing_as_a_column(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'artist' is missing"):
        read_works(write(tmp_path / "metadata.csv", "image,painter\n1.jpg,A\n"), ["1.jpg"])


def test_spellings_of_an_artist_are_one() -> None:
    works = {"1": Work("EL GRECO"), "2": Work(" El  Greco"), "3": Work("Goya"), "4": Work(" ")}
    found = groups(["1", "2", "3", "4", "5"], works)
    assert found == {"1": "artist el greco", "2": "artist el greco", "3": "artist goya", "4": "picture 4",
                     "5": "picture 5"}  # fmt: skip


def test_no_artist_is_in_two_splits_and_shares_are_kept() -> None:
    for seed in range(30):
        rng = np.random.default_rng(seed)
        group_of = {f"{index:03d}": f"{rng.zipf(1.5) % 40}" for index in range(200)}
        splits = draw_by_group(group_of, SHARES, seed)
        assert sorted(name for part in splits.values() for name in part) == sorted(group_of)
        artists = {split: {group_of[name] for name in part} for split, part in splits.items()}
        assert not artists["train"] & artists["val"] | artists["train"] & artists["test"]
        assert not artists["val"] & artists["test"]
        assert abs(len(splits["val"]) - 20) <= 2
        assert abs(len(splits["test"]) - 40) <= 3


def test_the_seed_decides() -> None:
    group_of = {f"{index:02d}": f"artist {index // 3}" for index in range(60)}
    first = draw_by_group(group_of, SHARES, 0)
    assert draw_by_group(dict(reversed(group_of.items())), SHARES, 0) == first
    assert draw_by_group(group_of, SHARES, 1) != first


def test_every_split_gets_one_of_three_artists() -> None:
    group_of = {f"{index:02d}": "many" if index < 18 else f"{index}" for index in range(20)}
    for seed in range(10):
        splits = draw_by_group(group_of, SHARES, seed)
        assert Counter({split: len(part) for split, part in splits.items()}) == {"val": 1, "test": 1, "train": 18}


def test_a_share_of_nothing_is_nothing() -> None:
    splits = draw_by_group({"1": "a", "2": "b"}, {"val": 0.5, "test": 0}, 0)
    assert {split: len(part) for split, part in splits.items()} == {"val": 1, "test": 0, "train": 1}


def test_too_few_artists_are_rejected() -> None:
    with pytest.raises(DataError, match=r"All 9 images are by 2 artists; .* 3 or more, for train, val, test"):
        draw_by_group({str(index): str(index % 2) for index in range(9)}, SHARES, 0)
