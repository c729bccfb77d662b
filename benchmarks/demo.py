"""Compares the demo's network with marking nothing: `python -m benchmarks.demo`.

For three seeds of the sample and of the training, it does what `make demo` does. Then it compares the test images' dice
with that of empty masks, which is the share of (image, class) pairs without a mask.
"""

import csv
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from belvedere.__main__ import main as belvedere
from datamodules.clouds import CloudsDataModule
from datamodules.samples.clouds import draw_clouds

SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Demo:
    """The outcome of a demo.

    Attributes:
        pictures: Number of test images.
        dice: Dice of the network.
        empty: Dice of empty masks.
        seconds: Time of fit and test.
    """

    pictures: int
    dice: float
    empty: float
    seconds: float


def demo(folder: Path, seed: int) -> Demo:
    """Draws the sample, trains and tests in a folder.

    Raises:
        SystemExit: A command failed.
    """
    root, run = draw_clouds(folder / f"sample{seed}", seed=seed), folder / f"run{seed}"
    start = time.perf_counter()
    fit = f"fit --config clouds/demo --data.root {root} --output {run} --seed_everything {seed}"
    if belvedere(fit.split()) or belvedere(f"test --ckpt_path {run}/checkpoints/best.ckpt".split()):
        raise SystemExit(2)
    seconds = time.perf_counter() - start
    with (run / "test" / "metrics.csv").open() as file:
        dice = float(list(csv.DictReader(file))[-1]["test/dice"])
    data = CloudsDataModule(root, size=(96, 144), val_fraction=0.2, test_fraction=0.25)
    data.setup("test")
    test = data.datasets["test"]
    empty = [not mask.any() for i in range(len(test)) for mask in test[0, i]["mask"]]
    return Demo(len(test), dice, sum(empty) / len(empty), seconds)


def main() -> None:
    """Prints a table in Markdown."""
    with tempfile.TemporaryDirectory() as folder:
        demos = {seed: demo(Path(folder), seed) for seed in SEEDS}
    columns = ("seed", "test images", "dice", "empty mask", "difference", "fit and test, seconds")
    print(f"\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for seed, each in demos.items():
        figures = f"{each.dice:.3f} | {each.empty:.3f} | {each.dice - each.empty:+.3f} | {each.seconds:.0f}"
        print(f"| {seed} | {each.pictures} | {figures} |")


if __name__ == "__main__":
    main()
