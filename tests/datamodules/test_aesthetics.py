import csv
import shutil
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from PIL import Image

from datamodules.aesthetics import AestheticsDataModule
from datamodules.describe.aesthetics import problems
from datamodules.votes.files import read_votes
from datamodules.votes.pictures import read_square
from datamodules.votes.votes import mean_votes, median_votes
from ops.errors import DataError
from tests.datamodules.helpers import Keeping, assert_problems

SPLITS = ("train", "val", "test")
COUNT = 60
IDS = [100 + 7 * place for place in range(COUNT)]


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 pictures of noise, 20 x 24, and votes from 1 to 10 on them: `AVA.txt` and `images/`."""
    root, rng = tmp_path_factory.mktemp("aesthetics"), np.random.default_rng(0)
    (root / "images").mkdir()
    lines = []
    for place, name in enumerate(IDS):
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), np.uint8)).save(root / "images" / f"{name}.jpg")
        votes = rng.multinomial(30, rng.dirichlet(np.arange(1, 11) if place % 3 else np.arange(10, 0, -1)))
        lines.append(" ".join(map(str, (place, name, *votes.tolist(), 1 + place % 2, 0, 9))))
    (root / "AVA.txt").write_text("\n".join(lines))
    return root


@pytest.fixture
def root(drawn: Path, tmp_path: Path) -> Path:
    """The same votes and pictures, beside which a test may lay lists and tables."""
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "images").symlink_to(drawn / "images")
    (folder / "AVA.txt").write_text((drawn / "AVA.txt").read_text())
    return folder


@pytest.fixture
def trainer(make_trainer: Callable[..., Trainer]) -> Trainer:
    return make_trainer(max_epochs=2, use_distributed_sampler=False)


def names(data: AestheticsDataModule) -> dict[str, list[str]]:
    data.setup("fit")
    return {split: list(data.datasets[split].names) for split in SPLITS}


def module(root: Path, **options: Any) -> AestheticsDataModule:
    return AestheticsDataModule(root, **{"size": 14, "load_size": 16, "num_workers": 0, **options})


def test_what_is_measured_on_is_the_middle_with_its_votes(root: Path, trainer: Trainer) -> None:
    task = Keeping()
    trainer.test(task, datamodule=module(root, batch_size=5, test_fraction=0.2), verbose=False)
    votes = read_votes(root / "AVA.txt")
    row_of = {name: row for row, name in enumerate(votes.names)}
    assert sum(len(batch["name"]) for batch in task.seen["test"]) == 12
    for batch in task.seen["test"]:
        assert batch.keys() == {"name", "index", "seed", "image", "votes", "professional", "tags"}
        assert batch["image"].shape == (len(batch["name"]), 3, 14, 14)
        for place, name in enumerate(batch["name"]):
            square = read_square(root / "images" / name, 16)[1:15, 1:15]
            torch.testing.assert_close(batch["image"][place], torch.from_numpy(square / 255).float().permute(2, 0, 1))
            row = row_of[name]
            assert batch["votes"][place].tolist() == votes.counts[row].tolist()
            mean = (votes.counts[row] * np.arange(1, 11)).sum() / votes.counts[row].sum()
            assert batch["professional"][place].item() == float(mean > 5)
            assert batch["tags"][place] == [f"tag {1 + row % 2}"]


def window(crop: torch.Tensor, square: torch.Tensor) -> tuple[int, int, bool]:
    """Where a crop lies in a square, and whether it is flipped."""
    places = [
        (top, left, turned)
        for top, left, turned in product(range(3), range(3), (False, True))
        if torch.equal(crop.flip(2) if turned else crop, square[:, top : top + 14, left : left + 14])
    ]
    assert len(places) == 1
    return places[0]


@pytest.mark.parametrize(("options", "spots", "flips"), [({}, 9, True), ({"flips": False}, 9, False),
                                                         ({"crop": "center"}, 1, True)])  # fmt: skip
def test_training_takes_crops_from_anywhere(
    root: Path, trainer: Trainer, options: dict[str, Any], spots: int, flips: bool
) -> None:
    task = Keeping()
    trainer.fit(task, datamodule=module(root, batch_size=8, **options))
    found = set()
    for batch in task.seen["train"]:
        for image, name in zip(batch["image"], batch["name"], strict=True):
            square = torch.from_numpy(read_square(root / "images" / name, 16)).permute(2, 0, 1)
            found.add((name, window((255 * image).round().byte(), square)))
    assert len({(top, left) for _, (top, left, _) in found}) == spots
    assert any(turned for _, (_, _, turned) in found) == flips
    assert len(found) > len({name for name, _ in found})  # another one in the second epoch


def test_splits_are_disjoint_whole_and_seeded(root: Path) -> None:
    first, again, other = (names(module(root, split_seed=seed)) for seed in (0, 0, 1))
    assert {split: len(part) for split, part in first.items()} == {"train": 49, "val": 6, "test": 5}
    assert sorted(name for part in first.values() for name in part) == sorted(f"{each}.jpg" for each in IDS)
    assert first == again
    assert first["test"] != other["test"]


def test_splits_have_the_class_ratio_of_all(root: Path) -> None:
    votes = read_votes(root / "AVA.txt")
    means = dict(zip(votes.names, mean_votes(votes.counts), strict=True))
    for threshold in (4.5, 5, 6):
        share = np.mean([mean > threshold for mean in means.values()])
        for seed in range(4):
            for part in names(module(root, split_seed=seed, val_fraction=0.2, test_fraction=0.2)).values():
                assert abs(sum(means[name] > threshold for name in part) - share * len(part)) <= 2


def test_the_order_of_the_file_changes_no_split(root: Path) -> None:
    before = names(module(root))
    (root / "AVA.txt").write_text("\n".join(reversed((root / "AVA.txt").read_text().split("\n"))))
    assert {split: set(part) for split, part in names(module(root)).items()} == {
        split: set(part) for split, part in before.items()
    }


def test_delta_thins_training_and_nothing_else(root: Path) -> None:
    whole = names(module(root))
    votes = read_votes(root / "AVA.txt")
    means = dict(zip(votes.names, mean_votes(votes.counts), strict=True))
    sizes = []
    for delta in (0.25, 0.5, 1.0):
        thinned = names(module(root, delta=delta))
        assert thinned["test"] == whole["test"]
        assert thinned["val"] == whole["val"]
        assert thinned["train"] == [name for name in whole["train"] if abs(means[name] - 5) > delta]
        sizes.append(len(thinned["train"]))
    assert len(whole["train"]) > sizes[0] > sizes[1] > sizes[2]


def test_statistic_and_threshold_change_classes_and_no_split(root: Path) -> None:
    whole = names(module(root))
    votes = read_votes(root / "AVA.txt")
    for options, above in (
        ({"statistic": "median"}, median_votes(votes.counts) > 5),
        ({"threshold": 6.5}, mean_votes(votes.counts) > 6.5),
    ):
        data = module(root, **options)
        assert names(data) == whole
        found = data.checked()
        assert found.professional.tolist() == above.tolist()
        assert found.professional.tolist() != (mean_votes(votes.counts) > 5).tolist()


def test_votes_on_another_scale_have_its_middle_as_threshold(root: Path) -> None:
    (root / "AVA.txt").unlink()
    rows = [f"{name}.jpg,{place % 4},1,{place % 3}" for place, name in enumerate(IDS)]
    (root / "labels.csv").write_text("\n".join(["image,count_1,count_2,count_3", *rows]))
    data = module(root)
    data.setup("fit")
    found = data.checked()
    assert found.threshold == 2.0
    assert found.professional.tolist() == [place % 3 > place % 4 for place in range(COUNT)]
    assert data.datasets["train"][0, 0]["votes"].shape == (3,)


def test_lists_say_what_is_tested_and_trained_on(root: Path) -> None:
    lists = root / "aesthetics_image_lists"
    lists.mkdir()
    (lists / "generic_test.jpgl").write_text("\n".join(map(str, IDS[5:20])))
    found = names(module(root))
    assert found["test"] == [f"{name}.jpg" for name in IDS[5:20]]
    assert len(found["val"]) == 6
    assert len(found["train"]) == 39
    (root / "few.txt").write_text("\n".join(map(str, IDS[30:])))
    found = names(module(root, train_list="few.txt"))
    assert sorted(found["train"] + found["val"]) == [f"{name}.jpg" for name in IDS[30:]]
    assert len(found["test"]) == 15
    other = root / "other.txt"
    other.write_text(f"{IDS[0]}.jpg\n{IDS[29]}\n")
    found = names(module(root, train_list="few.txt", test_list=other))
    assert found["test"] == [f"{IDS[0]}.jpg", f"{IDS[29]}.jpg"]


def test_splits_of_the_users_win(root: Path) -> None:
    rows = [f"{name}.jpg,{SPLITS[place // 10]}" for place, name in enumerate(IDS[:30])]
    (root / "splits.csv").write_text("\n".join(["name,split", *rows]))
    with pytest.warns(UserWarning, match=r"does not list 30 of the 60 images"):
        found = names(module(root))
    assert found["val"] == [f"{name}.jpg" for name in IDS[10:20]]
    assert found["test"] == [f"{name}.jpg" for name in IDS[20:30]]
    with pytest.warns(UserWarning, match=r"splits\.csv decides the test images; test\.txt has no effect"):
        assert names(module(root, test_list="test.txt")) == found


def test_the_threshold_and_the_class_ratios_are_printed(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = module(root, delta=0.5)
    with caplog.at_level("INFO", logger="lightning.pytorch"):
        data.setup("fit")
    found = data.checked()
    train, test = (found.professional[found.splits[split]].mean() for split in ("train", "test"))
    near = 49 - len(found.trained)
    for part in (
        f"on 60 images; those with a mean vote above 5 are professional shots: {found.professional.mean():.1%}",
        f"train: 49 images, {train:.1%} professional; {near} of them within 0.5 of 5 are skipped",
        f"test: 5 images, {test:.1%} professional",
    ):
        assert part in caplog.text


def test_two_workers_make_the_same_samples_in_the_same_order(root: Path) -> None:
    batches = []
    for workers in (0, 2):
        data = module(root, num_workers=workers, batch_size=16)
        data.setup("fit")
        batches.append(list(data.train_dataloader()))
    for one, other in zip(*batches, strict=True):
        assert one["name"] == other["name"]
        assert torch.equal(one["image"], other["image"])
        assert torch.equal(one["votes"], other["votes"])
        assert one["tags"] == other["tags"]


STARS = 40


@pytest.fixture(scope="session")
def drawn_stars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 pictures, every other one a professional shot, and a table of votes from 1 to 3."""
    root, rng = tmp_path_factory.mktemp("stars"), np.random.default_rng(0)
    (root / "images").mkdir()
    rows = ["image,count_1,count_2,count_3"]
    for place in range(STARS):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(root / "images" / f"{place:02d}.png")
        rows.append(f"{place:02d}.png,{(3, 1)[place % 2]},1,{(1, 3)[place % 2]}")
    (root / "labels.csv").write_text("\n".join(rows))
    return root


@pytest.fixture
def stars(drawn_stars: Path, tmp_path: Path) -> Path:
    """The same, for a test to spoil."""
    return Path(shutil.copytree(drawn_stars, tmp_path / "stars"))


def starred(root: Path, **options: Any) -> AestheticsDataModule:
    return module(root, **{"load_size": None, "batch_size": 7, **options})


def spoil(root: Path, *names: str) -> None:
    for name in names:
        path = root / "images" / name
        path.write_bytes(path.read_bytes()[:200])


@pytest.fixture
def trained(make_trainer: Callable[..., Trainer]) -> Callable[..., Keeping]:
    """Trains on a dataset."""

    def run(data: AestheticsDataModule, epochs: int = 1) -> Keeping:
        task = Keeping()
        trainer = make_trainer(max_epochs=epochs, use_distributed_sampler=False)
        trainer.fit(task, datamodule=data)
        return task

    return run


def listed(path: Path) -> dict[str, str]:
    with path.open(newline="") as file:
        return {row["name"]: row["problem"] for row in csv.DictReader(file)}


def test_missing_and_unreadable_pictures_are_counted_listed_and_left_out(
    stars: Path, tmp_path: Path, trained: Callable[..., Keeping]
) -> None:
    before = starred(stars).checked()
    (stars / "images" / "03.png").unlink()
    spoil(stars, "10.png")
    data = starred(stars)
    with pytest.warns(UserWarning, match=r"2 of 40 images of .* are skipped; .*unusable\.csv lists"):
        seen = trained(data)
    found = listed(tmp_path / "unusable.csv")
    assert list(found) == ["03.png", "10.png"]
    assert found["03.png"] == f"There is no file {stars / 'images' / '03.png'}."
    assert "10.png is truncated or not an image" in found["10.png"]
    assert not {"03.png", "10.png"} & {*seen.names("train"), *seen.names("val")}
    after = data.checked()
    for split in ("train", "val", "test"):  # the others stay where they were
        assert after.names(split) == [name for name in before.names(split) if name not in found]


def test_unreadable_pictures_that_were_not_looked_for_are_left_out_when_met(
    stars: Path, tmp_path: Path, trained: Callable[..., Keeping]
) -> None:
    data = starred(stars, open_all=False, missing_share=0.1)
    splits = data.checked().splits
    bad = [f"{row:02d}.png" for row in (*splits["train"][:2], splits["val"][0])]
    spoil(stars, *bad)
    with pytest.warns(UserWarning, match=r"are skipped; .* lists them and any found later"):
        seen = trained(data, epochs=2)
    assert sorted(listed(tmp_path / "unusable.csv")) == sorted(bad)
    readable = {split: {f"{row:02d}.png" for row in rows} - set(bad) for split, rows in splits.items()}
    assert sorted(seen.names("train")) == sorted([*readable["train"]] * 2)
    assert sorted(seen.names("val")) == sorted([*readable["val"]] * 2)


def test_too_many_of_them_end_training(stars: Path, tmp_path: Path, trained: Callable[..., Keeping]) -> None:
    data = starred(stars, open_all=False)
    spoil(stars, *(f"{row:02d}.png" for row in data.checked().splits["train"][:3]))
    with pytest.raises(DataError, match=r"3 of 40 images \(7\.5%\) cannot be used; expected at most 5\.0%"):
        trained(data)
    assert len(listed(tmp_path / "unusable.csv")) == 3


def test_more_than_a_share_of_missing_pictures_is_refused_and_a_larger_share_is_not(
    stars: Path, tmp_path: Path, trained: Callable[..., Keeping]
) -> None:
    for name in ("03.png", "04.png", "05.png"):
        (stars / "images" / name).unlink()
    with pytest.raises(DataError, match=r"3 of 40 images \(7\.5%\) cannot be used.*--data\.missing_share") as caught:
        trained(starred(stars))
    described = starred(stars)
    described.folder = tmp_path  # with the same list in the same place it says the same
    assert problems(described) == caught.value.problems
    assert list(listed(tmp_path / "unusable.csv")) == ["03.png", "04.png", "05.png"]
    assert list(starred(stars, missing_share=0.1).checked().problems) == ["03.png", "04.png", "05.png"]
    assert problems(starred(stars, missing_share=0.1)) == []


def test_unreadable_pictures_count_with_the_missing_ones(stars: Path) -> None:
    (stars / "images" / "03.png").unlink()
    spoil(stars, "10.png", "11.png")
    with pytest.raises(DataError, match="3 of 40 images"):
        starred(stars).checked()
    assert list(starred(stars, open_all=False).checked().problems) == ["03.png"]
    [problem] = problems(starred(stars, open_all=False))  # describe opens all
    assert all(name in problem for name in ("03.png", "10.png", "11.png"))


def test_listed_pictures_without_votes_are_told(stars: Path) -> None:
    (stars / "test.txt").write_text("\n".join(["00", *(f"{place:02d}.png" for place in range(1, 10))]))
    data = starred(stars, test_list="test.txt")
    assert list(data.checked().problems) == ["00"]
    assert_problems(data.checked().problems.values(), (stars / "test.txt", "'00'", "no votes"))
    assert data.checked().names("test") == [f"{place:02d}.png" for place in range(1, 10)]


def test_test_pictures_must_not_be_trained_on(stars: Path) -> None:
    for name, places in (("test.txt", range(10)), ("train.txt", range(8, 40))):
        (stars / name).write_text("\n".join(f"{place:02d}.png" for place in places))
    with pytest.raises(DataError, match=r"'08\.png' is in .*test\.txt and in .*train\.txt\. Remove") as caught:
        starred(stars, test_list="test.txt", train_list="train.txt").checked()
    assert len(caught.value.problems) == 2
    rows = [f"{place:02d}.png,{('train', 'val', 'test', 'train')[place % 4]}" for place in range(STARS)]
    (stars / "splits.csv").write_text("\n".join(["name,split", *rows, "00.png,test"]))
    with (
        pytest.warns(UserWarning, match="images in both train and test"),
        pytest.raises(DataError, match=r"splits\.csv has '00\.png' in test and in another split\. Remove"),
    ):
        starred(stars).checked()


def test_all_that_is_wrong_is_told_at_once(stars: Path) -> None:
    (stars / "tags.csv").write_text("image,tag\n99.png,Family\n")
    found = problems(starred(stars, threshold=3, test_list="none.txt"))
    assert len(found) == 3
    for part in ("99.png", "none.txt cannot be read", "the threshold is 3, but votes are 1 to 3"):
        assert any(part in problem for problem in found)


def test_a_missing_data_set_is_shown_how_it_should_be(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        starred(tmp_path).setup("fit")
    for part in (
        f"{tmp_path}/images/<id>.jpg",
        f"{tmp_path}/AVA.txt",
        "image,count_1,…,count_k",
        "has neither AVA.txt",
    ):
        assert part in str(caught.value)
    (tmp_path / "labels.csv").write_text("image,count_1,count_2\na.jpg,1,2\n")
    with pytest.raises(DataError, match=f"There is no folder {tmp_path}/images"):
        starred(tmp_path).setup("fit")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 2.7}, r"All \d+ images of train in .* have a mean vote of at most 2\.7"),
        ({"threshold": 1.1}, r"All \d+ images of train in .* have a mean vote above 1\.1.*--data\.threshold"),
        (
            {"delta": 1.0},
            r"None of the 33 images of train in .* is left: all are unusable or within 1 of the threshold",
        ),
    ],
)
def test_a_training_set_of_one_kind_is_refused(stars: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        starred(stars, **options).checked()


def test_a_test_set_of_one_kind_is_told(stars: Path) -> None:
    (stars / "test.txt").write_text("\n".join(f"{place:02d}.png" for place in range(0, 10, 2)))
    with pytest.warns(UserWarning, match="All 5 images of test in .* are snapshots: balanced accuracy and AUC"):
        starred(stars, test_list="test.txt").checked()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size is 0; expected 1"),
        ({"size": 64, "load_size": 63}, "load_size is 63; expected 64"),
        ({"crop": "corner"}, "crop is 'corner'; expected random or center"),
        ({"statistic": "mode"}, "statistic is 'mode'; expected mean or median"),
        ({"delta": -0.1}, r"delta is -0\.1; expected 0"),
        ({"missing_share": 1.1}, r"missing_share is 1\.1; expected a share"),
        ({"val_fraction": 1.0}, r"val_fraction is 1\.0"),
    ],
)
def test_arguments_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AestheticsDataModule(**options)


def test_pictures_to_predict_need_no_votes(stars: Path, tmp_path: Path) -> None:
    album = tmp_path / "album"
    for name in ("b/one.png", "one.jpg", "one.png"):
        (album / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(stars / "images" / "00.png", album / name)
    (album / "one.jpg").write_text("no picture")
    data = starred(tmp_path / "nowhere", pictures=album)
    data.setup("predict")
    [batch] = [data.on_after_batch_transfer(batch, 0) for batch in data.predict_dataloader()]
    assert batch["name"] == ["b/one.png", "one.jpg", "one.png"]
    assert batch["index"].tolist() == [0, 1, 2]
    assert batch["image"].shape == (3, 3, 14, 14)
    assert batch["image"].max() <= 1
    assert [source.shape for source in batch["source"]] == [(16, 16, 3), (0, 0, 3), (16, 16, 3)]
    assert [bool(problem) for problem in batch["problem"]] == [False, True, False]
    single = starred(tmp_path / "nowhere", pictures=album / "b" / "one.png")
    single.setup("predict")
    assert single.datasets["predict"].names == ["one.png"]
    with pytest.raises(DataError, match=r"--data\.pictures"):
        starred(stars).setup("predict")
    assert any("nothing" in problem for problem in problems(starred(stars, pictures=tmp_path / "nothing")))
