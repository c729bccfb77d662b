"""Draws how far predictions can be trusted: reliability diagrams and risk-coverage curves."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from drawing.charts import hex_color, new_figure, plain, save_figure
from ops.statistics.calibration import Reliability

WIDTH = 4.2  # inches of a plot


def draw_reliability(classes: Mapping[str, tuple[Reliability, Reliability]], path: Path) -> None:
    """Writes one plot per class of how often probabilities come true, before and after a temperature.

    Args:
        classes: Before and after, by class.
        path: The image file.
    """
    figure = new_figure(WIDTH * len(classes), WIDTH)
    for axes, (name, parts) in zip(figure.subplots(1, len(classes), squeeze=False)[0], classes.items(), strict=True):
        plain(axes, name)
        axes.plot([0, 1], [0, 1], color="0.6", linestyle=":", linewidth=1.2)
        for part, label, color in zip(parts, ("as it is", "with the temperature"), ("#D55E00", "#0072B2"), strict=True):
            text = f"{label}, error {part.error:.3f}"
            axes.plot(part.stated, part.found, color=color, marker="o", markersize=4, linewidth=1.6, label=text)
        axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="probability", ylabel="share that is true", aspect="equal")
        axes.legend(loc="upper left", fontsize=8, frameon=False)
    save_figure(figure, path)


def draw_risk_coverage(coverage: NDArray[np.float64], curves: Mapping[str, NDArray[np.float64]], path: Path) -> None:
    """Writes the mean quality of the images that are kept, from the most certain one to all.

    Args:
        coverage: Share of the images that are kept.
        curves: Their mean quality, by what decides which are kept.
        path: The image file.
    """
    figure = new_figure(1.5 * WIDTH, WIDTH)
    axes = figure.subplots()
    plain(axes, "Quality of the most certain images")
    for index, (name, curve) in enumerate(curves.items()):
        color = "0.6" if name == "best possible" else hex_color(index)
        axes.plot(100 * coverage, curve, color=color, linewidth=1.8, label=name)
    axes.set(xlabel="% of the images, the most certain first", ylabel="mean quality", xlim=(0, 100))
    axes.legend(loc="lower left", fontsize=8, frameon=False)
    save_figure(figure, path)


def draw_learning_curve(
    sizes: NDArray[np.float64],
    quality: NDArray[np.float64],
    further: NDArray[np.float64],
    law: NDArray[np.float64],
    what: str,
    path: Path,
) -> None:
    """Writes a metric over the number of training images, and the power law that continues it.

    Args:
        sizes: Numbers of training images that networks were trained on (S,).
        quality: The metric at each, with the ends of its interval (S, 3).
        further: Numbers of images of the law (D,).
        law: The metric by the law, with the ends of its interval (D, 3).
        what: Name of the metric.
        path: The image file.
    """
    from matplotlib.ticker import NullFormatter, NullLocator

    figure = new_figure(1.5 * WIDTH, WIDTH)
    axes = figure.subplots()
    plain(axes, "What more labels bring")
    known, beyond = further <= sizes[-1], further >= sizes[-1]
    axes.fill_between(
        further, law[:, 1], law[:, 2], color="#0072B2", alpha=0.15, linewidth=0, label="its 95 % interval"
    )
    axes.plot(further[known], law[known, 0], color="#0072B2", linewidth=1.8, label="power law")
    axes.plot(further[beyond], law[beyond, 0], color="#0072B2", linewidth=1.8, linestyle="--", label="continued")
    reach = np.abs(quality[:, 1:] - quality[:, :1]).T
    axes.errorbar(sizes, quality[:, 0], reach, fmt="o", color="#D55E00", capsize=3, label="measured, 95 % interval")
    shown = [*sizes.tolist(), float(further[-1])]
    axes.set(xscale="log", xlabel="training images", ylabel=f"mean {what} of images not trained on")
    axes.set_xticks(shown, [f"{size:.0f}" for size in shown])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.legend(loc="lower right", fontsize=8, frameon=False)
    save_figure(figure, path)
