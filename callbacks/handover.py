"""Connects the data module with the task and the callbacks."""

from collections.abc import Iterator

from lightning.pytorch import Callback, LightningModule, Trainer

from datamodules.batch import Batch, DataSource
from tasks.base import ImageTask


class UsesData(Callback):
    """Gives a callback access to the run's data, beyond the batches that the trainer passes to it.

    Attributes:
        data: The run's data module; `Handover` sets it before the first stage begins.
    """

    data: DataSource | None = None

    def source(self) -> DataSource:
        """Returns the data module.

        Raises:
            RuntimeError: There is none.
        """
        if self.data is None:
            raise RuntimeError(
                f"{type(self).__name__} has no data; add callbacks.handover.Handover(data) to the trainer's callbacks"
            )
        return self.data


class Handover(Callback):
    """Gives the task the facts about the data and unaugmented batches to fit on, and callbacks the data module.

    Args:
        data: The run's data module.
        task: Gets the facts already before loggers start a run; without it, at `setup`.
    """

    def __init__(self, data: DataSource, task: ImageTask | None = None) -> None:
        self.data = data
        if task is not None:
            task.ask_facts = data.facts

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Passes the facts to the task, after the data module's own `setup`."""
        assert isinstance(pl_module, ImageTask)
        pl_module.receive(self.data.facts())
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # untyped there
        for callback in callbacks:
            if isinstance(callback, UsesData):
                callback.data = self.data

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lets the task fit what it needs before training; a checkpoint has been loaded by now."""
        assert isinstance(pl_module, ImageTask)
        pl_module.prepare(_Batches(self.data, "train"))
        pl_module.calibrate(_Batches(self.data, "val"))


class _Batches:
    """Yields the unaugmented batches of a split, as often as it is iterated."""

    def __init__(self, data: DataSource, split: str) -> None:
        self.data, self.split = data, split

    def __iter__(self) -> Iterator[Batch]:
        return self.data.unaugmented(self.split)
