import csv
import sys
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import pytest

from datamodules.samples import __main__ as samples
from datamodules.samples.__main__ import draw_clouds, draw_roads
from datamodules.samples.roads import road_tile

SMALL = {"tiles": 4, "size": 64}


def bytes_of(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def rows_of(root: Path) -> list[list[str]]:
    with (root / "categories.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["image", "category"]
    return rows


def dice(marked: np.ndarray, truth: np.ndarray) -> float:
    return float(2 * (marked & truth).sum() / (marked.sum() + truth.sum()))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_roads(tmp_path_factory.mktemp("drawn") / "roads", tiles=24, size=192)


@pytest.fixture(scope="module")
def pictures(root: Path) -> np.ndarray:
    """Blue, green, red of every tile, (N, H, W, 3)."""
    return np.stack([cv2.imread(str(root / "images" / name), cv2.IMREAD_UNCHANGED) for name, _ in rows_of(root)])


@pytest.fixture(scope="module")
def masks(root: Path) -> np.ndarray:
    """The masks of every tile, (N, H, W)."""
    return np.stack([cv2.imread(str(root / "masks" / name), cv2.IMREAD_UNCHANGED) for name, _ in rows_of(root)])


def test_layout(root: Path, pictures: np.ndarray, masks: np.ndarray) -> None:
    expected = ["categories.csv", "images", "masks", "pictures", "sample.json"]
    assert sorted(path.name for path in root.iterdir()) == expected
    names = [f"tile_{index:04d}.png" for index in range(24)]
    for part in ("images", "masks"):
        assert sorted(path.name for path in (root / part).iterdir()) == names
    assert [name for name, _ in rows_of(root)] == names
    assert b"\r" not in (root / "categories.csv").read_bytes()
    assert (pictures.shape, pictures.dtype) == ((24, 192, 192, 3), np.uint8)
    assert (masks.shape, masks.dtype) == ((24, 192, 192), np.uint8)
    assert not list(root.parent.glob(".*"))


def test_the_picture_to_predict_is_larger_and_no_whole_number_of_tiles(root: Path) -> None:
    assert [path.name for path in (root / "pictures").iterdir()] == ["town.png"]
    assert cv2.imread(str(root / "pictures" / "town.png"), cv2.IMREAD_UNCHANGED).shape == (461, 614, 3)


def test_categories_say_whether_the_mask_has_road(root: Path, masks: np.ndarray) -> None:
    categories = [category for _, category in rows_of(root)]
    assert sorted(categories) == ["no_road"] * 12 + ["road"] * 12
    assert categories != sorted(categories)  # shuffled, so that the first tiles are of both
    for category, mask in zip(categories, masks, strict=True):
        if category == "no_road":
            assert not mask.any()
        else:
            assert 0.03 < (mask > 127).mean() < 0.45


@pytest.mark.parametrize(("tiles", "roads"), [(2, 1), (5, 3)])
def test_categories_are_dealt_among_few_tiles_too(tmp_path: Path, tiles: int, roads: int) -> None:
    root = draw_roads(tmp_path / "roads", tiles=tiles, size=64)
    assert [category for _, category in rows_of(root)].count("road") == roads


def test_masks_are_two_valued_with_a_thin_grey_rim(masks: np.ndarray) -> None:
    road = masks[masks.any(axis=(1, 2))]
    assert ((road == 255).any(axis=(1, 2)) & (road == 0).any(axis=(1, 2))).all()
    greys = (road > 0) & (road < 255)
    assert 0.003 < greys.mean() < 0.04
    for mask, grey in zip(road, greys, strict=True):
        border = cv2.morphologyEx((mask > 127).astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((5, 5), np.uint8))
        assert border[grey].mean() > 0.98


def test_roads_are_as_wide_in_large_pictures_as_in_small_ones() -> None:
    for seed, size in product(range(3), [(96, 96), (256, 256), (400, 300)]):
        _, mask = road_tile(np.random.default_rng(seed), size, 1)
        distance = cv2.distanceTransform((mask > 127).astype(np.uint8), cv2.DIST_L2, 5)
        middle = (distance > 2) & (distance == cv2.dilate(distance, np.ones((5, 5))))
        assert 12 < 2 * np.median(distance[middle]) < 25  # 0.05 to 0.09 of 256 pixels, give or take one


@pytest.mark.parametrize("roads", [0, 1, 4])
def test_every_road_crosses_the_frame(roads: int) -> None:
    for seed in range(6):
        picture, mask = road_tile(np.random.default_rng(seed), (128, 200), roads)
        assert picture.shape == (128, 200, 3)
        assert mask.shape == (128, 200)
        assert cv2.connectedComponents((mask > 127).astype(np.uint8))[0] == 1 + (roads > 0)  # one network
        edge = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
        assert (edge > 127).any() == (roads > 0)


def test_roads_are_greyer_than_the_land_beside_them(pictures: np.ndarray, masks: np.ndarray) -> None:
    for picture, mask in zip(pictures, masks, strict=True):
        if mask.any():
            saturation = cv2.cvtColor(picture, cv2.COLOR_BGR2HSV)[..., 1]
            beside = (mask == 0) & (cv2.dilate(mask, np.ones((41, 41))) > 0)
            assert np.median(saturation[mask == 255]) < 0.7 * np.median(saturation[beside])


def test_grey_alone_does_not_find_roads(pictures: np.ndarray, masks: np.ndarray) -> None:
    truth = masks > 127
    colours = np.stack([cv2.cvtColor(picture, cv2.COLOR_BGR2HSV) for picture in pictures])
    saturation, brightness = colours[..., 1], colours[..., 2]
    found = [
        dice((saturation < grey) & (brightness >= dark) & (brightness < light), truth)
        for grey, dark, light in product(range(10, 61, 10), range(0, 121, 40), range(130, 261, 30))
    ]
    assert 0.3 < max(found) < 0.7
    empty = ~masks.any(axis=(1, 2))
    assert (saturation[empty] < 20).mean() > 0.03  # roofs, yards and bare fields


def test_tiles_differ(pictures: np.ndarray) -> None:
    small = np.stack([cv2.resize(picture, (8, 8), interpolation=cv2.INTER_AREA) for picture in pictures])
    distances = np.abs(small[:, None].astype(float) - small).mean(axis=(2, 3, 4))
    assert distances[~np.eye(len(small), dtype=bool)].min() > 5


def test_same_arguments_give_the_same_bytes(tmp_path: Path) -> None:
    first = bytes_of(draw_roads(tmp_path / "first", **SMALL))
    assert bytes_of(draw_roads(tmp_path / "second", **SMALL)) == first
    other = bytes_of(draw_roads(tmp_path / "other", **SMALL, seed=1))
    pictures = [name for name in first if name.startswith(("images", "pictures"))]
    assert len(pictures) == 5
    assert all(other[name] != first[name] for name in pictures)


def test_a_sample_is_drawn_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = draw_roads(tmp_path / "roads", **SMALL)
    monkeypatch.setattr(samples, "road_tile", None)
    before = bytes_of(root)
    assert draw_roads(root, **SMALL) == root
    assert bytes_of(root) == before


def test_another_sample_is_refused_and_left(tmp_path: Path) -> None:
    before = bytes_of(draw_clouds(tmp_path, pictures=1, test_pictures=0, size=(64, 64)))
    with pytest.raises(ValueError, match=r'holds another sample, .*"clouds".* wanted, .*"roads".*Name another folder'):
        draw_roads(tmp_path, **SMALL)
    assert bytes_of(tmp_path) == before


@pytest.mark.parametrize("wrong", [{"tiles": 1}, {"size": 63}])
def test_nothing_to_draw_is_refused(tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}=.*wanted; ask for more"):
        draw_roads(tmp_path / "roads", **wrong)
    assert not list(tmp_path.iterdir())


def command_line(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr(sys, "argv", ["samples", *map(str, words)])
    samples.main()


def test_command_line_draws_roads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "roads"
    command_line(monkeypatch, "roads", root, "--pictures", 2, "--seed", 5)
    assert f"{root / 'images'}: 2 pictures" in capsys.readouterr().out
    assert bytes_of(root) == bytes_of(draw_roads(tmp_path / "python", tiles=2, seed=5))
    with pytest.raises(SystemExit, match="2"):
        command_line(monkeypatch, "roads", tmp_path / "refused", "--pictures", 1)
    assert "tiles=1" in capsys.readouterr().err


@pytest.mark.parametrize("task", ["clouds", "roads"])
def test_command_line_leaves_the_number_of_pictures_to_the_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    calls = []

    def draw(*arguments: object, **options: object) -> Path:
        calls.append((arguments, options))
        return tmp_path

    monkeypatch.setitem(samples.DRAWN_BY, task, draw)
    command_line(monkeypatch, task, tmp_path)
    assert calls == [((tmp_path,), {"seed": 0})]
