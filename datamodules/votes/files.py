"""Reading votes: AVA.txt as it is published, tables of counts, and lists of picture ids."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.read.tables import read_table
from datamodules.votes.votes import Names, Votes
from ops.errors import DataError, refuse

FIELDS = 15
AVA_LINE = "the index, the image id, the counts of the votes 1 to 10, two tag ids and the challenge id"
COLUMN = re.compile(r"count_(\d+)")
LABELS = ("AVA.txt", "labels.csv")
Where = Callable[[int], str]
"""Names the place in a file that an entry stands at."""


def find_labels(root: Path, labels: str | Path | None) -> Path:
    """The file of the votes: `labels`, seen from `root`, or else the `AVA.txt` or `labels.csv` in it.

    Raises:
        DataError: There is none, or there are both.
    """
    if labels is not None:
        return root / Path(labels).expanduser()
    found = [root / name for name in LABELS if (root / name).is_file()]
    if len(found) != 1:
        raise DataError(
            f"{root} has {' and '.join(LABELS) if found else 'neither ' + ' nor '.join(LABELS)}; votes in one of them "
            "were wanted. Name a file: --data.labels."
        )
    return found[0]


def read_votes(path: Path) -> Votes:
    """The votes of a file, by its ending.

    - `.csv`: columns `image`, the path below `images/`, and `count_1` to `count_K`; others are passed over.
    - `.json`: a list of `{"image_id": "953619", "label": [counts]}`, as `image-quality-assessment` of idealo has it.
    - any other, `AVA.txt` (Murray, Marchesotti and Perronnin, "AVA: a large-scale database for aesthetic visual
      analysis", CVPR 2012): a line a picture, separated by spaces, of 15 whole numbers: index, image id, counts of the
      votes 1 to 10, two semantic tag ids, 0 for none, and a challenge id.

    Pictures named by ids are `<id>.jpg`.

    Raises:
        DataError: The file is missing, or lines are not as wanted; all are listed.
    """
    if not path.is_file():
        raise DataError(f"There is no file {path}.")
    readers: dict[str, Callable[[Path], Votes]] = {".csv": _read_counts, ".json": _read_json}
    return readers.get(path.suffix.lower(), _read_ava)(path)


def read_ids(path: Path, names: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The pictures of a list with a name or an id a line, such as AVA's `generic_test.jpgl`.

    Args:
        path: The list. Where a line is no name, what follows after a space or comma is passed over.
        names: Of all pictures that there are votes on.

    Returns:
        Names, and for each entry that there are no votes on, what is wrong with it.

    Raises:
        DataError: The list is missing, or none of its pictures is known.
    """
    known, found = set(names), list[str]()
    unknown: dict[str, str] = {}
    for line in dict.fromkeys(line.strip() for line in _lines(path)):
        entry = re.split(r"[\s,]", line, maxsplit=1)[0]
        name = next((name for name in (line, entry, f"{entry}.jpg") if name in known), None)
        if name is not None:
            found.append(name)
        elif line:
            unknown[entry] = f"{path} has the picture {entry!r}, on which there are no votes."
    if not found:
        raise DataError(
            f"{path} lists {len(unknown)} pictures, and there are no votes on any of them. Names or ids, a line each, "
            f"were wanted, such as {next(iter(names))!r}."
        )
    return found, unknown


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} could not be read as text: {error}") from error


def _read_ava(path: Path) -> Votes:
    lines = _lines(path)
    numbers = [number for number, line in enumerate(lines, start=1) if line.strip()]
    if not numbers:
        raise DataError(f"{path} is empty; a line a picture was wanted: {AVA_LINE}.")
    try:
        table = np.loadtxt(lines, dtype=np.int64, comments=None, ndmin=2)
    except ValueError:
        table = np.empty((0, 0), np.int64)
    if table.shape != (len(numbers), FIELDS):
        refuse([problem for number in numbers for problem in _misfits(path, number, lines[number - 1])], str(path))
    ids, counts, tags = table[:, 1], table[:, 2:12], table[:, 12:14]

    def where(row: int) -> str:
        return f"{path}, line {numbers[row]}"

    odd = np.flatnonzero((tags < 0).any(axis=1) | (tags > 255).any(axis=1))
    refuse(
        [f"{where(row)}: the tag ids are {tags[row].tolist()}; 0 to 255 were wanted." for row in odd.tolist()],
        str(path),
    )
    return _votes(path, [f"{number}.jpg" for number in ids.tolist()], counts, tags, where)


def _misfits(path: Path, number: int, line: str) -> list[str]:
    fields = line.split()
    if len(fields) != FIELDS:
        return [f"{path}, line {number}: {len(fields)} fields; {FIELDS} were wanted: {AVA_LINE}."]
    odd = [field for field in fields if not re.fullmatch(r"[+-]?\d{1,18}", field)]
    return [f"{path}, line {number}: {odd[0]!r} is no whole number."] if odd else []


def _read_counts(path: Path) -> Votes:
    import pandas as pd

    table = read_table(path, ["image"])
    found = [(int(match[1]), name) for name in table.columns if (match := COLUMN.fullmatch(name))]
    columns = [name for _, name in sorted(found)]
    if len(columns) < 2 or [vote for vote, _ in sorted(found)] != list(range(1, len(columns) + 1)):
        raise DataError(
            f"{path} has the columns {list(table.columns)}; image and count_1, count_2, … up to the best vote were "
            "wanted."
        )
    if table.empty:
        raise DataError(f"{path} has no rows; one a picture was wanted.")
    counts = np.stack([pd.to_numeric(table[name], errors="coerce").to_numpy(np.float64) for name in columns], axis=1)
    lines = table.index.to_numpy()
    odd = np.argwhere(~(np.isfinite(counts) & (counts == np.round(counts)) & (np.abs(counts) < 2**53)))
    refuse(
        [f"{path}, row {lines[row]}: {columns[column]} is {table[columns[column]].iloc[row]!r}; a whole number was "
         "wanted." for row, column in odd]
        + [f"{path}, row {row}: there is no name in the column image." for row in table.index[table["image"] == ""]],
        str(path),
    )  # fmt: skip
    tags = np.zeros((len(table), 0), np.uint8)
    return _votes(path, table["image"].tolist(), counts.astype(np.int64), tags, lambda row: f"{path}, row {lines[row]}")


def _read_json(path: Path) -> Votes:
    try:
        entries = json.loads("\n".join(_lines(path)))
        labels = [entry["label"] for entry in entries]
        names = [f"{entry['image_id']}.jpg" for entry in entries]
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(
            f'{path} could not be read as a list of {{"image_id": …, "label": [counts]}}: {error!r}'
        ) from error
    bins = len(labels[0]) if labels and isinstance(labels[0], list) else 0
    odd = [
        index for index, label in enumerate(labels)
        if not isinstance(label, list) or len(label) != bins or any(type(count) is not int for count in label)
    ]  # fmt: skip
    refuse([f"{path}, entry {index}: the label is {labels[index]}; {bins} whole numbers were wanted, as of the first."
            for index in odd], str(path))  # fmt: skip
    if bins < 2:
        raise DataError(f"{path} has {len(labels)} entries with {bins} counts; 2 or more counts were wanted.")
    tags = np.zeros((len(names), 0), np.uint8)
    return _votes(path, names, np.array(labels, np.int64), tags, lambda row: f"{path}, entry {row}")


def _votes(path: Path, names: list[str], counts: NDArray[np.int64], tags: NDArray[Any], where: Where) -> Votes:
    """Votes in compact arrays.

    Raises:
        DataError: Counts are negative or all 0, or a picture comes again; all are listed.
    """
    problems = [
        f"{where(row)}: {names[row]!r} has the counts {counts[row].tolist()}; none below 0 were wanted."
        for row in np.flatnonzero((counts < 0).any(axis=1)).tolist()
    ]
    problems += [
        f"{where(row)}: {names[row]!r} has no votes, all counts are 0. Remove it."
        for row in np.flatnonzero((counts == 0).all(axis=1)).tolist()
    ]
    first: dict[str, int] = {}
    problems += [
        f"{where(row)}: {names[row]!r} has votes already ({where(first[name]).rpartition(', ')[2]}). Remove one."
        for row, name in enumerate(names)
        if first.setdefault(name, row) != row
    ]
    refuse(problems, str(path))
    return Votes(path, Names(names), counts.astype(np.min_scalar_type(int(counts.max()))), tags.astype(np.uint8))
