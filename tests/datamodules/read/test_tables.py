from pathlib import Path

import numpy as np
import pytest

from datamodules.read.tables import inside, read_boxes, read_conditions, strangers
from ops.errors import DataError


def table(folder: Path, header: str, *rows: str) -> Path:
    path = folder / "table.csv"
    path.write_text("\n".join([header, *rows]))
    return path


@pytest.mark.parametrize("levels", [0, 1, 2])
def test_a_pixel_of_a_level_is_inside_where_the_pictures_pixel_is(levels: int, tmp_path: Path) -> None:
    rows = ["a,3,2,17,9", "a,16,6,40,21", "a,0.5,10.25,4.5,14"]
    boxes = read_boxes(table(tmp_path, "image,x0,y0,x1,y1", *rows), {"a": (21, 40)}, levels)
    y, x = np.mgrid[:21, :40]
    full = ((x >= 3) & (x < 17) & (y >= 2) & (y < 9)) | ((x >= 16) & (y >= 6))
    full |= (x >= 0.5) & (x < 4.5) & (y >= 10.25) & (y < 14)
    expected = full[:: 2**levels, :: 2**levels]
    np.testing.assert_array_equal(inside(boxes["a"], expected.shape, levels)[0], expected)


def test_boxes_of_other_pictures_are_passed_over_and_no_table_has_none(tmp_path: Path) -> None:
    path = table(tmp_path, "image,x0,y0,x1,y1", "a,0,0,9,9", "other,x,0,-9,9")
    assert read_boxes(path, {"a": (9, 9), "b": (9, 9)}, 0) == {"a": [(0, 0, 9, 9)]}
    assert read_boxes(tmp_path / "none.csv", {"a": (9, 9)}, 0) == {}


def test_wrong_boxes_are_all_told(tmp_path: Path) -> None:
    rows = ["a,0,0,9,x", "a,0,0,21,10", "a,-1,0,5,5", "a,5,3,5,8", "a,nan,0,5,5", "a,1,1,2,2"]
    path = table(tmp_path, "image,x0,y0,x1,y1", *rows)
    with pytest.raises(DataError) as caught:
        read_boxes(path, {"a": (10, 20)}, 1)
    outside = "reaches outside the picture, 10 x 20 pixels (height x width). Clip it."
    empty = "is empty at pyramid level 1; x0 < x1 and y0 < y1 were wanted. Correct or remove it."
    assert caught.value.problems == [
        f"{path}, row 2: the box 0,0,9,x of 'a' is not four numbers; x0,y0,x1,y1 in pixels were wanted.",
        f"{path}, row 3: the box 0,0,21,10 of 'a' {outside}",
        f"{path}, row 4: the box -1,0,5,5 of 'a' {outside}",
        f"{path}, row 5: the box 5,3,5,8 of 'a' {empty}",
        f"{path}, row 6: the box nan,0,5,5 of 'a' {outside}",
        f"{path}, row 7: the box 1,1,2,2 of 'a' {empty}",
    ]


def test_conditions_are_read(tmp_path: Path) -> None:
    path = table(tmp_path, "image,condition", "a,sunny", "b,", "c,deep shade")
    assert read_conditions(path, ["a", "b", "c", "d"]) == {"a": "sunny", "b": "", "c": "deep shade"}
    assert read_conditions(tmp_path / "none.csv", ["a"]) == {}


def test_wrong_conditions_are_all_told(tmp_path: Path) -> None:
    path = table(tmp_path, "image,condition", "a,sunny", "gone,shady", "a,shady")
    with pytest.raises(DataError) as caught:
        read_conditions(path, ["a"])
    assert caught.value.problems == [
        f"{path}, row 3: there is no picture 'gone' in {tmp_path}/images. Remove the row.",
        f"{path}, row 4: 'a' has a row already. Remove one of them.",
    ]


def test_a_table_that_is_not_there_has_no_strangers(tmp_path: Path) -> None:
    assert strangers(tmp_path / "none.csv", []) == []
    with pytest.raises(DataError, match="'image' is missing"):
        strangers(table(tmp_path, "name,x0", "a,1"), ["a"])
