import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from datamodules.clouds import CloudsDataModule
from datamodules.decoded import whole as decoded
from ops.errors import DataError
from ops.pictures import seen
from ops.rle import decode

CLASSES = ["Fish", "Flower", "Gravel", "Sugar"]
SIZE = (70, 105)  # half of the drawn pictures' height and width


def ready(root: Path, **options: Any) -> CloudsDataModule:
    data = CloudsDataModule(root, **({"size": SIZE, "num_workers": 0} | options))
    data.setup("fit")
    return data


def masks_of(data: CloudsDataModule, split: str) -> dict[str, np.ndarray]:
    samples = data.datasets[split]
    return {name: samples[0, index]["mask"].numpy() for index, name in enumerate(samples.names)}


def true_masks(root: Path, size: tuple[int, int]) -> dict[str, np.ndarray]:
    """Masks of the table, decoded at full size and then scaled by OpenCV."""
    masks: dict[str, list[np.ndarray]] = {}
    for label, runs in pd.read_csv(root / "train.csv", keep_default_na=False).itertuples(index=False):
        share = cv2.resize(decode(runs, (140, 210)).astype(np.float64), size[::-1], interpolation=cv2.INTER_AREA)
        masks.setdefault(label.rpartition("_")[0], []).append(share > 0.5 - 1e-9)
    return {name: np.stack(of_classes) for name, of_classes in masks.items()}


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The pictures that are decoded."""
    paths: list[Path] = []
    read_picture = decoded.read_picture
    monkeypatch.setattr(
        decoded, "read_picture", lambda path, **options: (paths.append(path), read_picture(path, **options))[1]
    )
    return paths


def test_samples_are_the_pictures_and_masks_of_the_folder(clouds_root: Path) -> None:
    data = ready(clouds_root)
    truth = true_masks(clouds_root, SIZE)
    assert {split: len(samples) for split, samples in data.datasets.items()} == {"train": 17, "val": 5, "test": 2}
    assert sorted(name for samples in data.datasets.values() for name in samples.names) == sorted(truth)
    for samples in data.datasets.values():
        sample = samples[0, 1]
        assert {
            key: (value.dtype, tuple(value.shape)) for key, value in sample.items() if key in ("image", "mask")
        } == {
            "image": (torch.uint8, (3, *SIZE)),
            "mask": (torch.uint8, (4, *SIZE)),
        }
        full = cv2.imread(str(clouds_root / "train_images" / sample["name"]))[..., ::-1]
        mean = full.reshape(70, 2, 105, 2, 3).mean(axis=(1, 3)).transpose(2, 0, 1)
        # a JPEG that is decoded at half its size differs a little from the mean of its pixels
        assert np.abs(sample["image"].numpy() - mean).mean() < 1.5
        np.testing.assert_array_equal(sample["mask"], truth[sample["name"]])


def test_evaluation_masks_have_the_output_size(clouds_root: Path) -> None:
    data = ready(clouds_root, size=(32, 48), output_size=(35, 105))
    assert {split: samples[0, 0]["mask"].shape[1:] for split, samples in data.datasets.items()} == {
        "train": (32, 48), "val": (35, 105), "test": (35, 105)
    }  # fmt: skip
    truth = true_masks(clouds_root, (35, 105))
    for name, mask in masks_of(data, "val").items():
        np.testing.assert_array_equal(mask, truth[name])


@pytest.mark.parametrize("classes", [["Sugar", "Fish"], CLASSES * 3])
def test_classes_keep_the_order_asked_for(classes: list[str], clouds_root: Path, tmp_path: Path) -> None:
    names = [f"{name}{place}" for place, name in enumerate(classes)]
    (tmp_path / "train_images").symlink_to(clouds_root / "train_images")
    rows = pd.read_csv(clouds_root / "train.csv", keep_default_na=False).set_index("Image_Label")["EncodedPixels"]
    pictures = sorted({label.rpartition("_")[0] for label in rows.index})
    table = [
        (f"{picture}_{new}", rows[f"{picture}_{old}"])
        for picture in pictures
        for new, old in zip(names, classes, strict=True)
    ]
    pd.DataFrame(table, columns=["Image_Label", "EncodedPixels"]).to_csv(tmp_path / "train.csv", index=False)
    truth = true_masks(clouds_root, SIZE)
    for name, mask in masks_of(ready(tmp_path, classes=names), "train").items():
        np.testing.assert_array_equal(mask, truth[name][[CLASSES.index(label) for label in classes]])


def test_a_second_setup_and_epoch_read_no_picture(clouds_copy: Path, reads: list[Path]) -> None:
    first = ready(clouds_copy)
    assert len(reads) == 24
    second = ready(clouds_copy)
    for split, samples in first.datasets.items():
        assert second.datasets[split].names == samples.names
        for epoch in range(2):
            for index in range(len(samples)):
                assert torch.equal(second.datasets[split][epoch, index]["image"], samples[0, index]["image"])
    assert len(reads) == 24
    ready(clouds_copy, size=(60, 90))
    assert len(reads) == 48


def test_a_changed_picture_is_read_again(clouds_copy: Path, reads: list[Path]) -> None:
    ready(clouds_copy)
    os.utime(sorted((clouds_copy / "train_images").iterdir())[3], (1, 1))
    ready(clouds_copy)
    assert len(reads) == 48


def test_a_changed_table_is_decoded_again_and_no_picture(clouds_copy: Path, reads: list[Path]) -> None:
    ready(clouds_copy)
    table = clouds_copy / "train.csv"
    header, *rows = table.read_text().splitlines()
    table.write_text("\n".join([header, *(f"{row.split(',')[0]},1 29400" for row in rows)]))
    assert all(mask.all() for mask in masks_of(ready(clouds_copy), "train").values())
    assert len(reads) == 24


def test_masks_follow_the_size_of_the_pictures(clouds_copy: Path) -> None:
    before = masks_of(ready(clouds_copy), "train")
    for path in (clouds_copy / "train_images").iterdir():
        cv2.imwrite(str(path), np.zeros((280, 105, 3), np.uint8))
    after = masks_of(ready(clouds_copy), "train")
    assert any((after[name] != before[name]).any() for name in before), "the run lengths are numbered otherwise now"


def test_setup_of_another_stage_keeps_what_is_there(clouds_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = ready(clouds_root)
    before = dict(data.datasets)
    monkeypatch.setattr(data, "decoded", lambda: pytest.fail("decoded again"))
    for stage in ("validate", "test"):
        data.setup(stage)
    assert data.datasets == before


@pytest.fixture(scope="module")
def kept(clouds_root: Path) -> CloudsDataModule:
    return ready(clouds_root)


def small(kept: CloudsDataModule, area: float) -> dict[str, np.ndarray]:
    """Which classes of a training picture have a mask that is there and below the area."""
    areas = {name: mask.mean(axis=(1, 2)) for name, mask in masks_of(kept, "train").items()}
    return {name: (of_classes > 0) & (of_classes < area) for name, of_classes in areas.items()}


def test_small_masks_are_dropped_from_training_only(clouds_root: Path, kept: CloudsDataModule) -> None:
    dropped = ready(clouds_root, small_masks="drop_mask", small_mask_area=0.25)
    below = small(kept, 0.25)
    assert 5 < sum(of_classes.sum() for of_classes in below.values()) < 30
    training = masks_of(dropped, "train")
    for name, mask in masks_of(kept, "train").items():
        np.testing.assert_array_equal(training[name], mask * ~below[name][:, None, None])
    for split in ("val", "test"):
        for name, mask in masks_of(kept, split).items():
            np.testing.assert_array_equal(masks_of(dropped, split)[name], mask)


def test_pictures_with_small_masks_are_dropped_from_training_only(clouds_root: Path, kept: CloudsDataModule) -> None:
    dropped = ready(clouds_root, small_masks="drop_picture", small_mask_area=0.25)
    stay = [name for name, of_classes in small(kept, 0.25).items() if not of_classes.any()]
    assert 2 < len(stay) < 15
    assert dropped.datasets["train"].names == stay
    for name, mask in masks_of(dropped, "train").items():
        np.testing.assert_array_equal(mask, masks_of(kept, "train")[name])
    for split in ("val", "test"):
        assert dropped.datasets[split].names == kept.datasets[split].names


def test_no_training_picture_left_is_refused(clouds_root: Path) -> None:
    with pytest.raises(DataError, match=r"All 17 training pictures of .* have masks below 100\.00% of their area, and"):
        ready(clouds_root, small_masks="drop_picture", small_mask_area=1.0)


@pytest.mark.parametrize("leave_out", [True, False])
def test_gaps_are_left_out_where_asked_for(leave_out: bool, clouds_root: Path) -> None:
    data = ready(clouds_root, leave_out_gaps=leave_out)
    data.trainer = SimpleNamespace(training=True, world_size=1, global_rank=0)
    batch = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    assert ("valid" in batch) == leave_out
    if leave_out:
        assert torch.equal(batch["valid"], seen(batch["image"])), "gaps are those of the flipped picture"
        assert 0 < (~batch["valid"]).float().mean() < 0.2
