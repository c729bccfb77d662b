from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.read.pictures import read_mask
from ops.errors import DataError


def saved(path: Path, image: np.ndarray | Image.Image) -> Path:
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(path)
    return path


HALF = np.arange(600).reshape(20, 30) < 250


def palette(indices: np.ndarray, colours: list[int]) -> Image.Image:
    image = Image.fromarray(indices.astype(np.uint8), "P")
    image.putpalette(colours)
    return image


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(HALF),
        Image.fromarray(HALF.astype(np.uint8)),
        Image.fromarray(HALF * np.uint8(255)),
        Image.fromarray(np.where(HALF, 128, 127).astype(np.uint8)),
        Image.fromarray(HALF * np.uint16(65535)),
        Image.fromarray(np.repeat(HALF[..., None] * np.uint8(255), 3, axis=2)),
        Image.fromarray(HALF.astype(np.uint8)).convert("P"),
        palette(~HALF, [255, 255, 255, 0, 0, 0]),
        Image.fromarray(HALF * np.uint8(255)).quantize(2),
        Image.fromarray(HALF * np.uint8(100)),
        Image.fromarray(HALF[..., None] * np.array([255, 0, 0], np.uint8)),
    ],
    ids=[
        "one bit",
        "0 and 1",
        "0 and 255",
        "grey",
        "16 bits",
        "rgb",
        "palette",
        "white first",
        "quantized",
        "0 and 100",
        "red",
    ],
)
def test_masks_are_what_is_above_half(image: Image.Image, tmp_path: Path) -> None:
    mask = read_mask(saved(tmp_path / "a.png", image))
    assert mask.dtype == np.bool_
    np.testing.assert_array_equal(mask, HALF)


def test_empty_masks_are_empty(tmp_path: Path) -> None:
    assert not read_mask(saved(tmp_path / "a.png", np.zeros((4, 5), np.uint8))).any()


CLASSES = np.arange(600).reshape(20, 30) // 150


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (CLASSES, r"has 4 values from 0 to 3; 0 and 255, or 0 and one other value, were wanted\."),
        (CLASSES * 60, "has 4 values from 0 to 180"),
        (np.stack([CLASSES == 1, CLASSES == 2, CLASSES == 9], axis=2) * 255, "has several colours; 0 and 255 were"),
        (np.dstack([np.zeros((20, 30, 3)), HALF * 255]), "is of one colour, and drawn by transparency"),
    ],
)
def test_masks_that_are_no_masks_are_refused(values: np.ndarray, message: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", values.astype(np.uint8))
    with pytest.raises(DataError, match=rf"a\.png {message}"):
        read_mask(path)


def test_rims_of_greys_are_no_classes(tmp_path: Path) -> None:
    thin = np.asarray(Image.fromarray(HALF * np.uint8(255)).rotate(30, Image.Resampling.BICUBIC).resize((12, 8)))
    assert len(np.unique(thin)) > 10
    np.testing.assert_array_equal(read_mask(saved(tmp_path / "a.png", thin)), thin > 127)
