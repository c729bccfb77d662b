"""How much better than no cloud anywhere the demo's network is: `python -m benchmarks.demo`.

For three seeds, of the drawing and of the training: what `make demo` does, then the test pictures' dice beside that of
the answer that marks nothing, which is the share of (picture, class) pairs that are empty.
"""

import csv
import tempfile
import time
from pathlib import Path

from datamodules.clouds import CloudsDataModule
from datamodules.samples import draw_clouds
from tasks.__main__ import main as belvedere

SEEDS = (0, 1, 2)


def all_empty(root: Path) -> tuple[float, int]:
    """Dice of the answer that marks nothing on the test pictures, and how many they are."""
    data = CloudsDataModule(root, size=(96, 144), val_fraction=0.2, test_fraction=0.25)
    data.setup("test")
    test = data.datasets["test"]
    empty = [not mask.any() for i in range(len(test)) for mask in test[0, i]["mask"]]
    return sum(empty) / len(empty), len(test)


def main() -> None:
    """Prints a table in Markdown."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in SEEDS:
            root, run = draw_clouds(Path(folder) / f"sample{seed}", seed=seed), Path(folder) / f"run{seed}"
            start = time.perf_counter()
            fit = f"fit --config clouds/demo --data.root {root} --output {run} --seed_everything {seed}"
            if belvedere(fit.split()) or belvedere(f"test --ckpt_path {run}/checkpoints/best.ckpt".split()):
                raise SystemExit(2)
            seconds = time.perf_counter() - start
            with (run / "test" / "metrics.csv").open() as file:
                dice = float(list(csv.DictReader(file))[-1]["test/dice"])
            empty, count = all_empty(root)
            rows.append(f"| {seed} | {count} | {dice:.3f} | {empty:.3f} | {dice - empty:+.3f} | {seconds:.0f} |")
    columns = ("seed", "test pictures", "dice", "nothing marked", "difference", "fit and test, seconds")
    print(f"\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
