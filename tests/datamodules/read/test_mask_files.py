from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datamodules.read.mask_files import (
    IGNORED,
    Certainty,
    MaskValues,
    Values,
    fitting_turn,
    meaning,
    read_marks,
    read_mask,
    turned_size,
)
from ops.errors import ArgumentError, DataError
from tests.datamodules.helpers import exif, noise, write

HALF = np.arange(600).reshape(20, 30) < 250
ROWS, COLUMNS = np.mgrid[:100, :100]
ROAD = abs(COLUMNS - 49.5) < 10
VOID = ROWS < 10


def palette(indices: np.ndarray, colors: dict[int, tuple[int, int, int]]) -> Image.Image:
    image = Image.fromarray(indices.astype(np.uint8), "P")
    table = [0] * 768
    for index, color in colors.items():
        table[3 * index : 3 * index + 3] = color
    image.putpalette(table)
    return image


def of(background: float, road: float, void: float, kind: str = "uint8") -> np.ndarray:
    return np.where(VOID, void, np.where(ROAD, road, background)).astype(kind)


CERTAIN = {
    "one bit": Image.fromarray(HALF),
    "0 and 1": Image.fromarray(HALF.astype(np.uint8)),
    "0 and 255": Image.fromarray(HALF * np.uint8(255)),
    "0 and 100": Image.fromarray(HALF * np.uint8(100)),
    "20 and 200": Image.fromarray(np.where(HALF, 200, 20).astype(np.uint8)),
    "16 bits": Image.fromarray(HALF * np.uint16(65535)),
    "floats": Image.fromarray(HALF * np.float32(1)),
    "rgb": Image.fromarray(np.repeat(HALF[..., None] * np.uint8(255), 3, axis=2)),
    "palette": Image.fromarray(HALF.astype(np.uint8)).convert("P"),
    "white first": palette(~HALF, {0: (255, 255, 255)}),
    "quantized": Image.fromarray(HALF * np.uint8(255)).quantize(2),
    "red": Image.fromarray(HALF[..., None] * np.array([255, 0, 0], np.uint8)),
    "nearly black": Image.fromarray(HALF[..., None] * np.array([0, 0, 1], np.uint8)),
    "red palette": palette(HALF * 7, {7: (128, 0, 0)}),
}


@pytest.mark.parametrize("kind", CERTAIN)
def test_two_values_are_certain(kind: str, tmp_path: Path) -> None:
    suffix = "tif" if kind == "floats" else "png"
    np.testing.assert_array_equal(read_mask(write(tmp_path / f"a.{suffix}", CERTAIN[kind])), HALF)


@pytest.mark.parametrize(("value", "full"), [(0, False), (1, True), (255, True)])
def test_masks_of_one_value_are_empty_or_full(value: int, full: bool, tmp_path: Path) -> None:
    mask = read_mask(write(tmp_path / "a.png", np.full((4, 5), value, np.uint8)))
    np.testing.assert_array_equal(mask, np.full((4, 5), full))


def test_soft_and_noisy_edges_are_certain(tmp_path: Path) -> None:
    rotated = Image.fromarray(ROAD * np.uint8(255)).rotate(30, Image.Resampling.BICUBIC)
    soft = np.asarray(rotated.resize((60, 60), Image.Resampling.BILINEAR))
    assert len(np.unique(soft)) > 20
    np.testing.assert_array_equal(read_mask(write(tmp_path / "a.png", soft)), soft > 127)
    np.testing.assert_array_equal(read_mask(write(tmp_path / "b.png", soft), 200), soft > 199)
    wide = write(tmp_path / "c.tif", soft.astype(np.uint16) * 257)
    np.testing.assert_array_equal(read_mask(wide), soft > 127)
    halved = np.asarray(rotated.resize((50, 50), Image.Resampling.BOX)) // 64 * 85  # four levels
    assert len(np.unique(halved)) == 4
    with pytest.raises(DataError, match="not certain"):
        read_mask(write(tmp_path / "d.png", halved))
    for quality in (10, 50, 95):
        jpeg = write(tmp_path / "e.jpg", (np.asarray(rotated) > 127) * np.uint8(237), quality=quality)
        values = np.asarray(Image.open(jpeg))
        assert len(np.unique(values)) > 2
        np.testing.assert_array_equal(read_mask(jpeg), values > 127)
        np.testing.assert_array_equal(read_mask(write(tmp_path / "f.png", values)), values > 127)


VOC = {1: (128, 0, 0), 255: (224, 224, 192)}
UNCERTAIN: dict[str, tuple[Any, list[str]]] = {
    "255 is no data": (of(0, 1, 255), ["0: 72.0%", "1: 18.0%", "255: 10.0%"]),
    "255 is no data beside 100": (of(0, 100, 255), ["100: 18.0%"]),
    "254 is no data": (of(0, 1, 254), ["254: 10.0%"]),
    "1 is no data": (of(0, 255, 1), ["1: 10.0%"]),
    "0 is no data": (of(1, 2, 0), ["2: 18.0%"]),
    "two bright values": (of(127, 128, 127), ["127: ", "128: "]),
    "two dark values": (of(1, 2, 1), ["1: ", "2: "]),
    "white is no data in 16 bits": (of(0, 1, 65535, "uint16"), ["65535: 10.0%"]),
    "-9999 is no data": (of(0, 1, -9999, "float32"), ["-9999: 10.0%"]),
    "-9999 in integers": (of(0, 1, -9999, "int32"), ["-9999: 10.0%"]),
    "-9999 beside nothing": (of(0, 0, -9999, "int32"), ["-9999: 10.0%"]),
    "3.4e38 is no data": (of(0, 1, 3.4028235e38, "float32"), ["3.402823e+38: 10.0%"]),
    "3.4e38 beside nothing": (of(0, 0, 3.4028235e38, "float32"), ["3.402823e+38: 10.0%"]),
    "NaN is no data": (of(0, 1, np.nan, "float32"), ["nan: 10.0%"]),
    "probabilities": (np.linspace(0, 1, 10000, dtype=np.float32).reshape(100, 100), ["and 9994 more"]),
    "instances": (COLUMNS // 10 * 25 * (ROWS > 20), ["and 4 more"]),
    "classes": (COLUMNS // 25, ["3: 25.0%"]),
    "bright classes": (COLUMNS // 25 * 60, ["180: 25.0%"]),
    "a photograph": (noise(100, 100)[..., 0], ["more"]),
    "a gray palette": (palette(of(0, 1, 255), {k: (k, k, k) for k in range(256)}), ["1 [1, 1, 1]: 18.0%"]),
    "a palette of classes": (palette(of(0, 1, 255), VOC), ["1 [128, 0, 0]: 18.0%", "255 [224, 224, 192]"]),
    "a palette with two blacks": (palette(of(0, 1, 255), {1: (255, 255, 255)}), ["255 [0, 0, 0]"]),
    "a black palette": (palette(of(0, 1, 0), {}), ["1 [0, 0, 0]"]),
    "red on white": (palette(of(0, 1, 0), {0: (255, 255, 255), 1: (255, 0, 0)}), ["0 [255, 255, 255]"]),
    "several colors": (np.stack([ROAD, VOID, ROWS > 90], axis=2) * 255, ["[0, 0, 255]: "]),
}


@pytest.mark.parametrize("kind", UNCERTAIN)
def test_what_is_not_certain_is_rejected_with_its_histogram(kind: str, tmp_path: Path) -> None:
    values, shares = UNCERTAIN[kind]
    floating = isinstance(values, np.ndarray) and values.dtype in (np.float32, np.int32)
    path = write(tmp_path / ("a.tif" if floating else "a.png"), values)
    with pytest.raises(DataError) as caught:
        read_mask(path)
    for part in ("a.", "not certain", "--data.mask_values", "--data.ignore_value", *shares):
        assert part in str(caught.value)


def test_a_mask_in_the_transparency_is_rejected(tmp_path: Path) -> None:
    path = write(tmp_path / "a.png", np.dstack([np.zeros((20, 30, 3)), HALF * 255]).astype(np.uint8))
    with pytest.raises(DataError, match=r"one color .* transparency"):
        read_mask(path)


GIVEN: dict[str, tuple[Any, Values | None, Values | None]] = {
    "no data": (of(0, 1, 255), 1, 255),
    "no data alone": (of(0, 1, 255), None, 255),
    "two positive values": (np.where(ROWS < 50, of(0, 1, 255), of(0, 2, 255)), [1, 2], [255]),
    "a background of 1": (of(1, 2, 0), [2], [0]),
    "16 bits": (of(0, 1, 65535, "uint16"), [1], [65535]),
    "negative no data": (of(0, 1, -9999, "float32"), None, -9999),
    "rounded no data": (of(0, 1, -3.4028234663852886e38, "float32"), [1], [-3.4e38]),
    "NaN": (of(0, 1, np.nan, "float32"), None, [float("nan"), -9999]),
    "indices of a palette": (palette(of(0, 1, 255), VOC), [1], [255]),
    "colors of a palette": (palette(of(0, 1, 255), VOC), [[128, 0, 0]], [[224, 224, 192]]),
    "one black of two": (palette(of(0, 1, 255), {1: (255, 255, 255)}), None, 255),
    "colors": (np.stack([of(0, 255, 0), of(0, 0, 9), of(0, 0, 9)], axis=2), [[255, 0, 0]], [[0, 9, 9]]),
    "gray colors": (np.stack([of(0, 1, 255)] * 3, axis=2), [[1, 1, 1]], [255]),
}


@pytest.mark.parametrize("kind", GIVEN)
def test_given_values_decide(kind: str, tmp_path: Path) -> None:
    values, positive, ignored = GIVEN[kind]
    floating = isinstance(values, np.ndarray) and values.dtype == np.float32
    path = write(tmp_path / ("a.tif" if floating else "a.png"), values)
    np.testing.assert_array_equal(
        read_marks(path, meaning(positive, ignored)).labels, np.where(VOID, IGNORED, ROAD & ~VOID)
    )


def test_soft_edges_beside_no_data(tmp_path: Path) -> None:
    soft = np.asarray(Image.fromarray(ROAD * np.uint8(200)).rotate(30, Image.Resampling.BICUBIC))
    path = write(tmp_path / "a.png", np.where(VOID, 255, soft).astype(np.uint8))
    labels = read_marks(path, meaning(None, 255)).labels
    np.testing.assert_array_equal(labels, np.where(VOID, IGNORED, soft > 127))


def test_a_jpeg_has_the_nearest_given_values(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jpg", of(0, 255, 128), quality=80)
    labels = read_marks(path, meaning([255], [128])).labels
    away = (abs(abs(COLUMNS - 49.5) - 10) > 8) & (abs(ROWS - 9.5) > 8)
    np.testing.assert_array_equal(labels[away], np.where(VOID, IGNORED, ROAD)[away])
    for positive, ignored, message in (([255], None, "is a JPEG.* far from all given"), (None, 128, "not certain")):
        with pytest.raises(DataError, match=message):
            read_marks(path, meaning(positive, ignored))


def test_a_value_has_one_meaning(tmp_path: Path) -> None:
    path = write(tmp_path / "a.png", Image.fromarray(HALF))
    with pytest.raises(DataError, match="one value in this file"):
        read_marks(path, meaning([1], [255]))
    for positive, ignored, message in (
        ([1, 2], [2], "2 is in mask_values"),
        ([], None, r"mask_values is \[\]"),
        ([1, 1], None, "repeats 1"),
        ([255, 0, 0], None, r"repeats 0. Write a color as \[\[255, 0, 0\]\]"),
        (None, [float("nan"), float("nan")], "ignore_value .* repeats nan"),
        ([[255, 0]], None, r"mask_values has \[255, 0\]"),
        ([[0, 0, 256]], None, "colors of three integers"),
        ([True], None, "has True"),
    ):
        with pytest.raises(ArgumentError, match=message):
            meaning(positive, ignored)


TALL, SQUARE = np.zeros((8, 6), np.uint8), np.zeros((6, 6), np.uint8)
TALL[:2, :3], SQUARE[:2, :3] = 255, 255


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize(
    ("stored", "own", "size", "images", "turn", "certainty"),
    [
        (TALL, 1, (8, 6), 1, 1, Certainty.SURE),
        (TALL, 3, (8, 6), 3, 3, Certainty.SURE),
        (TALL, 6, (8, 6), 6, 6, Certainty.SURE),
        (SQUARE, 8, (6, 6), 8, 8, Certainty.SURE),
        (TALL, 1, (6, 8), 6, 1, Certainty.SURE),  # drawn on the turned image
        (TALL, 1, (8, 6), 6, 6, Certainty.FITS),  # drawn on the stored one
        (TALL, 6, (8, 6), 1, 1, Certainty.FITS),
        (TALL, 6, (6, 8), 1, 6, Certainty.FITS),
        (TALL, 1, (8, 6), 3, 1, Certainty.ASSUMED),
        (SQUARE, 1, (6, 6), 6, 1, Certainty.ASSUMED),
        (TALL, 3, (8, 6), 1, 3, Certainty.DIFFERS),
        (SQUARE, 6, (6, 6), 3, 6, Certainty.DIFFERS),
    ],
)
def test_masks_are_turned_to_lie_on_their_images(
    stored: np.ndarray,
    own: int,
    size: tuple[int, int],
    images: int,
    turn: int,
    certainty: Certainty,
    suffix: str,
    tmp_path: Path,
) -> None:
    mask = write(tmp_path / f"mask{suffix}", stored, exif=exif(own))
    image = write(tmp_path / "image.jpg", np.zeros((*size, 3), np.uint8), exif=exif(images))
    assert fitting_turn(mask, image) == (turn, certainty)
    upright = {1: stored, 3: np.rot90(stored, 2), 6: np.rot90(stored, -1), 8: np.rot90(stored)}
    np.testing.assert_array_equal(read_marks(mask, MaskValues(), turn).labels * 255, upright[turn])
    np.testing.assert_array_equal(read_marks(mask, MaskValues()).labels * 255, upright[own])
    assert turned_size(mask, turn) == upright[turn].shape
