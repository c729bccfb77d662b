from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.clouds import CloudsDataModule
from datamodules.describe.clouds import problems as described_problems
from datamodules.read.masks import FolderMasks, mask_source
from ops.errors import DataError

SKY = np.random.default_rng(0).random((10, 12)) < 0.4


def write(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path


def picture(size: tuple[int, int]) -> np.ndarray:
    return np.full((*size, 3), 90, np.uint8)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three pictures of three sizes; b has no cloud, c no sea."""
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


def test_masks_are_resized_by_area(root: Path) -> None:
    halved = mask_source(root, ["cloud"]).masks("a.jpg", (5, 6))[0]
    share = SKY.reshape(5, 2, 6, 2).mean(axis=(1, 3))
    np.testing.assert_array_equal(halved, share >= 0.5)


def test_classes_are_in_the_order_asked_for(root: Path) -> None:
    source = mask_source(root, ["open_sea", "cloud"])
    np.testing.assert_array_equal(source.masks("a.jpg", (10, 12)), [~SKY, SKY])


def test_pictures_and_masks_without_each_other_are_all_told(root: Path) -> None:
    write(root / "images" / "d.jpg", picture((4, 4)))
    lost = [write(root / "masks" / "cloud" / f"{stem}.png", np.zeros((4, 4), np.uint8)) for stem in ("e", "f")]
    folders = f"{root}/masks/cloud or {root}/masks/open_sea"
    assert problems(root) == [
        *(f"the mask {path} has no picture {path.stem}.* in {root}/images. Add the picture, or remove the mask."
          for path in lost),
        f"the picture {root}/images/d.jpg has no mask d.png in {folders}. Add one, or remove the picture.",
    ]  # fmt: skip


def test_a_missing_folder_of_a_class_is_told_with_those_that_are_there(root: Path) -> None:
    assert problems(root, ["cloud", "land"]) == [
        f"there is no folder {root}/masks/land; masks were wanted there. {root}/masks holds cloud, open_sea: rename a "
        "folder, or give --data.classes."
    ]


def test_no_masks_at_all_are_told(tmp_path: Path) -> None:
    write(tmp_path / "images" / "a.jpg", picture((4, 4)))
    assert problems(tmp_path, ["cloud"]) == [
        f"there is no folder {tmp_path}/masks/cloud; masks were wanted there. {tmp_path}/masks holds nothing: rename a "
        "folder, or give --data.classes."
    ]
    (tmp_path / "masks" / "cloud").mkdir(parents=True)
    assert problems(tmp_path, ["cloud"])[0].startswith(f"{tmp_path}/masks/cloud holds no pictures; files ending in ")


def test_one_stem_twice_is_told(root: Path) -> None:
    write(root / "images" / "a.png", picture((10, 12)))
    assert problems(root) == [
        f"{root}/images/a.png and a.jpg differ in their endings only. Keep one of them.",
    ]


def test_a_mask_of_another_size_is_told(root: Path) -> None:
    path = write(root / "masks" / "open_sea" / "a.png", np.zeros((12, 10), np.uint8))
    source = mask_source(root, ["cloud", "open_sea"])
    assert source.misfit("b.png") is None
    assert source.misfit("a.jpg") == (
        f"{path} is 12 x 10 pixels (height x width); its picture a.jpg is 10 x 12. "
        "A mask must be as large as its picture."
    )


def test_a_turned_picture_fits_the_mask_of_what_is_seen(root: Path) -> None:
    tags = Image.Exif()
    tags[0x0112] = 6
    Image.fromarray(picture((12, 10))).save(root / "images" / "a.jpg", exif=tags)
    assert mask_source(root, ["cloud", "open_sea"]).misfit("a.jpg") is None


def test_setup_and_problems_tell_everything_at_once(root: Path) -> None:
    (root / "masks" / "cloud" / "a.png").write_bytes(b"")
    write(root / "masks" / "open_sea" / "b.png", np.zeros((3, 3), np.uint8))
    (root / "images" / "c.tif").write_text("no picture")
    write(root / "masks" / "cloud" / "z.png", np.zeros((3, 3), np.uint8))
    data = CloudsDataModule(root, ["cloud", "open_sea"], size=(8, 8), val_fraction=0.4, test_fraction=0)
    told = [
        f"the mask {root}/masks/cloud/z.png has no picture z.*",
        f"{root}/masks/open_sea/b.png is 3 x 3 pixels (height x width); its picture b.png is 9 x 7.",
        f"{root}/images/c.tif is truncated or not a picture",
        f"{root}/masks/cloud/a.png is empty (0 bytes); a picture was wanted.",
    ]
    with pytest.raises(DataError) as caught:
        data.setup("fit")
    for found in (caught.value.problems, described_problems(data)):
        assert len(found) == len(told)
        assert all(problem.startswith(start) for problem, start in zip(found, told, strict=True))


def test_no_data_set_is_told_with_both_layouts(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        mask_source(tmp_path / "gone", ["cloud"])
    text = str(caught.value)
    assert text.startswith(f"No data set in {tmp_path}/gone (that folder does not exist). Wanted:\n")
    assert f"{tmp_path}/gone/train.csv " in text
    assert f"{tmp_path}/gone/masks/<class>/<stem>.png" in text
    with pytest.raises(DataError, match=r"\(found there: nothing\)"):
        mask_source(tmp_path, ["cloud"])
    (tmp_path / "train").mkdir()
    with pytest.raises(DataError, match=r"\(found there: train\)"):
        mask_source(tmp_path, ["cloud"])


def test_a_folder_without_pictures_is_told(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    with pytest.raises(DataError, match=r"/images holds no pictures; files ending in"):
        mask_source(tmp_path, ["cloud"])
