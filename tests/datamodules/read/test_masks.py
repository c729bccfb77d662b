import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from datamodules.clouds import CloudsDataModule
from datamodules.describe.clouds import problems as described_problems
from datamodules.read.masks import FolderMasks, KaggleMasks, class_masks, mask_source, split_labels
from ops.errors import DataError
from tests.datamodules.helpers import assert_problems, exif, problems_of, write

SKY = np.random.default_rng(0).random((10, 12)) < 0.4


def picture(size: tuple[int, int]) -> np.ndarray:
    return np.full((*size, 3), 90, np.uint8)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three images of three sizes; b has no cloud, c no sea."""
    sizes = {"a.jpg": (10, 12), "b.png": (9, 7), "c.tif": (20, 30)}
    for name, size in sizes.items():
        write(tmp_path / "images" / name, picture(size))
    write(tmp_path / "masks" / "cloud" / "a.png", SKY * np.uint8(255))
    write(tmp_path / "masks" / "open_sea" / "a.png", (~SKY).astype(np.uint8))
    write(tmp_path / "masks" / "open_sea" / "b.png", np.ones((9, 7), np.uint8))
    write(tmp_path / "masks" / "cloud" / "c.png", np.zeros((20, 30), np.uint8))
    return tmp_path


def problems(root: Path, classes: Sequence[str] = ("cloud", "open_sea")) -> list[str]:
    return mask_source(root, classes).problems


def test_masks_of_every_kind_of_file(root: Path) -> None:
    source = mask_source(root, ["cloud", "open_sea"])
    assert isinstance(source, FolderMasks)
    assert source.problems == []
    assert source.names == ["a.jpg", "b.png", "c.tif"]
    assert [source.misfit(name) for name in source.names] == [None] * 3
    np.testing.assert_array_equal(source.masks("a.jpg", (10, 12)), [SKY, ~SKY])
    np.testing.assert_array_equal(source.masks("b.png", (9, 7)), [np.zeros((9, 7)), np.ones((9, 7))])
    assert source.masks("c.tif", (5, 5)).shape == (2, 5, 5)
    assert not source.masks("c.tif", (5, 5)).any()
    swapped = mask_source(root, ["open_sea", "cloud"])
    np.testing.assert_array_equal(swapped.masks("a.jpg", (10, 12)), [~SKY, SKY])
    halved = mask_source(root, ["cloud"]).masks("a.jpg", (5, 6))[0]
    np.testing.assert_array_equal(halved, SKY.reshape(5, 2, 6, 2).mean(axis=(1, 3)) >= 0.5)


def test_missing_images_masks_and_folders_are_all_reported(root: Path) -> None:
    write(root / "images" / "d.jpg", picture((4, 4)))
    lost = [write(root / "masks" / "cloud" / f"{stem}.png", np.zeros((4, 4), np.uint8)) for stem in ("e", "f")]
    assert_problems(
        problems(root),
        *((f"mask {path} has no image {path.stem}.* in {root}/images",) for path in lost),
        (f"image {root}/images/d.jpg has no mask d.png", f"{root}/masks/cloud or {root}/masks/open_sea"),
    )
    assert f"no folder {root}/masks/land" in problems(root, ["cloud", "land"])[0]
    assert "contains cloud, open_sea" in problems(root, ["cloud", "land"])[0]
    twin = write(root / "images" / "a.png", picture((10, 12)))
    assert f"{twin} and a.jpg differ in their suffix" in problems(root)[0]
    twin.unlink()
    shutil.rmtree(root / "masks")
    assert_problems(problems(root, ["cloud"]), (f"no folder {root}/masks; expected {root}/masks/cloud",))
    (root / "masks" / "cloud").mkdir(parents=True)
    assert problems(root, ["cloud"])[0].startswith(f"{root}/masks/cloud contains no images")


def test_a_mask_must_have_the_size_of_the_upright_image(root: Path) -> None:
    path = write(root / "masks" / "open_sea" / "a.png", np.zeros((12, 10), np.uint8))
    source = mask_source(root, ["cloud", "open_sea"])
    assert source.misfit("b.png") is None
    assert_problems([source.misfit("a.jpg") or ""], (f"{path} is 12 x 10", "image a.jpg is 10 x 12"))
    write(path, np.zeros((10, 12), np.uint8))
    write(root / "images" / "a.jpg", picture((12, 10)), exif=exif(6))
    assert mask_source(root, ["cloud", "open_sea"]).misfit("a.jpg") is None


def test_setup_and_describe_list_all_problems(root: Path) -> None:
    (root / "masks" / "cloud" / "a.png").write_bytes(b"")
    write(root / "masks" / "open_sea" / "b.png", np.zeros((3, 3), np.uint8))
    (root / "images" / "c.tif").write_text("no picture")
    write(root / "masks" / "cloud" / "z.png", np.zeros((3, 3), np.uint8))
    data = CloudsDataModule(root, ["cloud", "open_sea"], size=(8, 8), val_fraction=0.4, test_fraction=0)
    with pytest.raises(DataError) as caught:
        data.setup("fit")
    for found in (caught.value.problems, described_problems(data)):
        assert_problems(
            found,
            (f"mask {root}/masks/cloud/z.png has no image",),
            (f"{root}/masks/open_sea/b.png is 3 x 3", "b.png is 9 x 7"),
            (f"{root}/images/c.tif is truncated or not an image",),
            (f"{root}/masks/cloud/a.png is empty",),
        )


def test_a_missing_dataset_is_rejected_with_both_layouts(tmp_path: Path, clouds_copy: Path) -> None:
    with pytest.raises(DataError) as caught:
        mask_source(tmp_path / "gone", ["cloud"])
    for part in ("does not exist", f"{tmp_path}/gone/train.csv ", f"{tmp_path}/gone/masks/<class>/<stem>.png"):
        assert part in str(caught.value)
    folder = tmp_path / "data"
    folder.mkdir()
    for name, message in (("", "found there: nothing"), ("train", "found there: train"), ("images", "no images")):
        (folder / name).mkdir(exist_ok=True)
        with pytest.raises(DataError, match=message):
            mask_source(folder, ["cloud"])
    (clouds_copy / "train_images").rename(clouds_copy / "images_of_train")
    with pytest.raises(DataError, match=r"train\.csv exists, .*train_images does not"):
        mask_source(clouds_copy, KINDS)


def test_folders_alone_are_another_dataset_than_kaggles(root: Path, clouds_root: Path) -> None:
    assert class_masks(root, ["cloud"]).names == mask_source(root, ["cloud"]).names
    with pytest.raises(DataError, match=r"Expected:\n.*/images/<stem>") as caught:
        class_masks(clouds_root, ["Fish"])
    assert "EncodedPixels" not in str(caught.value)


KINDS = ["Fish", "Flower", "Gravel", "Sugar"]


def slow_mask(runs: str, height: int, width: int) -> np.ndarray:
    """The mask of run lengths, pixel by pixel: numbered from 1, down each column first."""
    mask = np.zeros((height, width), bool)
    numbers = [int(number) for number in runs.split()]
    for start, length in zip(numbers[::2], numbers[1::2], strict=True):
        for pixel in range(start - 1, start - 1 + length):
            mask[pixel % height, pixel // height] = True
    return mask


@pytest.mark.parametrize(
    ("label", "name", "known"),
    [
        ("0011165.jpg_Fish", "0011165.jpg", "Fish"),
        ("Aqua_-61--40_10-24.jpeg_Sugar", "Aqua_-61--40_10-24.jpeg", "Sugar"),
        ("a.jpg_open_sea", "a.jpg", "open_sea"),
        ("a_b.jpg_sea", "a_b.jpg", "sea"),
        ("a.jpg_Fsh", "a.jpg", "Fsh"),
        ("a.jpg_Fish ", "a.jpg", "Fish "),
        ("a.jpg_", "a.jpg", ""),
        ("a.jpg", "", ""),
    ],
)
def test_labels_are_split_at_the_class(label: str, name: str, known: str) -> None:
    split = split_labels(pd.Series([label]), [*KINDS, "sea", "open_sea"])
    assert split.to_dict("list") == {"name": [name], "label": [known]}


def test_masks_are_those_of_a_slow_loop(clouds_root: Path) -> None:
    source = KaggleMasks(clouds_root, KINDS)
    assert source.problems == []
    assert source.frame == (140, 210)
    rows = pd.read_csv(clouds_root / "train.csv", keep_default_na=False).set_index("Image_Label")["EncodedPixels"]
    assert source.names == sorted({label.rpartition("_")[0] for label in rows.index})
    for name in source.names[:6]:
        slow = np.stack([slow_mask(rows[f"{name}_{label}"], 140, 210) for label in KINDS])
        np.testing.assert_array_equal(source.masks(name, (140, 210)), slow)
        shares = slow.reshape(4, 70, 2, 70, 3).mean(axis=(2, 4))
        np.testing.assert_array_equal(source.masks(name, (70, 70)), shares >= 0.5)
        assert source.misfit(name) is None


def test_rows_and_columns_may_be_in_any_order(clouds_copy: Path) -> None:
    expected = KaggleMasks(clouds_copy, KINDS)
    rows = pd.read_csv(clouds_copy / "train.csv", keep_default_na=False).sample(frac=1, random_state=0)
    rows.assign(name="x", row=1)[["row", "EncodedPixels", "name", "Image_Label"]].to_csv(
        clouds_copy / "train.csv", index=False
    )
    source = KaggleMasks(clouds_copy, KINDS)
    assert (source.names, source.problems) == (expected.names, [])
    for name in source.names:
        np.testing.assert_array_equal(source.masks(name, (35, 30)), expected.masks(name, (35, 30)))


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["no mark", "byte-order mark"])
@pytest.mark.parametrize("end", [b"\r\n", b"\r", b"\n\n"], ids=["windows", "mac", "blank lines"])
def test_line_ends_and_a_byte_order_mark_are_accepted(clouds_copy: Path, mark: bytes, end: bytes) -> None:
    expected = KaggleMasks(clouds_copy, KINDS)
    table = clouds_copy / "train.csv"
    table.write_bytes(mark + table.read_bytes().replace(b"\n", end))
    source = KaggleMasks(clouds_copy, KINDS)
    assert source.problems == []
    assert source.names == expected.names
    for name in source.names:
        np.testing.assert_array_equal(source.masks(name, (70, 105)), expected.masks(name, (70, 105)))


def test_rows_are_the_lines_of_the_file_after_blank_lines_too(clouds_copy: Path) -> None:
    table = clouds_copy / "train.csv"
    lines = table.read_text().splitlines()
    lines[5] = lines[5].split(",")[0] + ",1 2 3"
    table.write_text("\n".join([*lines[:3], "", "", *lines[3:]]))
    name = lines[5].split("_")[0]
    with pytest.raises(DataError, match=rf"train\.csv, row 8: {name}_Fish: "):
        KaggleMasks(clouds_copy, KINDS).masks(name, (140, 210))


def test_the_frame_is_the_size_of_most_images(clouds_copy: Path) -> None:
    names = KaggleMasks(clouds_copy, KINDS).names
    for name in names[:3]:
        Image.new("RGB", (105, 70)).save(clouds_copy / "train_images" / name)
    (clouds_copy / "train_images" / names[3]).write_bytes(b"")
    source = KaggleMasks(clouds_copy, KINDS)
    assert source.frame == (140, 210)
    assert [name for name in names if source.misfit(name)] == names[:3]


def test_unreadable_images_are_reported_once(clouds_copy: Path) -> None:
    for path in (clouds_copy / "train_images").iterdir():
        path.write_bytes(b"")
    source = KaggleMasks(clouds_copy, KINDS)
    found = problems_of(lambda: source.masks(source.names[0], (8, 8)))
    assert_problems(found, (f"No image in {clouds_copy}/train_images can be read",))


@pytest.mark.real
def test_real_run_lengths_equal_the_mask_files(real_data: Path, tmp_path: Path) -> None:
    folder = real_data / "clouds" / "modis"
    (tmp_path / "train_images").symlink_to(folder / "images")
    (tmp_path / "train.csv").symlink_to(folder / "train.csv")
    source = KaggleMasks(tmp_path, KINDS)
    assert source.problems == []
    assert source.frame == (1400, 2100)
    for picture in source.names:
        for label, mask in zip(KINDS, source.masks(picture, source.frame), strict=True):
            kept = folder / "masks" / f"{Path(picture).stem}_{label}.png"
            expected = np.asarray(Image.open(kept)) > 127 if kept.exists() else np.zeros(source.frame, bool)
            np.testing.assert_array_equal(mask, expected)
