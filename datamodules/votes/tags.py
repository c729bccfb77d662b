"""Reads semantic tags and photographic styles of images with votes."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datamodules.read.tables import Table, read_lines
from datamodules.votes.votes import Votes
from ops.errors import DataError

STYLES = "style_image_lists"
NUMBER = re.compile(r"[0-9]{1,18}")


@dataclass(frozen=True)
class Tags:
    """Tags of N images.

    Attributes:
        names: Names of all tags that some image has, sorted.
        numbers: Indices into `names`, image by image.
        ends: Bounds of each image's part of `numbers` (N + 1,).
    """

    names: tuple[str, ...]
    numbers: NDArray[np.int16]
    ends: NDArray[np.int64]

    def of(self, row: int) -> list[str]:
        """Returns the names of the tags of an image."""
        return [self.names[number] for number in self.numbers[self.ends[row] : self.ends[row + 1]]]


def read_tags(root: Path, votes: Votes) -> Tags:
    """Reads the tags of images: those of `AVA.txt`, and those of the following files in `root`, all optional.

    - `tags.txt`, as published: `<id> <name>` per line; without it, names are like `tag 15`
    - `style_image_lists/`, as published: `styles.txt`, `train.jpgl` with `train.lab`, `test.jpgl` with `test.multilab`
    - `tags.csv` (`image,tag`) and `styles.csv` (`image,style`): any number of rows per image

    Names of styles are like `style HDR`, since some tags have the same names. The published lists may contain images
    without votes.

    Raises:
        DataError: A file is invalid, or a table has an image without votes.
    """
    row_of = {name: row for row, name in enumerate(votes.names)}
    found = {(row_of[name], style) for name, style in _published_styles(root / STYLES) if name in row_of}
    for column, prefix in (("tag", ""), ("style", "style ")):
        path = root / f"{column}s.csv"
        if path.is_file():
            table = Table(path, ["image", column])
            table.known("image", row_of, lambda name: f"{votes.path} has no votes for {name!r}. Remove the row.")
            table.check()
            pairs = zip(table.rows["image"], table.rows[column], strict=True)
            found |= {(row_of[name], prefix + tag) for name, tag in pairs}
    path = root / "tags.txt"
    published = dict(_numbered(path)) if path.is_file() else {}
    semantic = {number: published.get(number, f"tag {number}") for number in np.unique(votes.tags).tolist() if number}
    return packed(found, len(votes), votes.tags, semantic)


def packed(
    pairs: Iterable[tuple[int, str]],
    count: int,
    numbers: NDArray[np.uint8] | None = None,
    name_of: Mapping[int, str] | None = None,
) -> Tags:
    """Returns tags in compact arrays.

    Args:
        pairs: Rows of images and names of their tags.
        count: Number N of images.
        numbers: Further tags by number, (N, M), 0 for none.
        name_of: Names of these numbers.
    """
    pairs, name_of = list(pairs), name_of or {}
    names = sorted({*name_of.values(), *(name for _, name in pairs)})
    place = {name: number for number, name in enumerate(names)}
    # Each pair of row and tag becomes one number, so that duplicates are easy to drop.
    known = [np.array([row * len(names) + place[name] for row, name in pairs], np.int64)]
    if numbers is not None:
        lookup = np.array([place[name_of[number]] if number in name_of else 0 for number in range(256)], np.int64)
        rows, columns = numbers.nonzero()
        known.append(rows * len(names) + lookup[numbers[rows, columns]])
    owners, tags = np.divmod(np.unique(np.concatenate(known)), max(1, len(names)))
    return Tags(tuple(names), tags.astype(np.int16), np.searchsorted(owners, np.arange(count + 1)))


def _published_styles(folder: Path) -> Iterator[tuple[str, str]]:
    if not folder.is_dir():
        return
    names = {number: f"style {name.replace('_', ' ')}" for number, name in _numbered(folder / "styles.txt")}
    for ids, labels in (("train.jpgl", "train.lab"), ("test.jpgl", "test.multilab")):
        pictures, rows = _fields(folder / ids), _fields(folder / labels)
        if len(pictures) != len(rows):
            raise DataError(
                f"{folder / ids} has {len(pictures)} lines, {folder / labels} {len(rows)}; expected as many of each."
            )
        for (picture, *_), fields in zip(pictures, rows, strict=True):
            # Training images have the number of their style, test images 0 or 1 for every style.
            numbers = fields if labels.endswith(".lab") else [place + 1 for place, each in enumerate(fields) if each]
            for number in numbers:
                if number not in names:
                    raise DataError(f"{folder / labels} has the style {number}, which {folder / 'styles.txt'} lacks.")
                yield f"{picture}.jpg", names[number]


def _numbered(path: Path) -> Iterator[tuple[int, str]]:
    for number, line in read_lines(path):
        head, _, name = line.strip().partition(" ")
        if not NUMBER.fullmatch(head) or not name:
            raise DataError(f"{path}, line {number}: {line!r}; expected a number, a space and a name.")
        yield int(head), name.strip()


def _fields(path: Path) -> list[list[int]]:
    rows = []
    for number, line in read_lines(path):
        fields = line.split()
        if not all(map(NUMBER.fullmatch, fields)):
            raise DataError(f"{path}, line {number}: {line!r}; expected integers of at most 18 digits.")
        rows.append([int(field) for field in fields])
    return rows
