import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from datamodules.clouds import CloudsDataModule
from datamodules.decoded import whole as decoded
from datamodules.describe.clouds import problems
from datamodules.loaders import Samples
from ops.errors import DataError
from ops.masks.rle import decode
from ops.pictures import seen
from tests.datamodules.helpers import (
    assert_problems,
    assert_problems_in_any_order,
    exif,
    problems_of,
    table,
    truncate,
    write,
)

CLASSES = ["Fish", "Flower", "Gravel", "Sugar"]
SIZE = (70, 105)  # half of the synthetic images' height and width


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
    """The images that are decoded."""
    paths: list[Path] = []
    read_picture = decoded.read_picture
    monkeypatch.setattr(
        decoded, "read_picture", lambda path, **options: (paths.append(path), read_picture(path, **options))[1]
    )
    return paths


def test_samples_are_the_images_and_masks_of_the_folder(clouds_root: Path) -> None:
    data = ready(clouds_root)
    truth = true_masks(clouds_root, SIZE)
    assert {split: len(samples) for split, samples in data.datasets.items()} == {"train": 17, "val": 5, "test": 2}
    assert sorted(name for samples in data.datasets.values() for name in samples.names) == sorted(truth)
    for samples in data.datasets.values():
        sample = samples[0, 1]
        assert (sample["image"].dtype, sample["image"].shape) == (torch.uint8, (3, *SIZE))
        assert (sample["mask"].dtype, sample["mask"].shape) == (torch.uint8, (4, *SIZE))
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
    new = {f"{name}{place}": name for place, name in enumerate(classes)}
    (tmp_path / "train_images").symlink_to(clouds_root / "train_images")
    runs = dict(line.split(",") for line in (clouds_root / "train.csv").read_text().splitlines()[1:])
    images = sorted({label.rpartition("_")[0] for label in runs})
    rows = [f"{image}_{name},{runs[f'{image}_{old}']}" for image in images for name, old in new.items()]
    table(tmp_path / "train.csv", "Image_Label,EncodedPixels", *rows)
    truth = true_masks(clouds_root, SIZE)
    for name, mask in masks_of(ready(tmp_path, classes=list(new)), "train").items():
        np.testing.assert_array_equal(mask, truth[name][[CLASSES.index(label) for label in classes]])


def test_a_second_setup_and_epoch_read_no_image(clouds_copy: Path, reads: list[Path]) -> None:
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


def test_changed_images_and_tables_are_read_again(clouds_copy: Path, reads: list[Path]) -> None:
    ready(clouds_copy)
    os.utime(sorted((clouds_copy / "train_images").iterdir())[3], (1, 1))
    ready(clouds_copy)
    assert len(reads) == 48
    path = clouds_copy / "train.csv"
    header, *rows = path.read_text().splitlines()
    table(path, header, *(f"{row.split(',')[0]},1 29400" for row in rows))
    assert all(mask.all() for mask in masks_of(ready(clouds_copy), "train").values())
    assert len(reads) == 48, "a changed table needs no image again"


def test_masks_follow_the_size_of_the_images(clouds_copy: Path) -> None:
    before = masks_of(ready(clouds_copy), "train")
    for path in (clouds_copy / "train_images").iterdir():
        write(path, np.zeros((280, 105, 3), np.uint8))
    after = masks_of(ready(clouds_copy), "train")
    assert any((after[name] != before[name]).any() for name in before), "run lengths count other pixels now"


def test_setup_of_another_stage_keeps_the_datasets(clouds_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    """Which classes of a training image have a mask that is not empty and below the area."""
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


def test_images_with_small_masks_are_dropped_from_training_only(clouds_root: Path, kept: CloudsDataModule) -> None:
    dropped = ready(clouds_root, small_masks="drop_picture", small_mask_area=0.25)
    stay = [name for name, of_classes in small(kept, 0.25).items() if not of_classes.any()]
    assert 2 < len(stay) < 15
    assert dropped.datasets["train"].names == stay
    for name, mask in masks_of(dropped, "train").items():
        np.testing.assert_array_equal(mask, masks_of(kept, "train")[name])
    for split in ("val", "test"):
        assert dropped.datasets[split].names == kept.datasets[split].names


def test_training_needs_an_image_without_small_masks(clouds_root: Path) -> None:
    with pytest.raises(DataError, match=r"All 17 training images .* below 100\.00%"):
        ready(clouds_root, small_masks="drop_picture", small_mask_area=1.0)


@pytest.mark.parametrize("leave_out", [True, False])
def test_gaps_are_invalid_if_asked_for(leave_out: bool, clouds_root: Path) -> None:
    data = ready(clouds_root, leave_out_gaps=leave_out)
    data.trainer = SimpleNamespace(training=True, world_size=1, global_rank=0)
    batch = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    assert ("valid" in batch) == leave_out
    if leave_out:
        assert torch.equal(batch["valid"], seen(batch["image"])), "gaps are those of the flipped picture"
        assert 0 < (~batch["valid"]).float().mean() < 0.2


RAMP = np.linspace(0, 255, 40 * 60 * 3).reshape(40, 60, 3).round().astype(np.uint8)


def predicted(root: Path, **options: Any) -> Samples:
    data = CloudsDataModule(root, **({"size": (20, 30), "num_workers": 0} | options))
    data.setup("predict")
    return data.datasets["predict"]


def test_the_order_is_that_of_the_sample_submission(clouds_copy: Path) -> None:
    table = clouds_copy / "sample_submission.csv"
    header, *rows = table.read_text().splitlines()
    names = [row.split("_")[0] for row in rows[::4]]
    assert predicted(clouds_copy).names == names == sorted(names)
    table.write_text("\n".join([header, *rows[8:], *rows[:8]]))
    assert predicted(clouds_copy).names == names[2:] + names[:2]
    table.unlink()
    assert predicted(clouds_copy).names == names


def test_samples_have_the_networks_size_and_the_outputs(clouds_root: Path) -> None:
    sample = predicted(clouds_root, output_size=(35, 50))[0, 1]
    assert sample["image"].dtype == torch.uint8
    assert sample["image"].shape == (3, 20, 30)
    assert sample["size"].tolist() == [35, 50]
    assert sample["source"].shape == (140, 210, 3), "what is drawn over is the picture itself"
    assert predicted(clouds_root)[0, 1]["size"].tolist() == [140, 210], "each picture's own size"


def test_a_folder_or_file_to_predict_takes_precedence(clouds_root: Path, tmp_path: Path) -> None:
    for name, size in {"b.jpg": (60, 40), "a.png": (30, 90)}.items():
        write(tmp_path / "mine" / name, Image.new("RGB", size))
    samples = predicted(clouds_root, pictures=tmp_path / "mine")
    assert samples.names == ["a.png", "b.jpg"]
    assert [samples[0, index]["size"].tolist() for index in range(2)] == [[90, 30], [40, 60]]
    assert predicted("/nowhere", pictures=tmp_path / "mine" / "b.jpg").names == ["b.jpg"]


def test_predict_needs_no_training_data(tmp_path: Path) -> None:
    write(tmp_path / "test_images" / "a.jpg", Image.new("RGB", (60, 40)))
    data = CloudsDataModule(tmp_path)
    data.trainer = type("Trainer", (), {"state": type("State", (), {"fn": "predict"})})
    data.prepare_data()
    data.setup("predict")
    assert data.datasets["predict"].names == ["a.jpg"]


def test_missing_test_images_and_unknown_classes_are_all_reported(clouds_copy: Path) -> None:
    table, folder = clouds_copy / "sample_submission.csv", clouds_copy / "test_images"
    lines = table.read_text().splitlines()
    names = [line.split("_")[0] for line in lines[1::4]]
    for name in names[1:3]:
        (folder / name).unlink()
    lines[1] = lines[1].replace("Fish", "Fsh")
    table.write_text("\n".join(lines))
    assert_problems(
        problems_of(lambda: predicted(clouds_copy)),
        (f"{table}, row 2: ", "'Fsh' is unknown", "Fish, Flower, Gravel, Sugar"),
        (f"{table}, row 6: ", f"no image {names[1]!r} in {folder}"),
        (f"{table}, row 10: ", f"no image {names[2]!r} in {folder}"),
    )


def test_nothing_to_predict_is_rejected(tmp_path: Path) -> None:
    for options, message in (({}, "/test_images"), ({"pictures": tmp_path / "gone.png"}, r"/gone\.png"),
                             ({"pictures": tmp_path}, "contains no images")):  # fmt: skip
        with pytest.raises(DataError, match=message):
            predicted(tmp_path, **options)


def test_images_are_predicted_upright_and_no_smaller_than_the_output(tmp_path: Path) -> None:
    path = write(tmp_path / "a.png", RAMP, exif=exif(6))
    sample = predicted(tmp_path, pictures=path, size=(60, 40))[0, 0]
    assert sample["size"].tolist() == [60, 40]
    np.testing.assert_array_equal(sample["source"], np.rot90(RAMP, -1))
    stripes = np.zeros((320, 480, 3), np.uint8)
    stripes[:, ::2] = 255
    path = write(tmp_path / "a.jpg", stripes, quality=95)
    source = predicted(tmp_path, pictures=path, output_size=(320, 480))[0, 0]["source"]
    assert source.std() > 100, "an image decoded at half its size would be gray"


class Sample:
    """A synthetic dataset to spoil: row 2 of its table is the first image's Fish."""

    def __init__(self, root: Path) -> None:
        self.root, self.table, self.folder = root, root / "train.csv", root / "train_images"
        self.lines = self.table.read_text().splitlines()
        self.name = self.lines[1].split("_")[0]
        self.picture = self.folder / self.name

    def data(self) -> CloudsDataModule:
        return CloudsDataModule(self.root, size=(24, 36))

    def write(self, *lines: str) -> None:
        self.table.write_text("\n".join(lines))

    def runs(self, runs: str) -> None:
        self.write(self.lines[0], f"{self.name}_Fish,{runs}", *self.lines[2:])


@pytest.fixture
def sample(clouds_copy: Path) -> Sample:
    return Sample(clouds_copy)


RUNS = {"1 2 3": "odd", "0 5": "'0 5'", "7 3 29400 2": "29401", "1 5 3 2": "'3 2'", "9 2 1 2": "'1 2'", "4 0": "'4 0'",
        "1 2.5": "'.'"}  # fmt: skip


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        *((lambda s, runs=runs: s.runs(runs), ["row 2", "{s.name}_Fish: ", wrong]) for runs, wrong in RUNS.items()),
        (lambda s: s.write(s.lines[0], f"{s.name}_Fsh,1 2", *s.lines[2:]), ["row 2: ", "'Fsh'", "--data.classes"]),
        (lambda s: s.write(*s.lines, "hello"), ["row 98: ", "'' of 'hello' is unknown"]),
        (lambda s: s.write(*s.lines, s.lines[1]), ["row 98: ", "'{s.name}_Fish' already"]),
        (lambda s: s.write(s.lines[0], *s.lines[3:]), ["row 2: ", "'{s.name}' has no row for Fish, Flower"]),
        (lambda s: s.write(s.lines[0], *s.lines[5:]), ["{s.picture} has no rows in {s.table}"]),
        (lambda s: s.picture.unlink(), ["row 2: ", "no image '{s.name}' in {s.folder}"]),
        (lambda s: truncate(s.picture), ["{s.picture} is truncated"]),
        (lambda s: s.picture.write_bytes(b"<html>404</html>"), ["{s.picture} is truncated or not an image"]),
        (lambda s: s.picture.write_bytes(b""), ["{s.picture} is empty (0 bytes)"]),
        (lambda s: Image.new("RGB", (140, 210)).save(s.picture), ["{s.picture} is 210 x 140", "140 x 210"]),
    ],
)
def test_fit_and_describe_report_each_problem(
    spoil: Callable[[Sample], None], words: list[str], sample: Sample
) -> None:
    assert problems(sample.data()) == []
    spoil(sample)
    expected = [word.format(s=sample) for word in words]
    assert_problems(problems_of(lambda: sample.data().setup("fit")), expected)
    assert_problems(problems(sample.data()), expected)


def test_all_problems_are_reported_at_once(sample: Sample) -> None:
    lines, folder = sample.lines.copy(), sample.folder
    names = [lines[row].split("_")[0] for row in range(1, len(lines), 4)]
    lines[1] = f"{names[0]}_Fish,1 2 3"
    lines[5] = f"{names[1]}_Fsh,"
    lines[9] = f"{names[2]}_Fish,5 0"
    (folder / names[2]).unlink()
    (folder / names[3]).write_bytes(b"")
    Image.new("RGB", (20, 30)).save(folder / names[4])
    (folder / "new.jpg").write_text("not a picture")
    sample.write(*lines, lines[20])
    for found in (problems_of(lambda: sample.data().setup("fit")), problems(sample.data())):
        assert_problems_in_any_order(
            found,
            ("row 6: ", "'Fsh'"),
            ("row 10: there is no image", names[2]),
            (f"row 10: {names[2]}_Fish: ",),
            ("row 98: ", lines[20].split(",")[0]),
            (f"{folder}/new.jpg has no rows in",),
            (f"{folder / names[3]} is empty",),
            (f"{folder / names[4]} is 30 x 20",),
            (f"{folder}/new.jpg is truncated",),
            (f"row 2: {names[0]}_Fish: ",),
        )


def test_nothing_is_half_written(sample: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BELVEDERE_CACHE", str(tmp_path / "cache"))
    sample.picture.write_bytes(b"")
    with pytest.raises(DataError):
        sample.data().setup("fit")
    (kept,) = (tmp_path / "cache").iterdir()
    assert kept.name.startswith("clouds-masks-24x4x24x5-")
