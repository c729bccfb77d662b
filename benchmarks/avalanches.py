"""Avalanches in real photographs, by windows and otherwise.

`python -m benchmarks.avalanches FOLDER --vgg16 FILE --resnet50 FILE --mobilenet FILE`, an hour on two cores.

Trains window classifiers on $BELVEDERE_DATA/avalanches through the command line, each for as long, on one split by
picture, and tests the first pass, the second after either way to draw its edges, and boosted trees. Beside them stand a
plain U-Net trained for as long, and answers that need no network. Prints tables in Markdown. Runs that are done already
are not run again. `python -m benchmarks.avalanche_panel` draws what a run found.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from benchmarks.avalanche_answers import FIGURES, mask_of, scores, trivial_answers
from datamodules.avalanches import AvalanchesDataModule
from datamodules.base import SPLITS
from ops.atomic import write_table

ROOT = Path(__file__).parents[1]
Callbacks = dict[str, dict[str, float]]  # their arguments, by class path
WINDOWS = ("loss", "accuracy", "balanced_accuracy", "auprc")


@dataclass(frozen=True)
class Classifier:
    """A run of a window classifier.

    Attributes:
        network: Its name; `resnet50_v1` is what Keras's weights are for.
        window: Pixels of its windows.
        level: How often the pictures are halved.
        seed: Of weights and windows.
        trees: What boosted trees are fitted on.
    """

    network: str
    window: int
    level: int
    seed: int = 0
    trees: str = "predictions"

    def __str__(self) -> str:
        """Returns what its folder is called."""
        return f"{self.network}-{self.window}-level{self.level}-seed{self.seed}"


# The slow ones first: two runs share the cores, and none of them should be left over.
CLASSIFIERS = (
    Classifier("vgg16", 33, 2),
    Classifier("resnet50_v1", 33, 2),
    Classifier("cnn2d", 33, 2),
    *(Classifier("cnn2d", window, 0, seed, trees) for seed, trees in enumerate(("predictions", "features"))
      for window in (33, 17)),
)  # fmt: skip
SMALL = ["--data.windows_per_epoch", "20000"]
LARGE = ["--data.windows_per_epoch", "4000", "--data.val_pictures", "8", "--data.batch_size", "64",
         "--model.optimizer.lr", "1e-4"]  # fmt: skip
TREES = {"vgg16": 5000, "resnet50_v1": 5000}  # windows that trees are fitted on where they take long


def belvedere(log: Path, *arguments: str) -> float:
    """Runs a command in a process of its own, on one core, and writes what it says into a file.

    Returns:
        Seconds of the processor that it took.

    Raises:
        SystemExit: It failed.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "WANDB_MODE": "disabled"}
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        process = subprocess.Popen([sys.executable, "-m", "belvedere", *arguments], env=environment, stdout=file,
                                   stderr=subprocess.STDOUT)  # fmt: skip
        _, status, usage = os.wait4(process.pid, 0)  # which counts this process alone
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"belvedere {' '.join(arguments)}\n{log.read_text()[-4000:]}")
    return usage.ru_utime + usage.ru_stime


def split_data(folder: Path) -> dict[str, list[str]]:
    """Makes a copy of the data set out of links, with the split that all share and a folder of the test pictures."""
    source = Path(os.environ["BELVEDERE_DATA"]) / "avalanches"
    names = sorted(path.name for path in (source / "images").iterdir())
    splits = AvalanchesDataModule(source).draw_splits(names)
    if not folder.exists():
        (folder / "test").mkdir(parents=True)
        for name in splits["test"]:
            (folder / "test" / name).symlink_to(source / "images" / name)
        for part in ("images", "masks"):
            (folder / part).symlink_to(source / part)
        write_table(
            folder / "splits.csv", ("name", "split"), ((name, split) for split in SPLITS for name in splits[split])
        )
    return splits


def train(run: Path, options: list[str], callbacks: Callbacks, data: Path) -> None:
    """Trains until a callback ends it, unless that has been done."""
    if (run / "seconds.json").exists():
        return
    chosen = json.dumps([{"class_path": name, "init_args": arguments} for name, arguments in callbacks.items()])
    limits = ["--trainer.callbacks", chosen, "--trainer.max_epochs", "1000", "--panels.every_n_epochs", "1000"]
    where = ["--data.root", str(data), "--output", str(run)]
    seconds = belvedere(run.with_suffix(".log"), "fit", *options, *limits, *where)
    (run / "seconds.json").write_text(json.dumps(seconds))


def classify(run: Path, which: Classifier, data: Path, minutes: float, weights: dict[str, Path]) -> None:
    """Trains and tests a window classifier, and writes the masks of its first pass."""
    options = ["--config", f"avalanches/{which.network.removesuffix('_v1')}", "--model.network", which.network,
               "--data.window", str(which.window), "--data.pyramid_levels", str(which.level),
               "--seed_everything", str(which.seed), "--model.xgboost_on", which.trees]  # fmt: skip
    if which.network in weights:
        options += [*LARGE, "--model.pretrained", str(weights[which.network].absolute())]
    else:
        options += SMALL
    callbacks: Callbacks = {
        "callbacks.thresholds.FittedThresholds": {},
        "callbacks.boosting.BoostedTrees": {"windows": TREES.get(which.network, 20_000)},
        "callbacks.writers.segmentation.outlines.OutlineWriter": {},
        "benchmarks.processor_time.ProcessorTime": {"minutes": minutes},
    }
    train(run, options, callbacks, data)
    best = ["--ckpt_path", str(run / "checkpoints" / "best.ckpt")]
    log = run.with_suffix(".log")
    for name, second, trees in (("edges", "edges", "none"), ("enhanced", "enhanced", "none"),
                                ("trees", "none", which.trees)):  # fmt: skip
        if not (run / name / "metrics.csv").exists():
            belvedere(log, "test", *best, "--model.second_input", second, "--model.xgboost_on", trees, "--output",
                      str(run / name))  # fmt: skip
    if not (run / "first" / "masks").exists():
        belvedere(log, "predict", *best, "--model.second_input", "none", "--model.xgboost_on", "none",
                  "--data.pictures", str(data / "test"), "--output", str(run / "first"))  # fmt: skip


def segment(run: Path, seed: int, data: Path, minutes: float, weights: Path) -> None:
    """Trains a U-Net whose encoder knows ImageNet, and writes its masks."""
    options = ["--config", "roads/unet", "--data.window", "[480,320]", "--data.size", "[240,160]", "--data.strategy",
               "few", "--data.flips", "true", "--seed_everything", str(seed), "--model.pretrained",
               str(weights.absolute())]  # fmt: skip
    callbacks: Callbacks = {
        "callbacks.writers.segmentation.writer.SegmentationWriter": {"submission": False, "folders": False},
        "benchmarks.processor_time.ProcessorTime": {"minutes": minutes},
    }
    train(run, options, callbacks, data)
    if not (run / "first" / "masks").exists():
        best = ["--ckpt_path", str(run / "checkpoints" / "best.ckpt")]
        belvedere(run.with_suffix(".log"), "predict", *best, "--data.pictures", str(data / "test"), "--output",
                  str(run / "first"))  # fmt: skip


def rows(path: Path) -> list[dict[str, str]]:
    """Returns rows of a table."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def tested(run: Path, name: str) -> dict[str, float]:
    """Returns figures of a test by name."""
    [row] = rows(run / name / "metrics.csv")
    return {key.removeprefix("test/"): float(value) for key, value in row.items() if key.startswith("test/")}


def table(head: str, lines: Iterator[list[str]]) -> None:
    """Prints a table in Markdown."""
    print(f"\n| {head} |\n|{'---|' * (head.count('|') + 1)}")
    for line in lines:
        print(f"| {' | '.join(line)} |")


def trained(run: Path, batch: int) -> list[str]:
    """Returns how much a run saw (epochs, windows, seconds) and how well it knew the windows of its last epoch."""
    curve = rows(run / "metrics.csv")
    whole = [row for row in curve if row.get("train/loss")]  # epochs that the time did not cut short
    last = [f"{float(whole[-1][f'train/{name}']):.3f}" if whole else "-" for name in WINDOWS]
    steps = max(int(row["step"]) for row in curve) + 1
    seconds = json.loads((run / "seconds.json").read_text())
    return [str(len({row["epoch"] for row in curve})), str(steps * batch), f"{seconds:.0f}", *last]


def shown(values: dict[str, float], names: tuple[str, ...], prefix: str = "") -> list[str]:
    """Returns figures as text."""
    return [f"{values[prefix + name]:.3f}" for name in names]


def main() -> None:
    """Trains, tests and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="folder of the runs")
    for name in ("vgg16", "resnet50", "mobilenet"):
        parser.add_argument(f"--{name}", type=Path, required=True, help="ImageNet weights")
    parser.add_argument("--minutes", type=float, default=3, help="of a core, that each is trained; validation counts")
    parser.add_argument("--jobs", type=int, default=2, help="runs at once, on one core each")
    asked = parser.parse_args()
    output: Path = asked.output.absolute()
    data = output / "data"
    splits = split_data(data)
    weights = {"vgg16": asked.vgg16, "resnet50_v1": asked.resnet50}
    unets = [output / f"unet-seed{seed}" for seed in range(2)]
    with ThreadPoolExecutor(asked.jobs) as pool:
        jobs = [pool.submit(classify, output / str(each), each, data, asked.minutes, weights) for each in CLASSIFIERS]
        jobs += [
            pool.submit(segment, run, seed, data, asked.minutes, asked.mobilenet) for seed, run in enumerate(unets)
        ]
        for job in jobs:
            job.result()
    runs = {each: output / str(each) for each in CLASSIFIERS}
    table("run | epochs | windows | seconds of fit | " + " | ".join(f"{when} {name}" for when in ("train", "test")
                                                                     for name in WINDOWS),
          ([str(each), *trained(run, 64 if each.network in weights else 256), *shown(tested(run, "edges"), WINDOWS)]
           for each, run in runs.items()))  # fmt: skip
    masks = ("dice", "iou")
    table("run | first dice | iou | second, edges dice | iou | second, enhanced dice | iou | trees on | dice | iou",
          ([str(each), *shown(tested(run, "edges"), masks), *shown(tested(run, "edges"), masks, "second_"),
            *shown(tested(run, "enhanced"), masks, "second_"), each.trees,
            *shown(tested(run, "trees"), masks, "boosted_")] for each, run in runs.items()))  # fmt: skip
    truth = [mask_of(data / "masks" / name) for name in splits["test"]]
    answers = trivial_answers(data, splits) | {
        run.name: [mask_of((run / "first" / "masks" / name).with_suffix(".png")) for name in splits["test"]]
        for run in (*runs.values(), *unets)
    }
    table("answer, at full size | " + " | ".join(FIGURES),
          ([name, *shown(scores(found, truth), FIGURES)] for name, found in answers.items()))  # fmt: skip


if __name__ == "__main__":
    main()
