"""Lists and draws the layers of the networks that a study compares."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from drawing.charts import hex_color, new_figure
from drawing.pictures import printable
from studies.notes import read_table
from studies.plan import Study, trained_cells

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TABLE = "layers.csv"
KINDS = {"convolution": "conv", "transposed convolution": "transpose", "dense": "linear", "normalization": "norm"}
"""What layers are called, and a part of the names of their classes; the last one that fits counts."""


class Layer(NamedTuple):
    """A layer of a network.

    Attributes:
        name: Its name.
        kind: Its class.
        output: Its output for one image, channels first.
        parameters: How many it has.
    """

    name: str
    kind: str
    output: tuple[int, ...]
    parameters: int


def networks_of(study: Study, folder: Path) -> dict[str, list[Layer]]:
    """Returns the layers of each different network by the labels of the cells that have it.

    Labels that all cells of a network share name it.
    """
    found: dict[tuple[Layer, ...], list[tuple[str, ...]]] = {}
    for labels, runs in trained_cells(study).items():
        for run in runs:
            rows = read_table(folder / run.folder / TABLE)
            if rows:
                found.setdefault(tuple(map(_layer, rows)), []).append(labels)
                break
    names: dict[str, list[Layer]] = {}
    for layers, several in found.items():
        shared = [labels[0] for labels in zip(*several, strict=True) if len(set(labels)) == 1]
        name = " · ".join(shared) or " · ".join(several[0])
        names[name if name not in names else " · ".join(several[0])] = list(layers)
    return names


def layer_table(networks: Mapping[str, Sequence[Layer]]) -> list[list[str]]:
    """Returns a row per layer, header first."""
    head = ["network", "layer", "type", "output", "parameters"]
    return [head, *([name, layer.name, layer.kind, " x ".join(map(str, layer.output)), str(layer.parameters)]
                    for name, layers in networks.items() for layer in layers)]  # fmt: skip


def drawn_layers(study: Study, folder: Path) -> "Figure | None":
    """Draws the layers with parameters as blocks, a row per network; None before the first training."""
    from matplotlib.patches import Patch, Rectangle

    every = networks_of(study, folder)
    networks = {name: [layer for layer in layers if layer.parameters and _kind(layer) != "normalization"]
                for name, layers in every.items()}  # fmt: skip
    networks = {name: layers for name, layers in networks.items() if layers}
    if not networks:
        return None
    colors = {kind: hex_color(number) for number, kind in enumerate((*KINDS, "other"))}
    figure = new_figure(10, 0.6 + 1.5 * len(networks), pad=0.06)
    grid = figure.subplots(len(networks), 1, squeeze=False)[:, 0]
    for axes, (name, layers) in zip(grid, networks.items(), strict=True):
        total = sum(layer.parameters for layer in every[name])
        axes.set_title(printable(f"{name}: {len(layers)} layers, {total:,} parameters"), loc="left", fontsize=9)
        axes.set_axis_off()
        side = max(_height(layer) for layer in layers)
        widths = [0.35 + math.sqrt(layer.output[0]) / 8 for layer in layers]
        left = 0.0
        for layer, width in zip(layers, widths, strict=True):
            tall = max(0.04, _height(layer) / side)
            axes.add_patch(Rectangle((left, -tall / 2), width, tall, facecolor=colors[_kind(layer)], edgecolor="white",
                                     linewidth=0.3 if len(layers) > 60 else 0.8))  # fmt: skip
            if len(layers) <= 40:
                axes.text(left + width / 2, -0.54, layer.output[0], fontsize=6, ha="center", va="top", color="0.35")
            left += width + 0.2
        axes.set_xlim(0, left)
        axes.set_ylim(-0.72, 0.52)
    used = {_kind(layer) for layers in networks.values() for layer in layers}
    handles = [Patch(color=color, label=kind) for kind, color in colors.items() if kind in used]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return figure


def _layer(row: Mapping[str, str]) -> Layer:
    return Layer(row["layer"], row["type"], tuple(map(int, row["output"].split(" x "))), int(row["parameters"]))


def _height(layer: Layer) -> int:
    return layer.output[1] if len(layer.output) > 1 else 1


def _kind(layer: Layer) -> str:
    fitting = [kind for kind, part in KINDS.items() if part in layer.kind.lower()]
    return fitting[-1] if fitting else "other"
