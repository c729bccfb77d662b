import re
import sys
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.random import default_rng

from datamodules.aesthetics import AestheticsDataModule
from datamodules.avalanches import AvalanchesDataModule
from datamodules.clouds import CloudsDataModule
from datamodules.colorization import ColorizationDataModule
from datamodules.roads import RoadsDataModule
from datamodules.samples import __main__ as samples
from datamodules.samples.aesthetics import TAG_NAMES, TAGS
from datamodules.samples.avalanches import mountain, outlined
from datamodules.samples.clouds import CLOUD_CLASSES, cloud_picture
from datamodules.samples.colorization import NAMES
from datamodules.samples.paintings import SUBJECTS
from datamodules.samples.roads import road_tile
from ops.errors import ArgumentError
from ops.masks.rle import decode
from tests.datamodules.helpers import contents, csv_rows

SMALL: dict[str, dict[str, Any]] = {
    "clouds": {"pictures": 8, "test_pictures": 2, "size": (64, 96)},
    "roads": {"tiles": 8, "size": 64},
    "avalanches": {"pictures": 8, "size": (64, 96)},
    "colorization": {"pictures": 20, "size": 80},
    "aesthetics": {"pictures": 40, "size": 96},
}


def read(path: Path) -> np.ndarray:
    """RGB (H, W, 3), or gray (H, W)."""
    values = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    return values if values.ndim == 2 else values[..., ::-1]


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("samples")
    return {task: samples.SAMPLES[task](folder / task, **options) for task, options in SMALL.items()}


def test_the_data_modules_read_them(roots: dict[str, Path]) -> None:
    modules = [
        CloudsDataModule(roots["clouds"], size=(32, 48)),
        RoadsDataModule(roots["roads"], size=(64, 64), val_fraction=0.25, pictures=roots["roads"] / "pictures"),
        AvalanchesDataModule(roots["avalanches"], window=17, pictures=roots["avalanches"] / "images"),
        ColorizationDataModule(roots["colorization"], size=32, pictures=roots["colorization"] / "photographs"),
        AestheticsDataModule(roots["aesthetics"], size=28, load_size=32, pictures=roots["aesthetics"] / "album"),
    ]
    for task, data in zip(SMALL, modules, strict=True):
        assert import_module(f"datamodules.describe.{task}").problems(data) == []
        data.setup("fit")
        assert min(len(data.datasets[split]) for split in ("train", "val", "test")) > 0
        data.setup("predict")
    assert modules[3].datasets["predict"].names[-2:] == ["1901/landscape.jpg", "1901/still_life.jpg"]
    stars = AestheticsDataModule(roots["aesthetics"] / "stars", size=28, load_size=32)
    assert len(stars.checked().votes) == 20


@pytest.mark.parametrize("task", SMALL)
def test_the_same_seed_gives_the_same_bytes(task: str, roots: dict[str, Path], tmp_path: Path) -> None:
    draw, first = samples.SAMPLES[task], contents(roots[task])
    assert contents(draw(tmp_path / "again", **SMALL[task])) == first
    other = contents(draw(tmp_path / "other", **SMALL[task], seed=1))
    images = [name for name in first if name.endswith((".jpg", ".png")) and "masks" not in name]
    assert len(images) >= 9
    assert all(first[name] != other.get(name) for name in images)


@pytest.mark.parametrize(
    ("task", "argument", "value"),
    [
        ("clouds", "pictures", 0),
        ("clouds", "test_pictures", -1),
        ("clouds", "size", (64, 40)),
        ("roads", "tiles", 1),
        ("roads", "size", 63),
        ("avalanches", "pictures", 0),
        ("avalanches", "size", (64, 40)),
        ("colorization", "pictures", 2),
        ("colorization", "size", 79),
        ("aesthetics", "pictures", 9),
        ("aesthetics", "size", 63),
    ],
)
def test_too_small_arguments_are_rejected(task: str, argument: str, value: Any, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=f"{argument}=.*expected"):
        samples.SAMPLES[task](tmp_path / "sample", **{argument: value})
    assert not list(tmp_path.iterdir())


def test_the_command_line_draws_and_lists_a_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: object) -> None:
        monkeypatch.setattr(sys, "argv", ["samples", *map(str, arguments)])
        samples.main()

    run("avalanches", tmp_path / "drawn", "--pictures", 1)
    assert f"{tmp_path / 'drawn' / 'references'}: 1 files" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        run("avalanches", tmp_path / "drawn", "--pictures", 1, "--seed", 3)
    assert "holds another sample" in capsys.readouterr().err
    calls = []
    monkeypatch.setitem(samples.SAMPLES, "roads", lambda *a, **o: calls.append((a, o)) or tmp_path)
    run("roads", tmp_path)  # the number of images is the sample's own
    assert calls == [((tmp_path,), {"seed": 0})]


def test_clouds_have_kaggles_layout(roots: dict[str, Path]) -> None:
    root = roots["clouds"]
    for name, folder, count in (("train", "train_images", 8), ("sample_submission", "test_images", 2)):
        images = sorted(path.name for path in (root / folder).iterdir())
        assert len(images) == count
        assert all(re.fullmatch(r"[0-9a-f]{7}\.jpg", image) for image in images)
        labels = [row["Image_Label"] for row in csv_rows(root / f"{name}.csv")]
        assert labels == [f"{image}_{cloud}" for image in images for cloud in CLOUD_CLASSES]


def best_dice(values: np.ndarray, truth: np.ndarray) -> float:
    """The best that a threshold on one value of each pixel gives, in either direction."""
    marked = [mask for level in range(0, 256, 4) for mask in (values > level, values <= level)]
    return max(2 * (mask & truth).sum() / (mask.sum() + truth.sum()) for mask in marked)


def test_no_threshold_solves_roads_or_avalanches() -> None:
    tiles = [road_tile(default_rng(seed), (128, 128), seed % 3) for seed in range(12)]
    image, mask = (np.stack(part) for part in zip(*tiles, strict=True))
    assert 0.3 < best_dice(np.ptp(image.astype(int), axis=3), mask > 127) < 0.85
    for seed in range(8):
        image, mask = mountain(default_rng(seed), (96, 144), sunny=seed % 2 == 0)
        assert set(np.unique(mask)) == {0, 255}
        assert 0.02 < (mask > 0).mean() < 0.6
        assert not mask[:6].any()  # the sky
        assert best_dice(image.mean(axis=2), mask > 0) < 0.8


@pytest.mark.parametrize("seed", range(3))
def test_half_of_the_cloud_masks_are_empty(tmp_path: Path, seed: int) -> None:
    root = samples.draw_clouds(tmp_path / "clouds", test_pictures=0, size=(64, 96), seed=seed)
    codes = [row["EncodedPixels"] for row in csv_rows(root / "train.csv")]
    filled = np.array([bool(code) for code in codes]).reshape(-1, 4)
    assert 0.35 < filled.mean() < 0.65
    assert set(filled.sum(axis=1)) == {1, 2, 3, 4}
    assert (filled.mean(axis=0) > 0.35).all()
    assert all(0.05 < decode(code, (64, 96)).mean() < 0.95 for code in codes if code)
    gaps = [(read(path) < 8).all(axis=2).any(axis=1).all() for path in (root / "train_images").iterdir()]
    assert 14 <= sum(gaps) <= 16


def test_clouds_lie_inside_masks_that_are_a_few_boxes() -> None:
    for seed in range(6):
        image, masks = cloud_picture(default_rng(seed), (140, 210), CLOUD_CLASSES[: 1 + seed % 4], gap=False)
        clouds = image.mean(axis=2) > 100
        assert (clouds & np.any(list(masks.values()), axis=0)).sum() > 0.8 * clouds.sum() > 0
        for mask in masks.values():
            for axis in (0, 1):
                edges = np.diff(mask.astype(np.int8), axis=axis, prepend=0, append=0).any(axis=1 - axis)
                assert 2 <= edges.sum() <= 6
    image, _ = cloud_picture(default_rng(0), (140, 210), ["Sugar"], gap=True)
    assert 0.01 < (image == 0).all(axis=2).mean() < 0.12


def test_roads_are_gray_lines_of_one_width_and_half_of_the_tiles_have_some(roots: dict[str, Path]) -> None:
    root = roots["roads"]
    rows = csv_rows(root / "categories.csv")
    assert sorted(row["category"] for row in rows) == ["no_road"] * 4 + ["road"] * 4
    for row in rows:
        mask = read(root / "masks" / row["image"])
        assert mask.any() == (row["category"] == "road")
        assert ((mask > 0) & (mask < 255)).any() == mask.any()  # soft edges
    assert read(root / "pictures" / "town.png").shape == (154, 205, 3)
    for seed, size in product(range(3), [(96, 96), (256, 256), (400, 300)]):
        image, mask = road_tile(default_rng(seed), size, 1)
        distance = cv2.distanceTransform((mask > 127).astype(np.uint8), cv2.DIST_L2, 5)
        middle = (distance > 2) & (distance == cv2.dilate(distance, np.ones((5, 5))))
        assert 12 < 2 * np.median(distance[middle]) < 25
        edge = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
        assert (edge > 127).any()
        saturation = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)[..., 1]
        assert np.median(saturation[mask == 255]) < 0.7 * np.median(saturation[mask == 0])


def test_avalanches_have_boxes_conditions_and_references(roots: dict[str, Path]) -> None:
    root = roots["avalanches"]
    names = [f"avalanche_{index:03d}.jpg" for index in range(8)]
    conditions = csv_rows(root / "conditions.csv")
    assert [row["image"] for row in conditions] == names
    assert sorted(row["condition"] for row in conditions) == ["shady"] * 4 + ["sunny"] * 4
    boxes = csv_rows(root / "boxes.csv")
    assert [row["image"] for row in boxes] == names[1::2]
    for row in boxes:
        x0, y0, x1, y1 = (int(row[corner]) for corner in ("x0", "y0", "x1", "y1"))
        mask = read(root / "masks" / row["image"])
        assert ((mask > 0) & (mask < 255)).any()  # JPEG
        assert (mask[y0:y1, x0:x1] >= 127).sum() == (mask >= 127).sum() > 0
    image, mask = mountain(default_rng(0), (96, 144), sunny=True)
    changed = (outlined(image, mask) != image).any(axis=2)
    rim = cv2.morphologyEx(np.pad(mask, 9), cv2.MORPH_GRADIENT, np.ones((5, 5)))[9:-9, 9:-9] > 0
    assert changed.sum() > 50
    assert not changed[~rim].any()


def test_paintings_have_artists_of_all_shapes(roots: dict[str, Path]) -> None:
    root = roots["colorization"]
    files = sorted((root / "images").rglob("*.*"))
    rows = csv_rows(root / "metadata.csv")
    assert [row["image"] for row in rows] == [path.relative_to(root / "images").as_posix() for path in files]
    assert {row["artist"] for row in rows} == set(NAMES[:3])
    assert all(row["image"].startswith(row["artist"].lower()) for row in rows)
    assert all(1650 <= int(row["year"]) < 1920 for row in rows)
    assert {path.suffix for path in files} == {".png", ".jpg"}
    subjects = [path.stem.rsplit("_", 1)[0] for path in files]
    assert {subject: subjects.count(subject) for subject in SUBJECTS} == dict.fromkeys(SUBJECTS, 4)
    sizes = [read(path).shape[:2] for path in files]
    assert max(map(max, sizes)) <= 80
    assert len(set(sizes)) > 10
    photographs = sorted((root / "photographs").rglob("*.jpg"))
    assert [read(path).ndim for path in photographs] == [2] * 6
    assert len({path.stem for path in photographs}) == 5


def votes_of(root: Path) -> dict[str, list[int]]:
    """Votes, tags and challenge of AVA by id."""
    lines = [line.split(" ") for line in (root / "AVA.txt").read_text().splitlines()]
    assert [int(line[0]) for line in lines] == list(range(1, len(lines) + 1))
    return {line[1]: list(map(int, line[2:])) for line in lines}


def mean(votes: list[int]) -> float:
    return sum(vote * count for vote, count in enumerate(votes, start=1)) / sum(votes)


def test_votes_have_avas_layout_and_its_shares(roots: dict[str, Path]) -> None:
    root, rows = roots["aesthetics"], votes_of(roots["aesthetics"])
    assert {path.name for path in (root / "images").iterdir()} == {f"{name}.jpg" for name in rows}
    assert {len(row) for row in rows.values()} == {13}
    assert {tuple(row[10:12]) for row in rows.values()} == {(0, 0), *TAGS.values()}
    names = dict(line.split(" ", 1) for line in (root / "tags.txt").read_text().splitlines())
    assert names == {str(number): name for number, name in TAG_NAMES.items()}
    test = (root / "aesthetics_image_lists" / "generic_test.jpgl").read_text().split()
    assert len(set(test) & set(rows)) == len(test) == 8
    means = np.array([mean(row[:10]) for row in rows.values()])
    assert 0.6 <= (means > 5).mean() <= 0.8
    assert (abs(means - 5) < 0.5).sum() >= 4
    stars = csv_rows(root / "stars" / "labels.csv")
    assert list(stars[0]) == ["image", "count_1", "count_2", "count_3", "count_4", "count_5"]
    assert sorted(path.name for path in (root / "stars" / "images").iterdir()) == [row["image"] for row in stars]
    album = sorted(path.relative_to(root / "album").as_posix() for path in (root / "album").rglob("*.jpg"))
    assert album == [f"{day}/IMG_{number:04d}.jpg" for day in ("birthday", "journey") for number in range(1, 7)]


def measures(image: np.ndarray) -> list[float]:
    """Sharpness, color, contrast, light and grain."""
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    a, b = np.moveaxis(cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[..., 1:], 2, 0)
    fine = cv2.Laplacian(cv2.GaussianBlur(gray, (0, 0), 1.5), cv2.CV_32F).std()
    return [np.log(fine + 0.1), np.hypot(a, b).mean(), gray.std(), gray.mean(), np.log(cv2.Laplacian(gray, 5).std())]


def test_simple_measures_of_photographs_predict_their_votes(tmp_path: Path) -> None:
    rows = votes_of(samples.draw_aesthetics(tmp_path / "photographs", pictures=120, size=96))
    found = np.array([measures(read(tmp_path / "photographs" / "images" / f"{name}.jpg")) for name in rows])
    found = (found - found.mean(axis=0)) / found.std(axis=0)
    truth = np.array([mean(row[:10]) > 5 for row in rows.values()])
    distances = np.linalg.norm(found[:, None] - found, axis=2) + 1e9 * np.eye(len(found))
    predicted = truth[distances.argsort(axis=1)[:, :3]].mean(axis=1) > 0.5
    assert (predicted[truth].mean() + (~predicted[~truth]).mean()) / 2 > 0.7
