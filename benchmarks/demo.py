"""Compares the demos with trivial baselines: `python -m benchmarks.demo [TASK …]`.

For three seeds of the sample and of the training, it does what `make demo TASK=…` does up to the test, and compares the
result on the test images with a baseline that needs no network.
"""

import csv
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from belvedere.__main__ import main as belvedere
from datamodules.samples.__main__ import SAMPLES

SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Demo:
    """The outcome of a demo.

    Attributes:
        metric: Name of the metric.
        value: Its value on the test images.
        baseline: That of the trivial baseline.
        seconds: Time of fit and test.
    """

    metric: str
    value: float
    baseline: float
    seconds: float


def demo(folder: Path, seed: int, task: str = "clouds") -> Demo:
    """Draws the sample of a task, trains and tests in a folder.

    Raises:
        SystemExit: A command failed.
    """
    root, run = SAMPLES[task](folder / f"{task}{seed}", seed=seed), folder / f"run-{task}{seed}"
    start = time.perf_counter()
    fit = f"fit --config {task}/demo --data.root {root} --output {run} --seed_everything {seed}"
    if belvedere(fit.split()) or belvedere(f"test --ckpt_path {run}/checkpoints/best.ckpt".split()):
        raise SystemExit(2)
    seconds = time.perf_counter() - start
    with (run / "test" / "metrics.csv").open() as file:
        row = list(csv.DictReader(file))[-1]
    found = {name.removeprefix("test/"): float(value) for name, value in row.items() if "/" in name and value}
    return Demo(*_compared(task, found, root), seconds)


def _compared(task: str, found: dict[str, float], root: Path) -> tuple[str, float, float]:
    """Returns the metric of a task, its value, and that of the trivial baseline."""
    if task == "colorization":
        return "psnr", found["psnr"], max(value for name, value in found.items() if name.endswith("_psnr"))
    if task == "aesthetics":
        return "balanced_accuracy", found["balanced_accuracy"], 0.5
    return "dice", found["dice"], _trivial_dice(task, root)


def _trivial_dice(task: str, root: Path) -> float:
    """Returns the dice of marking nothing or everything in every test image, whichever is higher."""
    import yaml

    import belvedere as api
    from belvedere.names import SHIPPED

    options = yaml.safe_load((SHIPPED / task / "demo.yaml").read_text())["data"]["init_args"]
    data = getattr(api, f"{task.title()}DataModule")(**options | {"root": root, "pictures": None})
    data.setup("test")
    masks = [mask.float() for batch in data.test_dataloader() for each in batch["mask"] for mask in each]
    nothing = sum(not mask.any() for mask in masks) / len(masks)
    everything = sum(float(2 * mask.mean() / (1 + mask.mean())) for mask in masks) / len(masks)
    return max(nothing, everything)


def main() -> None:
    """Prints a table in Markdown."""
    with tempfile.TemporaryDirectory() as folder:
        demos = {(task, seed): demo(Path(folder), seed, task) for task in sys.argv[1:] or SAMPLES for seed in SEEDS}
    columns = ("task", "seed", "metric", "value", "trivial baseline", "difference", "fit and test, seconds")
    print(f"\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for (task, seed), each in demos.items():
        numbers = f"{each.value:.3f} | {each.baseline:.3f} | {each.value - each.baseline:+.3f} | {each.seconds:.0f}"
        print(f"| {task} | {seed} | {each.metric} | {numbers} |")


if __name__ == "__main__":
    main()
