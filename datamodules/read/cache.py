"""Caches arrays on disk, such as decoded images and masks, so that later epochs open no file."""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.read.pictures import READERS, read_picture
from datamodules.read.rasters import COLOR, Channels
from ops.atomic import in_words, mapped_array, remove_leftovers, replacing
from ops.errors import DataError, collected, refuse
from ops.progress import progress


def core_count() -> int:
    """Returns the number of cores that this process may use: on a cluster the job's, not the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cache_folder() -> Path:
    """Returns the folder of cached arrays: $BELVEDERE_CACHE, or `belvedere` in the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("BELVEDERE_CACHE") or Path(home) / "belvedere")


def cache_key(files: Sequence[Path], recipe: object) -> str:
    """Returns a key that changes with the path, size or time of any file, the recipe, and the version of `READERS`."""
    digest = hashlib.sha256(json.dumps([READERS, recipe], sort_keys=True, default=str).encode())
    for file in files:
        status = file.stat()
        digest.update(os.fsencode(f"{file.absolute()}|{status.st_size}|{status.st_mtime_ns}\n"))
    return digest.hexdigest()[:16]


class MappedRows:
    """Rows of a memory-mapped .npy file; a pickled copy maps the file again.

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
    """Returns a memory-mapped uint8 array whose row i is `make(i)`, computed once, on all cores.

    The file gets its name when it is complete: two processes that start at once both end with a complete file, and a
    killed one leaves at most a `.part-…`, which the next one removes.

    Args:
        name: Start of the file name, for people who look into the folder.
        key: Identifies the content, see `cache_key`.
        shape: Shape of the array, rows first.
        make: Makes row i; its DataErrors are collected.
        what: Describes the work in the progress bar and in errors, such as "decoding images".

    Raises:
        DataError: Rows could not be made (all are listed), or the array does not fit into the cache folder.
    """
    path = cache_folder() / f"{name}-{'x'.join(map(str, shape))}-{key}.npy"
    if not is_whole(path, shape):
        remove_leftovers(path.parent)
        _make_room(path.parent, math.prod(shape), what)
        path.unlink(missing_ok=True)  # a damaged one
        with replacing(path, keep=True) as temporary:
            rows = _reserved(temporary, shape, what)
            refuse(_fill(rows, make, what), what)
            rows.flush()
            del rows
    return MappedRows(path)


def is_whole(path: Path, shape: tuple[int, ...]) -> bool:
    """Returns whether a file of the cache exists, and its header and size are those of such an array."""
    try:
        rows = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError, TypeError, SyntaxError, MemoryError, OverflowError):
        return False
    return bool(rows.shape == shape and rows.dtype == np.uint8 and rows.flags.c_contiguous)


def _make_room(folder: Path, size: int, what: str) -> None:
    """Creates the folder and checks its free space: writing to a map beyond it would end in a bus error.

    Raises:
        DataError: There is not enough disk space.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free if os.access(folder, os.W_OK) else 0
    except OSError:
        free = 0
    if free < size:
        raise _no_room(folder, size, what, f"has {free / 1e9:.3f} GB of writable space")


def _reserved(path: Path, shape: tuple[int, ...], what: str) -> "np.memmap[Any, np.dtype[np.uint8]]":
    """Returns an array mapped from a new file, whose space no other process can take.

    Raises:
        DataError: There is not enough disk space.
    """
    try:
        return mapped_array(path, shape, np.uint8)
    except OSError as error:
        raise _no_room(path.parent, math.prod(shape), what, f"cannot hold it: {in_words(error)}") from error


def _no_room(folder: Path, size: int, what: str, found: str) -> DataError:
    return DataError(
        f"{what} needs {size / 1e9:.3f} GB in the cache {folder}, which {found}. Free some, or set the environment "
        "variable BELVEDERE_CACHE to another folder."
    )


def _fill(rows: NDArray[np.uint8], make: Callable[[int], NDArray[np.uint8]], what: str) -> list[str]:
    def fill(index: int) -> list[str]:
        try:
            rows[index] = make(index)
        except DataError as error:
            return error.problems
        return []

    with ThreadPoolExecutor(core_count()) as pool:  # decoders release the interpreter's lock
        done = progress(pool.map(fill, range(len(rows))), what, len(rows))
        return [problem for problems in done for problem in problems]


def check_pictures(files: Sequence[Path], at_least: tuple[int, int] | None = None, channels: Channels = COLOR) -> None:
    """Opens every image, unless the cache has recorded that the same files are readable.

    Args:
        files: Images of one folder.
        at_least: Height and width that suffice, which lets JPEGs be decoded at a lower resolution.
        channels: How rasters are read.

    Raises:
        DataError: Some cannot be read; all are listed.
    """

    def make(index: int) -> NDArray[np.uint8]:
        read_picture(files[index], at_least, channels)
        return np.ones(1, dtype=np.uint8)

    what = f"opening the images of {files[0].parent}"
    cached_array("opened", cache_key(files, channels.recipe() or None), (len(files), 1), make, what)


def unreadable(
    files: Sequence[Path], at_least: tuple[int, int] | None = None, channels: Channels = COLOR
) -> dict[str, str]:
    """Returns the problems of images that cannot be read, by path; see `check_pictures`."""
    try:
        check_pictures(files, at_least, channels)
    except DataError:
        found = {str(file): "".join(collected([partial(read_picture, file, at_least, channels)])) for file in files}
        return {path: problem for path, problem in found.items() if problem}
    return {}
