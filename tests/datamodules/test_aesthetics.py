from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from PIL import Image

from datamodules.aesthetics import AestheticsDataModule
from datamodules.votes.files import read_votes
from datamodules.votes.pictures import read_square
from datamodules.votes.votes import mean_votes, median_votes

SPLITS = ("train", "val", "test")
COUNT = 60
IDS = [100 + 7 * place for place in range(COUNT)]


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 pictures of noise, 20 x 24, and votes from 1 to 10 on them: `AVA.txt` and `images/`."""
    root, rng = tmp_path_factory.mktemp("aesthetics"), np.random.default_rng(0)
    (root / "images").mkdir()
    lines = []
    for place, name in enumerate(IDS):
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), np.uint8)).save(root / "images" / f"{name}.jpg")
        votes = rng.multinomial(30, rng.dirichlet(np.arange(1, 11) if place % 3 else np.arange(10, 0, -1)))
        lines.append(" ".join(map(str, (place, name, *votes.tolist(), 1 + place % 2, 0, 9))))
    (root / "AVA.txt").write_text("\n".join(lines))
    return root


@pytest.fixture
def root(drawn: Path, tmp_path: Path) -> Path:
    """The same votes and pictures, beside which a test may lay lists and tables."""
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "images").symlink_to(drawn / "images")
    (folder / "AVA.txt").write_text((drawn / "AVA.txt").read_text())
    return folder


class Keeping(LightningModule):
    """Keeps the batches that reach a task, by stage."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}

    def training_step(self, batch: dict[str, Any]) -> torch.Tensor:
        self.seen["train"].append(batch)
        return self.weight.sum()

    def validation_step(self, batch: dict[str, Any]) -> None:
        self.seen["val"].append(batch)

    def test_step(self, batch: dict[str, Any]) -> None:
        self.seen["test"].append(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


@pytest.fixture
def trainer(tmp_path: Path) -> Trainer:
    return Trainer(max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, num_sanity_val_steps=0,
                  enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path / "run",
                  use_distributed_sampler=False)  # fmt: skip


def names(data: AestheticsDataModule) -> dict[str, list[str]]:
    data.setup("fit")
    return {split: list(data.datasets[split].names) for split in SPLITS}


def module(root: Path, **options: Any) -> AestheticsDataModule:
    return AestheticsDataModule(root, **{"size": 14, "load_size": 16, "num_workers": 0, **options})


def test_what_is_measured_on_is_the_middle_with_its_votes(root: Path, trainer: Trainer) -> None:
    task = Keeping()
    trainer.test(task, datamodule=module(root, batch_size=5, test_fraction=0.2), verbose=False)
    votes = read_votes(root / "AVA.txt")
    row_of = {name: row for row, name in enumerate(votes.names)}
    assert sum(len(batch["name"]) for batch in task.seen["test"]) == 12
    for batch in task.seen["test"]:
        assert batch.keys() == {"name", "index", "seed", "image", "votes", "professional", "tags"}
        assert batch["image"].shape == (len(batch["name"]), 3, 14, 14)
        for place, name in enumerate(batch["name"]):
            square = read_square(root / "images" / name, 16)[1:15, 1:15]
            torch.testing.assert_close(batch["image"][place], torch.from_numpy(square / 255).float().permute(2, 0, 1))
            row = row_of[name]
            assert batch["votes"][place].tolist() == votes.counts[row].tolist()
            mean = (votes.counts[row] * np.arange(1, 11)).sum() / votes.counts[row].sum()
            assert batch["professional"][place].item() == float(mean > 5)
            assert batch["tags"][place] == [f"tag {1 + row % 2}"]


def window(crop: torch.Tensor, square: torch.Tensor) -> tuple[int, int, bool]:
    """Where a crop lies in a square, and whether it is flipped."""
    places = [
        (top, left, turned)
        for top, left, turned in product(range(3), range(3), (False, True))
        if torch.equal(crop.flip(2) if turned else crop, square[:, top : top + 14, left : left + 14])
    ]
    assert len(places) == 1
    return places[0]


@pytest.mark.parametrize(("options", "spots", "flips"), [({}, 9, True), ({"flips": False}, 9, False),
                                                         ({"crop": "center"}, 1, True)])  # fmt: skip
def test_training_takes_crops_from_anywhere(
    root: Path, trainer: Trainer, options: dict[str, Any], spots: int, flips: bool
) -> None:
    task = Keeping()
    trainer.fit(task, datamodule=module(root, batch_size=8, **options))
    found = set()
    for batch in task.seen["train"]:
        for image, name in zip(batch["image"], batch["name"], strict=True):
            square = torch.from_numpy(read_square(root / "images" / name, 16)).permute(2, 0, 1)
            found.add((name, window((255 * image).round().byte(), square)))
    assert len({(top, left) for _, (top, left, _) in found}) == spots
    assert any(turned for _, (_, _, turned) in found) == flips
    assert len(found) > len({name for name, _ in found})  # another one in the second epoch


def test_splits_are_disjoint_whole_and_seeded(root: Path) -> None:
    first, again, other = (names(module(root, split_seed=seed)) for seed in (0, 0, 1))
    assert {split: len(part) for split, part in first.items()} == {"train": 49, "val": 6, "test": 5}
    assert sorted(name for part in first.values() for name in part) == sorted(f"{each}.jpg" for each in IDS)
    assert first == again
    assert first["test"] != other["test"]


def test_splits_have_the_class_ratio_of_all(root: Path) -> None:
    votes = read_votes(root / "AVA.txt")
    means = dict(zip(votes.names, mean_votes(votes.counts), strict=True))
    for threshold in (4.5, 5, 6):
        share = np.mean([mean > threshold for mean in means.values()])
        for seed in range(4):
            for part in names(module(root, split_seed=seed, val_fraction=0.2, test_fraction=0.2)).values():
                assert abs(sum(means[name] > threshold for name in part) - share * len(part)) <= 2


def test_the_order_of_the_file_changes_no_split(root: Path) -> None:
    before = names(module(root))
    (root / "AVA.txt").write_text("\n".join(reversed((root / "AVA.txt").read_text().split("\n"))))
    assert {split: set(part) for split, part in names(module(root)).items()} == {
        split: set(part) for split, part in before.items()
    }


def test_delta_thins_training_and_nothing_else(root: Path) -> None:
    whole = names(module(root))
    votes = read_votes(root / "AVA.txt")
    means = dict(zip(votes.names, mean_votes(votes.counts), strict=True))
    sizes = []
    for delta in (0.25, 0.5, 1.0):
        thinned = names(module(root, delta=delta))
        assert thinned["test"] == whole["test"]
        assert thinned["val"] == whole["val"]
        assert thinned["train"] == [name for name in whole["train"] if abs(means[name] - 5) > delta]
        sizes.append(len(thinned["train"]))
    assert len(whole["train"]) > sizes[0] > sizes[1] > sizes[2]


def test_statistic_and_threshold_change_classes_and_no_split(root: Path) -> None:
    whole = names(module(root))
    votes = read_votes(root / "AVA.txt")
    for options, above in (
        ({"statistic": "median"}, median_votes(votes.counts) > 5),
        ({"threshold": 6.5}, mean_votes(votes.counts) > 6.5),
    ):
        data = module(root, **options)
        assert names(data) == whole
        found = data.checked()
        assert found.professional.tolist() == above.tolist()
        assert found.professional.tolist() != (mean_votes(votes.counts) > 5).tolist()


def test_votes_on_another_scale_have_its_middle_as_threshold(root: Path) -> None:
    (root / "AVA.txt").unlink()
    rows = [f"{name}.jpg,{place % 4},1,{place % 3}" for place, name in enumerate(IDS)]
    (root / "labels.csv").write_text("\n".join(["image,count_1,count_2,count_3", *rows]))
    data = module(root)
    data.setup("fit")
    found = data.checked()
    assert found.threshold == 2.0
    assert found.professional.tolist() == [place % 3 > place % 4 for place in range(COUNT)]
    assert data.datasets["train"][0, 0]["votes"].shape == (3,)


def test_lists_say_what_is_tested_and_trained_on(root: Path) -> None:
    lists = root / "aesthetics_image_lists"
    lists.mkdir()
    (lists / "generic_test.jpgl").write_text("\n".join(map(str, IDS[5:20])))
    found = names(module(root))
    assert found["test"] == [f"{name}.jpg" for name in IDS[5:20]]
    assert len(found["val"]) == 6
    assert len(found["train"]) == 39
    (root / "few.txt").write_text("\n".join(map(str, IDS[30:])))
    found = names(module(root, train_list="few.txt"))
    assert sorted(found["train"] + found["val"]) == [f"{name}.jpg" for name in IDS[30:]]
    assert len(found["test"]) == 15
    other = root / "other.txt"
    other.write_text(f"{IDS[0]}.jpg\n{IDS[29]}\n")
    found = names(module(root, train_list="few.txt", test_list=other))
    assert found["test"] == [f"{IDS[0]}.jpg", f"{IDS[29]}.jpg"]


def test_splits_of_the_users_win(root: Path) -> None:
    rows = [f"{name}.jpg,{SPLITS[place // 10]}" for place, name in enumerate(IDS[:30])]
    (root / "splits.csv").write_text("\n".join(["name,split", *rows]))
    with pytest.warns(UserWarning, match=r"does not name 30 of the 60 pictures; they are left out"):
        found = names(module(root))
    assert found["val"] == [f"{name}.jpg" for name in IDS[10:20]]
    assert found["test"] == [f"{name}.jpg" for name in IDS[20:30]]
    with pytest.warns(UserWarning, match=r"splits\.csv says which pictures are tested on; test\.txt does nothing"):
        assert names(module(root, test_list="test.txt")) == found


def test_the_threshold_and_the_class_ratios_are_printed(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = module(root, delta=0.5)
    with caplog.at_level("INFO", logger="lightning.pytorch"):
        data.setup("fit")
    found = data.checked()
    train, test = (found.professional[found.splits[split]].mean() for split in ("train", "test"))
    near = 49 - len(found.trained)
    for part in (
        f"on 60 pictures; those with a mean vote above 5 are professional shots: {found.professional.mean():.1%}",
        f"train: 49 pictures, {train:.1%} professional; {near} of them within 0.5 of 5 are left out",
        f"test: 5 pictures, {test:.1%} professional",
    ):
        assert part in caplog.text


def test_two_workers_make_the_same_samples_in_the_same_order(root: Path) -> None:
    batches = []
    for workers in (0, 2):
        data = module(root, num_workers=workers, batch_size=16)
        data.setup("fit")
        batches.append(list(data.train_dataloader()))
    for one, other in zip(*batches, strict=True):
        assert one["name"] == other["name"]
        assert torch.equal(one["image"], other["image"])
        assert torch.equal(one["votes"], other["votes"])
        assert one["tags"] == other["tags"]
