from pathlib import Path

import numpy as np
from PIL import Image

from datamodules.decoded.tiles import Tiles, decoded_tiles
from datamodules.read.masks import one_mask_each
from tests.datamodules.helpers import assert_problems, assert_problems_in_any_order, problems_of, truncate, write

RNG = np.random.default_rng(0)


def add(root: Path, stem: str, size: tuple[int, int], mask: np.ndarray | None = None) -> None:
    write(root / "images" / f"{stem}.png", RNG.integers(0, 256, (*size, 3), np.uint8))
    mask = RNG.random(size) < 0.3 if mask is None else mask
    write(root / "masks" / f"{stem}.png", mask * np.uint8(255) if mask.dtype == bool else mask)


def tiles(root: Path, window: tuple[int, int] = (8, 8), size: tuple[int, int] = (8, 8)) -> Tiles:
    return decoded_tiles("roads", one_mask_each(root), window, size)


def test_an_image_of_the_tiles_size_is_one_tile(tmp_path: Path) -> None:
    for stem in "ab":
        add(tmp_path, stem, (8, 8))
    made = tiles(tmp_path)
    assert made.owners.tolist() == [0, 1]
    for row, stem in enumerate("ab"):
        np.testing.assert_array_equal(made.pictures[row], Image.open(tmp_path / "images" / f"{stem}.png"))
        np.testing.assert_array_equal(made.masks[row][0] * 255, Image.open(tmp_path / "masks" / f"{stem}.png"))


def test_a_larger_image_is_cut_into_tiles_that_cover_it(tmp_path: Path) -> None:
    add(tmp_path, "a", (8, 8))
    add(tmp_path, "b", (14, 24))
    made = tiles(tmp_path)
    assert made.owners.tolist() == [0] + [1] * 6
    assert made.of(["b.png"]) == [1, 2, 3, 4, 5, 6]
    picture, mask = (np.asarray(Image.open(tmp_path / folder / "b.png")) for folder in ("images", "masks"))
    for row, (top, left) in enumerate([(0, 0), (0, 8), (0, 16), (6, 0), (6, 8), (6, 16)], start=1):
        np.testing.assert_array_equal(made.pictures[row], picture[top : top + 8, left : left + 8])
        np.testing.assert_array_equal(made.masks[row][0] * 255, mask[top : top + 8, left : left + 8])
    assert made.sizes.tolist() == [[8, 8], [14, 24]]
    assert made.marked.tolist()[1] == np.count_nonzero(mask)


def test_tiles_are_resized_by_area(tmp_path: Path) -> None:
    add(tmp_path, "a", (16, 16))
    made = tiles(tmp_path, window=(16, 16), size=(8, 8))
    picture, mask = (np.asarray(Image.open(tmp_path / folder / "a.png")) for folder in ("images", "masks"))
    means = picture.reshape(8, 2, 8, 2, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(made.pictures[0], means, atol=0.51)
    np.testing.assert_array_equal(made.masks[0][0], mask.reshape(8, 2, 8, 2).mean(axis=(1, 3)) / 255 >= 0.5)


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    for stem in "abcdef":
        add(tmp_path, stem, (8, 8))
    images, masks = tmp_path / "images", tmp_path / "masks"
    (masks / "a.png").unlink()
    (images / "b.png").unlink()
    write(masks / "c.png", np.zeros((9, 8), np.uint8))
    write(masks / "d.png", np.array([[0, 1, 2, 3]] * 8, np.uint8).repeat(2, axis=1))
    write(images / "e.png", np.zeros((8, 8), np.uint16))
    truncate(images / "f.png")
    assert_problems_in_any_order(
        problems_of(lambda: tiles(tmp_path)),
        (f"mask {masks}/b.png has no image",),
        (f"image {images}/a.png has no mask",),
        (f"{masks}/c.png is 9 x 8", "c.png is 8 x 8"),
        (f"{masks}/d.png", "not certain", "3: 25.0%"),
        (f"{images}/e.png has the mode 'I;16'",),
        (f"{images}/f.png is truncated",),
    )


def test_an_image_below_the_window_is_rejected(tmp_path: Path) -> None:
    add(tmp_path, "a", (8, 8))
    add(tmp_path, "b", (6, 20))
    found = problems_of(lambda: tiles(tmp_path))
    assert_problems(found, (f"{tmp_path}/images/b.png is 6 x 20", "a tile of 8 x 8", "--data.window"))
