import csv
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from PIL import Image

from datamodules.aesthetics import AestheticsDataModule
from datamodules.describe.aesthetics import problems
from ops.errors import DataError

COUNT = 40


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 pictures, every other one a professional shot, and a table of votes from 1 to 3."""
    root, rng = tmp_path_factory.mktemp("stars"), np.random.default_rng(0)
    (root / "images").mkdir()
    rows = ["image,count_1,count_2,count_3"]
    for place in range(COUNT):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(root / "images" / f"{place:02d}.png")
        rows.append(f"{place:02d}.png,{(3, 1)[place % 2]},1,{(1, 3)[place % 2]}")
    (root / "labels.csv").write_text("\n".join(rows))
    return root


@pytest.fixture
def root(drawn: Path, tmp_path: Path) -> Path:
    """The same, for a test to spoil."""
    return Path(shutil.copytree(drawn, tmp_path / "stars"))


def module(root: Path, **options: Any) -> AestheticsDataModule:
    return AestheticsDataModule(root, **{"size": 14, "num_workers": 0, "batch_size": 7, **options})


def spoil(root: Path, *names: str) -> None:
    for name in names:
        path = root / "images" / name
        path.write_bytes(path.read_bytes()[:200])


class Counting(LightningModule):
    """Counts the pictures that reach it, by stage."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: dict[str, list[str]] = {"train": [], "val": []}

    def training_step(self, batch: dict[str, Any]) -> torch.Tensor:
        assert len(batch["name"]) == len(batch["image"]) == len(batch["votes"]) == len(batch["professional"])
        self.seen["train"] += batch["name"]
        return self.weight.sum()

    def validation_step(self, batch: dict[str, Any]) -> None:
        self.seen["val"] += batch["name"]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def trained(data: AestheticsDataModule, folder: Path, epochs: int = 1) -> dict[str, list[str]]:
    task = Counting()
    trainer = Trainer(max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False,
                      enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
                      default_root_dir=folder, use_distributed_sampler=False)  # fmt: skip
    trainer.fit(task, datamodule=data)
    return task.seen


def listed(path: Path) -> dict[str, str]:
    with path.open(newline="") as file:
        return {row["name"]: row["problem"] for row in csv.DictReader(file)}


def test_missing_and_unreadable_pictures_are_counted_listed_and_left_out(root: Path, tmp_path: Path) -> None:
    before = module(root).checked()
    (root / "images" / "03.png").unlink()
    spoil(root, "10.png")
    data = module(root)
    with pytest.warns(
        UserWarning, match=r"2 of 40 pictures of .* cannot be used and are left out; .*unusable\.csv lists"
    ):
        seen = trained(data, tmp_path / "run")
    found = listed(tmp_path / "run" / "unusable.csv")
    assert list(found) == ["03.png", "10.png"]
    assert found["03.png"] == f"There is no file {root / 'images' / '03.png'}."
    assert "10.png is truncated or not a picture" in found["10.png"]
    assert not {"03.png", "10.png"} & {*seen["train"], *seen["val"]}
    after = data.checked()
    for split in ("train", "val", "test"):  # the others stay where they were
        assert after.names(split) == [name for name in before.names(split) if name not in found]


def test_unreadable_pictures_that_were_not_looked_for_are_left_out_when_met(root: Path, tmp_path: Path) -> None:
    data = module(root, open_all=False, missing_share=0.1)
    splits = data.checked().splits
    bad = [f"{row:02d}.png" for row in (*splits["train"][:2], splits["val"][0])]
    spoil(root, *bad)
    with pytest.warns(UserWarning, match=r"cannot be used and are left out; .* lists them, and those to come"):
        seen = trained(data, tmp_path / "run", epochs=2)
    assert sorted(listed(tmp_path / "run" / "unusable.csv")) == sorted(bad)
    readable = {split: {f"{row:02d}.png" for row in rows} - set(bad) for split, rows in splits.items()}
    assert sorted(seen["train"]) == sorted([*readable["train"]] * 2)
    assert sorted(seen["val"]) == sorted([*readable["val"]] * 2)


def test_too_many_of_them_end_training(root: Path, tmp_path: Path) -> None:
    data = module(root, open_all=False)
    spoil(root, *(f"{row:02d}.png" for row in data.checked().splits["train"][:3]))
    with pytest.raises(DataError, match=r"3 of 40 pictures \(7\.5%\) cannot be used; at most 5\.0% were wanted"):
        trained(data, tmp_path / "run")
    assert len(listed(tmp_path / "run" / "unusable.csv")) == 3


def test_more_than_a_share_of_missing_pictures_is_refused_and_a_larger_share_is_not(root: Path, tmp_path: Path) -> None:
    for name in ("03.png", "04.png", "05.png"):
        (root / "images" / name).unlink()
    with pytest.raises(DataError, match=r"3 of 40 pictures \(7\.5%\) cannot be used.*--data\.missing_share") as caught:
        trained(module(root), tmp_path / "run")
    described = module(root)
    described.folder = tmp_path / "run"  # with the same list in the same place it says the same
    assert problems(described) == caught.value.problems
    assert list(listed(tmp_path / "run" / "unusable.csv")) == ["03.png", "04.png", "05.png"]
    assert list(module(root, missing_share=0.1).checked().problems) == ["03.png", "04.png", "05.png"]
    assert problems(module(root, missing_share=0.1)) == []


def test_unreadable_pictures_count_with_the_missing_ones(root: Path) -> None:
    (root / "images" / "03.png").unlink()
    spoil(root, "10.png", "11.png")
    with pytest.raises(DataError, match="3 of 40 pictures"):
        module(root).checked()
    assert list(module(root, open_all=False).checked().problems) == ["03.png"]
    [problem] = problems(module(root, open_all=False))  # describe opens all
    assert all(name in problem for name in ("03.png", "10.png", "11.png"))


def test_listed_pictures_without_votes_are_told(root: Path) -> None:
    (root / "test.txt").write_text("\n".join(["00", *(f"{place:02d}.png" for place in range(1, 10))]))
    data = module(root, test_list="test.txt")
    assert data.checked().problems == {"00": f"{root / 'test.txt'} has the picture '00', on which there are no votes."}
    assert data.checked().names("test") == [f"{place:02d}.png" for place in range(1, 10)]


def test_test_pictures_must_not_be_trained_on(root: Path) -> None:
    for name, places in (("test.txt", range(10)), ("train.txt", range(8, 40))):
        (root / name).write_text("\n".join(f"{place:02d}.png" for place in places))
    with pytest.raises(DataError, match=r"'08\.png' is in .*test\.txt and in .*train\.txt\. Remove") as caught:
        module(root, test_list="test.txt", train_list="train.txt").checked()
    assert len(caught.value.problems) == 2
    rows = [f"{place:02d}.png,{('train', 'val', 'test', 'train')[place % 4]}" for place in range(COUNT)]
    (root / "splits.csv").write_text("\n".join(["name,split", *rows, "00.png,test"]))
    with (
        pytest.warns(UserWarning, match="pictures in both train and test"),
        pytest.raises(DataError, match=r"splits\.csv has '00\.png' in test and in another split\. Remove"),
    ):
        module(root).checked()


def test_all_that_is_wrong_is_told_at_once(root: Path) -> None:
    (root / "tags.csv").write_text("image,tag\n99.png,Family\n")
    found = problems(module(root, threshold=3, test_list="none.txt"))
    assert len(found) == 3
    for part in ("99.png", "none.txt could not be read", "the threshold is 3, and votes are 1 to 3; a number between"):
        assert any(part in problem for problem in found)


def test_a_missing_data_set_is_shown_how_it_should_be(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        module(tmp_path).setup("fit")
    for part in (
        f"{tmp_path}/images/<id>.jpg",
        f"{tmp_path}/AVA.txt",
        "image,count_1,…,count_k",
        "has neither AVA.txt",
    ):
        assert part in str(caught.value)
    (tmp_path / "labels.csv").write_text("image,count_1,count_2\na.jpg,1,2\n")
    with pytest.raises(DataError, match=f"There is no folder {tmp_path}/images"):
        module(tmp_path).setup("fit")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 2.7}, r"All \d+ pictures of train in .* have a mean vote of at most 2\.7; some of either kind"),
        ({"threshold": 1.1}, r"All \d+ pictures of train in .* have a mean vote above 1\.1.*--data\.threshold"),
        (
            {"delta": 1.0},
            r"None is left of the 33 pictures of train in .*: all are unusable or within 1 of the threshold",
        ),
    ],
)
def test_a_training_set_of_one_kind_is_refused(root: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        module(root, **options).checked()


def test_a_test_set_of_one_kind_is_told(root: Path) -> None:
    (root / "test.txt").write_text("\n".join(f"{place:02d}.png" for place in range(0, 10, 2)))
    with pytest.warns(UserWarning, match="All 5 pictures of test in .* are snapshots: balanced accuracy and AUC say"):
        module(root, test_list="test.txt").checked()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size is 0; 1 pixel or more was wanted"),
        ({"size": 64, "load_size": 63}, "load_size is 63; 64 pixels, which is size, or more were wanted"),
        ({"crop": "corner"}, "crop is 'corner'; random or center was wanted"),
        ({"statistic": "mode"}, "statistic is 'mode'; mean or median was wanted"),
        ({"delta": -0.1}, r"delta is -0\.1; 0 or more was wanted"),
        ({"missing_share": 1.1}, r"missing_share is 1\.1; a share in \[0, 1\] was wanted"),
        ({"val_fraction": 1.0}, r"val_fraction is 1\.0"),
    ],
)
def test_arguments_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AestheticsDataModule(**options)


def test_pictures_to_predict_need_no_votes(root: Path, tmp_path: Path) -> None:
    album = tmp_path / "album"
    for name in ("b/one.png", "one.jpg", "one.png"):
        (album / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / "images" / "00.png", album / name)
    (album / "one.jpg").write_text("no picture")
    data = module(tmp_path / "nowhere", pictures=album)
    data.setup("predict")
    [batch] = [data.on_after_batch_transfer(batch, 0) for batch in data.predict_dataloader()]
    assert batch["name"] == ["b/one.png", "one.jpg", "one.png"]
    assert batch["index"].tolist() == [0, 1, 2]
    assert batch["image"].shape == (3, 3, 14, 14)
    assert batch["image"].max() <= 1
    assert [source.shape for source in batch["source"]] == [(16, 16, 3), (0, 0, 3), (16, 16, 3)]
    assert [bool(problem) for problem in batch["problem"]] == [False, True, False]
    single = module(tmp_path / "nowhere", pictures=album / "b" / "one.png")
    single.setup("predict")
    assert single.datasets["predict"].names == ["one.png"]
    with pytest.raises(DataError, match=r"Photographs of your own are judged: --data\.pictures"):
        module(root).setup("predict")
    assert any("nothing" in problem for problem in problems(module(root, pictures=tmp_path / "nothing")))
