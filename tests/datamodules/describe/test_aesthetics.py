import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from belvedere.describe import write_study
from datamodules.aesthetics import AestheticsDataModule
from datamodules.describe.aesthetics import problems, study
from datamodules.describe.study import Study
from datamodules.samples.aesthetics import draw_aesthetics


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


def test_all_tables_are_made_of_the_data_set(made: Study) -> None:
    assert list(made.tables) == ["summary", "votes", "deltas", "sizes", "tags", "unusable", "pictures"]
    summary = made.tables["summary"].set_index("split")
    assert summary["pictures"].to_dict() == {"train": 28, "val": 4, "test": 8, "all": 40}
    assert "mean_above_5" in summary
    assert made.tables["unusable"]["name"].tolist() == ["7.jpg"]
    assert {"Architecture", "Seascapes"} <= set(made.tables["tags"]["tag"])


def test_delta_thins_training_as_the_table_says(root: Path, made: Study) -> None:
    table = made.tables["deltas"].set_index("delta")
    for delta in (0.0, 0.2, 0.4, 1.0):
        found = AestheticsDataModule(root, size=28, load_size=32, delta=delta).checked()
        assert table.loc[delta, "train_left"] == len(found.trained)
        assert table.loc[delta, "train_professional"] == pytest.approx(
            found.professional[found.trained].mean(), abs=1e-4
        )


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


def test_the_panel_shows_what_is_loaded_and_what_training_sees(made: Study) -> None:
    titles, rows = made.panels["training"]
    assert len(titles) == 6
    assert len(rows) == 3
    for loaded, middle, *crops in rows:
        assert loaded.shape == (32, 32, 3)
        np.testing.assert_array_equal(middle, loaded[2:30, 2:30])
        places = [loaded[top : top + 28, left : left + 28] for top in range(5) for left in range(5)]
        known = {each.tobytes() for place in places for each in (place, place[:, ::-1])}
        assert all(crop.tobytes() in known for crop in crops)
        assert len({crop.tobytes() for crop in crops}) > 1


@pytest.mark.parametrize(("crop", "flips", "seen"), [("center", True, 2), ("center", False, 1), ("random", True, 50)])
def test_what_is_shown_is_what_training_is_given(root: Path, crop: str, flips: bool, seen: int) -> None:
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


def test_it_is_written(made: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = write_study(made.tables, made.charts, made.examples[:1], made.classes, made.panels, tmp_path)
    assert {path.name for path in paths} >= {"summary.csv", "sizes.csv", "deltas.csv", "study.png", "training.png"}
    assert all(path.stat().st_size > 0 for path in paths)
    assert "mean_above_5" in capsys.readouterr().out


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
