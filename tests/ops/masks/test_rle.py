import csv
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from ops.masks.rle import _covered, decode, decode_to, encode, parse_runs
from tests.checks import rejects

SIZE = (1400, 2100)

# Columns 0..3 of a picture of 3 x 4, by hand: pixels 2-3 of column 0, all of column 1, pixel 1 of column 3.
HAND_TEXT = "2 5 10 1"
HAND_MASK = np.array([[0, 1, 0, 1], [1, 1, 0, 0], [1, 1, 0, 0]], dtype=bool)


def decode_coverage(text: str, size: tuple[int, int], output_size: tuple[int, int]) -> NDArray[np.float64]:
    """The share of every output pixel that `decode_to` compares with one half."""
    return _covered(text, size, output_size) / (size[0] * size[1])


def slow_decode(text: str, size: tuple[int, int]) -> NDArray[np.bool_]:
    pixels = np.zeros(size[0] * size[1], dtype=bool)
    values = [int(word) for word in text.split()]
    for start, length in zip(values[::2], values[1::2], strict=True):
        pixels[start - 1 : start - 1 + length] = True
    return pixels.reshape(size, order="F")


def slow_covered(mask: NDArray[np.bool_], output_size: tuple[int, int]) -> NDArray[np.int64]:
    """Overlaps of each mask pixel with every output pixel, added up; mask.size makes a full output pixel."""
    covered = np.zeros(output_size, dtype=np.int64)
    for row, column in np.argwhere(mask):
        overlaps = []
        for place, side, output_side in zip((row, column), mask.shape, output_size, strict=True):
            cells = np.arange(output_side) * side
            begin, end = place * output_side, (place + 1) * output_side
            overlaps.append((np.minimum(end, cells + side) - np.maximum(begin, cells)).clip(min=0))
        covered += np.outer(*overlaps)
    return covered


def random_boxes(generator: np.random.Generator, size: tuple[int, int], count: int) -> NDArray[np.bool_]:
    mask = np.zeros(size, dtype=bool)
    for _ in range(count):
        top, left = (generator.integers(0, side) for side in size)
        mask[top : top + generator.integers(1, size[0]), left : left + generator.integers(1, size[1])] = True
    return mask


def test_runs_are_zero_based_with_exclusive_ends() -> None:
    starts, ends = parse_runs("1 3 10 5", (5, 4))
    np.testing.assert_array_equal(starts, [0, 9])
    np.testing.assert_array_equal(ends, [3, 14])


@pytest.mark.parametrize("text", ["", "  ", "\n"])
def test_empty_text_is_an_empty_mask(text: str) -> None:
    assert [len(part) for part in parse_runs(text, (5, 4))] == [0, 0]
    assert not decode(text, (5, 4)).any()
    assert not decode_coverage(text, (5, 4), (2, 2)).any()


def test_touching_runs_tabs_and_line_ends_are_accepted() -> None:
    np.testing.assert_array_equal(decode("2 2\t4 3 10 1\r\n", (3, 4)), HAND_MASK)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 x", "'x' in a run-length encoding"),
        ("1.5 2", "'.' in a run-length encoding"),
        ("1 2 -5 2", "'-' in a run-length encoding"),
        ("1 ٢", "'٢' in a run-length encoding"),
        ("1 2 7", "odd count of 3 numbers"),
        ("0 3", "run 1 of 1, '0 3', starts before the image"),
        ("1 2 5 0", "run 2 of 2, '5 0', is empty"),
        ("1 2 10 4", "run 2 of 2, '10 4', ends at pixel 13, but an image of 3 x 4 has 12 pixels"),
        ("1 9223372036854775807", "ends at pixel 9223372036854775807, but"),
        ("1 3 7 2 8 1", "run 3 of 3, '8 1', starts at or before pixel 8, where the previous run ends"),
        ("7 2 1 3", "run 2 of 2, '1 3', starts at or before pixel 8"),
    ],
)
def test_rejects_invalid_text(text: str, message: str) -> None:
    rejects(re.escape(message), parse_runs, text, (3, 4))


def test_runs_may_end_at_the_last_pixel() -> None:
    assert decode("1 12", (3, 4)).all()
    assert encode(np.ones((3, 4), dtype=bool)) == "1 12"


def test_mask_by_hand() -> None:
    np.testing.assert_array_equal(decode(HAND_TEXT, (3, 4)), HAND_MASK)
    assert encode(HAND_MASK) == HAND_TEXT
    assert encode(np.zeros((3, 4), dtype=bool)) == ""


@pytest.mark.parametrize("density", [0.02, 0.5, 0.98])
def test_there_and_back(density: float) -> None:
    mask = np.random.default_rng(0).random((37, 53)) < density
    text = encode(mask)
    np.testing.assert_array_equal(decode(text, mask.shape), mask)
    np.testing.assert_array_equal(slow_decode(text, mask.shape), mask)


def test_layout_does_not_matter() -> None:
    mask = np.random.default_rng(1).random((20, 30)) < 0.5
    assert decode(encode(mask), mask.shape).flags.c_contiguous
    assert encode(np.asfortranarray(mask)) == encode(mask)
    assert encode(mask[::2, ::3]) == encode(mask[::2, ::3].copy())


# Whole and fractional ratios, one side only, the size itself, larger output, one pixel.
@pytest.mark.parametrize("output_size", [(6, 8), (5, 7), (18, 5), (18, 24), (36, 72), (25, 31), (1, 1)])
@pytest.mark.parametrize("kind", ["boxes", "noise"])
def test_coverage_is_the_share_of_the_area(kind: str, output_size: tuple[int, int]) -> None:
    generator = np.random.default_rng(2)
    mask = random_boxes(generator, (18, 24), 3) if kind == "boxes" else generator.random((18, 24)) < 0.5
    coverage = decode_coverage(encode(mask), mask.shape, output_size)
    np.testing.assert_allclose(coverage, slow_covered(mask, output_size) / mask.size, atol=1e-6)


@pytest.mark.parametrize("output_size", [(350, 525), (224, 224), (240, 336), (1400, 2100)])
def test_coverage_equals_area_resizing(output_size: tuple[int, int]) -> None:
    mask = random_boxes(np.random.default_rng(3), SIZE, 4)
    expected = cv2.resize(mask.astype(np.float32), output_size[::-1], interpolation=cv2.INTER_AREA)
    coverage = decode_coverage(encode(mask), SIZE, output_size)
    assert coverage.min() >= 0
    assert coverage.max() <= 1
    np.testing.assert_allclose(coverage, expected, atol=1e-6)


def test_half_a_pixel_counts() -> None:
    text = encode(np.array([[1, 0, 0], [1, 1, 0], [0, 0, 1], [0, 0, 0]], dtype=bool))
    # Shares of the output pixels 2 x 1.5: 2.5/3, 0.5/3, 0/3, 1/3.
    np.testing.assert_array_equal(decode_to(text, (4, 3), (2, 2)), [[True, False], [False, False]])
    # Thirds add up to exactly one half: 3 of 6 pixels.
    assert decode_to(encode(np.array([[1, 1, 1], [0, 0, 0]], dtype=bool)), (2, 3), (1, 1)).item()
    assert not decode_to(encode(np.array([[1, 1, 0], [0, 0, 0]], dtype=bool)), (2, 3), (1, 1)).item()


def test_halves_are_exact_at_fractional_ratios() -> None:
    rows = np.zeros((6, 7), dtype=bool)
    rows[::2] = True
    # An output pixel is one row and a fraction of columns on, as much off.
    assert decode_to(encode(rows), (6, 7), (3, 5)).all()
    assert decode_to(encode(rows.T), (7, 6), (5, 3)).all()
    rows[0, 3] = False
    assert decode_to(encode(rows), (6, 7), (3, 5)).sum() == 14


@pytest.mark.real
def test_real_rows_there_and_back(real_data: Path) -> None:
    texts = []
    for path in sorted((real_data / "clouds").glob("*/train.csv")):
        with path.open(newline="") as file:
            texts += [row["EncodedPixels"] for row in csv.DictReader(file)]
    assert len(texts) >= 8
    for text in texts:
        assert encode(decode(text, SIZE)) == text
