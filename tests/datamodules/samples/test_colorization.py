import csv
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from datamodules.colorization import ColorizationDataModule
from datamodules.describe.colorization import problems
from datamodules.samples import __main__ as samples
from datamodules.samples.__main__ import draw_colorization
from datamodules.samples.colorization import NAMES, SUBJECTS, painting, photograph, write_gallery

SIZE = (96, 128)


def read(path: Path) -> np.ndarray:
    return cv2.imread(str(path))[..., ::-1]


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def bytes_of(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def lab(picture: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(picture.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gallery")
    write_gallery(folder, pictures=20, artists=5, side=96, seed=0)
    return folder


def test_every_painting_has_a_row_with_its_artist(root: Path) -> None:
    files = sorted(path.relative_to(root / "images").as_posix() for path in (root / "images").rglob("*.*"))
    rows = table(root / "metadata.csv")
    assert [row["image"] for row in rows] == files
    assert {Path(name).suffix for name in files} == {".png", ".jpg"}
    for row in rows:
        assert row["image"].startswith(row["artist"].lower() + "/")
        assert row["title"].lower().replace(" ", "_")[:5] == Path(row["image"]).name[:5]
        assert 1650 <= int(row["year"]) < 1920
    assert {row["artist"] for row in rows} == set(NAMES[:5])
    assert b"\r" not in (root / "metadata.csv").read_bytes()


def test_subjects_are_dealt_and_shapes_differ(root: Path) -> None:
    files = [path for path in (root / "images").rglob("*.*")]
    subjects = [path.stem.rsplit("_", 1)[0] for path in files]
    assert {subject: subjects.count(subject) for subject in SUBJECTS} == dict.fromkeys(SUBJECTS, 4)
    sizes = [read(path).shape[:2] for path in files]
    assert max(max(size) for size in sizes) <= 96
    assert min(min(size) for size in sizes) >= 32
    assert 0 < sum(height > width for height, width in sizes) < len(sizes)
    assert len(set(sizes)) > 10


def test_photographs_are_grey_and_two_have_one_name(root: Path) -> None:
    files = sorted((root / "photographs").rglob("*.jpg"))
    assert len(files) == 6
    assert len({path.stem for path in files}) == 5
    for path in files:
        assert cv2.imread(str(path), cv2.IMREAD_UNCHANGED).ndim == 2


def test_the_same_arguments_give_the_same_bytes(root: Path, tmp_path: Path) -> None:
    write_gallery(tmp_path, pictures=20, artists=5, side=96, seed=0)
    assert bytes_of(tmp_path) == bytes_of(root)
    (tmp_path / "other").mkdir()
    write_gallery(tmp_path / "other", pictures=20, artists=5, side=96, seed=1)
    assert bytes_of(tmp_path / "other") != bytes_of(root)


def test_things_have_their_colours() -> None:
    for seed in range(4):
        rng = np.random.default_rng(seed)
        sky, grass = (lab(painting(rng, SIZE, "landscape", 0.002, 0.0))[rows] for rows in (slice(8), slice(-8, None)))
        assert np.median(sky[..., 2]) < -5  # blue, or a white cloud
        assert np.median(grass[..., 1]) < -8
        assert np.median(grass[..., 2]) > 12
        wall = lab(painting(rng, SIZE, "house", 0.002, 0.0))[70:75, 60:68]
        assert np.median(wall[..., 1]) > 15
        face = lab(painting(rng, SIZE, "portrait", 0.002, 0.0))[40:46, 58:70]
        assert np.median(face[..., 0]) > 60
        assert 2 < np.median(face[..., 1]) < 25


def test_lightness_and_place_tell_more_of_the_colour_than_its_mean() -> None:
    """Of five pictures of one subject, four tell the colours of the fifth by their nearest pixels in L and row."""
    for subject in SUBJECTS:
        rng = np.random.default_rng(3)
        pictures = [lab(painting(rng, SIZE, subject, 0.004, 0.0))[::4, ::4] for _ in range(5)]
        rows = np.repeat(np.arange(24)[:, None], 32, axis=1)
        points = np.concatenate([np.stack([each[..., 0], 2 * rows], axis=-1).reshape(-1, 2) for each in pictures[:4]])
        colours = np.concatenate([each[..., 1:].reshape(-1, 2) for each in pictures[:4]])
        asked, truth = np.stack([pictures[4][..., 0], 2 * rows], axis=-1).reshape(-1, 2), pictures[4][..., 1:]
        distances = ((asked[:, None] - points) ** 2).sum(axis=2)
        nearest = np.argpartition(distances, 30, axis=1)[:, :30]
        found = colours[nearest].mean(axis=1) - truth.reshape(-1, 2)
        constant = colours.mean(axis=0) - truth.reshape(-1, 2)
        assert (found**2).mean() < 0.8 * (constant**2).mean(), subject


def test_a_photograph_is_the_picture_without_its_colours() -> None:
    picture = painting(np.random.default_rng(0), SIZE, "house", 0.002, 0.0)
    grey = photograph(np.random.default_rng(1), picture)
    assert grey.shape == SIZE
    assert np.corrcoef(grey[24:72, 32:96].ravel(), picture[24:72, 32:96].mean(axis=2).ravel())[0, 1] > 0.9
    assert grey[:8, :8].mean() < 0.9 * picture[:8, :8].mean()  # dark corners


def test_the_data_module_reads_it(root: Path) -> None:
    data = ColorizationDataModule(root, size=32, pictures=root / "photographs")
    assert problems(data) == []
    data.setup("fit")
    assert {split: len(data.datasets[split]) for split in ("train", "val", "test")} == {
        "train": 12,
        "val": 4,
        "test": 4,
    }
    data.setup("predict")
    assert data.datasets["predict"].names[-2:] == ["1901/landscape.jpg", "1901/still_life.jpg"]


@pytest.mark.parametrize("wrong", [{"pictures": 2}, {"size": 79}])
def test_nothing_to_draw_is_refused(tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}=.*wanted"):
        draw_colorization(tmp_path / "gallery", **wrong)
    assert not list(tmp_path.iterdir())


def test_the_command_line_draws_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["samples", "colorization", str(tmp_path / "drawn"), "--pictures", "3"])
    samples.main()
    assert f"{tmp_path / 'drawn' / 'metadata.csv'}" in capsys.readouterr().out
    assert {row["artist"] for row in table(tmp_path / "drawn" / "metadata.csv")} == set(NAMES[:3])
