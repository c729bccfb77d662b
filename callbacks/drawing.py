"""The one home of drawing: overlays, legends, panels, curves, studies; arrays in, arrays or files out."""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Picture: TypeAlias = NDArray[np.uint8]  # (H, W, 3), RGB
Masks: TypeAlias = NDArray[np.bool_]  # (K, H, W)

# Okabe and Ito, "Color Universal Design" (2008), without black. Orange comes first and blue last: a single
# class must stand out from a blue sky, and dark blue is lost on the ocean.
PALETTE = (
    (230, 159, 0),
    (86, 180, 233),
    (204, 121, 167),
    (0, 158, 115),
    (240, 228, 66),
    (213, 94, 0),
    (0, 114, 178),
)
_INK, _GREY, _PALE = (32, 32, 32), (150, 150, 150), (225, 225, 225)


def color_of(index: int) -> tuple[int, int, int]:
    """RGB colour of the class at that place in the list of classes; colours repeat."""
    return PALETTE[index % len(PALETTE)]


def overlay(image: Picture, masks: Masks, opacity: float = 0.35) -> Picture:
    """Picture (H, W, 3) with the region of every class tinted and outlined in its colour.

    Where classes overlap, the tint is the mean of their colours, and outlines that coincide alternate like
    dashes, so that no class hides another. Pixels outside all masks are left as they are.

    Args:
        image: The picture, (H, W, 3).
        masks: One mask a class, (K, H, W).
        opacity: Share of the tint in the mixed colour, in [0, 1].

    Raises:
        ValueError: The masks are not as large as the picture.
    """
    if masks.ndim != 3 or masks.shape[1:] != image.shape[:2]:
        raise ValueError(
            f"masks have the shape {masks.shape}, the picture {image.shape}: "
            f"(K, {image.shape[0]}, {image.shape[1]}) was wanted; resize the masks to the picture first"
        )
    drawn = image.copy()
    inside = masks.any(axis=0)
    if not inside.any():
        return drawn
    colors = np.array([color_of(k) for k in range(len(masks))], dtype=np.float32)
    covering = masks[:, inside]
    tint = covering.T.astype(np.float32) @ colors / covering.sum(axis=0)[:, None]
    drawn[inside] = np.rint((1 - opacity) * image[inside] + opacity * tint)

    thickness = max(1, round(min(image.shape[:2]) / 200))
    outlines = _outlines(masks, thickness)
    rows, columns = np.nonzero(outlines.any(axis=0))
    meeting = outlines[:, rows, columns]
    turn = (rows + columns) // (6 * thickness) % meeting.sum(axis=0)
    drawn[rows, columns] = colors[np.argmax(meeting & (np.cumsum(meeting, axis=0) - 1 == turn), axis=0)]
    return drawn


def _outlines(masks: Masks, thickness: int) -> Masks:
    """Inner border of every mask, along the picture's edge too, so that a full mask has one."""
    kernel = np.ones((3, 3), np.uint8)
    inner = [
        cv2.erode(mask.astype(np.uint8), kernel, iterations=thickness, borderType=cv2.BORDER_CONSTANT, borderValue=0)
        for mask in masks
    ]
    border: Masks = masks & ~np.array(inner, dtype=bool)
    return border


def scaled(image: Picture, width: int, height: int) -> Picture:
    """Picture resized to fit (height, width), its aspect kept."""
    factor = min(width / image.shape[1], height / image.shape[0])
    size = max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor))
    method = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, size, interpolation=method), dtype=np.uint8)


def scaled_masks(masks: Masks, width: int, height: int) -> Masks:
    """Masks (K, H, W) as (K, height, width), each pixel taken from its nearest."""
    resized = [
        cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST_EXACT) for mask in masks
    ]
    return np.array(resized, dtype=bool).reshape(len(masks), height, width)


def legend(
    classes: Sequence[str], width: int, present: Sequence[bool] | None = None, size: int | None = None
) -> Picture:
    """White strip (height, width, 3) of class colours and names, as many lines high as they need.

    Args:
        classes: The names, in the order of the masks.
        width: Of the strip, in pixels.
        present: Which classes occur in the picture; the others are greyed. All, if not given.
        size: Of the letters, in pixels; it follows the width, if not given.
    """
    size = size or letter_size(width)
    font, margin = _font(size), size // 2
    places, x, y = [], margin, margin
    for name in classes:
        text = _shortened(name, font, width - 2 * margin - 2 * size)
        advance = round(1.5 * size + font.getlength(text))
        if x > margin and x + advance > width - margin:
            x, y = margin, y + round(1.6 * size)
        places.append((x, y, text))
        x += advance + size
    strip = Image.new("RGB", (width, y + size + margin), "white")
    draw = ImageDraw.Draw(strip)
    for k, (x, y, text) in enumerate(places):
        shown = present is None or present[k]
        draw.rectangle((x, y, x + size, y + size), fill=color_of(k) if shown else _PALE)
        draw.text((x + 1.5 * size, y + size / 2), text, fill=_INK if shown else _GREY, font=font, anchor="lm")
    return np.asarray(strip)


def labelled(image: Picture, classes: Sequence[str], present: Sequence[bool] | None = None) -> Picture:
    """Picture with the legend of its classes below it."""
    return np.vstack([image, legend(classes, image.shape[1], present)])


def panel(rows: Sequence[Sequence[Picture]], titles: Sequence[str], row_names: Sequence[str] | None = None) -> Picture:
    """Grid of pictures with a title over each column and, if given, a name over each row.

    All cells are as large as the largest picture; smaller ones are enlarged to fit, their aspect kept.

    Raises:
        ValueError: A row has not one picture for each title.
    """
    for number, row in enumerate(rows):
        if len(row) != len(titles):
            raise ValueError(f"row {number} has {len(row)} pictures, {len(titles)} were wanted: one for each title")
    height = max((image.shape[0] for row in rows for image in row), default=1)
    width = max((image.shape[1] for row in rows for image in row), default=1)
    size = letter_size(width)
    font, small, gap = _font(size), _font(round(0.8 * size)), max(4, width // 60)
    band, caption = 2 * size, round(1.4 * size) if row_names else 0
    pitch = caption + height + gap
    grid = Image.new("RGB", (len(titles) * (width + gap) + gap, band + len(rows) * pitch), "white")
    draw = ImageDraw.Draw(grid)
    for column, title in enumerate(titles):
        x = gap + column * (width + gap)
        draw.text((x + width / 2, band / 2), _shortened(title, font, width), fill=_INK, font=font, anchor="mm")
    for number, row in enumerate(rows):
        y = band + number * pitch
        if row_names:
            text = _shortened(row_names[number], small, grid.width - 2 * gap)
            draw.text((gap, y + caption / 2), text, fill=_GREY, font=small, anchor="lm")
        for column, image in enumerate(row):
            cell = Image.fromarray(scaled(image, width, height))
            x = gap + column * (width + gap)
            grid.paste(cell, (x + (width - cell.width) // 2, y + caption + (height - cell.height) // 2))
    return np.asarray(grid)


def save_picture(picture: Picture, path: Path) -> None:
    """Writes a picture as PNG or JPEG, by the path's suffix; a file of that name is whole at any moment.

    Raises:
        ValueError: The suffix is neither.
    """
    if path.suffix.lower() not in {".png", ".jpg", ".jpeg"}:
        raise ValueError(f"{path} ends in {path.suffix!r}, .png, .jpg or .jpeg was wanted; change the ending")
    with _replacing(path) as temporary:
        Image.fromarray(picture).save(temporary, quality=95)


def draw_curves(
    history: Sequence[Mapping[str, float]], monitor: str, path: Path, mode: Literal["min", "max"] = "min"
) -> None:
    """Writes one small plot a metric, training and validation in it, the best epoch marked in each.

    Args:
        history: One row an epoch: `epoch` and values like `train/loss` or `val/dice`. A key may be absent
            where it was not measured: the line then spans the gap. A nan breaks the line.
        monitor: The key whose best value marks the best epoch.
        path: The picture file, PNG or JPEG.
        mode: Whether the lowest or the highest value is the best.

    Raises:
        ValueError: There is no value in the history.
    """
    names = {key.split("/")[1] for row in history for key in row if "/" in key}
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
        _draw_metric(axes, metric, history)
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


def _draw_metric(axes: "Axes", metric: str, history: Sequence[Mapping[str, float]]) -> None:
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
        axes.set_title(_shortened(title, _font(19), 440), fontsize=9)  # 9 points are 19 pixels at 150 dpi
        axes.set_axis_off()
        axes.set_anchor("N")
        small = scaled(picture, 640, 640)
        axes.imshow(overlay(small, scaled_masks(masks, small.shape[1], small.shape[0])))
    if examples:
        patches = [Patch(color=_hex(k), label=name) for k, name in enumerate(classes)]
        blocks[1].legend(handles=patches, loc="outside lower center", ncols=min(8, len(classes)), frameon=False)
    _save_figure(figure, path)


def _draw_bars(axes: "Axes", series: "pd.Series[Any]", classes: Sequence[str]) -> None:
    places, labels = _ticks(series.index)
    known = set(labels) <= set(classes)
    colors = [_hex(list(classes).index(label)) for label in labels] if known else "#4C78A8"
    many = len(series) > 12
    bars = axes.bar(range(len(series)), series.to_numpy(), color=colors, width=1.0 if many else 0.8, edgecolor="white")
    if len(series) <= 8:
        axes.bar_label(bars, fmt="{:,.4g}", fontsize=8, padding=2)
        axes.margins(y=0.12)
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
    with _replacing(path) as temporary:
        figure.savefig(temporary)


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Yields a name beside the path to write to and renames it once whole; an error leaves nothing behind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def letter_size(width: int) -> int:
    """Size in pixels of letters that read well beside a picture of that width."""
    return min(48, max(12, width // 24))


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """Matplotlib's DejaVu Sans: Pillow's own font has no accented letters."""
    import matplotlib

    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), size)


def _shortened(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """Text, its end replaced by an ellipsis where it is wider than `width` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
