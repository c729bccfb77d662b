"""Image files are opened in one place, which starts no program, waits for nobody and raises one kind of error."""

import ast
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from datamodules.read.pictures import picture_size, read_mask, read_picture
from datamodules.read.strips import picture_bands
from datamodules.votes.pictures import read_square
from ops.errors import DataError
from ops.imagefiles import FORMATS, opened

ROOT = Path(__file__).parents[2]
PACKAGES = ("belvedere", "tasks", "datamodules", "callbacks", "drawing", "ops", "studies")

READERS: dict[str, Callable[[Path], Any]] = {
    "size": picture_size,
    "picture": read_picture,
    "mask": read_mask,
    "bands": lambda path: list(picture_bands(path)),
    "square": lambda path: read_square(path, 16),
}
EPS = """%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 40 40
%%EndComments
(ran) (w) file closefile
showpage
"""


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", ["photo.jpg", "photo.eps", "photo.png"])
def test_postscript_is_not_run(reader: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Any] = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *given: started.append(given))
    (tmp_path / name).write_text(EPS)
    with pytest.raises(DataError, match=name):
        READERS[reader](tmp_path / name)
    assert started == []


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "BMP", "WEBP", "GIF", "PPM"])
def test_the_content_decides_the_format(format: str, tmp_path: Path) -> None:
    assert format in FORMATS
    Image.fromarray(np.full((20, 30, 3), 200, np.uint8)).save(tmp_path / "photo.xyz", format)
    assert read_picture(tmp_path / "photo.xyz").shape == (20, 30, 3)


@pytest.mark.parametrize("format", ["TGA", "PCX", "ICO", "PDF", "DDS", "SGI", "IM", "SPIDER"])
def test_other_formats_are_rejected(format: str, tmp_path: Path) -> None:
    image = Image.fromarray(np.full((32, 32, 3), 200, np.uint8))
    (image.convert("F") if format == "SPIDER" else image).save(tmp_path / "photo.jpg", format)
    with pytest.raises(DataError, match="not an image"), opened(tmp_path / "photo.jpg"):
        pass


@pytest.mark.parametrize("reader", READERS)
def test_pipes_devices_and_folders_are_not_opened(reader: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "device.jpg").symlink_to("/dev/zero")
    (tmp_path / "folder.jpg").mkdir()
    for name, what in (("pipe", "a pipe or device"), ("device", "a pipe or device"), ("folder", "a folder")):
        with pytest.raises(DataError, match=rf"{name}\.jpg is {what}; expected an image file\.$"):
            READERS[reader](tmp_path / f"{name}.jpg")


def test_images_are_opened_in_one_place() -> None:
    ways = ("Image.open", "PIL.Image.open", "cv2.imread")
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    calls = [path.relative_to(ROOT).as_posix() for path in files for node in ast.walk(ast.parse(path.read_text()))
             if isinstance(node, ast.Call) and ast.unparse(node.func) in ways]  # fmt: skip
    assert calls == ["ops/imagefiles.py"]
