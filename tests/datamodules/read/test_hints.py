from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.decoded.letterboxed import PredictedPicture
from datamodules.read.hints import find_hints
from tests.datamodules.helpers import assert_problems, noise, problems_of, table, write

NAMES = ["a/1.jpg", "b.png"]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for name in NAMES:
        write(tmp_path / "pictures" / name, noise(40, 60))
    return tmp_path / "pictures"


def strokes(path: Path, height: int = 40, width: int = 60, mode: str = "RGBA") -> Path:
    drawn = np.zeros((height, width, 4), np.uint8)
    drawn[5, 7] = [200, 30, 40, 255]
    drawn[6, 7] = [200, 30, 40, 90]  # the soft edge of a brush
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(drawn).convert(mode).save(path)
    return path


def test_strokes_and_tables_are_read_together(pictures: Path, tmp_path: Path) -> None:
    strokes(tmp_path / "hints" / "a" / "1.png")
    table(tmp_path / "hints" / "more.csv", "image,x,y,color", "a/1.jpg,7,5,#0000ff", "b.png,59,39,102030")
    hints = find_hints(tmp_path / "hints", pictures, NAMES)
    assert hints.read("a/1.jpg").tolist() == [[5, 7, 0, 0, 255]], "a point replaces the stroke below it"
    assert hints.read("b.png").tolist() == [[39, 59, 16, 32, 48]]
    only = find_hints(tmp_path / "hints" / "more.csv", pictures, NAMES)
    assert only.read("b.png").tolist() == [[39, 59, 16, 32, 48]]
    (tmp_path / "hints" / "more.csv").unlink()
    alone = find_hints(tmp_path / "hints", pictures, NAMES)
    assert alone.read("a/1.jpg").tolist() == [[5, 7, 200, 30, 40]]
    assert alone.read("b.png").shape == (0, 5)
    sample = PredictedPicture([pictures / name for name in NAMES], 32, None, NAMES, alone)(0)
    assert sample["hints"].tolist() == [[5, 7, 200, 30, 40]]


def test_wrong_hints_are_listed(pictures: Path, tmp_path: Path) -> None:
    folder = tmp_path / "hints"
    table(
        folder / "h.csv",
        "image,x,y,color",
        "c.png,1,1,#000000",
        "b.png,60,1,#000000",
        "b.png,1,1,red",
        "b.png,q,1,#fff0ff",
    )
    found = problems_of(lambda: find_hints(folder / "h.csv", pictures, NAMES))
    assert_problems(
        found, ("row 2", "no image 'c.png'"), ("row 3", "x 60, y 1", "0 to 59"), ("row 4", "'red'"), ("row 5", "'q'")
    )
    (folder / "h.csv").unlink()
    assert_problems(problems_of(lambda: find_hints(folder, pictures, NAMES)), ("contains no hints",))
    assert_problems(problems_of(lambda: find_hints(tmp_path / "no", pictures, NAMES)), ("no file or folder",))
    strokes(folder / "b.png", 41)
    strokes(folder / "x.png")
    found = problems_of(lambda: find_hints(folder, pictures, NAMES))
    assert_problems(found, ("41 x 60", "40 x 60"), ("no image x.*",))
    (folder / "x.png").unlink()
    strokes(folder / "b.png", mode="RGB")
    hints = find_hints(folder, pictures, NAMES)
    sample = PredictedPicture([pictures / name for name in NAMES], 32, None, NAMES, hints)(1)
    assert "without transparency" in sample["problem"]
