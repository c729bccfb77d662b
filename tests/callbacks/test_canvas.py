import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from callbacks.canvas import Canvas
from ops.windows import cut, window_grid


class Marks:
    """Marks what is more likely than not and cleans masks of one pixel alone away."""

    classes = ("road", "rail")

    def marked(self, probability: Tensor) -> Tensor:
        return probability >= 0.5

    def cleaned(self, masks: NDArray[np.bool_]) -> NDArray[np.bool_]:
        return masks & (masks.sum(axis=(1, 2), keepdims=True) > 1)


@pytest.fixture
def network() -> nn.Module:
    """Two layers that see two pixels far: probabilities of two classes."""
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1), nn.Sigmoid()
    return nn.Sequential(*layers)


@torch.no_grad()
@pytest.mark.parametrize("size", [(97, 61), (32, 32), (33, 200), (64, 48)])
def test_windows_give_the_masks_of_the_whole_picture(network: nn.Module, size: tuple[int, int]) -> None:
    picture = np.random.default_rng(0).random((*size, 3), dtype=np.float32)
    whole = network(torch.from_numpy(picture.transpose(2, 0, 1))[None])[0]
    middle = whole.flatten(1).median(dim=1).values.view(2, 1, 1)
    canvas = Canvas(Marks(), size, (32, 32), 0.5)
    origins = window_grid(size, (32, 32), 0.5)
    for number, origin in enumerate(origins, start=1):
        window = cut(picture, origin, (32, 32)).transpose(2, 0, 1)
        probability = network(torch.from_numpy(window.copy())[None])[0] - middle + 0.5
        assert canvas.add(probability, origin) == (number == len(origins))
    np.testing.assert_array_equal(canvas.masks(), (whole - middle + 0.5 >= 0.5).numpy())


def test_one_window_is_enlarged_to_the_picture() -> None:
    probability = torch.rand(2, 8, 6, generator=torch.Generator().manual_seed(0))
    canvas = Canvas(Marks(), (30, 20), (30, 20), 0.0)
    assert canvas.add(probability, (0, 0))
    enlarged = nn.functional.interpolate(probability[None], (30, 20), mode="bilinear")[0]
    np.testing.assert_array_equal(canvas.masks(), (enlarged >= 0.5).numpy())


def test_a_whole_picture_is_cleaned_not_its_windows() -> None:
    canvas = Canvas(Marks(), (8, 16), (8, 8), 0.0)
    left, right = torch.zeros(2, 2, 8, 8)
    left[0, 3, 7] = right[0, 3, 0] = 1
    right[1, 0, 0] = 1
    canvas.add(left, (0, 0))
    canvas.add(right, (0, 8))
    assert canvas.masks().sum(axis=(1, 2)).tolist() == [2, 0]
