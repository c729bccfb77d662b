import os
import signal
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL
import pytest
from PIL import Image

from datamodules.read import strips
from datamodules.read.pictures import picture_size, read_picture
from datamodules.read.strips import Reduction, Strip, picture_bands
from ops.errors import DataError
from tests.datamodules.helpers import exif, truncate, write

SIZE = (97, 61)

# Name of the file, Pillow's mode, and how it is saved.
FILES: list[tuple[str, str, dict[str, Any]]] = [
    ("rgb.png", "RGB", {}),
    ("grey.png", "L", {}),
    ("two_colors.png", "1", {}),
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
    ("transparent_color.png", "RGB", {"transparency": (3, 4, 5)}),
    ("cmyk.tif", "CMYK", {}),
    ("fax.tif", "1", {"compression": "group4"}),
    ("lossy.tif", "RGB", {"compression": "jpeg"}),
    ("name[page=2]", "RGB", {"format": "PNG"}),  # libvips would take the end of the name for an option
]

ANOTHER_MODEL = pytest.param(
    "another_color_model.tif", "YCbCr", {}, marks=pytest.mark.skipif(
        PIL.__version__.startswith("12."), reason="Pillow 12 cannot read the YCbCr TIFF that it writes"))  # fmt: skip


@pytest.fixture
def photograph() -> Image.Image:
    """Smooth colors with noise on them."""
    rng = np.random.default_rng(0)
    smooth = cv2.resize(rng.integers(0, 256, (7, 5, 3), np.uint8), SIZE[::-1], interpolation=cv2.INTER_CUBIC)
    return Image.fromarray(np.clip(smooth + rng.normal(0, 8, smooth.shape), 0, 255).astype(np.uint8))


def saved(photograph: Image.Image, path: Path, mode: str, options: dict[str, Any]) -> Path:
    picture = photograph.convert(mode)
    if "A" in mode:
        picture.putalpha(photograph.convert("L"))
    picture.save(path, **options)
    return path


@pytest.mark.parametrize(("name", "mode", "options"), [*FILES, ANOTHER_MODEL])
def test_rows_are_those_of_the_image_read_whole(
    name: str, mode: str, options: dict[str, Any], photograph: Image.Image, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(strips, "BAND", 10 * SIZE[1])
    path = saved(photograph, tmp_path / name, mode, options)
    bands = list(picture_bands(path))
    assert len(bands) == 10
    np.testing.assert_array_equal(np.concatenate(bands), read_picture(path))


def test_colors_that_were_multiplied_by_alpha_are_divided(photograph: Image.Image, tmp_path: Path) -> None:
    path = saved(photograph, tmp_path / "a.tif", "RGBA", {})
    entry = b"\x52\x01\x03\x00\x01\x00\x00\x00"  # tag 338, of one number: 2 is plain alpha, 1 is multiplied
    assert path.read_bytes().count(entry + b"\x02") == 1
    path.write_bytes(path.read_bytes().replace(entry + b"\x02", entry + b"\x01"))
    assert (read_picture(path) != np.asarray(photograph)).any()
    np.testing.assert_array_equal(np.concatenate(list(picture_bands(path))), read_picture(path))


def test_a_file_that_changed_is_read_anew(photograph: Image.Image, tmp_path: Path) -> None:
    for picture in (photograph, photograph.rotate(180)):
        [band] = picture_bands(saved(picture, tmp_path / "a.png", "RGB", {}))
        np.testing.assert_array_equal(band, picture)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_reads_too(photograph: Image.Image, tmp_path: Path) -> None:
    photograph.save(tmp_path / "a.png")
    [wanted] = picture_bands(tmp_path / "a.png")  # libvips has begun its work in this process
    child = os.fork()
    if not child:
        signal.alarm(20)  # libvips's threads do not exist here: waiting for them would never end
        [found] = picture_bands(tmp_path / "a.png")
        os._exit(int((found != wanted).any()))
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("name", ["turned.jpg", "turned.png", "turned.tif"])
def test_turned_images_come_upright(
    turn: int, name: str, photograph: Image.Image, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(strips, "BAND", 10 * SIZE[1])
    photograph.save(tmp_path / name, exif=exif(turn))
    whole = read_picture(tmp_path / name)
    assert whole.shape[:2] == picture_size(tmp_path / name) == (SIZE if turn < 5 else SIZE[::-1])
    np.testing.assert_array_equal(np.concatenate(list(picture_bands(tmp_path / name))), whole)


def test_a_strip_moves_down_over_the_image(photograph: Image.Image, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(strips, "BAND", 7 * SIZE[1])
    photograph.save(tmp_path / "a.png")
    whole = np.asarray(photograph)
    strip = Strip(tmp_path / "a.png", SIZE, 20, (31, 20))
    for top in (0, 0, 3, 30, 31, 77):
        np.testing.assert_array_equal(strip.move(top), whole[top : top + 20])
    expected = cv2.resize(whole, (20, 31), interpolation=cv2.INTER_AREA)
    assert np.abs(strip.view().astype(int) - expected).max() <= 1
    with pytest.raises(ValueError, match=r"row 76 .* row 77; .* only moves down"):
        strip.move(76)


def test_a_strip_is_no_higher_than_the_image(photograph: Image.Image, tmp_path: Path) -> None:
    photograph.save(tmp_path / "a.png")
    strip = Strip(tmp_path / "a.png", SIZE, 200, SIZE)
    np.testing.assert_array_equal(strip.move(0), photograph)
    np.testing.assert_array_equal(strip.view(), photograph)


@pytest.mark.parametrize("name", ["cut.png", "cut.jpg", "cut.tif", "deep.png"])
def test_truncated_and_deep_images_are_rejected(name: str, photograph: Image.Image, tmp_path: Path) -> None:
    if name == "deep.png":
        write(tmp_path / name, np.zeros((8, 8), np.uint16))
    else:
        truncate(write(tmp_path / name, photograph), 0.67)
    with pytest.raises(DataError, match=rf"{name} (is truncated|has .* more than 8 bits)"):
        list(picture_bands(tmp_path / name))


@pytest.mark.parametrize("height", [1, 7, 97])
@pytest.mark.parametrize("reduced", [SIZE, (50, 33), (96, 60), (13, 9), (1, 1)])
def test_reductions_are_area_means(height: int, reduced: tuple[int, int], photograph: Image.Image) -> None:
    picture = np.asarray(photograph)
    reduction = Reduction(SIZE, reduced)
    for top in range(0, SIZE[0], height):
        reduction.add(picture[top : top + height])
    columns = picture.repeat(reduced[1], axis=1).reshape(SIZE[0], reduced[1], SIZE[1], 3).mean(axis=2)
    means = columns.repeat(reduced[0], axis=0).reshape(reduced[0], SIZE[0], reduced[1], 3).mean(axis=1)
    np.testing.assert_allclose(reduction.result(), means, atol=0.501)
