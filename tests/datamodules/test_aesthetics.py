from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datamodules.aesthetics import AestheticsDataModule
from datamodules.describe.aesthetics import problems
from datamodules.votes.files import read_votes
from datamodules.votes.pictures import read_square
from datamodules.votes.votes import mean_votes, median_votes
from ops.errors import DataError
from tests.datamodules.helpers import (
    Keeping,
    assert_problems,
    assert_problems_in_any_order,
    csv_rows,
    noise,
    problems_of,
    sizes,
    split_names,
    table,
    truncate,
    write,
)

COUNT = 60
IDS = [100 + 7 * place for place in range(COUNT)]


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 images of noise, 20 x 24, and votes from 1 to 10 on them: `AVA.txt` and `images/`."""
    root, rng = tmp_path_factory.mktemp("aesthetics"), np.random.default_rng(0)
    lines = []
    for place, name in enumerate(IDS):
        write(root / "images" / f"{name}.jpg", rng.integers(0, 256, (20, 24, 3), np.uint8))
        votes = rng.multinomial(30, rng.dirichlet(np.arange(1, 11) if place % 3 else np.arange(10, 0, -1)))
        lines.append(" ".join(map(str, (place, name, *votes.tolist(), 1 + place % 2, 0, 9))))
    table(root / "AVA.txt", *lines)
    return root


@pytest.fixture
def root(drawn: Path, tmp_path: Path) -> Path:
    """The same votes and images, beside which a test may lay lists and tables."""
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "images").symlink_to(drawn / "images")
    (folder / "AVA.txt").write_text((drawn / "AVA.txt").read_text())
    return folder


def module(root: Path, **options: Any) -> AestheticsDataModule:
    return AestheticsDataModule(root, **{"size": 14, "load_size": 16, "num_workers": 0, **options})


@pytest.fixture
def means(root: Path) -> dict[str, float]:
    """Mean vote of each image."""
    votes = read_votes(root / "AVA.txt")
    return dict(zip(votes.names, mean_votes(votes.counts), strict=True))


def test_evaluation_takes_the_center_and_the_votes(root: Path, keep: Callable[..., Keeping]) -> None:
    batches = keep(module(root, batch_size=5, test_fraction=0.2), "test").seen["test"]
    votes = read_votes(root / "AVA.txt")
    row_of = {name: row for row, name in enumerate(votes.names)}
    assert sum(len(batch["name"]) for batch in batches) == 12
    for batch in batches:
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
    root: Path, keep: Callable[..., Keeping], options: dict[str, Any], spots: int, flips: bool
) -> None:
    found = set()
    for batch in keep(module(root, batch_size=8, **options), epochs=2).seen["train"]:
        for image, name in zip(batch["image"], batch["name"], strict=True):
            square = torch.from_numpy(read_square(root / "images" / name, 16)).permute(2, 0, 1)
            found.add((name, window((255 * image).round().byte(), square)))
    assert len({(top, left) for _, (top, left, _) in found}) == spots
    assert any(turned for _, (_, _, turned) in found) == flips
    assert len(found) > len({name for name, _ in found})  # another one in the second epoch


def test_splits_are_disjoint_seeded_and_follow_from_the_names(root: Path) -> None:
    first, again, other = (split_names(module(root, split_seed=seed)) for seed in (0, 0, 1))
    assert sizes(first) == {"train": 49, "val": 6, "test": 5}
    assert sorted(name for part in first.values() for name in part) == sorted(f"{each}.jpg" for each in IDS)
    assert first == again
    assert first["test"] != other["test"]
    table(root / "AVA.txt", *reversed((root / "AVA.txt").read_text().splitlines()))
    for split, part in split_names(module(root)).items():
        assert set(part) == set(first[split]), "the order of the rows decides nothing"


def test_splits_have_the_class_ratio_of_all(root: Path, means: dict[str, float]) -> None:
    for threshold in (4.5, 5, 6):
        share = np.mean([mean > threshold for mean in means.values()])
        for seed in range(4):
            for part in split_names(module(root, split_seed=seed, val_fraction=0.2, test_fraction=0.2)).values():
                assert abs(sum(means[name] > threshold for name in part) - share * len(part)) <= 2


def test_delta_thins_training_only(root: Path, means: dict[str, float]) -> None:
    whole = split_names(module(root))
    counts = []
    for delta in (0.25, 0.5, 1.0):
        thinned = split_names(module(root, delta=delta))
        assert (thinned["val"], thinned["test"]) == (whole["val"], whole["test"])
        assert thinned["train"] == [name for name in whole["train"] if abs(means[name] - 5) > delta]
        counts.append(len(thinned["train"]))
    assert len(whole["train"]) > counts[0] > counts[1] > counts[2]


def test_statistic_and_threshold_change_classes_and_no_split(root: Path) -> None:
    whole = split_names(module(root))
    votes = read_votes(root / "AVA.txt")
    for options, above in (
        ({"statistic": "median"}, median_votes(votes.counts) > 5),
        ({"threshold": 6.5}, mean_votes(votes.counts) > 6.5),
    ):
        data = module(root, **options)
        assert split_names(data) == whole
        found = data.checked()
        assert found.professional.tolist() == above.tolist()
        assert found.professional.tolist() != (mean_votes(votes.counts) > 5).tolist()


def test_votes_on_another_scale_have_its_middle_as_threshold(root: Path) -> None:
    (root / "AVA.txt").unlink()
    rows = [f"{name}.jpg,{place % 4},1,{place % 3}" for place, name in enumerate(IDS)]
    table(root / "labels.csv", "image,count_1,count_2,count_3", *rows)
    data = module(root)
    data.setup("fit")
    found = data.checked()
    assert found.threshold == 2.0
    assert found.professional.tolist() == [place % 3 > place % 4 for place in range(COUNT)]
    assert data.datasets["train"][0, 0]["votes"].shape == (3,)


def test_lists_choose_training_and_test_images(root: Path) -> None:
    files = [f"{name}.jpg" for name in IDS]
    table(root / "aesthetics_image_lists" / "generic_test.jpgl", *map(str, IDS[5:20]))
    found = split_names(module(root))
    assert found["test"] == files[5:20]
    assert sizes(found) == {"train": 39, "val": 6, "test": 15}
    table(root / "few.txt", *map(str, IDS[30:]))
    found = split_names(module(root, train_list="few.txt"))
    assert sorted(found["train"] + found["val"]) == files[30:]
    assert len(found["test"]) == 15
    other = table(root / "other.txt", files[0], str(IDS[29]))
    assert split_names(module(root, train_list="few.txt", test_list=other))["test"] == [files[0], files[29]]
    folded = module(root, test_list=other, folds=3)
    assert not {files[0], files[29]} & set().union(*split_names(folded).values())
    assert folded.left_out == {files[0], files[29]}


def test_a_table_of_splits_takes_precedence(root: Path) -> None:
    files = [f"{name}.jpg" for name in IDS]
    rows = [f"{name},{('train', 'val', 'test')[place // 10]}" for place, name in enumerate(files[:30])]
    table(root / "splits.csv", "name,split", *rows)
    with pytest.warns(UserWarning, match=r"does not list 30 of the 60 images"):
        found = split_names(module(root))
    assert (found["val"], found["test"]) == (files[10:20], files[20:30])
    with pytest.warns(UserWarning, match=r"splits\.csv decides .* test\.txt has no effect"):
        assert split_names(module(root, test_list="test.txt")) == found


def test_threshold_and_class_ratios_are_logged(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = module(root, delta=0.5)
    with caplog.at_level("INFO", logger="lightning.pytorch"):
        data.setup("fit")
    found = data.checked()
    train, test = (found.professional[found.splits[split]].mean() for split in ("train", "test"))
    for part in (
        f"on 60 images; those with a mean vote above 5 are professional shots: {found.professional.mean():.1%}",
        f"train: 49 images, {train:.1%} professional; {49 - len(found.trained)} of them within 0.5 of 5",
        f"test: 5 images, {test:.1%} professional",
    ):
        assert part in caplog.text


@pytest.fixture
def stars(tmp_path: Path) -> Path:
    """40 images, every other one a professional shot, and a table of votes from 1 to 3."""
    root, rows = tmp_path / "stars", []
    for place in range(40):
        write(root / "images" / f"{place:02d}.png", noise(16, 16, seed=place))
        rows.append(f"{place:02d}.png,{(3, 1)[place % 2]},1,{(1, 3)[place % 2]}")
    table(root / "labels.csv", "image,count_1,count_2,count_3", *rows)
    return root


def starred(root: Path, **options: Any) -> AestheticsDataModule:
    return module(root, **{"load_size": None, "batch_size": 7, **options})


def spoil(root: Path, *names: str) -> None:
    for name in names:
        truncate(root / "images" / name)


def unusable(folder: Path) -> dict[str, str]:
    return {row["name"]: row["problem"] for row in csv_rows(folder / "unusable.csv")}


def test_missing_and_unreadable_images_are_listed_and_skipped(
    stars: Path, tmp_path: Path, keep: Callable[..., Keeping]
) -> None:
    before = starred(stars).checked()
    (stars / "images" / "03.png").unlink()
    spoil(stars, "10.png")
    data = starred(stars)
    with pytest.warns(UserWarning, match=r"2 of 40 images of .* are skipped; .*unusable\.csv"):
        seen = keep(data)
    found = unusable(tmp_path)
    assert_problems(found.values(), ("no file", stars / "images" / "03.png"), ("10.png is truncated",))
    assert list(found) == ["03.png", "10.png"]
    assert not found.keys() & {*seen.names("train"), *seen.names("val")}
    after = data.checked()
    for split in ("train", "val", "test"):  # the others stay where they were
        assert after.names(split) == [name for name in before.names(split) if name not in found]


def test_unreadable_images_found_during_training_are_skipped(
    stars: Path, tmp_path: Path, keep: Callable[..., Keeping]
) -> None:
    data = starred(stars, open_all=False, missing_share=0.1, steps_per_epoch=None)
    splits = data.checked().splits
    bad = [f"{row:02d}.png" for row in (*splits["train"][:2], splits["val"][0])]
    spoil(stars, *bad)
    with pytest.warns(UserWarning, match=r"are skipped; .* any found later"):
        seen = keep(data, epochs=2)
    assert sorted(unusable(tmp_path)) == sorted(bad)
    for split in ("train", "val"):
        readable = {f"{row:02d}.png" for row in splits[split]} - set(bad)
        assert sorted(seen.names(split)) == sorted([*readable] * 2)


def test_too_many_unreadable_images_end_training(stars: Path, tmp_path: Path, keep: Callable[..., Keeping]) -> None:
    data = starred(stars, open_all=False)
    spoil(stars, *(f"{row:02d}.png" for row in data.checked().splits["train"][:3]))
    with pytest.raises(DataError, match=r"3 of 40 images \(7\.5%\) .* at most 5\.0%"):
        keep(data)
    assert len(unusable(tmp_path)) == 3


def test_missing_share_limits_the_unusable_images(stars: Path, tmp_path: Path, keep: Callable[..., Keeping]) -> None:
    missing = ["03.png", "04.png", "05.png"]
    for name in missing:
        (stars / "images" / name).unlink()
    with pytest.raises(DataError, match=r"3 of 40 images \(7\.5%\).*--data\.missing_share") as caught:
        keep(starred(stars))
    described = starred(stars)
    described.folder = tmp_path  # with the same list in the same place it says the same
    assert problems(described) == caught.value.problems
    assert list(unusable(tmp_path)) == missing
    assert list(starred(stars, missing_share=0.1).checked().problems) == missing
    assert problems(starred(stars, missing_share=0.1)) == []


def test_unreadable_and_missing_images_are_counted_together(stars: Path) -> None:
    (stars / "images" / "03.png").unlink()
    spoil(stars, "10.png", "11.png")
    with pytest.raises(DataError, match="3 of 40 images"):
        starred(stars).checked()
    assert list(starred(stars, open_all=False).checked().problems) == ["03.png"]
    [problem] = problems(starred(stars, open_all=False))  # describe opens all
    assert all(name in problem for name in ("03.png", "10.png", "11.png"))


def test_listed_images_without_votes_are_reported(stars: Path) -> None:
    names = [f"{place:02d}.png" for place in range(1, 10)]
    table(stars / "test.txt", "00", *names)
    checked = starred(stars, test_list="test.txt").checked()
    assert list(checked.problems) == ["00"]
    assert_problems(checked.problems.values(), (stars / "test.txt", "'00'", "no votes"))
    assert checked.names("test") == names


def test_test_images_must_not_be_trained_on(stars: Path) -> None:
    names = [f"{place:02d}.png" for place in range(40)]
    table(stars / "test.txt", *names[:10])
    table(stars / "train.txt", *names[8:])
    found = problems_of(lambda: starred(stars, test_list="test.txt", train_list="train.txt").checked())
    assert_problems(found, ("'08.png'", "test.txt", "train.txt"), ("'09.png'",))
    rows = [f"{name},{('train', 'val', 'test', 'train')[place % 4]}" for place, name in enumerate(names)]
    table(stars / "splits.csv", "name,split", *rows, "00.png,test")
    with pytest.warns(UserWarning, match="both train and test"):
        found = problems_of(lambda: starred(stars).checked())
    assert_problems(found, ("splits.csv has '00.png' in test and in another split",))


def test_all_problems_are_reported_at_once(stars: Path) -> None:
    table(stars / "tags.csv", "image,tag", "99.png,Family")
    found = problems(starred(stars, threshold=3, test_list="none.txt"))
    assert_problems_in_any_order(found, ("99.png",), ("none.txt cannot be read",), ("threshold is 3", "1 to 3"))


def test_a_missing_folder_of_images_is_reported(tmp_path: Path) -> None:
    table(tmp_path / "labels.csv", "image,count_1,count_2", "a.jpg,1,2")
    with pytest.raises(DataError, match=f"no folder {tmp_path}/images"):
        starred(tmp_path).setup("fit")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 2.7}, r"train in .* at most 2\.7"),
        ({"threshold": 1.1}, r"train in .* above 1\.1.*--data\.threshold"),
        ({"delta": 1.0}, r"None of the 33 images .* within 1 of the threshold"),
    ],
)
def test_a_training_set_of_one_kind_is_rejected(stars: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        starred(stars, **options).checked()


def test_a_test_set_of_one_kind_warns(stars: Path) -> None:
    table(stars / "test.txt", *(f"{place:02d}.png" for place in range(0, 10, 2)))
    with pytest.warns(UserWarning, match="All 5 images of test in .* are snapshots"):
        starred(stars, test_list="test.txt").checked()


def test_images_to_predict_need_no_votes(stars: Path, tmp_path: Path) -> None:
    album = tmp_path / "album"
    for name in ("b/one.png", "one.png"):
        write(album / name, noise(16, 16))
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
    assert any("nothing" in problem for problem in problems(starred(stars, pictures=tmp_path / "nothing")))
