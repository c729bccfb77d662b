"""What `suggest` has found: the table, the contact sheet and the reasons."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from datamodules.read.pictures import read_picture
from datamodules.read.rasters import Channels, shown
from drawing.overview import jpeg_of
from drawing.pictures import Picture, panel, save_picture, scaled, titled
from drawing.sheet import Shown, drawn_sheet
from ops.atomic import write_table
from ops.files.names import safe_path
from ops.statistics.selection import Covered, Vectors

ON_SHEET = 40  # most images on the contact sheet
VIEW = 320  # pixels of an image on it
COLUMNS = ("rank", "image", "uncertainty", "disagreement", "distance", "nearest", "why")
TITLE = "Label next. Percent: the share of the pool that is less uncertain, or nearer to what is labeled"
NOTABLE = 0.5  # share of the pool above which a disagreement is a reason


@dataclass
class Pool:
    """All usable images: those that are labeled, and those that may be suggested.

    Attributes:
        names: Their names.
        uncertainty: Of each, see `belvedere.suggest.looks.Look`.
        disagreement: Likewise.
        labeled: Whether each is labeled.
        vectors: A row for each (N, V).
        problems: Why other images of the pool cannot be used, by name.
    """

    names: list[str] = field(default_factory=list)
    uncertainty: list[float] = field(default_factory=list)
    disagreement: list[float] = field(default_factory=list)
    labeled: list[bool] = field(default_factory=list)
    vectors: Vectors = field(default_factory=lambda: np.zeros((0, 1), np.float32))
    problems: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, uncertainty: float, disagreement: float, labeled: bool) -> None:
        """Adds an image."""
        self.names.append(name)
        self.uncertainty.append(uncertainty)
        self.disagreement.append(disagreement)
        self.labeled.append(labeled)

    @property
    def candidates(self) -> NDArray[np.bool_]:
        """Which images may be suggested (N,)."""
        return ~np.array(self.labeled, np.bool_)


@dataclass(frozen=True)
class Suggestion:
    """An image to label.

    Attributes:
        rank: Its rank, from 1.
        name: Its name.
        uncertainty: See `belvedere.suggest.looks.Look`.
        disagreement: Likewise.
        distance: Distance from the nearest image that is labeled or has a better rank; infinite if there is none.
        nearest: Name of that image, or "".
        why: The reason, for people.
        short: The reason in a few words, for narrow places.
    """

    rank: int
    name: str
    uncertainty: float
    disagreement: float
    distance: float
    nearest: str
    why: str
    short: str


def reasons(pool: Pool, covered: Covered) -> Callable[[int, int, float, int], Suggestion]:
    """Returns the function that makes a suggestion of rank, row, distance and the row of the nearest image.

    Args:
        pool: All images.
        covered: Their distances from the nearest labeled one, before any is suggested.
    """
    rows, nearest = np.flatnonzero(pool.candidates), covered.nearest.copy()
    unsure, apart = np.array(pool.uncertainty), np.array(pool.disagreement)

    def explained(rank: int, row: int, distance: float, center: int) -> Suggestion:
        share = _place(unsure, row, rows)
        parts, short = [f"more uncertain than {share:.0%} of the pool"], [f"uncertain {share:.0%}"]
        if math.isfinite(apart[row]) and (share := _place(apart, row, rows)) >= NOTABLE:
            parts.append(f"its answers contradict each other more than those of {share:.0%}")
            short.append(f"contradictory {share:.0%}")
        name = pool.names[center] if center >= 0 else ""
        if name and np.isfinite(nearest).all():
            share = float((nearest[rows] < distance).mean())
            parts.append(f"farther from what is labeled than {share:.0%}")
            short.append(f"new {share:.0%}")
            reached = np.concatenate([found[:, 0] for _, found in covered.distances([row])])[rows]
            others = int((reached < covered.nearest[rows]).sum()) - 1  # it is the nearest of itself
            if others > 0:
                parts.append(f"closest to {others} more of the pool")
                short.append(f"like {others} more")
        if name:
            parts.append(f"nearest is {name}" + ("" if pool.labeled[center] else ", suggested above"))
        return Suggestion(
            rank,
            pool.names[row],
            pool.uncertainty[row],
            pool.disagreement[row],
            distance,
            name,
            "; ".join(parts),
            ", ".join(short),
        )

    return explained


def _place(values: NDArray[np.float64], row: int, rows: NDArray[np.int64]) -> float:
    """Returns the share of rows that have a smaller value than one of them."""
    return float((values[rows] < values[row]).mean())


def write_suggestions(folder: Path, found: Sequence[Suggestion], doubles: Sequence[tuple[str, str]]) -> None:
    """Writes `suggestions.csv`, and `duplicates.csv` if any images show what another one shows."""
    rows = [[each.rank, each.name, *map(_number, (each.uncertainty, each.disagreement, each.distance)), each.nearest,
             each.why] for each in found]  # fmt: skip
    write_table(folder / "suggestions.csv", COLUMNS, rows)
    path = folder / "duplicates.csv"
    path.unlink(missing_ok=True)
    if doubles:
        write_table(path, ("image", "shows"), doubles)


def _number(value: float) -> float | str:
    return float(f"{value:.6g}") if math.isfinite(value) else ""


def write_sheet(folder: Path, found: Sequence[Suggestion], files: Mapping[str, Path], channels: Channels) -> None:
    """Writes `contact_sheet.png`: the first images, what is predicted of them, and why they were chosen.

    Args:
        folder: Has `overlays` and `uncertainty`, if the task marks regions.
        found: The images.
        files: Their files.
        channels: How rasters are read.
    """
    first = found[:ON_SHEET]
    if not (folder / "overlays").is_dir():
        cells = [
            Shown(each.rank, each.name, each.uncertainty, each.short, jpeg_of(_image(files[each.name], channels), VIEW))
            for each in first
        ]
        save_picture(drawn_sheet(f"{TITLE}; bar: uncertainty", cells, 5), folder / "contact_sheet.png")
        return
    rows = []
    for each in first:
        drawn = [
            _image(files[each.name], channels),
            _read(folder / "overlays" / safe_path(each.name, ".jpg")),
            _read(folder / "uncertainty" / safe_path(each.name, ".png")),
        ]
        rows.append(_aligned([scaled(view, VIEW, 2 * VIEW) for view in drawn]))
    titles = ["image", "prediction", "uncertainty: white is undecided"]
    names = [f"{each.rank}  {each.name}: {each.short}" + f"; nearest is {each.nearest}" * bool(each.nearest)
             for each in first]  # fmt: skip
    save_picture(titled(panel(rows, titles, names), TITLE), folder / "contact_sheet.png")


def _aligned(views: Sequence[Picture]) -> list[Picture]:
    """Returns images with white below them, as high as the highest; a legend makes one higher."""
    most = max(view.shape[0] for view in views)
    return [np.pad(view, ((0, most - view.shape[0]), (0, 0), (0, 0)), constant_values=255) for view in views]


def _image(path: Path, channels: Channels) -> Picture:
    return np.ascontiguousarray(shown(read_picture(path, (VIEW, VIEW), channels)))


def _read(path: Path) -> Picture:
    found = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    assert found is not None  # the command has just written it
    return np.ascontiguousarray(found[..., ::-1])
