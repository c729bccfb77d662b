"""The table of a study: a row a cell, with what is known of each figure's certainty."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from drawing.page import NONE
from ops.atomic import write_text
from studies.plan import Column, Run, Study, cells_of
from studies.results import machines, mixed

if TYPE_CHECKING:
    import pandas as pd

COUNTS = ("best_epoch", "epochs", "parameters")
RULE = (
    "Several seeds: mean ± standard deviation over seeds. One seed: the figure, and in brackets the 95 % interval of "
    "resampled test pictures. **Bold**: better than every other row that was measured alike, with an interval that "
    "overlaps none of theirs; for several seeds that is Student's 95 % interval of the mean, or where that is wider "
    "the mean of their intervals over test pictures. Nothing is bold where an interval is missing, or where some rows "
    "have several seeds and others one."
)


@dataclass(frozen=True)
class Estimate:
    """A figure of a cell.

    Attributes:
        mean: Over the seeds.
        deviation: Standard deviation over the seeds; nan for one.
        low: Lower end of the 95 % interval: of one seed's figure over test pictures, or of the mean over seeds, no
            narrower than those of the seeds are on average; nan where it is not known.
        high: Upper end.
        seeds: How many.
    """

    mean: float
    deviation: float
    low: float
    high: float
    seeds: int


def estimate(rows: "pd.DataFrame", figure: str) -> Estimate | None:
    """A figure of the runs of one cell, which differ in their seeds only; None where no run has it."""
    known = rows[rows[figure].notna()]
    values = known[figure].astype(float)
    count = len(values)
    if count == 0:
        return None
    if count == 1:
        low, high = (float(known[name].iloc[0]) if (name := figure + end) in known else math.nan
                     for end in ("_low", "_high"))  # fmt: skip
        return Estimate(float(values.iloc[0]), math.nan, low, high, 1)
    import numpy as np
    from scipy.special import stdtrit  # type: ignore[import-untyped]  # it comes without types

    mean, deviation = float(values.mean()), float(values.std(ddof=1))
    reach = float(stdtrit(count - 1, 0.975)) * deviation / math.sqrt(count)
    low, high = mean - reach, mean + reach
    if {figure + "_low", figure + "_high"} <= set(
        known
    ):  # seeds that agree by chance do not make test pictures certain
        low = float(np.nanmin([low, known[figure + "_low"].astype(float).mean()]))
        high = float(np.nanmax([high, known[figure + "_high"].astype(float).mean()]))
    return Estimate(mean, deviation, low, high, count)


def best_of(estimates: Sequence[Estimate | None], better: str | None) -> int | None:
    """The place of the one that is better than all others by more than the intervals; None if there is none.

    Args:
        estimates: Of one figure; None where it was not measured.
        better: Whether the `min` or the `max` is; None for a figure that is neither.
    """
    known = {place: each for place, each in enumerate(estimates) if each is not None}
    if better is None or len(known) < 2:
        return None
    if len({each.seeds > 1 for each in known.values()}) > 1:
        return None  # intervals of seeds and of test pictures are of different things
    sign = 1 if better == "max" else -1
    best = max(known, key=lambda place: sign * known[place].mean)
    others = [each for place, each in known.items() if place != best]
    if better == "max":
        apart = all(known[best].low > each.high for each in others)
    else:
        apart = all(known[best].high < each.low for each in others)
    return best if apart else None  # with a nan, nothing is apart


def table(study: Study, rows: "pd.DataFrame", states: Mapping[Path, str]) -> list[list[str]]:
    """The table's lines, the heads first: a line a cell, and one more where its runs were not measured alike.

    Cells that are impossible have their reason, those that are not finished say so in the last column.

    Args:
        study: The study.
        rows: What `studies.results.read_results` gives.
        states: What `studies.results.read_states` gives.
    """
    alike = rows["definition"].nunique() < 2
    groups = {(str(cell), str(letter)): those for (cell, letter), those in rows.groupby(["cell", "definition"])}
    estimates = {key: [estimate(those, column.figure) for column in study.columns] for key, those in groups.items()}
    bold = _bold(estimates, study.columns)
    places = [_places((each[place] for each in estimates.values()), column)
              for place, column in enumerate(study.columns)]  # fmt: skip
    heads = [*study.axes, *([] if alike else ["measured as"]), "seeds", *(column.title for column in study.columns)]
    empty = [NONE] * len(study.columns)
    lines, remarks = [], []
    reasons = {tuple(labels.values()): f"impossible: {reason}" for labels, reason in study.impossible}
    for labels, runs in cells_of(study).items():
        remark = _remark(runs, states) if runs else reasons[labels]
        mine = [key for key in estimates if runs and key[0] == runs[0].cell]
        for key in mine:
            texts = [_shown(each, column, decimals, (key, place) in bold)
                     for place, (each, column, decimals) in
                     enumerate(zip(estimates[key], study.columns, places, strict=True))]  # fmt: skip
            lines.append([*labels, *([] if alike else [key[1]]), str(len(groups[key])), *texts])
            remarks.append(remark)
        if not mine:
            lines.append([*labels, *([] if alike else [NONE]), "0" if runs else NONE, *empty])
            remarks.append(remark)
    if any(remarks):
        heads, lines = [*heads, "remark"], [[*line, remark] for line, remark in zip(lines, remarks, strict=True)]
    return [heads, *lines]


def markdown(lines: Sequence[Sequence[str]], numbers_from: int = 0) -> str:
    """A Markdown table of these lines, the heads first, its columns as wide as their widest text."""
    safe = [[" ".join(text.split()).replace("|", "\\|") for text in line] for line in lines]
    widths = [max(3, *(len(line[place]) for line in safe)) for place in range(len(safe[0]))]
    marks = ["-" * width if place < numbers_from else "-" * (width - 1) + ":" for place, width in enumerate(widths)]
    if safe[0][-1] == "remark":
        marks[-1] = "-" * widths[-1]
    padded = ["| " + " | ".join(f"{text:{width}}" for text, width in zip(line, widths, strict=True)) + " |"
              for line in (safe[0], marks, *safe[1:])]  # fmt: skip
    return "\n".join(line.rstrip() for line in padded)


def table_text(study: Study, rows: "pd.DataFrame", states: Mapping[Path, str]) -> str:
    """The table in Markdown, above it what its rows do not have in common, below it how to read it."""
    warnings = "".join(f"> {sentence}\n" for sentence in warnings_of(study, rows))
    lines = table(study, rows, states)
    text = markdown(lines, lines[0].index("seeds"))
    return f"{warnings}{chr(10) if warnings else ''}{text}\n\n{RULE}\n"


def warnings_of(study: Study, rows: "pd.DataFrame") -> list[str]:
    """Sentences about what the table's rows do not have in common."""
    taken = any(column.figure in ("seconds", "peak_bytes") for column in study.columns)
    return [*mixed(rows), *(machines(rows) if taken else [])]


def write_table(text: str, path: Path) -> None:
    """Writes the table; a file of that name is whole at any moment."""
    write_text(path, text)


def number_text(value: float, column: Column, decimals: int) -> str:
    """A figure as text, in the unit of its column."""
    if column.figure == "peak_bytes":
        return f"{value / 2**30:.2f} GiB"
    return f"{value:,.{decimals}f}"


def _shown(estimated: Estimate | None, column: Column, decimals: int, bold: bool) -> str:
    if estimated is None:
        return NONE
    mean, deviation, low, high = (
        number_text(value, column, decimals)
        for value in (estimated.mean, estimated.deviation, estimated.low, estimated.high)
    )
    text = f"**{mean}**" if bold else mean
    if estimated.seeds > 1:  # that all runs of a cell have the same network is no finding
        same = column.figure == "parameters" and estimated.deviation == 0
        return text if same else f"{text} ± {deviation}"
    return text if math.isnan(estimated.low) else f"{text} [{low}, {high}]"


def decimals_of(size: float) -> int:
    """Decimals that a figure of this size is told with."""
    return next((decimals for limit, decimals in ((2, 3), (20, 2), (1000, 1)) if abs(size) < limit), 0)


def _places(estimates: Iterable[Estimate | None], column: Column) -> int:
    """Decimals that all figures of a column are told with: as many as the one that wants most."""
    known = [each for each in estimates if each is not None]
    if column.figure in COUNTS:  # whole, but for means
        return 1 if any(each.seeds > 1 and abs(each.mean) < 1000 for each in known) else 0
    return max((decimals_of(each.mean) for each in known), default=0)


def _bold(
    estimates: Mapping[tuple[str, str], Sequence[Estimate | None]], columns: Sequence[Column]
) -> set[tuple[tuple[str, str], int]]:
    """Which figures are bold, as (cell and definition, place of the column)."""
    found = set()
    for definition in {key[1] for key in estimates}:
        keys = [key for key in estimates if key[1] == definition]
        for place, column in enumerate(columns):
            best = best_of([estimates[key][place] for key in keys], column.better)
            if best is not None:
                found.add((keys[best], place))
    return found


def _remark(runs: Sequence[Run], states: Mapping[Path, str]) -> str:
    """How far the runs of a cell are that are not finished."""
    found = [states[run.folder] for run in runs]
    counts = {name: found.count(name) for name in ("failed", "begun", "waiting") if name in found}
    if len(runs) == 1 or (len(counts) == 1 and sum(counts.values()) == len(runs)):
        return "".join(counts)
    return ", ".join(f"{count} of {len(runs)} {name}" for name, count in counts.items())
