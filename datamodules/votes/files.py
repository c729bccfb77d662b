"""Reads votes: AVA.txt as published, tables of counts, and lists of image ids."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.read.names import composed
from datamodules.read.tables import Table, read_lines
from datamodules.votes.votes import Names, Votes
from ops.errors import DataError, refuse

FIELDS = 15
MOST_VOTES = 10**9  # of one kind on an image; sums of these are exact
AVA_LINE = "the index, the image id, the counts of the votes 1 to 10, two tag ids and the challenge id"
COLUMN = re.compile(r"count_([0-9]{1,6})")
LABELS = ("AVA.txt", "labels.csv")
Where = Callable[[int], str]
"""Returns the place of a row in its file, for messages."""


def find_labels(root: Path, labels: str | Path | None) -> Path:
    """Returns the file of the votes: `labels`, relative to `root`, or else the `AVA.txt` or `labels.csv` in it.

    Raises:
        DataError: There is none, or there are both.
    """
    if labels is not None:
        return root / Path(labels).expanduser()
    found = [root / name for name in LABELS if (root / name).is_file()]
    if len(found) != 1:
        raise DataError(
            f"{root} has {' and '.join(LABELS) if found else 'neither ' + ' nor '.join(LABELS)}; expected votes in one "
            "of them. Choose a file with --data.labels."
        )
    return found[0]


def read_votes(path: Path) -> Votes:
    """Reads votes from a file; its suffix decides the format.

    - `.csv`: columns `image`, the path below `images/`, and `count_1` to `count_K`; others are ignored.
    - `.json`: a list of `{"image_id": "953619", "label": [counts]}`, as in `image-quality-assessment` by idealo.
    - any other: `AVA.txt` (Murray, Marchesotti and Perronnin, "AVA: a large-scale database for aesthetic visual
      analysis", CVPR 2012) with 15 integers per line and image, separated by spaces: index, image id, counts of the
      votes 1 to 10, two semantic tag ids, 0 for none, and a challenge id.

    The file of an image id is `<id>.jpg`.

    Raises:
        DataError: The file is missing, or some lines are invalid; all are listed.
    """
    if not path.is_file():
        raise DataError(f"There is no file {path}.")
    readers: dict[str, Callable[[Path], Votes]] = {".csv": _read_counts, ".json": _read_json}
    return readers.get(path.suffix.lower(), _read_ava)(path)


def read_ids(path: Path, names: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Reads a list of images with a name or an id per line, such as AVA's `generic_test.jpgl`.

    Args:
        path: The list. If a line is no name, what follows a space or comma is ignored.
        names: Names of all images with votes.

    Returns:
        Names, and the problem of each entry without votes.

    Raises:
        DataError: The list is missing, or has no known image.
    """
    known, found = set(names), list[str]()
    unknown: dict[str, str] = {}
    for line in dict.fromkeys(line.strip() for _, line in read_lines(path)):
        entry = re.split(r"[\s,]", line, maxsplit=1)[0]
        name = next((name for name in (line, entry, f"{entry}.jpg") if name in known), None)
        if name is not None:
            found.append(name)
        else:
            unknown[entry] = f"{path} has the image {entry!r}, which has no votes."
    if not found:
        raise DataError(
            f"{path} lists {len(unknown)} images, none of which has votes; expected a name or id per line, such as "
            f"{next(iter(names))!r}."
        )
    return found, unknown


def _read_ava(path: Path) -> Votes:
    lines = read_lines(path)
    if not lines:
        raise DataError(f"{path} is empty; expected a line per image with {AVA_LINE}.")
    try:
        table = np.loadtxt([line for _, line in lines], dtype=np.int64, comments=None, ndmin=2)
    except ValueError:
        table = np.empty((0, 0), np.int64)
    if table.shape != (len(lines), FIELDS):
        refuse([problem for number, line in lines for problem in _misfits(path, number, line)], str(path))
    ids, counts, tags = table[:, 1], table[:, 2:12], table[:, 12:14]

    def where(row: int) -> str:
        return f"{path}, line {lines[row][0]}"

    odd = np.flatnonzero((tags < 0).any(axis=1) | (tags > 255).any(axis=1))
    refuse(
        [f"{where(row)}: the tag ids are {tags[row].tolist()}; expected 0 to 255." for row in odd.tolist()],
        str(path),
    )
    return _votes(path, [f"{number}.jpg" for number in ids.tolist()], counts, tags, where)


def _misfits(path: Path, number: int, line: str) -> list[str]:
    fields = line.split()
    if len(fields) != FIELDS:
        return [f"{path}, line {number}: {len(fields)} fields; expected {FIELDS}: {AVA_LINE}."]
    odd = [field for field in fields if not re.fullmatch(r"[+-]?[0-9]{1,18}", field)]
    return [f"{path}, line {number}: {odd[0]!r} is not an integer of at most 18 digits."] if odd else []


def _read_counts(path: Path) -> Votes:
    table = Table(path, ["image"])
    found = sorted((int(match[1]), name) for name in table.rows.columns if (match := COLUMN.fullmatch(name)))
    columns = [name for _, name in found]
    if len(columns) < 2 or [vote for vote, _ in found] != list(range(1, len(columns) + 1)):
        raise DataError(
            f"{path} has the columns {list(table.rows.columns)}; expected image and count_1, count_2, … up to the "
            "highest vote."
        )
    if table.rows.empty:
        raise DataError(f"{path} has no rows; expected one per image.")
    table.filled("image")
    counts = table.numbers(columns, whole=True)
    table.check()
    lines, tags = table.rows.index.to_numpy(), np.zeros((len(counts), 0), np.uint8)
    names = table.rows["image"].tolist()
    return _votes(path, names, counts.astype(np.int64), tags, lambda row: f"{path}, row {lines[row]}")


def _read_json(path: Path) -> Votes:
    try:
        entries = json.loads("\n".join(line for _, line in read_lines(path)))
        labels = [entry["label"] for entry in entries]
        names = [composed(f"{entry['image_id']}.jpg") for entry in entries]  # escapes hide accents from `read_text`
        "".join(names).encode()  # escapes may also be half of a character
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DataError(
            f'{path} cannot be read as a list of {{"image_id": …, "label": [counts]}}: {error!r}'
        ) from error
    bins = len(labels[0]) if labels and isinstance(labels[0], list) else 0
    odd = [
        index for index, label in enumerate(labels)
        if not isinstance(label, list) or len(label) != bins
        or any(type(count) is not int or abs(count) > MOST_VOTES for count in label)
    ]  # fmt: skip
    refuse([f"{path}, entry {index}: the label is {labels[index]}; expected {bins} integers up to {MOST_VOTES:,}, "
            "as in the first entry."
            for index in odd], str(path))  # fmt: skip
    if bins < 2:
        raise DataError(f"{path} has {len(labels)} entries with {bins} counts; expected 2 or more counts.")
    tags = np.zeros((len(names), 0), np.uint8)
    return _votes(path, names, np.array(labels, np.int64), tags, lambda row: f"{path}, entry {row}")


def _votes(path: Path, names: list[str], counts: NDArray[np.int64], tags: NDArray[Any], where: Where) -> Votes:
    """Returns votes in compact arrays.

    Raises:
        DataError: Counts are negative or all 0, or an image is repeated; all problems are listed.
    """
    problems = [
        f"{where(row)}: {names[row]!r} has the counts {counts[row].tolist()}; expected 0 to {MOST_VOTES:,}."
        for row in np.flatnonzero(((counts < 0) | (counts > MOST_VOTES)).any(axis=1)).tolist()
    ]
    problems += [
        f"{where(row)}: {names[row]!r} has no votes. Remove it."
        for row in np.flatnonzero((counts == 0).all(axis=1)).tolist()
    ]
    first: dict[str, int] = {}
    problems += [
        f"{where(row)}: {names[row]!r} already has votes ({where(first[name]).rpartition(', ')[2]}). Remove one."
        for row, name in enumerate(names)
        if first.setdefault(name, row) != row
    ]
    refuse(problems, str(path))
    return Votes(path, Names(names), counts.astype(np.min_scalar_type(int(counts.max()))), tags.astype(np.uint8))
