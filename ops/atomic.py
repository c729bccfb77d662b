"""Atomic writes: a file is either complete or absent."""

import csv
import errno
import fcntl
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, TYPE_CHECKING, Any

from ops.errors import ArgumentError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import DTypeLike

PREFIX = ".part-"
FORMULA = re.compile(r"[=+\-@\t\r]")
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


@contextmanager
def replacing(path: Path, *, sync: bool = False, keep: bool = False) -> Iterator[Path]:
    """Yields a temporary path beside `path` and renames it to `path` when the block succeeds.

    The temporary name is unique across processes and machines, and it keeps the suffix, from which some libraries
    choose their format. An error in the block removes the temporary file and leaves an existing file as it was.

    Args:
        path: The target. Missing parent folders are created.
        sync: Flush the file to disk before the rename, so that it survives a crash of the machine.
        keep: Keep a file that another process has put there in the meantime. Over NFS, replacing it would break that
            process's memory map.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{PREFIX}{uuid.uuid4().hex[:8]}-{path.name}")
    with _created(temporary):
        try:
            yield temporary
            if sync:
                with temporary.open("rb") as file:
                    os.fsync(file.fileno())
            if not (keep and path.exists()):
                os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path, *, keep: bool = False) -> Iterator[Path]:
    """Yields a temporary folder beside `path` and renames it to `path`, which must not exist or be empty, at the end.

    An error in the block removes the temporary folder.

    Args:
        path: The target. Missing parent folders are created.
        keep: Keep a folder that another process has put there in the meantime.
    """
    with temporary_folder(path) as temporary:
        yield temporary
        try:
            os.replace(temporary, path)
        except OSError:
            if not (keep and path.is_dir()):
                raise


@contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """Yields an empty folder beside `path`, and removes it at the end unless it was moved.

    If the process is killed, `remove_leftovers` of another one removes it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{PREFIX}{uuid.uuid4().hex[:8]}-{path.name}")
    temporary.mkdir()
    handle = os.open(temporary, os.O_RDONLY)
    try:
        with suppress(OSError):  # the file system has no locks
            fcntl.flock(handle, fcntl.LOCK_SH)
        yield temporary
    finally:
        os.close(handle)
        shutil.rmtree(temporary, ignore_errors=True)


def _created(path: Path) -> IO[bytes]:
    """Returns an empty file, locked against `remove_leftovers` of other processes."""
    while True:
        file = path.open("wb")
        with suppress(OSError):  # the file system has no locks
            fcntl.flock(file, fcntl.LOCK_EX)
        if path.exists():  # else another process has removed it between our two calls
            return file
        file.close()


def write_text(path: Path, text: str) -> None:
    """Writes a UTF-8 text file atomically; file names in it keep their bytes, whatever their encoding."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="surrogateescape")


def write_table(path: Path, header: Iterable[object], rows: Iterable[Iterable[object]]) -> None:
    """Writes a UTF-8 CSV table atomically; file names in it keep their bytes, whatever their encoding.

    Texts that a spreadsheet would take for a formula get an apostrophe, see `harmless`.
    """
    cells = ([harmless(cell) for cell in row] for row in (header, *rows))
    with (
        replacing(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        csv.writer(_Lines(file), lineterminator="\r\n").writerows(cells)


class _Lines:
    """Writes the rows of `csv.writer`, which quotes only the line ends that it writes itself, with a line feed."""

    def __init__(self, file: IO[str]) -> None:
        self.file = file

    def write(self, row: str) -> None:
        self.file.write(row.removesuffix("\r\n") + "\n")


def harmless(cell: Any) -> Any:
    """Returns a cell that no spreadsheet computes: a text that begins like a formula, but is no number, gets an "'"."""
    formula = isinstance(cell, str) and FORMULA.match(cell) and not NUMBER.fullmatch(cell)
    return f"'{cell}" if formula else cell


def remove_leftovers(*folders: Path) -> None:
    """Removes temporary files and folders that killed processes left in folders; those of running processes stay."""
    for path in (each for folder in folders for each in folder.glob(f"{PREFIX}*")):
        with suppress(OSError):
            handle = os.open(path, os.O_RDONLY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
            finally:
                os.close(handle)


def check_writable(folder: Path) -> None:
    """Checks that files can be written into a folder, which need not exist, and leaves nothing behind.

    Raises:
        ArgumentError: They cannot.
    """
    made: list[Path] = []
    try:
        made += [each for each in (folder, *folder.parents) if not each.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder) as probe:
            probe.write(b"x")
    except OSError as error:
        reason = f"{folder.name} is a file" if isinstance(error, FileExistsError) else in_words(error)
        raise ArgumentError(
            f"Nothing can be written to {folder}: {reason}. Choose another folder with --output."
        ) from error
    finally:
        with suppress(OSError):  # another process may use it already
            for each in made:
                each.rmdir()


def mapped_array(path: Path, shape: tuple[int, ...], dtype: "DTypeLike") -> "np.memmap[Any, Any]":
    """Creates a .npy file on reserved space and maps it: writing to a map beyond a full disk would end the process.

    Raises:
        OSError: There is not enough space.
    """
    import numpy as np

    mapped: np.memmap[Any, Any] = np.lib.format.open_memmap(path, mode="w+", dtype=np.dtype(dtype), shape=shape)
    with path.open("r+b") as file:
        size = path.stat().st_size
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:  # macOS
            file.seek(size - mapped.nbytes)
            for start in range(0, mapped.nbytes, 1 << 24):
                file.write(bytes(min(1 << 24, mapped.nbytes - start)))
    return mapped


def in_words(error: OSError) -> str:
    """Returns what an error of the system means, as part of a sentence."""
    text = error.strerror or str(error).strip().split("\n")[-1]
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return f"{text} (free some space on the disk or in the quota, then try again)" if full else text
