"""Images are found by one list of suffixes, anywhere below a folder, and each name has one spelling."""

import logging
import os
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from datamodules.colorization import ColorizationDataModule
from datamodules.read import names as names_module
from datamodules.read.masks import class_masks
from datamodules.read.names import composed, located, picture_files, predicted_names, tree_names
from datamodules.read.pictures import read_picture
from datamodules.read.tables import Table, read_lines
from datamodules.read.works import groups, read_works
from ops.errors import DataError
from ops.files import images as image_files
from tests.datamodules.helpers import noise, write

COMPOSED, DECOMPOSED = "D\u00fcrer", "Du\u0308rer"


def test_images_anywhere_below_are_named_by_their_paths(tmp_path: Path) -> None:
    for name in ("b.JPG", "a/c.png", "a/b/c.webp", "a/.trash/c.png", "a/._c.png", "a/notes.txt", ".c.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert tree_names(tmp_path) == ["a/b/c.webp", "a/c.png", "b.JPG"]


def test_links_are_followed_and_rings_left(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere" / "deep" / "1.png", noise(2, 2))
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "artist").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "images" / "2.png").symlink_to(tmp_path / "elsewhere" / "deep" / "1.png")
    (tmp_path / "elsewhere" / "ring").symlink_to(tmp_path / "images")
    assert tree_names(tmp_path / "images") == ["2.png", "artist/deep/1.png"]


def test_folders_without_images_are_rejected(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"contains no images"):
        tree_names(tmp_path)
    with pytest.raises(DataError, match="There is no folder"):
        tree_names(tmp_path / "gone")


def test_equal_stems_may_lie_in_different_folders_only(tmp_path: Path) -> None:
    for name in ("a/1.png", "b/1.png"):
        write(tmp_path / name, noise(2, 2))
    assert predicted_names(tmp_path) == (tmp_path, ["a/1.png", "b/1.png"])
    write(tmp_path / "b" / "1.jpg", noise(2, 2))
    with pytest.raises(DataError, match=r"2 images are named b/1\.\*"):
        predicted_names(tmp_path)
    assert predicted_names(tmp_path / "b" / "1.jpg") == (tmp_path / "b", ["1.jpg"])


def test_files_of_a_folder_are_its_sorted_images(tmp_path: Path) -> None:
    for pictures, message in ((tmp_path / "gone", r"no folder or file .*/gone\."), (tmp_path, "no images")):
        with pytest.raises(DataError, match=message):
            picture_files(pictures)
    for name in ("b.JPG", "a.png", "c.tiff", "._a.png", "notes.txt", ".jpg"):
        (tmp_path / name).write_bytes(b"x")
    assert [path.name for path in picture_files(tmp_path)] == ["a.png", "b.JPG", "c.tiff"]
    assert picture_files(tmp_path / "a.png") == [tmp_path / "a.png"]


@pytest.fixture
def unreported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names_module, "_reported", set())


@pytest.mark.parametrize("name", ["a.gif", "a.jfif", "a.JPE", "a.ppm", "a.pgm", "a.jp2", "a.avif", "a.bmp", "a.webp"])
def test_what_is_read_as_one_file_is_found_in_folders(name: str, tmp_path: Path) -> None:
    formats = {".jfif": "JPEG", ".jpe": "JPEG", ".jp2": "JPEG2000", ".pgm": "PPM", ".avif": "AVIF"}
    Image.fromarray(noise(40, 60)).save(tmp_path / name, formats.get(Path(name).suffix.lower()))
    assert picture_files(tmp_path) == [tmp_path / name]
    assert read_picture(tmp_path / name).shape == (40, 60, 3)


def test_skipped_files_are_reported_once_with_the_reason(
    tmp_path: Path, unreported: None, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path / "a.png", noise(2, 2))
    for name in ("b.heic", "c.HEIC", "d.psd", "e.txt", "noise", ".hidden", "Thumbs.db"):
        (tmp_path / name).write_bytes(b"x")
    write(tmp_path / "runs" / "clouds" / "mask.png", noise(2, 2))
    with caplog.at_level(logging.INFO):
        assert tree_names(tmp_path) == tree_names(tmp_path) == ["a.png"]
    (line,) = [record.getMessage() for record in caplog.records if "skipped" in record.getMessage()]
    assert line.startswith(f"{tmp_path}: 1 images; skipped: ")
    parts = ("2 .heic (install pillow-heif", "1 .psd (cannot", "1 .txt (not an image)", "1 without a suffix", "runs/")
    assert all(part in line for part in parts)
    assert "hidden" not in line
    assert "Thumbs" not in line
    (tmp_path / "a.png").unlink()
    with pytest.raises(DataError, match=r"contains no images; skipped: .*2 \.heic"):
        tree_names(tmp_path)


@pytest.fixture
def heif(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    """A module that reads HEIF."""
    registered: list[bool] = []
    module = SimpleNamespace(register_heif_opener=lambda: registered.append(True), __spec__=SimpleNamespace())
    monkeypatch.setitem(sys.modules, "pillow_heif", module)
    for each in (image_files.formats, image_files.suffixes):
        each.cache_clear()
    yield registered
    for each in (image_files.formats, image_files.suffixes):
        each.cache_clear()


def test_heic_is_found_where_pillow_can_read_it(heif: list[bool], tmp_path: Path) -> None:
    (tmp_path / "IMG_1.HEIC").write_bytes(b"x")
    assert tree_names(tmp_path) == ["IMG_1.HEIC"]
    assert heif == [True]


def test_folders_that_cannot_be_listed_are_no_empty_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "closed" / "a.png", noise(2, 2))
    scandir = os.scandir

    def guarded(place: str) -> object:
        if str(place).endswith("closed"):
            raise PermissionError(13, "Permission denied", place)
        return scandir(place)

    monkeypatch.setattr(os, "scandir", guarded)
    with pytest.raises(DataError, match="closed cannot be listed: Permission denied"):
        tree_names(tmp_path)


def test_names_have_one_spelling_whatever_that_of_the_files(tmp_path: Path) -> None:
    for folder in (tmp_path / "images" / DECOMPOSED, tmp_path / "masks" / COMPOSED / DECOMPOSED):
        write(folder / f"{DECOMPOSED}.png", noise(2, 2) // 128 * 255)
    name = f"{COMPOSED}/{COMPOSED}.png"
    assert tree_names(tmp_path / "images") == [name]
    assert read_picture(located(tmp_path / "images", name)).shape == (2, 2, 3)
    assert predicted_names(tmp_path / "images" / DECOMPOSED / f"{DECOMPOSED}.png")[1] == [f"{COMPOSED}.png"]
    source = class_masks(tmp_path, [COMPOSED])
    assert source.names == [name]
    assert source.problems == []
    assert source.path(name).is_file()


def test_names_that_differ_in_the_encoding_of_accents_only_are_rejected(tmp_path: Path) -> None:
    for name in (COMPOSED, DECOMPOSED):
        write(tmp_path / f"{name}.png", noise(2, 2))
    if len(os.listdir(tmp_path)) == 1:
        pytest.skip("this file system has one spelling")
    with pytest.raises(DataError, match="differ in the encoding of accents only"):
        tree_names(tmp_path)


def test_tables_and_lists_spell_names_alike(tmp_path: Path) -> None:
    text = f"image,artist\n{DECOMPOSED}.png,{DECOMPOSED}\n{COMPOSED}2.png,{COMPOSED}\n"
    (tmp_path / "metadata.csv").write_text(text)
    assert Table(tmp_path / "metadata.csv", ["image"]).rows["image"].tolist() == [f"{COMPOSED}.png", f"{COMPOSED}2.png"]
    assert [line for _, line in read_lines(tmp_path / "metadata.csv")] == unicodedata.normalize("NFC", text).split()
    names = [f"{COMPOSED}.png", f"{COMPOSED}2.png"]
    assert len(set(groups(names, read_works(tmp_path / "metadata.csv", names)).values())) == 1


def test_an_artist_in_two_spellings_is_in_one_split(tmp_path: Path) -> None:
    rows = ["image,artist"]
    for number in range(12):
        write(tmp_path / "images" / f"{number}.png", noise(40, 40))
        rows.append(f"{number}.png,{(COMPOSED, DECOMPOSED, 'Klee', 'Marc')[number % 4]}")
    (tmp_path / "metadata.csv").write_text("\n".join(rows))
    splits = ColorizationDataModule(tmp_path, size=32).checked().splits
    of = {name: split for split, members in splits.items() for name in members}
    assert len({of[f"{number}.png"] for number in range(12) if number % 4 < 2}) == 1


def test_composed_leaves_other_bytes(tmp_path: Path) -> None:
    assert composed("caf\udce9") == "caf\udce9"  # Latin-1
    assert composed(DECOMPOSED) == COMPOSED
