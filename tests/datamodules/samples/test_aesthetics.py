import csv
from pathlib import Path

import cv2
import numpy as np
import pytest

from datamodules.samples.aesthetics import FLAWS, TAG_NAMES, TAGS, draw_aesthetics, shot, votes_on

SIZE = (96, 128)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_aesthetics(tmp_path_factory.mktemp("drawn") / "aesthetics", pictures=40, size=96)


def read(path: Path) -> np.ndarray:
    return cv2.imread(str(path))[..., ::-1]


def ava(root: Path) -> dict[str, list[int]]:
    """Votes, tags and challenge by id."""
    lines = [line.split(" ") for line in (root / "AVA.txt").read_text().splitlines()]
    assert [int(line[0]) for line in lines] == list(range(1, len(lines) + 1))
    return {line[1]: list(map(int, line[2:])) for line in lines}


def mean(votes: list[int]) -> float:
    return sum(vote * count for vote, count in enumerate(votes, start=1)) / sum(votes)


def bytes_of(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_it_is_laid_out_as_ava_is(root: Path) -> None:
    rows = ava(root)
    assert len(rows) == 40
    assert {path.name for path in (root / "images").iterdir()} == {f"{name}.jpg" for name in rows}
    for row in rows.values():
        assert len(row) == 13
        assert min(row) >= 0
        assert 80 <= sum(row[:10]) < 350
    tags = [tuple(row[10:12]) for row in rows.values()]
    assert set(tags) <= {(0, 0), *((*each, 0)[:2] for each in TAGS.values())}
    assert {(0, 0), (35, 28)} <= set(tags)
    names = dict(line.split(" ", 1) for line in (root / "tags.txt").read_text().splitlines())
    assert names == {str(number): name for number, name in TAG_NAMES.items()}
    test = (root / "aesthetics_image_lists" / "generic_test.jpgl").read_text().split()
    assert len(set(test)) == len(test) == 8
    assert set(test) <= set(rows)


def test_seven_of_ten_are_professional_and_some_are_near_the_threshold(root: Path) -> None:
    means = np.array([mean(row[:10]) for row in ava(root).values()])
    assert 0.6 <= (means > 5).mean() <= 0.8
    assert (abs(means - 5) < 0.5).sum() >= 4
    assert np.ptp(means) > 2.5


def test_stars_are_a_table(root: Path) -> None:
    with (root / "stars" / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["image", "count_1", "count_2", "count_3", "count_4", "count_5"]
    assert sorted(path.name for path in (root / "stars" / "images").iterdir()) == [row["image"] for row in rows]
    assert {Path(row["image"]).suffix for row in rows} == {".jpg", ".png"}
    means = np.array([mean([int(row[f"count_{vote}"]) for vote in range(1, 6)]) for row in rows])
    assert 0.5 <= (means > 3).mean() <= 0.9
    assert len(rows) == 20


def test_the_album_has_two_pictures_of_each_name_and_no_votes(root: Path) -> None:
    files = sorted(path for path in (root / "album").rglob("*") if path.is_file())
    assert len(files) == 12
    assert {path.suffix for path in files} == {".jpg"}
    names = {folder: [path.name for path in files if path.parent.name == folder] for folder in ("birthday", "journey")}
    assert names["birthday"] == names["journey"] == [f"IMG_{number:04d}.jpg" for number in range(1, 7)]


def test_pictures_are_of_several_shapes(root: Path) -> None:
    sizes = {read(path).shape for path in (root / "images").iterdir()}
    assert {max(size) for size in sizes} == {96}
    assert {min(size[:2]) for size in sizes} == {64, 72, 96}
    assert any(height > width for height, width, _ in sizes)


def measures(picture: np.ndarray) -> list[float]:
    """Sharpness, colour, contrast and light, by OpenCV."""
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32)
    a, b = np.moveaxis(cv2.cvtColor(picture.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[..., 1:], 2, 0)
    fine = cv2.Laplacian(cv2.GaussianBlur(grey, (0, 0), 1.5), cv2.CV_32F).std()
    return [np.log(fine + 0.1), np.hypot(a, b).mean(), grey.std(), grey.mean(), np.log(cv2.Laplacian(grey, 5).std())]


def test_what_people_vote_can_be_seen(root: Path) -> None:
    """Plain measures of the other pictures tell more of a picture's class than always saying the same."""
    rows = ava(root)
    found = np.array([measures(read(root / "images" / f"{name}.jpg")) for name in rows])
    found = (found - found.mean(axis=0)) / found.std(axis=0)
    truth = np.array([mean(row[:10]) > 5 for row in rows.values()])
    distances = np.linalg.norm(found[:, None] - found, axis=2) + 1e9 * np.eye(len(found))
    said = truth[distances.argsort(axis=1)[:, :3]].mean(axis=1) > 0.5
    balanced = (said[truth].mean() + (~said[~truth]).mean()) / 2
    assert balanced > 0.7


def test_each_flaw_does_what_it_is_called() -> None:
    def taken(flaw: str, strength: float) -> np.ndarray:
        flaws = np.array([strength * (flaw == each) for each in FLAWS])
        return np.mean([measures(shot(np.random.default_rng(seed), SIZE, "house", flaws)) for seed in range(3)], axis=0)

    clean = taken("none", 0.0)
    blurred, pale, noisy = (taken(flaw, 1.0) for flaw in ("blur", "paleness", "exposure"))
    assert blurred[0] < clean[0] - 1
    assert pale[1] < 0.4 * clean[1]
    assert pale[2] < 0.7 * clean[2]
    assert noisy[4] > clean[4] + 0.5
    for flaw in ("tilt", "finger"):
        flaws = np.array([float(flaw == each) for each in FLAWS])
        before, after = (
            shot(np.random.default_rng(1), SIZE, "seascape", each).astype(int) for each in (0 * flaws, flaws)
        )
        assert (abs(before - after).max(axis=2) > 30).mean() > 0.1
        assert after.shape == (*SIZE, 3)


def test_votes_follow_the_place() -> None:
    rng = np.random.default_rng(0)
    for bins, middle in ((10, 5.0), (5, 3.0), (7, 4.0)):
        means = [mean(votes_on(rng, place, bins, 4000).tolist()) for place in (0.0, 0.3, 1.0)]
        assert means[0] < means[1] < means[2]
        assert means[1] == pytest.approx(middle, abs=0.1)
        assert votes_on(rng, 0.5, bins, 123).sum() == 123


def test_the_same_arguments_give_the_same_bytes(tmp_path: Path) -> None:
    first, again = (draw_aesthetics(tmp_path / name, pictures=10, size=64) for name in ("first", "again"))
    other = draw_aesthetics(tmp_path / "other", pictures=10, size=64, seed=1)
    assert bytes_of(first) == bytes_of(again)
    assert bytes_of(first) != bytes_of(other)


@pytest.mark.parametrize("wrong", [{"pictures": 9}, {"size": 63}])
def test_nothing_to_draw_is_refused(tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}=.*wanted"):
        draw_aesthetics(tmp_path / "photographs", **wrong)
    assert not list(tmp_path.iterdir())
