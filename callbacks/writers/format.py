"""Output formats: what writes finished images, without torch, so that `belvedere.run` shares them."""

import math
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypeVar

from callbacks.writers.prediction import Prediction
from ops.atomic import write_table
from ops.errors import listed

LISTED = 10  # skipped images named in the message
FAILED = "skipped.csv"  # lists all of them
Row: TypeAlias = list[Any]
"""What a format remembers of one image until all are merged; anything JSON can hold."""


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A finished image.

    Attributes:
        name: Its file name or its path within the data.
        index: Its position in the data.
        problem: Why it could not be used, or "".
    """

    name: str
    index: int
    problem: str = ""

    def prediction(self) -> Prediction:
        """Returns what the Python API gives of the image."""
        return Prediction(self.name, problem=self.problem)


Image = TypeVar("Image", bound=Finished)


class Format(ABC, Generic[Image]):
    """Writes finished images in one output format.

    Attributes:
        folders: Folders it writes into, each of which replaces one of the same name, even if no image is written.
        lists_problems: Whether it also gets images that could not be used.
    """

    folders: Sequence[str] = ()
    lists_problems = False

    @abstractmethod
    def write(self, image: Image, folder: Path) -> Iterable[Row]:
        """Writes the files of one image below `folder` and returns rows for `finish`.

        Runs in the process that predicted the image.
        """

    def close(self) -> None:
        """Closes files kept open between images; called in every process, on errors too."""

    def finish(self, rows: Sequence[Row], folder: Path) -> str:
        """Writes the tables.

        Args:
            rows: The rows of all processes, in the order of the data.
            folder: Where to write them.

        Returns:
            Text to append to the closing message.
        """
        return ""


class Table(Format[Image]):
    """Writes one CSV table, which the Python API returns as a data frame; `write` returns rows and writes no files.

    Attributes:
        file: Name of the table.
        columns: Its columns.
        optional: Those that the file lacks if they are empty in every row.
    """

    file: str
    columns: Sequence[str]
    optional: Sequence[str] = ()

    def table(self, rows: Sequence[Row]) -> list[Row]:
        """Returns the rows of the table, with NaN for unknown numbers, from those of `write`; by default the same."""
        return list(rows)

    def finish(self, rows: Sequence[Row], folder: Path) -> str:
        cells = [
            ["" if isinstance(cell, float) and math.isnan(cell) else cell for cell in row] for row in self.table(rows)
        ]
        filled = [k for k, name in enumerate(self.columns)
                  if name not in self.optional or any(row[k] != "" for row in cells)]  # fmt: skip
        write_table(folder / self.file, [self.columns[k] for k in filled], [[row[k] for k in filled] for row in cells])
        return ""


def skipped(problems: Sequence[tuple[str, str]]) -> str:
    """Returns the first problems of images that could not be used, to append to a message."""
    if not problems:
        return ""
    shown = listed([problem for _, problem in problems], LISTED, f", see {FAILED}")
    return f"\nSkipped, since they cannot be used: {len(problems)}.\n{shown}"


def place(part: Path) -> str:
    """Moves the contents of `part` one folder up, replacing earlier ones, and lists where they are now."""
    written = sorted(part.iterdir())
    for path in written:
        earlier = part.parent / path.name
        if earlier.is_dir():
            shutil.rmtree(earlier)
        path.replace(earlier)
    part.rmdir()
    return "".join(f"\n  {part.parent / path.name}" for path in reversed(written))
