"""Atomic writes: a file is either complete or absent."""

import csv
import fcntl
import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

PREFIX = ".part-"


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
    """Writes a UTF-8 text file atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_table(path: Path, header: Iterable[object], rows: Iterable[Iterable[object]]) -> None:
    """Writes a UTF-8 CSV table atomically; file names in it keep their bytes, whatever their encoding."""
    with (
        replacing(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        csv.writer(_Lines(file)).writerows([header, *rows])


class _Lines:
    """Ends the lines of a `csv.writer` with a line feed alone; told to do so, it would not quote carriage returns."""

    def __init__(self, file: IO[str]) -> None:
        self.file = file

    def write(self, line: str) -> None:
        self.file.write(line.removesuffix("\r\n") + "\n")


def remove_leftovers(*folders: Path) -> None:
    """Removes the temporary files that killed processes left in folders; those of running processes stay."""
    for folder in folders:
        for path in folder.glob(f"{PREFIX}*"):
            with suppress(OSError), path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink(missing_ok=True)
