from pathlib import Path

import numpy as np
import pytest

from datamodules.read.boxes import boxes_beside, inside, read_boxes
from tests.datamodules.helpers import assert_problems, problems_of, table

HEADER = "image,x0,y0,x1,y1"


@pytest.mark.parametrize("levels", [0, 1, 2])
def test_pixel_of_a_level_is_inside_if_the_pixel_of_the_image_is(levels: int, tmp_path: Path) -> None:
    rows = ["a,3,2,17,9", "a,16,6,40,21", "a,0.5,10.25,4.5,14"]
    boxes = read_boxes(table(tmp_path / "b.csv", HEADER, *rows), {"a": (21, 40)}, levels)
    y, x = np.mgrid[:21, :40]
    full = ((x >= 3) & (x < 17) & (y >= 2) & (y < 9)) | ((x >= 16) & (y >= 6))
    full |= (x >= 0.5) & (x < 4.5) & (y >= 10.25) & (y < 14)
    expected = full[:: 2**levels, :: 2**levels]
    np.testing.assert_array_equal(inside(boxes["a"], expected.shape, levels)[0], expected)


def test_boxes_of_other_images_are_skipped_and_no_table_has_none(tmp_path: Path) -> None:
    path = table(tmp_path / "b.csv", HEADER, "a,0,0,9,9", "other,x,0,-9,9")
    assert read_boxes(path, {"a": (9, 9), "b": (9, 9)}, 0) == {"a": [(0, 0, 9, 9)]}
    assert read_boxes(tmp_path / "none.csv", {"a": (9, 9)}, 0, []) == {}


def test_all_wrong_boxes_are_listed(tmp_path: Path) -> None:
    rows = ["a,0,0,9,x", "a,0,0,21,10", "a,-1,0,5,5", "gone,0,0,9,9", "a,5,3,5,8", "a,nan,0,5,5", "a,1,1,2,2"]
    path = table(tmp_path / "b.csv", HEADER, *rows)
    assert_problems(
        problems_of(lambda: read_boxes(path, {"a": (10, 20)}, 1, ["a", "unreadable"])),
        (f"{path}, row 2: ", "y1 is 'x'", "a number"),
        (f"{path}, row 3: ", "0,0,21,10 of 'a'", "outside", "10 x 20"),
        ("row 4: ", "-1,0,5,5", "outside"),
        ("row 5: ", "no image 'gone'", f"{tmp_path}/images"),
        ("row 6: ", "5,3,5,8", "empty at pyramid level 1"),
        ("row 7: ", "x0 is 'nan'"),
        ("row 8: ", "1,1,2,2", "empty"),
    )


def test_boxes_lie_with_the_images_or_beside_their_folder(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    assert boxes_beside(folder) == boxes_beside(folder / "a.png") == tmp_path / "boxes.csv"
    (folder / "boxes.csv").touch()
    assert boxes_beside(folder) == folder / "boxes.csv"
    assert boxes_beside(tmp_path) == tmp_path / "boxes.csv"
