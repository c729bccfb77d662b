from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from datamodules.read.mask_files import read_mask
from datamodules.read.pictures import (
    fitted,
    picture_files,
    picture_size,
    read_picture,
    resized,
    resized_mask,
)
from ops.errors import DataError
from tests.datamodules.helpers import exif, truncate, write

RAMP = np.arange(20 * 30 * 3, dtype=np.uint32).reshape(20, 30, 3).astype(np.uint8)
GREY = RAMP[..., 0]


def test_files_of_a_folder_are_its_sorted_images(tmp_path: Path) -> None:
    for pictures, message in ((tmp_path / "gone", r"no folder or file .*/gone\."), (tmp_path, "no images")):
        with pytest.raises(DataError, match=message):
            picture_files(pictures)
    for name in ("b.JPG", "a.png", "c.tiff", "._a.png", "notes.txt", ".jpg"):
        (tmp_path / name).write_bytes(b"x")
    assert [path.name for path in picture_files(tmp_path)] == ["a.png", "b.JPG", "c.tiff"]
    assert picture_files(tmp_path / "a.png") == [tmp_path / "a.png"]


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.fromarray(RAMP), RAMP),
        (Image.fromarray(GREY), np.repeat(GREY[..., None], 3, axis=2)),
        (Image.fromarray(np.dstack([RAMP, 255 - GREY])), RAMP),
        (Image.fromarray(RAMP // 128 * 255).convert("P", palette=Image.Palette.ADAPTIVE), RAMP // 128 * 255),
        (Image.fromarray(GREY > 100), np.repeat((GREY > 100)[..., None] * np.uint8(255), 3, axis=2)),
    ],
    ids=["rgb", "grey", "rgba", "palette", "black and white"],
)
def test_any_image_becomes_rgb(image: Image.Image, expected: np.ndarray, tmp_path: Path) -> None:
    picture = read_picture(write(tmp_path / "a.png", image))
    assert picture.dtype == np.uint8
    np.testing.assert_array_equal(picture, expected)


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [(1, RAMP), (3, RAMP[::-1, ::-1]), (6, np.rot90(RAMP, -1)), (8, np.rot90(RAMP, 1)), (5, RAMP.transpose(1, 0, 2))],
)
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_images_are_turned_as_exif_says(orientation: int, upright: np.ndarray, suffix: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"a{suffix}", RAMP, exif=exif(orientation))
    np.testing.assert_array_equal(read_picture(path), upright)
    assert picture_size(path) == upright.shape[:2]


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("at_least", [(1, 1), (30, 40), (31, 40), (60, 79), (61, 80), (100, 700), (100, 750)])
def test_an_image_is_never_smaller_than_asked(orientation: int, at_least: tuple[int, int], tmp_path: Path) -> None:
    picture = np.zeros((1400, 2100, 3) if at_least[1] > 100 else (240, 320, 3), np.uint8)
    path = write(tmp_path / "a.jpg", picture, exif=exif(orientation))
    height, width = read_picture(path, at_least).shape[:2]
    full_height, full_width = picture_size(path)
    assert height >= min(at_least[0], full_height)
    assert width >= min(at_least[1], full_width)
    assert (height, width) != (full_height, full_width) or at_least[0] * 2 > full_height or at_least[1] * 2 > full_width


@pytest.mark.parametrize(
    ("name", "mode"), [("a.tif", "I;16"), ("a.tif", "I"), ("a.tif", "F"), ("a.png", "RGB"), ("a.tif", "RGB")]
)
def test_more_than_eight_bits_are_rejected(name: str, mode: str, tmp_path: Path) -> None:
    if mode == "RGB":  # which Pillow would cut to eight bits
        cv2.imwrite(str(tmp_path / name), np.full((4, 4, 3), 4000, np.uint16))
    else:
        write(tmp_path / name, Image.new(mode, (4, 4)))
    with pytest.raises(DataError, match=rf"{name} has the mode '{mode}.* 8 bits per channel"):
        read_picture(tmp_path / name)


def of_giants(path: Path) -> None:
    """Writes an image whose header says that it has 60,000 x 60,000 pixels."""
    data = bytearray(write(path.with_suffix(".bmp"), RAMP).read_bytes())
    data[18:26] = (60000).to_bytes(4, "little") * 2
    path.write_bytes(data)


@pytest.mark.parametrize("reader", [read_picture, picture_size, read_mask])
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, r"no file .*/a\.png"),
        (lambda path: path.write_bytes(b""), r"a\.png is empty"),
        (lambda path: path.write_text("<html>404</html>"), r"a\.png is truncated or not an image"),
        (of_giants, r"a\.png is truncated or not an image .*3600000000 pixels"),
    ],
)
def test_files_that_are_no_images_are_rejected(
    make: Callable[[Path], object], message: str, reader: Callable[[Path], object], tmp_path: Path
) -> None:
    make(tmp_path / "a.png")
    with pytest.raises(DataError, match=message):
        reader(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp"])
def test_truncated_images_are_rejected(suffix: str, tmp_path: Path) -> None:
    path = truncate(write(tmp_path / f"a{suffix}", RAMP))
    for read in (read_picture, read_mask, lambda path: read_picture(path, at_least=(5, 5))):
        with pytest.raises(DataError, match=rf"a{suffix} is truncated"):
            read(path)


@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_resized_by_opencv_and_keep_their_channels(channels: int) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (30, 40, channels), np.uint8)
    assert resized(picture, (30, 40)) is picture
    means = picture.reshape(15, 2, 20, 2, channels).mean(axis=(1, 3))
    np.testing.assert_allclose(resized(picture, (15, 20)), means, atol=0.51)
    for size, method in {(17, 23): cv2.INTER_AREA, (45, 52): cv2.INTER_LINEAR}.items():
        expected = cv2.resize(picture, size[::-1], interpolation=method).reshape(*size, channels)
        np.testing.assert_array_equal(resized(picture, size), expected)


def test_resized_masks_cover_half_of_a_pixel() -> None:
    mask = np.zeros((4, 4), np.bool_)
    mask[0, :2], mask[2, 2] = True, True
    np.testing.assert_array_equal(resized_mask(mask, (2, 2)), [[True, False], [False, False]])


def test_images_are_fitted_by_their_longer_side() -> None:
    assert fitted((300, 900), 300) == (100, 300)
    assert fitted((30, 90), 300) == (30, 90)
    assert fitted((1, 9000), 300) == (1, 300)
