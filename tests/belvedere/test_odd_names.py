"""Images whose names hold line breaks, bytes that are not UTF-8, and whatever else Linux allows, in all tasks."""

import csv
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ops.atomic import harmless
from ops.files.names import safe_path

Command = Callable[..., Any]
NAMES = [os.fsdecode(name) for name in (b"new\nline.png", b"car\rriage.png", b"both\r\n.png", b"bad\xff\xfe.png",
                                        b"$x_1$ $.png", b"-dash.png", b"quo\"te,.png", b"\x1b[31m.png")]  # fmt: skip
# Of each task: a folder with a file for each image, its table, and the column with the name.
WRITTEN = {"clouds": ("overlays", "submission.csv", "Image_Label"), "roads": ("masks", None, ""),
           "avalanches": ("overlays", None, ""), "colorization": ("colored", "figures.csv", "name"),
           "aesthetics": (None, "scores.csv", "name")}  # fmt: skip


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """A folder of images with odd names."""
    (tmp_path / "odd").mkdir()
    for number, name in enumerate(NAMES):
        noise = np.random.default_rng(number).integers(0, 256, (64, 96, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / "odd" / name)
    return tmp_path / "odd"


def column(path: Path, name: str) -> list[str]:
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return [row[name] for row in csv.DictReader(file)]


@pytest.mark.parametrize("task", WRITTEN)
def test_images_with_odd_names_are_predicted(
    task: str, odd: Path, trained: Callable[[str], Path], belvedere: Command
) -> None:
    done = belvedere("predict", "--ckpt_path", str(trained(task)), "--data.pictures", str(odd), "--output", "out")
    assert done.code == 0, done.err
    folder, table, name = WRITTEN[task]
    if folder is not None:
        files = {safe_path(each, "").name for each in NAMES}
        assert {path.stem for path in Path("out", folder).iterdir()} == files
        assert len(files) == len(NAMES)
    if table is not None:
        found = {
            text if text.endswith(".png") else text.rpartition("_")[0] for text in column(Path("out", table), name)
        }
        assert found == {harmless(each) for each in NAMES}


def test_images_with_odd_names_become_vectors(odd: Path, trained: Callable[[str], Path], belvedere: Command) -> None:
    done = belvedere("features", "--ckpt_path", str(trained("aesthetics")), "--vectors", "[color_moments]",
                     "--data.pictures", str(odd), "--output", "out")  # fmt: skip
    assert done.code == 0, done.err
    assert sorted(column(Path("out/vectors/names.csv"), "name")) == sorted(harmless(each) for each in NAMES)
