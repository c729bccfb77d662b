from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.decoded.scenes import Scenes, decoded_scenes
from datamodules.decoded.windows import Draws, Store, stored
from datamodules.read.masks import one_mask_each
from tests.datamodules.helpers import write

SIZES = [(12, 20), (30, 9), (12, 20), (15, 15)]


@pytest.fixture
def scenes(tmp_path: Path) -> Scenes:
    """Four images that differ in every pixel, so that a window says where it lies; noise as masks."""
    rng = np.random.default_rng(0)
    names = rng.permutation(256 * 256)[: sum(height * width for height, width in SIZES)]
    for index, (height, width) in enumerate(SIZES):
        own, names = np.split(names, [height * width])
        picture = np.stack([own // 256, own % 256, np.full_like(own, index)], axis=-1).reshape(height, width, 3)
        mask = np.where(rng.random((height, width)) < 0.3, 255, 0)
        write(tmp_path / "images" / f"{index}.png", picture)
        write(tmp_path / "masks" / f"{index}.png", mask)
    return decoded_scenes("drawn", one_mask_each(tmp_path), 0, 5)


def seeds(count: int) -> torch.Tensor:
    return torch.arange(count) * 1_000_003 + 7


def counts_of(windows: torch.Tensor) -> np.ndarray:
    """How often each window comes, by its central pixel, which no other has."""
    high, low = windows[:, :2, 2, 2].long().unbind(dim=1)
    return (high * 256 + low).unique(return_counts=True)[1].numpy()


def all_windows(scenes: Scenes, window: int) -> dict[bytes, int]:
    """Every window that lies inside an image, and the mask at its row and column w // 2."""
    found = {}
    for name in scenes.source.names:
        picture, mask = np.array(scenes.picture(name)), scenes.mask(name)
        for top in range(mask.shape[0] - window + 1):
            for left in range(mask.shape[1] - window + 1):
                cut = picture[:, top : top + window, left : left + window]
                found[cut.tobytes()] = int(mask[top + window // 2, left + window // 2])
    return found


@pytest.mark.parametrize("window", [1, 5, 6, 9])
@pytest.mark.parametrize("ratio", ["natural", "balanced"])
def test_windows_are_those_of_a_slow_loop_and_all_of_them(scenes: Scenes, window: int, ratio: str) -> None:
    windows, labels, masks = stored(scenes, scenes.source.names, window).draw(torch.arange(9000), seeds(9000), ratio)
    assert (masks.shape, masks.dtype) == ((9000, 1, window, window), torch.bool)
    assert torch.equal(masks[:, 0, window // 2, window // 2].float(), labels)
    assert (windows.shape, windows.dtype, labels.dtype) == ((9000, 3, window, window), torch.uint8, torch.float32)
    drawn = {cut.tobytes(): int(label) for cut, label in zip(windows.numpy(), labels, strict=True)}
    expected = all_windows(scenes, window)
    assert drawn.items() <= expected.items()
    assert len(drawn) > 0.99 * len(expected)  # few are missed by 9,000 draws of at most 855


def test_natural_windows_are_drawn_from_all_centres_evenly(scenes: Scenes) -> None:
    windows, labels, _ = stored(scenes, scenes.source.names, 5).draw(torch.arange(40_000), seeds(40_000), "natural")
    expected = all_windows(scenes, 5)
    assert labels.mean() == pytest.approx(np.mean(list(expected.values())), abs=0.01)
    counts = counts_of(windows)
    mean = 40_000 / len(expected)
    assert len(counts) == len(expected)
    # The chi-squared statistic over its degrees of freedom is 1 in the mean, and 1.25 once in 100,000 times.
    assert ((counts - mean) ** 2 / mean).sum() / (len(counts) - 1) < 1.25


def test_balanced_windows_are_half_and_half_and_evenly_within_each_half(scenes: Scenes) -> None:
    store = stored(scenes, scenes.source.names, 5)
    windows, labels, _ = store.draw(torch.arange(40_000), seeds(40_000), "balanced")
    assert labels.tolist() == [0, 1] * 20_000
    for label in (0, 1):
        counts = counts_of(windows[labels == label])
        assert len(counts) == store.counts[label]
        mean = 20_000 / len(counts)
        assert ((counts - mean) ** 2 / mean).sum() / (len(counts) - 1) < 1.4


def test_a_window_depends_on_its_own_index_and_seed_alone(scenes: Scenes) -> None:
    store = stored(scenes, scenes.source.names, 5)
    for ratio in ("natural", "balanced"):
        windows, labels, masks = store.draw(torch.arange(64), seeds(64), ratio)
        order = torch.randperm(64)[:10]
        again = store.draw(order, seeds(64)[order], ratio)
        assert torch.equal(again[0], windows[order])
        assert torch.equal(again[1], labels[order])
        assert torch.equal(again[2], masks[order])
    others, _, _ = store.draw(torch.arange(64), seeds(64) + 1, "natural")
    assert not torch.equal(others, store.draw(torch.arange(64), seeds(64), "natural")[0])


def test_windows_come_from_the_named_images_only(scenes: Scenes) -> None:
    windows, _, _ = stored(scenes, ["3.png", "1.png"], 5).draw(torch.arange(500), seeds(500), "natural")
    assert windows[:, 2].unique().tolist() == [1, 3]


def test_the_sample_of_windows_is_fixed_and_covers_all_images(scenes: Scenes) -> None:
    store = stored(scenes, scenes.source.names, 5)
    blocks = list(store.windows(900, block=400))
    assert [(block.shape, block.dtype) for block in blocks] == [
        ((size, 3, 5, 5), torch.uint8) for size in (400, 400, 100)
    ]
    windows = torch.cat(blocks)
    assert torch.equal(torch.cat(list(stored(scenes, scenes.source.names, 5).windows(900))), windows)
    assert torch.equal(torch.cat(list(store.windows(333, block=10))), windows[:333])
    expected = all_windows(scenes, 5)
    labels = [expected[cut.tobytes()] for cut in windows.numpy()]
    assert np.mean(labels) == pytest.approx(np.mean(list(expected.values())), abs=0.05)
    shares = np.bincount(windows[:, 2, 2, 2].numpy()) / 900  # the image's number
    centres = np.array([(height - 4) * (width - 4) for height, width in SIZES])
    np.testing.assert_allclose(shares, centres / centres.sum(), atol=0.05)


def test_the_store_holds_the_bytes_of_images_and_masks_and_little_more(tmp_path: Path) -> None:
    y, x = np.mgrid[:300, :400]
    mask = np.where(np.hypot(y - 150, x - 200) < 90, 255, 0)
    for stem in "ab":
        write(tmp_path / "images" / f"{stem}.png", np.stack([mask] * 3, axis=-1))
        write(tmp_path / "masks" / f"{stem}.png", mask)
    store = stored(decoded_scenes("drawn", one_mask_each(tmp_path), 0, 33), ["a.png", "b.png"], 33)
    held = {name: getattr(store, name) for name in ("pixels", "marked", "offsets", "widths", "ends", "shifts")}
    assert held["pixels"].nbytes + held["marked"].nbytes == 2 * 4 * 300 * 400
    assert sum(tensor.nbytes for tensor in held.values()) < 1.05 * 2 * 4 * 300 * 400
    assert sum(store.counts) == 2 * (300 - 32) * (400 - 32)


def test_only_numbers_are_loaded() -> None:
    draws = Draws(10, seed=3)
    assert len(draws) == 10
    assert draws[2, 5].keys() == {"index", "seed"}
    assert len({draws[epoch, index]["seed"] for epoch in range(3) for index in range(10)}) == 30


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_windows_are_the_same_on_the_gpu(scenes: Scenes) -> None:
    store = stored(scenes, scenes.source.names, 5)
    moved: Store = store.to(torch.device("cuda"))
    for ratio in ("natural", "balanced"):
        here = store.draw(torch.arange(999), seeds(999), ratio)
        there = moved.draw(torch.arange(999).cuda(), seeds(999).cuda(), ratio)
        for left, right in zip(here, there, strict=True):
            assert torch.equal(left, right.cpu())
