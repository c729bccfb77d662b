"""Image files are opened in one place, which starts no program, waits for nobody and raises one kind of error."""

import ast
import math
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips
from PIL import EpsImagePlugin, Image, ImageOps, PngImagePlugin

from datamodules.read.mask_files import read_mask
from datamodules.read.pictures import picture_size, read_picture
from datamodules.read.strips import picture_bands
from datamodules.roads import RoadsDataModule
from datamodules.votes.pictures import read_square
from ops.errors import DataError
from ops.files.images import FORMATS, opened
from tests.datamodules.helpers import exif, write
from tests.helpers import ROOT

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
    path = tmp_path / "photo.other"  # Pillow remembers the suffix as one of SPIDER
    (image.convert("F") if format == "SPIDER" else image).save(path, format)
    path.rename(tmp_path / "photo.jpg")
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


SMALL = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)


def exif_of(kind: int, count: int, value: bytes, extra: bytes = b"", tag: int = 0x112) -> bytes:
    """EXIF with an orientation of 6, or with one of another type or count."""
    entries = [(tag, kind, count, value)] if tag == 0x112 else [(0x112, 3, 1, b"\6\0\0\0"), (tag, kind, count, value)]
    body = b"".join(struct.pack("<HHI", *entry[:3]) + entry[3] for entry in entries)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + body + bytes(4) + extra


def offset(entries: int) -> bytes:
    return struct.pack("<I", 8 + 2 + 12 * entries + 4)


EXIF = {  # and whether the image is turned
    "short": (exif_of(3, 1, b"\6\0\0\0"), True),
    "long": (exif_of(4, 1, b"\6\0\0\0"), True),
    "rational": (exif_of(5, 1, offset(1), struct.pack("<II", 6, 1)), True),
    "float": (exif_of(11, 1, struct.pack("<f", 6)), True),
    "text": (exif_of(2, 2, b"6\0\0\0"), False),
    "bytes": (exif_of(1, 4, b"\6\0\0\0"), False),
    "nan": (exif_of(11, 1, struct.pack("<f", math.nan)), False),
    "zero over zero": (exif_of(10, 1, offset(1), bytes(8)), False),
    "two": (exif_of(3, 2, struct.pack("<HH", 6, 6)), True),
    "nine": (exif_of(3, 1, b"\x09\0\0\0"), False),
    "none": (exif_of(3, 1, bytes(4)), False),
    "negative rational": (exif_of(5, 1, offset(2), struct.pack("<ii", -1, 0), 0x9202), True),
    "no place": (exif_of(7, 5000, struct.pack("<I", 0xFFFFFFF0), tag=0x9286), True),
    "rational for text": (exif_of(5, 1, offset(2), struct.pack("<II", 72, 1), 0x10F), True),
    "rubbish": (b"Exif\0\0rubbish", False),
    "header": (b"Exif\0\0II*\0", False),
}


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
@pytest.mark.parametrize("name", EXIF)
def test_odd_exif_spoils_no_image(name: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"phone.{suffix}"
    blob, turned = EXIF[name]
    options: dict[str, Any] = {"lossless": True} if suffix == "webp" else {}
    Image.fromarray(SMALL).save(path, exif=blob, **options)
    Image.fromarray(SMALL).save(tmp_path / f"plain.{suffix}", **options)
    plain = read_picture(tmp_path / f"plain.{suffix}")
    expected = np.rot90(plain, -1) if turned else plain
    assert picture_size(path) == expected.shape[:2]
    np.testing.assert_array_equal(read_picture(path), expected)
    np.testing.assert_array_equal(np.vstack(list(picture_bands(path))), expected)
    assert read_square(path, 16).shape == (16, 16, 3)


def test_long_texts_and_profiles_spoil_no_image(tmp_path: Path) -> None:
    path = tmp_path / "edited.png"
    texts = PngImagePlugin.PngInfo()
    texts.add_text("history", "x" * (3 << 20), zip=True)
    texts.add_itxt("XML:com.adobe.xmp", "y" * (3 << 20), zip=True)
    Image.fromarray(SMALL).save(path, pnginfo=texts, icc_profile=bytes(3 << 20))
    assert picture_size(path) == (40, 60)
    np.testing.assert_array_equal(read_picture(path), SMALL)
    np.testing.assert_array_equal(np.vstack(list(picture_bands(path))), SMALL)
    texts.add_text("bomb", "z" * (1 << 27), zip=True)
    Image.fromarray(SMALL).save(path, pnginfo=texts)
    assert path.stat().st_size < 1 << 18
    with pytest.raises(DataError, match=r"edited\.png"):
        read_picture(path)


def chunked(header: bytes) -> bytes:
    chunk = b"IHDR" + header
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", len(header)) + chunk + struct.pack(">I", zlib.crc32(chunk))


FRAGMENTS = [b"", b"\0", b"\xff\xd8", b"II*\0", b"RIFF\0\0\0\0WEBP", b"P6\n", b"P6 \xb2 2 255\n",
             chunked(b""), chunked(bytes(3)), chunked(bytes(13)), chunked(b"\xff" * 13)]  # fmt: skip


@pytest.mark.parametrize("content", FRAGMENTS)
@pytest.mark.parametrize("reader", READERS)
def test_fragments_of_images_are_rejected(reader: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / "odd.png").write_bytes(content)
    with pytest.raises(DataError, match=r"odd\.png"):
        READERS[reader](tmp_path / "odd.png")


@pytest.mark.parametrize("error", [ValueError, TypeError, ZeroDivisionError, KeyError, RecursionError, struct.error])
def test_whatever_a_decoder_raises_names_the_file(
    error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*given: Any, **options: Any) -> None:
        raise error("odd")

    Image.fromarray(SMALL).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(DataError, match=r"a\.png is truncated or not an image \(.*odd"):
        read_picture(tmp_path / "a.png")


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, SystemExit])
def test_what_is_no_fault_of_the_file_passes(error: type[BaseException], tmp_path: Path) -> None:
    Image.fromarray(SMALL).save(tmp_path / "a.png")
    with pytest.raises(error), opened(tmp_path / "a.png"):
        raise error


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp", "bmp", "gif"])
def test_damaged_images_are_read_or_rejected(suffix: str, tmp_path: Path) -> None:
    rng, path = np.random.default_rng(len(suffix)), tmp_path / f"damaged.{suffix}"
    options: dict[str, Any] = {"exif": EXIF["short"][0]} if suffix in ("jpg", "png", "webp") else {}
    Image.fromarray(SMALL).save(path, **options)
    whole = np.frombuffer(path.read_bytes(), np.uint8)
    for _ in range(60):
        damaged = whole[: rng.integers(len(whole)) if rng.random() < 0.3 else None].copy()
        if len(damaged):
            places = rng.integers(0, min(len(damaged), 400), rng.integers(1, 5))
            damaged[places] = rng.integers(0, 256, len(places))
        path.write_bytes(damaged.tobytes())
        for reader in READERS.values():
            with suppress(DataError):
                reader(path)


@pytest.mark.parametrize("reader", ["picture", "mask", "square"])
def test_large_images_are_rejected_before_they_are_decoded(
    reader: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bomb.png"
    texts = PngImagePlugin.PngInfo()
    texts.add_itxt("XML:com.adobe.xmp", "<x/>")
    Image.fromarray(SMALL).save(path, pnginfo=texts)
    RoadsDataModule(max_pixels=40 * 60)
    READERS[reader](path) if reader != "mask" else None
    RoadsDataModule(max_pixels=40 * 60 - 1)
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(DataError, match=r"bomb\.png is 40 x 60 pixels .* at most 2,399.*--data\.max_pixels"):
        READERS[reader](path)


def test_large_jpegs_are_read_reduced_and_streamed(tmp_path: Path) -> None:
    path = tmp_path / "large.jpg"
    Image.fromarray(np.zeros((400, 600, 3), np.uint8)).save(path)
    RoadsDataModule(max_pixels=100 * 150)
    assert read_picture(path, at_least=(40, 60)).shape == (50, 75, 3)
    assert sum(len(rows) for rows in picture_bands(path)) == 400
    with pytest.raises(DataError, match="max_pixels"):
        read_picture(path)


@pytest.fixture(autouse=True)
def unlimited() -> Iterator[None]:
    yield
    RoadsDataModule()  # restores the default


def test_images_are_opened_in_one_place() -> None:
    ways = ("Image.open", "PIL.Image.open", "cv2.imread")
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    calls = [path.relative_to(ROOT).as_posix() for path in files for node in ast.walk(ast.parse(path.read_text()))
             if isinstance(node, ast.Call) and ast.unparse(node.func) in ways]  # fmt: skip
    assert calls == ["ops/files/images.py"]


@pytest.mark.parametrize(
    ("bands", "kind", "message"),
    [(5, "uchar", "5 bands of 8-bit unsigned integers"), (3, "float", "3 bands of 32-bit floating-point numbers"),
     (1, "double", "1 band of 64-bit floating-point"), (1, "complex", "1 band of 64-bit complex")],
)  # fmt: skip
@pytest.mark.parametrize("large", [False, True])
def test_tiffs_of_other_bands_are_described(bands: int, kind: str, message: str, large: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    pyvips.Image.black(8, 8, bands=bands).cast(kind).tiffsave(str(path), bigtiff=large)
    for read in (read_picture, read_mask, picture_size):
        with pytest.raises(DataError, match=rf"a.tif is a TIFF with {message}.* Convert it") as caught:
            read(path)
        assert "truncated" not in str(caught.value)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(DataError, match=r"a\.tif is truncated or not an image"):
        read_picture(path)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("shape", [(6, 9), (6, 9, 3)])
def test_uncompressed_tiffs_are_turned(orientation: int, shape: tuple[int, ...], tmp_path: Path) -> None:
    values = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    path = write(tmp_path / "a.tif", values, exif=exif(orientation))
    upright = np.asarray(ImageOps.exif_transpose(Image.open(write(tmp_path / "a.png", values, exif=exif(orientation)))))
    expected = upright if values.ndim == 3 else np.repeat(upright[..., None], 3, axis=2)
    np.testing.assert_array_equal(read_picture(path), expected)
