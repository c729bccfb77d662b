from collections.abc import Sequence

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from ops.exact.filters import FILTERS, filtered
from tests.checks import rejects

KERNELS = {"contour": ImageFilter.CONTOUR, "detail": ImageFilter.DETAIL, "edge_enhance": ImageFilter.EDGE_ENHANCE,
           "find_edges": ImageFilter.FIND_EDGES}  # fmt: skip


def by_pillow(image: Tensor, filters: Sequence[str] = FILTERS) -> Tensor:
    """The same by Pillow, image by image; one channel is a gray image."""
    made = []
    for name in filters:
        for picture in image:
            array = picture.permute(1, 2, 0).squeeze(2).contiguous().numpy()
            result = np.array(Image.fromarray(array).filter(KERNELS[name]))
            made.append(torch.from_numpy(result.reshape(*array.shape[:2], -1)).permute(2, 0, 1))
    return torch.stack(made).view(len(filters), *image.shape)


def noise(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.mark.parametrize(
    "shape", [(7, 3, 192, 256), (2, 1, 33, 17), (1, 3, 1, 9), (1, 3, 9, 1), (2, 3, 2, 2), (1, 3, 3, 3), (1, 1, 2, 30)]
)
def test_noise_is_filtered_as_by_pillow(shape: tuple[int, ...]) -> None:
    for image in (noise(*shape), (noise(*shape) > 127).byte() * 255):
        assert torch.equal(filtered(image, FILTERS), by_pillow(image))


def test_every_tie_of_detail_is_rounded_as_by_pillow() -> None:
    # a center of any level with four neighbors that sum to any remainder of 6
    levels, remainders = torch.meshgrid(torch.arange(256), torch.arange(6), indexing="ij")
    image = torch.zeros(256 * 6, 1, 3, 3, dtype=torch.uint8)
    image[:, 0, 1, 1], image[:, 0, 0, 1] = levels.flatten().byte(), (remainders.flatten() + 30).byte()
    image[:, 0, 1, 0] = (levels.flatten() // 2).byte()
    assert torch.equal(filtered(image, ["detail"]), by_pillow(image, ["detail"]))


def test_filters_come_in_the_order_asked_for() -> None:
    image, order = noise(2, 3, 12, 12), ["find_edges", "contour", "find_edges"]
    assert torch.equal(filtered(image, order), by_pillow(image, order))
    values, places = image / 255, [FILTERS.index(name) for name in order]
    assert torch.equal(filtered(values, order), filtered(values, FILTERS)[places])
    assert filtered(image, []).shape == (0, 2, 3, 12, 12)


def test_any_memory_layout_will_do() -> None:
    image = noise(2, 20, 24, 3).permute(0, 3, 1, 2)
    assert torch.equal(filtered(image[..., ::2], FILTERS), by_pillow(image[..., ::2]))
    assert filtered(noise(0, 3, 8, 8), FILTERS).shape == (4, 0, 3, 8, 8)


@pytest.mark.parametrize(
    ("dtype", "levels"), [(torch.float32, 0.501), (torch.float64, 0.501), (torch.float16, 1.2), (torch.bfloat16, 4.5)]
)
def test_floats_are_as_near_as_stated(dtype: torch.dtype, levels: float) -> None:
    image = noise(4, 3, 64, 64)
    image[0] = image[0] % 2 + 127  # bfloat16 holds 127/255 at its best and 128/255 at its worst
    values = (image.double() / 255).to(dtype)
    made = filtered(values, FILTERS)
    assert made.dtype == dtype
    assert (made.double() * 255 - by_pillow(image).double()).abs().max() <= levels
    for border in (0, -1):
        assert torch.equal(made[..., border, :], values[..., border, :].expand(4, -1, -1, -1))
        assert torch.equal(made[..., border], values[..., border].expand(4, -1, -1, -1))


def test_floats_are_not_rounded_to_levels() -> None:
    image = torch.zeros(1, 1, 3, 3, dtype=torch.float64)
    image[0, 0, 1, 1], image[0, 0, 0, 1], image[0, 0, 0, 0] = 0.101, 0.03, 0.2
    by_hand = [1.0, (10 * 0.101 - 0.03) / 6, (10 * 0.101 - 0.23) / 2, 8 * 0.101 - 0.23]
    assert filtered(image, FILTERS)[:, 0, 0, 1, 1].tolist() == pytest.approx(by_hand, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16])
def test_autocast_changes_nothing(dtype: torch.dtype) -> None:
    image = noise(2, 3, 16, 16)
    image = image if dtype == torch.uint8 else (image.float() / 255).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        made = filtered(image, FILTERS)
    assert made.dtype == dtype
    assert torch.equal(made, filtered(image, FILTERS))


def test_half_types_are_calculated_in_float32() -> None:
    image = (noise(2, 3, 16, 16).float() / 255).bfloat16()
    assert torch.equal(filtered(image, FILTERS), filtered(image.float(), FILTERS).bfloat16())


def test_floats_have_the_gradient_of_finite_differences() -> None:
    image = torch.rand(1, 1, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    assert torch.autograd.gradcheck(lambda picture: filtered(picture, FILTERS), image)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.uint8, 1), (torch.float32, 1e-5), (torch.float64, 1e-12), (torch.bfloat16, 0.01)]
)
def test_kornia_differs_from_exact_by_ties_of_detail_and_rounding(dtype: torch.dtype, tolerance: float) -> None:
    image = noise(3, 3, 61, 83)
    image = image if dtype == torch.uint8 else (image.double() / 255).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = filtered(image, FILTERS, "kornia")
    expected = filtered(image, FILTERS)
    assert found.dtype == dtype
    different = (found.double() - expected.double()).abs()
    assert different.max() <= tolerance
    if dtype == torch.uint8:
        shares = dict(zip(FILTERS, (different > 0).double().mean(dim=(1, 2, 3, 4)).tolist(), strict=True))
        assert 0 < shares.pop("detail") < 0.1
        assert set(shares.values()) == {0}


@pytest.mark.parametrize("size", [(1, 9), (2, 2), (3, 3)])
def test_kornia_copies_the_outermost_pixels(size: tuple[int, int]) -> None:
    image = noise(2, 3, *size)
    assert (filtered(image, FILTERS, "kornia").int() - filtered(image, FILTERS).int()).abs().max() <= 1


@pytest.mark.gpu
def test_a_gpu_gives_the_same_bits() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    image = noise(8, 3, 256, 256)
    assert torch.equal(filtered(image.cuda(), FILTERS).cpu(), filtered(image, FILTERS))
    with torch.autocast("cuda", dtype=torch.bfloat16):
        assert torch.equal(filtered(image.cuda(), FILTERS).cpu(), filtered(image, FILTERS))


def test_rejects_unknown_filters_and_other_images() -> None:
    rejects(r"'contours' is unknown.* contour\?", filtered, noise(1, 3, 4, 4), ["contours"])
    for image in (noise(3, 4, 4), noise(1, 3, 4, 4).int()):
        rejects(r"expected images \(B, C, H, W\)", filtered, image, FILTERS)
