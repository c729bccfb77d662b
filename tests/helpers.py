"""What tests of several packages share: small commands of all tasks, and readers of what commands write."""

import csv
import socket
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[1]
CSV = "trainer: {logger: [{class_path: callbacks.loggers.CSVLogger}]}"  # a config
# Options of `fit`; `{weights}` is a file of random convolutions.
SMALL = {
    "clouds": ["clouds/demo", "--model.architecture", "pspnet", "--data.size", "[32,48]",
               "--data.output_size", "[35,53]", "--trainer.max_epochs", "2", "--panels.pictures", "1", "--model.tta",
               "none"],
    "roads": ["roads/unet", "--config", "debug", "--model.network", "pspnet", "--model.pretrained", "false",
              "--data.size", "[32,32]", "--data.samples_per_category", "3", "--seed_everything", "3"],
    "avalanches": ["avalanches/cnn2d", "--config", "debug", "--data.window", "17"],
    "colorization": ["colorization/pooled", "--config", "debug", "--model.extractor", "null", "--data.size", "32",
                     "--data.batch_size", "4"],
    "aesthetics": ["aesthetics/distribution", "--config", "debug", "--model.pretrained", "{weights}",
                   "--model.dense_width", "8", "--data.size", "63", "--data.load_size", "63",
                   "--data.threshold", "5.5", "--monitor", "val/emd2"],
}  # fmt: skip


def table(path: Path | str) -> list[dict[str, str]]:
    """Returns the rows of a CSV file."""
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


def metrics(path: Path | str) -> dict[str, float]:
    """Returns the last value of each metric in a CSV file."""
    return {name: float(value) for row in table(path) for name, value in row.items() if "/" in name and value}


def free_ports(count: int = 1) -> list[int]:
    """Returns ports that nothing listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [int(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports


def masked_images(root: Path, classes: Sequence[str]) -> Path:
    """Writes ten images of noise to `images`, and random masks of each class to `masks/<class>`."""
    rng = np.random.default_rng(0)
    for number in range(10):
        files = {"images": rng.integers(0, 256, (40, 60, 3), np.uint8)}
        files |= {f"masks/{label}": rng.integers(0, 2, (40, 60), np.uint8) * np.uint8(255) for label in classes}
        for folder, pixels in files.items():
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(root / folder / f"{number}.png")
    return root
