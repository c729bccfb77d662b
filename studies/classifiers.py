"""Draws the metrics of classical classifiers beside those of the networks: lines over an axis, or groups of bars."""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from drawing.charts import add_legend, drawn_by_label, hex_color, new_figure, plain
from drawing.pictures import printable
from studies.notes import read_table
from studies.plan import Measured, Study

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NOTHING = "-"  # the vector of the baseline that sees no image


class Value(NamedTuple):
    """A metric of a classifier in one run.

    Attributes:
        labels: Labels of the run's cell.
        seed: Its seed.
        vector: What the classifier sees.
        classifier: Its name.
        metric: Name of the metric.
        value: Its value.
    """

    labels: tuple[str, ...]
    seed: int
    vector: str
    classifier: str
    metric: str
    value: float


def values_of(study: Study, measured: Measured, folder: Path) -> list[Value]:
    """Returns the metrics of all runs that have the table, where they are known."""
    found = []
    for run in study.runs:
        for row in read_table(folder / run.folder / measured.table):
            names = tuple(run.labels.values()), run.seed, row.get("vector", ""), row.get("classifier", "")
            found += [Value(*names, metric, float(row[metric])) for metric in measured.metrics
                      if row.get(metric) and math.isfinite(float(row[metric]))]  # fmt: skip
    return found


def drawn_lines(study: Study, measured: Measured, rows: "pd.DataFrame", folder: Path) -> "Figure | None":
    """Plots each metric over the labels of an axis, a column of plots per vector; None before the first test.

    Args:
        study: The study.
        measured: The metrics, the table of the classifiers, and the axis.
        rows: Result of `studies.results.read_results`, with the metrics of the networks.
        folder: The study's folder.
    """
    values = [each for each in values_of(study, measured, folder) if each.vector != NOTHING]
    place = list(study.axes).index(measured.axis)
    networks = list(_networks(study, measured, rows, place))
    if not networks and not values:
        return None
    vectors = list(dict.fromkeys(each.vector for each in values)) or [""]
    classifiers = list(dict.fromkeys(each.classifier for each in values))
    figure = new_figure(max(6.0, 4.2 * len(vectors)), 1.2 + 2.4 * len(measured.metrics), pad=0.06)
    grid = figure.subplots(len(measured.metrics), len(vectors), squeeze=False, sharex=True, sharey="row")
    titles = {column.figure: column.title for column in study.columns}
    for line, metric in zip(grid, measured.metrics, strict=True):
        for axes, vector in zip(line, vectors, strict=True):
            title = titles.get(f"test/{metric}", metric.replace("_", " "))
            plain(axes, f"{title}{', ' if vector else ''}{vector.replace('_', ' ')}", size=9)
            for number, name in enumerate(classifiers):
                mine = [
                    each for each in values if (each.vector, each.classifier, each.metric) == (vector, name, metric)
                ]
                points = [(float(each.labels[place]), each.value) for each in mine]
                _draw_line(axes, points, hex_color(number), name.replace("_", " "), 1.0)
            shades = ("0.1", "0.45", "0.65", "0.8")
            for number, (name, _, points) in enumerate(each for each in networks if each[1] == metric):
                _draw_line(axes, points, shades[number % len(shades)], name, 2.4)
    for axes in grid[-1]:
        axes.set_xlabel({"delta": "δ"}.get(measured.axis, measured.axis), fontsize=8)
    add_legend(figure, drawn_by_label(grid.flat))
    return figure


def _networks(
    study: Study, measured: Measured, rows: "pd.DataFrame", place: int
) -> Iterator[tuple[str, str, list[tuple[float, float]]]]:
    """Yields name, metric and points of each network's line."""
    others = [axis for axis in study.axes if axis != measured.axis]
    for metric in measured.metrics:
        column = f"test/{metric}"
        if column not in rows:
            continue
        known = rows[rows[column].notna()]
        groups = known.groupby(others, sort=False) if others else [("network", known)]
        for labels, group in groups:
            name = " · ".join(map(str, labels)) if isinstance(labels, tuple) else str(labels)
            yield name, metric, [(float(x), float(y)) for x, y in zip(group[measured.axis], group[column], strict=True)]


def _draw_line(axes: "Axes", points: Sequence[tuple[float, float]], color: str, label: str, width: float) -> None:
    """Draws the means of points with equal x, and their range as a band."""
    found: dict[float, list[float]] = {}
    for x, y in sorted(points):
        found.setdefault(x, []).append(y)
    if not found:
        return
    axes.plot(list(found), [statistics.fmean(ys) for ys in found.values()], color=color, linewidth=width, marker="o",
              markersize=2 + width, label=printable(label))  # fmt: skip
    if any(len(ys) > 1 for ys in found.values()):
        axes.fill_between(list(found), list(map(min, found.values())), list(map(max, found.values())), color=color,
                          alpha=0.12, linewidth=0)  # fmt: skip


def drawn_groups(study: Study, measured: Measured, folder: Path) -> "Figure | None":
    """Draws the metrics of each classifier as bars, a plot per kind of vector; None before the first table.

    Vectors that are the same in several cells, such as plain descriptors, have one plot.

    Args:
        study: The study.
        measured: The metrics and the table.
        folder: The study's folder.
    """
    values = values_of(study, measured, folder)
    plots = list(_merged([each for each in values if each.vector != NOTHING]))
    if not plots:
        return None
    majority = [each for each in values if each.vector == NOTHING]
    baseline = {metric: statistics.fmean(each.value for each in majority if each.metric == metric)
                for metric in {each.metric for each in majority}}  # fmt: skip
    columns = min(2, len(plots))
    lines = math.ceil(len(plots) / columns)
    figure = new_figure(5.6 * columns, 0.8 + 2.2 * lines, pad=0.06)
    grid = figure.subplots(lines, columns, squeeze=False, sharey=True)
    for axes in grid.flat[len(plots) :]:
        axes.set_axis_off()
    for axes, (title, mine) in zip(grid.flat, plots, strict=False):
        plain(axes, title, size=9)
        _draw_groups(axes, measured.metrics, mine, baseline)
    add_legend(figure, drawn_by_label(grid.flat))
    return figure


def _merged(values: Sequence[Value]) -> Iterator[tuple[str, list[Value]]]:
    """Yields a title and the values of each kind of vector; of cells with equal values, those of the first."""
    for vector in dict.fromkeys(each.vector for each in values):
        cells: dict[tuple[str, ...], list[Value]] = {}
        for each in values:
            if each.vector == vector:
                cells.setdefault(each.labels, []).append(each)
        equal: dict[tuple[tuple[object, ...], ...], list[tuple[str, ...]]] = {}
        for labels, mine in cells.items():
            equal.setdefault(tuple(each[1:] for each in mine), []).append(labels)
        for several in equal.values():
            # the labels that all of them have, unless all cells are equal
            shared = [labels[0] for labels in zip(*several, strict=True) if len(set(labels)) == 1]
            names = [*(shared if len(equal) > 1 else []), vector.replace("_", " ")]
            yield " · ".join(names), cells[several[0]]


def _draw_groups(axes: "Axes", metrics: Sequence[str], values: Sequence[Value], baseline: Mapping[str, float]) -> None:
    names = list(dict.fromkeys(each.classifier for each in values))
    width = 0.8 / len(metrics)
    for number, metric in enumerate(metrics):
        color = hex_color(number)
        for place, name in enumerate(names):
            mine = [each.value for each in values if (each.classifier, each.metric) == (name, metric)]
            if not mine:
                continue
            left = place - 0.4 + width * (number + 0.5)
            axes.bar(left, statistics.fmean(mine), width=0.92 * width, color=color, label=metric.replace("_", " "))
            if len(mine) > 1:
                axes.plot([left] * len(mine), mine, "o", color="0.2", markersize=2)
        if metric in baseline:
            axes.axhline(baseline[metric], color=color, linewidth=1, linestyle="--")
    axes.set_xticks(range(len(names)), [printable(name).replace("_", "\n", 1).replace("_", " ") for name in names])
    axes.tick_params(axis="x", labelsize=7, length=0)
    axes.set_ylim(0, 1)
