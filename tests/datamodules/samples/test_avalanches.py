import csv
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from datamodules.avalanches import AvalanchesDataModule
from datamodules.describe.avalanches import problems
from datamodules.samples import __main__ as samples
from datamodules.samples.__main__ import draw_avalanches
from datamodules.samples.avalanches import box_around, mountain, outlined

NAMES = [f"avalanche_{index:03d}.jpg" for index in range(8)]


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def bytes_of(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def read(root: Path, part: str, name: str) -> np.ndarray:
    """RGB (H, W, 3), or grey (H, W) of masks."""
    values = cv2.imread(str(root / part / name), cv2.IMREAD_UNCHANGED)
    return values if values.ndim == 2 else values[..., ::-1]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_avalanches(tmp_path_factory.mktemp("drawn") / "avalanches", pictures=8, size=(96, 144))


@pytest.fixture(scope="module")
def painted() -> list[tuple[np.ndarray, np.ndarray]]:
    """Six pictures with their masks, every other one sunny."""
    return [mountain(np.random.default_rng(seed), (96, 144), seed % 2 == 0) for seed in range(6)]


def test_layout(root: Path) -> None:
    expected = ["boxes.csv", "conditions.csv", "images", "masks", "references", "sample.json"]
    assert sorted(path.name for path in root.iterdir()) == expected
    for part, shape in (("images", (96, 144, 3)), ("masks", (96, 144)), ("references", (96, 144, 3))):
        assert sorted(path.name for path in (root / part).iterdir()) == NAMES
        assert {read(root, part, name).shape for name in NAMES} == {shape}
    assert b"\r" not in (root / "boxes.csv").read_bytes() + (root / "conditions.csv").read_bytes()
    assert not list(root.parent.glob(".*"))


def test_tables_name_half_of_the_pictures(root: Path) -> None:
    conditions = table(root / "conditions.csv")
    assert [row["image"] for row in conditions] == NAMES
    assert sorted(row["condition"] for row in conditions) == ["shady"] * 4 + ["sunny"] * 4
    assert [row["image"] for row in table(root / "boxes.csv")] == NAMES[1::2]


def test_boxes_hold_their_avalanches_and_little_more(root: Path) -> None:
    for row in table(root / "boxes.csv"):
        x0, y0, x1, y1 = (int(row[corner]) for corner in ("x0", "y0", "x1", "y1"))
        mask = read(root, "masks", row["image"]) >= 127
        assert mask[y0:y1, x0:x1].sum() == mask.sum() > 0
        assert (x1 - x0) * (y1 - y0) < 1.25 * np.ptp(np.nonzero(mask), axis=1).prod()


def test_masks_are_jpegs_with_greys(root: Path) -> None:
    for name in NAMES:
        mask = read(root, "masks", name)
        assert ((mask > 0) & (mask < 255)).any()
        assert ((mask > 60) & (mask < 195)).mean() < 0.01


@pytest.mark.parametrize("seed", range(20))
def test_every_picture_shows_a_piece_of_avalanche_and_more_of_the_rest(seed: int) -> None:
    _, mask = mountain(np.random.default_rng(seed), (64, 96), seed % 2 == 0)
    assert set(np.unique(mask)) == {0, 255}
    assert 0.02 < (mask > 0).mean() < 0.6
    assert not mask[:6].any()  # the sky
    sizes = cv2.connectedComponentsWithStats((mask > 0).astype(np.uint8))[2][1:, cv2.CC_STAT_AREA]
    assert sizes.max() > 0.8 * sizes.sum()


def test_sunny_pictures_are_brighter_and_their_shadows_blue(painted: list[tuple[np.ndarray, np.ndarray]]) -> None:
    grounds = [picture[48:].mean() for picture, _ in painted]
    assert min(grounds[::2]) > max(grounds[1::2])
    for picture, _ in painted[::2]:
        shadow = picture[48:][(picture[48:].mean(axis=2) > 100) & (picture[48:].mean(axis=2) < 170)]
        assert shadow[:, 2].mean() > shadow[:, 0].mean() + 5


def test_the_avalanche_is_rougher_than_the_snow_beside_it(painted: list[tuple[np.ndarray, np.ndarray]]) -> None:
    for picture, mask in painted:
        light = cv2.GaussianBlur(picture.mean(axis=2), (0, 0), 1)
        slope = np.hypot(*np.gradient(light))
        inside = cv2.erode(mask, np.ones((7, 7))) > 0
        near = (cv2.dilate(mask, np.ones((25, 25))) > 0) & ~(cv2.dilate(mask, np.ones((7, 7))) > 0)
        inside[:58], near[:58] = False, False  # where rocks are, which are as rough
        assert np.median(slope[inside]) > 1.3 * np.median(slope[near])


def test_brightness_alone_does_not_find_it(painted: list[tuple[np.ndarray, np.ndarray]]) -> None:
    for picture, mask in painted:
        light, truth = picture.mean(axis=2), mask > 0
        scores = [2 * (marked & truth).sum() / (marked.sum() + truth.sum())
                  for level in range(0, 256, 4) for marked in (light > level, light <= level)]  # fmt: skip
        assert max(scores) < 0.75


def test_references_are_the_pictures_with_a_red_outline(painted: list[tuple[np.ndarray, np.ndarray]]) -> None:
    for picture, mask in painted:
        changed = (outlined(picture, mask) != picture).any(axis=2)
        padded = np.pad(mask, 9)  # the outline runs along the picture's edge too
        rim = cv2.morphologyEx(padded, cv2.MORPH_GRADIENT, np.ones((5, 5)))[9:-9, 9:-9] > 0
        assert changed[~rim].sum() == 0
        assert changed.sum() > 50
        assert (outlined(picture, mask)[changed] @ [1, -0.5, -0.5]).mean() > 60


def test_a_box_ends_at_the_pictures_edge() -> None:
    mask = np.zeros((50, 100), np.uint8)
    mask[20:50, 10:50] = 255
    assert box_around(mask) == (8, 19, 52, 50)


def test_the_data_module_reads_it(root: Path) -> None:
    data = AvalanchesDataModule(root, window=17, pyramid_levels=1)
    assert problems(data) == []
    data.setup("fit")
    assert {split: len(data.datasets[split]) for split in ("val", "test")} == {"val": 2, "test": 2}


def test_same_arguments_give_the_same_bytes(root: Path, tmp_path: Path) -> None:
    again = draw_avalanches(tmp_path / "again", pictures=8, size=(96, 144))
    assert bytes_of(again) == bytes_of(root)
    other = draw_avalanches(tmp_path / "other", pictures=1, size=(64, 96), seed=1)
    assert (other / "images" / NAMES[0]).is_file()
    with pytest.raises(ValueError, match="holds another sample"):
        draw_avalanches(other, pictures=1, size=(64, 96), seed=2)


@pytest.mark.parametrize("wrong", [{"pictures": 0}, {"size": (64, 40)}])
def test_nothing_to_draw_is_refused(tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}=.*wanted"):
        draw_avalanches(tmp_path / "avalanches", **wrong)
    assert not list(tmp_path.iterdir())


def test_the_command_line_draws_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["samples", "avalanches", str(tmp_path / "drawn"), "--pictures", "1"])
    samples.main()
    assert f"{tmp_path / 'drawn' / 'references'}: 1 pictures" in capsys.readouterr().out
