import csv
from pathlib import Path

import torch
from torch import Tensor, nn

from callbacks.layers import Layers
from tests.scripted import Scripted, fit


class Layered(Scripted):
    """Runs layers in another order than it has them, and one of them twice."""

    def __init__(self) -> None:
        super().__init__([0.5, 0.5])
        self.network = nn.ModuleDict({"last": nn.Linear(8, 2), "first": nn.Conv2d(3, 8, 3), "unused": nn.Linear(4, 4)})

    def training_step(self, batch: dict[str, Tensor], batch_index: int) -> Tensor:
        maps = self.network["first"](torch.zeros(5, 3, 6, 6))
        for _ in range(2):
            self.network["last"](maps.mean(dim=(2, 3)))
        return super().training_step(batch, batch_index)


def test_layers_are_listed_in_the_order_in_which_they_run(tmp_path: Path) -> None:
    module = Layered()
    fit(tmp_path, module, Layers())
    with (tmp_path / "layers.csv").open() as file:
        rows = list(csv.reader(file))
    assert rows == [["layer", "type", "output", "parameters"], ["first", "Conv2d", "8 x 4 x 4", str(3 * 9 * 8 + 8)],
                    ["last", "Linear", "2", str(8 * 2 + 2)]]  # fmt: skip
    assert not any(layer._forward_hooks for layer in module.modules()), "the hooks are removed"


def test_the_layers_of_another_network_do_not_stay(tmp_path: Path) -> None:
    (tmp_path / "layers.csv").write_text("of another run in this folder")
    fit(tmp_path, Layered(), Layers())
    assert (tmp_path / "layers.csv").read_text().startswith("layer,type,output,parameters")
