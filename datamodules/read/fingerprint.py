"""Identifies a dataset, so that only metrics measured on the same data are compared."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from datamodules.read.names import RUNS, SYSTEM, composed
from ops.files.images import suffixes

WHOLE = 256 * 2**20  # bytes up to which every file is read


def fingerprint(root: Path, tested: Iterable[str], truth: Iterable[str | Path] = ()) -> str:
    """Returns 16 hexadecimal digits that identify the data that metrics are measured on.

    They depend on

    - the path from `root` and the size of every file below it, except hidden files, those of Windows, and the folder
      `runs`;
    - the content of every file that is not an image: tables, votes, lists. If all files together have at most 256 MiB,
      the content of images and masks too. In a larger dataset an image replaced by one of equal size goes unnoticed:
      reading 250,000 images again would take too long;
    - the names of the test images, but not of the others: runs that train on different images of the same dataset can
      be compared;
    - what else decides the ground truth, such as a threshold of votes.

    They do not depend on where the folder lies, the order in which the file system lists it, file times, the encoding
    of accents (macOS), or the sizes that images are resized to.

    Args:
        root: Folder of the dataset; links are followed.
        tested: Names of the test images.
        truth: Settings as text, and files, which are read wherever they lie.
    """
    files = sorted(_files(root))
    whole = sum(size for _, size, _ in files) <= WHOLE
    digest = hashlib.sha256()
    for name, size, path in files:
        read = whole or path.suffix.lower() not in suffixes()
        _add(digest, "file", name, str(size), _bytes_of(path) if read else "")
    _add(digest, "tested", *sorted(map(composed, tested)))
    for each in truth:
        _add(digest, "truth", each if isinstance(each, str) else _bytes_of(each))
    return digest.hexdigest()[:16]


def _files(root: Path) -> Iterator[tuple[str, int, Path]]:
    """Yields the path from the root, the size in bytes and the path of every file that counts."""
    seen: set[tuple[int, int]] = set()
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        state = folder.stat()
        if (state.st_dev, state.st_ino) in seen:  # a link to a folder above
            continue
        seen.add((state.st_dev, state.st_ino))
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name, reverse=True):
                path = Path(entry.path)
                if entry.name.startswith(".") or entry.name.lower() in SYSTEM or path == root / RUNS:
                    continue
                if entry.is_dir():
                    waiting.append(path)
                elif entry.is_file():
                    yield composed(path.relative_to(root).as_posix()), entry.stat().st_size, path


def _bytes_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _add(digest: "hashlib._Hash", *parts: str) -> None:
    """Adds texts with their lengths, so that no other texts give the same bytes."""
    for part in _lengths(parts):
        digest.update(part)


def _lengths(parts: Sequence[str]) -> Iterator[bytes]:
    coded = [part.encode("utf-8", errors="surrogateescape") for part in parts]
    yield f"{len(coded)};".encode()
    for part in coded:
        yield f"{len(part)}:".encode() + part
