import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from datamodules.samples.draw import Size
from datamodules.samples.folder import dealt, sample, write_picture
from ops.atomic import write_table
from ops.errors import ArgumentError, DataError
from tests.datamodules.helpers import contents


@sample(size=64)
def draw_boxes(root: Path, size: Size = (64, 96), seed: int = 0) -> None:
    (root / "drawn.txt").write_text(f"{size} {seed}")


@sample()
def draw_never(root: Path, seed: int = 0) -> None:
    raise RuntimeError("power cut")


def test_a_sample_is_drawn_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = draw_boxes(tmp_path / "new" / "sample")
    assert json.loads((root / "sample.json").read_text()) == {"sample": "boxes", "size": [64, 96], "seed": 0}
    (root / "notes.txt").write_text("of its user")
    (root / "drawn.txt").write_text("not drawn again")
    before = contents(root)
    assert draw_boxes(root, seed=0) == draw_boxes(root, (64, 96)) == root
    assert contents(root) == before
    assert [path.name for path in root.parent.iterdir()] == ["sample"]
    monkeypatch.chdir(root.parent)
    assert draw_boxes(Path("sample")) == Path("sample")


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    assert (draw_boxes(tmp_path, size=(70, 80), seed=3) / "drawn.txt").read_text() == "(70, 80) 3"


@pytest.mark.parametrize(("content", "found"), [("train.csv", "other files"), ("sample.json", "another sample")])
def test_other_content_is_rejected_and_kept(tmp_path: Path, content: str, found: str) -> None:
    (tmp_path / content).write_text('{"seed": 1}\n')
    before = contents(tmp_path)
    with pytest.raises(DataError, match=f"holds {found}"):
        draw_boxes(tmp_path)
    assert contents(tmp_path) == before


def test_an_interrupted_drawing_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="power cut"):
        draw_never(tmp_path / "sample")
    assert not list(tmp_path.iterdir())


def test_another_process_may_be_faster(tmp_path: Path) -> None:
    root, others = tmp_path / "sample", [0]

    @sample()
    def draw_slowly(folder: Path, seed: int) -> None:
        (folder / "drawn.txt").write_text(str(seed))
        if others:  # another process draws while this one does
            draw_slowly(root, others.pop())

    assert draw_slowly(root, 0) == root
    assert [path.name for path in tmp_path.iterdir()] == ["sample"]
    shutil.rmtree(root)
    others.append(1)
    with pytest.raises(DataError, match="holds another sample"):
        draw_slowly(root, 0)
    assert (root / "drawn.txt").read_text() == "1"


def test_arguments_have_minimums(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="size=63: expected 64"):
        draw_boxes(tmp_path / "sample", (96, 63))
    assert not list(tmp_path.iterdir())


def test_values_are_dealt_in_equal_shares() -> None:
    shuffled = dealt(np.random.default_rng(0), ["a", "b"], 9)
    assert sorted(shuffled) == ["a"] * 5 + ["b"] * 4
    assert shuffled != ["a", "b"] * 4 + ["a"]


def test_files_are_written_in_the_format_of_their_suffix(tmp_path: Path) -> None:
    red = np.full((8, 9, 3), (200, 30, 40), np.uint8)
    write_picture(tmp_path / "new" / "a.png", red)
    write_picture(tmp_path / "b.jpg", red[..., 0])
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "new" / "a.png"))[..., ::-1], red)
    assert (tmp_path / "b.jpg").read_bytes()[:2] == b"\xff\xd8"
    assert cv2.imread(str(tmp_path / "b.jpg"), cv2.IMREAD_UNCHANGED).shape == (8, 9)
    write_table(tmp_path / "a.csv", ("name", "x"), [("a", 1)])
    assert (tmp_path / "a.csv").read_bytes() == b"name,x\na,1\n"
