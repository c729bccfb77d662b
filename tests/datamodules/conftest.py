from collections.abc import Callable
from typing import Any

import pytest
from lightning.pytorch import LightningDataModule, Trainer

from tests.datamodules.helpers import Keeping


@pytest.fixture
def keep(make_trainer: Callable[..., Trainer]) -> Callable[..., Keeping]:
    """Trains a task on a dataset, or runs other stages, and returns the task, which keeps the batches."""

    def run(data: LightningDataModule, *stages: str, epochs: int = 1, **options: Any) -> Keeping:
        task, trainer = Keeping(), make_trainer(max_epochs=epochs, use_distributed_sampler=False)
        for stage in stages or ("fit",):
            quiet = {"verbose": False} if stage in ("validate", "test") else {}
            getattr(trainer, stage)(task, datamodule=data, **quiet, **options)
        return task

    return run
