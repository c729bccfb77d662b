"""Ends a command that was stopped by a signal, and the processes that it started."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks.resuming import disable_lightning_signals, end_launched
from callbacks.signals import Stopped, check_stopped


class Stopping(Callback):
    """Lets `callbacks.signals.Stopped` end validation, test and prediction; before the writers among the callbacks."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        disable_lightning_signals(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if isinstance(exception, Stopped):
            end_launched(trainer)

    def on_validation_batch_start(self, *arguments: Any) -> None:
        check_stopped()

    def on_test_batch_start(self, *arguments: Any) -> None:
        check_stopped()

    def on_predict_batch_start(self, *arguments: Any) -> None:
        check_stopped()
