"""Builds the tables of a study as lines of text: means over seeds, with their uncertainty."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from drawing.page import NONE
from studies.notes import read_table
from studies.plan import RECORDED, Column, Run, Study, cells_of
from studies.results import incomparable, machines

if TYPE_CHECKING:
    import pandas as pd

ROUNDING = 1e-6  # relative difference of a metric between two tests of one network on a GPU
COUNTS = ("best_epoch", "epochs", "parameters", "samples")
RULE = (
    "Several seeds: mean ± standard deviation over the seeds. One seed: its value, with the 95 % bootstrap interval "
    "over the test images in brackets. **Bold**: better than every comparable row, with an interval that overlaps none "
    "of theirs. For several seeds, this is Student's 95 % interval of the mean or, if wider, the mean of the seeds' "
    "intervals over the test images. Nothing is bold if an interval is missing or if only some rows have several seeds."
)
MEANS = "Mean ± standard deviation over the seeds that have the row."
SINGLE = "One row per seed: the rows of a run have no text that identifies them, so seeds cannot be averaged."


@dataclass(frozen=True)
class Estimate:
    """Estimate of a metric of a cell.

    Attributes:
        mean: Mean over the seeds.
        deviation: Standard deviation over the seeds; nan for one seed.
        low: Lower end of the 95 % interval: for one seed, over the test images; for several, of the mean over seeds,
            and at least as wide as the seeds' own intervals on average. nan if unknown.
        high: Upper end.
        seeds: Number of seeds.
    """

    mean: float
    deviation: float
    low: float
    high: float
    seeds: int


def estimate(rows: "pd.DataFrame", metric: str) -> Estimate | None:
    """Estimates a metric from the runs of one cell, which differ in their seeds only; None if no run has it."""
    known = rows[rows[metric].notna()]
    values = known[metric].astype(float)
    count = len(values)
    if count == 0:
        return None
    ends = [known[name].astype(float) for end in ("_low", "_high") if (name := metric + end) in known]
    if count == 1:
        low, high = (float(end.iloc[0]) for end in ends) if ends else (math.nan, math.nan)
        return Estimate(float(values.iloc[0]), math.nan, low, high, 1)
    import numpy as np
    from scipy.special import stdtrit  # type: ignore[import-untyped]  # scipy has no type information

    mean, deviation = float(values.mean()), float(values.std(ddof=1))
    reach = float(stdtrit(count - 1, 0.975)) * deviation / math.sqrt(count)
    low, high = mean - reach, mean + reach
    if ends:  # seeds that agree by chance do not make the test images certain
        low, high = float(np.nanmin([low, ends[0].mean()])), float(np.nanmax([high, ends[1].mean()]))
    return Estimate(mean, deviation, low, high, count)


def best_of(estimates: Sequence[Estimate | None], better: str | None) -> int | None:
    """Returns the index of the estimate that beats all others with no overlap of intervals; None if there is none.

    Args:
        estimates: Estimates of one metric; None where it was not measured.
        better: `min`, `max`, or None for a metric without a better direction.
    """
    known = {place: each for place, each in enumerate(estimates) if each is not None}
    if better is None or len(known) < 2:
        return None
    if len({each.seeds > 1 for each in known.values()}) > 1:
        return None  # intervals over seeds and over test images are not comparable
    sign = 1 if better == "max" else -1
    best = max(known, key=lambda place: sign * known[place].mean)
    others = [each for place, each in known.items() if place != best]
    if better == "max":
        apart = all(known[best].low > each.high for each in others)
    else:
        apart = all(known[best].high < each.low for each in others)
    return best if apart else None  # comparisons with nan are false


def table(study: Study, rows: "pd.DataFrame", states: Mapping[Path, str]) -> list[list[str]]:
    """Returns the rows of the table, header first: one per cell, or one per group of comparable runs of a cell.

    The last column lists why cells are impossible and how many runs are unfinished; it is absent if it would be empty.

    Args:
        study: The study.
        rows: Result of `studies.results.read_results`.
        states: Result of `studies.notes.read_states`.
    """
    lettered = rows["definition"].nunique() > 1
    groups = {(str(cell), str(letter)): group for (cell, letter), group in rows.groupby(["cell", "definition"])}
    estimates = {key: [estimate(group, column.figure) for column in study.columns] for key, group in groups.items()}
    bold = _bold(estimates, study.columns)
    decimals = [_column_decimals((each[place] for each in estimates.values()), column)
                for place, column in enumerate(study.columns)]  # fmt: skip
    head = [*study.axes, *(["group"] if lettered else []), "seeds", *(column.title for column in study.columns)]
    reasons = {tuple(labels.values()): f"impossible: {reason}" for labels, reason in study.impossible}
    lines = []
    for labels, runs in cells_of(study).items():
        remark = _remark(runs, states) if runs else reasons[labels]
        keys = [key for key in groups if runs and key[0] == runs[0].cell]
        for key in keys:
            texts = [_shown(estimates[key][place], column, decimals[place], (key, place) in bold)
                     for place, column in enumerate(study.columns)]  # fmt: skip
            lines.append([*labels, *([key[1]] if lettered else []), str(len(groups[key])), *texts, remark])
        if not keys:
            empty = [NONE] * len(study.columns)
            lines.append([*labels, *([NONE] if lettered else []), "0" if runs else NONE, *empty, remark])
    if any(line[-1] for line in lines):
        return [[*head, "remark"], *lines]
    return [head, *(line[:-1] for line in lines)]


def matrix(study: Study, rows: "pd.DataFrame", column: Column) -> list[list[str]]:
    """Returns one metric with the labels of the last axis side by side, header first; see `axes_of`."""
    axes = axes_of(study, rows, column.figure)
    *down, across = axes
    measured = measured_once(rows, column.figure, axes)
    groups = {tuple(map(str, labels)): group for labels, group in measured.groupby(axes, sort=False)}
    cells = dict.fromkeys(tuple(labels[axis] for axis in axes) for labels in _grid(study))
    found = {cell: estimate(groups[cell], column.figure) for cell in cells if cell in groups}
    decimals = _column_decimals(found.values(), column)
    lines = [[*down, *study.axes[across]]]
    for labels in dict.fromkeys(cell[:-1] for cell in cells):
        texts = (_shown(found.get((*labels, label)), column, decimals, False) for label in study.axes[across])
        lines.append([*labels, *texts])
    return lines


def axes_of(study: Study, rows: "pd.DataFrame", metric: str) -> list[str]:
    """Returns the axes that a metric depends on, at least one.

    The cost of training does not depend on axes that act after training, nor does a metric that agrees in all runs that
    differ in such an axis only.
    """
    kept = list(study.axes)
    for axis in study.after_training:
        others = [each for each in kept if each != axis]
        if others and (metric in RECORDED or _agrees(rows, metric, [*others, "seed"])):
            kept = others
    return kept


def _agrees(rows: "pd.DataFrame", metric: str, same: Sequence[str]) -> bool:
    """Returns whether a metric agrees, up to rounding, in all rows that agree in columns, of which there are some."""
    groups = rows[rows[metric].notna()].groupby(list(same))[metric]
    if not (groups.count() > 1).any():
        return False
    low, high = groups.min().astype(float), groups.max().astype(float)
    return bool((high - low <= ROUNDING * high.abs()).all())


def measured_once(rows: "pd.DataFrame", metric: str, axes: Sequence[str]) -> "pd.DataFrame":
    """Returns the first row that has a metric for each seed and labels of these axes: trainings count once."""
    return rows[rows[metric].notna()].drop_duplicates([*axes, "seed"])


def _grid(study: Study) -> Iterable[dict[str, str]]:
    """Returns the labels of every cell by axis."""
    return [dict(zip(study.axes, cell, strict=True)) for cell in cells_of(study)]


def joined_table(study: Study, rows: "pd.DataFrame", folder: Path, name: str) -> tuple[list[list[str]], str]:
    """Joins a CSV table of all runs; rows of a cell's seeds are averaged if they can be matched.

    Columns that are not numeric in some run identify a row: rows of one cell, of comparable runs, that agree in them
    belong to different seeds.

    Args:
        study: The study.
        rows: Result of `studies.results.read_results`; other runs are ignored.
        folder: The study's folder.
        name: Path of the table in a run's folder.

    Returns:
        The rows, header first, and a sentence that explains them; no rows if no run has the table.
    """
    found = [(run, line) for run in rows.to_dict("records") for line in read_table(folder / str(run["folder"]) / name)]
    columns = {
        head: [line.get(head) or "" for _, line in found]
        for head in dict.fromkeys(key for _, line in found for key in line)
    }
    numbers = [head for head, texts in columns.items() if _numeric(texts)]
    words = [head for head in columns if head not in numbers]
    decimals = {head: _text_decimals(columns[head]) for head in numbers}
    marks = [*study.axes, *(["definition"] if rows["definition"].nunique() > 1 else [])]
    groups: dict[tuple[str, ...], list[tuple[int, dict[str, str]]]] = {}
    for run, line in found:
        key = (*(str(run[mark]) for mark in marks), *(line.get(word) or NONE for word in words))
        groups.setdefault(key, []).append((int(run["seed"]), line))
    if not groups:
        return [], ""
    head = ["group" if mark == "definition" else mark for mark in marks] + words
    unmatched = any(len({seed for seed, _ in lines}) < len(lines) for lines in groups.values())
    if unmatched:
        parts = [(key, str(seed), [line]) for key, lines in groups.items() for seed, line in lines]
    else:
        parts = [(key, str(len(lines)), [line for _, line in lines]) for key, lines in groups.items()]
    body = [[*key, seeds, *(_averaged([line.get(head) or "nan" for line in lines], decimals[head]) for head in numbers)]
            for key, seeds, lines in parts]  # fmt: skip
    return [[*head, "seed" if unmatched else "seeds", *numbers], *body], SINGLE if unmatched else MEANS


def markdown(lines: Sequence[Sequence[str]], numbers_from: int = 0) -> str:
    """Returns a Markdown table with aligned columns; the first line is the header.

    Args:
        lines: The rows.
        numbers_from: Index of the first right-aligned column.
    """
    safe = [[" ".join(text.split()).replace("|", "\\|") for text in line] for line in lines]
    widths = [max(3, *(len(line[place]) for line in safe)) for place in range(len(safe[0]))]
    marks = ["-" * width if place < numbers_from else "-" * (width - 1) + ":" for place, width in enumerate(widths)]
    if safe[0][-1] == "remark":
        marks[-1] = "-" * widths[-1]
    padded = ["| " + " | ".join(f"{text:{width}}" for text, width in zip(line, widths, strict=True)) + " |"
              for line in (safe[0], marks, *safe[1:])]  # fmt: skip
    return "\n".join(line.rstrip() for line in padded)


def table_text(study: Study, rows: "pd.DataFrame", states: Mapping[Path, str]) -> str:
    """Returns the table in Markdown, with warnings above it and an explanation below."""
    warnings = "".join(f"> {sentence}\n" for sentence in warnings_of(study, rows))
    lines = table(study, rows, states)
    text = markdown(lines, lines[0].index("seeds"))
    parts = [f"{warnings}{chr(10) if warnings else ''}{text}\n\n{RULE}\n"]
    for title, shown, keys in matrices(study, rows):
        parts.append(f"{title}\n\n{markdown(shown, keys)}\n")
    return "\n".join(parts)


def matrices(study: Study, rows: "pd.DataFrame") -> list[tuple[str, list[list[str]], int]]:
    """Returns title and rows of each matrix of the study, and how many columns are labels."""
    columns = {column.figure: column for column in study.columns}
    found = []
    for name in study.matrices:
        axes = axes_of(study, rows, name)
        found.append((columns[name].title.capitalize(), matrix(study, rows, columns[name]), len(axes) - 1))
    return found


def warnings_of(study: Study, rows: "pd.DataFrame") -> list[str]:
    """Returns warnings about rows of the table that cannot be compared."""
    costs = any(column.figure in ("seconds", "peak_bytes") for column in study.columns)
    return [*incomparable(rows), *(machines(rows) if costs else [])]


def number_text(value: float | None, decimals: int | None = None, metric: str = "") -> str:
    """Formats a number; `-` for None and nan.

    Args:
        value: The number.
        decimals: Decimal places; None chooses them by the size of the number.
        metric: Name of the metric, which determines the unit: `peak_bytes` is shown in GiB.
    """
    if value is None or math.isnan(value):
        return NONE
    if metric == "peak_bytes":
        return f"{value / 2**30:.2f} GiB"
    return f"{value:,.{decimals_of(value) if decimals is None else decimals}f}"


def decimals_of(size: float) -> int:
    """Returns the decimal places to show for numbers of this size."""
    return next((decimals for limit, decimals in ((2, 3), (20, 2), (1000, 1)) if abs(size) < limit), 0)


def _shown(estimated: Estimate | None, column: Column, decimals: int, bold: bool) -> str:
    if estimated is None:
        return NONE
    mean, deviation, low, high = (number_text(value, decimals, column.figure) for value in
                                  (estimated.mean, estimated.deviation, estimated.low, estimated.high))  # fmt: skip
    text = f"**{mean}**" if bold else mean
    if estimated.seeds > 1:  # all runs of a cell have the same network: no ± 0 for its parameters
        same = column.figure in ("parameters", "samples") and estimated.deviation == 0
        return text if same else f"{text} ± {deviation}"
    return text if math.isnan(estimated.low) else f"{text} [{low}, {high}]"


def _column_decimals(estimates: Iterable[Estimate | None], column: Column) -> int:
    """Returns the decimal places of a column: those of the value that needs most."""
    known = [each for each in estimates if each is not None]
    if column.figure in COUNTS:  # integers, unless averaged
        return 1 if any(each.deviation > 0 and abs(each.mean) < 1000 for each in known) else 0
    return max((decimals_of(each.mean) for each in known), default=0)


def _bold(
    estimates: Mapping[tuple[str, str], Sequence[Estimate | None]], columns: Sequence[Column]
) -> set[tuple[tuple[str, str], int]]:
    """Returns which values are bold, as (cell and definition, index of the column)."""
    found = set()
    for definition in {key[1] for key in estimates}:
        keys = [key for key in estimates if key[1] == definition]
        for place, column in enumerate(columns):
            best = best_of([estimates[key][place] for key in keys], column.better)
            if best is not None:
                found.add((keys[best], place))
    return found


def _remark(runs: Sequence[Run], states: Mapping[Path, str]) -> str:
    """Describes the runs of a cell that are not finished."""
    found = [states[run.folder] for run in runs]
    counts = {name: found.count(name) for name in ("failed", "started", "waiting") if name in found}
    if len(runs) == 1 or (len(counts) == 1 and sum(counts.values()) == len(runs)):
        return "".join(counts)
    return ", ".join(f"{count} of {len(runs)} {name}" for name, count in counts.items())


def _numeric(texts: Sequence[str]) -> bool:
    """Returns whether all texts but empty ones are numbers, and not all are empty."""
    try:
        return bool([float(text) for text in texts if text])
    except ValueError:
        return False


def _text_decimals(texts: Sequence[str]) -> int:
    """Returns the decimal places to show for these numbers: none if all are integers."""
    values = [value for value in map(float, filter(None, texts)) if math.isfinite(value)]
    return 0 if all(map(float.is_integer, values)) else max(map(decimals_of, values))


def _averaged(texts: Sequence[str], decimals: int) -> str:
    """Returns the mean and standard deviation of numbers; a single number, or equal integers, as they are."""
    values = [value for value in map(float, texts) if not math.isnan(value)]
    if len(values) < 2 or (decimals == 0 and len(set(values)) == 1):
        return number_text(values[0] if values else None, decimals)
    decimals = max(1, decimals)  # the mean of integers is not an integer
    return f"{number_text(statistics.fmean(values), decimals)} ± {number_text(statistics.stdev(values), decimals)}"
