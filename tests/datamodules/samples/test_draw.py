import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from datamodules.samples.draw import check_at_least, dealt, draw_once, noise, shade, step, write_picture
from ops.atomic import write_table
from ops.errors import ArgumentError, DataError
from tests.datamodules.helpers import contents


def fill(folder: Path) -> None:
    (folder / "drawn.txt").write_text("drawn")


def never(folder: Path) -> None:
    raise AssertionError(f"{folder} is drawn again")


def test_a_sample_is_drawn_once(tmp_path: Path) -> None:
    root = draw_once(tmp_path / "new" / "sample", fill, size=(64, 96), seed=0)
    assert json.loads((root / "sample.json").read_text()) == {"size": [64, 96], "seed": 0}
    (root / "notes.txt").write_text("of its user")
    before = contents(root)
    assert draw_once(root, never, size=(64, 96), seed=0) == root
    assert contents(root) == before
    assert [path.name for path in root.parent.iterdir()] == ["sample"]


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    assert (draw_once(tmp_path, fill, seed=0) / "drawn.txt").is_file()


@pytest.mark.parametrize(("content", "found"), [("train.csv", "other files"), ("sample.json", "another sample")])
def test_other_content_is_rejected_and_kept(tmp_path: Path, content: str, found: str) -> None:
    (tmp_path / content).write_text('{"seed": 1}\n')
    before = contents(tmp_path)
    with pytest.raises(DataError, match=f"holds {found}"):
        draw_once(tmp_path, never, seed=0)
    assert contents(tmp_path) == before


def test_an_interrupted_drawing_leaves_nothing(tmp_path: Path) -> None:
    def broken(folder: Path) -> None:
        fill(folder)
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        draw_once(tmp_path / "sample", broken, seed=0)
    assert not list(tmp_path.iterdir())


def test_two_processes_may_draw_the_same_sample(tmp_path: Path) -> None:
    def overtaken(folder: Path) -> None:
        fill(folder)
        draw_once(tmp_path / "sample", fill, seed=0)

    assert draw_once(tmp_path / "sample", overtaken, seed=0) == tmp_path / "sample"
    assert [path.name for path in tmp_path.iterdir()] == ["sample"]


def test_arguments_have_minimums() -> None:
    check_at_least(pictures=(1, 1), size=(64, 64))
    with pytest.raises(ArgumentError, match="size=63: expected 64"):
        check_at_least(pictures=(1, 1), size=(63, 64))


def test_textures_and_colors() -> None:
    field = noise(np.random.default_rng(0), (60, 90), 10, octaves=3)
    assert (field.shape, field.dtype) == ((60, 90), np.float32)
    assert field.mean() == pytest.approx(0, abs=1e-5)
    assert field.std() == pytest.approx(1, abs=1e-5)
    assert step(np.array([0.0, 1, 2, 3]), 1, 3).tolist() == [0, 0, 0.5, 1]
    assert shade("#000000", "#ff0000", np.array([[-1.0, 0.5]])).tolist() == [[[0, 0, 0], [0.5, 0, 0]]]


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
