"""The figures of a study, each as PNG and as SVG: curves, bars, and the same pictures as every network saw them."""

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from callbacks.drawing import Picture, font_of, replacing, scaled, shortened
from studies.plan import Study, cells_of
from studies.plots import drawn_bars, drawn_curves, new_figure

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

WIDTH, WIDEST = 7.8, 5.0  # inches of a panel's pictures, side by side, and of one at most
DENSITY = 125  # of their pixels, an inch


class Drawn(NamedTuple):
    """A figure that was written.

    Attributes:
        title: What it shows.
        caption: How to read it.
        path: The PNG; the SVG lies beside it.
    """

    title: str
    caption: str
    path: Path


def write_figures(study: Study, rows: "pd.DataFrame", folder: Path) -> list[Drawn]:
    """Writes every figure that the runs so far have something for, into `figures/` of the study's folder.

    Args:
        study: The study.
        rows: What `studies.results.read_results` gives.
        folder: The study's folder.
    """
    bars = BARS + (LETTERS if rows["definition"].nunique() > 1 else "")
    wanted = (
        ("curves", f"Curves of {study.curve}", CURVES, drawn_curves(study, folder)),
        ("bars", f"{study.columns[0].title} and best epoch", bars, drawn_bars(study, rows, folder)),
        ("panel", "What each network makes of the same", PANEL, drawn_panel(study, folder)),
    )
    found = []
    for name, title, caption, figure in wanted:
        path = folder / "figures" / f"{name}.png"
        if figure is None:
            for stale in (path, path.with_suffix(".svg")):
                stale.unlink(missing_ok=True)
            continue
        save_figure(figure, path)
        found.append(Drawn(title, caption, path))
    return found


CURVES = (
    "Lines are means over the seeds as far as all seeds trained, bands reach from the lowest to the highest seed, thin "
    "lines go on where some seeds have stopped; a dot is the best epoch of a seed."
)
BARS = (
    "Bars are means over the seeds, dots the seeds; of a single seed, the line is the 95 % interval over resampled "
    "test pictures."
)
LETTERS = " Bars of different letters were not measured alike: do not compare them."
PANEL = "Up to three pictures that all networks wrote: the first, middle and last by name, by each one's first seed."


def drawn_panel(study: Study, folder: Path) -> "Figure | None":
    """The same pictures from every cell that has them, a row a cell; None where there are none in common.

    Args:
        study: The study; its `panel` says which.
        folder: Its folder.
    """
    if study.panel is None:
        return None
    found: dict[tuple[str, ...], dict[str, Path]] = {}
    for labels, runs in cells_of(study).items():
        seeds = ({path.name: path for path in sorted((folder / run.folder).glob(study.panel))} for run in runs)
        pictures = next((each for each in seeds if each), None)
        if pictures:
            found[labels] = pictures
    names = sorted(set.intersection(*(set(pictures) for pictures in found.values()))) if found else []
    names = [names[place] for place in sorted({0, len(names) // 2, len(names) - 1})] if names else []
    if not names:
        return None
    width = min(WIDTH / len(names), WIDEST)
    shown = [[_read(pictures[name], round(width * DENSITY)) for name in names] for pictures in found.values()]
    aspect = max(picture.shape[0] / picture.shape[1] for row in shown for picture in row)
    figure = new_figure(1.6 + width * len(names), 0.4 + (width * aspect + 0.05) * len(shown))
    grid = figure.subplots(len(shown), len(names), squeeze=False)
    for labels, row, line in zip(found, shown, grid, strict=True):
        for axes, picture in zip(line, row, strict=True):
            axes.imshow(picture)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
        name = "\n".join(textwrap.fill(label, 22) for label in labels)
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
    for axes, name in zip(grid[0], names, strict=True):
        axes.set_title(shortened(Path(name).stem, font_of(19), width * 150), fontsize=9)
    return figure


def _read(path: Path, side: int) -> Picture:
    """A picture, so small that its longer side has this many pixels."""
    import numpy as np
    from PIL import Image

    with Image.open(path) as image:
        return scaled(np.asarray(image.convert("RGB")), side, side)


def save_figure(figure: "Figure", path: Path) -> None:
    """Writes a PNG and, beside it, an SVG; the same figure is the same file at any time."""
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "belvedere"}):
        for file, metadata in ((path, None), (path.with_suffix(".svg"), {"Date": None})):
            with replacing(file) as temporary:
                figure.savefig(temporary, metadata=metadata)
