from collections.abc import Callable
from typing import Any

from studies.layers import Layer, drawn_layers, layer_table, networks_of
from tests.studies.conftest import write_rows

ROWS = [("conv", "Conv2d", "8 x 16 x 16", 80), ("norm", "BatchNorm2d", "8 x 16 x 16", 16),
        ("relu", "ReLU", "8 x 16 x 16", 0), ("up", "ConvTranspose2d", "4 x 32 x 32", 40),
        ("fc", "Linear", "2", 10)]  # fmt: skip


def write(folder: Any, rows: Any) -> None:
    names = ("layer", "type", "output", "parameters")
    write_rows(folder / "layers.csv", [dict(zip(names, row, strict=True)) for row in rows])


def test_equal_networks_are_listed_and_drawn_once(make: Callable[..., Any]) -> None:
    made = make()
    assert drawn_layers(made.study, made.folder) is None
    for cell in ("u-net--resnet-34", "u-net--wide-odd"):
        write(made.write(cell, 0), ROWS)
    write(made.write("fpn--resnet-34", 0), ROWS[:1])
    networks = networks_of(made.study, made.folder)
    assert list(networks) == ["U-Net", "FPN · ResNet-34"]
    assert networks["U-Net"][3] == Layer("up", "ConvTranspose2d", (4, 32, 32), 40)
    lines = layer_table(networks)
    assert lines[0] == ["network", "layer", "type", "output", "parameters"]
    assert lines[1:] == [["U-Net", *map(str, row)] for row in ROWS] + [["FPN · ResNet-34", *map(str, ROWS[0])]]
    figure = drawn_layers(made.study, made.folder)
    assert figure is not None
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "U-Net: 3 layers, 146 parameters", "FPN · ResNet-34: 1 layers, 80 parameters"
    ]  # fmt: skip
    assert [round(block.get_height(), 2) for block in figure.axes[0].patches] == [0.5, 1.0, 0.04]
    kinds = [text.get_text() for text in figure.legends[0].get_texts()]
    assert kinds == ["convolution", "transposed convolution", "dense"]
