import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ops.pictures import box, cropped, letterboxed, valid_pixels


def picture(height: int, width: int) -> NDArray[np.uint8]:
    """Noise, nowhere white."""
    return np.random.default_rng(0).integers(0, 200, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((224, 224), (0, 0, 224, 224)),
        ((448, 224), (0, 56, 224, 112)),
        ((300, 400), (28, 0, 168, 224)),
        ((100, 50), (0, 56, 224, 112)),  # enlarged
        ((3, 10000), (111, 0, 1, 224)),
        ((1, 1), (0, 0, 224, 224)),
        ((2240, 2235), (0, 0, 224, 224)),  # 223.5 is rounded up
        ((2240, 2234), (0, 0, 224, 223)),
    ],
)
def test_a_picture_is_as_large_as_fits_and_in_the_middle(size: tuple[int, int], expected: tuple[int, ...]) -> None:
    assert box(size, 224) == expected


def test_boxes_of_all_sizes_keep_the_aspect() -> None:
    for height in range(1, 60, 7):
        for width in range(1, 60, 5):
            top, left, tall, wide = box((height, width), 31)
            assert max(tall, wide) == 31
            scale = 31 / max(height, width)
            assert abs(tall - height * scale) <= 0.5 or tall == 1
            assert abs(wide - width * scale) <= 0.5 or wide == 1
            assert 0 <= 31 - tall - 2 * top <= 1
            assert 0 <= 31 - wide - 2 * left <= 1


def test_a_smaller_picture_holds_means_with_white_around() -> None:
    image = picture(40, 80)
    found = letterboxed(image, 20)
    expected = image.reshape(10, 4, 20, 4, 3).mean(axis=(1, 3))
    assert np.abs(found[5:15] - expected).max() <= 0.5
    assert (found[:5] == 255).all()
    assert (found[15:] == 255).all()
    assert found.dtype == np.uint8


def test_a_larger_picture_is_interpolated() -> None:
    image = np.zeros((1, 2, 3), np.uint8)
    image[:, 1] = 200
    assert letterboxed(image, 4)[1:3, :, 0].tolist() == [[0, 50, 150, 200]] * 2


def test_a_picture_that_fits_is_left_as_it_is() -> None:
    image = picture(32, 20)
    found = letterboxed(image, 32)
    assert (found[:, 6:26] == image).all()
    assert (found[:, :6] == 255).all()


@pytest.mark.parametrize("size", [(7, 100), (100, 7), (1, 500), (33, 32), (5, 5), (20, 19)])
def test_valid_pixels_and_crops_are_the_picture(size: tuple[int, int]) -> None:
    square = torch.from_numpy(letterboxed(picture(*size), 24)).permute(2, 0, 1)
    place = box(size, 24)
    valid = valid_pixels(torch.tensor([place, (0, 0, 24, 24)]), 24)
    assert valid.shape == (2, 1, 24, 24)
    assert valid.dtype == torch.bool
    assert valid[0, 0].equal((square < 255).any(dim=0))
    assert valid[1].all()
    part = cropped(square, torch.tensor(place))
    assert part.shape == (3, *place[2:])
    assert part.equal(square[:, valid[0, 0]].view_as(part))
    assert cropped(valid[:1], place).all()


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="a picture of 0 x 5 in a square of 24"):
        box((0, 5), 24)
    with pytest.raises(ValueError, match=r"shape \(4, 4\) and uint8; wanted \(H, W, 3\)"):
        letterboxed(np.zeros((4, 4), np.uint8), 8)
    with pytest.raises(ValueError, match="float64; wanted"):
        letterboxed(np.zeros((4, 4, 3)), 8)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"boxes of shape \(4,\); wanted \(B, 4\)"):
        valid_pixels(torch.tensor([0, 0, 2, 2]), 8)
    for wrong in [(0, 0, 9, 2), (-1, 0, 2, 2), (0, 7, 2, 2), (0, 0, 0, 2)]:
        with pytest.raises(ValueError, match="wanted is one inside them"):
            cropped(torch.zeros(1, 8, 8), wrong)
