"""Claims of folders and files, which the kernel ends with the process that made them, even if it is killed."""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from ops.errors import FolderError

NAME = ".in-use"


@contextmanager
def claimed(folder: Path, user: str) -> Iterator[None]:
    """Keeps other processes from claiming a folder.

    The folder is created if missing, and removed in the end if nothing was written into it. On a file system without
    locks, nothing is claimed.

    Args:
        folder: The folder.
        user: Who uses it, such as `belvedere fit`; other processes name it in their errors.

    Raises:
        FolderError: Another process has claimed it.
    """
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / NAME
    file = _opened(path)
    try:
        file.truncate(0)
        file.write(f"{user}, process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield
    finally:
        path.unlink(missing_ok=True)  # before the lock ends: afterwards the file may be another process's
        file.close()
        with suppress(OSError):
            for each in made:
                each.rmdir()


def is_claimed(folder: Path) -> bool:
    """Returns whether another process has claimed a folder."""
    try:
        with (folder / NAME).open("r+") as file:
            return not _locked(file)
    except OSError:
        return False


def _opened(path: Path) -> IO[str]:
    """Returns a lock's file, locked."""
    while True:
        file = path.open("a+")
        if not _locked(file):
            file.seek(0)
            user = file.read() or "another process"
            file.close()
            raise FolderError(
                f"{path.parent} is in use by {user}. Wait until it ends, or choose another folder: --output FOLDER."
            )
        with suppress(FileNotFoundError):  # its last user may have removed it between our two calls
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()


def _locked(file: IO[str]) -> bool:
    """Locks a file; returns False if another process has.

    Other than that of `flock`, the lock is not inherited by loader workers, which outlive a killed process.
    """
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        pass  # the file system has no locks
    return True
