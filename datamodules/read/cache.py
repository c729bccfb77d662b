"""Arrays computed once and kept on disk: decoded pictures and masks, so that later epochs read no file."""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from datamodules.read.pictures import read_picture
from ops.atomic import replacing
from ops.errors import DataError, refuse


def core_count() -> int:
    """Cores that this process may use: on a cluster the job's, not the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cache_folder() -> Path:
    """Where cached arrays lie: $BELVEDERE_CACHE, or `belvedere` in the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("BELVEDERE_CACHE") or Path(home) / "belvedere")


def fingerprint(files: Sequence[Path], recipe: object) -> str:
    """A key that changes when a file's path, size or time, or the recipe, changes."""
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True, default=str).encode())
    for file in files:
        status = file.stat()
        digest.update(f"{file.absolute()}|{status.st_size}|{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


class MappedRows:
    """The rows of a .npy file, read where they are used; a copy in another process maps the file again.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rows: NDArray[np.uint8] = np.load(path, mmap_mode="r")
        self.shape = self._rows.shape

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: int) -> NDArray[np.uint8]:
        values: NDArray[np.uint8] = self._rows[row]
        return values

    def __reduce__(self) -> "tuple[type[MappedRows], tuple[Path]]":
        return MappedRows, (self.path,)


def cached_array(
    name: str, key: str, shape: tuple[int, ...], make: Callable[[int], NDArray[np.uint8]], what: str
) -> MappedRows:
    """A memory-mapped uint8 array of this shape whose row i is `make(i)`; made once, by all cores.

    It is written under a temporary name and renamed when it is whole: two processes that start at once both end
    with a whole file, and a killed one leaves a temporary file at most, which none reads.

    Args:
        name: What the file's name begins with, for people who look into the folder.
        key: What identifies the content (`fingerprint`).
        shape: Rows first.
        make: Row i; its DataErrors are collected.
        what: What is done, for the progress bar and in errors, such as "decoding pictures".

    Raises:
        DataError: Rows could not be made, all of which are named, or the cache's folder cannot hold the array.
    """
    path = cache_folder() / f"{name}-{'x'.join(map(str, shape))}-{key}.npy"
    if not path.is_file():
        _make_room(path.parent, math.prod(shape), what)
        with replacing(path, keep=True) as temporary:
            rows = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
            refuse(_fill(rows, make, what), what)
            rows.flush()
            del rows
    return MappedRows(path)


def _make_room(folder: Path, size: int, what: str) -> None:
    """Makes the folder and asks for `size` bytes: a map of a file that the disk cannot hold ends in a bus error.

    Raises:
        DataError: They are not to be had.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free if os.access(folder, os.W_OK) else 0
    except OSError:
        free = 0
    if free < size:
        raise DataError(
            f"{what} needs {size / 1e9:.3f} GB in the cache {folder}, where {free / 1e9:.3f} GB can be written. "
            "Make room, or name another folder in the environment variable BELVEDERE_CACHE."
        )


def _fill(rows: NDArray[np.uint8], make: Callable[[int], NDArray[np.uint8]], what: str) -> list[str]:
    def fill(index: int) -> list[str]:
        try:
            rows[index] = make(index)
        except DataError as error:
            return error.problems
        return []

    with ThreadPoolExecutor(core_count()) as pool:  # decoders release the interpreter's lock
        done = tqdm(pool.map(fill, range(len(rows))), desc=what, total=len(rows), unit="", leave=False)
        return [problem for problems in done for problem in problems]


def check_pictures(files: Sequence[Path], at_least: tuple[int, int] | None = None) -> None:
    """Opens every picture, at a JPEG's lower resolution where `at_least` suffices; those that were whole only once.

    Raises:
        DataError: Some cannot be read.
    """

    def make(index: int) -> NDArray[np.uint8]:
        read_picture(files[index], at_least)
        return np.ones(1, dtype=np.uint8)

    what = f"opening the pictures of {files[0].parent}"
    cached_array("opened", fingerprint(files, None), (len(files), 1), make, what)
