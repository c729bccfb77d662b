import math
from fractions import Fraction

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ops.windows import Blend, Size, blended, cut, resized_maps, window_grid
from tests.checks import rejects

OVERLAPS = (0.0, 0.1, 0.25, 0.3, 0.5, 0.55, 0.7, 0.9, 0.99)


def random_cases(count: int, longest: int, largest: int) -> list[tuple[Size, Size, float]]:
    """Sizes, windows and overlaps; about one side in four is shorter than its window's."""
    rng = np.random.default_rng(0)
    sizes, windows = (rng.integers(1, most + 1, (count, 2)).tolist() for most in (longest, largest))
    return [((h, w), (y, x), float(rng.choice(OVERLAPS))) for (h, w), (y, x) in zip(sizes, windows, strict=True)]


def greedy_starts(length: int, side: int, overlap: float) -> list[int]:
    """The fewest windows: each begins as far on as the overlap allows, in fractions without rounding."""
    share = Fraction(str(overlap))
    steps = [step for step in range(1, side + 1) if side - step >= share * side]
    starts = [0]
    while starts[-1] + side < length:
        starts.append(starts[-1] + max(steps, default=1))
    return starts


@pytest.mark.parametrize(("size", "window", "overlap"), random_cases(60, longest=90, largest=40))
def test_windows_are_the_fewest_that_cover_and_overlap_enough(size: Size, window: Size, overlap: float) -> None:
    grid = window_grid(size, window, overlap)
    covered = np.zeros(size, np.bool_)
    for top, left in grid:
        covered[top : top + window[0], left : left + window[1]] = True
    assert covered.all()
    tops, lefts = sorted({top for top, _ in grid}), sorted({left for _, left in grid})
    assert grid == [(top, left) for top in tops for left in lefts], "in rows from the top, each from the left"
    for starts, length, side in zip((tops, lefts), size, window, strict=True):
        fewest = greedy_starts(length, side, overlap)
        assert len(starts) == len(fewest)
        assert starts[0] == 0
        assert starts[-1] == max(0, length - side), "the last ends where the picture ends"
        steps = np.diff(starts)
        if steps.size:
            assert np.ptp(steps) <= 1, "spread evenly"
            assert steps.max() <= fewest[1], "no pair shares less than the overlap"


def test_windows_of_a_small_image_by_hand() -> None:
    # Tops: 6 pixels of room in steps of at most 2. Lefts: 3 pixels of room in two steps.
    assert window_grid((10, 7), (4, 4), 0.5) == [(top, left) for top in (0, 2, 4, 6) for left in (0, 2, 3)]
    assert window_grid((8, 8), (4, 4)) == [(0, 0), (0, 4), (4, 0), (4, 4)]
    assert window_grid((3, 9), (4, 4)) == [(0, 0), (0, 2), (0, 5)]
    assert window_grid((3, 4), (4, 4), 0.9) == [(0, 0)]


@pytest.mark.parametrize(("overlap", "count"), [(0.9, 91), (0.8, 46), (0.55, 21)])
def test_an_overlap_that_binary_fractions_miss_costs_no_window(overlap: float, count: int) -> None:
    assert 100 * (1 - overlap) != round(100 * (1 - overlap)), "or this test shows nothing"
    assert len(window_grid((1, 1000), (1, 100), overlap)) == count


@pytest.mark.parametrize(("height", "side", "overlap"),
                         [(0, 4, 0.0), (5, 0, 0.0), (5, 4, 1.0), (5, 4, -0.1), (5, 4, math.nan)])  # fmt: skip
def test_rejects_impossible_grids(height: int, side: int, overlap: float) -> None:
    size, window = (height, 5), (4, side)
    message = r"1 pixel or more and an overlap in \[0, 1\), got an image of \(\d, 5\)"
    rejects(message, window_grid, size, window, overlap)
    rejects(message, Blend, size, window, overlap, 1)


@pytest.mark.parametrize("channels", [(), (1,), (3,)])
@pytest.mark.parametrize("dtype", [np.uint8, np.bool_])
@pytest.mark.parametrize("size", [(20, 31), (5, 31), (20, 4), (1, 1)])
def test_pixels_are_those_of_the_padded_image(size: Size, dtype: type, channels: tuple[int, ...]) -> None:
    picture: NDArray[np.generic] = np.random.default_rng(0).integers(0, 256, (*size, *channels)).astype(dtype)
    padded = np.pad(picture, [(0, 9), (0, 9)] + [(0, 0)] * len(channels), mode="reflect")
    for top, left in [(0, 0), *window_grid(size, (8, 9), 0.5), (size[0] - 1, size[1] - 1)]:
        window = cut(picture, (top, left), (8, 9))
        assert window.dtype == dtype
        np.testing.assert_array_equal(window, padded[top : top + 8, left : left + 9])


def test_a_window_inside_is_no_copy() -> None:
    picture = np.zeros((40, 50, 3), np.uint8)
    assert np.shares_memory(cut(picture, (8, 18), (32, 32)), picture)


@pytest.mark.parametrize("origin", [(-1, 0), (0, -1), (20, 0), (0, 30)])
def test_rejects_origins_outside_the_image(origin: Size) -> None:
    rejects(r"inside .*\(20, 30\), got .* window_grid", cut, np.zeros((20, 30, 3), np.uint8), origin, (8, 8))


def weight(position: int, start: int, side: int, length: int, overlap: float) -> float:
    """Weight of a pixel of a side by the distance of its center to the side's ends inside the image."""
    shared = min(math.ceil(Fraction(str(overlap)) * side), side - 1)
    if not shared:
        return 1.0
    ends = [position + 0.5] * (start > 0) + [side - position - 0.5] * (start + side < length)
    outer = shared // 4
    weights = [1.0]
    for distance in ends:
        if distance <= outer:
            weights.append(0.0)
        elif distance < shared - outer:
            weights.append((1 - math.cos(math.pi * (distance - outer) / (shared - 2 * outer))) / 2)
    return min(weights)


@pytest.mark.parametrize(("size", "window", "overlap"), random_cases(40, longest=40, largest=24))
def test_blend_is_the_weighted_mean(size: Size, window: Size, overlap: float) -> None:
    origins = window_grid(size, window, overlap)
    rng = np.random.default_rng(1)
    windows = [rng.random((2, *window)) for _ in origins]
    sums, total = np.zeros((2, *size)), np.zeros(size)
    for values, origin in zip(windows, origins, strict=True):
        place = tuple(slice(start, start + side) for start, side in zip(origin, window, strict=True))
        vertical, horizontal = (
            np.array([weight(i, start, side, length, overlap) for i in range(min(side, length - start))])
            for start, side, length in zip(origin, window, size, strict=True)
        )
        weights = np.outer(vertical, horizontal)
        sums[:, *place] += weights * values[:, : len(vertical), : len(horizontal)]
        total[place] += weights
    assert total.min() > 0
    found = blended([torch.from_numpy(values).float() for values in windows], size, window, overlap)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, sums / total, atol=2e-6)
    of_arrays = blended(windows, size, window, overlap)
    assert isinstance(of_arrays, np.ndarray)
    np.testing.assert_allclose(of_arrays, found, rtol=0, atol=1e-7)


@pytest.mark.parametrize(("size", "window", "overlap"), random_cases(40, longest=60, largest=31))
def test_blending_equal_windows_is_exact(size: Size, window: Size, overlap: float) -> None:
    values = torch.tensor([0.3, 1.0]).view(2, 1, 1).expand(2, *window)
    found = blended([values] * len(window_grid(size, window, overlap)), size, window, overlap)
    assert torch.equal(found, torch.tensor([0.3, 1.0]).view(2, 1, 1).expand(2, *size))


def test_one_window_hands_over_to_the_next_in_a_raised_cosine() -> None:
    # They share 8 pixels: 2 of the first alone, 4 of both, 2 of the second alone.
    (row,) = blended([torch.zeros(1, 1, 16), torch.ones(1, 1, 16)], (1, 24), (1, 16), 0.5)[0]
    shares = [0.0380602, 0.3086583, 0.6913417, 0.9619398]  # sin² of 11.25°, 33.75°, 56.25°, 78.75°
    np.testing.assert_allclose(row, [0] * 10 + shares + [1] * 10, atol=1e-6)


@pytest.fixture
def convolutions() -> nn.Module:
    """Two layers that see two pixels far; their sums of whole numbers are exact in float32."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1))
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data = torch.randint(-4, 5, parameter.shape, generator=generator).float()
    return network


@pytest.fixture
def box() -> nn.Module:
    """A layer that sees three pixels far; exact too."""
    layer = nn.Conv2d(3, 1, 7, padding=3, bias=False)
    nn.init.ones_(layer.weight)
    return layer


def tiled_and_whole(network: nn.Module, size: Size, side: int) -> tuple[Tensor, Tensor]:
    """What a network says of windows, blended, and of the whole image.

    Where the picture is smaller than a window, `cut` enlarges the whole as it does the window: beyond the picture both
    have its reflection, and only then the zeros of the padding.
    """
    picture: NDArray[np.uint8] = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)

    def said(part: NDArray[np.uint8]) -> Tensor:
        return Tensor(network(torch.from_numpy(part.transpose(2, 0, 1).astype(np.float32))[None])[0].detach())

    windows = [said(cut(picture, origin, (side, side))) for origin in window_grid(size, (side, side), 0.5)]
    whole = said(cut(picture, (0, 0), (max(size[0], side), max(size[1], side))))[:, : size[0], : size[1]]
    return blended(windows, size, (side, side), 0.5), whole


@pytest.mark.parametrize("size", [(101, 67), (64, 48), (17, 131), (24, 25), (11, 53), (53, 7), (5, 3)])
def test_a_receptive_field_within_a_quarter_of_the_overlap_leaves_no_seam(
    convolutions: nn.Module, box: nn.Module, size: Size
) -> None:
    for network, side in [(convolutions, 16), (convolutions, 17), (box, 24)]:
        tiled, whole = tiled_and_whole(network, size, side)
        assert torch.equal(tiled, whole), "to the last bit, so that masks are the same at any threshold"


def test_a_larger_receptive_field_leaves_seams(box: nn.Module) -> None:
    tiled, whole = tiled_and_whole(box, (101, 67), 16)  # a quarter of the overlap is 2, and it sees 3
    assert not torch.equal(tiled, whole), "or the test above shows nothing"


def test_rows_come_when_the_windows_below_begin() -> None:
    blend = Blend((20, 12), (8, 8), 0.25, 3)
    origins = window_grid((20, 12), (8, 8), 0.25)
    assert origins == [(0, 0), (0, 4), (6, 0), (6, 4), (12, 0), (12, 4)]
    rows = [blend.add(torch.rand(3, 8, 8), origin).shape for origin in origins]
    assert rows == [(3, 0, 12), (3, 0, 12), (3, 6, 12), (3, 0, 12), (3, 6, 12), (3, 0, 12)]
    assert blend.finish().shape == (3, 8, 12)
    assert blend.finish().shape == (3, 0, 12), "all have been returned"


@pytest.mark.parametrize("height", [16, 100, 10_000])
def test_memory_is_a_strip_whatever_the_height(height: int) -> None:
    blend = Blend((height, 40), (16, 16), 0.5, 2)
    for origin in window_grid((height, 40), (16, 16), 0.5)[:40]:
        rows = blend.add(torch.ones(2, 16, 16), origin)
        assert blend.strip.untyped_storage().nbytes() == 3 * 16 * 40 * 4
        assert rows.untyped_storage().nbytes() == rows.numel() * 4, "rows that are kept must not keep the strip"


def test_blends_in_single_precision_without_gradients() -> None:
    values = torch.full((1, 4, 4), 0.75, dtype=torch.bfloat16, requires_grad=True)
    found = blended([values, values], (4, 6), (4, 4), 0.5)
    assert found.dtype == torch.float32
    assert not found.requires_grad
    assert torch.equal(found, torch.full((1, 4, 6), 0.75))


def test_a_blend_needs_every_window() -> None:
    windows = [torch.zeros(1, 4, 4)] * 3
    rejects("argument 2 is longer", blended, windows, (4, 11), (4, 4), 0.1)
    rejects("argument 2 is shorter", blended, windows, (4, 7), (4, 4), 0.1)


def test_rejects_windows_out_of_order_or_of_another_shape() -> None:
    blend = Blend((8, 12), (8, 8), 0.5, 2)
    window = torch.zeros(2, 8, 8)
    rejects(r"at \(0, 0\), got .* at \(0, 4\).* in order", blend.add, window, (0, 4))
    rejects(r"got \(2, 8, 7\)", blend.add, window[:, :, :7], (0, 0))
    rejects(r"got \(1, 8, 8\)", blend.add, window[:1], (0, 0))
    rejects(r"2 windows are missing, the next at \(0, 0\)", blend.finish)
    blend.add(window, (0, 0))
    blend.add(window, (0, 4))
    rejects(r"expected .* at no place, all are there", blend.add, window, (0, 4))
    assert blend.finish().shape == (2, 8, 12), "what was refused has left the blend as it was"


def test_maps_are_enlarged_as_opencv_does_it() -> None:
    maps = torch.rand(2, 3, 9, 7, generator=torch.Generator().manual_seed(0))
    found = resized_maps(maps, (20, 31))
    for enlarged, each in zip(found.flatten(0, 1), maps.flatten(0, 1), strict=True):
        expected = cv2.resize(each.numpy(), (31, 20), interpolation=cv2.INTER_LINEAR)
        np.testing.assert_allclose(enlarged, expected, atol=1e-5)


def test_maps_of_the_right_size_are_returned() -> None:
    maps = torch.rand(1, 1, 4, 5)
    assert resized_maps(maps, None) is maps
    assert resized_maps(maps, (4, 5)) is maps
