"""When the VGG16 auto-encoder learns: `python -m benchmarks.vgg16_sizes FOLDER --vgg16 vgg16.safetensors`.

Trains `roads/vgg10_best` with `--model.network vgg16` on the 70 road tiles under $BELVEDERE_DATA/roads at several
sizes, with and without ImageNet weights in the encoder and with and without batch normalization, for as many steps of
eight tiles each. Prints the first validated step from which the F-measure of the validation tiles stays above one
half, and the F-measure of the test tiles. Runs that are done are not run again.
"""

import argparse
import csv
import itertools
import os
import time
from pathlib import Path

from benchmarks.recipes import belvedere

LEARNED = 0.5  # F-measure; marking every pixel as road has .37
STEPS_PER_EPOCH = 20
CSV = "trainer:\n  logger:\n  - class_path: callbacks.loggers.CSVLogger\n"


def train(run: Path, side: int, norm: str, weights: Path | None, steps: int) -> float:
    """Trains and tests, unless that has been done; returns the seconds."""
    if (run / "test" / "metrics.csv").is_file():
        return 0.0
    run.parent.mkdir(parents=True, exist_ok=True)
    loggers = run.with_suffix(".yaml")
    loggers.write_text(CSV)
    start = time.monotonic()
    belvedere("fit", "--config", "roads/vgg10_best", "--config", str(loggers), "--model.network", "vgg16",
              "--model.norm", norm, "--model.pretrained", str(weights) if weights else "false", "--model.border", "0",
              "--model.tta", "none", "--data.root", str(Path(os.environ["BELVEDERE_DATA"]) / "roads"),
              "--data.window", "[400,400]", "--data.size", f"[{side},{side}]", "--data.test_fraction", "0.43",
              "--data.steps_per_epoch", str(STEPS_PER_EPOCH), "--trainer.max_epochs", str(steps // STEPS_PER_EPOCH),
              "--monitor", "val/f_measure", "--output", str(run), "--resume", "auto")  # fmt: skip
    belvedere("test", "--ckpt_path", str(run / "checkpoints" / "best.ckpt"))
    return time.monotonic() - start


def column(path: Path, name: str) -> list[float]:
    """The values of a column of a table of metrics, in the order of the epochs."""
    with path.open(newline="") as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]


def main() -> None:
    """Trains every combination and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--vgg16", type=Path, required=True)
    parser.add_argument("--sides", type=int, nargs="+", default=[80, 128, 160])
    parser.add_argument("--steps", type=int, default=300)
    options = parser.parse_args()
    print("| size | batch normalization | encoder | learned after | F-measure, validation | test | seconds |")
    print("|---|---|---|---|---|---|---|")
    for side, (norm, weights) in itertools.product(
        options.sides, (("batch", None), ("batch", options.vgg16.absolute()), ("none", options.vgg16.absolute()))
    ):
        run = options.folder / f"{side}_{norm}_{'imagenet' if weights else 'random'}"
        seconds = train(run.absolute(), side, norm, weights, options.steps)
        curve = column(run / "metrics.csv", "val/f_measure")
        late = next((epoch for epoch in range(len(curve)) if min(curve[epoch:]) > LEARNED), None)
        learned = "never" if late is None else f"{(late + 1) * STEPS_PER_EPOCH} steps"
        tested = column(run / "test" / "metrics.csv", "test/f_measure")[-1]
        encoder = "ImageNet" if weights else "random"
        figures = f"{max(curve):.3f} | {tested:.3f} | {seconds:.0f}"
        print(f"| {side} | {norm} | {encoder} | {learned} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
