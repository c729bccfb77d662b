import pytest
import torch
from torch import Tensor

from ops.augment import central_crops, crops_by_seed

SEEDS = torch.arange(600)


def pixels(count: int, height: int, width: int) -> Tensor:
    """Pictures (count, 2, H, W) whose channels hold the row and the column of each pixel."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([rows, columns]).to(torch.uint8).expand(count, -1, -1, -1)


def test_the_middle_is_taken() -> None:
    assert central_crops(pixels(1, 5, 4), 2)[0].tolist() == [[[1, 1], [2, 2]], [[1, 2], [1, 2]]]
    assert torch.equal(central_crops(pixels(2, 3, 3), 3), pixels(2, 3, 3))


def test_crops_are_windows_of_their_pictures_flipped_or_not() -> None:
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


def test_whole_pictures_are_only_flipped() -> None:
    image = torch.rand(600, 1, 5, 5)
    crops = crops_by_seed(image, 5, SEEDS, flips=True)
    straight = (crops == image).flatten(1).all(dim=1)
    turned = (crops == image.flip(3)).flatten(1).all(dim=1)
    assert (straight ^ turned).all()
    assert straight.any()
    assert turned.any()
    assert torch.equal(crops_by_seed(image, 5, SEEDS), image)


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"crops of 6 pixels from pictures of shape \(2, 2, 5, 7\); wanted"):
        central_crops(pixels(2, 5, 7), 6)
    with pytest.raises(ValueError, match="crops of 0 pixels"):
        crops_by_seed(pixels(2, 5, 7), 0, SEEDS[:2])
    with pytest.raises(ValueError, match=r"2 pictures with seeds of shape \(3,\)"):
        crops_by_seed(pixels(2, 5, 7), 4, SEEDS[:3])
    with pytest.raises(ValueError, match=r"seeds of torch\.float32"):
        crops_by_seed(pixels(2, 5, 7), 4, torch.zeros(2))
