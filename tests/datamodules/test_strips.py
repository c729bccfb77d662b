from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from datamodules import strips
from datamodules.files import DataError, picture_size, read_picture
from datamodules.strips import Strip, picture_bands

SIZE = (97, 61)

# Name of the file, Pillow's mode, and how it is saved.
FILES: list[tuple[str, str, dict[str, Any]]] = [
    ("rgb.png", "RGB", {}),
    ("grey.png", "L", {}),
    ("two_colours.png", "1", {}),
    ("palette.png", "P", {}),
    ("alpha.png", "RGBA", {}),
    ("grey_alpha.png", "LA", {}),
    ("transparent_palette.png", "P", {"transparency": 3}),
    ("quality_95.jpg", "RGB", {"quality": 95, "subsampling": 0}),
    ("subsampled.jpg", "RGB", {"quality": 75, "subsampling": 2}),
    ("progressive.jpg", "RGB", {"quality": 75, "progressive": True}),
    ("grey.jpg", "L", {}),
    ("cmyk.jpg", "CMYK", {}),
    ("rgb.tif", "RGB", {}),
    ("deflated.tif", "RGB", {"compression": "tiff_adobe_deflate"}),
    ("palette.tif", "P", {}),
    ("alpha.tif", "RGBA", {}),
    ("rgb.bmp", "RGB", {}),
    ("lossless.webp", "RGB", {"lossless": True}),
]


@pytest.fixture
def photograph() -> Image.Image:
    """Smooth colours with noise on them."""
    rng = np.random.default_rng(0)
    smooth = cv2.resize(rng.integers(0, 256, (7, 5, 3), np.uint8), SIZE[::-1], interpolation=cv2.INTER_CUBIC)
    return Image.fromarray(np.clip(smooth + rng.normal(0, 8, smooth.shape), 0, 255).astype(np.uint8))


def saved(photograph: Image.Image, path: Path, mode: str, options: dict[str, Any]) -> Path:
    picture = photograph.convert(mode)
    if "A" in mode:
        picture.putalpha(photograph.convert("L"))
    picture.save(path, **options)
    return path


@pytest.mark.parametrize(("name", "mode", "options"), FILES)
def test_rows_are_those_of_the_picture_read_whole(
    name: str, mode: str, options: dict[str, Any], photograph: Image.Image, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(strips, "BAND", 10 * SIZE[1])
    path = saved(photograph, tmp_path / name, mode, options)
    bands = list(picture_bands(path))
    assert len(bands) == 10
    np.testing.assert_array_equal(np.concatenate(bands), read_picture(path))


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("name", ["turned.jpg", "turned.png", "turned.tif"])
def test_turned_pictures_come_upright(
    turn: int, name: str, photograph: Image.Image, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(strips, "BAND", 10 * SIZE[1])
    exif = Image.Exif()
    exif[0x0112] = turn
    photograph.save(tmp_path / name, exif=exif)
    whole = read_picture(tmp_path / name)
    assert whole.shape[:2] == picture_size(tmp_path / name) == (SIZE if turn < 5 else SIZE[::-1])
    np.testing.assert_array_equal(np.concatenate(list(picture_bands(tmp_path / name))), whole)


def test_a_strip_moves_down_over_the_picture(photograph: Image.Image, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(strips, "BAND", 7 * SIZE[1])
    photograph.save(tmp_path / "a.png")
    whole = np.asarray(photograph)
    strip = Strip(tmp_path / "a.png", SIZE, 20, (31, 20))
    for top in (0, 0, 3, 30, 31, 77):
        np.testing.assert_array_equal(strip.move(top), whole[top : top + 20])
    expected = cv2.resize(whole, (20, 31), interpolation=cv2.INTER_AREA)
    assert np.abs(strip.view().astype(int) - expected).max() <= 1
    with pytest.raises(ValueError, match="row 76 of a strip that begins in 77; it moves down only"):
        strip.move(76)


def test_a_strip_is_no_higher_than_the_picture(photograph: Image.Image, tmp_path: Path) -> None:
    photograph.save(tmp_path / "a.png")
    strip = Strip(tmp_path / "a.png", SIZE, 200, SIZE)
    np.testing.assert_array_equal(strip.move(0), photograph)
    np.testing.assert_array_equal(strip.view(), photograph)


@pytest.mark.parametrize("name", ["cut.png", "cut.jpg", "cut.tif"])
def test_truncated_pictures_are_told(name: str, photograph: Image.Image, tmp_path: Path) -> None:
    photograph.save(tmp_path / name)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(DataError, match=rf"{name} is truncated or not a picture"):
        list(picture_bands(tmp_path / name))


def test_pictures_of_16_bits_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(DataError, match="more than 8 bits a channel"):
        list(picture_bands(tmp_path / "deep.png"))
