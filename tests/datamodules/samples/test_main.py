import csv
import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import pytest

from datamodules.samples import __main__ as samples
from datamodules.samples.__main__ import draw_clouds
from ops.rle import decode

CLASSES = ["Fish", "Flower", "Gravel", "Sugar"]
SMALL = {"pictures": 4, "test_pictures": 2, "size": (64, 96)}


def rows_of(table: Path) -> list[tuple[str, str]]:
    with table.open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["Image_Label", "EncodedPixels"]
    return [(label, code) for label, code in rows]


def picture_of(root: Path, name: str) -> np.ndarray:
    return cv2.imread(str(root / "train_images" / name))


def bytes_of(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_clouds(tmp_path_factory.mktemp("drawn") / "clouds")


@pytest.fixture(scope="module")
def masks(root: Path) -> Mapping[str, np.ndarray]:
    """The masks that are not empty, by label."""
    return {label: decode(code, (280, 420)) for label, code in rows_of(root / "train.csv") if code}


def test_layout_is_kaggles(root: Path) -> None:
    expected = ["sample.json", "sample_submission.csv", "test_images", "train.csv", "train_images"]
    assert sorted(path.name for path in root.iterdir()) == expected
    for table, folder, count in [
        ("train.csv", "train_images", 48),
        ("sample_submission.csv", "test_images", 6),
    ]:
        names = sorted(path.name for path in (root / folder).iterdir())
        assert len(names) == count
        assert all(re.fullmatch(r"[0-9a-f]{7}\.jpg", name) for name in names)
        labels = [label for label, _ in rows_of(root / table)]
        assert labels == [f"{name}_{cloud}" for name in names for cloud in CLASSES]
        assert {cv2.imread(str(root / folder / name)).shape for name in names} == {(280, 420, 3)}
    assert {code for _, code in rows_of(root / "sample_submission.csv")} == {"1 1"}
    assert b"\r" not in (root / "train.csv").read_bytes()
    assert not list(root.parent.glob(".*"))


def test_train_and_test_share_no_name(root: Path) -> None:
    train, test = ({path.name for path in (root / f"{part}_images").iterdir()} for part in ("train", "test"))
    assert not train & test


def test_codes_are_the_masks_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[dict[str, np.ndarray]] = []
    cloud_picture = samples.cloud_picture

    def recorded(*arguments: object) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        picture, masks = cloud_picture(*arguments)
        drawn.append(masks)
        return picture, masks

    monkeypatch.setattr(samples, "cloud_picture", recorded)
    rows = rows_of(draw_clouds(tmp_path / "clouds", pictures=8, size=(70, 110)) / "train.csv")
    for index, (label, code) in enumerate(rows):
        expected = drawn[index // 4].get(label.split("_")[1], np.zeros((70, 110), bool))
        np.testing.assert_array_equal(decode(code, (70, 110)), expected)


def test_masks_are_unions_of_up_to_three_overlapping_boxes(masks: Mapping[str, np.ndarray]) -> None:
    for mask in masks.values():
        assert 0.05 < mask.mean() < 0.95
        assert cv2.connectedComponents(mask.astype(np.uint8))[0] == 2  # water and one piece
        for axis in (0, 1):
            edges = np.diff(mask.astype(np.int8), axis=axis, prepend=0, append=0).any(axis=1 - axis)
            assert 2 <= edges.sum() <= 6
    boxes = [mask.sum() == mask.any(axis=0).sum() * mask.any(axis=1).sum() for mask in masks.values()]
    assert 0 < sum(boxes) < len(boxes)


def test_clouds_lie_inside_the_masks(root: Path, masks: Mapping[str, np.ndarray]) -> None:
    for name in {label.split("_")[0] for label in masks}:
        union = np.any([masks[f"{name}_{cloud}"] for cloud in CLASSES if f"{name}_{cloud}" in masks], axis=0)
        clouds = picture_of(root, name).mean(axis=2) > 100
        assert (clouds & union).sum() > 0.8 * clouds.sum() > 0


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_shares_are_those_of_the_real_data(tmp_path: Path, seed: int) -> None:
    root = draw_clouds(tmp_path / "clouds", test_pictures=0, size=(64, 96), seed=seed)
    filled = np.array([bool(code) for _, code in rows_of(root / "train.csv")]).reshape(-1, 4)
    assert 0.35 < 1 - filled.mean() < 0.65
    assert set(filled.sum(axis=1)) == {1, 2, 3, 4}
    assert (filled.mean(axis=0) > 0.35).all()


def test_a_gap_crosses_a_third_of_the_pictures_and_some_masks(root: Path, masks: Mapping[str, np.ndarray]) -> None:
    crossed = set()
    for path in (root / "train_images").iterdir():
        black = (picture_of(root, path.name) < 8).all(axis=2)
        if black.any():
            assert black.any(axis=1).all()  # from top to bottom
            assert 0.01 < black.mean() < 0.12
            crossed.add(path.name)
            for label in masks:
                if label.startswith(path.name) and (masks[label] & black).sum() > 200:
                    crossed.add(label)
    gaps = [name for name in crossed if name.endswith(".jpg")]
    assert len(gaps) == 16
    assert len(crossed) - len(gaps) >= 6


def test_patterns_differ_in_brightness_and_texture(root: Path, masks: Mapping[str, np.ndarray]) -> None:
    found: dict[str, list[tuple[float, float, float]]] = {cloud: [] for cloud in CLASSES}
    for label, mask in masks.items():
        name, cloud = label.split("_")
        picture = picture_of(root, name)
        others = [other for key, other in masks.items() if key.startswith(name) and key != label]
        alone = np.all([mask, ~(picture < 8).all(axis=2), *(~other for other in others)], axis=0)
        light = picture.mean(axis=2)[alone] / 255
        slope = np.hypot(*np.gradient(picture.mean(axis=2) / 255))[alone]
        found[cloud].append((light.mean(), light.std(), slope.mean() / light.std()))
    brightness, contrast, roughness = (
        {cloud: np.array(values)[:, column] for cloud, values in found.items()} for column in range(3)
    )
    assert contrast["Sugar"].max() < 0.13 < 0.17 < min(contrast[cloud].min() for cloud in CLASSES[:3])
    assert roughness["Flower"].max() < min(roughness[cloud].min() for cloud in ("Fish", "Gravel", "Sugar"))
    assert brightness["Fish"].mean() > brightness["Gravel"].mean() + 0.05


def test_same_arguments_give_the_same_bytes(tmp_path: Path) -> None:
    first = bytes_of(draw_clouds(tmp_path / "first", **SMALL))
    assert bytes_of(draw_clouds(tmp_path / "second", **SMALL)) == first
    other = bytes_of(draw_clouds(tmp_path / "other", **SMALL, seed=1))
    assert other.keys().isdisjoint(name for name in first if name.endswith(".jpg"))
    assert other["train.csv"] != first["train.csv"]


def test_a_sample_is_drawn_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = draw_clouds(tmp_path / "new" / "clouds", **SMALL)
    assert json.loads((root / "sample.json").read_text())["size"] == [64, 96]
    (root / "cache.npz").write_bytes(b"written by its user")
    monkeypatch.setattr(samples, "cloud_picture", None)
    before = bytes_of(root)
    assert draw_clouds(root, **SMALL) == root
    assert bytes_of(root) == before


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    assert (draw_clouds(tmp_path, **SMALL) / "train.csv").is_file()


@pytest.mark.parametrize("content", ["notes.txt", "train.csv"])
def test_a_folder_with_other_content_is_refused_and_left(tmp_path: Path, content: str) -> None:
    (tmp_path / content).write_text("mine")
    with pytest.raises(ValueError, match=r"holds what is no sample; .* wanted, .* Name another folder"):
        draw_clouds(tmp_path, **SMALL)
    assert bytes_of(tmp_path) == {content: b"mine"}


def test_another_sample_is_refused_and_left(tmp_path: Path) -> None:
    before = bytes_of(draw_clouds(tmp_path / "clouds", **SMALL))
    with pytest.raises(ValueError, match=r'holds another sample, .*"seed": 0.* wanted, .*"seed": 5'):
        draw_clouds(tmp_path / "clouds", **SMALL, seed=5)
    assert bytes_of(tmp_path / "clouds") == before


def test_a_broken_off_drawing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("power cut")

    monkeypatch.setattr(samples, "cloud_picture", broken)
    with pytest.raises(RuntimeError, match="power cut"):
        draw_clouds(tmp_path / "clouds", **SMALL)
    assert not list(tmp_path.iterdir())


def test_two_processes_may_draw_the_same_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, cloud_picture = tmp_path / "clouds", samples.cloud_picture

    def overtaken(*arguments: object) -> object:
        monkeypatch.setattr(samples, "cloud_picture", cloud_picture)
        draw_clouds(root, **SMALL)
        return cloud_picture(*arguments)

    monkeypatch.setattr(samples, "cloud_picture", overtaken)
    assert draw_clouds(root, **SMALL) == root
    assert [path.name for path in tmp_path.iterdir()] == ["clouds"]


@pytest.mark.parametrize("wrong", [{"pictures": 0}, {"test_pictures": -1}, {"size": (64, 40)}])
def test_nothing_to_draw_is_refused(tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}=.*wanted"):
        draw_clouds(tmp_path / "clouds", **wrong)
    assert not list(tmp_path.iterdir())


def test_command_line_says_what_it_wrote(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "datamodules.samples",
        "clouds",
        str(tmp_path / "clouds"),
        "--pictures",
        "2",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"{tmp_path / 'clouds' / 'train_images'}: 2 pictures" in done.stdout
    again = subprocess.run([*command, "--seed", "3"], capture_output=True, text=True)
    assert again.returncode == 2
    assert "holds another sample" in again.stderr
