from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from callbacks.writers import stitch as canvas_module
from callbacks.writers.stitch import Canvas
from ops.regions import without_small_regions
from ops.windows import cut, window_grid
from tasks.decision import Decision


class Marks:
    """Marks what is more likely than not, but no pixel alone."""

    classes = ("road", "rail")
    decision = Decision(2, minimum_pixels=2)


def masks_of(canvas: Canvas) -> NDArray[np.bool_]:
    return np.stack([np.concatenate(list(canvas.bands(k))) for k in range(2)])


@pytest.fixture
def network() -> nn.Module:
    """Two layers that see two pixels far: probabilities of two classes."""
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1), nn.Sigmoid()
    return nn.Sequential(*layers)


@torch.no_grad()
@pytest.mark.parametrize("size", [(97, 61), (32, 32), (33, 200), (64, 48)])
def test_windows_give_the_masks_of_the_whole_picture(
    network: nn.Module, size: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(canvas_module, "BAND", 7 * size[1])
    picture = np.random.default_rng(0).random((*size, 3), dtype=np.float32)
    whole = network(torch.from_numpy(picture.transpose(2, 0, 1))[None])[0]
    middle = whole.flatten(1).median(dim=1).values.view(2, 1, 1)
    canvas = Canvas(Marks(), size, (32, 32), 0.5, tmp_path)
    origins = window_grid(size, (32, 32), 0.5)
    for number, origin in enumerate(origins, start=1):
        window = cut(picture, origin, (32, 32)).transpose(2, 0, 1)
        probability = network(torch.from_numpy(window.copy())[None])[0] - middle + 0.5
        assert canvas.add(probability, origin) == (number == len(origins))
    expected = without_small_regions((whole - middle + 0.5 >= 0.5).numpy(), Marks().decision.least_areas(size))
    for _ in range(2):  # they can be asked for again
        np.testing.assert_array_equal(masks_of(canvas), expected)
    assert not list(tmp_path.iterdir()), "the file has no name"
    canvas.close()


def test_one_window_is_enlarged_to_the_picture(tmp_path: Path) -> None:
    probability = torch.rand(2, 8, 6, generator=torch.Generator().manual_seed(0))
    canvas = Canvas(Marks(), (30, 20), (30, 20), 0.0, tmp_path)
    assert canvas.add(probability, (0, 0))
    enlarged = nn.functional.interpolate(probability[None], (30, 20), mode="bilinear")[0]
    expected = without_small_regions((enlarged >= 0.5).numpy(), Marks().decision.least_areas((30, 20)))
    np.testing.assert_array_equal(masks_of(canvas), expected)


def test_a_whole_picture_is_cleaned_not_its_windows(tmp_path: Path) -> None:
    canvas = Canvas(Marks(), (8, 16), (8, 8), 0.0, tmp_path)
    left, right = torch.zeros(2, 2, 8, 8)
    left[0, 3, 7] = right[0, 3, 0] = 1
    right[1, 0, 0] = 1
    canvas.add(left, (0, 0))
    canvas.add(right, (0, 8))
    assert masks_of(canvas).sum(axis=(1, 2)).tolist() == [2, 0]
