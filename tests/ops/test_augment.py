import math

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from ops.augment import Strategy, bits_of, central_crops, copies, crops_by_seed, flip_by_seed, random_warps, warped
from tests.checks import rejects


def splitmix64(seed: int) -> int:
    """Vigna's splitmix64.c, next() after seeding, in whole numbers without limit."""
    mask = (1 << 64) - 1
    z = (seed + 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


def flips_of(seeds: Tensor) -> tuple[Tensor, Tensor]:
    """Whether each seed flips left to right and top to bottom."""
    marked = torch.zeros(len(seeds), 1, 2, 2)
    marked[:, :, 0, 0] = 1
    (flipped,) = flip_by_seed([marked], seeds)
    position = flipped.flatten(1).argmax(1)
    return position % 2 == 1, position >= 2


def test_reference_generator() -> None:
    assert splitmix64(1234567) == 6457827717110365317  # published first output for this seed


@pytest.mark.parametrize("first", [0, -2000, 1234567, 2**62])
def test_flips_are_bits_of_splitmix64(first: int) -> None:
    seeds = torch.arange(first, first + 4000)
    horizontal, vertical = flips_of(seeds)
    bits = [splitmix64(seed % 2**64) for seed in seeds.tolist()]
    assert [value % 2**64 for value in bits_of(seeds).tolist()] == bits
    assert horizontal.tolist() == [bool(value & 1) for value in bits]
    assert vertical.tolist() == [bool(value & 2) for value in bits]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bool])
def test_samples_are_flipped_as_numpy_flips_them(dtype: torch.dtype) -> None:
    seeds = torch.arange(16)
    images = torch.randint(0, 256, (16, 3, 4, 5), generator=torch.Generator().manual_seed(0)).to(dtype)
    flipped, masks = flip_by_seed([images, images[:, :1, ::3, ::4]], seeds)
    assert flipped.dtype == dtype
    assert torch.equal(masks, flipped[:, :1, ::3, ::4])  # the corners
    for sample, result, horizontal, vertical in zip(images, flipped, *flips_of(seeds), strict=True):
        expected = sample.numpy()
        expected = expected[:, :, ::-1] if horizontal else expected
        expected = expected[:, ::-1] if vertical else expected
        np.testing.assert_array_equal(result.numpy(), expected)


def some(count: int, height: int, width: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise, valid everywhere."""
    image = torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed))
    return image, torch.ones(count, 1, height, width, dtype=torch.bool)


def test_warps_are_what_shear_zoom_and_rotation_say() -> None:
    warps = random_warps(torch.arange(4000), shear=0.2, zoom=0.1, rotation=20, flip=True).double()
    mirrored = torch.det(warps) < 0
    assert 0.47 < mirrored.double().mean() < 0.53
    warps[mirrored] = warps[mirrored] @ torch.diag(torch.tensor([-1.0, 1.0])).double()
    # R·[[1, k], [0, 1]]·s: the first column has s and the angle, the rest is the shear
    angle = torch.atan2(warps[:, 1, 0], warps[:, 0, 0])
    scale = warps[:, :, 0].norm(dim=1)
    cosine, sine = torch.cos(angle), torch.sin(angle)
    slope = (cosine * warps[:, 0, 1] + sine * warps[:, 1, 1]) / scale
    torch.testing.assert_close(torch.det(warps), scale**2)
    for values, low, high in ((angle, -math.radians(20), math.radians(20)), (scale, 0.9, 1.1), (slope, -0.2, 0.2)):
        assert low - 1e-6 <= values.min() < low + 0.01 * (high - low)
        assert high - 0.01 * (high - low) < values.max() <= high + 1e-6
        assert abs((values.mean() - (low + high) / 2) / (high - low)) < 0.02
    figures = torch.stack([angle, scale, slope, mirrored.double()])
    assert (torch.corrcoef(figures) - torch.eye(4)).abs().max() < 0.06


def test_zero_ranges_move_nothing() -> None:
    image, valid = some(3, 5, 9)
    warps = random_warps(torch.arange(3), 0, 0, 0, flip=False)
    assert torch.equal(warps, torch.eye(2).expand(3, 2, 2))
    moved, kept = warped(image, valid, warps)
    torch.testing.assert_close(moved, image, atol=1e-5, rtol=0)
    assert kept.all()


def test_a_sample_depends_on_its_seed_alone() -> None:
    seeds = torch.tensor([3, 99, -7, 3])
    together = random_warps(seeds, 0.2, 0.2, 20, True)
    alone = torch.cat([random_warps(seed[None], 0.2, 0.2, 20, True) for seed in seeds])
    assert torch.equal(together, alone)
    assert torch.equal(together[0], together[3])
    assert not torch.equal(together[0], together[1])


@pytest.mark.parametrize("size", [(24, 24), (20, 31)])
def test_images_move_as_in_opencv(size: tuple[int, int]) -> None:
    height, width = size
    image, valid = some(6, height, width)
    warps = random_warps(torch.arange(6), 0.2, 0.2, 30, True)
    moved, _ = warped(image, valid, warps)
    middle = np.array([(width - 1) / 2, (height - 1) / 2])
    for picture, matrix, result in zip(image.numpy(), warps.double().numpy(), moved.numpy(), strict=True):
        forward = np.hstack([matrix, (middle - matrix @ middle)[:, None]])
        expected = cv2.warpAffine(picture.transpose(1, 2, 0), forward, (width, height), flags=cv2.INTER_LINEAR,
                                  borderValue=(1, 1, 1))  # fmt: skip
        np.testing.assert_allclose(result.transpose(1, 2, 0), expected, atol=0.04)  # which counts 32nds of a pixel


def test_a_quarter_turn_and_a_mirror_are_exact() -> None:
    image, valid = some(2, 6, 6)
    warps = torch.tensor([[[0.0, 1.0], [-1.0, 0.0]], [[-1.0, 0.0], [0.0, 1.0]]])
    moved, kept = warped(image, valid, warps)
    torch.testing.assert_close(moved[0], torch.rot90(image[0], 1, (1, 2)), atol=1e-5, rtol=0)
    torch.testing.assert_close(moved[1], image[1].flip(2), atol=1e-5, rtol=0)
    assert kept.all()


def test_white_enters_and_mixes_with_no_valid_pixel() -> None:
    image = torch.ones(20, 3, 40, 40)
    valid = torch.zeros(20, 1, 40, 40, dtype=torch.bool)
    image[:, :, 8:32] = 0.25  # letterboxed: white above and below
    valid[:, :, 8:32] = True
    moved, kept = warped(image, valid, random_warps(torch.arange(20), 0.2, 0.2, 20, True))
    assert (moved[:, :, 0, 0] == 1).all()
    assert (moved[kept.expand(-1, 3, -1, -1)] - 0.25).abs().max() < 1e-3
    # what is pure is valid, but for the rims at the image's sides
    pure = (moved[:, :1] < 0.2501).float().mean(dim=(1, 2, 3))
    assert ((pure - kept.float().mean(dim=(1, 2, 3))).abs() < 0.03).all()
    assert (kept.float().mean(dim=(1, 2, 3)) > 0.3).all()


def test_half_precision_moves_as_single_does() -> None:
    image, valid = some(2, 16, 16)
    warps = random_warps(torch.arange(2), 0.2, 0.2, 20, True)
    single, kept = warped(image, valid, warps)
    half, kept_half = warped(image.bfloat16(), valid, warps)
    assert half.dtype == torch.bfloat16
    assert (half.float() - single).abs().max() < 0.15
    assert torch.equal(kept, kept_half)


SEEDS = torch.arange(600)


def pixels(count: int, height: int, width: int) -> Tensor:
    """Images (count, 2, H, W) whose channels hold the row and the column of each pixel."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([rows, columns]).to(torch.uint8).expand(count, -1, -1, -1)


def test_the_middle_is_taken() -> None:
    assert central_crops(pixels(1, 5, 4), 2)[0].tolist() == [[[1, 1], [2, 2]], [[1, 2], [1, 2]]]
    assert torch.equal(central_crops(pixels(2, 3, 3), 3), pixels(2, 3, 3))


def test_crops_are_windows_of_their_images_flipped_or_not() -> None:
    image = torch.randint(0, 256, (600, 3, 6, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    crops = crops_by_seed(image, 4, SEEDS, flips=True)
    flipped = 0
    for picture, crop in zip(image, crops, strict=True):
        windows = [picture[:, top : top + 4, left : left + 4] for top in range(3) for left in range(4)]
        straight = sum(torch.equal(crop, window) for window in windows)
        turned = sum(torch.equal(crop, window.flip(2)) for window in windows)
        assert straight + turned == 1
        flipped += turned
    assert 240 < flipped < 360  # five standard deviations


def test_all_places_are_equally_likely() -> None:
    seeds = torch.arange(12_000)
    corners = crops_by_seed(pixels(12_000, 6, 7), 4, seeds)[:, :, 0, 0].long()
    counts = torch.bincount(corners[:, 0] * 4 + corners[:, 1], minlength=12)
    assert counts.shape == (12,)
    assert (counts - 1000).abs().max() < 5 * (1000 * 11 / 12) ** 0.5


def test_flips_and_places_do_not_depend_on_each_other() -> None:
    straight, either = (crops_by_seed(pixels(600, 6, 6), 4, SEEDS, flips) for flips in (False, True))
    flipped = either[:, 1, 0, 0] > either[:, 1, 0, 3]
    assert torch.equal(torch.where(flipped[:, None, None, None], either.flip(3), either), straight)
    for side in (0, 1):
        at_first = straight[:, side, 0, 0] == 0
        assert 0.35 < flipped[at_first].float().mean() < 0.65


def test_a_crop_depends_on_its_own_seed_alone() -> None:
    image = torch.rand(600, 1, 9, 9)
    whole = crops_by_seed(image, 5, SEEDS, flips=True)
    assert torch.equal(crops_by_seed(image[7:9], 5, SEEDS[7:9], flips=True), whole[7:9])
    assert not torch.equal(crops_by_seed(image[7:9], 5, SEEDS[8:10], flips=True), whole[7:9])


def test_whole_images_are_only_flipped() -> None:
    image = torch.rand(600, 1, 5, 5)
    crops = crops_by_seed(image, 5, SEEDS, flips=True)
    straight = (crops == image).flatten(1).all(dim=1)
    turned = (crops == image.flip(3)).flatten(1).all(dim=1)
    assert (straight ^ turned).all()
    assert straight.any()
    assert turned.any()
    assert torch.equal(crops_by_seed(image, 5, SEEDS), image)


def test_rejects_wrong_seeds_and_shapes() -> None:
    images, image, valid = torch.zeros(4, 3, 2, 2), *some(2, 4, 4)
    rejects(r"torch.int64, got torch.float32", flip_by_seed, [images], torch.zeros(4))
    rejects(r"got \(4, 3, 2, 2\) with seeds of shape \(3,\)", flip_by_seed, [images], torch.arange(3))
    rejects(r"\(B, C, H, W\) .* got \(3, 2, 2\)", flip_by_seed, [images[0]], torch.arange(3))
    rejects(r"got torch\.float32.*\.long\(\)", bits_of, torch.rand(3))
    rejects(r"warps \(B, 2, 2\), got .* and \(1, 2, 2\)", warped, image, valid, torch.eye(2)[None])
    rejects(r"got .*\(2, 1, 4, 3\)", warped, image, valid[..., :3], torch.eye(2).expand(2, 2, 2))
    rejects(r"got torch\.float32", random_warps, torch.zeros(2), 0.2, 0.2, 20, True)
    rejects(r"got \(2, 2, 5, 7\) and 6", central_crops, pixels(2, 5, 7), 6)
    rejects("and 0", crops_by_seed, pixels(2, 5, 7), 0, SEEDS[:2])
    rejects(r"one seed per sample.* seeds of shape \(3,\)", crops_by_seed, pixels(2, 5, 7), 4, SEEDS[:3])
    rejects(r"got torch\.float32", crops_by_seed, pixels(2, 5, 7), 4, torch.zeros(2))


def test_rotates_square_images_only() -> None:
    image = torch.zeros(1, 3, 4, 6, dtype=torch.uint8)
    arguments = FILTERS, torch.tensor([0])
    for strategy in ("rotations", "both"):
        rejects("square.*got 4 x 6", copies, image, image[:, :1], strategy, *arguments)
    assert copies(image, image[:, :1], "filters", [], arguments[1])[0].shape == image.shape


FILTERS = ["contour", "detail", "edge_enhance"]
PILLOW = [None, ImageFilter.CONTOUR, ImageFilter.DETAIL, ImageFilter.EDGE_ENHANCE]


@pytest.fixture
def batch() -> tuple[Tensor, Tensor, Tensor]:
    """Three tiles, their masks, and a seed each."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, 3, 16, 16), generator=generator, dtype=torch.uint8)
    return image, (image[:, :1] > 128).to(torch.uint8), torch.tensor([5, 6, 7])


def by_pillow(image: Tensor, way: int, turn: int) -> np.ndarray:
    """A tile (3, H, W) filtered by Pillow, then turned by it."""
    picture = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    kernel = PILLOW[way]
    picture = picture if kernel is None else picture.filter(kernel)
    return np.asarray(picture.rotate(90 * turn, expand=True)).transpose(2, 0, 1)


@pytest.mark.parametrize("strategy", ["rotations", "filters"])
def test_copies_are_turned_or_filtered_as_by_pillow(strategy: Strategy, batch: tuple[Tensor, Tensor, Tensor]) -> None:
    image, mask, seeds = batch
    images, masks = copies(image, mask, strategy, FILTERS, seeds)
    turned = strategy == "rotations"
    assert len(images) == 12
    assert torch.equal(masks, (images[:, :1] > 128).to(torch.uint8) if turned else torch.cat([mask] * 4))
    for index, found in enumerate(images):
        way, row = divmod(index, 3)
        np.testing.assert_array_equal(found, by_pillow(image[row], 0 if turned else way, way if turned else 0))
    assert copies(image, mask, "few", FILTERS, seeds) == (image, mask)
    assert len(copies(image, mask, "filters", ["find_edges"], seeds)[0]) == 6


def test_both_turn_and_filter_each_image_four_ways(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    image, mask, _ = batch
    seen = set()
    for epoch in range(12):
        images, masks = copies(image, mask, "both", FILTERS, torch.tensor([epoch, 100 + epoch, 200 + epoch]))
        assert torch.equal(masks, copies(image, mask, "rotations", FILTERS, torch.zeros(3, dtype=torch.int64))[1])
        for row in range(3):
            ways = []
            for turn in range(4):
                copy = images[3 * turn + row].numpy()
                ways += [way for way in range(4) if np.array_equal(copy, by_pillow(image[row], way, turn))]
            assert sorted(ways) == [0, 1, 2, 3], "each copy is filtered in another way"
            seen |= set(enumerate(ways))
    assert len(seen) == 16, "all pairs of a rotation and a filter come up"


def test_both_depend_on_the_seed_of_the_sample_alone(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    image, mask, seeds = batch
    images, _ = copies(image, mask, "both", FILTERS, seeds)
    alone, _ = copies(image[1:2], mask[1:2], "both", FILTERS, seeds[1:2])
    assert torch.equal(images[1::3], alone)
