"""Writes how good `predict` found pictures: a table, and contact sheets with the best first."""

import csv
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from callbacks.writers.base import new_part, place, remove_part
from drawing.pictures import save_picture
from drawing.sheet import Shown, drawn_sheet, jpeg_of, write_page
from tasks.base import Batch

SIDE = 320  # pixels of the longer side of a picture in the page
LISTED = 10  # pictures left out that are named in the message
FIGURES = ("probability", "mean", "spread")
COLUMNS = ("name", *FIGURES, "problem")


class Row(NamedTuple):
    """What is known of a picture; a figure that was not predicted is nan.

    Attributes:
        number: Its place in the data.
        name: Its path from the folder.
        probability: That it is a professional shot, in [0, 1].
        mean: Of the votes that are expected.
        spread: Their standard deviation.
        problem: Why it could not be used, or "".
        rank: The process that saw it.
        start: Where its small JPEG begins among that process's.
        length: Bytes of the JPEG.
    """

    number: int
    name: str
    probability: float
    mean: float
    spread: float
    problem: str
    rank: int
    start: int
    length: int

    @property
    def order(self) -> tuple[bool, float, float, int]:
        """The best come first, those with equal figures in the order of the data, those that were not judged last."""
        known = [value if math.isfinite(value) else -math.inf for value in (self.probability, self.mean)]
        return bool(self.problem), -known[0], -known[1], self.number

    @property
    def note(self) -> str:
        """The figures in a few words."""
        votes = "" if math.isnan(self.mean) else f", votes {self.mean:.2f} ± {self.spread:.2f}"
        return f"{100 * self.probability:.1f} %{votes}"


class ScoreWriter(Callback):
    """Writes pictures in the order in which they were judged, into the run's folder.

    - `scores.csv`: `name,probability,mean,spread,problem`, best first; `mean` and `spread` are empty where the task
      predicts no votes. Those that could not be used come last, with nothing but their `problem`.
    - `contact_sheet.html`: small pictures with their scores, professional shots, above one half, and snapshots apart;
      one file that needs no other, for any browser.
    - `contact_sheet.png`: the best of them as one picture.

    The task predicts `probability` (B,), and maybe `mean` and `spread` (B,), or None; the batch has `name`, `index`,
    `source`, small pictures (h, w, 3), and `problem`, "" for those that can be used. Several processes write their own;
    they are merged at the end. Pictures wait on the disk, so that memory holds a row of figures for each. All is
    written into the folder `part` and moved when it is whole, in the place of an earlier prediction's.

    Args:
        on_page: How many pictures `contact_sheet.html` has at most, some 10 kB each.
        on_sheet: How many `contact_sheet.png` has at most.

    Raises:
        ValueError: There is to be no picture.
    """

    def __init__(self, on_page: int = 2000, on_sheet: int = 120) -> None:
        if on_page < 1 or on_sheet < 1:
            raise ValueError(f"on_page is {on_page} and on_sheet {on_sheet}; 1 or more were wanted")
        self.on_page, self.on_sheet = on_page, on_sheet
        self.part = Path()

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Makes the folder and an empty table."""
        self.part = new_part(trainer, [""])
        for path in (self._rows(trainer.global_rank), self._pictures(trainer.global_rank)):
            path.write_bytes(b"")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leaves nothing that is half written."""
        remove_part(trainer, self.part)

    def _rows(self, rank: int) -> Path:
        return self.part / f"rows{rank}.csv"

    def _pictures(self, rank: int) -> Path:
        return self.part / f"pictures{rank}"

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Appends a batch."""
        given = {name: outputs[name].tolist() for name in FIGURES if outputs.get(name) is not None}
        rank, rows = trainer.global_rank, []
        with self._pictures(rank).open("ab") as file:
            for i, name in enumerate(batch["name"]):
                problem, jpeg, start = batch["problem"][i], b"", file.tell()
                figures = [given[figure][i] if figure in given and not problem else math.nan for figure in FIGURES]
                if not problem:
                    jpeg = jpeg_of(batch["source"][i], SIDE)
                    file.write(jpeg)
                rows.append([int(batch["index"][i]), name, *figures, problem, rank, start, len(jpeg)])
        with self._rows(rank).open("a", newline="", encoding="utf-8", errors="surrogateescape") as table:
            csv.writer(table).writerows(rows)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Merges what the processes wrote, moves it to its place, and names what was left out."""
        trainer.strategy.barrier()
        if not trainer.is_global_zero:
            return
        rows = sorted(
            (row for rank in range(trainer.world_size) for row in self._read(rank)), key=lambda row: row.order
        )
        judged = [row for row in rows if not row.problem]
        left_out = [row.problem for row in rows if row.problem]
        with (self.part / "scores.csv").open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            csv.writer(file, lineterminator="\n").writerows([COLUMNS, *map(_written, rows)])
        self._write_sheets(judged, left_out)
        for rank in range(trainer.world_size):
            for path in (self._rows(rank), self._pictures(rank)):
                path.unlink()
        rank_zero_info(f"Pictures judged: {len(judged)}.{place(self.part)}" + _named(left_out))

    def _read(self, rank: int) -> Iterator[Row]:
        csv.field_size_limit(1 << 30)
        with self._rows(rank).open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            for number, name, probability, mean, spread, problem, *where in csv.reader(file):
                figures = float(probability), float(mean), float(spread)
                yield Row(int(number), name, *figures, problem, *map(int, where))

    def _write_sheets(self, judged: Sequence[Row], left_out: Sequence[str]) -> None:
        """Writes both contact sheets."""
        ranked = list(enumerate(judged, start=1))
        above = [each for each in ranked if each[1].probability > 0.5]
        parts = {"Professional shots": above, "Snapshots": ranked[len(above) :]}
        shown = {word: [each for each in part if each[0] <= self.on_page] for word, part in parts.items()}
        sections = ((f"{word}: {len(parts[word])}", map(self._shown, part)) for word, part in shown.items() if part)
        notes = []
        if len(ranked) > self.on_page:
            notes.append(f"These are the best {self.on_page} of {len(ranked)} pictures; scores.csv has all.")
        if left_out:
            notes.append(f"Left out: {len(left_out)}. scores.csv says why.")
        with (self.part / "contact_sheet.html").open("w", encoding="utf-8", errors="replace") as file:
            write_page(file, f"Contact sheet: {_counted(len(ranked))}, best first", sections, notes)
        best = [self._shown(each) for each in ranked[: self.on_sheet]]
        title = _counted(len(ranked)) if len(best) == len(ranked) else f"the best {len(best)} of {len(ranked)} pictures"
        save_picture(drawn_sheet(f"Contact sheet: {title}, best first", best), self.part / "contact_sheet.png")

    def _shown(self, ranked: tuple[int, Row]) -> Shown:
        number, row = ranked
        with self._pictures(row.rank).open("rb") as file:
            file.seek(row.start)
            share = row.probability if math.isfinite(row.probability) else 0.0
            return Shown(number, row.name, share, row.note, file.read(row.length))


def _written(row: Row) -> list[str]:
    """A row of `scores.csv`."""
    figures = ["" if math.isnan(value) else f"{value:.6g}" for value in (row.probability, row.mean, row.spread)]
    return [row.name, *figures, row.problem]


def _counted(pictures: int) -> str:
    return "1 picture" if pictures == 1 else f"{pictures} pictures"


def _named(problems: Sequence[str]) -> str:
    """What is said of the pictures that could not be judged, to be appended to a message."""
    if not problems:
        return ""
    more = len(problems) - LISTED
    lines = [
        *(f"  - {problem}" for problem in problems[:LISTED]),
        *([f"  … and {more} more, see scores.csv"] * (more > 0)),
    ]
    return "\n".join([f"\nLeft out: {len(problems)}.", *lines])
