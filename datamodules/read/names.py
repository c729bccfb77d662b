"""Lists the images of a folder, and gives names one spelling: NFC, relative to the folder, with `/`."""

import os
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ops.errors import DataError, refuse
from ops.files.images import CANNOT, suffixes

SYSTEM = ("thumbs.db", "desktop.ini")  # created by Windows
RUNS = "runs"  # default folder of runs, which may be inside the dataset
_reported: set[tuple[Path, str]] = set()


def composed(text: str) -> str:
    """Returns a text in NFC: macOS writes "ü" as two characters, tables have one."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def located(folder: Path, name: str) -> Path:
    """Returns the file of a name below a folder, whose own spelling may be another one; see `composed`."""
    if name.isascii() or (folder / name).exists():
        return folder / name
    place = folder
    for part in name.split("/"):
        inner = os.listdir(place) if place.is_dir() else []
        place /= next((each for each in inner if composed(each) == part), part)
    return place


def tree_names(folder: Path, also: Sequence[str] = (), report: bool = True, empty: bool = False) -> list[str]:
    """Returns the names of the images anywhere below a folder, sorted; see `composed`.

    Links are followed; hidden files and folders, and the folder `runs`, are skipped.

    Args:
        folder: The folder.
        also: Further suffixes to list.
        report: Whether to report, once, what else is skipped.
        empty: Whether there may be no image.

    Raises:
        DataError: There is no folder, it cannot be listed, has no image below it though it should, or two names have
            the same spelling.
    """
    known = *suffixes(), *also
    expected = " ".join(sorted(known))
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}. Give the path of images ({expected}).")
    names, others, seen = list[str](), Counter[str](), set[str]()
    for place, folders, files in os.walk(folder, followlinks=True, onerror=_unlisted):
        seen.add(os.path.realpath(place))
        # A link to a folder above would never end.
        folders[:] = [name for name in folders if not name.startswith(".")
                      and os.path.realpath(os.path.join(place, name)) not in seen]  # fmt: skip
        if RUNS in folders and Path(place) == folder:
            folders.remove(RUNS)
            others[f"the folder {RUNS}/"] += 1
        for name in files:
            suffix = os.path.splitext(name)[1].lower()
            if suffix in known and not name.startswith("."):  # macOS: ._picture.jpg
                names.append(composed(Path(place, name).relative_to(folder).as_posix()))
            elif not name.startswith(".") and name.lower() not in SYSTEM:
                others[suffix or "without a suffix"] += 1
    skipped = _in_words(others)
    if not names and not empty:
        found = f"; skipped: {skipped}" if skipped else ""
        raise DataError(f"{folder} contains no images{found}. Expected files ending in {expected}.")
    refuse([f"{folder} has {count} images named {name!r}, which differ in the encoding of accents only. Keep one."
            for name, count in Counter(names).items() if count > 1], str(folder))  # fmt: skip
    if report and skipped and (folder, skipped) not in _reported:
        from lightning.pytorch.utilities import rank_zero_info

        _reported.add((folder, skipped))
        rank_zero_info(f"{folder}: {len(names)} images; skipped: {skipped}.")
    return sorted(names)


def picture_files(path: Path) -> list[Path]:
    """Returns the images anywhere below a folder, sorted by name, or the one file that `path` is.

    Raises:
        DataError: See `predicted_names`.
    """
    folder, names = predicted_names(path, unique=False)
    return [located(folder, name) for name in names]


def predicted_names(pictures: Path, unique: bool = True) -> tuple[Path, list[str]]:
    """Returns a folder and the names of the images below it, or the folder and name of a single image.

    Args:
        pictures: A folder or a file.
        unique: Whether the names must also differ without their suffixes, which the names of outputs lack.

    Raises:
        DataError: There are no images, or two whose outputs would have the same name.
    """
    if pictures.is_file():
        return pictures.parent, [composed(pictures.name)]
    if not pictures.exists():
        raise DataError(f"There is no folder or file {pictures}. Give the path of images ({' '.join(suffixes())}).")
    names = tree_names(pictures)
    if unique:
        refuse(same_stems(names), str(pictures))
    return pictures, names


def stem(name: str) -> str:
    """Returns the name of an image without its suffix: what its mask and its outputs share with it."""
    return os.path.splitext(name)[0]


def same_stems(names: Sequence[str]) -> list[str]:
    """Returns a problem for each stem that several images share, since their outputs would have the same name."""
    return [
        f"{count} images are named {each}.*; their outputs would overwrite each other. Rename all but one."
        for each, count in Counter(map(stem, names)).items()
        if count > 1
    ]


def _unlisted(error: OSError) -> None:
    raise DataError(f"The folder {error.filename} cannot be listed: {error.strerror}.") from error


def _in_words(others: Counter[str]) -> str:
    """Returns how many files were skipped, by suffix, and why."""
    parts = [
        kind if kind.startswith("the folder") else f"{count} {kind} ({CANNOT.get(kind, 'not an image')})"
        for kind, count in sorted(others.items())
    ]
    return ", ".join(parts)
