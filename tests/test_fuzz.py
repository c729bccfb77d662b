"""Mutated images, masks and tables go to every reader of every task: they are read or rejected, and nothing else.

Real images come from $BELVEDERE_DATA where it is set, synthetic ones otherwise. A failure names its seed.
"""

import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from belvedere.describe import write_study
from datamodules.aesthetics import AestheticsDataModule
from datamodules.avalanches import AvalanchesDataModule
from datamodules.base import ImageDataModule
from datamodules.clouds import CloudsDataModule
from datamodules.colorization import ColorizationDataModule
from datamodules.describe import describer
from datamodules.read.mask_files import read_mask
from datamodules.read.pictures import picture_size, read_picture
from datamodules.read.strips import picture_bands
from datamodules.roads import RoadsDataModule
from datamodules.votes.pictures import read_square
from ops.atomic import PREFIX
from ops.errors import UserError

SECONDS = 15  # of each test
FORMATS = {".jpg": "JPEG", ".png": "PNG", ".tif": "TIFF", ".webp": "WEBP", ".gif": "GIF", ".bmp": "BMP", ".ppm": "PPM",
           ".jp2": "JPEG2000", ".avif": "AVIF"}  # fmt: skip
READERS: dict[str, Callable[[Path], object]] = {
    "size": picture_size,
    "picture": read_picture,
    "mask": read_mask,
    "bands": lambda path: [len(rows) for rows in picture_bands(path)],
    "square": lambda path: read_square(path, 16),
}
MAKERS: dict[str, Callable[[Path], ImageDataModule]] = {
    "clouds": lambda root: CloudsDataModule(root, size=(32, 48)),
    "roads": lambda root: RoadsDataModule(root, size=(32, 32)),
    "avalanches": lambda root: AvalanchesDataModule(root, window=9),
    "colorization": lambda root: ColorizationDataModule(root, size=32),
    "aesthetics": lambda root: AestheticsDataModule(root, size=32, threshold=5.5),
}
WORDS = [
    b"",
    b"\0",
    b"=1+1",
    b"1_0",
    b"-1",
    b"9223372036854775807",
    b"\xd9\xa1",
    b'"',
    b",",
    b"\n",
    b"\xff",
    b"nan",
    b"x" * 9999,
]


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """Cuts a file, changes some bytes, most near its start, repeats a part or inserts an odd word."""
    values = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        if not values:
            break
        kind, place = rng.integers(5), int(len(values) * rng.random() ** 3)
        if kind == 0:
            del values[place:]
        elif kind == 1:
            values[place] = rng.integers(256)
        elif kind == 2:
            values[place : place + 4] = rng.integers(256, size=4, dtype=np.uint8).tobytes()
        elif kind == 3:
            values[place:place] = values[place : place + int(rng.integers(1, 200))]
        else:
            word = WORDS[rng.integers(len(WORDS))]
            values[place : place + len(word) % 20] = word
    return bytes(values)


def rounds() -> Iterator[int]:
    """Counts until the time is up."""
    end = time.monotonic() + SECONDS
    for number in count():
        if number and time.monotonic() > end:
            return
        yield number


@pytest.fixture
def originals(request: pytest.FixtureRequest, tmp_path: Path) -> list[bytes]:
    """Files of images in all formats and modes, with EXIF."""
    try:
        folder = request.getfixturevalue("real_data")
        found = sorted(path for path in folder.rglob("*") if path.suffix in (".jpg", ".png", ".tif"))
        images = [Image.open(path) for path in found[:: max(1, len(found) // 4)][:4]]
    except pytest.skip.Exception:
        images = [Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8))]
    files, exif = [], Image.Exif()
    exif[0x0112] = 6
    for number, image in enumerate(images):
        image.thumbnail((200, 200))
        for suffix, kind in FORMATS.items():
            mode = ("RGB", "L", "RGBA", "P")[(number + len(files)) % 4]
            options = {"exif": exif} if kind in ("JPEG", "PNG", "TIFF", "WEBP") else {}
            path = tmp_path / f"original{suffix}"
            mode = mode if kind in ("PNG", "TIFF", "GIF") else "RGB"
            image.convert("RGB").convert(mode).save(path, kind, **options)
            files.append(path.read_bytes())
    return files


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_mutated_images_are_read_or_rejected(originals: list[bytes], tmp_path: Path) -> None:
    done = 0
    for number in rounds():
        rng = np.random.default_rng(number)
        path = tmp_path / "mutated.jpg"
        path.write_bytes(mutated(originals[number % len(originals)], rng))
        for name, reader in READERS.items():
            try:
                reader(path)
            except UserError:
                pass
            except Exception as error:
                pytest.fail(f"seed {number}: {name} raised {error!r}")
            done += 1
    assert done >= len(READERS)


@pytest.mark.slow
@pytest.mark.parametrize("task", MAKERS)
def test_mutated_datasets_are_described_or_rejected(
    task: str, request: pytest.FixtureRequest, tmp_path: Path, cache: Path
) -> None:
    root: Path = request.getfixturevalue(f"{task}_root")
    files = sorted(path.relative_to(root) for path in root.rglob("*") if path.is_file())
    tables = [path for path in files if path.suffix in (".csv", ".txt", ".json", ".jpgl", ".lab", ".multilab")]
    for number in rounds():
        rng = np.random.default_rng(number)
        copy = tmp_path / "data"
        shutil.copytree(root, copy)
        for _ in range(rng.integers(1, 4)):
            pool = tables if tables and rng.random() < 0.6 else files
            path = copy / pool[rng.integers(len(pool))]
            path.write_bytes(mutated(path.read_bytes(), rng))
        data = MAKERS[task](copy)
        data.folder, data.skipping = tmp_path / "out", bool(rng.integers(2))
        description = describer(data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                if not description.problems(data):
                    study = description.study(data)
                    if number % 8 == 0:
                        write_study(replace(study, panels={}), tmp_path / "out")
            except UserError:
                pass
            except Exception as error:
                pytest.fail(f"seed {number}: {error!r}")
        half = [path for folder in (cache, tmp_path) for path in folder.rglob(f"{PREFIX}*")]
        assert not half, f"seed {number}"
        shutil.rmtree(copy)
