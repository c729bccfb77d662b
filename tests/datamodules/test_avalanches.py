from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from PIL import Image

from datamodules.avalanches import AvalanchesDataModule, read_conditions
from ops.augment import flip_by_seed
from ops.errors import DataError
from tests.datamodules.helpers import Keeping, assert_problems, noise, problems_of, table, write

SIZE = (24, 36)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten pictures of noise whose red channel is below 128 on avalanche, three tables; tests leave them as they are."""
    folder, rng = tmp_path_factory.mktemp("avalanches"), np.random.default_rng(0)
    for index in range(10):
        picture = rng.integers(0, 256, (*SIZE, 3), np.uint8)
        mask = cv2.GaussianBlur(rng.standard_normal(SIZE), (0, 0), 3) > 0.02
        picture[..., 0] = picture[..., 0] // 2 + np.where(mask, 0, 128).astype(np.uint8)
        write(folder / "images" / f"{index}.png", picture)
        write(folder / "masks" / f"{index}.png", np.where(mask, 200, 20).astype(np.uint8))
    splits = ["train", "train", "train", "train", "val", "val", "val", "val", "test", "test"]
    table(folder / "splits.csv", "name,split", *(f"{i}.png,{split}" for i, split in enumerate(splits)))
    table(folder / "boxes.csv", "image,x0,y0,x1,y1", "5.png,4,2,20,10", "8.png,0,0,9,9")
    table(folder / "conditions.csv", "image,condition", "4.png,sunny", "5.png,shady")
    return folder


@pytest.fixture
def trainer(make_trainer: Callable[..., Trainer]) -> Callable[[int], Trainer]:
    return lambda epochs=1: make_trainer(max_epochs=epochs, use_distributed_sampler=False)


@pytest.fixture
def trained(trainer: Callable[..., Trainer]) -> Callable[..., Keeping]:
    """Trains on a dataset with these options."""

    def run(epochs: int = 1, **options: Any) -> Keeping:
        task = Keeping()
        trainer(epochs).fit(task, datamodule=AvalanchesDataModule(**options))
        return task

    return run


def test_training_batches_are_windows_with_the_label_of_their_centre(
    root: Path, trained: Callable[..., Keeping]
) -> None:
    task = trained(root=root, window=7, windows_per_epoch=50, batch_size=16)
    batches = task.seen["train"]
    assert [batch["image"].shape for batch in batches] == [(16, 3, 7, 7)] * 3 + [(2, 3, 7, 7)]
    images, labels = (torch.cat([batch[key] for batch in batches]) for key in ("image", "label"))
    assert images.dtype == labels.dtype == torch.float32
    assert 0 <= images.min() < 0.01 < 0.99 < images.max() <= 1
    assert torch.equal(labels, (images[:, 0, 3, 3] * 255 < 128).float())
    assert labels.sum() == 25
    assert batches[0].keys() == {"image", "label", "index", "seed"}


def test_windows_are_flipped_by_their_seeds(root: Path, trained: Callable[..., Keeping]) -> None:
    flipped, straight = (
        trained(root=root, window=7, windows_per_epoch=64, batch_size=64, flips=flips).seen["train"][0]
        for flips in (True, False)
    )
    assert torch.equal(flipped["image"], flip_by_seed([straight["image"]], straight["seed"])[0])
    assert not torch.equal(flipped["image"], straight["image"])


def test_a_natural_ratio_is_that_of_the_training_pictures(root: Path, trained: Callable[..., Keeping]) -> None:
    task = trained(root=root, window=1, windows_per_epoch=20_000, batch_size=20_000, ratio="natural")
    masks = [np.asarray(Image.open(root / "masks" / f"{index}.png")) >= 127 for index in range(4)]
    assert float(task.seen["train"][0]["label"].mean()) == pytest.approx(np.mean(masks), abs=0.02)


def test_windows_are_of_the_training_pictures_alone(root: Path, trained: Callable[..., Keeping]) -> None:
    task = trained(root=root, window=1, windows_per_epoch=5000, batch_size=5000, ratio="natural")
    drawn = {tuple(pixel) for pixel in (task.seen["train"][0]["image"].flatten(1) * 255).round().byte().tolist()}
    pictures = [np.asarray(Image.open(root / "images" / f"{index}.png")) for index in range(4)]
    training = {tuple(pixel) for picture in pictures for pixel in picture.reshape(-1, 3).tolist()}
    assert drawn <= training
    assert len(drawn) > 0.7 * len(training)


def test_a_resumed_run_repeats(
    root: Path, tmp_path: Path, trained: Callable[..., Keeping], trainer: Callable[..., Trainer]
) -> None:
    options = {"root": root, "window": 7, "windows_per_epoch": 40, "batch_size": 8}
    whole = trained(epochs=3, **options).seen["train"]
    assert not torch.equal(whole[0]["image"], whole[5]["image"])  # another epoch, other windows
    task, data = Keeping(), AvalanchesDataModule(**options)
    first = trainer(2)
    first.fit(task, datamodule=data)
    first.save_checkpoint(tmp_path / "last.ckpt")
    resumed = Keeping()
    trainer(3).fit(resumed, datamodule=AvalanchesDataModule(**options), ckpt_path=tmp_path / "last.ckpt")
    for left, right in zip(whole[10:], resumed.seen["train"], strict=True):
        assert torch.equal(left["image"], right["image"])
        assert torch.equal(left["label"], right["label"])


def test_whole_pictures_come_one_by_one(root: Path, trainer: Callable[..., Trainer]) -> None:
    data = AvalanchesDataModule(root, window=7, windows_per_epoch=8, pyramid_levels=1)
    task, runner = Keeping(), trainer()
    runner.fit(task, datamodule=data)
    runner.test(task, datamodule=data, verbose=False)
    assert task.names("val") == ["4.png", "5.png", "6.png", "7.png"]
    assert [batch["condition"] for batch in task.seen["val"]] == [["sunny"], ["shady"], [""], [""]]
    assert task.names("test") == ["8.png", "9.png"]
    for batch in task.seen["val"] + task.seen["test"]:
        picture = cv2.pyrDown(np.asarray(Image.open(root / "images" / batch["name"][0])))
        mask = cv2.pyrDown((np.asarray(Image.open(root / "masks" / batch["name"][0])) >= 127).astype(np.float32))
        np.testing.assert_array_equal((batch["image"][0] * 255).round(), picture.transpose(2, 0, 1))
        np.testing.assert_array_equal(batch["mask"][0, 0], mask >= 0.5)
        assert (batch["mask"].shape, batch["mask"].dtype) == ((1, 1, 12, 18), torch.float32)
        assert ("valid" in batch) == (batch["name"][0] in ("5.png", "8.png"))
    expected = np.zeros((1, 1, 12, 18), np.bool_)
    expected[..., 1:5, 2:10] = True
    np.testing.assert_array_equal(task.seen["val"][1]["valid"], expected)


def test_a_fixed_subsample_is_validated_on(root: Path) -> None:
    found = []
    for seed in (0, 0, 1, 2, 3):
        data = AvalanchesDataModule(root, window=7, val_pictures=2, split_seed=seed)
        data.setup("fit")
        found.append(data.datasets["val"].names)
        assert len(data.datasets["test"]) == 2
    assert found[0] == found[1]
    assert all(len(set(names) & {"4.png", "5.png", "6.png", "7.png"}) == 2 for names in found)
    assert len({tuple(names) for names in found}) > 1
    every = AvalanchesDataModule(root, window=7, val_pictures=99)
    every.setup("fit")
    assert len(every.datasets["val"]) == 4


def test_training_may_follow_a_validation(root: Path, trainer: Callable[..., Trainer]) -> None:
    task, data, runner = Keeping(), AvalanchesDataModule(root, window=7, windows_per_epoch=4), trainer()
    runner.validate(task, datamodule=data, verbose=False)
    runner.fit(task, datamodule=data)
    assert [batch["image"].shape for batch in task.seen["train"]] == [(4, 3, 7, 7)]


@pytest.mark.parametrize("backend", ["exact", "kornia"])
def test_pictures_to_predict_come_with_their_source(backend: Any, root: Path, trainer: Callable[..., Trainer]) -> None:
    data = AvalanchesDataModule(root, window=7, pyramid_levels=1, pictures=root / "images", backend=backend)
    task = Keeping()
    trainer().predict(task, datamodule=data)
    assert task.names("predict") == [f"{index}.png" for index in range(10)]
    for index, batch in enumerate(task.seen["predict"]):
        picture = np.asarray(Image.open(root / "images" / f"{index}.png"))
        np.testing.assert_array_equal((batch["image"][0] * 255).round(), cv2.pyrDown(picture).transpose(2, 0, 1))
        np.testing.assert_array_equal(batch["source"][0], picture)
        assert (batch["index"].tolist(), batch["level"].tolist()) == ([index], [1])
        assert batch["size"].tolist() == [[24, 36]]
        assert ("valid" in batch) == (index in (5, 8))
    assert int(task.seen["predict"][8]["valid"].sum()) == 5 * 5


def test_pictures_are_predicted_where_there_is_no_data_set(root: Path, tmp_path: Path) -> None:
    data = AvalanchesDataModule(tmp_path / "gone", window=7, pictures=root / "images" / "5.png")
    data.setup("predict")
    assert data.datasets["predict"].names == ["5.png"]
    assert int(data.datasets["predict"][0, 0]["valid"].sum()) == 16 * 8, "boxes lie beside images/"


def test_all_images_that_cannot_be_predicted_are_listed(tmp_path: Path) -> None:
    write(tmp_path / "a.png", np.zeros((8, 8, 3), np.uint8))
    write(tmp_path / "b.png", np.zeros((9, 9, 3), np.uint8))
    write(tmp_path / "b.jpg", np.zeros((9, 9, 3), np.uint8))
    (tmp_path / "c.png").write_bytes(b"")
    data = AvalanchesDataModule("avalanches", window=9, pictures=tmp_path)
    assert_problems(
        problems_of(lambda: data.setup("predict")),
        ("2 images are named b.*",),
        (f"{tmp_path}/a.png is 8 x 8", "smaller than a window of 9 x 9"),
        (f"{tmp_path}/c.png is empty",),
    )
    with pytest.raises(DataError, match=r"--data\.pictures"):
        AvalanchesDataModule("avalanches").setup("predict")


def test_windows_that_cannot_be_balanced_are_refused(tmp_path: Path) -> None:
    for stem in "abc":
        write(tmp_path / "images" / f"{stem}.png", np.zeros((9, 9, 3), np.uint8))
        write(tmp_path / "masks" / f"{stem}.png", np.eye(9, 1, dtype=np.uint8).repeat(9, axis=1) * 255)  # the first row
    options = {"root": tmp_path, "window": 5, "val_fraction": 0.34, "test_fraction": 0.34}
    with pytest.raises(DataError, match=r"No window of 5 x 5 pixels in the 1 training images of .* has avalanche at"):
        AvalanchesDataModule(**options).setup("fit")
    natural = AvalanchesDataModule(**options, ratio="natural")
    natural.setup("fit")
    assert natural._store is not None
    assert natural._store.counts == (25, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 0}, "window is 0; expected 1"),
        ({"backend": "opencv"}, "'opencv' is unknown; expected one of exact, kornia"),
        ({"pyramid_levels": -1}, "pyramid_levels is -1; expected 0"),
        ({"ratio": "fair"}, "ratio is 'fair'; expected natural or balanced"),
        ({"windows_per_epoch": 0}, "windows_per_epoch is 0; expected 1"),
        ({"val_pictures": 0}, "val_pictures is 0; expected null, 1"),
    ],
)
def test_arguments_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AvalanchesDataModule("avalanches", **options)


HEADER = "image,x0,y0,x1,y1\n"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two pictures to predict, a box in the first."""
    for name in ("0.png", "5.png"):
        write(tmp_path / name, noise(24, 36))
    (tmp_path / "boxes.csv").write_text(f"{HEADER}0.png,3,2,18,9\n")
    return tmp_path


def test_boxes_among_pictures_to_predict_are_theirs(pictures: Path) -> None:
    root = pictures / "snow"
    root.mkdir()
    (root / "boxes.csv").write_text(f"{HEADER}5.png,0,0,5,5\n")  # of another picture of that name
    data = AvalanchesDataModule(root, window=9, pyramid_levels=1, pictures=pictures)
    data.setup("predict")
    boxed, whole = data.datasets["predict"][0, 0], data.datasets["predict"][0, 1]
    inside = torch.zeros(1, 24, 36, dtype=torch.bool)
    inside[:, 2:9, 3:18] = True
    assert torch.equal(boxed["inside"], inside)
    assert torch.equal(boxed["valid"], inside[:, ::2, ::2])
    assert not {"valid", "inside"} & whole.keys()


def test_a_box_of_no_image_is_rejected(pictures: Path) -> None:
    (pictures / "boxes.csv").write_text(f"{HEADER}0.png,3,2,18,9\ngone.png,0,0,5,5\n")
    with pytest.raises(DataError, match=rf"row 3: there is no image 'gone.png' in {pictures}"):
        AvalanchesDataModule("snow", window=9, pictures=pictures).setup("predict")
    data = AvalanchesDataModule("snow", window=9, pictures=pictures / "0.png")
    data.setup("predict")  # of one picture the table may say more
    assert int(data.datasets["predict"][0, 0]["valid"].sum()) == 15 * 7


def test_conditions_are_read(tmp_path: Path) -> None:
    path = table(tmp_path / "c.csv", "image,condition", "a,sunny", "b,", "c,deep shade")
    assert read_conditions(path, ["a", "b", "c", "d"]) == {"a": "sunny", "b": "", "c": "deep shade"}
    assert read_conditions(tmp_path / "none.csv", ["a"]) == {}


def test_all_wrong_conditions_are_listed(tmp_path: Path) -> None:
    path = table(tmp_path / "c.csv", "image,condition", "a,sunny", "gone,shady", "a,shady")
    assert_problems(
        problems_of(lambda: read_conditions(path, ["a"])),
        (f"{path}, row 3: ", "no image 'gone'", f"{tmp_path}/images"),
        (f"{path}, row 4: ", "'a' already"),
    )
