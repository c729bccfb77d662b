"""When the VGG16 auto-encoder learns: `python -m benchmarks.vgg16_sizes FOLDER --vgg16 vgg16.safetensors`.

Trains `roads/vgg16_best` on the 70 road tiles under $BELVEDERE_DATA/roads at several sizes, and with one part of the
recipe changed: random weights in the encoder, no batch normalization, or the recipe of `roads/vgg10_best` (RMSprop,
cross-entropy, Glorot), for as many steps of eight tiles each. Prints the first validated step from which the F-measure
of the validation tiles stays above one half, and the F-measure of the test tiles. Runs that are done are not run again.
"""

import argparse
import csv
import itertools
import os
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.recipes import belvedere

LEARNED = 0.5  # F-measure; marking every pixel as road has .37
STEPS_PER_EPOCH = 20
RECIPES = {
    "as shipped": [],
    "random encoder": ["--model.pretrained", "false"],
    "no batch normalization": ["--model.norm", "none"],
    "as vgg10_best": ["--model.loss", "bce", "--model.init", "glorot", "--model.optimizer", "torch.optim.RMSprop",
                      "--model.optimizer.lr", "1e-3"],
}  # fmt: skip
CSV = "trainer:\n  logger:\n  - class_path: callbacks.loggers.CSVLogger\n"


def train(run: Path, side: int, options: Sequence[str], steps: int) -> float:
    """Trains and tests, unless that has been done; returns the seconds."""
    if (run / "test" / "metrics.csv").is_file():
        return 0.0
    run.parent.mkdir(parents=True, exist_ok=True)
    loggers = run.with_suffix(".yaml")
    loggers.write_text(CSV)
    start = time.monotonic()
    belvedere("fit", "--config", "roads/vgg16_best", "--config", str(loggers), *options, "--model.tta", "none",
              "--data.root", str(Path(os.environ["BELVEDERE_DATA"]) / "roads"), "--data.size", f"[{side},{side}]",
              "--data.test_fraction", "0.43", "--data.steps_per_epoch", str(STEPS_PER_EPOCH),
              "--trainer.max_epochs", str(steps // STEPS_PER_EPOCH), "--output", str(run),
              "--resume", "auto")  # fmt: skip
    belvedere("test", "--ckpt_path", str(run / "checkpoints" / "best.ckpt"))
    return time.monotonic() - start


def column(path: Path, name: str) -> list[float]:
    """Returns the values of a column of a table of metrics, in the order of the epochs."""
    with path.open(newline="") as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]


def main() -> None:
    """Trains every combination and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--vgg16", type=Path, required=True)
    parser.add_argument("--sides", type=int, nargs="+", default=[80, 128, 160])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    options = parser.parse_args()
    print("| size | recipe | learned after | F-measure, validation | test | seconds |")
    print("|---|---|---|---|---|---|")
    for side, name in itertools.product(options.sides, options.recipes):
        run = options.folder / f"{side}_{name.replace(' ', '_')}"
        arguments = ["--model.pretrained", str(options.vgg16.absolute()), *RECIPES[name]]
        seconds = train(run.absolute(), side, arguments, options.steps)
        curve = column(run / "metrics.csv", "val/f_measure")
        late = next((epoch for epoch in range(len(curve)) if min(curve[epoch:]) > LEARNED), None)
        learned = "never" if late is None else f"{(late + 1) * STEPS_PER_EPOCH} steps"
        tested = column(run / "test" / "metrics.csv", "test/f_measure")[-1]
        figures = f"{max(curve):.3f} | {tested:.3f} | {seconds:.0f}"
        print(f"| {side} | {name} | {learned} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
