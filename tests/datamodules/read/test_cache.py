import errno
import hashlib
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from datamodules.read import cache as module
from datamodules.read.cache import cache_folder, cache_key, cached_array
from datamodules.read.mask_files import MaskValues, read_marks
from datamodules.read.masks import label_planes
from datamodules.read.pictures import read_picture
from ops.errors import DataError
from tests.datamodules.helpers import assert_problems, exif, problems_of, write
from tests.helpers import ROOT

ROWS = np.random.default_rng(0).integers(0, 256, (50, 3, 4)).astype(np.uint8)
SLOW = """
import sys, time
import numpy as np
from datamodules.read.cache import cached_array
def make(index):
    time.sleep(0.02)
    return np.full(8, index, np.uint8)
rows = cached_array("slow", "key", (60, 8), make, "waiting")
print((np.asarray(rows) == np.arange(60)[:, None]).all())
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of this test's own."""
    monkeypatch.setenv("BELVEDERE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def start() -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", SLOW], cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_the_folder_is_the_users_unless_another_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BELVEDERE_CACHE", "/scratch/me")
    assert cache_folder() == Path("/scratch/me")
    monkeypatch.delenv("BELVEDERE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert cache_folder() == Path("/caches/belvedere")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert cache_folder() == Path("/home/me/.cache/belvedere")


def test_rows_are_made_once(folder: Path) -> None:
    made: list[int] = []

    def make(index: int) -> np.ndarray:
        made.append(index)
        return ROWS[index]

    for _ in range(2):
        array = cached_array("rows", "0123", ROWS.shape, make, "making")
        np.testing.assert_array_equal(array, ROWS)
        assert not array[0].flags.writeable
    assert sorted(made) == list(range(50))
    assert names(folder) == ["rows-50x3x4-0123.npy"]
    cached_array("rows", "4567", ROWS.shape, make, "making")
    assert len(made) == 100


def test_rows_that_fail_are_all_reported_and_leave_nothing(folder: Path) -> None:
    def make(index: int) -> np.ndarray:
        if index % 20 == 3:
            raise DataError(f"row {index} is odd.")
        if index == 7:
            raise DataError("two", ["seven is odd.", "seven is not even."])
        return ROWS[index]

    found = problems_of(lambda: cached_array("rows", "k", ROWS.shape, make, "making Rows of /There"))
    assert_problems(found, ("row 3",), ("seven is odd",), ("seven is not even",), ("row 23",), ("row 43",))
    with pytest.raises(ZeroDivisionError):
        cached_array("rows", "k", (4, 2), lambda index: np.full(2, 1 // (index - 2)), "making")
    assert names(folder) == []
    np.testing.assert_array_equal(cached_array("rows", "k", ROWS.shape, ROWS.__getitem__, "making"), ROWS)


def test_a_key_changes_with_files_and_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [tmp_path / "a", tmp_path / "b"]
    for file in files:
        file.write_text("same")
        os.utime(file, ns=(0, 10**18))
    key = cache_key(files, {"size": (8, 8)})
    assert re.fullmatch(r"[0-9a-f]{16}", key)
    assert cache_key(files, {"size": (8, 8)}) == key
    monkeypatch.chdir(tmp_path)
    assert cache_key([Path("a"), Path("b")], {"size": (8, 8)}) == key
    others = [cache_key(files, {"size": (8, 9)}), cache_key(files[:1], {"size": (8, 8)}),
              cache_key(files[::-1], {"size": (8, 8)})]  # fmt: skip
    os.utime(files[1], ns=(0, 10**18 + 1))
    others.append(cache_key(files, {"size": (8, 8)}))
    monkeypatch.setattr(module, "READERS", module.READERS + 1)
    others.append(cache_key(files, {"size": (8, 8)}))
    monkeypatch.undo()
    files[1].write_text("longer")
    os.utime(files[1], ns=(0, 10**18))
    others.append(cache_key(files, {"size": (8, 8)}))
    assert len({key, *others}) == 7


def test_arrays_of_an_earlier_reader_are_not_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "READERS", 1)
    old = cached_array("rows", cache_key([], None), ROWS.shape, lambda index: ROWS[index] + 1, "making")
    monkeypatch.undo()
    new = cached_array("rows", cache_key([], None), ROWS.shape, ROWS.__getitem__, "making")
    np.testing.assert_array_equal(new, ROWS)
    assert old.path != new.path


def test_a_cache_without_space_or_folder_is_rejected(folder: Path) -> None:
    with pytest.raises(DataError, match=r"needs 1000000\.000 GB .*/cache(?s:.*)BELVEDERE_CACHE"):
        cached_array("rows", "k", (10**9, 10**6), ROWS.__getitem__, "decoding all")
    assert names(folder) == []
    folder.rmdir()
    folder.write_text("a file")
    with pytest.raises(DataError, match=r"in the cache .*/cache, which has 0\.000 GB"):
        cached_array("rows", "k", ROWS.shape, ROWS.__getitem__, "decoding")


def test_a_cache_reserves_its_space_before_it_is_mapped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process may take the space that was free a moment ago."""
    reserved: list[int] = []

    def full(file: int, start: int, size: int) -> None:
        reserved.append(size)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(DataError, match=r"decoding needs .*/cache, which cannot hold it: No space left"):
        cached_array("rows", "k", ROWS.shape, ROWS.__getitem__, "decoding")
    assert reserved == [ROWS.nbytes + 128]  # with the header
    assert names(folder) == []


@pytest.mark.parametrize("damage", [b"", b"rubbish", b"\x93NUMPY\1\0\xff\xff{'descr': ", None, "half", "type", "shape"])
def test_a_damaged_cache_is_made_again(damage: bytes | str | None, folder: Path) -> None:
    expected = np.array(cached_array("rows", "k", ROWS.shape, ROWS.__getitem__, "making")._rows)  # no map
    (path,) = folder.iterdir()
    whole = path.read_bytes()
    wrong = {"type": ROWS.view(np.int8), "shape": ROWS.reshape(3, 50, 4)}
    if damage in wrong:
        with path.open("wb") as file:
            np.save(file, wrong[str(damage)])
    elif isinstance(damage, bytes):
        path.write_bytes(damage)
    else:
        path.write_bytes(whole[: len(whole) // 2] if damage == "half" else whole.replace(b"50", b"99", 1))
    again = cached_array("rows", "k", ROWS.shape, ROWS.__getitem__, "making")
    np.testing.assert_array_equal(again._rows, expected)
    assert path.read_bytes() == whole


def test_a_cache_key_has_the_bytes_of_any_name(tmp_path: Path) -> None:
    name = os.fsencode(tmp_path / "caf") + b"\xe9"
    with open(name, "w"):
        pass
    assert re.fullmatch(r"[0-9a-f]{16}", cache_key([Path(os.fsdecode(name))], None))


def test_two_processes_that_start_at_once_both_get_the_whole_array(folder: Path) -> None:
    processes = [start(), start()]
    assert [process.communicate()[0].strip() for process in processes] == ["True", "True"]
    assert names(folder) == ["slow-60x8-key.npy"]


def test_a_killed_process_leaves_no_array(folder: Path) -> None:
    process = start()
    deadline = time.monotonic() + 30
    while not (folder.is_dir() and names(folder)) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.communicate()
    (part,) = names(folder)
    assert part.startswith(".part-")
    array = cached_array("slow", "key", (60, 8), lambda index: np.full(8, index, np.uint8), "making")
    np.testing.assert_array_equal(array[:, 0], np.arange(60))
    assert names(folder) == ["slow-60x8-key.npy"]


def test_the_faster_process_keeps_its_file(folder: Path) -> None:
    def make(index: int) -> np.ndarray:
        if not folder.joinpath("rows-50x3x4-k.npy").exists() and index == 49:
            np.save(folder / "rows-50x3x4-k.npy", ROWS)
        return np.zeros((3, 4), np.uint8)

    np.testing.assert_array_equal(cached_array("rows", "k", ROWS.shape, make, "making"), ROWS)
    assert names(folder) == ["rows-50x3x4-k.npy"]


def test_a_change_of_decoded_pixels_needs_another_version(tmp_path: Path) -> None:
    """If this fails, add 1 to `READERS`, so that nobody uses what was cached before, and put the new digest here."""
    levels = np.arange(24 * 36, dtype=np.uint32).reshape(24, 36)
    picture = np.stack([levels % 251, levels % 13 * 19, levels % 7 * 36], axis=2).astype(np.uint8)
    soft = np.clip((levels % 36).astype(np.int64) * 40 - 600, 0, 255).astype(np.uint8)
    digest = hashlib.sha256()
    for index, (values, turn) in enumerate(
        [(picture, 1), (picture, 6), (soft, 8), (picture[..., :2].repeat(2, axis=2), 1), (levels % 36 < 9, 3)]
    ):
        path = write(tmp_path / f"{index}.png", values, exif=exif(turn))
        digest.update(read_picture(path).tobytes())
        if values.ndim == 2:
            digest.update(read_marks(path, MaskValues()).labels.tobytes())
    planes = label_planes([(levels % 3).astype(np.uint8), None], (12, 18), MaskValues(ignored=(2.0,)))
    digest.update(planes.tobytes())
    assert (module.READERS, digest.hexdigest()[:16]) == (3, "4f25966c1c149a58")
