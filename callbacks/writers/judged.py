"""Output formats of judged images: a table, a page and a contact sheet, the best first."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from callbacks.writers.format import Finished, Row, Table
from callbacks.writers.overview import Overview
from callbacks.writers.prediction import Prediction
from drawing.pictures import Picture, save_picture
from drawing.sheet import Shown, drawn_sheet

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


class ScoreTable(Table[Judged]):
    """Writes `scores.csv`."""

    file = "scores.csv"
    lists_problems = True
    columns = ("name", *SCORES, "problem")
    optional = ("mean", "spread", "problem")

    def write(self, image: Judged, folder: Path) -> list[Row]:
        scores = [float(f"{value:.6g}") for value in (image.probability, image.mean, image.spread)]
        return [[image.rank, [image.name, *scores, image.problem]]]

    def table(self, rows: Sequence[Row]) -> list[Row]:
        ranked = sorted(rows, key=lambda row: row[0])  # stable: ties stay in the order of the data
        return [row[1] for row in ranked]


class ScoreOverview(Overview[Judged]):
    """Writes `overview.html` of judged images, and the best of them as one image, `contact_sheet.png`.

    Args:
        on_page: See `ScoreWriter`.
        on_sheet: See `ScoreWriter`.
    """

    title = "Judged images"
    explanations: Mapping[str, str] = {
        "professional %": "probability that the image is a professional shot",
        "mean vote": "mean of the votes that the image is expected to get",
        "spread": "standard deviation of these votes",
    }

    def __init__(self, on_page: int, on_sheet: int) -> None:
        super().__init__(on_page)
        self.on_sheet = on_sheet

    def view(self, image: Judged) -> Picture:
        return image.source

    def values(self, image: Judged) -> dict[str, float]:
        return dict(zip(self.explanations, (100 * image.probability, image.mean, image.spread), strict=True))

    def note(self, image: Judged) -> str:
        return "professional shot" if image.probability > 0.5 else "snapshot"

    def finish(self, rows: Sequence[Row], folder: Path) -> str:
        self._write_sheet([row for row in rows if not row[1]], folder)
        return super().finish(rows, folder)

    def _write_sheet(self, rows: Sequence[Row], folder: Path) -> None:
        ranked = sorted(rows, key=lambda row: [-row[4].get(name, -math.inf) for name in self.explanations])
        best = ranked[: self.on_sheet]
        shown = []
        for rank, (name, _, _, _, values, file, start, length) in enumerate(best, start=1):
            with (folder / file).open("rb") as jpegs:
                jpegs.seek(start)
                percent = values.get("professional %", math.nan)
                share = percent / 100 if math.isfinite(percent) else 0.0
                shown.append(Shown(rank, name, share, f"{percent:.1f} % professional", jpegs.read(length)))
        count = "1 image" if len(rows) == 1 else f"{len(rows)} images"
        title = count if len(best) == len(rows) else f"the best {len(best)} of {count}"
        text = f"{title[0].upper()}{title[1:]}, best first; % is the probability of a professional shot"
        save_picture(drawn_sheet(text, shown), folder / "contact_sheet.png")
