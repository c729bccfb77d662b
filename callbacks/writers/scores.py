"""Writes the scores of judged images as a table and as contact sheets with the best first."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple
from uuid import uuid4

from callbacks.writers.base import Finished, Format, Row, Table, Writer
from callbacks.writers.prediction import Prediction
from datamodules.batch import Batch
from drawing.pictures import Picture, save_picture
from drawing.sheet import Shown, drawn_sheet, jpeg_of, write_page
from ops.errors import ArgumentError

SIDE = 320  # maximum pixels of the longer side of an image on the page
SCORES = ("probability", "mean", "spread")


@dataclass(frozen=True, kw_only=True)
class Judged(Finished):
    """A judged image; scores that were not predicted are nan.

    Attributes:
        source: The image, or a small copy, (h, w, 3) uint8.
        probability: That it is a professional shot, in [0, 1].
        mean: Of the predicted votes.
        spread: Standard deviation of the predicted votes.
    """

    source: Picture
    probability: float
    mean: float
    spread: float

    @property
    def rank(self) -> tuple[bool, float, float]:
        """Sort key: best first, unusable images last."""
        known = [value if math.isfinite(value) else -math.inf for value in (self.probability, self.mean)]
        return bool(self.problem), -known[0], -known[1]

    def prediction(self) -> Prediction:
        scores = {"probability": self.probability, "mean": self.mean, "spread": self.spread}
        return Prediction(self.name, probability=self.probability, scores=scores, problem=self.problem)


class ScoreWriter(Writer[Judged]):
    """Writes the scores of all images, best first, into the run folder.

    - `scores.csv`: `name,probability,mean,spread,problem`; `mean` and `spread` are empty if the task predicts no votes.
      Unusable images come last, with only their `problem`.
    - `contact_sheet.html`: small images with their scores, professional shots (above one half) and snapshots apart;
      a single file for any browser.
    - `contact_sheet.png`: the best of them as one image.

    The task predicts `probability` (B,), and maybe `mean` and `spread` (B,), or None. Batches have `name`, `index`,
    `source`, small images (h, w, 3), and `problem`, "" for usable ones. Small images wait on the disk, so that memory
    holds only a row of scores for each.

    Args:
        on_page: Maximum number of images in `contact_sheet.html`, about 10 kB each.
        on_sheet: Maximum number of images in `contact_sheet.png`.

    Raises:
        ArgumentError: One of them is below 1.
    """

    def __init__(self, on_page: int = 2000, on_sheet: int = 120) -> None:
        if on_page < 1 or on_sheet < 1:
            raise ArgumentError(f"expected on_page and on_sheet of at least 1, got {on_page} and {on_sheet}")
        super().__init__([ScoreTable(), ContactSheets(on_page, on_sheet)])

    def images(self, outputs: Any, batch: Batch) -> Iterator[Judged]:
        given = {name: outputs[name].tolist() for name in SCORES if outputs.get(name) is not None}
        for i, name in enumerate(batch["name"]):
            index, problem = int(batch["index"][i]), batch["problem"][i]
            scores = {key: given[key][i] if key in given and not problem else math.nan for key in SCORES}
            yield Judged(name=name, index=index, problem=problem, source=batch["source"][i], **scores)


class ScoreTable(Table[Judged]):
    """Writes `scores.csv`."""

    file = "scores.csv"
    lists_problems = True
    columns = ("name", *SCORES, "problem")

    def write(self, image: Judged, folder: Path) -> list[Row]:
        scores = [float(f"{value:.6g}") for value in (image.probability, image.mean, image.spread)]
        return [[image.rank, [image.name, *scores, image.problem]]]

    def table(self, rows: Sequence[Row]) -> list[Row]:
        ranked = sorted(rows, key=lambda row: row[0])  # stable: ties stay in the order of the data
        return [row[1] for row in ranked]


class _Thumbnail(NamedTuple):
    """A row of the contact sheets: an image, and where its small JPEG is stored."""

    rank: list[float]
    name: str
    problem: str
    probability: float
    note: str
    file: str = ""
    start: int = 0
    length: int = 0


class ContactSheets(Format[Judged]):
    """Writes `contact_sheet.html` and `contact_sheet.png`.

    Args:
        on_page: See `ScoreWriter`.
        on_sheet: See `ScoreWriter`.
    """

    lists_problems = True

    def __init__(self, on_page: int, on_sheet: int) -> None:
        self.on_page, self.on_sheet = on_page, on_sheet
        self._jpegs: IO[bytes] | None = None  # all small images of this process, one after the other

    def write(self, image: Judged, folder: Path) -> list[Row]:
        votes = "" if math.isnan(image.mean) else f", votes {image.mean:.2f} ± {image.spread:.2f}"
        row = [image.rank, image.name, image.problem, image.probability, f"{100 * image.probability:.1f} %{votes}"]
        if image.problem:
            return [row]
        if self._jpegs is None:
            self._jpegs = (folder / f"jpegs-{uuid4().hex}").open("wb")
        jpeg, start = jpeg_of(image.source, SIDE), self._jpegs.tell()
        self._jpegs.write(jpeg)
        return [[*row, Path(self._jpegs.name).name, start, len(jpeg)]]

    def close(self) -> None:
        if self._jpegs is not None:
            self._jpegs.close()
        self._jpegs = None

    def finish(self, rows: Sequence[Row], folder: Path) -> str:
        ranked = sorted((_Thumbnail(*row) for row in rows), key=lambda row: row.rank)
        usable = [(number, row) for number, row in enumerate(ranked, start=1) if not row.problem]
        total, problems = len(usable), len(rows) - len(usable)

        def shown(part: Sequence[tuple[int, _Thumbnail]]) -> Iterator[Shown]:
            for number, row in part:
                with (folder / row.file).open("rb") as file:
                    file.seek(row.start)
                    share = row.probability if math.isfinite(row.probability) else 0.0
                    yield Shown(number, row.name, share, row.note, file.read(row.length))

        above = [each for each in usable if each[1].probability > 0.5]
        parts = {"Professional shots": above, "Snapshots": usable[len(above) :]}
        listed = {title: [each for each in part if each[0] <= self.on_page] for title, part in parts.items()}
        sections = ((f"{title}: {len(parts[title])}", shown(part)) for title, part in listed.items() if part)
        notes = []
        if total > self.on_page:
            notes.append(f"These are the best {self.on_page} of {total} images; scores.csv has all.")
        if problems:
            notes.append(f"Skipped: {problems}. scores.csv lists the reasons.")
        count = "1 image" if total == 1 else f"{total} images"
        with (folder / "contact_sheet.html").open("w", encoding="utf-8", errors="replace") as page:
            write_page(page, f"Contact sheet: {count}, best first", sections, notes)
        best = list(shown(usable[: self.on_sheet]))
        title = count if len(best) == total else f"the best {len(best)} of {total} images"
        save_picture(drawn_sheet(f"Contact sheet: {title}, best first", best), folder / "contact_sheet.png")
        for name in {row.file for _, row in usable}:
            (folder / name).unlink()
        return ""
