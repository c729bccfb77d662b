from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from PIL import Image

from datamodules.describe.roads import problems
from datamodules.roads import RoadsDataModule
from ops.errors import DataError
from ops.filters import filtered


def write(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path


def write_tiles(root: Path, roads: int, others: int, size: tuple[int, int] = (8, 8)) -> Path:
    """Tiles of noise; those with a road are called r…, with a mask that says which pixels are bright."""
    rng = np.random.default_rng(0)
    for index in range(roads + others):
        name = f"{'r' if index < roads else 'n'}{index:04d}.png"
        picture = rng.integers(0, 256, (*size, 3), np.uint8)
        write(root / "images" / name, picture)
        write(root / "masks" / name, (picture[..., 0] > 128) * np.uint8(255 if index < roads else 0))
    return root


class Counting(LightningModule):
    """Counts the pictures that reach a task, and keeps the last batch of each stage."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.pictures: Counter[str] = Counter()
        self.last: dict[str, Any] = {}

    def count(self, stage: str, batch: dict[str, Any]) -> torch.Tensor:
        self.pictures[stage] += len(batch["image"])
        self.last[stage] = batch
        return self.weight.sum()

    def training_step(self, batch: dict[str, Any]) -> torch.Tensor:
        return self.count("train", batch)

    def validation_step(self, batch: dict[str, Any]) -> None:
        self.count("val", batch)

    def test_step(self, batch: dict[str, Any]) -> None:
        self.count("test", batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def counted(data: RoadsDataModule, tmp_path: Path) -> Counting:
    task = Counting()
    trainer = Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, num_sanity_val_steps=0,
                      enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
                      use_distributed_sampler=False)  # fmt: skip
    trainer.fit(task, datamodule=data)
    trainer.test(task, datamodule=data, verbose=False)
    return task


def splits(data: RoadsDataModule) -> dict[str, set[str]]:
    data.setup("fit")
    return {split: set(data.datasets[split].names) for split in ("train", "val", "test")}


@pytest.mark.parametrize(("strategy", "seen"), [("few", 832), ("rotations", 3328), ("filters", 3328), ("both", 3328)])
def test_the_papers_protocol(strategy: Any, seen: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.getbasetemp() / "paper"  # the tiles of all four
    if not root.exists():
        write_tiles(root, roads=1060, others=1100)
    data = RoadsDataModule(root, size=(8, 8), strategy=strategy, samples_per_category=520, batch_size=64, num_workers=0)
    task = counted(data, root)
    assert task.pictures == {"train": seen, "val": 208, "test": 1080}
    names = splits(data)
    assert Counter(name[0] for name in names["train"]) == {"r": 416, "n": 416}
    assert Counter(name[0] for name in names["val"]) == {"r": 104, "n": 104}
    assert Counter(name[0] for name in names["test"]) == {"r": 530, "n": 550}
    assert not names["train"] & names["val"] | names["train"] & names["test"] | names["val"] & names["test"]


@pytest.mark.parametrize("backend", ["exact", "kornia"])
def test_copies_stand_behind_their_pictures_with_names_and_masks(backend: Any, tmp_path: Path) -> None:
    root = write_tiles(tmp_path / "tiles", roads=12, others=0)
    data = RoadsDataModule(root, size=(8, 8), strategy="filters", filters=["find_edges", "detail"], batch_size=4,
                           num_workers=0, backend=backend)  # fmt: skip
    batch = counted(data, tmp_path).last["train"]
    count = len(batch["image"]) // 3
    assert batch["name"] == batch["name"][:count] * 3
    for key in ("index", "seed"):
        assert torch.equal(batch[key], batch[key][:count].repeat(3))
    levels = (batch["image"][:count] * 255).round().byte()
    expected = torch.cat([levels, *filtered(levels, ["find_edges", "detail"], backend)])
    assert torch.equal(batch["image"], expected.float() / 255)
    assert torch.equal(batch["mask"], (levels[:, :1] > 128).float().repeat(3, 1, 1, 1))


def test_what_is_measured_on_is_never_altered(tmp_path: Path) -> None:
    root = write_tiles(tmp_path / "tiles", roads=12, others=0)
    task = counted(RoadsDataModule(root, size=(8, 8), strategy="both", batch_size=20, num_workers=0), tmp_path)
    for stage in ("val", "test"):
        batch = task.last[stage]
        for row, name in enumerate(batch["name"]):
            picture = np.asarray(Image.open(root / "images" / name)).transpose(2, 0, 1)
            np.testing.assert_array_equal((batch["image"][row] * 255).round(), picture)


def test_the_runs_seed_draws_and_the_test_half_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_tiles(tmp_path, roads=20, others=20)
    found = []
    for seed in ("0", "0", "1"):
        monkeypatch.setenv("PL_GLOBAL_SEED", seed)
        found.append(splits(RoadsDataModule(root, size=(8, 8), samples_per_category=5)))
    assert found[0] == found[1]
    assert found[0]["train"] != found[2]["train"]
    assert found[0]["test"] == found[2]["test"]
    assert all(len(names["train"]) == 8 and len(names["val"]) == 2 for names in found)


def test_all_pictures_are_taken_where_no_number_is_given(tmp_path: Path) -> None:
    names = splits(RoadsDataModule(write_tiles(tmp_path, roads=20, others=10), size=(8, 8)))
    assert {split: len(part) for split, part in names.items()} == {"train": 12, "val": 3, "test": 15}


def test_two_pictures_of_a_category_are_one_to_train_and_one_to_validate_on(tmp_path: Path) -> None:
    names = splits(RoadsDataModule(write_tiles(tmp_path, roads=8, others=0), size=(8, 8), samples_per_category=2))
    assert {split: len(part) for split, part in names.items()} == {"train": 1, "val": 1, "test": 4}


def test_too_few_pictures_are_told_with_their_number(tmp_path: Path) -> None:
    root = write_tiles(tmp_path, roads=20, others=6)
    with pytest.raises(DataError) as caught:
        splits(RoadsDataModule(root, size=(8, 8), samples_per_category=5))
    assert caught.value.problems == [
        "the category 'no_road' has 3 pictures beside the 3 that are tested on; 5 were wanted. Give fewer "
        "--data.samples_per_category or null."
    ]


def test_splits_of_the_users_win(tmp_path: Path) -> None:
    root = write_tiles(tmp_path, roads=3, others=0)
    (root / "splits.csv").write_text("name,split\nr0000.png,val\nr0001.png,train\nr0002.png,test\n")
    with pytest.warns(UserWarning, match=r"splits\.csv says which pictures are taken; samples_per_category"):
        names = splits(RoadsDataModule(root, size=(8, 8), samples_per_category=520))
    assert names == {"train": {"r0001.png"}, "val": {"r0000.png"}, "test": {"r0002.png"}}


def test_categories_of_the_users_win(tmp_path: Path) -> None:
    root = write_tiles(tmp_path, roads=8, others=0)
    rows = [f"r{index:04d}.png,{'city' if index < 4 else 'land'}" for index in range(8)]
    (root / "categories.csv").write_text("\n".join(["image,category", *rows]))
    names = splits(RoadsDataModule(root, size=(8, 8), samples_per_category=2, val_fraction=0.4))
    for part in names.values():
        assert Counter(int(name[1:5]) < 4 for name in part) == {True: len(part) / 2, False: len(part) / 2}


def test_wrong_categories_are_all_told(tmp_path: Path) -> None:
    root = write_tiles(tmp_path, roads=3, others=0)
    table = root / "categories.csv"
    table.write_text("image,category\nr0000.png,road\ngone.png,road\nr0000.png,road\nr0001.png,\n")
    data = RoadsDataModule(root, size=(8, 8))
    assert problems(data) == [
        f"{table}, row 3: there is no picture 'gone.png' in {root}/images. Remove the row.",
        f"{table}, row 4: 'r0000.png' has a row already. Remove one of them.",
        f"{table}, row 5: 'r0001.png' has no category. Name one.",
        f"{table} does not name the picture 'r0002.png'. Add a row.",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": (0, 8)}, r"size is \[0, 8\]; height and width in pixels, 1 or more, were wanted"),
        ({"window": (8, 0)}, r"window is \[8, 0\]; height and width in pixels"),
        ({"overlap": 1.0}, r"overlap is 1\.0; a share of the window in \[0, 1\) was wanted"),
        ({"size": (8, 16), "strategy": "both"}, "the strategy 'both' turns tiles by 90 degrees, and size is"),
        ({"filters": ["sharpen"]}, r"filters are \['sharpen'\]; different ones of contour, detail, edge_enhance, find"),
        ({"filters": ["detail", "detail"]}, r"filters are \['detail', 'detail'\]; different ones of"),
        ({"backend": "pillow"}, "'pillow' is unknown; expected one of exact, kornia"),
        ({"filters": []}, "the strategy 'filters' wants one filter at least"),
        ({"samples_per_category": 0}, "samples_per_category is 0; null, 1 or more was wanted"),
    ],
)
def test_arguments_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RoadsDataModule("roads", **options)


def test_pictures_to_predict_are_asked_for() -> None:
    with pytest.raises(DataError, match=r"Roads are predicted in pictures of your own: --data\.pictures"):
        RoadsDataModule("roads").setup("predict")
