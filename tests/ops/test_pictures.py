from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from ops.pictures import BLACK, box, cropped, letterboxed, seen, share_of_black, valid_pixels
from tests.checks import rejects


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
def test_boxes_are_centered_and_as_large_as_fits(size: tuple[int, int], expected: tuple[int, ...]) -> None:
    assert box(size, 224) == expected


def test_a_smaller_image_holds_means_with_white_around() -> None:
    image = picture(40, 80)
    found = letterboxed(image, 20)
    expected = image.reshape(10, 4, 20, 4, 3).mean(axis=(1, 3))
    assert np.abs(found[5:15] - expected).max() <= 0.5
    assert (found[:5] == 255).all()
    assert (found[15:] == 255).all()
    assert found.dtype == np.uint8


def test_a_larger_image_is_interpolated() -> None:
    image = np.zeros((1, 2, 3), np.uint8)
    image[:, 1] = 200
    assert letterboxed(image, 4)[1:3, :, 0].tolist() == [[0, 50, 150, 200]] * 2


def test_an_image_that_fits_is_unchanged() -> None:
    image = picture(32, 20)
    found = letterboxed(image, 32)
    assert (found[:, 6:26] == image).all()
    assert (found[:, :6] == 255).all()


@pytest.mark.parametrize("size", [(7, 100), (100, 7), (1, 500), (33, 32), (5, 5), (20, 19)])
def test_valid_pixels_and_crops_are_the_image(size: tuple[int, int]) -> None:
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


def test_rejects_wrong_arguments() -> None:
    rejects(r"got torch.uint8", seen, torch.zeros(1, 3, 8, 8, dtype=torch.uint8))
    rejects("1 pixel or more, got 0", seen, torch.zeros(1, 3, 8, 8), width=0)
    rejects("image of 0 x 5 in a square of 24", box, (0, 5), 24)
    rejects(r"\(H, W, 3\) .* got uint8 .*\(4, 4\)", letterboxed, np.zeros((4, 4), np.uint8), 8)
    rejects("got float64", letterboxed, np.zeros((4, 4, 3)), 8)
    rejects(r"expected boxes \(B, 4\) .* got shape \(4,\)", valid_pixels, torch.tensor([0, 0, 2, 2]), 8)
    for wrong in [(0, 0, 9, 2), (-1, 0, 2, 2), (0, 7, 2, 2), (0, 0, 0, 2)]:
        rejects("expected a box inside maps", cropped, torch.zeros(1, 8, 8), wrong)


def slow_gaps(black: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    """Every square of the given width that meets the image, one by one."""
    height, breadth = black.shape
    gaps = np.zeros_like(black)
    for top in range(1 - width, height):
        for left in range(1 - width, breadth):
            rows = slice(max(top, 0), top + width)
            columns = slice(max(left, 0), left + width)
            if black[rows, columns].all():
                gaps[rows, columns] = True
    return gaps


def real_pictures(real_data: Path, pattern: str) -> dict[str, NDArray[np.uint8]]:
    paths = sorted((real_data / "clouds").glob(pattern))
    assert paths
    return {path.stem: cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB) for path in paths}


def resized(picture: NDArray[np.uint8], size: tuple[int, int]) -> Tensor:
    small = cv2.resize(picture, size[::-1], interpolation=cv2.INTER_AREA)
    return torch.from_numpy(small).permute(2, 0, 1)[None] / 255


@pytest.mark.parametrize("width", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("share", [0.5, 0.85])
def test_gaps_equal_a_loop_over_squares(width: int, share: float) -> None:
    black = np.random.default_rng(0).random((2, 17, 23)) < share
    image = torch.from_numpy(np.where(black, BLACK, 0.5)).float()[:, None].repeat(1, 3, 1, 1)
    expected = np.stack([~slow_gaps(picture, width) for picture in black])
    np.testing.assert_array_equal(seen(image, width=width)[:, 0], expected)


def test_one_light_channel_is_enough_to_be_seen() -> None:
    image = torch.zeros(1, 3, 8, 8)
    image[:, 2, :, 4:] = 0.1
    expected = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    expected[..., 4:] = True
    torch.testing.assert_close(seen(image), expected)


def test_lone_dark_pixels_are_seen_and_edge_stripes_are_gaps() -> None:
    image = torch.full((1, 3, 12, 12), 0.5)
    image[:, :, 5, 5] = 0
    image[:, :, 8:10, 7:9] = 0
    assert seen(image).all()
    image[:, :, :, 11] = 0  # one column of a gap that goes on outside
    expected = torch.ones(1, 1, 12, 12, dtype=torch.bool)
    expected[..., 11] = False
    torch.testing.assert_close(seen(image), expected)


def test_share_of_black_agrees_with_unwidened_gaps() -> None:
    picture = np.random.default_rng(0).integers(0, 26, (40, 50, 3), dtype=np.uint8)
    not_seen = ~seen(torch.from_numpy(picture).permute(2, 0, 1)[None] / 255, width=1)
    assert share_of_black(picture) == pytest.approx(not_seen.float().mean().item())
    assert share_of_black(picture) == pytest.approx((picture.max(axis=2) <= 12).mean())
    assert share_of_black(np.zeros((4, 5, 3), dtype=np.uint8)) == 1


@pytest.mark.real
@pytest.mark.parametrize("size", [(224, 224), (240, 336)])
def test_real_gaps_lie_where_the_full_image_is_black(real_data: Path, size: tuple[int, int]) -> None:
    for name, picture in real_pictures(real_data, "modis/images/*.jpeg").items():
        gap = ~seen(resized(picture, size))[0, 0].numpy()
        black = (picture.max(axis=2) <= 12).astype(np.float32)
        share = cv2.resize(black, size[::-1], interpolation=cv2.INTER_AREA)
        assert gap.mean() == pytest.approx(black.mean(), abs=0.005), name
        assert gap.mean() > 0.08, name
        assert share[gap].min() > 0.5, name
        assert gap[share > 0.999].mean() > 0.999, name


@pytest.mark.real
@pytest.mark.parametrize("pattern", ["examples_one_class/Gravel.jpeg", "hyta/images/*"])
def test_real_images_without_gaps_are_seen_whole(real_data: Path, pattern: str) -> None:
    for name, picture in real_pictures(real_data, pattern).items():
        for size in [(224, 224), (240, 336)]:
            assert seen(resized(picture, size)).all(), name
