import itertools

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from ops.exact.backends import Backend
from ops.exact.pyramids import pyramid, pyramid_down
from tests.checks import rejects

SIZES = [*itertools.product(range(1, 7), range(1, 7)), (1, 20), (20, 1), (64, 65), (97, 131), (255, 257)]
TOLERANCES = {"uint8": 0, "float32": 1e-6, "float64": 1e-12}
BACKENDS: list[Backend] = ["exact", "kornia"]


def pictures(size: tuple[int, int], dtype: str = "float32") -> Tensor:
    generator = np.random.default_rng(0)
    levels = generator.integers(0, 256, (2, 3, *size)) if dtype == "uint8" else generator.random((2, 3, *size))
    return torch.from_numpy(levels.astype(dtype))


def halved(image: Tensor) -> Tensor:
    """OpenCV's result, plane by plane."""
    planes = np.stack([cv2.pyrDown(plane) for plane in image.flatten(0, 1).numpy()])
    # OpenCV drops the axes of single pixels.
    return torch.from_numpy(planes).reshape(*image.shape[:2], (image.shape[2] + 1) // 2, (image.shape[3] + 1) // 2)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_both_backends_equal_opencv(dtype: str, backend: Backend) -> None:
    for size in SIZES:
        image = pictures(size, dtype)
        torch.testing.assert_close(pyramid_down(image, backend), halved(image), rtol=0, atol=TOLERANCES[dtype])


def test_exact_equals_opencv_to_the_last_bit_on_the_host() -> None:
    for dtype in TOLERANCES:
        assert torch.equal(pyramid_down(pictures((97, 131), dtype)), halved(pictures((97, 131), dtype)))


@pytest.mark.parametrize("backend", BACKENDS)
def test_levels_are_halved_one_after_another(backend: Backend) -> None:
    image = pictures((97, 131), "uint8")
    found = pyramid(image, 3, backend)
    assert found[0] is image
    for finer, level in itertools.pairwise(found):
        assert torch.equal(level, halved(finer))
    assert (len(found), found[3].shape) == (4, (2, 3, 13, 17))
    assert pyramid(image, 0) == [image]


@pytest.mark.parametrize("backend", BACKENDS)
def test_half_precision_and_autocast_round_only_input_and_output(backend: Backend) -> None:
    image = pictures((33, 40)).bfloat16()
    expected = pyramid_down(image.float(), backend)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(pyramid_down(image.float(), backend), expected)
        assert torch.equal(pyramid_down(image, backend), expected.bfloat16())


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_image_does_not_depend_on_its_batch_or_layout(backend: Backend) -> None:
    image = pictures((33, 40))
    expected = torch.cat([pyramid_down(image[:1], backend), pyramid_down(image[1:], backend)])
    assert torch.equal(pyramid_down(image, backend), expected)
    assert torch.equal(pyramid_down(image.to(memory_format=torch.channels_last), backend), expected)
    assert pyramid_down(image[:0], backend).shape == (0, 3, 17, 20)


def test_kornia_keeps_the_gradient() -> None:
    image = pictures((4, 5), "float64").requires_grad_()
    assert torch.autograd.gradcheck(lambda each: pyramid_down(each, "kornia"), (image,))


def test_rejects_wrong_images() -> None:
    for wrong in (torch.zeros(1, 1, 4, 4, dtype=torch.int64), torch.zeros(4, 4), torch.zeros(1, 1, 0, 4)):
        rejects(r"expected images \(B, C, H, W\)", pyramid_down, wrong)
    rejects("'pillow' is unknown", pyramid_down, torch.zeros(1, 1, 4, 4), "pillow")
    rejects("0 or more pyramid levels, got -1", pyramid, torch.zeros(1, 1, 4, 4), -1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_a_gpu_gives_the_same(dtype: str) -> None:
    image = pictures((97, 131), dtype)
    found = pyramid_down(image.cuda()).cpu()
    torch.testing.assert_close(found, halved(image), rtol=0, atol=TOLERANCES[dtype])
