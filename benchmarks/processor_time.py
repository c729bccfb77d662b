"""Training that ends after some time of the processor, which does not depend on what else a machine has to do."""

import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class ProcessorTime(Callback):
    """Ends training, after a last validation, when the process has computed for so long since it began to train.

    Args:
        minutes: Of one core; validation is counted.
    """

    def __init__(self, minutes: float) -> None:
        self.seconds = 60 * minutes
        self.begin = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        self.begin = time.process_time()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stops training when the time is over."""
        if time.process_time() - self.begin >= self.seconds:
            trainer.should_stop = True
