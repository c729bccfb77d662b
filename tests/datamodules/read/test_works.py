from pathlib import Path

import numpy as np
import pytest

from datamodules.read.works import Work, draw_by_group, groups, read_works
from ops.errors import DataError
from tests.datamodules.helpers import assert_problems, problems_of, sizes, table

SHARES = {"val": 0.1, "test": 0.2}


def test_columns_but_image_and_artist_may_be_missing(tmp_path: Path) -> None:
    path = tmp_path / "metadata.csv"
    assert read_works(path, ["1.jpg"]) == {}
    header = "split,image,artist,title,width,year"
    table(path, header, 'dev,a/1.jpg,El Greco,"Toledo, a view",700,1599', "dev,2.jpg,,,1,")
    assert read_works(path, ["a/1.jpg", "2.jpg", "3.jpg"]) == {
        "a/1.jpg": Work("El Greco", "Toledo, a view", "1599"),
        "2.jpg": Work(),
    }
    assert read_works(table(path, "artist,image", "Goya,1.jpg"), ["1.jpg"]) == {"1.jpg": Work("Goya")}
    with pytest.raises(DataError, match="'artist' is missing"):
        read_works(table(path, "image,painter", "1.jpg,A"), ["1.jpg"])


def test_all_wrong_rows_are_reported(tmp_path: Path) -> None:
    path = table(tmp_path / "metadata.csv", "image,artist", "a/1.jpg,A", "1.jpg,A", "a/1.jpg,B")
    assert_problems(
        problems_of(lambda: read_works(path, ["a/1.jpg"])),
        (f"{path}, row 3: ", "no image '1.jpg'", tmp_path / "images"),
        (f"{path}, row 4: ", "'a/1.jpg' already"),
    )


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


def test_every_split_with_a_share_needs_an_artist() -> None:
    group_of = {f"{index:02d}": "many" if index < 18 else f"{index}" for index in range(20)}
    for seed in range(10):
        assert sizes(draw_by_group(group_of, SHARES, seed)) == {"val": 1, "test": 1, "train": 18}
    found = draw_by_group({"1": "a", "2": "b"}, {"val": 0.5, "test": 0}, 0)
    assert sizes(found) == {"val": 1, "test": 0, "train": 1}
    with pytest.raises(DataError, match=r"All 9 images are by 2 artists; .* 3 or more"):
        draw_by_group({str(index): str(index % 2) for index in range(9)}, SHARES, 0)
