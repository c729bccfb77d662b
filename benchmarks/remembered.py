"""What it saves to keep what frozen convolutions say: `python -m benchmarks.remembered`.

Trains dense layers of 250 nodes on 96 drawn photographs, not altered, for three epochs, with `remember` at 4 GiB and at
0; in one process, by the seconds of the processor, which other work on the machine does not change. The weights are
random: they take as long as trained ones. Both end with the same loss.
"""

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from datamodules.aesthetics import AestheticsDataModule
from datamodules.samples.aesthetics import draw_aesthetics
from tasks.aesthetics import AestheticsTask

NETWORKS = ("alexnet_torchvision", "vgg16")
PICTURES, SIDE, EPOCHS = 96, 320, 3


class Epochs(Callback):
    """Seconds of the processor of each epoch, validation included."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.begin = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        self.begin = time.process_time()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops it."""
        self.seconds.append(time.process_time() - self.begin)


def trained(root: Path, network: str, gibibytes: float) -> tuple[list[float], float]:
    """Seconds of each epoch, and the last validation loss."""
    torch.manual_seed(0)
    data = AestheticsDataModule(root, crop="center", flips=False, batch_size=16, num_workers=0)
    task: Any = AestheticsTask(network, remember=gibibytes, pretrained=False)
    epochs = Epochs()
    trainer = Trainer(max_epochs=EPOCHS, accelerator="cpu", callbacks=[epochs], logger=False, num_sanity_val_steps=0,
                      enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)  # fmt: skip
    trainer.fit(task, data)
    return epochs.seconds, float(trainer.callback_metrics["val/loss"])


def main() -> None:
    """Prints a table in Markdown."""
    torch.set_num_threads(1)
    print("| network | remember | first epoch, seconds | later ones | ratio of the later ones | val/loss |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["BELVEDERE_CACHE"] = str(Path(folder) / "cache")
        root = draw_aesthetics(Path(folder) / "drawn", PICTURES, SIDE)
        for network in NETWORKS:
            later: dict[float, float] = {}
            for gibibytes in (0.0, 4.0):
                seconds, loss = trained(root, network, gibibytes)
                later[gibibytes] = sum(seconds[1:]) / len(seconds[1:])
                ratio = later[0.0] / later[gibibytes]
                print(f"| {network} | {gibibytes:g} GiB | {seconds[0]:.2f} | {later[gibibytes]:.2f} | {ratio:.1f} | "
                      f"{loss:.5f} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
