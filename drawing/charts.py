"""Charts of a training and of a dataset, each written as one picture file."""

import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from drawing.pictures import Masks, Picture, color_of, font_of, overlay, scaled, scaled_masks, shortened
from ops.atomic import replacing

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OF_THE_DATA = ("majority",)  # what no training changes: its curve would be a line across magnified noise


def draw_curves(
    history: Sequence[Mapping[str, float]],
    monitor: str,
    path: Path,
    mode: Literal["min", "max"] = "min",
    baselines: Sequence[str] = (),
) -> None:
    """Writes one small plot a metric, training and validation in it, the best epoch marked in each.

    What needs no model, `val/<floor>_<metric>`, is a line in that metric's plot; `OF_THE_DATA` has none.

    Args:
        history: One row an epoch: `epoch` and values like `train/loss` or `val/dice`. A key may be absent
            where it was not measured: the line then spans the gap. A nan breaks the line.
        monitor: The key whose best value marks the best epoch.
        path: The picture file, PNG or JPEG.
        mode: Whether the lowest or the highest value is the best.
        baselines: Prefixes of metrics that belong to trivial baselines: drawn as horizontal lines.

    Raises:
        ValueError: There is no value in the history.
    """
    names = {key.split("/")[1] for row in history for key in row if "/" in key}
    names -= {f"{floor}_{name}" for floor in baselines for name in names} | {*OF_THE_DATA}
    if not names:
        raise ValueError(f"the history {list(history)} has no values, some like `val/loss` were wanted; log them first")
    metrics = sorted(names, key=lambda name: (name != "loss", name != monitor.split("/")[-1], name))
    measured = [row for row in history if math.isfinite(row.get(monitor, math.nan))]
    best = (min if mode == "min" else max)(measured, key=lambda row: row[monitor], default=None)
    columns = len(metrics) if len(metrics) <= 3 else math.ceil(math.sqrt(len(metrics)))
    lines = math.ceil(len(metrics) / columns)

    figure = _figure(max(7.0, 4 * columns), 1.0 + 2.8 * lines)
    figure.suptitle("Training curves", x=0.015, horizontalalignment="left", fontsize=14, fontweight="bold")
    for place, metric in enumerate(metrics, start=1):
        axes = figure.add_subplot(lines, columns, place)
        _draw_metric(axes, metric, history, baselines)
        if best is not None:
            label = f"best: epoch {best['epoch']:.0f}, {monitor} {best[monitor]:#.3g}"
            axes.axvline(best["epoch"], color="0.4", linestyle="--", linewidth=1, zorder=1, label=label)
            axes.set_title(_note(best, metric), loc="right", fontsize=9, color="0.35")
    handles: dict[str, Any] = {}
    for axes in figure.axes:
        drawn, labels = axes.get_legend_handles_labels()
        handles.update(zip(labels, drawn, strict=True))
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=3, frameon=False)
    _save_figure(figure, path)


def _draw_metric(axes: "Axes", metric: str, history: Sequence[Mapping[str, float]], baselines: Sequence[str]) -> None:
    from matplotlib.ticker import MaxNLocator

    _plain(axes, metric.replace("_", " "))
    marker = "o" if len(history) <= 30 else ""
    for stage, label, color in (("train", "training", "#0072B2"), ("val", "validation", "#D55E00")):
        points = [(row["epoch"], row[f"{stage}/{metric}"]) for row in history if f"{stage}/{metric}" in row]
        if points:
            axes.plot(
                *zip(*points, strict=True),
                color=color,
                label=label,
                marker=marker,
                markersize=4,
                linewidth=1.6,
            )
    for floor, style in zip(baselines, cycle((":", "-.", (0, (5, 1)))), strict=False):
        values = [row[f"val/{floor}_{metric}"] for row in history if f"val/{floor}_{metric}" in row]
        if values:
            axes.axhline(values[-1], color="0.55", linestyle=style, linewidth=1.2, label=floor.replace("_", " "))
    first, last = history[0]["epoch"], history[-1]["epoch"]
    room = max(0.5, 0.02 * (last - first))
    axes.set_xlim(first - room, last + room)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))
    axes.set_xlabel("epoch")


def _note(best: Mapping[str, float], metric: str) -> str:
    """What stands over a plot about the best epoch: over it, since no curve can cross it there."""
    epoch, value = f"epoch {best['epoch']:.0f}", best.get(f"val/{metric}", best.get(f"train/{metric}"))
    return epoch if value is None else f"{epoch}: {value:#.3g}"


def draw_study(
    charts: "Mapping[str, pd.Series[Any]]",
    examples: Sequence[tuple[str, Picture, Masks]],
    classes: Sequence[str],
    path: Path,
) -> None:
    """Writes one picture of a dataset: a grid of bar charts, and example pictures with their masks below it.

    Args:
        charts: Title to heights; the index names the bars (or bounds them, if it is of intervals), the name
            of the index the horizontal axis, that of the series the vertical one. Bars named like classes
            get their colours.
        examples: Title, picture and masks of each example.
        classes: The class names in the order of the masks.
        path: The picture file, PNG or JPEG.
    """
    from matplotlib.patches import Patch

    lines = math.ceil(len(charts) / 3)
    example_lines = math.ceil(len(examples) / 4)
    tallest = max((picture.shape[0] / picture.shape[1] for _, picture, _ in examples), default=0.0)
    heights = [3.0 * lines, example_lines * (0.4 + 3.2 * min(tallest, 1.2)) + 0.5]
    parts = len(heights) if examples else 1
    figure = _figure(13, sum(heights[:parts]))
    blocks = figure.subfigures(parts, 1, height_ratios=heights[:parts], squeeze=False)[:, 0]
    for place, (title, series) in enumerate(charts.items(), start=1):
        axes = blocks[0].add_subplot(lines, 3, place)
        _plain(axes, title)
        _draw_bars(axes, series, classes)
    for place, (title, picture, masks) in enumerate(examples, start=1):
        axes = blocks[1].add_subplot(example_lines, 4, place)
        axes.set_title(shortened(title, font_of(19), 440), fontsize=9)  # 9 points are 19 pixels at 150 dpi
        axes.set_axis_off()
        axes.set_anchor("N")
        small = scaled(picture, 640, 640)
        axes.imshow(overlay(small, scaled_masks(masks, small.shape[1], small.shape[0])))
    if examples:
        patches = [Patch(color=_hex(k), label=name) for k, name in enumerate(classes)]
        blocks[1].legend(handles=patches, loc="outside lower center", ncols=min(8, len(classes)), frameon=False)
    _save_figure(figure, path)


def _draw_bars(axes: "Axes", series: "pd.Series[Any]", classes: Sequence[str]) -> None:
    from matplotlib.ticker import MaxNLocator

    places, labels = _ticks(series.index)
    known = set(labels) <= set(classes)
    colors = [_hex(list(classes).index(label)) for label in labels] if known else "#4C78A8"
    many = len(series) > 12
    width = 1.0 if many else min(0.8, 0.2 * len(series))  # one bar alone is not as wide as the plot
    bars = axes.bar(range(len(series)), series.to_numpy(), color=colors, width=width, edgecolor="white")
    axes.set_xlim(-0.6, len(series) - 0.4)
    if len(series) <= 8:
        axes.bar_label(bars, fmt="{:,.4g}", fontsize=8, padding=2)
        axes.margins(y=0.12)
    if not series.any():
        axes.set_ylim(0, 1)
    if series.dtype.kind in "iu":
        axes.yaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    slanted = not many and _crowded(labels)
    step = 1
    if many:
        step = next((step for step in (1, 2, 5, 10, 20, 50) if not _crowded(labels[::step])), len(labels))
    axes.set_xticks(places[::step], labels[::step], rotation=30 if slanted else 0, ha="right" if slanted else "center")
    axes.set_xlabel(str(series.index.name or ""))
    axes.set_ylabel(str(series.name or ""))


def _crowded(labels: Sequence[str]) -> bool:
    """Whether the labels, with a gap of two letters each, are too long to stand side by side."""
    return sum(len(label) + 2 for label in labels) > 52


def _ticks(index: "pd.Index[Any]") -> tuple[list[float], list[str]]:
    """Places and labels below the bars: between them for intervals, under their middles otherwise."""
    import pandas as pd

    if isinstance(index, pd.IntervalIndex):
        edges = [*index.left, *index.right[-1:]]
        return [place - 0.5 for place in range(len(edges))], [f"{edge:.3g}" for edge in edges]
    return list(range(len(index))), [f"{label:.3g}" if isinstance(label, float) else str(label) for label in index]


def _plain(axes: "Axes", title: str) -> None:
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="0.92")
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9)


def _hex(index: int) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color_of(index))


def _figure(width: float, height: float) -> "Figure":
    """Empty figure of that size in inches; pyplot, and with it all global state, is left out."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    return Figure(figsize=(width, height), dpi=150, layout=ConstrainedLayoutEngine(h_pad=0.08, w_pad=0.08))


def _save_figure(figure: "Figure", path: Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary)
