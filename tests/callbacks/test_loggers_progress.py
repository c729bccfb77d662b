import logging
import re
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from callbacks.loggers import ProgressBar


class Counted(LightningModule):
    """Its figures are numbers of epochs."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.log("train/loss", float(self.current_epoch), on_step=False, on_epoch=True)
        return self.weight.sum()

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val/loss", float(self.current_epoch), prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def test_a_log_has_a_line_an_epoch_without_figures_of_an_earlier_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = Trainer(
        default_root_dir=tmp_path,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        check_val_every_n_epoch=2,
        max_epochs=4,
        callbacks=[ProgressBar()],
    )
    batches = DataLoader(torch.zeros(2, 1))  # type: ignore[arg-type]  # a tensor is a data set
    with caplog.at_level(logging.INFO):
        trainer.fit(Counted(), batches, batches)
    lines = [re.sub(r", train.*", "", each) for each in caplog.messages if each.startswith("Epoch ")]
    assert lines == [
        "Epoch 0 of 4: ",
        "Epoch 1 of 4: val/loss 1.0000",
        "Epoch 2 of 4: ",
        "Epoch 3 of 4: val/loss 3.0000",
    ]
