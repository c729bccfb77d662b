import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.avalanches import AvalanchesDataModule, read_conditions, squeezed
from ops.augment import flip_by_seed
from ops.errors import DataError
from tests.datamodules.helpers import Keeping, assert_problems, noise, problems_of, table, write

SIZE = (24, 36)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten images of noise whose red channel is below 128 on avalanche, three tables; tests leave them as they are."""
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


def test_training_batches_are_windows_with_the_label_of_their_center(root: Path, keep: Callable[..., Keeping]) -> None:
    batches = keep(AvalanchesDataModule(root, window=7, windows_per_epoch=50, batch_size=16)).seen["train"]
    assert [batch["image"].shape for batch in batches] == [(16, 3, 7, 7)] * 3 + [(2, 3, 7, 7)]
    images, labels = (torch.cat([batch[key] for batch in batches]) for key in ("image", "label"))
    assert images.dtype == labels.dtype == torch.float32
    assert 0 <= images.min() < 0.01 < 0.99 < images.max() <= 1
    assert torch.equal(labels, (images[:, 0, 3, 3] * 255 < 128).float())
    assert labels.sum() == 25
    masks = torch.cat([batch["mask"] for batch in batches])
    assert torch.equal(masks, (images[:, :1] * 255 < 128).float()), "flipped like the images"
    assert batches[0].keys() == {"image", "label", "mask", "index", "seed"}


def test_windows_are_flipped_by_their_seeds(root: Path, keep: Callable[..., Keeping]) -> None:
    options = {"window": 7, "windows_per_epoch": 64, "batch_size": 64}
    flipped, straight = (
        keep(AvalanchesDataModule(root, flips=flips, **options)).seen["train"][0] for flips in (True, False)
    )
    assert torch.equal(flipped["image"], flip_by_seed([straight["image"]], straight["seed"])[0])
    assert not torch.equal(flipped["image"], straight["image"])


def test_natural_windows_are_those_of_the_training_images(root: Path, keep: Callable[..., Keeping]) -> None:
    data = AvalanchesDataModule(root, window=1, windows_per_epoch=20_000, batch_size=20_000, ratio="natural")
    [batch] = keep(data).seen["train"]
    masks = [np.asarray(Image.open(root / "masks" / f"{index}.png")) >= 127 for index in range(4)]
    assert float(batch["label"].mean()) == pytest.approx(np.mean(masks), abs=0.02)
    drawn = {tuple(pixel) for pixel in (batch["image"].flatten(1) * 255).round().byte().tolist()}
    images = [np.asarray(Image.open(root / "images" / f"{index}.png")) for index in range(4)]
    training = {tuple(pixel) for image in images for pixel in image.reshape(-1, 3).tolist()}
    assert drawn <= training
    assert len(drawn) > 0.7 * len(training)


def test_a_resumed_run_draws_the_same_windows(root: Path, tmp_path: Path, keep: Callable[..., Keeping]) -> None:
    def data() -> AvalanchesDataModule:
        return AvalanchesDataModule(root, window=7, windows_per_epoch=40, batch_size=8)

    whole = keep(data(), epochs=3).seen["train"]
    assert not torch.equal(whole[0]["image"], whole[5]["image"])  # another epoch, other windows
    keep(data(), epochs=2).trainer.save_checkpoint(tmp_path / "last.ckpt")
    resumed = keep(data(), epochs=3, ckpt_path=tmp_path / "last.ckpt")
    for left, right in zip(whole[10:], resumed.seen["train"], strict=True):
        assert torch.equal(left["image"], right["image"])
        assert torch.equal(left["label"], right["label"])


def test_evaluation_takes_whole_images_one_by_one(root: Path, keep: Callable[..., Keeping]) -> None:
    task = keep(AvalanchesDataModule(root, window=7, windows_per_epoch=8, pyramid_levels=1), "fit", "test")
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


def test_training_may_follow_a_validation(root: Path, keep: Callable[..., Keeping]) -> None:
    task = keep(AvalanchesDataModule(root, window=7, windows_per_epoch=4), "validate", "fit")
    assert [batch["image"].shape for batch in task.seen["train"]] == [(4, 3, 7, 7)]


@pytest.mark.parametrize("backend", ["exact", "kornia"])
def test_images_to_predict_come_with_their_source(backend: Any, root: Path, keep: Callable[..., Keeping]) -> None:
    data = AvalanchesDataModule(root, window=7, pyramid_levels=1, pictures=root / "images", backend=backend)
    task = keep(data, "predict")
    assert task.names("predict") == [f"{index}.png" for index in range(10)]
    for index, batch in enumerate(task.seen["predict"]):
        picture = np.asarray(Image.open(root / "images" / f"{index}.png"))
        np.testing.assert_array_equal((batch["image"][0] * 255).round(), cv2.pyrDown(picture).transpose(2, 0, 1))
        np.testing.assert_array_equal(batch["source"][0], picture)
        assert (batch["index"].tolist(), batch["level"].tolist()) == ([index], [1])
        assert batch["size"].tolist() == [[24, 36]]
        assert ("valid" in batch) == (index in (5, 8))
    assert int(task.seen["predict"][8]["valid"].sum()) == 5 * 5


def test_predict_needs_no_dataset(root: Path, tmp_path: Path) -> None:
    data = AvalanchesDataModule(tmp_path / "gone", window=7, pictures=root / "images" / "5.png")
    data.setup("predict")
    assert data.datasets["predict"].names == ["5.png"]
    assert int(data.datasets["predict"][0, 0]["valid"].sum()) == 16 * 8, "boxes lie beside images/"


def test_images_that_cannot_be_predicted_are_samples_with_the_reason(tmp_path: Path) -> None:
    for name, side in {"a.png": 8, "b.png": 9, "b.jpg": 9}.items():
        write(tmp_path / name, noise(side, side))
    (tmp_path / "c.png").write_bytes(b"")
    data = AvalanchesDataModule("avalanches", window=9, pictures=tmp_path)
    assert_problems(problems_of(lambda: data.setup("predict")), ("2 images are named b.*",))
    (tmp_path / "b.jpg").unlink()
    data.setup("predict")
    samples = data.datasets["predict"]
    small, usable, empty = (samples[0, index]["problem"] for index in range(3))
    assert f"{tmp_path}/a.png is 8 x 8" in small
    assert "smaller than a window of 9 x 9" in small
    assert usable == ""
    assert f"{tmp_path}/c.png is empty" in empty


def test_windows_that_cannot_be_balanced_are_rejected(tmp_path: Path) -> None:
    for stem in "abc":
        write(tmp_path / "images" / f"{stem}.png", noise(9, 9))
        write(tmp_path / "masks" / f"{stem}.png", np.eye(9, 1).repeat(9, axis=1) * 255)  # the first row
    options = {"root": tmp_path, "window": 5, "val_fraction": 0.34, "test_fraction": 0.34}
    with pytest.raises(DataError, match=r"No window of 5 x 5 .* has avalanche"):
        AvalanchesDataModule(**options).setup("fit")
    natural = AvalanchesDataModule(**options, ratio="natural")
    natural.setup("fit")
    assert natural._store is not None
    assert natural._store.counts == (25, 0)


HEADER = "image,x0,y0,x1,y1"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two images to predict, a box in the first."""
    for name in ("0.png", "5.png"):
        write(tmp_path / name, noise(24, 36))
    table(tmp_path / "boxes.csv", HEADER, "0.png,3,2,18,9")
    return tmp_path


def test_boxes_beside_images_to_predict_are_read(pictures: Path) -> None:
    table(pictures / "snow" / "boxes.csv", HEADER, "5.png,0,0,5,5")  # of another image of that name
    data = AvalanchesDataModule(pictures / "snow", window=9, pyramid_levels=1, pictures=pictures)
    data.setup("predict")
    boxed, whole = data.datasets["predict"][0, 0], data.datasets["predict"][0, 1]
    inside = torch.zeros(1, 24, 36, dtype=torch.bool)
    inside[:, 2:9, 3:18] = True
    assert torch.equal(boxed["inside"], inside)
    assert torch.equal(boxed["valid"], inside[:, ::2, ::2])
    assert not {"valid", "inside"} & whole.keys()


def test_a_box_of_no_image_is_rejected(pictures: Path) -> None:
    table(pictures / "boxes.csv", HEADER, "0.png,3,2,18,9", "gone.png,0,0,5,5")
    with pytest.raises(DataError, match=rf"row 3: there is no image 'gone.png' in {pictures}"):
        AvalanchesDataModule("snow", window=9, pictures=pictures).setup("predict")
    data = AvalanchesDataModule("snow", window=9, pictures=pictures / "0.png")
    data.setup("predict")  # of one image the table may say more
    assert int(data.datasets["predict"][0, 0]["valid"].sum()) == 15 * 7


def test_conditions_are_read(tmp_path: Path) -> None:
    path = table(tmp_path / "c.csv", "image,condition", "a,sunny", "b,", "c,deep shade")
    assert read_conditions(path, ["a", "b", "c", "d"]) == {"a": "sunny", "b": "", "c": "deep shade"}
    assert read_conditions(tmp_path / "none.csv", ["a"]) == {}
    table(path, "image,condition", "a,sunny", "gone,shady", "a,shady")
    assert_problems(
        problems_of(lambda: read_conditions(path, ["a"])),
        (f"{path}, row 3: ", "no image 'gone'", f"{tmp_path}/images"),
        (f"{path}, row 4: ", "'a' already"),
    )


def test_no_window_is_centered_on_an_ignored_pixel(root: Path, keep: Callable[..., Keeping], tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path, dirs_exist_ok=True)
    for index in range(10):
        image, mask = (np.array(Image.open(root / part / f"{index}.png")) for part in ("images", "masks"))
        image[4:20, 5:30] = 0, 255, 0
        mask[4:20, 5:30] = 99
        write(tmp_path / "images" / f"{index}.png", image)
        write(tmp_path / "masks" / f"{index}.png", mask)
    data = AvalanchesDataModule(
        tmp_path, window=7, windows_per_epoch=2000, batch_size=500, flips=False, ignore_value=99
    )
    seen = keep(data, "fit", "test").seen
    centers = torch.cat([batch["image"][:, :, 3, 3] for batch in seen["train"]])
    assert not (centers == torch.tensor([0.0, 1.0, 0.0])).all(dim=1).any()
    for batch in (*seen["val"], *seen["test"]):
        inside = torch.zeros(1, 1, *SIZE, dtype=torch.bool)
        inside[..., 4:20, 5:30] = True
        assert torch.equal(batch["ignored"], inside)
        assert not batch["mask"][inside].any()
        assert batch["mask"].any()


def test_photos_are_resized_with_masks_and_boxes(root: Path, tmp_path: Path, keep: Callable[..., Keeping]) -> None:
    shutil.copytree(root, tmp_path / "boxed")
    table(tmp_path / "boxed" / "boxes.csv", "image,x0,y0,x1,y1", "1.png,0,0,18,24")
    options: dict[str, Any] = {"photos": (12, 18), "batch_size": 2, "augment": "none", "steps_per_epoch": 3}
    for folder in (root, tmp_path / "boxed"):
        data = AvalanchesDataModule(folder, **options)
        assert data.facts().size == (12, 18)
        batches = keep(data).seen["train"]
        assert [batch["image"].shape for batch in batches] == [(2, 3, 12, 18)] * 3
        for batch in batches:
            for name, image, mask in zip(batch["name"], batch["image"], batch["mask"], strict=True):
                whole = np.asarray(Image.open(root / "images" / name))
                expected = cv2.resize(whole, (18, 12), interpolation=cv2.INTER_AREA)
                np.testing.assert_allclose(image.permute(1, 2, 0) * 255, expected, atol=1e-3)
                truth = (np.asarray(Image.open(root / "masks" / name)) >= 127).astype(np.float32)
                share = cv2.resize(truth, (18, 12), interpolation=cv2.INTER_AREA)
                assert (mask[0].numpy() == (share >= 0.5))[abs(share - 0.5) > 0.01].all()
    valid = {name: part for batch in batches for name, part in zip(batch["name"], batch["valid"], strict=True)}
    assert all(part.float().mean() == (0.5 if name == "1.png" else 1) for name, part in valid.items())
    assert keep(data).seen["val"][0]["image"].shape[-2:] == SIZE, "whole images are evaluated at their own size"


def test_photos_are_cropped_with_their_masks(root: Path, keep: Callable[..., Keeping]) -> None:
    options: dict[str, Any] = {"photos": SIZE, "crop": (12, 18), "augment": "none", "batch_size": 2}
    shown = keep(AvalanchesDataModule(root, **options, steps_per_epoch=2)).seen["train"]
    assert [batch["image"].shape for batch in shown] == [(2, 3, 12, 18)] * 2
    for batch in shown:
        assert torch.equal(batch["mask"], (batch["image"][:, :1] * 255 < 128).float())


@pytest.mark.parametrize(
    ("sizes", "photos", "count", "better"),
    [
        ([(400, 600)] * 3, (384, 256), "3 of 3", "[256,384]"),
        ([(600, 400), (400, 600), (400, 600)], (384, 256), "2 of 3", "[256,384]"),
        ([(600, 400), (600, 400), (400, 600)], (384, 256), "1 of 3", ""),
        ([(300, 400)], (336, 224), "1 of 1", "[238,322]"),
        ([(400, 400), (440, 400)], (384, 320), "", ""),
        ([], (384, 256), "", ""),
    ],
)
def test_photos_of_another_shape_are_reported(
    sizes: list[tuple[int, int]], photos: tuple[int, int], count: str, better: str
) -> None:
    text = squeezed(sizes, photos)
    assert count in text
    assert bool(count) == bool(text)
    assert text.endswith(f"--data.photos {better}." if better else ("1.3." if text else ""))


def test_the_shape_of_photos_is_reported_at_setup(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    for data, stage in (
        (AvalanchesDataModule(root, photos=(96, 64)), "fit"),
        (AvalanchesDataModule(root, photos=(96, 64), pictures=root / "images"), "predict"),
        (AvalanchesDataModule(root, window=7), "fit"),
        (AvalanchesDataModule(root, photos=(64, 96)), "fit"),
    ):
        data.setup(stage)
    found = [text for text in caplog.messages if "another shape" in text]
    assert len(found) == 2
    assert all("10 of 10 photographs" in text and "[64,96]" in text for text in found)


def test_ignored_pixels_follow_whole_photos(root: Path, keep: Callable[..., Keeping], tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path, dirs_exist_ok=True)
    for index in range(10):
        image, mask = (np.array(Image.open(root / part / f"{index}.png")) for part in ("images", "masks"))
        image[:12, :9], mask[:12, :9] = (0, 255, 0), 99
        image[12:] = image[12:] // 2
        write(tmp_path / "images" / f"{index}.png", image)
        write(tmp_path / "masks" / f"{index}.png", mask)
    data = AvalanchesDataModule(tmp_path, photos=SIZE, augment="flips", batch_size=2, ignore_value=99)
    for batch in keep(data).seen["train"]:
        green = (batch["image"] == torch.tensor([0.0, 1.0, 0.0]).view(3, 1, 1)).all(dim=1, keepdim=True)
        assert torch.equal(batch["ignored"], green)
        assert int(green.sum()) == len(green) * 12 * 9
        assert not batch["mask"][green].any()
