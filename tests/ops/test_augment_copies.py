import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from ops.augment import Strategy, copies

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


def test_few_are_the_pictures_alone(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    image, mask, seeds = batch
    assert copies(image, mask, "few", FILTERS, seeds) == (image, mask)


def test_rotations_turn_pictures_and_masks_alike(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    image, mask, seeds = batch
    images, masks = copies(image, mask, "rotations", FILTERS, seeds)
    assert images.shape == (12, 3, 16, 16)
    assert torch.equal(masks, (images[:, :1] > 128).to(torch.uint8)), "a mask follows its picture"
    for turn in range(4):
        for row in range(3):
            np.testing.assert_array_equal(images[3 * turn + row], by_pillow(image[row], 0, turn))


def test_filters_leave_masks_as_they_are(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    image, mask, seeds = batch
    images, masks = copies(image, mask, "filters", FILTERS, seeds)
    assert torch.equal(masks, torch.cat([mask] * 4))
    for way in range(4):
        for row in range(3):
            np.testing.assert_array_equal(images[3 * way + row], by_pillow(image[row], way, 0))


def test_as_many_filters_as_asked_for(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    image, mask, seeds = batch
    images, masks = copies(image, mask, "filters", ["find_edges"], seeds)
    assert len(images) == len(masks) == 6


def test_both_turn_and_filter_each_picture_four_ways(batch: tuple[Tensor, Tensor, Tensor]) -> None:
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


@pytest.mark.parametrize("strategy", ["rotations", "both"])
def test_oblong_pictures_are_not_turned(strategy: Strategy) -> None:
    image = torch.zeros(1, 3, 4, 6, dtype=torch.uint8)
    with pytest.raises(ValueError, match="pictures of 4 x 6 pixels were given to be turned by 90 degrees; wanted are"):
        copies(image, image[:, :1], strategy, FILTERS, torch.tensor([0]))
    assert copies(image, image[:, :1], "filters", [], torch.tensor([0]))[0].shape == image.shape
