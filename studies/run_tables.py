"""CSV tables that each run of a study wrote, as one."""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from studies.plan import Study
from studies.results import read_table
from studies.tables import NONE, decimals_of

if TYPE_CHECKING:
    import pandas as pd

MEANS = "Mean ± standard deviation over the seeds that have the line."
EACH = "The lines of a run do not differ in words, so that those of several seeds cannot be told apart: a line a seed."


def joined_table(study: Study, rows: "pd.DataFrame", folder: Path, name: str) -> tuple[list[list[str]], str]:
    """A table of the runs' folders, of all runs: averaged over the seeds of a cell where lines can be told apart.

    What is no number in any run says what a line is of; lines of one cell, measured alike, that agree in it are of
    different seeds.

    Args:
        study: The study.
        rows: What `studies.results.read_results` gives; tables of other runs are left out.
        folder: The study's folder.
        name: The table's path in a run's folder.

    Returns:
        The lines, the heads first, and a sentence on what they are. Without any table there are no lines.
    """
    found = [(run, line) for run in rows.to_dict("records") for line in read_table(folder / str(run["folder"]) / name)]
    heads = list(dict.fromkeys(head for _, line in found for head in line))
    numbers = [head for head in heads if _is_number([line.get(head) or "" for _, line in found])]
    words = [head for head in heads if head not in numbers]
    places = {head: _places([line.get(head) or "" for _, line in found]) for head in numbers}
    marks = [*study.axes, *(["definition"] if rows["definition"].nunique() > 1 else [])]
    groups: dict[tuple[str, ...], list[tuple[int, dict[str, str]]]] = {}
    for run, line in found:
        key = (*(str(run[mark]) for mark in marks), *(line.get(word) or NONE for word in words))
        groups.setdefault(key, []).append((int(run["seed"]), line))
    if not groups:
        return [], ""
    shown = ["measured as" if mark == "definition" else mark for mark in marks] + words
    if any(len({seed for seed, _ in lines}) < len(lines) for lines in groups.values()):
        each = [(key, seed, line) for key, lines in groups.items() for seed, line in lines]
        values = [
            [*key, str(seed), *(_told([line], head, places[head]) for head in numbers)] for key, seed, line in each
        ]
        return [[*shown, "seed", *numbers], *values], EACH
    values = [[*key, str(len(lines)), *(_told([line for _, line in lines], head, places[head]) for head in numbers)]
              for key, lines in groups.items()]  # fmt: skip
    return [[*shown, "seeds", *numbers], *values], MEANS


def _is_number(texts: Sequence[str]) -> bool:
    """Whether these are numbers, where they are not empty; nothing but empty ones are no number."""
    try:
        return bool([float(text) for text in texts if text])
    except ValueError:
        return False


def _places(texts: Sequence[str]) -> int:
    """Decimals that numbers are told with: none where all are whole."""
    values = [value for value in map(float, filter(None, texts)) if math.isfinite(value)]
    return 0 if all(map(float.is_integer, values)) else max(map(decimals_of, values))


def _told(lines: Sequence[Mapping[str, str]], head: str, decimals: int) -> str:
    """A number of some lines: itself where all say the same whole one, otherwise its mean and deviation."""
    texts = [line.get(head) or "nan" for line in lines]
    values = [value for value in map(float, texts) if not math.isnan(value)]
    if not values:
        return NONE
    mean, same = statistics.fmean(values), len(set(values)) == 1
    if len(values) == 1 or (decimals == 0 and same):
        return f"{mean:,.{decimals}f}"
    decimals = max(1, decimals)  # means of whole numbers are none
    return f"{mean:,.{decimals}f} ± {statistics.stdev(values):,.{decimals}f}"
