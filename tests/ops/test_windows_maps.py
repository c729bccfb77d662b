import cv2
import numpy as np
import torch

from ops.windows import resized_maps


def test_maps_are_enlarged_as_opencv_does_it() -> None:
    maps = torch.rand(2, 3, 9, 7, generator=torch.Generator().manual_seed(0))
    found = resized_maps(maps, (20, 31))
    for enlarged, each in zip(found.flatten(0, 1), maps.flatten(0, 1), strict=True):
        expected = cv2.resize(each.numpy(), (31, 20), interpolation=cv2.INTER_LINEAR)
        np.testing.assert_allclose(enlarged, expected, atol=1e-5)


def test_maps_of_the_wanted_size_are_left_alone() -> None:
    maps = torch.rand(1, 1, 4, 5)
    assert resized_maps(maps, None) is maps
    assert resized_maps(maps, (4, 5)) is maps
