"""The table of a study: a row a cell, with what is known of each figure's certainty."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from studies.plan import Column, Run, Study
from studies.results import mixed

if TYPE_CHECKING:
    import pandas as pd

NONE = "-"
RULE = (
    "Several seeds: mean ± standard deviation over seeds. One seed: the figure, and in brackets the 95 % interval of "
    "resampled test pictures. **Bold**: better than every other row that was measured alike, with an interval that "
    "overlaps none of theirs; for several seeds that is Student's 95 % interval of the mean. Nothing is bold where an "
    "interval is missing."
)


@dataclass(frozen=True)
class Estimate:
    """A figure of a cell.

    Attributes:
        mean: Over the seeds.
        deviation: Standard deviation over the seeds; nan for one.
        low: Lower end of the 95 % interval: of the mean over seeds, or of one seed's figure over test pictures; nan
            where it is not known.
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
    from scipy.special import stdtrit

    mean, deviation = float(values.mean()), float(values.std(ddof=1))
    reach = float(stdtrit(count - 1, 0.975)) * deviation / math.sqrt(count)
    return Estimate(mean, deviation, mean - reach, mean + reach, count)


def best_of(estimates: Sequence[Estimate | None], better: str | None) -> int | None:
    """The place of the one that is better than all others by more than the intervals; None if there is none.

    Args:
        estimates: Of one figure; None where it was not measured.
        better: Whether the `min` or the `max` is; None for a figure that is neither.
    """
    known = {place: each for place, each in enumerate(estimates) if each is not None}
    if better is None or len(known) < 2:
        return None
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
    groups = list(rows.groupby(["cell", "definition"], sort=False))
    estimates = {key: [estimate(those, column.figure) for column in study.columns] for key, those in groups}
    bold = _bold(estimates, study.columns)
    places = [max((_places(each[place]) for each in estimates.values()), default=3)
              for place in range(len(study.columns))]  # fmt: skip
    heads = [*study.axes, *([] if alike else ["measured as"]), "seeds", *(column.title for column in study.columns)]
    empty = [NONE] * len(study.columns)
    lines, remarks = [], []
    for cell, runs in _cells(study).items():
        labels, remark = list(runs[0].labels.values()), _remark(runs, states)
        mine = [key for key in estimates if key[0] == cell]
        for key in mine:
            texts = [_shown(each, column, decimals, (key, place) in bold)
                     for place, (each, column, decimals) in
                     enumerate(zip(estimates[key], study.columns, places, strict=True))]  # fmt: skip
            seeds = len(rows[(rows["cell"] == cell) & (rows["definition"] == key[1])])
            lines.append([*labels, *([] if alike else [key[1]]), str(seeds), *texts])
            remarks.append(remark)
        if not mine:
            lines.append([*labels, *([] if alike else [NONE]), "0", *empty])
            remarks.append(remark)
    for labels, reason in study.impossible:
        lines.append([*labels.values(), *([] if alike else [NONE]), NONE, *empty])
        remarks.append(f"impossible: {reason}")
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
    warnings = "".join(f"> {sentence}\n" for sentence in mixed(rows))
    text = markdown(table(study, rows, states), len(study.axes))
    return f"{warnings}{chr(10) if warnings else ''}{text}\n\n{RULE}\n"


def write_table(text: str, path: Path) -> None:
    """Writes the table; a file of that name is whole at any moment."""
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


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
    if estimated.seeds > 1:
        return f"{text} ± {deviation}"
    return text if math.isnan(estimated.low) else f"{text} [{low}, {high}]"


def _places(estimated: Estimate | None) -> int:
    """Decimals that a figure of this size is told with."""
    size = abs(estimated.mean) if estimated is not None else 0.0
    if size == int(size) and size > 1 and estimated is not None and estimated.seeds == 1:
        return 0
    return next((decimals for limit, decimals in ((2, 3), (20, 2), (1000, 1)) if size < limit), 0)


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


def _cells(study: Study) -> dict[str, list[Run]]:
    cells: dict[str, list[Run]] = {}
    for run in study.runs:
        cells.setdefault(run.cell, []).append(run)
    return cells


def _remark(runs: Sequence[Run], states: Mapping[Path, str]) -> str:
    """How far the runs of a cell are that are not finished."""
    found = [states[run.folder] for run in runs]
    counts = {name: found.count(name) for name in ("failed", "begun", "waiting") if name in found}
    if len(runs) == 1 or (len(counts) == 1 and sum(counts.values()) == len(runs)):
        return "".join(counts)
    return ", ".join(f"{count} of {len(runs)} {name}" for name, count in counts.items())
