"""Writes a page of all predicted images, which any browser sorts and filters."""

import csv
import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO
from urllib.parse import quote
from uuid import uuid4

from callbacks.writers.format import Format, Image, Row
from drawing.overview import Card, jpeg_of, write_overview
from drawing.page import Table, html_table
from drawing.pictures import Picture

SIDE = 320  # maximum pixels of the longer side of an image on the page: about 15 kB each
PAGE = "overview.html"
WAITING = "jpegs-"  # begins the names of the files in which small images wait


class Overview(Format[Image]):
    """Writes `overview.html`; each task says what it shows of an image.

    Small images are embedded, so that the page can be moved alone; each links to the full one beside the page. They
    wait on the disk, so that memory holds only a row of values for each.

    Args:
        most: Maximum number of images on the page; of more, those with the largest first value.

    Attributes:
        title: Heading of the page.
        explanations: What each value means, by its name; the first one sorts the page, the largest first.
    """

    lists_problems = True
    title = "Predictions"
    explanations: Mapping[str, str]

    def __init__(self, most: int = 2000) -> None:
        self.most = most
        self._jpegs: IO[bytes] | None = None  # all small images of this process, one after the other

    @abstractmethod
    def view(self, image: Image) -> Picture:
        """Returns what the page shows of an image (H, W, 3)."""

    @abstractmethod
    def values(self, image: Image) -> Mapping[str, float]:
        """Returns the values of an image by name; nan if unknown."""

    def note(self, image: Image) -> str:
        """Returns words below an image, which the page can be filtered by."""
        return ""

    def link(self, image: Image) -> str:
        """Returns the file that an image links to, below the folder of results; "" for none."""
        return ""

    def write(self, image: Image, folder: Path) -> list[Row]:
        if image.problem:
            return [[image.name, image.problem, "", "", {}, "", 0, 0]]
        if self._jpegs is None:
            self._jpegs = (folder / f"{WAITING}{uuid4().hex}").open("wb")
        jpeg, start = jpeg_of(self.view(image), SIDE), self._jpegs.tell()
        self._jpegs.write(jpeg)
        values = {name: float(f"{value:.6g}") for name, value in self.values(image).items() if math.isfinite(value)}
        file = Path(self._jpegs.name).name
        return [[image.name, "", self.note(image), self.link(image), values, file, start, len(jpeg)]]

    def close(self) -> None:
        if self._jpegs is not None:
            self._jpegs.close()
        self._jpegs = None

    def finish(self, rows: Sequence[Row], folder: Path) -> str:
        first = next(iter(self.explanations), "")
        usable = [row for row in rows if not row[1]]
        # further values decide ties, then the order of the data
        ranked = sorted(usable, key=lambda row: [-row[4].get(name, -math.inf) for name in self.explanations])

        def cards() -> Iterator[Card]:
            for name, _, note, link, values, file, start, length in ranked[: self.most]:
                with (folder / file).open("rb") as jpegs:
                    jpegs.seek(start)
                    yield Card(name, note, quote(link, errors="surrogateescape"), values, jpegs.read(length))

        notes = [f"{row[0]} was skipped: {row[1]}" for row in rows if row[1]][: self.most]
        if len(ranked) > self.most:
            notes.insert(0, f"Of {len(ranked)} images these are the {self.most} with the largest {first}.")
        names = [name for name in self.explanations if any(name in row[4] for row in ranked)]
        explained = {name: self.explanations[name] for name in names}
        write_overview(folder / PAGE, self.title, cards(), len(ranked), explained, tested(folder.parent.parent), notes)
        for path in folder.glob(f"{WAITING}*"):  # also those of a process that was killed before its first row
            path.unlink()
        return ""


def tested(run: Path) -> Table | None:
    """Returns a table of the metrics that `belvedere test` has found for a run; None if there are none."""
    try:
        with (run / "test" / "metrics.csv").open(newline="", encoding="utf-8") as file:
            row = list(csv.DictReader(file))[-1]
    except (OSError, IndexError, UnicodeDecodeError):
        return None
    found = {
        name.partition("/")[2]: value for name, value in row.items() if name and name.startswith("test/") and value
    }
    lines = [[name.replace("_", " "), f"{float(value):.3f}"] for name, value in found.items()]
    return html_table([["metric", "value"], *lines], keys=1) if lines else None
