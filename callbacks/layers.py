"""Writes `layers.csv`: the layers of a network as they run in the first training step."""

from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from datamodules.batch import Batch
from ops.atomic import write_table

COLUMNS = ("layer", "type", "output", "parameters")


class Layers(Callback):
    """Writes `layers.csv` (`layer,type,output,parameters`) into the run's folder: a row per layer.

    The rows are in the order in which the first training step computes the layers. `output` is the shape of a layer's
    output without the batch; a layer that runs more than once is listed once. Lightning's and torchinfo's summaries
    need an example input, whose form differs from task to task.
    """

    def __init__(self) -> None:
        self._rows: dict[str, tuple[Any, ...]] = {}
        self._hooks: list[RemovableHandle] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        if trainer.is_global_zero and not self._rows:
            for name, module in pl_module.named_modules():
                if not name.startswith("meters") and not any(True for _ in module.children()):
                    self._hooks.append(module.register_forward_hook(partial(self._note, name)))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        for hook in self._hooks:
            hook.remove()
        if self._hooks and self._rows:
            write_table(_path(trainer), COLUMNS, list(self._rows.values()))
        self._hooks.clear()

    def _note(self, name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim > 1 and name not in self._rows:
            shape = " x ".join(map(str, output.shape[1:]))
            count = sum(parameter.numel() for parameter in module.parameters())
            self._rows[name] = (name.removeprefix("network."), type(module).__name__, shape, count)


def _path(trainer: Trainer) -> Path:
    return Path(trainer.default_root_dir) / "layers.csv"
