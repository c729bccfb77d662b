"""Reads CSV tables and plain-text lists, and checks their rows."""

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from io import StringIO
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from datamodules.read.names import composed
from ops.errors import DataError, refuse

if TYPE_CHECKING:
    import pandas as pd

LARGEST = 2**53  # integers up to here are exact as float64
NUMBER = re.compile(r"\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,4})?\s*")  # Python takes more: 1_0, ١


class Table:
    """A CSV table whose checks collect every problem before anything is rejected.

    Args:
        path: The file.
        columns: Columns that it must have.

    Raises:
        DataError: The file cannot be read or lacks a column.

    Attributes:
        rows: All cells as text, "" where empty; the index is the line number, 1 for the header.
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.path = path
        self.rows = read_table(path, columns)
        self._problems: list[tuple[int, str]] = []

    def add(self, row: Any, problem: str) -> None:  # pandas types index labels as Hashable
        """Adds a problem of a row, given by its line number."""
        self._problems.append((int(row), problem))

    def known(self, column: str, values: Iterable[str], problem: Callable[[str], str]) -> None:
        """Adds a problem for each cell that is none of these values.

        Args:
            column: The column to check.
            values: Values that are allowed.
            problem: Describes an unknown value.
        """
        cells = self.rows[column]
        for row, value in cells[~cells.isin(set(values))].items():
            self.add(row, problem(value))

    def unique(self, *columns: str) -> None:
        """Adds a problem for each row that repeats the cells of an earlier one in these columns."""
        for row, *cells in self.rows.loc[self.rows.duplicated(list(columns)), list(columns)].itertuples():
            self.add(row, f"{' '.join(cells)!r} already has a row. Remove one of them.")

    def filled(self, column: str) -> None:
        """Adds a problem for each empty cell of a column."""
        for row in self.rows.index[self.rows[column] == ""]:
            self.add(row, f"the column {column} is empty. Fill it in.")

    def numbers(self, columns: Sequence[str], whole: bool = False) -> NDArray[np.float64]:
        """Returns the cells of some columns as numbers (rows, columns), NaN where a cell is not one.

        Args:
            columns: The columns to read.
            whole: Whether only integers are allowed.
        """
        import pandas as pd

        texts = [self.rows[column].where(self.rows[column].str.fullmatch(NUMBER), "") for column in columns]
        cells = [pd.to_numeric(text, errors="coerce").to_numpy(np.float64) for text in texts]
        values = np.stack(cells, axis=1)
        good = np.isfinite(values)
        if whole:
            good &= (values == np.round(values)) & (np.abs(values) < LARGEST)
        kind = f"an integer below {LARGEST:,}" if whole else "a number"
        for place, column in np.argwhere(~good):
            name = columns[column]
            self.add(self.rows.index[place], f"{name} is {self.rows[name].iloc[place]!r}; expected {kind}.")
        return np.where(good, values, np.nan)

    def problems(self) -> list[str]:
        """Returns what is wrong with the rows, in their order."""
        return [f"{self.path}, row {row}: {problem}" for row, problem in sorted(self._problems, key=itemgetter(0))]

    def check(self, more: Collection[str] = ()) -> None:
        """Rejects the table if any check found a problem.

        Args:
            more: Further problems, of the table as a whole.

        Raises:
            DataError: There are problems; all are listed.
        """
        refuse([*self.problems(), *more], str(self.path))


def no_image(folder: Path, advice: str = "Remove the row.") -> Callable[[str], str]:
    """Returns what describes a name that no image of a folder has, for `Table.known`."""
    return lambda name: f"there is no image {name!r} in {folder}. {advice}"


def read_table(path: Path, columns: Iterable[str]) -> "pd.DataFrame":
    """Reads a CSV file as text, empty cells as ""; the index is the line number, 1 for the header.

    Line ends of any system, blank lines and a byte-order mark are accepted.

    Raises:
        DataError: The file is missing, is not CSV, has rows with more cells than the header, or lacks a column.
    """
    import pandas as pd

    if not path.is_file():
        raise DataError(f"There is no file {path}.")
    wanted = list(columns)
    text = read_text(path)
    try:
        table = pd.read_csv(StringIO(text), dtype=str, keep_default_na=False, skip_blank_lines=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise DataError(f"{path} cannot be read as a CSV file with the columns {wanted}: {error}") from error
    if not isinstance(table.index, pd.RangeIndex):  # pandas makes an index of cells that have no header
        raise DataError(f"{path} has rows with more cells than its header {','.join(table.columns)!r}. Remove them.")
    missing = [column for column in wanted if column not in table.columns]
    if missing:
        raise DataError(
            f"{path} has the columns {list(table.columns)}, but {missing[0]!r} is missing; expected the header "
            f"{','.join(wanted)!r}."
        )
    table.index += 2
    return table[(table != "").any(axis=1)]


def read_lines(path: Path) -> list[tuple[int, str]]:
    """Reads the lines of a text file that are not blank, with their numbers from 1.

    Raises:
        DataError: The file cannot be read as text.
    """
    return [(number, line) for number, line in enumerate(read_text(path).splitlines(), start=1) if line.strip()]


def read_text(path: Path) -> str:
    """Reads a UTF-8 text in NFC, so that its names are spelled like those of files; see `datamodules.read.names`.

    Raises:
        DataError: The file cannot be read as text.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} cannot be read as UTF-8 text: {error}. Save it as UTF-8.") from error
    if "\0" in text:
        raise DataError(f"{path} is not a text: it contains NUL bytes. Download it again or save it as UTF-8.")
    return composed(text)
