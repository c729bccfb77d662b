import csv
import math
import re
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from datamodules.aesthetics import AestheticsDataModule
from datamodules.describe.aesthetics import (
    FINE,
    PRINTED,
    WHOLE,
    WIDTHS,
    charts,
    delta_table,
    edges,
    parameter_count,
    picture_table,
    problems,
    size_table,
    study,
    tables,
)  # fmt: skip
from datamodules.describe.study import Study
from datamodules.samples.aesthetics import draw_aesthetics
from datamodules.votes.checked import Checked
from datamodules.votes.files import read_votes
from datamodules.votes.tags import packed
from datamodules.votes.votes import Names, Statistic, Votes
from datamodules.votes.votes import statistics as statistics_of
from tasks.networks.aesthetics import judge


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = draw_aesthetics(tmp_path_factory.mktemp("drawn") / "aesthetics", pictures=40, size=64)
    (folder / "images" / "broken.jpg").write_bytes(b"none")
    with (folder / "AVA.txt").open("a") as file:
        file.write("41 7 1 1 1 1 1 1 1 1 1 1 0 0 1\n")  # images/7.jpg is not there
    return folder


@pytest.fixture(scope="module")
def made(root: Path) -> Study:
    data = AestheticsDataModule(root, size=28, load_size=32, delta=0.4)
    assert problems(data) == []
    return study(data)


def test_all_tables_are_made(made: Study) -> None:
    assert list(made.tables) == ["summary", "votes", "deltas", "sizes", "tags", "unusable", "pictures"]
    summary = made.tables["summary"].set_index("split")
    assert summary["pictures"].to_dict() == {"train": 28, "val": 4, "test": 8, "all": 40}
    assert "mean_above_5" in summary
    assert made.tables["unusable"]["name"].tolist() == ["7.jpg"]
    assert {"Architecture", "Seascapes"} <= set(made.tables["tags"]["tag"])


def test_examples_go_from_the_lowest_to_the_highest_vote(root: Path, made: Study) -> None:
    means = [float(re.match(r"(\d\.\d\d) ± \d\.\d\d: \d+\.jpg", title)[1]) for title, *_ in made.examples]  # type: ignore[index]
    every = made.tables["pictures"]["mean"].round(2)
    assert means == sorted(means)
    assert (means[0], means[-1]) == (every.min(), every.max())
    assert len(means) == 8
    for title, picture, masks in made.examples:
        own = np.asarray(Image.open(root / "images" / title.split(": ")[1]))
        np.testing.assert_array_equal(picture, own)
        assert masks.shape == (0, *own.shape[:2])


def test_the_panel_shows_loaded_images_and_crops(made: Study) -> None:
    titles, rows, names = made.panels["training"]
    assert len(titles) == 6
    assert len(rows) == len({*names}) == 3
    for loaded, middle, *crops in rows:
        assert loaded.shape == (32, 32, 3)
        np.testing.assert_array_equal(middle, loaded[2:30, 2:30])
        places = [loaded[top : top + 28, left : left + 28] for top in range(5) for left in range(5)]
        known = {each.tobytes() for place in places for each in (place, place[:, ::-1])}
        assert all(crop.tobytes() in known for crop in crops)
        assert len({crop.tobytes() for crop in crops}) > 1


@pytest.mark.parametrize(("crop", "flips", "seen"), [("center", True, 2), ("center", False, 1), ("random", True, 50)])
def test_the_panel_shows_training_inputs(root: Path, crop: str, flips: bool, seen: int) -> None:
    data = AestheticsDataModule(root, size=28, load_size=32, crop=crop, flips=flips)  # type: ignore[arg-type]
    image = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    image, seeds = image.expand(400, -1, -1, -1), torch.arange(400)
    shown = data.trained_on(image, seeds)

    class Training:
        training = True

    data.trainer = Training()  # type: ignore[assignment]
    given = data.on_after_batch_transfer({"image": image, "seed": seeds}, 0)["image"]
    assert torch.equal(given, shown.float() / 255)
    assert len({each.numpy().tobytes() for each in shown}) == seen


def test_a_table_of_stars_is_described(root: Path) -> None:
    found = study(AestheticsDataModule(root / "stars", size=28, load_size=32, statistic="median"))
    assert list(found.tables) == ["summary", "votes", "deltas", "sizes", "pictures"]
    assert "median_above_3" in found.tables["summary"]
    assert found.tables["votes"]["vote"].tolist() == [1, 2, 3, 4, 5]


@pytest.mark.real
def test_real_stars_are_described(real_data: Path) -> None:
    found = study(AestheticsDataModule(real_data / "aesthetics", size=64, load_size=80))
    summary = found.tables["summary"].set_index("split")
    assert summary.loc["all", ["pictures", "mean_above_3"]].tolist() == [717, 389]
    assert summary["majority"].between(0.5, 0.6).all()


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
def by_hand() -> dict[str, pd.DataFrame]:
    return tables_of(checked())


def test_each_image_has_its_votes_by_pythons_own_statistics() -> None:
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


def test_the_summary_is_that_by_hand(by_hand: dict[str, pd.DataFrame]) -> None:
    assert next(iter(by_hand)) == "summary"
    table = by_hand["summary"].set_index("split")
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


def test_votes_are_counted_in_each_split(by_hand: dict[str, pd.DataFrame]) -> None:
    table = by_hand["votes"].set_index("vote")
    assert table.index.tolist() == [1, 2, 3, 4, 5]
    assert table["train"].tolist() == [4, 1, 3, 0, 2]
    assert table["all"].tolist() == VOTES.sum(axis=0).tolist()
    assert table["train_share"].tolist() == [0.4, 0.1, 0.3, 0, 0.2]
    assert table["test_share"].tolist() == [0, 0, 0.75, 0.25, 0]


def test_images_near_the_threshold_are_counted_for_each_delta(by_hand: dict[str, pd.DataFrame]) -> None:
    table = by_hand["deltas"].set_index("delta")
    assert table.index.is_monotonic_increasing
    assert table.index.tolist() == [0, 0.1, 0.2, 0.25, 0.3, 0.5, 0.75, 1, 1.5]  # 0.25 was asked for; 2 would be all
    assert table.loc[0.0].tolist() == [0, 0, 3, 0.3333]
    assert table.loc[0.25].tolist() == [4, 1, 2, 0.5]  # c, d, e and f; of training d
    far = delta_table(checked(), picture_table(checked()), 9.0).set_index("delta")
    assert far.loc[9.0].tolist() == [6, 3, 0, 0.0]


def test_tags_are_counted_once_per_image(by_hand: dict[str, pd.DataFrame]) -> None:
    table = by_hand["tags"].set_index("tag")
    assert table["pictures"].to_dict() == {"Sky": 3, "Water": 2}
    assert table[["train", "val", "test"]].to_numpy().tolist() == [[2, 0, 1], [2, 0, 0]]
    assert table["professional"].to_dict() == {"Sky": 0.667, "Water": 0.5}
    assert table.loc["Water", "mean"] == 3.875
    assert "tags" not in tables_of(checked(tags=packed(set(), 6)))


def test_unusable_images_are_listed_and_not_counted(by_hand: dict[str, pd.DataFrame]) -> None:
    usable = {"train": np.array([0, 3]), "val": np.array([2]), "test": np.array([4])}
    found = tables_of(checked(problems={"b.jpg": "There is no file b.jpg."}, splits=usable))
    assert found["unusable"].to_numpy().tolist() == [["b.jpg", "There is no file b.jpg."]]
    assert found["summary"].set_index("split")["pictures"].tolist() == [2, 1, 1, 5]
    assert found["votes"]["all"].tolist() == (VOTES.sum(axis=0) - VOTES[1]).tolist()
    assert found["tags"].set_index("tag")["pictures"].to_dict() == {"Sky": 2, "Water": 1}
    assert found["pictures"]["name"].tolist() == ["a.jpg", "c.jpg", "d.jpg", "e.jpg", "f.jpg"]
    assert "unusable" not in by_hand


def test_charts_count_all_images() -> None:
    pictures = picture_table(checked())
    found = charts(checked(), pictures, "mean", tables_of(checked()))
    for title in ("Mean vote of each image", "Disagreement about each image", "Number of votes per image"):
        assert found[title].sum() == 6, title
    assert found["How often each vote was given"].to_dict() == pytest.approx(
        dict(enumerate(VOTES.sum(axis=0) / VOTES.sum(), start=1))
    )
    assert found["Professional shots in each split"].to_dict() == pytest.approx(
        {"train": 1 / 3, "val": 0, "test": 1, "all": 1 / 3}
    )
    assert found["Professional shots in each split"].index.name == "mean above 3"
    assert found["Training images near the threshold"].loc[0.25] == 1
    sizes = found["Sizes of the paper's networks"]
    assert (len(sizes), sizes.loc["vgg16 1000"], sizes.loc["alexnet_torchvision 250"]) == (12, 155.7, 18.5)


def test_bins_are_a_round_number_wide() -> None:
    assert edges(1, 10, FINE).tolist() == [1 + place / 2 for place in range(19)]
    assert edges(1, 5, FINE).tolist() == [1 + place / 4 for place in range(17)]
    assert edges(0, 4.5, FINE).tolist() == [place / 4 for place in range(19)]
    assert edges(0, 1, WHOLE).tolist() == [0, 1]
    assert edges(0, 21, WHOLE).tolist() == list(range(0, 23, 2))
    assert edges(0, 549, WHOLE).tolist() == list(range(0, 571, 30))


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


# Counted on other implementations, and MiB of the paper's files.
COUNTED = {
    (network, width): (parameters, mebibytes)
    for network, rows in {
        "alexnet": [(58_289_538, 222.357), (13_967_202, 53.281), (8_607_202, 32.834), (6_114_702, 23.326)],
        "alexnet_torchvision": [(57_012_034, 217.5), (12_689_698, 48.4), (7_329_698, 28.0), (4_837_198, 18.5)],
        "vgg16": [(134_268_738, 512.195), (40_806_690, 155.665), (27_510_690, 104.945), (21_050_190, 80.3)],
    }.items()
    for width, (parameters, mebibytes) in zip(WIDTHS, rows, strict=True)
}


def test_sizes_are_those_that_were_counted() -> None:
    table = size_table().set_index(["network", "dense_width"])
    assert len(table) == len(COUNTED)
    for key, (parameters, mebibytes) in COUNTED.items():
        assert table.loc[key, "parameters"] == parameters
        assert table.loc[key, "mebibytes"] == pytest.approx(mebibytes, abs=0.05)
    assert table.loc[("vgg16", 250)].tolist() == [21_050_190, 80.3, 0.1568, 21, 81], "as printed in the paper"
    assert table.loc["alexnet_torchvision", "printed_mb"].isna().all()


def test_sizes_agree_with_the_networks() -> None:
    for network, width, outputs in [*((*key, 2) for key in COUNTED), ("vgg16", 77, 10), ("alexnet", 3, 5)]:
        with torch.device("meta"):
            built = judge(network, width, outputs)
        assert sum(each.numel() for each in built.parameters()) == parameter_count(network, width, outputs)


def test_sizes_agree_with_the_paper() -> None:
    for network, rows in PRINTED.items():
        for width, (millions, megabytes) in rows.items():
            parameters = parameter_count(network, width)
            assert math.ceil(parameters * 4 / 2**20 + 0.1) == megabytes  # 0.1 MiB of a file are no weights
            # 60 million is the number usually given for AlexNet
            assert parameters / 1e6 == pytest.approx(millions, abs=2 if millions == 60 else 0.5)
        assert tuple(rows) == WIDTHS
