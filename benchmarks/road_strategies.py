"""What copies of few tiles are worth: `python -m benchmarks.road_strategies FOLDER --weights mobilenet_v2.safetensors`.

Trains VGG10 on the 70 road tiles under $BELVEDERE_DATA/roads with each strategy and seed through the command line, all
for as many steps of as many pictures: eight tiles, or two with their copies. Beside it, a U-Net whose encoder starts
from ImageNet is trained for as long as the quickest of them took. Prints a table of the test tiles' figures in
Markdown and draws the validation curve of every run. Runs that are done already are not run again.
"""

import argparse
import csv
import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[1]
STRATEGIES = ("few", "rotations", "filters", "both")
FIGURES = ("f_measure", "precision", "recall", "specificity", "dice")
TRAINED = 32  # of 70 tiles, with the fractions below
IMAGES = 8  # in a step, copies included
SPLIT = ["--data.test_fraction", "0.43", "--data.val_fraction", "0.2"]


def belvedere(arguments: list[str]) -> None:
    """Runs a command in a process of its own, on one core.

    Raises:
        SystemExit: It failed.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "WANDB_MODE": "disabled"}
    done = subprocess.run(
        [sys.executable, "-m", "belvedere", *arguments], env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"belvedere {' '.join(arguments)}\n{done.stderr}")


def train(run: Path, strategy: str, seed: int, steps: int, side: int, options: list[str]) -> None:
    """Trains and tests, unless that has been done."""
    if (run / "test" / "metrics.csv").is_file():
        return
    steps_of_epoch = TRAINED * (1 if strategy == "few" else 4) // IMAGES
    data = ["--data.root", str(Path(os.environ["BELVEDERE_DATA"]) / "roads"), "--data.window", "[400,400]", *SPLIT]
    limits = ["--trainer.max_epochs", str(steps // steps_of_epoch), "--trainer.check_val_every_n_epoch",
              str(32 // steps_of_epoch), "--panels.every_n_epochs", str(steps // steps_of_epoch)]  # fmt: skip
    belvedere(["fit", *options, *data, "--data.size", f"[{side},{side}]", "--data.batch_size", str(IMAGES),
               "--data.strategy", strategy, "--seed_everything", str(seed), *limits, "--output", str(run)])  # fmt: skip
    belvedere(["test", "--ckpt_path", str(run / "checkpoints" / "best.ckpt")])


def rows(path: Path) -> list[dict[str, str]]:
    """Returns the rows of a table."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def figures(run: Path) -> dict[str, float]:
    """Returns the test tiles' figures by name."""
    [row] = rows(run / "test" / "metrics.csv")
    return {name: float(row[f"test/{name}"]) for name in FIGURES}


def curve(run: Path) -> list[tuple[int, float]]:
    """Returns the step and `val/dice` of every validation."""
    return [(int(row["step"]) + 1, float(row["val/dice"])) for row in rows(run / "metrics.csv") if row.get("val/dice")]


def seconds(run: Path) -> float:
    """Returns the seconds from the run's first file to its last checkpoint, without start-up."""
    return (run / "checkpoints" / "last.ckpt").stat().st_mtime - (run / "config.yaml").stat().st_mtime


def draw(runs: dict[str, list[Path]], path: Path) -> None:
    """Draws the validation curves, a plot a strategy, a line a seed, the kept epoch marked."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2 * len(runs), 2.9), dpi=130, layout="constrained")
    plots = figure.subplots(1, len(runs), sharey=True)
    for axes, (name, folders) in zip(plots, runs.items(), strict=True):
        for seed, run in enumerate(folders):
            steps, dices = zip(*curve(run), strict=True)
            [line] = axes.plot(steps, dices, linewidth=1.4, label=f"seed {seed}")
            best = max(range(len(dices)), key=dices.__getitem__)
            axes.plot(steps[best], dices[best], "o", color=line.get_color())
        axes.set_title(name, loc="left", fontweight="bold", fontsize=10)
        axes.set_xlabel("steps")
        axes.grid(color="0.92")
        axes.spines[["top", "right"]].set_visible(False)
    plots[0].set_ylabel("val/dice")
    plots[0].legend(frameon=False, fontsize=8)
    figure.savefig(path)


def main() -> None:
    """Prints the table and draws the curves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="folder of the runs")
    parser.add_argument("--weights", type=Path, required=True, help="ImageNet weights of MobileNetV2")
    parser.add_argument("--steps", type=int, default=960)
    parser.add_argument("--side", type=int, default=96, help="pixels to which tiles of 400 x 400 are reduced")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--jobs", type=int, default=2, help="runs at once, on one core each")
    asked = parser.parse_args()
    runs = {name: [asked.output / f"{name}-{seed}" for seed in range(asked.seeds)] for name in (*STRATEGIES, "U-Net")}
    vgg10 = ["--config", "roads/vgg10", "--model.optimizer.lr", "3e-4"]
    with ThreadPoolExecutor(asked.jobs) as pool:
        jobs = [
            pool.submit(train, runs[strategy][seed], strategy, seed, asked.steps, asked.side, vgg10)
            for seed in range(asked.seeds)
            for strategy in STRATEGIES
        ]
        for job in jobs:
            job.result()
        limit = math.ceil(min(seconds(run) for name in STRATEGIES for run in runs[name]))
        unet = ["--config", "roads/unet", "--model.pretrained", str(asked.weights.absolute()),
                "--trainer.max_time", f"00:00:{limit // 60:02d}:{limit % 60:02d}"]  # fmt: skip
        jobs = [
            pool.submit(train, run, "rotations", seed, 100 * asked.steps, asked.side, unet)
            for seed, run in enumerate(runs["U-Net"])
        ]
        for job in jobs:
            job.result()
    print(f"| network, strategy | seed | {' | '.join(FIGURES)} | steps | best at | seconds |")
    print(f"|{'---|' * (len(FIGURES) + 5)}")
    for name, folders in runs.items():
        for seed, run in enumerate(folders):
            title = f"VGG10, {name}" if name in STRATEGIES else "U-Net, rotations"
            points = curve(run)
            best = max(points, key=lambda point: point[1])[0]
            values = " | ".join(f"{value:.3f}" for value in figures(run).values())
            print(f"| {title} | {seed} | {values} | {points[-1][0]} | {best} | {seconds(run):.0f} |")
    draw(runs, asked.output / "curves.png")
    print(asked.output / "curves.png")


if __name__ == "__main__":
    main()
