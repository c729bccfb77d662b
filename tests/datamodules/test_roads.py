from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.describe.roads import problems
from datamodules.roads import RoadsDataModule
from ops.errors import ArgumentError
from ops.exact.filters import filtered
from ops.windows import Size
from tests.datamodules.helpers import Keeping, assert_problems, problems_of, sizes, split_names, table, write


def write_tiles(root: Path, roads: int, others: int, size: tuple[int, int] = (8, 8)) -> Path:
    """Tiles of noise; those with a road are called r…, with a mask that says which pixels are bright."""
    rng = np.random.default_rng(0)
    for index in range(roads + others):
        name = f"{'r' if index < roads else 'n'}{index:04d}.png"
        picture = rng.integers(0, 256, (*size, 3), np.uint8)
        write(root / "images" / name, picture)
        write(root / "masks" / name, (picture[..., 0] > 128) * np.uint8(255 if index < roads else 0))
    return root


@pytest.mark.parametrize(
    ("strategy", "seen", "steps"),
    [("few", 832, 13), ("rotations", 3328, 52), ("filters", 3328, 52), ("both", 3328, 52)],
)
def test_the_papers_protocol(
    strategy: Any, seen: int, steps: int, keep: Callable[..., Keeping], tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.getbasetemp() / "paper"  # the tiles of all four
    if not root.exists():
        write_tiles(root, roads=1060, others=1100)
    data = RoadsDataModule(root, size=(8, 8), strategy=strategy, samples_per_category=520, batch_size=64, num_workers=0,
                           steps_per_epoch=None)  # fmt: skip
    batches = keep(data, "fit", "test").seen
    counts = {split: sum(len(batch["image"]) for batch in batches[split]) for split in ("train", "val", "test")}
    assert counts == {"train": seen, "val": 208, "test": 1080}
    assert [len(batch["image"]) for batch in batches["train"]] == [64] * steps, "copies count"
    names = split_names(data)
    assert Counter(name[0] for name in names["train"]) == {"r": 416, "n": 416}
    assert Counter(name[0] for name in names["val"]) == {"r": 104, "n": 104}
    assert Counter(name[0] for name in names["test"]) == {"r": 530, "n": 550}
    assert max(Counter(name for part in names.values() for name in set(part)).values()) == 1


def test_a_batch_that_copies_cannot_fill_is_rejected_before_training(
    keep: Callable[..., Keeping], tmp_path: Path
) -> None:
    root = write_tiles(tmp_path / "tiles", roads=12, others=0)
    options: dict[str, Any] = {"filters": ["contour", "detail"], "size": (8, 8), "batch_size": 8, "num_workers": 0}
    data = RoadsDataModule(root, strategy="filters", **options)
    with pytest.raises(ArgumentError, match=r"batch_size is 8.*'filters'.* 3 images.*multiple of 3, such as 9"):
        keep(data)
    keep(data, "test")  # of an older run, which counted tiles
    keep(RoadsDataModule(root, strategy="rotations", **options))


@pytest.mark.parametrize("backend", ["exact", "kornia"])
def test_copies_follow_their_images_with_names_and_masks(
    backend: Any, keep: Callable[..., Keeping], tmp_path: Path
) -> None:
    root = write_tiles(tmp_path / "tiles", roads=12, others=0)
    data = RoadsDataModule(root, size=(8, 8), strategy="filters", filters=["find_edges", "detail"], batch_size=12,
                           num_workers=0, backend=backend)  # fmt: skip
    batch = keep(data).seen["train"][-1]
    count = len(batch["image"]) // 3
    assert batch["name"] == batch["name"][:count] * 3
    for key in ("index", "seed"):
        assert torch.equal(batch[key], batch[key][:count].repeat(3))
    levels = (batch["image"][:count] * 255).round().byte()
    expected = torch.cat([levels, *filtered(levels, ["find_edges", "detail"], backend)])
    assert torch.equal(batch["image"], expected.float() / 255)
    assert torch.equal(batch["mask"], (levels[:, :1] > 128).float().repeat(3, 1, 1, 1))


@pytest.mark.parametrize(("image", "window"), [((20, 30), (8, 8)), ((8, 8), (8, 8)), ((16, 16), (16, 16))])
def test_evaluation_sees_whole_images_in_the_windows_of_predict(
    image: Size, window: Size, keep: Callable[..., Keeping], tmp_path: Path
) -> None:
    root = write_tiles(tmp_path / "tiles", roads=12, others=0, size=image)
    data = RoadsDataModule(root, window=window, size=(8, 8), strategy="both", batch_size=20, num_workers=0, flips=True,
                           pictures=root / "images")  # fmt: skip
    task = keep(data, "fit", "test", "predict")
    windows: dict[str, list[torch.Tensor]] = {}
    for batch in task.seen["predict"]:
        for name, each in zip(batch["name"], batch["image"], strict=True):
            windows.setdefault(name, []).append((each * 255).round())
    for stage in ("val", "test"):
        names = [name for batch in task.seen[stage] for name in batch["name"]]
        assert len(names) == len(task.seen[stage])
        assert names == data.datasets[stage].names == sorted(set(names))
        for batch in task.seen[stage]:
            [name] = batch["name"]
            picture, mask = (np.asarray(Image.open(root / folder / name)) for folder in ("images", "masks"))
            np.testing.assert_array_equal((batch["image"][0] * 255).round(), picture.transpose(2, 0, 1))
            np.testing.assert_array_equal(batch["mask"][0, 0], mask / 255)
            assert torch.equal(batch["windows"][0].float(), torch.stack(windows[name]))
            assert (tuple(batch["window"][0].tolist()), batch["overlap"]) == (window, [0.25])


def test_evaluation_images_are_never_altered(keep: Callable[..., Keeping], tmp_path: Path) -> None:
    root = write_tiles(tmp_path / "tiles", roads=12, others=0)
    data = RoadsDataModule(root, size=(8, 8), strategy="both", batch_size=20, num_workers=0)
    task = keep(data, "fit", "test")
    for stage in ("val", "test"):
        batch = task.seen[stage][-1]
        for row, name in enumerate(batch["name"]):
            picture = np.asarray(Image.open(root / "images" / name)).transpose(2, 0, 1)
            np.testing.assert_array_equal((batch["image"][row] * 255).round(), picture)


def test_the_runs_seed_draws_and_the_test_half_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_tiles(tmp_path, roads=20, others=20)
    found = []
    for seed in ("0", "0", "1"):
        monkeypatch.setenv("PL_GLOBAL_SEED", seed)
        found.append(split_names(RoadsDataModule(root, size=(8, 8), samples_per_category=5)))
    assert found[0] == found[1]
    assert found[0]["train"] != found[2]["train"]
    assert found[0]["test"] == found[2]["test"]
    assert all(len(names["train"]) == 8 and len(names["val"]) == 2 for names in found)


@pytest.mark.parametrize(
    ("roads", "others", "options", "expected"),
    [
        (20, 10, {}, {"train": 12, "val": 3, "test": 15}),
        (8, 0, {"samples_per_category": 2}, {"train": 1, "val": 1, "test": 4}),
    ],
)
def test_sizes_of_the_splits(
    roads: int, others: int, options: dict[str, int], expected: dict[str, int], tmp_path: Path
) -> None:
    names = split_names(RoadsDataModule(write_tiles(tmp_path, roads, others), size=(8, 8), **options))
    assert sizes(names) == expected


def test_too_few_images_of_a_category_are_rejected(tmp_path: Path) -> None:
    root = write_tiles(tmp_path, roads=20, others=6)
    found = problems_of(lambda: split_names(RoadsDataModule(root, size=(8, 8), samples_per_category=5)))
    assert_problems(found, ("'no_road' has 3 images", "expected 5"))


def test_a_table_of_splits_takes_precedence(tmp_path: Path) -> None:
    root = write_tiles(tmp_path, roads=3, others=0)
    table(root / "splits.csv", "name,split", "r0000.png,val", "r0001.png,train", "r0002.png,test")
    with pytest.warns(UserWarning, match=r"splits\.csv decides .* samples_per_category has no effect"):
        names = split_names(RoadsDataModule(root, size=(8, 8), samples_per_category=520))
    assert names == {"train": ["r0001.png"], "val": ["r0000.png"], "test": ["r0002.png"]}


def test_a_table_of_categories_takes_precedence(tmp_path: Path) -> None:
    root = write_tiles(tmp_path, roads=8, others=0)
    rows = [f"r{index:04d}.png,{'city' if index < 4 else 'land'}" for index in range(8)]
    table(root / "categories.csv", "image,category", *rows)
    names = split_names(RoadsDataModule(root, size=(8, 8), samples_per_category=2, val_fraction=0.4))
    for part in names.values():
        assert Counter(int(name[1:5]) < 4 for name in part) == {True: len(part) / 2, False: len(part) / 2}


def test_all_wrong_categories_are_reported(tmp_path: Path) -> None:
    root = write_tiles(tmp_path, roads=3, others=0)
    rows = ["r0000.png,road", "gone.png,road", "r0000.png,road", "r0001.png,"]
    path = table(root / "categories.csv", "image,category", *rows)
    assert_problems(
        problems(RoadsDataModule(root, size=(8, 8))),
        (f"{path}, row 3: ", f"no image 'gone.png' in {root}/images"),
        (f"{path}, row 4: ", "'r0000.png' already"),
        (f"{path}, row 5: ", "category is empty"),
        (f"{path} does not list the image 'r0002.png'",),
    )


@pytest.mark.parametrize("strategy", ["few", "rotations", "filters", "both"])
def test_ignored_pixels_follow_flips_copies_and_transforms(
    strategy: Any, keep: Callable[..., Keeping], tmp_path: Path
) -> None:
    """Ignored pixels are those that are red: whatever moves, they stay together."""
    rng = np.random.default_rng(0)
    for index in range(12):
        picture = rng.integers(0, 100, (8, 8, 3), np.uint8)
        void = rng.random((8, 8)) < 0.3
        picture[void] = 240, 0, 0
        write(tmp_path / "images" / f"{index}.png", picture)
        write(tmp_path / "masks" / f"{index}.png", np.where(void, 255, picture[..., 1] > 50).astype(np.uint8))
    turns = [{"class_path": "albumentations.RandomRotate90", "init_args": {"p": 1.0}}]
    data = RoadsDataModule(tmp_path, size=(8, 8), strategy=strategy, filters=["detail"], batch_size=4, num_workers=0,
                           flips=True, augmentations=turns, ignore_value=255)  # fmt: skip
    seen = keep(data, "fit", "test").seen
    for batch in (*seen["train"], *seen["val"], *seen["test"]):
        assert batch["ignored"].dtype == torch.bool
        assert batch["ignored"].shape == batch["mask"].shape
        assert torch.equal(batch["ignored"], batch["image"][:, :1] > 0.6)
        assert not batch["mask"][batch["ignored"]].any()
    assert len(seen["train"][0]["ignored"]) == 4, "copies count"


def test_tiles_that_are_ignored_as_a_whole_are_left_out(tmp_path: Path) -> None:
    root = write_tiles(tmp_path, roads=6, others=6)
    for index in range(4):
        write(root / "masks" / f"r{index:04d}.png", np.full((8, 8), 7, np.uint8))
    names = split_names(RoadsDataModule(root, size=(8, 8), ignore_value=7))
    assert sum(map(len, names.values())) == 8
    for index in range(12):
        write(root / "masks" / f"{'r' if index < 6 else 'n'}{index:04d}.png", np.full((8, 8), 7, np.uint8))
    found = problems_of(lambda: RoadsDataModule(root, size=(8, 8), ignore_value=7).setup("fit"))
    assert_problems(found, ("tiles in", "is ignored", "--data.ignore_value"))
