import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from ops.pictures import BLACK, seen, share_of_black

CLOUDS = Path(os.environ.get("BELVEDERE_DATA", "")) / "clouds"


def slow_gaps(black: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    """Every square of the given width that meets the picture, one by one."""
    height, breadth = black.shape
    gaps = np.zeros_like(black)
    for top in range(1 - width, height):
        for left in range(1 - width, breadth):
            rows = slice(max(top, 0), top + width)
            columns = slice(max(left, 0), left + width)
            if black[rows, columns].all():
                gaps[rows, columns] = True
    return gaps


def real_pictures(pattern: str) -> dict[str, NDArray[np.uint8]]:
    paths = sorted(CLOUDS.glob(pattern))
    if not paths:
        pytest.skip(f"no real pictures: {CLOUDS / pattern} is not there; set BELVEDERE_DATA")
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


def test_lone_dark_pixels_stay_seen_and_stripes_at_the_edge_do_not() -> None:
    image = torch.full((1, 3, 12, 12), 0.5)
    image[:, :, 5, 5] = 0
    image[:, :, 8:10, 7:9] = 0
    assert seen(image).all()
    image[:, :, :, 11] = 0  # one column of a gap that goes on outside
    expected = torch.ones(1, 1, 12, 12, dtype=torch.bool)
    expected[..., 11] = False
    torch.testing.assert_close(seen(image), expected)


def test_pictures_of_a_batch_do_not_meet() -> None:
    images = torch.rand(4, 3, 9, 9, generator=torch.Generator().manual_seed(0)) * 0.07
    torch.testing.assert_close(seen(images), torch.cat([seen(image[None]) for image in images]))


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match=r"picture of torch.uint8; wanted floating point in \[0, 1\]"):
        seen(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))
    with pytest.raises(ValueError, match="gap width of 0 pixels; wanted 1 or more"):
        seen(torch.zeros(1, 3, 8, 8), width=0)


def test_share_of_black_agrees_with_unwidened_gaps() -> None:
    picture = np.random.default_rng(0).integers(0, 26, (40, 50, 3), dtype=np.uint8)
    not_seen = ~seen(torch.from_numpy(picture).permute(2, 0, 1)[None] / 255, width=1)
    assert share_of_black(picture) == pytest.approx(not_seen.float().mean().item())
    assert share_of_black(picture) == pytest.approx((picture.max(axis=2) <= 12).mean())
    assert share_of_black(np.zeros((4, 5, 3), dtype=np.uint8)) == 1


@pytest.mark.real
@pytest.mark.parametrize("size", [(224, 224), (240, 336)])
def test_real_gaps_lie_where_the_full_picture_is_black(size: tuple[int, int]) -> None:
    for name, picture in real_pictures("modis/images/*.jpeg").items():
        gap = ~seen(resized(picture, size))[0, 0].numpy()
        black = (picture.max(axis=2) <= 12).astype(np.float32)
        share = cv2.resize(black, size[::-1], interpolation=cv2.INTER_AREA)
        assert gap.mean() == pytest.approx(black.mean(), abs=0.005), name
        assert gap.mean() > 0.08, name
        assert share[gap].min() > 0.5, name
        assert gap[share > 0.999].mean() > 0.999, name


@pytest.mark.real
@pytest.mark.parametrize("pattern", ["examples_one_class/Gravel.jpeg", "hyta/images/*"])
def test_real_pictures_without_gaps_are_seen_whole(pattern: str) -> None:
    for name, picture in real_pictures(pattern).items():
        for size in [(224, 224), (240, 336)]:
            assert seen(resized(picture, size)).all(), name
