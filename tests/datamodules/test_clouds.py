import os
from collections.abc import Callable, Sequence
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
from ops.pictures import seen
from ops.rle import decode
from tests.datamodules.helpers import assert_problems, exif, problems_of, truncate, write

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
    with pytest.raises(DataError, match=r"All 17 training images of .* have masks below 100\.00%"):
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


def test_a_folder_or_a_file_of_the_users_wins(clouds_root: Path, tmp_path: Path) -> None:
    for name, size in {"b.jpg": (60, 40), "a.png": (30, 90)}.items():
        write(tmp_path / "mine" / name, Image.new("RGB", size))
    samples = predicted(clouds_root, pictures=tmp_path / "mine")
    assert samples.names == ["a.png", "b.jpg"]
    assert [samples[0, index]["size"].tolist() for index in range(2)] == [[90, 30], [40, 60]]
    assert predicted("/nowhere", pictures=tmp_path / "mine" / "b.jpg").names == ["b.jpg"]


def test_no_training_data_are_wanted(tmp_path: Path) -> None:
    write(tmp_path / "test_images" / "a.jpg", Image.new("RGB", (60, 40)))
    data = CloudsDataModule(tmp_path)
    data.trainer = type("Trainer", (), {"state": type("State", (), {"fn": "predict"})})
    data.prepare_data()
    data.setup("predict")
    assert data.datasets["predict"].names == ["a.jpg"]


def test_missing_test_pictures_and_unknown_classes_are_all_told(clouds_copy: Path) -> None:
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


def test_nothing_to_predict_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"There is no folder or file .*/test_images\."):
        predicted(tmp_path)
    with pytest.raises(DataError, match=r"There is no folder or file .*/gone\.png"):
        predicted(tmp_path, pictures=tmp_path / "gone.png")
    (tmp_path / "notes.txt").write_text("text")
    with pytest.raises(DataError, match="contains no images"):
        predicted(tmp_path, pictures=tmp_path)


GREY = np.repeat(RAMP[..., :1], 3, axis=2)
CUT = RAMP // 128 * 255


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.fromarray(GREY[..., 0]), GREY),
        (Image.fromarray(CUT).convert("P", palette=Image.Palette.ADAPTIVE), CUT),
        (Image.fromarray(np.dstack([RAMP, np.full((40, 60), 9, np.uint8)])), RAMP),
    ],
    ids=["grey", "palette", "rgba"],
)
def test_any_picture_is_predicted(image: Image.Image, expected: np.ndarray, tmp_path: Path) -> None:
    path = write(tmp_path / "a.png", image)
    sample = predicted(tmp_path, pictures=path, size=(40, 60))[0, 0]
    np.testing.assert_array_equal(sample["image"].numpy().transpose(1, 2, 0), expected)
    np.testing.assert_array_equal(sample["source"], expected)


def test_a_turned_picture_is_predicted_upright(tmp_path: Path) -> None:
    path = write(tmp_path / "a.png", Image.fromarray(RAMP), exif=exif(6))
    sample = predicted(tmp_path, pictures=path, size=(60, 40))[0, 0]
    assert sample["size"].tolist() == [60, 40]
    np.testing.assert_array_equal(sample["source"], np.rot90(RAMP, -1))


def test_a_source_is_no_smaller_than_the_output(tmp_path: Path) -> None:
    stripes = np.zeros((320, 480, 3), np.uint8)
    stripes[:, ::2] = 255
    path = write(tmp_path / "a.jpg", Image.fromarray(stripes), quality=95)
    source = predicted(tmp_path, pictures=path, output_size=(320, 480))[0, 0]["source"]
    assert source.std() > 100, "a picture decoded at half its size would be grey"


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", r"bad\.png is empty \(0 bytes\)"), (b"text", r"bad\.png is truncated")],
)
def test_a_bad_image_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(content)
    samples = predicted(tmp_path, pictures=tmp_path, output_size=(40, 60))
    with pytest.raises(DataError, match=message):
        samples[0, 0]


def test_more_than_eight_bits_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "deep.png", Image.fromarray(RAMP[..., 0].astype(np.uint16) * 257))
    with pytest.raises(DataError, match=r"deep\.png has the mode 'I;16'"):
        predicted(tmp_path, pictures=tmp_path)[0, 0]


class Sample:
    """A drawn data set to spoil: row 2 of its table is the first picture's Fish."""

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


def assert_rejected(sample: Sample, *expected: Sequence[object]) -> None:
    """Asserts that `fit` and `describe` list exactly these problems."""
    assert_problems(problems_of(lambda: sample.data().setup("fit")), *expected)
    assert_problems(problems(sample.data()), *expected)


def test_a_whole_sample_has_no_problem(sample: Sample) -> None:
    assert problems(sample.data()) == []


@pytest.mark.parametrize(
    ("runs", "wrong"),
    [
        ("1 2 3", "odd"),
        ("0 5", "'0 5'"),
        ("7 3 29400 2", "29401"),
        ("1 5 3 2", "'3 2'"),
        ("9 2 1 2", "'1 2'"),
        ("4 0", "'4 0'"),
        ("1 2.5", "'.'"),
    ],
    ids=["odd", "start of 0", "past the end", "overlapping", "unsorted", "no length", "no number"],
)
def test_wrong_run_lengths(sample: Sample, runs: str, wrong: str) -> None:
    sample.runs(runs)
    assert_rejected(sample, (f"{sample.table}, row 2: {sample.name}_Fish: ", wrong))


def test_an_unknown_class(sample: Sample) -> None:
    sample.write(sample.lines[0], f"{sample.name}_Fsh,1 2", *sample.lines[2:])
    assert_rejected(sample, (f"{sample.table}, row 2: ", "'Fsh'", "Fish, Flower, Gravel, Sugar", "--data.classes"))


def test_a_row_without_a_class(sample: Sample) -> None:
    sample.write(*sample.lines, "hello")
    assert_rejected(sample, (f"{sample.table}, row {len(sample.lines) + 1}: ", "'' of 'hello' is unknown"))


def test_rows_for_a_missing_image(sample: Sample) -> None:
    sample.picture.unlink()
    assert_rejected(sample, (f"{sample.table}, row 2: ", f"no image {sample.name!r} in {sample.folder}"))


def test_an_image_without_its_four_rows(sample: Sample) -> None:
    sample.write(sample.lines[0], *sample.lines[3:])
    assert_rejected(sample, (f"{sample.table}, row 2: ", f"{sample.name!r} has no row for Fish, Flower; expected 4"))


def test_an_image_without_any_row(sample: Sample) -> None:
    sample.write(sample.lines[0], *sample.lines[5:])
    assert_rejected(sample, (f"{sample.picture} has no rows in {sample.table}; expected 4",))


def test_a_row_twice(sample: Sample) -> None:
    sample.write(*sample.lines, sample.lines[1])
    assert_rejected(
        sample, (f"{sample.table}, row {len(sample.lines) + 1}: ", f"'{sample.name}_Fish' already has a row")
    )


@pytest.mark.parametrize(
    ("spoil", "wrong"),
    [
        (truncate, "is truncated or not an image"),
        (lambda path: path.write_bytes(b"<html>404</html>"), "is truncated or not an image"),
        (lambda path: path.write_bytes(b""), "is empty (0 bytes)"),
    ],
    ids=["truncated", "no picture", "empty"],
)
def test_an_unreadable_image(sample: Sample, spoil: Callable[[Path], object], wrong: str) -> None:
    spoil(sample.picture)
    assert_rejected(sample, (f"{sample.picture} {wrong}",))


def test_an_image_of_another_size_than_its_run_lengths(sample: Sample) -> None:
    Image.new("RGB", (140, 210)).save(sample.picture)
    assert_rejected(sample, (f"{sample.picture} is 210 x 140", sample.table, "140 x 210"))


def test_all_problems_are_listed_at_once(sample: Sample) -> None:
    lines = sample.lines.copy()
    names = [lines[row].split("_")[0] for row in range(1, len(lines), 4)]
    lines[1] = f"{names[0]}_Fish,1 2 3"
    lines[5] = f"{names[1]}_Fsh,"
    lines[9] = f"{names[2]}_Fish,5 0"
    (sample.folder / names[2]).unlink()
    (sample.folder / names[3]).write_bytes(b"")
    Image.new("RGB", (20, 30)).save(sample.folder / names[4])
    (sample.folder / "new.jpg").write_text("not a picture")
    sample.write(*lines, lines[20])
    expected = [
        f"{sample.table}, row 6: the class 'Fsh'",
        f"{sample.table}, row 10: there is no image {names[2]!r}",
        f"{sample.table}, row 10: {names[2]}_Fish: ",
        f"{sample.table}, row {len(lines) + 1}: {lines[20].split(',')[0]!r} already has a row",
        f"{sample.folder}/new.jpg has no rows in",
        f"{sample.folder / names[3]} is empty (0 bytes)",
        f"{sample.folder / names[4]} is 30 x 20 pixels",
        f"{sample.folder}/new.jpg is truncated or not an image",
        f"{sample.table}, row 2: {names[0]}_Fish: ",
    ]
    with pytest.raises(DataError, match=f"^9 problems in {sample.root}:") as caught:
        sample.data().setup("fit")
    for found in (caught.value.problems, problems(sample.data())):
        assert len(found) == len(expected)
        assert all(any(problem.startswith(start) for problem in found) for start in expected)


def test_nothing_is_half_written(sample: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BELVEDERE_CACHE", str(tmp_path / "cache"))
    sample.picture.write_bytes(b"")
    with pytest.raises(DataError):
        sample.data().setup("fit")
    (kept,) = (tmp_path / "cache").iterdir()
    assert kept.name.startswith("clouds-masks-24x4x24x5-")
