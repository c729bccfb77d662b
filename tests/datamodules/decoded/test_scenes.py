import csv
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.decoded import scenes as module
from datamodules.decoded.scenes import Scene, Scenes, decoded_scenes, level_size, reduced, reduced_mask
from datamodules.read.mask_files import MaskValues
from datamodules.read.masks import one_mask_each
from ops.exact.backends import Backend
from ops.exact.pyramids import pyramid
from tests.datamodules.helpers import assert_problems, assert_problems_in_any_order, noise, problems_of, truncate, write

SIZES = {"a.png": (37, 51), "b.png": (40, 30), "c.png": (37, 51)}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name, size in SIZES.items():
        write(tmp_path / "images" / name, rng.integers(0, 256, (*size, 3), np.uint8))
        write(tmp_path / "masks" / name, (cv2.GaussianBlur(rng.standard_normal(size), (0, 0), 2) > 0) * np.uint8(255))
    return tmp_path


def decoded(root: Path, levels: int = 0, window: int = 5) -> Scenes:
    return decoded_scenes("tested", one_mask_each(root, MaskValues(least=127)), levels, window)


@pytest.mark.parametrize("levels", [0, 1, 2, 3])
def test_images_and_masks_equal_opencvs_pyramid(root: Path, levels: int) -> None:
    scenes = decoded(root, levels, window=2)
    for name, size in SIZES.items():
        picture = np.asarray(Image.open(root / "images" / name))
        mask = (np.asarray(Image.open(root / "masks" / name)) >= 127).astype(np.float64)
        for _ in range(levels):
            picture, mask = cv2.pyrDown(picture), cv2.pyrDown(mask)
        np.testing.assert_array_equal(scenes.picture(name), picture.transpose(2, 0, 1))
        np.testing.assert_array_equal(scenes.mask(name), mask >= 0.5)
        assert scenes.sizes[name] == size
        assert level_size(size, levels) == mask.shape


def test_half_a_pixel_of_mask_counts() -> None:
    mask = np.zeros((1, 12), np.bool_)
    mask[0, :5] = True  # [1 4 6 4 1] / 16 around pixel 4 has 11 of 16 in it, around pixel 6 one
    np.testing.assert_array_equal(reduced_mask(mask, 1), [[1, 1, 1, 0, 0, 0]])
    stripes = np.zeros((1, 12), np.bool_)
    stripes[0, ::2] = True  # (1 + 6 + 1) / 16 around the even pixels
    assert reduced_mask(stripes, 1).all()


@pytest.mark.parametrize("backend", ["exact", "kornia"])
def test_the_host_gives_the_bits_of_the_pyramid_on_a_device(backend: Backend) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (97, 131, 3), np.uint8)
    for count in range(1, 4):
        image = torch.from_numpy(levels).permute(2, 0, 1)[None]
        np.testing.assert_array_equal(reduced(levels, count), pyramid(image, count, backend)[-1][0])
        share = pyramid((image[:, :1] > 127).float(), count, backend)[-1]
        np.testing.assert_array_equal(reduced_mask(levels[..., 0] > 127, count), share[0, 0] >= 0.5)


def test_later_starts_read_no_file(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = decoded(root, 1)
    monkeypatch.setattr(module, "read_picture", None)
    monkeypatch.setattr(module, "reduced_mask", None)
    again = decoded(root, 1)
    for name in SIZES:
        np.testing.assert_array_equal(again.picture(name), first.picture(name))
        np.testing.assert_array_equal(again.mask(name), first.mask(name))


def test_a_mask_of_another_brightness_is_read_again(root: Path) -> None:
    grays = np.asarray(Image.open(root / "masks" / "a.png")) // 255 * np.uint8(247)
    grays[20, 10:14] = [3, 126, 127, 244]
    grays[:, :10], grays[:, 14:] = 0, 247
    write(root / "masks" / "a.png", grays)
    np.testing.assert_array_equal(decoded(root).mask("a.png"), grays >= 127)
    brighter = decoded_scenes("tested", one_mask_each(root), 0, 5)
    np.testing.assert_array_equal(brighter.mask("a.png"), grays >= 128)


def test_all_problems_are_reported_together(root: Path) -> None:
    images, masks = root / "images", root / "masks"
    write(masks / "a.png", np.zeros((37, 51)))
    write(masks / "b.png", np.full((40, 30), 255))
    write(masks / "c.png", np.ones((37, 50)))
    write(images / "d.png", noise(9, 60))
    write(masks / "d.png", 255 * np.eye(9, 60))
    (images / "e.png").write_bytes(b"no picture")
    write(images / "f.png", noise(40, 40))
    truncate(write(images / "h.png", noise(40, 40)))
    for name in ("e.png", "g.png", "h.png"):
        write(masks / name, 255 * np.eye(40))
    assert_problems_in_any_order(
        problems_of(lambda: decoded(root, window=10)),
        (f"mask {masks}/g.png has no image",),
        (f"image {images}/f.png has no mask",),
        (f"{images}/e.png is truncated or not an image",),
        (f"{masks}/a.png marks none"),
        (f"{masks}/b.png marks all"),
        (f"{masks}/c.png is 37 x 50", "c.png is 37 x 51"),
        (f"{images}/d.png is 9 x 60", "smaller than a window of 10 x 10"),
        (f"{images}/h.png is truncated",),
    )


def test_windows_are_measured_at_the_pyramids_level(root: Path) -> None:
    assert decoded(root, levels=2, window=8).picture("b.png").shape == (3, 10, 8)
    found = problems_of(lambda: decoded(root, levels=2, window=9))
    assert_problems(found, (f"{root}/images/b.png is 40 x 30", "level 2 10 x 8", "9 x 9", "--data.pyramid_levels"))


def test_samples_are_the_callers_to_change(root: Path) -> None:
    sample = Scene(decoded(root), ["c.png", "a.png"], {"a.png": [(0, 0, 9, 7)]}, {"c.png": "sunny"})
    first, second = sample(0), sample(1)
    before = first["image"].clone(), first["mask"].clone()
    first["image"].zero_()
    first["mask"].zero_()
    assert torch.equal(sample(0)["image"], before[0])
    assert torch.equal(sample(0)["mask"], before[1])
    assert (first["condition"], second["condition"]) == ("sunny", "")
    assert "valid" not in first
    assert second["valid"].shape == (1, 37, 51)
    assert int(second["valid"].sum()) == 9 * 7 == int(second["valid"][:, :7, :9].sum())


@pytest.mark.real
def test_real_masks_cover_what_their_list_says(real_data: Path) -> None:
    scenes = decoded(real_data / "avalanches", window=33)
    with (real_data / "avalanches" / "list.csv").open(newline="") as file:
        covered = {row["image"]: float(row["coverage"]) for row in csv.DictReader(file)}
    assert len(scenes.rows) == 73
    assert {name: round(float(scenes.mask(name).mean()), 4) for name in scenes.rows} == {
        name: pytest.approx(covered[name], abs=1e-4) for name in scenes.rows
    }
