from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from numpy.typing import NDArray
from torch import Tensor, nn

from callbacks.writers.memory import Collector
from callbacks.writers.segmentation import stitched
from callbacks.writers.segmentation.stitch import enlarged
from callbacks.writers.segmentation.stitched import Canvas
from callbacks.writers.segmentation.writer import SegmentationWriter
from ops.masks.regions import without_small_regions
from ops.windows import cut, window_grid


class Marks:
    """Marks what is more likely than not, but no single pixel."""

    def marked(self, probability: Tensor) -> Tensor:
        return probability >= 0.5

    def least_areas(self, size: tuple[int, int]) -> list[float]:
        return [2 / (size[0] * size[1])] * 2


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
def test_windows_give_the_masks_of_the_whole_image(
    network: nn.Module, size: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stitched, "BAND", 7 * size[1])
    image = np.random.default_rng(0).random((*size, 3), dtype=np.float32)
    whole = network(torch.from_numpy(image.transpose(2, 0, 1))[None])[0]
    middle = whole.flatten(1).median(dim=1).values.view(2, 1, 1)
    canvas = Canvas(Marks(), size, (32, 32), 0.5, tmp_path, keep=True)
    origins = window_grid(size, (32, 32), 0.5)
    for number, origin in enumerate(origins, start=1):
        window = cut(image, origin, (32, 32)).transpose(2, 0, 1)
        probability = network(torch.from_numpy(window.copy())[None])[0] - middle + 0.5
        assert canvas.add(probability, origin) == (number == len(origins))
    expected = without_small_regions((whole - middle + 0.5 >= 0.5).numpy(), Marks().least_areas(size))
    for _ in range(2):  # bands can be read again
        np.testing.assert_array_equal(masks_of(canvas), expected)
    np.testing.assert_allclose(canvas.probability, whole - middle + 0.5, atol=1e-6)
    assert not list(tmp_path.iterdir()), "the file has no name"
    canvas.close()


def test_one_window_is_enlarged_to_the_image(tmp_path: Path) -> None:
    probability = torch.rand(2, 8, 6, generator=torch.Generator().manual_seed(0))
    canvas = Canvas(Marks(), (30, 20), (30, 20), 0.0, tmp_path)
    assert canvas.add(probability, (0, 0))
    full = nn.functional.interpolate(probability[None], (30, 20), mode="bilinear")[0]
    expected = without_small_regions((full >= 0.5).numpy(), Marks().least_areas((30, 20)))
    np.testing.assert_array_equal(masks_of(canvas), expected)
    assert canvas.probability is None


def test_the_whole_image_is_cleaned_not_its_windows(tmp_path: Path) -> None:
    canvas = Canvas(Marks(), (8, 16), (8, 8), 0.0, tmp_path)
    left, right = torch.zeros(2, 2, 8, 8)
    left[0, 3, 7] = right[0, 3, 0] = 1
    right[1, 0, 0] = 1
    canvas.add(left, (0, 0))
    canvas.add(right, (0, 8))
    assert masks_of(canvas).sum(axis=(1, 2)).tolist() == [2, 0]


def by_interpolation(level: NDArray[np.float32], step: int, size: tuple[int, int]) -> NDArray[np.float64]:
    """One axis after the other, by numpy, with samples at whole multiples of the step."""
    rows = [np.interp(np.arange(size[1]), np.arange(len(row)) * step, row) for row in level]
    columns = [np.interp(np.arange(size[0]), np.arange(len(level)) * step, column) for column in np.transpose(rows)]
    return np.transpose(columns)


@pytest.mark.parametrize(("levels", "size"), [(0, (5, 7)), (1, (9, 12)), (2, (13, 16)), (2, (14, 3)), (3, (1, 40))])
def test_sample_k_comes_to_pixel_k_times_the_step(levels: int, size: tuple[int, int]) -> None:
    step = 2**levels
    shape = -(-size[0] // step), -(-size[1] // step)
    maps = torch.rand(1, 1, *shape, generator=torch.Generator().manual_seed(0))
    found = enlarged(maps, levels, size)
    torch.testing.assert_close(found[..., ::step, ::step], maps, rtol=0, atol=0)
    np.testing.assert_allclose(found[0, 0], by_interpolation(maps[0, 0].numpy(), step, size), atol=1e-6)


def test_maps_of_another_level_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"expected maps of 5 x 5 .* got 4 x 5"):
        enlarged(torch.zeros(1, 1, 4, 5), 1, (9, 10))


@pytest.mark.parametrize("callback", [SegmentationWriter(), Collector(SegmentationWriter())])
def test_a_task_that_marks_nothing_is_rejected(callback: Any, tmp_path: Path) -> None:
    trainer = Trainer(default_root_dir=tmp_path, accelerator="cpu", logger=False)
    with pytest.raises(TypeError, match=r"expected a segmentation task .* got LightningModule"):
        callback.on_predict_start(trainer, LightningModule())
    callback.on_exception(trainer, LightningModule(), TypeError())
    assert not list(tmp_path.iterdir())
