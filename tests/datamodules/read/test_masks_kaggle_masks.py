from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from datamodules.read.masks import KaggleMasks, mask_source, split_labels
from ops.errors import DataError

CLASSES = ["Fish", "Flower", "Gravel", "Sugar"]


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
    split = split_labels(pd.Series([label]), [*CLASSES, "sea", "open_sea"])
    assert split.to_dict("list") == {"name": [name], "label": [known]}


def test_masks_are_those_of_a_slow_loop(clouds_root: Path) -> None:
    source = KaggleMasks(clouds_root, CLASSES)
    assert source.problems == []
    assert source.frame == (140, 210)
    rows = pd.read_csv(clouds_root / "train.csv", keep_default_na=False).set_index("Image_Label")["EncodedPixels"]
    assert source.names == sorted({label.rpartition("_")[0] for label in rows.index})
    for name in source.names[:6]:
        slow = np.stack([slow_mask(rows[f"{name}_{label}"], 140, 210) for label in CLASSES])
        np.testing.assert_array_equal(source.masks(name, (140, 210)), slow)
        shares = slow.reshape(4, 70, 2, 70, 3).mean(axis=(2, 4))
        np.testing.assert_array_equal(source.masks(name, (70, 70)), shares >= 0.5)
        assert source.misfit(name) is None


def test_rows_may_be_in_any_order(clouds_copy: Path) -> None:
    expected = KaggleMasks(clouds_copy, CLASSES)
    header, *rows = (clouds_copy / "train.csv").read_text().splitlines()
    shuffled = np.random.default_rng(0).permutation(rows).tolist()
    (clouds_copy / "train.csv").write_text("\n".join([header, *shuffled]))
    source = KaggleMasks(clouds_copy, CLASSES)
    assert source.names == expected.names
    for name in source.names:
        np.testing.assert_array_equal(source.masks(name, (35, 30)), expected.masks(name, (35, 30)))


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["no mark", "byte-order mark"])
@pytest.mark.parametrize("end", [b"\r\n", b"\r", b"\n\n"], ids=["windows", "mac", "blank lines"])
def test_line_ends_and_a_byte_order_mark_are_accepted(clouds_copy: Path, mark: bytes, end: bytes) -> None:
    expected = KaggleMasks(clouds_copy, CLASSES)
    table = clouds_copy / "train.csv"
    table.write_bytes(mark + table.read_bytes().replace(b"\n", end))
    source = KaggleMasks(clouds_copy, CLASSES)
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
    with pytest.raises(DataError, match=rf"train\.csv, row 8 \({name}_Fish\): .* odd count of 3 numbers"):
        KaggleMasks(clouds_copy, CLASSES).masks(name, (140, 210))


def test_the_frame_is_the_size_of_most_pictures(clouds_copy: Path) -> None:
    names = KaggleMasks(clouds_copy, CLASSES).names
    for name in names[:3]:
        Image.new("RGB", (105, 70)).save(clouds_copy / "train_images" / name)
    (clouds_copy / "train_images" / names[3]).write_bytes(b"")
    source = KaggleMasks(clouds_copy, CLASSES)
    assert source.frame == (140, 210)
    assert [name for name in names if source.misfit(name)] == names[:3]


def test_no_readable_picture_is_told_once(clouds_copy: Path) -> None:
    for path in (clouds_copy / "train_images").iterdir():
        path.write_bytes(b"")
    source = KaggleMasks(clouds_copy, CLASSES)
    with pytest.raises(DataError) as caught:
        source.masks(source.names[0], (8, 8))
    assert caught.value.problems == [
        f"None of the pictures in {clouds_copy}/train_images can be read, so no run length can be checked."
    ]


def test_a_table_without_its_pictures_is_told(clouds_copy: Path) -> None:
    (clouds_copy / "train_images").rename(clouds_copy / "images_of_train")
    with pytest.raises(DataError, match=r"train\.csv is there, but not its pictures: there is no folder .*Unpack them"):
        mask_source(clouds_copy, CLASSES)


def test_other_columns_are_no_matter(clouds_copy: Path) -> None:
    table = pd.read_csv(clouds_copy / "train.csv", keep_default_na=False)
    table.assign(name="x", row=1).to_csv(clouds_copy / "train.csv", index=False)
    assert KaggleMasks(clouds_copy, CLASSES).problems == []


@pytest.mark.real
def test_masks_of_real_pictures_are_those_kept_as_pictures(real_data: Path, tmp_path: Path) -> None:
    folder = real_data / "clouds" / "modis"
    (tmp_path / "train_images").symlink_to(folder / "images")
    (tmp_path / "train.csv").symlink_to(folder / "train.csv")
    source = KaggleMasks(tmp_path, CLASSES)
    assert source.problems == []
    assert source.frame == (1400, 2100)
    for picture in source.names:
        for label, mask in zip(CLASSES, source.masks(picture, source.frame), strict=True):
            kept = folder / "masks" / f"{Path(picture).stem}_{label}.png"
            expected = np.asarray(Image.open(kept)) > 127 if kept.exists() else np.zeros(source.frame, bool)
            np.testing.assert_array_equal(mask, expected)
