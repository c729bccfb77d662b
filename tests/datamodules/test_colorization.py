from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.colorization import ColorizationDataModule
from datamodules.describe.colorization import problems
from ops.pictures import letterboxed, valid_pixels
from tests.checks import rejects
from tests.datamodules.helpers import (
    Keeping,
    assert_problems,
    noise,
    problems_of,
    sizes,
    split_names,
    table,
    truncate,
    write,
)

NAMES = [f"{artist}/{index}.png" for artist in "abcdef" for index in range(2)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two images of each of six artists, 48 x 32 or 32 x 48."""
    rng = np.random.default_rng(0)
    for name in NAMES:
        size = (48, 32) if name.endswith("0.png") else (32, 48)
        write(tmp_path / "images" / name, rng.integers(0, 256, (*size, 3), np.uint8))
    rows = [f"{name},{name[0].upper()},Study,1900" for name in NAMES]
    table(tmp_path / "metadata.csv", "image,artist,title,year", *rows)
    return tmp_path


def in_square(root: Path, name: str) -> torch.Tensor:
    """An image of the fixture in a square of 48, in [0, 1]: it is large enough already."""
    values = np.asarray(Image.open(root / "images" / name)).transpose(2, 0, 1)
    square = torch.ones(3, 48, 48)
    rows, columns = (slice((48 - side) // 2, (48 + side) // 2) for side in values.shape[1:])
    square[:, rows, columns] = torch.from_numpy(values / 255).float()
    return square


def test_evaluation_images_are_not_altered(root: Path, keep: Callable[..., Keeping]) -> None:
    batches = keep(ColorizationDataModule(root, size=48, batch_size=3, val_fraction=0.5)).seen["val"]
    assert len(batches) == 2
    for batch in batches:
        assert batch.keys() == {"name", "index", "seed", "image", "valid"}
        assert batch["valid"].shape == (3, 1, 48, 48)
        for row, name in enumerate(batch["name"]):
            torch.testing.assert_close(batch["image"][row], in_square(root, name))
            place = [0, 8, 48, 32] if name.endswith("0.png") else [8, 0, 32, 48]
            assert torch.equal(batch["valid"][row : row + 1], valid_pixels(torch.tensor([place]), 48))


def test_training_images_are_altered_anew_in_each_epoch(root: Path, keep: Callable[..., Keeping]) -> None:
    seen: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {}
    data = ColorizationDataModule(root, size=48, batch_size=4, steps_per_epoch=None)
    for batch in keep(data, epochs=2).seen["train"]:
        assert "box" not in batch
        for row, name in enumerate(batch["name"]):
            seen.setdefault(name, []).append((batch["image"][row], batch["valid"][row]))
    assert len(seen) == 8
    for name, (first, second) in seen.items():
        assert not torch.equal(first[0], second[0])
        original = in_square(root, name)
        for image, valid in (first, second):
            assert (image - original).abs().mean() > 0.01
            assert 0.2 < valid.float().mean() < 1
            # white stays out: what is valid is as dark as noise is
            assert image[valid.expand(3, -1, -1)].mean() < 0.56


@pytest.mark.parametrize("flips", [False, True])
def test_flips_are_left_to_right_only(flips: bool, root: Path, keep: Callable[..., Keeping]) -> None:
    data = ColorizationDataModule(root, size=48, batch_size=4, flips=flips, shear=0, zoom=0, rotation=0)
    flipped = []
    for batch in keep(data, epochs=2).seen["train"]:
        for row, name in enumerate(batch["name"]):
            distances = [(batch["image"][row] - each).abs().max()
                         for each in (in_square(root, name), in_square(root, name).flip(2))]  # fmt: skip
            assert min(distances) < (1e-3 if flips else 1e-5)
            flipped.append(distances[1] < distances[0])
    assert any(flipped) == flips
    assert not all(flipped)


@pytest.mark.parametrize("augmentations", [None, [{"class_path": "albumentations.Blur"}]])
def test_images_that_albumentations_changed_count_as_altered(
    augmentations: Any, root: Path, keep: Callable[..., Keeping]
) -> None:
    data = ColorizationDataModule(
        root, size=48, batch_size=4, flips=False, shear=0, zoom=0, rotation=0, augmentations=augmentations
    )
    seen = keep(data).seen
    assert {"altered" in batch for batch in seen["train"]} == {augmentations is not None}
    assert not any("altered" in batch for batch in seen["val"])


def test_a_second_copy_is_larger_and_altered_alike(root: Path, keep: Callable[..., Keeping], tmp_path: Path) -> None:
    columns = np.linspace(0, 255, 48, dtype=np.uint8)
    for name in NAMES:  # ramps to the right or to the left
        ramp = columns if name < "d" else columns[::-1]
        write(root / "images" / name, np.broadcast_to(ramp[:, None], (32, 48, 3)).copy())
    batches = keep(ColorizationDataModule(root, size=48, view=96, batch_size=4)).seen
    for split in ("train", "val"):
        for batch in batches[split]:
            assert batch["view"].shape == (len(batch["name"]), 3, 96, 96)
            smaller = torch.nn.functional.avg_pool2d(batch["view"], 2)
            differences = [(smaller - batch["image"].roll(shift, 3)).abs().mean() for shift in (0, 2, -2)]
            assert differences[0] < 0.5 * min(differences[1:])
    data = ColorizationDataModule("nowhere", size=48, view=96, pictures=root / "images" / "a", num_workers=0)
    data.setup("predict")
    batch = data.on_after_batch_transfer(next(iter(data.predict_dataloader())), 0)
    assert batch["view"].shape == (1, 3, 96, 96)
    assert (batch["view"][0, :, 16:80].mean() - 0.5).abs() < 0.05
    assert (batch["view"][0, :, :16] == 1).all()
    rejects("view is 8", ColorizationDataModule, view=8)
    rejects("data.view to null", ColorizationDataModule, view=96, augmentations=[{"class_path": "albumentations.Blur"}])


def test_splits_keep_artists_together(root: Path) -> None:
    for seed in range(5):
        names = split_names(ColorizationDataModule(root, size=32, split_seed=seed))
        artists = {split: {name[0] for name in part} for split, part in names.items()}
        assert sizes(artists) == {"train": 4, "val": 1, "test": 1}
        assert len(set.union(*artists.values())) == 6
        assert sorted(name for part in names.values() for name in part) == NAMES


def test_without_a_table_splits_are_by_image(root: Path) -> None:
    (root / "metadata.csv").unlink()
    assert sizes(split_names(ColorizationDataModule(root, size=32))) == {"train": 10, "val": 1, "test": 1}


def test_a_table_of_splits_takes_precedence(root: Path) -> None:
    table(root / "splits.csv", "name,split", "a/0.png,train", "a/1.png,val", "b/0.png,test")
    with pytest.warns(UserWarning, match=r"same artists in train and in val or test \(1, such as 'a'\)"):
        names = split_names(ColorizationDataModule(root, size=32))
    assert names == {"train": ["a/0.png"], "val": ["a/1.png"], "test": ["b/0.png"]}


def test_images_of_unknown_artists_warn(root: Path) -> None:
    table(root / "metadata.csv", *(root / "metadata.csv").read_text().splitlines()[:-3])
    with pytest.warns(UserWarning, match=r"no artist for 3 of the 12 images"):
        names = split_names(ColorizationDataModule(root, size=32))
    assert sorted(name for part in names.values() for name in part) == NAMES


def test_unusable_images_are_rejected_or_skipped(root: Path) -> None:
    bad = ["a/0.png", "c/1.png"]
    before = split_names(ColorizationDataModule(root, size=32))
    for name in bad:
        truncate(root / "images" / name)
    found = problems_of(lambda: split_names(ColorizationDataModule(root, size=32)))
    assert_problems(found, *((f"{root}/images/{name} is truncated",) for name in bad))
    assert problems(ColorizationDataModule(root, size=32)) == found
    skipping = ColorizationDataModule(root, size=32, unreadable="skip")
    assert problems(skipping) == []
    with pytest.warns(UserWarning, match=r"2 images of .* are skipped:\n  - .*a/0\.png is truncated"):
        names = split_names(skipping)
    assert {name for part in names.values() for name in part} == {*NAMES} - {*bad}
    assert names == {split: [name for name in part if name not in bad] for split, part in before.items()}


def test_a_split_without_usable_images_is_rejected(root: Path) -> None:
    table(root / "splits.csv", "name,split", "a/0.png,train", "b/0.png,val")
    truncate(root / "images" / "b/0.png")
    data = ColorizationDataModule(root, size=32, unreadable="skip")
    assert_problems(problems(data), ("None of the 1 images", "'val'"))


@pytest.mark.parametrize("workers", [0, 1])
def test_images_to_predict_come_one_by_one_and_whole(workers: int, tmp_path: Path) -> None:
    files = ["1901/1.png", "1901/2.png", "1902/1.png", "3.png"]
    for index, name in enumerate(files):
        path = write(tmp_path / name, noise(*((64, 96) if index % 2 else (96, 64)), seed=index))
    truncate(path)
    data = ColorizationDataModule("nowhere", size=48, pictures=tmp_path, num_workers=workers)
    data.setup("predict")
    batches = [data.on_after_batch_transfer(batch, 0) for batch in data.predict_dataloader()]
    assert [batch["name"] for batch in batches] == [[name] for name in files]
    assert [batch["index"].tolist() for batch in batches] == [[0], [1], [2], [3]]
    *whole, broken = batches
    for index, batch in enumerate(whole):
        place = [8, 0, 32, 48] if index % 2 else [0, 8, 48, 32]
        assert batch["problem"] == [""]
        source = np.asarray(Image.open(tmp_path / files[index]))
        np.testing.assert_array_equal(batch["source"][0], source)
        image = torch.from_numpy(letterboxed(source, 48).transpose(2, 0, 1)) / 255
        torch.testing.assert_close(batch["image"][0], image)
        assert batch["box"].tolist() == [place]
        assert torch.equal(batch["valid"], valid_pixels(torch.tensor([place]), 48))
    assert_problems(broken["problem"], (f"{path} is truncated",))
    assert broken["image"].shape == (1, 3, 48, 48)
    assert not broken["valid"].any()
    assert broken["source"][0].size == 0
    strict = ColorizationDataModule(pictures=tmp_path, unreadable="refuse")
    assert_problems(problems_of(lambda: strict.setup("predict")), (f"{path} is truncated",))
    single = ColorizationDataModule(pictures=tmp_path / "1901" / "2.png")
    single.setup("predict")
    assert single.datasets["predict"].names == ["2.png"]


def test_references_are_color_images(root: Path) -> None:
    data = ColorizationDataModule("nowhere", size=48, pictures=root / "images", reference=root / "images" / "a")
    batches = data.references()
    assert [batch["name"] for batch in batches] == [["0.png"], ["1.png"]]
    assert torch.equal(batches[0]["valid"], valid_pixels(torch.tensor([[0, 8, 48, 32]]), 48))
    torch.testing.assert_close(batches[0]["image"][0], in_square(root, "a/0.png"))
    assert ColorizationDataModule("nowhere").references() == []
    gray = write(root / "images" / "a" / "2.png", np.full((40, 40, 3), 90, np.uint8))
    wrong = ColorizationDataModule("nowhere", reference=gray)
    assert_problems(problems_of(wrong.references), ("2.png is gray",))


@pytest.mark.real
def test_real_paintings_are_split_by_artist(real_data: Path, tmp_path: Path) -> None:
    (tmp_path / "images").symlink_to(real_data / "colorization" / "images")
    (tmp_path / "metadata.csv").symlink_to(real_data / "colorization" / "list.csv")
    data = ColorizationDataModule(tmp_path, size=64)
    names = split_names(data)
    assert sizes(names) == {"train": 78, "val": 8, "test": 8}
    works = data.checked().works
    artists = {split: {works[name].artist for name in part} for split, part in names.items()}
    assert sizes(artists) == {"train": 39, "val": 4, "test": 4}
    assert len(set.union(*artists.values())) == 47
