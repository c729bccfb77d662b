from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tasks.base import Batch, ImageTask

Trainers = Callable[..., Trainer]
Task = TypeVar("Task", bound=LightningModule)


def loader(batch: Batch, times: int = 1) -> DataLoader[Any]:
    return DataLoader([batch] * times, batch_size=None)


def logged(trainer: Trainer) -> dict[str, float]:
    return {name: value.item() for name, value in trainer.callback_metrics.items()}


def reloaded(task: Task, trainer: Trainer, folder: Path, **options: Any) -> Task:
    """The task in evaluation mode as its checkpoint alone restores it."""
    trainer.save_checkpoint(folder / "run.ckpt")
    return type(task).load_from_checkpoint(folder / "run.ckpt", map_location="cpu", **options).eval()


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def changed(module: nn.Module, before: dict[str, Tensor]) -> set[str]:
    return {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}


def unmoved(task: ImageTask, batch: Batch) -> set[str]:
    """Names of the parameters that a training step does not change."""
    before = state(task)
    optimizer = task.configure_optimizers()
    task.step(batch).loss.backward()
    optimizer.step()
    return {name for name, _ in task.named_parameters()} - changed(task, before)
