"""Draws charts of a training run and of a dataset, each as one image file."""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from drawing.pictures import (
    IGNORED,
    Masks,
    Picture,
    color_of,
    font_of,
    hatched,
    overlay,
    printable,
    scaled,
    scaled_masks,
    shortened,
)
from ops.atomic import replacing

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import Locator

INCHES = 13  # width of a study
STAGES = (("train", "training", "#0072B2"), ("val", "validation", "#D55E00"))


def draw_curves(
    history: Sequence[Mapping[str, float]],
    monitor: str,
    path: Path,
    best: int | None = None,
    baselines: Sequence[str] = (),
) -> None:
    """Writes one small plot per metric, with training and validation curves and the best epoch marked.

    Args:
        history: One row per epoch: `epoch` and values like `train/loss` or `val/dice`. If a key is missing, the line
            spans the gap; a nan breaks it.
        monitor: The key by which the best epoch was chosen.
        path: The image file, PNG or JPEG.
        best: The epoch that is kept, to mark; None for none.
        baselines: Names of trivial baselines. `val/<baseline>_<metric>` is a horizontal line in the plot of that
            metric; `val/<baseline>`, which no training changes, is not drawn. Neither has `val/<metric>_true`, the
            value of the true images, a plot of its own.

    Raises:
        ValueError: The history has no values.
    """
    names = {key.split("/")[1] for row in history for key in row if "/" in key}
    names -= {f"{baseline}_{name}" for baseline in baselines for name in names} | {*baselines}
    names -= {f"{name}_true" for name in names}
    if not names:
        raise ValueError(f"expected values like `val/loss` in the history, got {list(history)}; log metrics first")
    metrics = sorted(names, key=lambda name: (name != "loss", name != monitor.split("/")[-1], name))
    marked = next((row for row in history if row["epoch"] == best and math.isfinite(row.get(monitor, math.nan))), None)
    columns = len(metrics) if len(metrics) <= 3 else math.ceil(math.sqrt(len(metrics)))
    lines = math.ceil(len(metrics) / columns)

    figure = new_figure(max(7.0, 4 * columns), 1.0 + 2.8 * lines)
    figure.suptitle("Training curves", x=0.015, horizontalalignment="left", fontsize=14, fontweight="bold")
    for place, metric in enumerate(metrics, start=1):
        axes = figure.add_subplot(lines, columns, place)
        _draw_metric(axes, metric, history, baselines)
        if marked is not None:
            label = f"kept: epoch {best}, {monitor} {marked[monitor]:#.3g}"
            axes.axvline(marked["epoch"], color="0.4", linestyle="--", linewidth=1, zorder=1, label=label)
            axes.set_title(_note(marked, metric), loc="right", fontsize=9, color="0.35")
    handles: dict[str, Any] = {}
    for axes in figure.axes:
        drawn, labels = axes.get_legend_handles_labels()
        handles.update(zip(labels, drawn, strict=True))
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=3, frameon=False)
    save_figure(figure, path)


def _draw_metric(axes: "Axes", metric: str, history: Sequence[Mapping[str, float]], baselines: Sequence[str]) -> None:
    plain(axes, metric.replace("_", " "))
    marker = "o" if len(history) <= 30 else ""
    for stage, label, color in STAGES:
        points = [(row["epoch"], row[f"{stage}/{metric}"]) for row in history if f"{stage}/{metric}" in row]
        if points:
            axes.plot(*zip(*points, strict=True), color=color, label=label, marker=marker, markersize=4, linewidth=1.6)
    for baseline, style in zip(baselines, cycle((":", "-.", (0, (5, 1)))), strict=False):
        values = [row[f"val/{baseline}_{metric}"] for row in history if f"val/{baseline}_{metric}" in row]
        if values:
            axes.axhline(values[-1], color="0.55", linestyle=style, linewidth=1.2, label=baseline.replace("_", " "))
    true = [row[f"val/{metric}_true"] for row in history if f"val/{metric}_true" in row]
    if true:
        axes.axhline(true[-1], color="#009E73", linestyle="--", linewidth=1.2, label="true images")
    first, last = history[0]["epoch"], history[-1]["epoch"]
    room = max(0.5, 0.02 * (last - first))
    axes.set_xlim(first - room, last + room)
    axes.xaxis.set_major_locator(_round_ticks(8, whole=True))
    axes.set_xlabel("epoch")


def _note(best: Mapping[str, float], metric: str) -> str:
    """Returns the text about the best epoch, which goes above the plot, where no curve crosses it."""
    epoch, value = f"epoch {best['epoch']:.0f}", best.get(f"val/{metric}", best.get(f"train/{metric}"))
    return epoch if value is None else f"{epoch}: {value:#.3g}"


def draw_study(
    charts: "Mapping[str, pd.Series[Any]]",
    examples: Sequence[tuple[str, Picture, Masks]],
    classes: Sequence[str],
    path: Path,
    title: str = "",
) -> None:
    """Writes one image about a dataset: a grid of bar charts, and below it example images with their masks.

    Args:
        charts: Bar heights by title. The index labels the bars (an interval index bounds them), its name labels the
            horizontal axis and the name of the series the vertical one. Bars named like classes get their colors;
            others that of the series's attribute `color`, if any. Charts of a single bar are left out.
        examples: Title, image and masks of each example; a mask more than classes marks the ignored pixels.
        classes: The class names in the order of the masks.
        path: The image file, PNG or JPEG.
        title: What the dataset is called.
    """
    from matplotlib.patches import Patch

    shown = [(name, series) for name, series in charts.items() if _bars_of(series) > 1]
    lines = math.ceil(len(shown) / 3)
    rows = _justified([image.shape[1] / image.shape[0] for _, image, _ in examples])
    heights = [3.0 * lines] if shown else []
    heights += [0.4 + INCHES / sum(aspects) for _, aspects in rows]
    ignoring = any(len(masks) > len(classes) for _, _, masks in examples)
    legend = 0.5 if examples and (classes or ignoring) else 0
    heights += [legend] if legend else []
    figure = new_figure(INCHES, max(1.0, sum(heights) + (0.4 if title else 0)))
    if title:
        figure.suptitle(printable(title), x=0.01, ha="left", fontsize=14, fontweight="bold")
    blocks: Any = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0] if heights else []
    grid: Any = blocks[0].add_gridspec(lines, 6) if shown else None
    for line in range(lines):  # as even as possible, and each as wide as the figure
        part = shown[line * len(shown) // lines : (line + 1) * len(shown) // lines]
        for column, (name, series) in enumerate(part):
            wide = 6 // len(part)
            axes = blocks[0].add_subplot(grid[line, column * wide : (column + 1) * wide])
            plain(axes, name)
            _draw_bars(axes, series, classes)
    for block, (chosen, aspects) in zip(blocks[1 if shown else 0 :], rows, strict=False):
        grid = block.add_gridspec(1, len(aspects), width_ratios=aspects)
        for column, number in enumerate(chosen):
            name, image, masks = examples[number]
            axes = block.add_subplot(grid[0, column])
            room = 150 * INCHES * aspects[column] / sum(aspects) - 30  # pixels at 150 dpi, where 9 points are 19
            axes.set_title(shortened(name, font_of(19), room), fontsize=9)
            axes.set_axis_off()
            axes.set_anchor("N")
            small = scaled(image, 640, 640)
            fitting = scaled_masks(masks, small.shape[1], small.shape[0])
            drawn = overlay(small, fitting[: len(classes)])
            axes.imshow(hatched(drawn, fitting[-1]) if len(masks) > len(classes) else drawn)
    if legend:
        patches = [Patch(color=hex_color(k), label=printable(name)) for k, name in enumerate(classes)]
        if ignoring:
            patches.append(Patch(facecolor="0.85", edgecolor="0.5", hatch="////", label=IGNORED))
        blocks[-1].legend(handles=patches, loc="center", ncols=min(8, len(patches)), frameon=False)
    save_figure(figure, path)


def shares_chart(shares: Sequence[float], width: int, height: int) -> Picture:
    """Returns bars of the shares of votes, from 1, with their mean; of two shares, of snapshot and professional shot.

    Args:
        shares: In [0, 1], with the sum 1.
        width: Pixels across.
        height: Pixels down.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = new_figure(width / 150, height / 150, pad=0.03)
    axes = figure.subplots()
    plain(axes, "", size=8)
    judged = len(shares) == 2
    labels = ["snapshot", "professional"] if judged else [str(vote) for vote in range(1, len(shares) + 1)]
    axes.bar(labels, shares, width=0.5 if judged else 0.85, color=STAGES[0][2])
    if not judged:
        mean = sum(vote * share for vote, share in enumerate(shares))
        axes.axvline(mean, color=STAGES[1][2], linewidth=1.5)
        axes.set_title(f"mean vote {mean + 1:.2f}", loc="left", fontsize=8)
    axes.set_ylim(0, 1 if judged else max(0.4, 1.1 * max(shares)))
    axes.yaxis.set_major_locator(_round_ticks(4))
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]  # matplotlib's
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()  # type: ignore[no-untyped-call]  # matplotlib's


def _justified(aspects: Sequence[float]) -> list[tuple[list[int], list[float]]]:
    """Returns rows of images as wide as the figure: the numbers of each row's images, and widths per height.

    In a row of few images the last width is that of an empty place, so that none is higher than a quarter of the
    figure's width.
    """
    clipped = [min(3.0, max(0.5, aspect)) for aspect in aspects]
    lines = max(1, round(sum(clipped) / 5))
    rows: list[list[int]] = [[] for _ in range(lines)]
    before = 0.0
    for number, aspect in enumerate(clipped):
        rows[int(lines * (before + aspect / 2) / sum(clipped))].append(number)
        before += aspect
    result = []
    for row in filter(None, rows):
        widths = [clipped[number] for number in row]
        result.append((row, widths + ([4 - sum(widths)] if sum(widths) < 4 else [])))
    return result


def _bars_of(series: "pd.Series[Any]") -> int:
    """Returns the number of bars of a chart; empty bins of a histogram are none."""
    import pandas as pd

    return int(series.ne(0).sum()) if isinstance(series.index, pd.IntervalIndex) else len(series)


def _draw_bars(axes: "Axes", series: "pd.Series[Any]", classes: Sequence[str]) -> None:
    import pandas as pd

    axes.set_xlabel(str(series.index.name or ""))
    axes.set_ylabel(str(series.name or ""))
    if series.dtype.kind in "iu":
        axes.yaxis.set_major_locator(_round_ticks(6, whole=True))
    if not series.any():
        axes.set_ylim(0, 1)
    color = series.attrs.get("color", "#4C78A8")
    if isinstance(series.index, pd.IntervalIndex):
        left, right = series.index.left.to_numpy(float), series.index.right.to_numpy(float)
        axes.bar(left, series.to_numpy(), width=right - left, align="edge", color=color, edgecolor="white")
        axes.set_xlim(left[0], right[-1])
        axes.xaxis.set_major_locator(_round_ticks(6))
        return
    labels = [f"{label:.3g}" if isinstance(label, float) else printable(str(label)) for label in series.index]
    known = set(labels) <= set(classes)
    colors = [hex_color(list(classes).index(label)) for label in labels] if known else color
    many = len(series) > 12
    width = 1.0 if many else min(0.8, 0.2 * len(series))  # few bars are not as wide as the plot
    bars = axes.bar(range(len(series)), series.to_numpy(), color=colors, width=width, edgecolor="white")
    axes.set_xlim(-0.6, len(series) - 0.4)
    if len(series) <= 8:
        axes.bar_label(bars, fmt="{:,.4g}", fontsize=8, padding=2)
        axes.margins(y=0.12)
    slanted = not many and _crowded(labels)
    step = 1
    if many:
        step = next((step for step in (1, 2, 5, 10, 20, 50) if not _crowded(labels[::step])), len(labels))
    # counted from 1, the labels are round from the last of the first step on
    first = step - 1 if labels[0] == "1" else 0
    axes.set_xticks(range(first, len(labels), step), labels[first::step], rotation=30 if slanted else 0,
                    ha="right" if slanted else "center")  # fmt: skip


def _round_ticks(most: int, whole: bool = False) -> "Locator":
    """Returns what places up to `most` ticks on multiples of 1, 2, 2.5 or 5; `whole` numbers leave out 2.5."""
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(most, steps=[1, 2, 5, 10] if whole else [1, 2, 2.5, 5, 10], integer=whole, min_n_ticks=1)


def _crowded(labels: Sequence[str]) -> bool:
    """Returns whether the labels, with gaps of two letters, are too long to fit side by side."""
    return sum(len(label) + 2 for label in labels) > 52


def plain(axes: "Axes", title: str, size: int = 11) -> None:
    """Gives a plot its title, in letters of `size` points, and the plain style of all charts."""
    axes.set_title(printable(title), loc="left", fontsize=size, fontweight="bold")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="0.92")
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=min(9, size - 1))


def hex_color(index: int) -> str:
    """Returns the color of a class for Matplotlib."""
    return "#{:02x}{:02x}{:02x}".format(*color_of(index))


def new_figure(width: float, height: float, pad: float = 0.08) -> "Figure":
    """Returns an empty figure without pyplot and its global state; all sizes in inches."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    matplotlib.rcParams["text.parse_math"] = False  # names may have a $
    return Figure(figsize=(width, height), dpi=150, layout=ConstrainedLayoutEngine(h_pad=pad, w_pad=pad))


def add_legend(figure: "Figure", handles: "Mapping[str, Artist]") -> None:
    """Adds a legend below the plots of a figure: what is drawn, by its name."""
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=4, frameon=False, fontsize=8)


def drawn_by_label(plots: "Iterable[Axes]") -> "dict[str, Artist]":
    """Returns what has a label in any of the plots, by that label."""
    found: dict[str, Artist] = {}
    for axes in plots:
        drawn, labels = axes.get_legend_handles_labels()
        found |= dict(zip(labels, drawn, strict=True))
    return found


def save_figure(figure: "Figure", path: Path) -> None:
    """Writes a figure atomically."""
    with replacing(path) as temporary:
        figure.savefig(temporary)
