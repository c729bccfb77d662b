"""Training of every task on one GPU: `python -m benchmarks.gpu_training FOLDER`.

Draws the sample data sets into FOLDER and trains the network that each task's first config names, from random weights,
through the command line, in single precision and in bf16-mixed. Prints Markdown: pictures a second of the steps after
the first epoch, loader included; the most memory that torch held; and the calls that made the host wait for the device
in each of these steps, by where they come from, as `torch.cuda.set_sync_debug_mode` sees them.
"""

import argparse
import collections
import json
import os
import subprocess
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from datamodules.samples.aesthetics import draw_aesthetics
from datamodules.samples.avalanches import draw_avalanches
from datamodules.samples.clouds import draw_clouds
from datamodules.samples.colorization import draw_colorization
from datamodules.samples.roads import draw_roads

PICTURES = 96
EPOCHS = 4
# The full-size network of each task; pictures as large as its paper has them.
RUNS = {
    "clouds": ["--config", "clouds/fpn", "--model.encoder", "resnet34", "--model.pretrained", "false"],
    "roads": ["--config", "roads/vgg16", "--model.pretrained", "false"],
    "avalanches": ["--config", "avalanches/cnn2d"],
    "colorization": ["--config", "colorization/pooled", "--model.extractor", "null"],
    "aesthetics": ["--config", "aesthetics/alexnet", "--data.batch_size", "32"],
}
PRECISIONS = ("32-true", "bf16-mixed")


class Steps(Callback):
    """Times the steps after the first epoch and counts what makes the host wait: `steps.json` in the run's folder."""

    def __init__(self) -> None:
        self.pictures = self.steps = 0
        self.waits: collections.Counter[str] = collections.Counter()
        self.seconds = 0.0
        self._begin: float | None = None
        self._plain = warnings.showwarning

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Begins to measure in the second epoch, to count waits in the last; last.ckpt has been written by then."""
        if trainer.current_epoch == 0 or batch_idx > 0:
            return
        torch.cuda.synchronize()
        if trainer.current_epoch == EPOCHS - 1:
            warnings.simplefilter("always")
            warnings.showwarning = self._note
            torch.cuda.set_sync_debug_mode("warn")
        else:
            self._begin = time.perf_counter()

    def _note(self, message: Warning | str, *_: Any) -> None:
        if "synchronizing CUDA operation" not in str(message):
            return
        frames = [frame for frame in traceback.extract_stack()[:-1] if "warnings.py" not in frame.filename]
        parts = Path(frames[-1].filename).parts
        self.waits[f"{'/'.join(parts[-2:])}:{frames[-1].lineno} {frames[-1].name}"] += 1

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Counts pictures and steps."""
        if self._begin is not None:
            self.pictures += len(batch["image"])
        elif trainer.current_epoch == EPOCHS - 1:
            self.steps += 1

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ends what was begun: validation is not measured."""
        if trainer.sanity_checking:
            return
        if torch.cuda.get_sync_debug_mode():
            torch.cuda.set_sync_debug_mode("default")
            warnings.showwarning = self._plain
        if self._begin is not None:
            torch.cuda.synchronize()
            self.seconds += time.perf_counter() - self._begin
            self._begin = None

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the file."""
        waits = {place: count / self.steps for place, count in self.waits.most_common()}
        memory = torch.cuda.max_memory_allocated() / 2**30
        found = {"rate": self.pictures / self.seconds, "gibibytes": memory, "waits": waits}
        Path(trainer.default_root_dir, "steps.json").write_text(json.dumps(found))


def draw(folder: Path) -> None:
    """Draws the data sets that are not there yet."""
    makers = {
        "clouds": lambda root: draw_clouds(root, pictures=PICTURES, test_pictures=2),
        "roads": lambda root: draw_roads(root, tiles=PICTURES),
        "avalanches": lambda root: draw_avalanches(root, pictures=24),
        "colorization": lambda root: draw_colorization(root),
        "aesthetics": lambda root: draw_aesthetics(root, pictures=PICTURES),
    }
    for word, make in makers.items():
        if not (folder / word).exists():
            make(folder / word)


def train(word: str, precision: str, folder: Path) -> dict[str, Any]:
    """Trains once and returns what `Steps` wrote.

    Raises:
        SystemExit: Training failed.
    """
    output = folder / "runs" / f"{word}-{precision}"
    logger = json.dumps([{"class_path": "callbacks.loggers.CSVLogger"}])
    command = [sys.executable, "-m", "belvedere", "fit", *RUNS[word], "--config", "gpu",
               "--trainer.precision", precision,
               "--data.root", str(folder / word), "--trainer.max_epochs", str(EPOCHS), "--trainer.logger", logger,
               "--early_stopping.patience", "null", "--panels.every_n_epochs", "99", "--output", str(output),
               "--trainer.callbacks+=benchmarks.gpu_training.Steps"]  # fmt: skip
    log, environment = folder / f"{word}-{precision}.log", os.environ | {"PYTHONPATH": ":".join(sys.path)}
    with log.open("w") as file:
        code = subprocess.run(command, stdout=file, stderr=file, env=environment).returncode
    if code:
        raise SystemExit(f"{' '.join(command)} ended with {code}:\n{log.read_text()[-3000:]}")
    found: dict[str, Any] = json.loads((output / "steps.json").read_text())
    return found


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="*", default=list(RUNS))
    options = parser.parse_args()
    draw(options.folder)
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}\n")
    print("| task | precision | pictures a second | GiB | waits a step |\n|---|---|---|---|---|")
    places: collections.Counter[str] = collections.Counter()
    for word in options.only:
        for precision in PRECISIONS:
            found = train(word, precision, options.folder)
            total = sum(found["waits"].values())
            print(f"| `{' '.join(RUNS[word][1:4:2])}` | {precision} | {found['rate']:.0f} | {found['gibibytes']:.2f} | "
                  f"{total:.1f} |", flush=True)  # fmt: skip
            for place, count in found["waits"].items():
                places[f"{word}, {precision}: {place}"] = count
    print("\n| where the host waited | a step |\n|---|---|")
    for place, count in places.items():
        print(f"| {place} | {count:.2f} |")


if __name__ == "__main__":
    main()
