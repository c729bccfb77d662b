"""Resampling by matrices equals OpenCV's and torch's."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from datamodules.read.pictures import resized
from ops.pictures import box, letterboxed
from ops.resampling import Kernel, levels_resized, matrix, resampled
from ops.windows import Size


@pytest.mark.parametrize(
    ("size", "wanted", "most"),
    [
        ((100, 100), (80, 80), 0),  # a window of roads/best
        ((140, 210), (32, 48), 0),
        ((64, 96), (32, 48), 0),  # halves, which OpenCV rounds up
        ((96, 128), (32, 32), 1),  # sums of 12 levels may end in one half
        ((41, 77), (41, 77), 0),
        ((50, 60), (64, 72), 1),  # OpenCV interpolates with 11 bits
    ],
)
def test_levels_are_resized_as_opencv_does(size: Size, wanted: Size, most: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    found = levels_resized(torch.from_numpy(image).permute(2, 0, 1)[None].float(), wanted)
    assert np.abs(found[0].permute(1, 2, 0).numpy() - resized(image, wanted)).max() <= most


def test_a_part_is_resized_to_a_part() -> None:
    image = np.random.default_rng(0).integers(0, 256, (90, 60, 3), np.uint8)
    top, left, height, width = box((90, 60), 32)
    found = levels_resized(torch.from_numpy(image).permute(2, 0, 1)[None].float(), (32, 32),
                           targets=((top, height), (left, width)))[0].permute(1, 2, 0).numpy()  # fmt: skip
    np.testing.assert_array_equal(found[top : top + height, left : left + width],
                                  letterboxed(image, 32)[top : top + height, left : left + width])  # fmt: skip
    assert found.sum() == found[top : top + height, left : left + width].sum()
    square = levels_resized(torch.from_numpy(image).permute(2, 0, 1)[None].float(), (20, 20), ((15, 60), (0, 60)))
    np.testing.assert_array_equal(square[0].permute(1, 2, 0).numpy(), resized(image[15:75], (20, 20)))


@pytest.mark.parametrize(
    ("kernel", "mode", "antialias"),
    [("linear", "bilinear", False), ("triangle", "bilinear", True), ("cubic", "bicubic", False)],
)
@pytest.mark.parametrize("size", [(23, 90), (64, 17)])
def test_maps_are_resized_as_torch_does(kernel: Kernel, mode: str, antialias: bool, size: Size) -> None:
    maps = torch.rand(2, 3, 40, 50, generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(maps, size, mode=mode, antialias=antialias)
    found = resampled(maps, matrix(kernel, 40, size[0]), matrix(kernel, 50, size[1]))
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)
