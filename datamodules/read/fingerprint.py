"""A digest of a data set: the same for its copies, another one where figures would be of something else."""

import hashlib
import os
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from datamodules.read.pictures import PICTURE_SUFFIXES

WHOLE = 256 * 2**20  # bytes of a data set that is read whole
IGNORED = ("thumbs.db", "desktop.ini")  # Windows makes them where somebody looks
RUNS = "runs"  # where runs are written by default, if that is in the data set's folder


def fingerprint(root: Path, tested: Iterable[str], truth: Iterable[str | Path] = ()) -> str:
    """Which data figures are measured on, 16 hexadecimal digits.

    It is made of

    - the path from `root` and the size in bytes of every file below it, but for hidden ones, those of Windows, and the
      folder `runs`;
    - the bytes of every file that is no picture: tables, votes, lists. Where all files together have at most 256 MiB,
      those of the pictures and masks too. In a larger set a picture that was exchanged for one of exactly as many bytes
      is not noticed: 250,000 pictures are not read again to find that out;
    - the names of the test pictures. Which of the others a run learns from, by a seed or a setting, is its own affair:
      its figures compare with those of runs that learn from others;
    - what else decides about the truth, such as a threshold of votes.

    It does not depend on where the folder lies, in what order a file system lists it, times, or how names with accents
    are coded (macOS). Sizes that pictures are brought to are not in it.

    Args:
        root: The folder of the data set; links are followed.
        tested: Names of the test pictures.
        truth: Settings as text, and files, wherever they lie, which are read.
    """
    files = sorted(_files(root))
    whole = sum(size for _, size, _ in files) <= WHOLE
    digest = hashlib.sha256()
    for name, size, path in files:
        read = whole or path.suffix.lower() not in PICTURE_SUFFIXES
        _add(digest, "file", name, str(size), _bytes_of(path) if read else "")
    _add(digest, "tested", *sorted(map(_composed, tested)))
    for each in truth:
        _add(digest, "truth", each if isinstance(each, str) else _bytes_of(each))
    return digest.hexdigest()[:16]


def _files(root: Path) -> Iterator[tuple[str, int, Path]]:
    """Path from the root, size in bytes, and path of every file that counts."""
    seen: set[tuple[int, int]] = set()
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        state = folder.stat()
        if (state.st_dev, state.st_ino) in seen:  # links that lead in a circle
            continue
        seen.add((state.st_dev, state.st_ino))
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name, reverse=True):
                path = Path(entry.path)
                if entry.name.startswith(".") or entry.name.lower() in IGNORED or path == root / RUNS:
                    continue
                if entry.is_dir():
                    waiting.append(path)
                elif entry.is_file():
                    yield _composed(path.relative_to(root).as_posix()), entry.stat().st_size, path


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _bytes_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _add(digest: "hashlib._Hash", *parts: str) -> None:
    """Adds texts so that no others add up to the same."""
    for part in _lengths(parts):
        digest.update(part)


def _lengths(parts: Sequence[str]) -> Iterator[bytes]:
    coded = [part.encode("utf-8", errors="surrogateescape") for part in parts]
    yield f"{len(coded)};".encode()
    for part in coded:
        yield f"{len(part)}:".encode() + part
