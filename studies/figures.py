"""Draws the figures of a study as PNG and SVG: learning curves, bars, and predictions of all networks side by side."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from drawing.charts import STAGES, hex_color, new_figure, plain
from drawing.pictures import Picture, font_of, printable, scaled, shortened
from ops.atomic import replacing
from studies.notes import read_record, read_states, read_table
from studies.plan import Run, Study, cells_of
from studies.tables import estimate, number_text

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, WIDEST = 7.8, 5.0  # inches: total width of a panel's images, and maximum of one
DENSITY = 125  # pixels of these images per inch


class Drawn(NamedTuple):
    """A figure on disk.

    Attributes:
        title: Its title.
        caption: How to read it.
        path: The PNG; the SVG is beside it.
    """

    title: str
    caption: str
    path: Path


def write_figures(study: Study, rows: "pd.DataFrame", folder: Path) -> list[Drawn]:
    """Writes every figure for which there are data into `figures/` of the study's folder, and deletes outdated ones.

    Args:
        study: The study.
        rows: Result of `studies.results.read_results`.
        folder: The study's folder.
    """
    bars = BARS + (LETTERS if rows["definition"].nunique() > 1 else "")
    possible = (
        ("curves", f"Learning curves of {study.curve.partition('/')[2]}", CURVES, drawn_curves(study, folder)),
        ("bars", f"{study.columns[0].title} and best epoch", bars, drawn_bars(study, rows, folder)),
        ("panel", "The same images, predicted by each network", PANEL, drawn_panel(study, folder)),
    )
    found = []
    for name, title, caption, figure in possible:
        path = folder / "figures" / f"{name}.png"
        if figure is None:
            for stale in (path, path.with_suffix(".svg")):
                stale.unlink(missing_ok=True)
            continue
        save_figure(figure, path)
        found.append(Drawn(title, caption, path))
    return found


CURVES = (
    "Thick lines: mean over the seeds, for the epochs that all seeds reached. Bands: range of the seeds. Thin lines: "
    "seeds that trained for longer. Dots: best epoch of each seed."
)
BARS = (
    "Bars: mean over the seeds. Dots: the seeds. For a single seed, the line is the 95 % bootstrap interval over the "
    "test images."
)
LETTERS = " Bars with different letters are not comparable."
PANEL = "Up to three images that every network predicted: the first, middle and last by name, from each first seed."


def drawn_panel(study: Study, folder: Path) -> "Figure | None":
    """Draws the same images from every cell, one row per cell; None if the cells have no image in common.

    Args:
        study: The study; its `panel` selects the images.
        folder: Its folder.
    """
    if study.panel is None:
        return None
    found: dict[tuple[str, ...], dict[str, Path]] = {}
    for labels, runs in cells_of(study).items():
        seeds = ({path.name: path for path in sorted((folder / run.folder).glob(study.panel))} for run in runs)
        images = next((each for each in seeds if each), None)
        if images:
            found[labels] = images
    names = sorted(set.intersection(*(set(images) for images in found.values()))) if found else []
    names = [names[place] for place in sorted({0, len(names) // 2, len(names) - 1})] if names else []
    if not names:
        return None
    width = min(WIDTH / len(names), WIDEST)
    shown = [[_read(images[name], round(width * DENSITY)) for name in names] for images in found.values()]
    aspect = max(image.shape[0] / image.shape[1] for row in shown for image in row)
    figure = new_figure(1.6 + width * len(names), 0.4 + (width * aspect + 0.05) * len(shown), pad=0.06)
    grid = figure.subplots(len(shown), len(names), squeeze=False)
    for labels, row, line in zip(found, shown, grid, strict=True):
        for axes, image in zip(line, row, strict=True):
            axes.imshow(image)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
        name = "\n".join(textwrap.fill(printable(label), 22) for label in labels)
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
    for axes, name in zip(grid[0], names, strict=True):
        axes.set_title(shortened(Path(name).stem, font_of(19), width * 150), fontsize=9)
    return figure


def _read(path: Path, side: int) -> Picture:
    """Reads an image, scaled so that its longer side has `side` pixels."""
    import numpy as np

    from ops.imagefiles import opened

    with opened(path) as image:
        return scaled(np.asarray(image.convert("RGB")), side, side)


def save_figure(figure: "Figure", path: Path) -> None:
    """Writes a PNG and, beside it, an SVG; equal figures give equal files."""
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "belvedere"}):
        for file, metadata in ((path, None), (path.with_suffix(".svg"), {"Date": None})):
            with replacing(file) as temporary:
                figure.savefig(temporary, metadata=metadata)


COLUMNS, MOST_COLUMNS = 4, 6  # plots side by side: by default, and at most if the last axis determines them


def drawn_curves(study: Study, folder: Path) -> "Figure | None":
    """Plots training and validation over the epochs, one plot per cell with shared axes; None before the first epoch.

    Args:
        study: The study.
        folder: Its folder; unfinished runs are plotted up to their last epoch.
    """
    from matplotlib.patches import Patch
    from matplotlib.ticker import MaxNLocator

    curves = {run.folder: read_curves(folder / run.folder / "metrics.csv", study.curve) for run in study.runs}
    values = [value for stages in curves.values() for stage in stages.values() for value in stage.values()]
    if not values:
        return None
    cells, states = cells_of(study), read_states(study, folder)
    columns = len(list(study.axes.values())[-1])
    if len(study.axes) == 1 or not 1 < columns <= MOST_COLUMNS:
        columns = min(COLUMNS, len(cells))
    lines = math.ceil(len(cells) / columns)
    figure = new_figure(max(6.0, 2.7 * columns), 1.0 + 1.9 * lines, pad=0.06)
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    for axes in grid.flat[len(cells) :]:
        axes.set_axis_off()
    bested = set[Path]()  # folders of the runs whose best epoch is marked
    for axes, (labels, runs) in zip(grid.flat, cells.items(), strict=False):
        plain(axes, named(labels, 19, 320), size=9)
        known = [run for run in runs if any(curves[run.folder].values())]
        if not known:
            axes.text(0.5, 0.5, _missing(runs, states, "no epoch yet"), transform=axes.transAxes, ha="center",
                      va="center", fontsize=9, color="0.45")  # fmt: skip
        for stage, label, color in STAGES:
            _draw_seeds(axes, [curves[run.folder][stage] for run in known], label, color)
        for run in known:
            best = read_record(folder / run.folder / "record.json").get("best_epoch")
            if best in curves[run.folder]["val"]:
                bested.add(run.folder)
                axes.plot(best, curves[run.folder]["val"][best], "o", color=STAGES[1][2], markersize=5,
                          markeredgecolor="white", markeredgewidth=0.7, zorder=4)  # fmt: skip
    grid[0, 0].set_ylim(*_limits(values))
    for axes in grid.flat[max(0, len(cells) - columns) : len(cells)]:  # the lowest plot of each column
        axes.tick_params(labelbottom=True)
        axes.set_xlabel("epoch", fontsize=8)
    low, high = grid[0, 0].get_xlim()
    if high - low < 1:  # a single epoch
        grid[0, 0].set_xlim(low - 0.5, high + 0.5)
    grid[0, 0].xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    handles: dict[str, Artist] = {}
    for axes in grid.flat:
        drawn, names = axes.get_legend_handles_labels()
        handles |= dict(zip(names, drawn, strict=True))
    if any(run.folder in bested for run in study.runs):
        handles["best epoch of a seed"] = _dot(STAGES[1][2], 5)
    if any(len(runs) > 1 for runs in cells.values()):
        handles["range of the seeds"] = Patch(facecolor="0.5", alpha=0.3)
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    figure.suptitle(study.curve.partition("/")[2].replace("_", " "), x=0.01, ha="left", fontsize=12, fontweight="bold")
    return figure


def drawn_bars(study: Study, rows: "pd.DataFrame", folder: Path) -> "Figure | None":
    """Draws bars of the headline metric and the best epoch of each cell; None before the first test.

    Args:
        study: The study.
        rows: Result of `studies.results.read_results`.
        folder: The study's folder.
    """
    from matplotlib.ticker import MaxNLocator

    headline = study.columns[0].figure
    if rows[headline].isna().all():
        return None
    lettered, states = rows["definition"].nunique() > 1, read_states(study, folder)
    bars: list[tuple[str, str, str, pd.DataFrame]] = []
    for labels, runs in cells_of(study).items():
        name = named(labels, 17, 480)
        mine = rows[rows["cell"] == runs[0].cell] if runs else rows.iloc[:0]
        if mine.empty:
            bars.append((name, labels[0], _missing(runs, states, "not tested yet"), mine))
        bars += [(f"{name} ({letter})" if lettered else name, labels[0], "unknown", group)
                 for letter, group in mine.groupby("definition", sort=False)]  # fmt: skip
    figure = new_figure(10, 1.0 + 0.3 * len(bars), pad=0.06)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    first = next(iter(study.axes.values()))
    colors = {label: hex_color(k) for k, label in enumerate(first)}
    for axes, column, title in ((left, headline, study.columns[0].title), (right, "best_epoch", "best epoch")):
        plain(axes, title, size=9)
        axes.grid(axis="x", color="0.92")
        axes.grid(visible=False, axis="y")
        axes.axvline(0, color="0.2", linewidth=0.8)
        for place, (_, label, missing, group) in enumerate(bars):
            _draw_bar(axes, place, group, column, colors[label], missing)
        axes.margins(x=0.18)
    if right.get_xlim()[1] < 1:
        right.set_xlim(-0.05, 1)
    right.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    left.set_yticks(range(len(bars)), [printable(name) for name, *_ in bars], fontsize=8)
    left.set_ylim(len(bars) - 0.4, -0.6)
    from matplotlib.lines import Line2D

    seeds = [found.seeds for *_, group in bars for found in [estimate(group, headline)] if found is not None]
    handles: dict[str, Artist] = {"seeds": _dot("0.2", 2.5)} if max(seeds, default=0) > 1 else {}
    if 1 in seeds:
        handles["95 % interval over the test images, of a single seed"] = Line2D([], [], color="0.2", linewidth=1)
    if handles:
        figure.legend(
            list(handles.values()), list(handles), loc="outside lower center", ncols=2, frameon=False, fontsize=8
        )
    return figure


def _dot(color: str, size: float) -> "Artist":
    """Returns a dot for a legend."""
    from matplotlib.lines import Line2D

    return Line2D([], [], marker="o", linestyle="", color=color, markersize=size, markeredgecolor="white",
                  markeredgewidth=0.5)  # fmt: skip


def _missing(runs: Sequence[Run], states: Mapping[Path, str], otherwise: str) -> str:
    """Returns why there is nothing to draw for a cell."""
    if not runs:
        return "impossible"
    return "failed" if all(states[run.folder] == "failed" for run in runs) else otherwise


def read_curves(path: Path, curve: str) -> dict[str, dict[int, float]]:
    """Returns training and validation values by epoch of a metric like `val/dice`; an epoch's last row wins."""
    found: dict[str, dict[int, float]] = {"train": {}, "val": {}}
    for row in read_table(path):
        for stage, values in found.items():
            text = row.get(f"{stage}/{curve.partition('/')[2]}")
            if text and math.isfinite(float(text)):
                values[int(row["epoch"])] = float(text)
    return found


def _draw_seeds(axes: "Axes", seeds: Sequence[Mapping[int, float]], label: str, color: str) -> None:
    seeds = [values for values in seeds if values]
    if not seeds:
        return
    common = sorted(set.intersection(*(set(values) for values in seeds)))
    means = [sum(values[epoch] for values in seeds) / len(seeds) for epoch in common]
    marker = "." if len(common) == 1 else ""
    axes.plot(common, means, color=color, linewidth=1.5, label=printable(label), marker=marker, zorder=3)
    if len(seeds) > 1:
        lowest, highest = ([choose(values[epoch] for values in seeds) for epoch in common] for choose in (min, max))
        axes.fill_between(common, lowest, highest, color=color, alpha=0.2, linewidth=0)
        for values in seeds:
            rest = sorted(epoch for epoch in values if not common or epoch >= common[-1])
            axes.plot(rest, [values[epoch] for epoch in rest], color=color, linewidth=0.7, alpha=0.6)


def _draw_bar(axes: "Axes", place: int, rows: "pd.DataFrame", column: str, color: str, missing: str) -> None:
    found = estimate(rows, column)
    if found is None:
        axes.text(0, place, f" {missing}", va="center", fontsize=8, color="0.45")
        return
    axes.barh(place, found.mean, height=0.62, color=color, alpha=0.75)
    if found.seeds > 1:
        values = rows[column].dropna().astype(float)
        axes.plot(values, [place] * len(values), "o", color="0.2", markersize=2.5)
    elif not math.isnan(found.low):
        axes.plot([found.low, found.high], [place, place], color="0.2", linewidth=1)
    text = (
        number_text(found.mean, 1).removesuffix(".0")
        if column == "best_epoch"
        else number_text(found.mean, metric=column)
    )
    # aligned at the right: next to a bar, the value would look like the label of a dot
    axes.text(0.995, place, text, transform=axes.get_yaxis_transform(), ha="right", va="center", fontsize=8,
              color="0.3")  # fmt: skip


def _limits(values: Sequence[float]) -> tuple[float, float]:
    """Returns the limits of the vertical axis; they cut off outliers, such as the loss of the first epoch."""
    import numpy as np

    low, high = np.percentile(values, (2, 98))
    room = max(high - low, 1e-3)
    low, high = max(min(values), low - room), min(max(values), high + room)
    return low - 0.05 * room, high + 0.05 * room


def named(labels: Sequence[str], size: int, width: float) -> str:
    """Joins the labels of a cell into at most `width` pixels at font size `size`; the longest labels are cut first."""
    font = font_of(size)
    room, shown = width - (len(labels) - 1) * font.getlength(" · "), dict.fromkeys(range(len(labels)), "")
    for count, place in enumerate(sorted(shown, key=lambda place: font.getlength(labels[place]))):
        shown[place] = shortened(labels[place], font, room / (len(labels) - count))
        room -= font.getlength(shown[place])
    return " · ".join(shown.values())
