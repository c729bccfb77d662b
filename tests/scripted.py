"""A module whose metrics are given in advance, and a quiet trainer for it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader

from datamodules.batch import Batch

STEPS = 3  # batches per epoch


class Scripted(LightningModule):
    """Logs the given metrics, and has a weight that equals its epoch.

    Args:
        epochs: Validation metrics of each epoch, without `val/`; a number is `dice`. A test logs those of the first.
        losses: Training losses by step; 1 after the last.
    """

    def __init__(self, epochs: Sequence[float | Mapping[str, float]], losses: Sequence[float] = ()) -> None:
        super().__init__()
        self.epochs = [each if isinstance(each, Mapping) else {"dice": each} for each in epochs]
        self.losses = losses
        self.weight = nn.Parameter(torch.zeros(1))
        self.steps = 0

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        loss = self.losses[self.steps] if self.steps < len(self.losses) else 1.0
        self.steps += 1
        self.weight.data.fill_(self.current_epoch)
        return self.weight.sum() * 0 + loss

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        self._log("val", self.current_epoch)

    def test_step(self, batch: Batch, batch_index: int) -> None:
        self._log("test", 0)

    def _log(self, stage: str, epoch: int) -> None:
        self.log_dict({f"{stage}/{name}": value for name, value in self.epochs[epoch].items()}, prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def batches() -> DataLoader[dict[str, Tensor]]:
    return DataLoader([{"image": torch.zeros(1)}] * STEPS)  # type: ignore[arg-type]  # a list is a dataset


def quiet_trainer(folder: Path, *callbacks: Callback, **options: Any) -> Trainer:
    defaults = {"logger": False, "enable_progress_bar": False, "num_sanity_val_steps": 0,
                "enable_checkpointing": any(isinstance(each, Checkpoint) for each in callbacks)}  # fmt: skip
    return Trainer(default_root_dir=folder, accelerator="cpu", enable_model_summary=False, callbacks=list(callbacks),
                   **(defaults | options))  # fmt: skip


def fit(folder: Path, module: Scripted, *callbacks: Callback, resume: str | None = None, **options: Any) -> Trainer:
    """Trains all epochs of a module; `resume` names a checkpoint of the folder."""
    trainer = quiet_trainer(folder, *callbacks, **({"max_epochs": len(module.epochs)} | options))
    trainer.fit(module, batches(), batches(), ckpt_path=None if resume is None else folder / "checkpoints" / resume)
    return trainer
