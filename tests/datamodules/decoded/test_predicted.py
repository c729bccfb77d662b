import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from datamodules.decoded.predicted import predicted
from datamodules.loaders import EpochSampler, Samples
from datamodules.read.pictures import BACKGROUND
from tests.datamodules.helpers import noise, truncate, write


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Images of noise, of three sizes: more than a window, one window, and less."""
    sizes = {"a.png": (40, 70), "b.png": (32, 32), "c.png": (20, 50)}
    return [write(tmp_path / name, noise(*size)) for name, size in sizes.items()]


def windows(files: list[Path], size: tuple[int, int] = (32, 32)) -> Samples:
    return predicted(files[0].parent, [file.name for file in files], size, window=(32, 32), overlap=0.25)


def test_windows_cover_every_image(files: list[Path]) -> None:
    samples = windows(files)
    seen = {file.name: np.zeros(Image.open(file).size[::-1], int) for file in files}
    for index in range(len(samples)):
        sample = samples[0, index]
        picture = np.asarray(Image.open(files[0].parent / sample["name"]))
        assert sample["size"].tolist() == list(picture.shape[:2])
        assert sample["window"].tolist() == [32, 32]
        assert sample["overlap"] == 0.25
        top, left = sample["origin"].tolist()
        part = picture[top : top + 32, left : left + 32]
        padded = np.pad(part, ((0, 32 - part.shape[0]), (0, 32 - part.shape[1]), (0, 0)), mode="reflect")
        np.testing.assert_array_equal(sample["image"].numpy(), padded.transpose(2, 0, 1))
        seen[sample["name"]][top : top + 32, left : left + 32] += 1
    assert all(counts.min() >= 1 for counts in seen.values())
    assert samples.names == ["a.png"] * 6 + ["b.png"] + ["c.png"] * 2


def test_windows_are_resized_for_the_network(files: list[Path]) -> None:
    full, small = windows(files)[0, 3], windows(files, size=(16, 16))[0, 3]
    means = full["image"].float().reshape(3, 16, 2, 16, 2).mean(dim=(2, 4))
    torch.testing.assert_close(small["image"].float(), means, atol=0.51, rtol=0)
    assert small["window"].tolist() == [32, 32]


def test_the_background_comes_with_the_last_window(files: list[Path]) -> None:
    samples = windows(files)
    sources = [samples[0, index]["source"] for index in range(len(samples))]
    assert [source is not None for source in sources] == [False] * 5 + [True, True, False, True]
    np.testing.assert_array_equal(sources[5], Image.open(files[0]))


def test_the_background_is_no_larger_than_a_screen(tmp_path: Path) -> None:
    Image.new("RGB", (3 * BACKGROUND, BACKGROUND)).save(tmp_path / "wide.png")
    for window in (None, (512, 512)):
        samples = predicted(tmp_path, ["wide.png"], (32, 32), window=window)
        assert samples[0, len(samples) - 1]["source"].shape == (BACKGROUND // 3, BACKGROUND, 3)


def test_windows_in_any_order_are_the_same(files: list[Path]) -> None:
    samples = windows(files)
    expected = {index: samples[0, index] for index in range(len(samples))}
    for index in np.random.default_rng(0).permutation(np.repeat(range(len(samples)), 2)).tolist():
        sample = samples[0, index]
        assert torch.equal(sample["image"], expected[index]["image"])
        assert (sample["source"] is None) == (expected[index]["source"] is None)
        if sample["source"] is not None:
            np.testing.assert_array_equal(sample["source"], expected[index]["source"])


def test_workers_forked_within_an_image_have_their_own_place_in_it(files: list[Path]) -> None:
    samples = windows(files)
    expected = [samples[0, index] for index in range(6)]
    samples[0, 2]  # this process has the image open when the workers are forked
    loader = DataLoader(samples, sampler=[(0, index) for index in range(6)], batch_size=None, num_workers=2)
    for found, sample in zip(loader, expected, strict=True):
        assert torch.equal(found["image"], sample["image"])


def test_a_truncated_image_is_reported_each_time(tmp_path: Path) -> None:
    samples = windows([truncate(write(tmp_path / "a.jpg", noise(2000, 400)), 0.9)])
    for _ in range(2):
        found = [samples[0, index] for index in range(len(samples))]
        assert "a.jpg is truncated" in found[-1]["problem"]
        assert found[0]["problem"] == ""  # its rows are there
        assert [sample["source"] is None for sample in found] == [True] * (len(found) - 1) + [False]
        assert found[-1]["source"].size == 0
        assert not found[-1]["image"].any()


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_the_windows_of_an_image_stay_in_one_process(files: list[Path], world: int) -> None:
    samples = windows(files)
    shares = [[index for _, index in EpochSampler(samples, False, 0, world, rank)] for rank in range(world)]
    assert sorted(index for share in shares for index in share) == list(range(len(samples)))
    for file in files:
        wanted = [index for index, name in enumerate(samples.names) if name == file.name]
        [share] = [share for share in shares if set(share) & set(wanted)]
        first = share.index(wanted[0])
        assert share[first : first + len(wanted)] == wanted, "one after the other"


def test_copies_of_samples_are_small(files: list[Path]) -> None:
    assert len(pickle.dumps(windows(files))) < 4000, "a worker would be sent the pictures"


@pytest.mark.parametrize("window", [None, (32, 32)])
def test_images_that_cannot_be_read_are_one_sample_with_the_reason(
    files: list[Path], window: tuple[int, int] | None
) -> None:
    files[1].write_bytes(b"text")
    names = [file.name for file in files]
    samples = predicted(files[0].parent, names, (32, 32), window=window)
    found = [samples[0, index] for index in range(len(samples))]
    problems = {sample["name"]: sample["problem"] for sample in found}
    assert [name for name, problem in problems.items() if problem] == ["b.png"]
    assert "b.png is truncated or not an image" in problems["b.png"]
    assert samples.names.count("b.png") == 1
