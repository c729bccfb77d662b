"""How much better than no cloud anywhere the demo's network is: `python -m benchmarks.demo`.

For three seeds, of the drawing and of the training: what `make demo` does, then the test pictures' dice beside that of
the answer that marks nothing, which is the share of (picture, class) pairs that are empty.
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
    """What a demo came to.

    Attributes:
        pictures: How many were tested on.
        dice: Of the network.
        empty: Dice of the answer that marks nothing.
        seconds: Of fit and test.
    """

    pictures: int
    dice: float
    empty: float
    seconds: float


def demo(folder: Path, seed: int) -> Demo:
    """Draws, trains and tests in a folder.

    Raises:
        SystemExit: The command line refused something.
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
    columns = ("seed", "test pictures", "dice", "nothing marked", "difference", "fit and test, seconds")
    print(f"\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for seed, each in demos.items():
        figures = f"{each.dice:.3f} | {each.empty:.3f} | {each.dice - each.empty:+.3f} | {each.seconds:.0f}"
        print(f"| {seed} | {each.pictures} | {figures} |")


if __name__ == "__main__":
    main()
