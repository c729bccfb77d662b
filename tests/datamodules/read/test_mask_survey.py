import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datamodules.avalanches import AvalanchesDataModule
from datamodules.clouds import CloudsDataModule
from datamodules.read.mask_files import MaskValues, meaning
from datamodules.read.mask_survey import value_problems
from datamodules.read.masks import FolderMasks, class_masks, mask_source
from datamodules.roads import RoadsDataModule
from ops.errors import DataError
from tests.datamodules.helpers import assert_problems, exif, noise, problems_of, table, write

SIZE = (24, 36)
LEFT, TOP = np.zeros(SIZE, np.uint8), np.zeros(SIZE, np.uint8)
LEFT[:, :12], TOP[:6] = 1, 1


def dataset(root: Path, *masks: Any, label: str = "") -> Path:
    """Images of noise, and these masks."""
    for index, mask in enumerate(masks):
        write(root / "images" / f"{index}.png", noise(*SIZE, seed=index))
        write(root / "masks" / label / f"{index}.png", mask)
    return root


def source(root: Path, values: MaskValues = MaskValues()) -> FolderMasks:  # noqa: B008 - frozen
    return class_masks(root, ["ice"], values)


def test_masks_that_mark_different_values_are_rejected(tmp_path: Path) -> None:
    root = dataset(tmp_path, LEFT, TOP * np.uint8(255), TOP, 0 * LEFT, label="ice")
    assert_problems(
        value_problems("tested", source(root)),
        (f"{root}/masks/ice", "1 in 2, such as 0.png", "white in 1, such as 1.png", "--data.mask_values", "no data"),
    )
    assert value_problems("tested", source(root, meaning([1, 255], None))) == []
    assert value_problems("tested", source(root, meaning([1], 255))) == []
    assert value_problems("tested", source(root, meaning(None, 255))) == []


@pytest.mark.parametrize(
    "others",
    [
        {"png": TOP * 255, "tif": TOP.astype(np.uint16) * 65535},
        {"png": np.where(LEFT, 9, 248), "jpg": TOP * 255},
        {"png": np.dstack([TOP * 255, 0 * TOP, 0 * TOP]), "tif": np.dstack([LEFT * 255, 0 * TOP, 0 * TOP])},
    ],
    ids=["depths", "noise", "red"],
)
def test_masks_that_mark_the_same_are_accepted(others: dict[str, np.ndarray], tmp_path: Path) -> None:
    for suffix, values in others.items():
        write(tmp_path / "images" / f"{suffix}.png", noise(*SIZE))
        write(tmp_path / "masks" / "ice" / f"{suffix}.{suffix}", values)
    if "jpg" in others:
        (tmp_path / "masks" / "ice" / "png.png").unlink()
        (tmp_path / "images" / "png.png").unlink()
        write(tmp_path / "images" / "full.png", noise(*SIZE))
        write(tmp_path / "masks" / "ice" / "full.png", np.full(SIZE, 255, np.uint8))
    assert value_problems("tested", source(tmp_path)) == []


def test_classes_may_mark_different_values(tmp_path: Path) -> None:
    dataset(dataset(tmp_path, LEFT, TOP, label="ice"), TOP * 255, LEFT * 255, label="snow")
    assert value_problems("tested", class_masks(tmp_path, ["ice", "snow"])) == []


def test_given_values_must_occur(tmp_path: Path) -> None:
    root = dataset(tmp_path, LEFT * 2, 0 * LEFT, label="ice")
    found = value_problems("tested", source(root, meaning([1], None)))
    assert_problems(found, ("none of the 2 masks", "ice has one of --data.mask_values", "0.png has 0: 66.7%, 2: 33.3%"))
    assert value_problems("tested", source(dataset(tmp_path, 0 * LEFT, label="ice"), meaning([1], None))) == []


def test_a_table_has_no_values(clouds_root: Path) -> None:
    classes = ["Fish", "Flower", "Gravel", "Sugar"]
    assert value_problems("tested", mask_source(clouds_root, classes)) == []
    with pytest.raises(DataError, match=r"train.csv has run lengths, but --data.mask_values"):
        mask_source(clouds_root, classes, meaning([1], None))


@pytest.mark.parametrize("kind", [RoadsDataModule, AvalanchesDataModule, CloudsDataModule])
def test_every_reader_of_masks_rejects_what_is_not_certain(kind: Any, tmp_path: Path) -> None:
    """255 is no data in the first mask, and alone beside 0 in the second."""
    label = "ice" if kind is CloudsDataModule else ""
    options = {RoadsDataModule: {"size": SIZE}, AvalanchesDataModule: {"window": 5},
               CloudsDataModule: {"size": SIZE, "classes": ["ice"]}}[kind]  # fmt: skip
    void = np.where(TOP, 255, LEFT).astype(np.uint8)
    only = dataset(tmp_path / "mixed", *[LEFT] * 8, TOP * 255, label=label)
    both = dataset(tmp_path / "void", *[LEFT] * 8, void, label=label)
    assert_problems(problems_of(lambda: kind(only, **options).setup("fit")), ("1 in 8", "white in 1, such as 8.png"))
    assert_problems(
        problems_of(lambda: kind(both, **options).setup("fit")), ("8.png: the meaning", "1: 25.0%", "255: 25.0%")
    )
    table(both / "splits.csv", "name,split", "8.png,val", *(f"{index}.png,train" for index in range(8)))
    data = kind(both, mask_values=[1], ignore_value=255, **options)
    data.setup("fit")
    sample = data.datasets["val"][0, 0]
    np.testing.assert_array_equal(sample["ignored"][0], TOP > 0)
    np.testing.assert_array_equal(sample["mask"][0], LEFT * (1 - TOP))
    assert kind(both, **options).truth() != data.truth()


@pytest.mark.parametrize(
    ("own", "images", "message"), [(1, 3, "taken as drawn on the turned image"), (6, 6, ""), (3, 3, "")]
)
def test_masks_are_turned_like_their_images(own: int, images: int, message: str, tmp_path: Path) -> None:
    for folder, values, turn in (("images", noise(*SIZE), images), ("masks/ice", LEFT * np.uint8(255), own)):
        write(tmp_path / folder / "a.png", values, exif=exif(turn))
    found, upright = source(tmp_path), {1: LEFT, 3: np.rot90(LEFT, 2), 6: np.rot90(LEFT, -1)}[own]
    np.testing.assert_array_equal(found.masks("a.png", upright.shape)[0], upright)
    assert found.misfit("a.png") is None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert value_problems("tested", found) == []
    assert [message in str(each.message) for each in caught] == ([True] if message else [])


def test_masks_that_may_lie_in_two_ways_are_rejected(tmp_path: Path) -> None:
    write(tmp_path / "images" / "a.png", noise(*SIZE))
    write(tmp_path / "masks" / "ice" / "a.png", LEFT, exif=exif(3))
    misfit = source(tmp_path).misfit("a.png")
    assert misfit is not None
    for part in ("masks/ice/a.png has the EXIF orientation 3", "its image a.png", "both ways"):
        assert part in misfit
