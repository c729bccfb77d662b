"""Draws the figures of a study as PNG and SVG: learning curves, bars, and predictions of all networks side by side."""

import math
import statistics
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from drawing.charts import STAGES, add_legend, drawn_by_label, hex_color, new_figure, plain
from drawing.pictures import Picture, font_of, printable, scaled, shortened
from ops.atomic import replacing
from studies.classifiers import drawn_groups, drawn_lines
from studies.layers import drawn_layers
from studies.notes import read_record, read_states, read_table
from studies.plan import Run, Study, cells_of, trained_cells
from studies.tables import axes_of, estimate, number_text

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, WIDEST, STEP = 7.8, 5.0, 1.4  # inches: width of a panel's images in all, of one at most, and of a step
TALLEST = 24.0  # inches: height of all rows of a panel
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
    """Writes every figure for which there are data into `figures/` of the study's folder, and deletes all others.

    Args:
        study: The study.
        rows: Result of `studies.results.read_results`.
        folder: The study's folder.
    """
    found = []
    for name, title, caption, figure in _possible(study, rows, folder):
        if figure is not None:
            path = folder / "figures" / f"{name}.png"
            save_png_and_svg(figure, path)
            found.append(Drawn(title, caption, path))
    kept = {each.path.with_suffix(suffix) for each in found for suffix in (".png", ".svg")}
    # by whole names: files that another process is writing begin with a dot
    for stale in {*(folder / "figures").glob("[!.]*.png"), *(folder / "figures").glob("[!.]*.svg")} - kept:
        stale.unlink(missing_ok=True)
    return found


def _possible(study: Study, rows: "pd.DataFrame", folder: Path) -> "Iterator[tuple[str, str, str, Figure | None]]":
    """Yields name, title, caption and drawing of each figure; None where there are no data."""
    for curve in study.curves:
        name = curve.partition("/")[2]
        title = f"Learning curves of {name.replace('_', ' ')}"
        yield f"curves_{name}", title, CURVES, drawn_curves(study, folder, curve)
    bars = BARS + (LETTERS if rows["definition"].nunique() > 1 else "")
    yield "bars", f"{study.columns[0].title} and best epoch", bars, drawn_bars(study, rows, folder)
    yield "panel", "The same test images, predicted by each network", PANEL, drawn_panel(study, rows, folder)
    yield "steps", "How each network gets to its prediction", STEPS, drawn_steps(study, rows, folder)
    predicted = drawn_predictions(study, rows, folder)
    yield "predictions", "The same images of your own, predicted by each network", PREDICTIONS, predicted
    if study.lines is not None:
        title = f"Metrics over {study.lines.axis}"
        yield "lines", title, LINES, drawn_lines(study, study.lines, rows, folder)
    if study.groups is not None:
        yield "groups", "Classifiers on each kind of vector", GROUPS, drawn_groups(study, study.groups, folder)
    yield "layers", "Layers of each network", LAYERS, drawn_layers(study, folder)


CURVES = (
    "Thick lines: mean over the seeds, for the epochs that all seeds reached. Bands: range of the seeds. Thin lines: "
    "seeds that trained for longer. Dots: best epoch of each seed. Losses of different kinds have axes of their own."
)
BARS = (
    "Bars: mean over the seeds; cells that share a training and its metric share a bar. Dots: the seeds. For a single "
    "seed, the line is the 95 % bootstrap interval over the test images."
)
LETTERS = " Bars with different letters are not comparable."
MOST_ROWS = 16  # cells in a panel
ROWS = f" Of more than {MOST_ROWS} cells, the best of each label of the first axis."
PANEL = (
    "Up to three test images: input, truth, then what each cell predicts, from its first tested seed. The images are "
    f"the first, middle and last by name of those that every test has drawn.{ROWS}"
)
STEPS = f"The first of these test images, a row per cell: the truth, then the steps to the prediction.{ROWS}"
PREDICTIONS = f"The first, middle and last image by name of those that every cell predicted, from its first seed.{ROWS}"
LINES = (
    "Thin lines: classical classifiers on plain descriptors of the images. Thick lines: the networks. Means over the "
    "seeds, with their range as a band."
)
GROUPS = "Bars: mean over the seeds. Dots: the seeds. Dashed: always the more frequent class."
LAYERS = (
    "Each block is a layer with parameters, in the order in which an image passes them: its height is that of the "
    "layer's output, its width the number of channels (square root). layers.csv lists all layers."
)
Images = dict[str, Path]


def _shown_cells(study: Study, rows: "pd.DataFrame") -> dict[tuple[str, ...], list[Run]]:
    """Returns the possible cells; of too many, for each label of the first axis the one with the best headline."""
    cells = {labels: runs for labels, runs in cells_of(study).items() if runs}
    if len(cells) <= MOST_ROWS:
        return cells
    column = study.columns[0]
    means = rows.groupby("cell")[column.figure].mean()
    sign = 1 if column.better == "max" else -1
    best: dict[str, tuple[float, tuple[str, ...]]] = {}
    for labels, (run, *_) in cells.items():
        value = sign * float(means.get(run.cell, math.nan))
        if labels[0] not in best or value > best[labels[0]][0] or math.isnan(best[labels[0]][0]):
            best[labels[0]] = value, labels
    return {labels: cells[labels] for _, labels in best.values()}


def _common(found: Mapping[tuple[str, ...], Mapping[str, object]]) -> list[str]:
    """Returns up to three names that all cells have: the first, the middle and the last."""
    names = sorted(set.intersection(*(set(images) for images in found.values()))) if found else []
    return [names[place] for place in sorted({0, len(names) // 2, len(names) - 1})] if names else []


def _tested_images(
    study: Study, rows: "pd.DataFrame", folder: Path
) -> tuple[dict[tuple[str, ...], dict[str, dict[str, Path]]], list[str]]:
    """Returns the drawn parts of each test image by cell, image and title, and names that all cells have."""
    found: dict[tuple[str, ...], dict[str, dict[str, Path]]] = {}
    for labels, runs in _shown_cells(study, rows).items():
        for run in runs:
            place = folder / run.folder / "test" / "panels"
            images = {}
            for path in sorted(place.rglob("0_input.jpg")):
                parts = sorted(path.parent.glob("*_*.jpg"), key=lambda part: int(part.name.partition("_")[0]))
                titles = [part.stem.partition("_")[2].replace("_", " ") for part in parts]
                images[path.parent.relative_to(place).as_posix()] = dict(zip(titles, parts, strict=True))
            if images:
                found[labels] = images
                break
    return found, _common(found)


def drawn_panel(study: Study, rows: "pd.DataFrame", folder: Path) -> "Figure | None":
    """Draws test images: a row of inputs, a row of truths, and a row per cell; None before the first test."""
    found, names = _tested_images(study, rows, folder)
    if not names:
        return None
    first = next(iter(found.values()))
    lines: dict[tuple[str, ...], list[Path | None]] = {
        (title,): [first[name].get(title) for name in names] for title in ("input", "truth")
    }
    lines |= {labels: [images[name]["prediction"] for name in names] for labels, images in found.items()}
    figure = _grid(lines, [Path(name).name for name in names], min(WIDTH / len(names), WIDEST))
    classes = next((record["classes"] for run in study.runs
                    if "classes" in (record := read_record(folder / run.folder / "record.json"))), ())  # fmt: skip
    if len(classes) > 1:
        add_legend(figure, {printable(name): _square(hex_color(k)) for k, name in enumerate(classes)})
    return figure


def drawn_steps(study: Study, rows: "pd.DataFrame", folder: Path) -> "Figure | None":
    """Draws the steps to the prediction of one test image, a row per cell; None for tasks of one step."""
    found, names = _tested_images(study, rows, folder)
    parts: dict[tuple[str, ...], Images] = {}
    for labels, images in found.items() if names else ():
        parts[labels] = dict(list(images[names[0]].items())[3:])
    titles = max((list(row) for row in parts.values()), key=len, default=[])
    if not titles:
        return None
    lines = {labels: [row.get(title) for title in titles] for labels, row in parts.items()}
    return _grid(lines, [textwrap.fill(title, 16) for title in titles], STEP)


def drawn_predictions(study: Study, rows: "pd.DataFrame", folder: Path) -> "Figure | None":
    """Draws the same predicted images from every cell, one row per cell; None if the cells have no image in common.

    Args:
        study: The study; its `panel` selects the images.
        rows: Result of `studies.results.read_results`.
        folder: Its folder.
    """
    if study.panel is None:
        return None
    found: dict[tuple[str, ...], Images] = {}
    for labels, runs in _shown_cells(study, rows).items():
        seeds = ({path.name: path for path in sorted((folder / run.folder).glob(study.panel))} for run in runs)
        images = next((each for each in seeds if each), None)
        if images:
            found[labels] = images
    names = _common(found)
    if not names:
        return None
    lines = {labels: [images[name] for name in names] for labels, images in found.items()}
    return _grid(lines, [Path(name).stem for name in names], min(WIDTH / len(names), WIDEST))


def _grid(lines: Mapping[tuple[str, ...], Sequence[Path | None]], titles: Sequence[str], width: float) -> "Figure":
    """Draws images in rows, whose labels stand at the left, and columns with titles, each `width` inches wide."""
    shown = [[None if path is None else _read(path, round(width * DENSITY)) for path in row] for row in lines.values()]
    tall = [max(image.shape[0] / image.shape[1] for image in row if image is not None) for row in shown]
    width = min(width, TALLEST / sum(tall))
    figure = new_figure(1.6 + width * len(titles), 0.5 + sum(width * aspect + 0.13 for aspect in tall), pad=0.06)
    grid = figure.subplots(len(shown), len(titles), squeeze=False, height_ratios=tall)
    for labels, row, line in zip(lines, shown, grid, strict=True):
        for axes, image in zip(line, row, strict=True):
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set(color="0.8", linewidth=0.5)
            if image is None:
                axes.spines[:].set_visible(False)
            else:
                axes.imshow(image)
        name = "\n".join(textwrap.fill(printable(label), 22) for label in labels)
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
    for axes, title in zip(grid[0], titles, strict=True):
        lines_of_title = (shortened(line, font_of(19), width * 150) for line in title.split("\n"))
        axes.set_title("\n".join(lines_of_title), fontsize=9)
    return figure


def _read(path: Path, side: int) -> Picture:
    """Reads an image, scaled so that its longer side has `side` pixels."""
    import numpy as np

    from ops.files.images import opened

    with opened(path) as image:
        return scaled(np.asarray(image.convert("RGB")), side, side)


def save_png_and_svg(figure: "Figure", path: Path) -> None:
    """Writes a PNG and, beside it, an SVG; equal figures give equal files."""
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "belvedere"}):
        for file, metadata in ((path, None), (path.with_suffix(".svg"), {"Date": None})):
            with replacing(file) as temporary:
                figure.savefig(temporary, metadata=metadata)


LEVELS = 5.0  # ratio of the medians of cells above which their plots share no vertical axis
COLUMNS, MOST_COLUMNS = 4, 6  # plots side by side: by default, and at most if the last axis determines them


def drawn_curves(study: Study, folder: Path, curve: str) -> "Figure | None":
    """Plots training and validation over the epochs, one plot per cell with shared axes; None before the first epoch.

    Cells that share a training share a plot.

    Args:
        study: The study.
        folder: Its folder; unfinished runs are plotted up to their last epoch.
        curve: The metric, such as `val/dice`.
    """
    from matplotlib.ticker import MaxNLocator

    cells, states = trained_cells(study), read_states(study, folder)
    curves = {run.folder: read_curves(folder / run.folder / "metrics.csv", curve)
              for runs in cells.values() for run in runs}  # fmt: skip
    values = [value for stages in curves.values() for stage in stages.values() for value in stage.values()]
    if not values:
        return None
    axes_of_training = [labels for axis, labels in study.axes.items() if axis not in study.after_training]
    columns = len(axes_of_training[-1]) if axes_of_training else 1
    if len(axes_of_training) <= 1 or not 1 < columns <= MOST_COLUMNS:
        columns = min(COLUMNS, len(cells))
    lines = math.ceil(len(cells) / columns)
    figure = new_figure(max(6.0, 2.7 * columns), 1.0 + 1.9 * lines, pad=0.06)
    apart = _apart([[value for run in runs for stage in curves[run.folder].values() for value in stage.values()]
                    for runs in cells.values()])  # fmt: skip
    grid = figure.subplots(lines, columns, sharex=True, sharey=not apart, squeeze=False)
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
    if not apart:
        grid[0, 0].set_ylim(*_limits(values))
    for axes in grid.flat[max(0, len(cells) - columns) : len(cells)]:  # the lowest plot of each column
        axes.tick_params(labelbottom=True)
        axes.set_xlabel("epoch", fontsize=8)
    low, high = grid[0, 0].get_xlim()
    if high - low < 1:  # a single epoch
        grid[0, 0].set_xlim(low - 0.5, high + 0.5)
    grid[0, 0].xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    handles = drawn_by_label(grid.flat)
    if bested:
        handles["best epoch of a seed"] = _dot(STAGES[1][2], 5)
    if any(len(runs) > 1 for runs in cells.values()):
        handles["range of the seeds"] = _square("0.82")
    add_legend(figure, handles)
    figure.suptitle(curve.partition("/")[2].replace("_", " "), x=0.01, ha="left", fontsize=12, fontweight="bold")
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
    axes_of_bars = axes_of(study, rows, headline)  # cells that differ in others have equal bars
    cells: dict[tuple[str, ...], list[Run]] = {}
    for choice, runs in cells_of(study).items():
        every = dict(zip(study.axes, choice, strict=True))
        cells.setdefault(tuple(every[axis] for axis in axes_of_bars), []).extend(runs)
    bars: list[tuple[str, str, str, pd.DataFrame]] = []
    for labels, runs in cells.items():
        name = named(labels, 17, 480)
        mine = rows[rows["cell"].isin({run.cell for run in runs})].drop_duplicates(["definition", "seed"])
        if mine.empty:
            bars.append((name, labels[0], _missing(runs, states, "not tested yet"), mine))
        bars += [(f"{name} ({letter})" if lettered else name, labels[0], "unknown", group)
                 for letter, group in mine.groupby("definition", sort=False)]  # fmt: skip
    figure = new_figure(10, 1.0 + 0.3 * len(bars), pad=0.06)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    first = study.axes[axes_of_bars[0]]
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
        add_legend(figure, handles)
    return figure


def _square(color: str) -> "Artist":
    """Returns a square for a legend."""
    from matplotlib.patches import Patch

    return Patch(color=color)


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


def _apart(cells: Sequence[Sequence[float]]) -> bool:
    """Returns whether cells need vertical axes of their own, as losses of different kinds do; shares never do."""
    middles = [statistics.median(map(abs, values)) for values in cells if values]
    return max(map(max, filter(None, cells))) > 1 and max(middles) > LEVELS * min(middles)


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
