import itertools
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from ops.pyramids import Backend, pyramid, pyramid_down, pyramid_up, to_full, to_level

SIZES = [*itertools.product(range(1, 7), range(1, 7)), (1, 20), (20, 1), (64, 65), (97, 131), (255, 257)]
TOLERANCES = {"uint8": 0, "float32": 1e-6, "float64": 1e-12}


def pictures(size: tuple[int, int], dtype: str = "float32") -> Tensor:
    generator = np.random.default_rng(0)
    levels = generator.integers(0, 256, (2, 3, *size)) if dtype == "uint8" else generator.random((2, 3, *size))
    return torch.from_numpy(levels.astype(dtype))


def planes(image: Tensor) -> list[NDArray[np.generic]]:
    """Every channel of every picture, as OpenCV takes it."""
    return list(image.flatten(0, 1).numpy())


def largest_difference(found: Tensor, expected: list[NDArray[np.generic]]) -> float:
    stacked = torch.from_numpy(np.stack(expected)).reshape(found.shape)  # OpenCV drops the axes of single pixels
    assert found.dtype == stacked.dtype
    return float((found.double() - stacked.double()).abs().max())


def centre(image: Tensor) -> NDArray[np.floating]:
    """Centre of mass (y, x) of one picture."""
    levels = image[0, 0].double().numpy()
    rows, columns = np.indices(levels.shape)
    return np.average([rows.ravel(), columns.ravel()], axis=1, weights=levels.ravel())


def blob(size: tuple[int, int], at: tuple[float, float], width: float = 3) -> Tensor:
    rows, columns = np.indices(size)
    levels = np.exp(-((rows - at[0]) ** 2 + (columns - at[1]) ** 2) / (2 * width**2))
    return torch.from_numpy(levels)[None, None]


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_halving_equals_opencv(dtype: str) -> None:
    for size in SIZES:
        image = pictures(size, dtype)
        found = pyramid_down(image)
        assert found.shape == (2, 3, -(-size[0] // 2), -(-size[1] // 2))
        difference = largest_difference(found, [cv2.pyrDown(plane) for plane in planes(image)])
        assert difference <= TOLERANCES[dtype], size


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_doubling_equals_opencv(dtype: str) -> None:
    for height, width in SIZES:
        image = pictures((height, width), dtype)
        for size in itertools.product((2 * height - 1, 2 * height), (2 * width - 1, 2 * width)):
            found = pyramid_up(image, size)
            assert found.shape == (2, 3, *size)
            expected = [cv2.pyrUp(plane, dstsize=size[::-1]) for plane in planes(image)]
            assert largest_difference(found, expected) <= TOLERANCES[dtype], (height, width, size)


def test_levels_of_a_pyramid_are_halved_one_after_another() -> None:
    image = pictures((97, 131), "uint8")
    found = pyramid(image, 3)
    assert found[0] is image
    expected = planes(image)
    for level in found[1:]:
        expected = [cv2.pyrDown(plane) for plane in expected]
        assert largest_difference(level, expected) == 0
    assert found[3].shape == (2, 3, 13, 17)
    assert len(found) == 4
    assert pyramid(image, 0) == [image]


@pytest.mark.parametrize("size", [(97, 131), (96, 128), (95, 130)])
def test_doubling_finds_back_to_the_size_that_was_halved(size: tuple[int, int]) -> None:
    image = blob(size, (40.25, 60.5))
    restored = pyramid_up(pyramid_down(image), size)
    assert restored.shape == image.shape
    np.testing.assert_allclose(centre(restored), [40.25, 60.5], atol=1e-3)


@pytest.mark.parametrize("size", [(97, 131), (96, 128), (95, 130)])
@pytest.mark.parametrize("at", [(40.0, 60.0), (41.0, 61.0), (43.25, 58.5)])
def test_points_of_a_level_lie_where_they_lay_in_the_picture(size: tuple[int, int], at: tuple[float, float]) -> None:
    for levels, level in enumerate(pyramid(blob(size, at), 2)):
        found = centre(level)
        np.testing.assert_allclose(to_full(found, levels), at, atol=1e-3)
        np.testing.assert_allclose(to_level(np.array(at), levels), found, atol=1e-3)


def test_a_blob_at_thirty_goes_to_fifteen_but_by_kornia_half_a_pixel_off() -> None:
    image = blob((64, 64), (30, 30))
    np.testing.assert_allclose(centre(pyramid_down(image)), 15, atol=1e-6)
    np.testing.assert_allclose(centre(pyramid_down(image, "kornia")), 14.75, atol=1e-6)
    np.testing.assert_allclose(centre(pyramid_up(image)), 60, atol=1e-6)
    np.testing.assert_allclose(centre(pyramid_up(image, backend="kornia")), 60.5, atol=1e-6)


def test_points_there_and_back_are_the_same() -> None:
    points = torch.tensor([[0.0, 3.0], [1.3, 77.7]])
    assert torch.equal(to_full(to_level(points, 2), 2), points)
    assert to_full(points, 2).tolist()[0] == [0, 12]
    assert torch.equal(to_full(points, 0), points)


def test_kornia_is_kornia() -> None:
    from kornia.geometry.transform import pyrdown, pyrup

    image = pictures((19, 24))
    torch.testing.assert_close(pyramid_down(image, "kornia"), pyrdown(image))
    torch.testing.assert_close(pyramid_up(image, (38, 48), "kornia"), pyrup(image))
    levels = pictures((19, 24), "uint8")
    assert torch.equal(pyramid_down(levels, "kornia"), pyrdown(levels.float()).add(0.5).to(torch.uint8))


@pytest.mark.parametrize("backend", ["opencv", "kornia"])
@pytest.mark.parametrize("resize", [pyramid_down, lambda image, backend: pyramid_up(image, None, backend)])
def test_half_precision_and_autocast_round_only_what_goes_in_and_out(resize: object, backend: Backend) -> None:
    assert callable(resize)
    image = pictures((33, 40)).bfloat16()
    expected = resize(image.float(), backend)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(resize(image.float(), backend), expected)
        assert torch.equal(resize(image, backend), expected.bfloat16())


def test_a_picture_does_not_depend_on_its_batch_or_layout() -> None:
    image = pictures((33, 40))
    expected = torch.cat([pyramid_down(image[:1]), pyramid_down(image[1:])])
    assert torch.equal(pyramid_down(image), expected)
    assert torch.equal(pyramid_down(image.to(memory_format=torch.channels_last)), expected)
    assert pyramid_down(image[:0]).shape == (0, 3, 17, 20)
    assert pyramid_up(image[:0]).shape == (0, 3, 66, 80)


def test_gradients_are_true() -> None:
    image = pictures((4, 5), "float64").requires_grad_()
    assert torch.autograd.gradcheck(pyramid_down, (image,))
    assert torch.autograd.gradcheck(lambda each: pyramid_up(each, (7, 10)), (image,))


def test_wrong_pictures_and_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"pictures of torch.int64 and shape \(1, 1, 4, 4\); wanted uint8 or floating"):
        pyramid_down(torch.zeros(1, 1, 4, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"shape \(4, 4\); wanted .* \(B, C, H, W\)"):
        pyramid_up(torch.zeros(4, 4))
    with pytest.raises(ValueError, match="0 x 4 pixels; the backend 'opencv' needs at least 1 x 1"):
        pyramid_down(torch.zeros(1, 1, 0, 4))
    with pytest.raises(ValueError, match="2 x 4 pixels; the backend 'kornia' needs at least 3 x 3"):
        pyramid_down(torch.zeros(1, 1, 2, 4), "kornia")
    with pytest.raises(ValueError, match="1 x 4 pixels; the backend 'kornia' needs at least 2 x 2"):
        pyramid_up(torch.zeros(1, 1, 1, 4), backend="kornia")
    with pytest.raises(ValueError, match="a backend 'pillow'; wanted 'opencv' or 'kornia'"):
        pyramid_down(torch.zeros(1, 1, 4, 4), "pillow")  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(ValueError, match="-1 levels of a pyramid; wanted 0 or more"):
        pyramid(torch.zeros(1, 1, 4, 4), -1)
    for size in [(11, 8), (8, 6), (10, 9)]:
        with pytest.raises(ValueError, match=rf"5 x 4 pixels .* to {size[0]} x {size[1]}; wanted is 10 x 8, or one"):
            pyramid_up(torch.zeros(1, 1, 5, 4), size)
    with pytest.raises(ValueError, match="kornia doubles only: leave the size out"):
        pyramid_up(torch.zeros(1, 1, 5, 4), (9, 8), "kornia")


@pytest.mark.real
def test_photographs_equal_opencvs(real_data: Path) -> None:
    paths = sorted((real_data / "avalanches" / "images").iterdir())[:3]
    image = torch.stack([torch.from_numpy(cv2.imread(str(path))).permute(2, 0, 1) for path in paths])
    assert largest_difference(pyramid_down(image), [cv2.pyrDown(plane) for plane in planes(image)]) == 0
    assert largest_difference(pyramid_up(image), [cv2.pyrUp(plane) for plane in planes(image)]) == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_a_gpu_gives_the_same(dtype: str) -> None:
    image = pictures((97, 131), dtype)
    for resize in (pyramid_down, pyramid_up):
        expected, found = resize(image), resize(image.cuda()).cpu()
        torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCES[dtype])
