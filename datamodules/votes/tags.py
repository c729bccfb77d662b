"""What else is known of pictures with votes: semantic tags and photographic styles, by name."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datamodules.read.tables import read_table
from datamodules.votes.votes import Votes
from ops.errors import DataError, refuse

STYLES = "style_image_lists"


@dataclass(frozen=True)
class Tags:
    """Tags of N pictures.

    Attributes:
        names: Of all tags that some picture has, sorted.
        numbers: Places in `names`, those of each picture one behind the other.
        ends: Where the first picture's begin and each one's end (N + 1,).
    """

    names: tuple[str, ...]
    numbers: NDArray[np.int16]
    ends: NDArray[np.int64]

    def of(self, row: int) -> list[str]:
        """Names of the tags of a picture."""
        return [self.names[number] for number in self.numbers[self.ends[row] : self.ends[row + 1]]]


def read_tags(root: Path, votes: Votes) -> Tags:
    """The tags of pictures: those of `AVA.txt`, and what lies in `root` of these files.

    - `tags.txt`, as published: `<id> <name>` a line; without it, tags are called `tag 15`
    - `style_image_lists/`, as published: `styles.txt`, `train.jpgl` with `train.lab`, `test.jpgl` with `test.multilab`
    - `tags.csv` (`image,tag`) and `styles.csv` (`image,style`): any number of rows a picture

    A style is called `style HDR`, because some tags have the same names. Published lists may have pictures that there
    are no votes on.

    Raises:
        DataError: A file is not as wanted, or a table has a picture that there are no votes on.
    """
    row_of = {name: row for row, name in enumerate(votes.names)}
    found = {(row_of[name], style) for name, style in _published_styles(root / STYLES) if name in row_of}
    for column, prefix in (("tag", ""), ("style", "style ")):
        path = root / f"{column}s.csv"
        if path.is_file():
            table = read_table(path, ["image", column])
            refuse([f"{path}, row {row}: there are no votes on the picture {name!r} in {votes.path}. Remove the row."
                    for row, name in table["image"].items() if name not in row_of], str(path))  # fmt: skip
            found |= {(row_of[name], prefix + tag) for name, tag in zip(table["image"], table[column], strict=True)}
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
    """Tags of so many pictures.

    Args:
        pairs: Rows and names of tags that they have.
        count: N, of the pictures.
        numbers: Tags that they have too, by number, (N, M), 0 for none.
        name_of: Names of these.
    """
    pairs, name_of = list(pairs), name_of or {}
    names = sorted({*name_of.values(), *(name for _, name in pairs)})
    place = {name: number for number, name in enumerate(names)}
    # A pair of a row and a tag is one number: those that come twice are then easily dropped.
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
            raise DataError(f"{folder / ids} has {len(pictures)} lines, {folder / labels} {len(rows)}; as many of each "
                            "were wanted.")  # fmt: skip
        for (picture, *_), fields in zip(pictures, rows, strict=True):
            # Training pictures have the number of their style, test pictures 0 or 1 for every style.
            numbers = fields if labels.endswith(".lab") else [place + 1 for place, each in enumerate(fields) if each]
            for number in numbers:
                if number not in names:
                    raise DataError(f"{folder / labels} has the style {number}, which {folder / 'styles.txt'} lacks.")
                yield f"{picture}.jpg", names[number]


def _numbered(path: Path) -> Iterator[tuple[int, str]]:
    for number, line in _lines(path):
        head, _, name = line.strip().partition(" ")
        if not head.isdigit() or not name:
            raise DataError(f"{path}, line {number}: {line!r}; a number, a space and a name were wanted.")
        yield int(head), name.strip()


def _fields(path: Path) -> list[list[int]]:
    rows = []
    for number, line in _lines(path):
        fields = line.split()
        if not all(field.isdigit() for field in fields):
            raise DataError(f"{path}, line {number}: {line!r}; whole numbers were wanted.")
        rows.append([int(field) for field in fields])
    return rows


def _lines(path: Path) -> list[tuple[int, str]]:
    """The lines of a file that are not blank, with their numbers."""
    try:
        lines = path.read_text("utf-8-sig").splitlines()
        return [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} could not be read as text: {error}") from error
