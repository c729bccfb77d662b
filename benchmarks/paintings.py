"""Colours of real paintings: `python -m benchmarks.paintings FOLDER --vgg16 FILE --minutes N`.

Trains both objectives on the 94 paintings under $BELVEDERE_DATA/colorization through the command line, with what VGG16
sees in a painting and without it, each for as long, on one split by artist. Pictures are not altered, so that VGG16,
which takes several times as long as a training step, is asked once for each. Prints the test paintings' figures beside
those of three floors in Markdown, colours these paintings, and draws a panel. Runs that are done already are not run
again.

With `--drawn 300`, so many paintings are drawn instead of the real ones, as `python -m datamodules.samples` does, whose
colours follow from what a thing is and how light it is. Without `--vgg16`, there are no runs with it.
"""

import argparse
import json
import os
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from benchmarks.avalanches import Callbacks, belvedere, rows, table, train
from datamodules.colorization import ColorizationDataModule
from datamodules.read.names import tree_names
from datamodules.read.pictures import read_picture
from datamodules.read.works import read_works
from datamodules.samples.colorization import draw_colorization
from drawing.pictures import Picture, panel, scaled
from ops.atomic import write_table
from ops.color.bins import rebalancing, smoothed, soft_encoding
from ops.color.coloring import grey
from ops.color.lab import SCALE, luminance_and_chroma
from ops.color.quality import SCORES
from tasks.colorization import ColorizationTask
from tasks.losses import bins_loss, chroma_loss
from tasks.metrics.colors import FLOORS, ColorScores, FloorScores

CONFIGS = {"regression": "colorization/pooled", "classes": "colorization/classes"}
SHARES = 0.15, 0.2  # of the paintings that are validated and tested on
FIGURES = ("psnr", "ssim", "delta_e76", "delta_e2000", "colorfulness", "colorfulness_true")
UNALTERED = ["--data.flips", "false", "--data.shear", "0", "--data.zoom", "0", "--data.rotation", "0"]
VIEW = 230  # pixels of the longer side of a painting in the panel
ROWS = 4  # of the panel: from the painting that comes out best to the worst


def data_of(root: Path, side: int = 224) -> ColorizationDataModule:
    """Returns the paintings, split as for the command line, one by one."""
    return ColorizationDataModule(root, side, None, 1, 0, *SHARES)


def lay_out(root: Path, drawn: int) -> list[str]:
    """Makes a data set of links or draws it, and a folder of the test paintings, whose names are given back."""
    root.mkdir(parents=True, exist_ok=True)
    if drawn:
        source = draw_colorization(root / "drawn", drawn) / "images"
        table = source.parent / "metadata.csv"
    else:
        source = Path(os.environ["BELVEDERE_DATA"]) / "colorization" / "images"
        table = source.parent / "list.csv"
    if not (root / "images").exists():
        (root / "images").symlink_to(source.absolute())
        columns = ("image", "artist", "title")
        write_table(root / "metadata.csv", columns, ([work[column] for column in columns] for work in rows(table)))
    names = tree_names(root / "images")
    test = data_of(root).split_by_artist(names, read_works(root / "metadata.csv", names))["test"]
    for name in test:
        link = root / "test" / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to((source / name).absolute())
    return test


def learn(run: Path, cell: tuple[str, str], root: Path, asked: argparse.Namespace) -> None:
    """Trains until the time is over, tests, and colours the test paintings, unless that has been done."""
    objective, extractor = cell
    options = ["--config", CONFIGS[objective], "--model.scheduler", "null", "--model.optimizer.lr", str(asked.rate),
               "--data.size", str(asked.side), "--data.batch_size", str(asked.batch), "--data.val_fraction",
               str(SHARES[0]), "--data.test_fraction", str(SHARES[1]), "--seed_everything", "0"]  # fmt: skip
    options += UNALTERED
    if extractor == "none":
        options += ["--model.extractor", "null"]
    else:
        options += ["--model.extractor", extractor, "--model.extractor_vector", "features",
                    "--model.extractor_weights", str(asked.vgg16.absolute())]  # fmt: skip
    callbacks: Callbacks = {
        "callbacks.baselines.ColorBaselines": {},
        "callbacks.writers.coloring.writer.ColoringWriter": {},
        "benchmarks.processor_time.ProcessorTime": {"minutes": asked.minutes},
    }
    train(run, options, callbacks, root)
    log, best = run.with_suffix(".log"), ["--ckpt_path", str(run / "checkpoints" / "best.ckpt")]
    if not (run / "test" / "metrics.csv").exists():
        belvedere(log, "test", *best)
    if not (run / "predict-test").exists():
        belvedere(log, "predict", *best, "--data.pictures", str(root / "test"))


def test_batches(root: Path, side: int) -> list[dict[str, Tensor]]:
    """Returns the test paintings, one by one, as the network sees them."""
    data = data_of(root, side)
    data.setup("test")
    return [data.on_after_batch_transfer(batch, 0) for batch in data.test_dataloader()]


def task_of(run: Path) -> ColorizationTask:
    """Returns the best epoch's task."""
    return ColorizationTask.load_from_checkpoint(run / "checkpoints" / "best.ckpt", map_location="cpu").eval()


@torch.no_grad()
def squared_error(task: ColorizationTask, batches: list[dict[str, Tensor]]) -> float:
    """Returns the loss of `regression`, of the chroma that any task gives in the end."""
    losses = [
        chroma_loss(task.predict(batch)["chroma"], luminance_and_chroma(batch["image"])[1], batch["valid"])
        for batch in batches
    ]
    return float(torch.stack(losses).mean())


def floor_figures(task: ColorizationTask, batches: list[dict[str, Tensor]]) -> dict[str, dict[str, float]]:
    """Returns all figures of each floor, its squared error among them, by its name."""
    scores, truth = FloorScores(task.floors.colored, SCORES), ColorScores(["colorfulness_true"])
    losses: dict[str, list[Tensor]] = {floor: [] for floor in FLOORS}
    for batch in batches:
        luminance, chroma = luminance_and_chroma(batch["image"])
        scores.update(batch["image"], batch["valid"])
        truth.update(batch["image"], batch["image"], batch["valid"])
        for floor, answer in task.floors.chroma(luminance).items():
            losses[floor].append(chroma_loss(answer, chroma, batch["valid"]))
    found = {name: float(value) for name, value in scores.compute().items()}
    return {
        floor: {name: found[f"{floor}_{name}"] for name in FIGURES}
        | {"squared": float(torch.stack(losses[floor]).mean())}
        for floor in FLOORS
    }


def entropy_of_one_answer(task: ColorizationTask, batches: list[dict[str, Tensor]]) -> float:
    """Returns the loss of `classes` if all pixels have the training pictures' probabilities, rebalanced."""
    prior = smoothed(task.floors.prior, task.floors.centres)
    weights = rebalancing(prior)
    logits = (prior * weights).log().view(1, -1, 1, 1)
    losses = []
    for batch in batches:
        half = torch.nn.functional.avg_pool2d(luminance_and_chroma(batch["image"])[1], 2, ceil_mode=True)
        whole = torch.nn.functional.avg_pool2d(batch["valid"].float(), 2, ceil_mode=True) == 1
        maps = logits.expand(-1, -1, *half.shape[2:])
        losses.append(bins_loss(maps, *soft_encoding(SCALE * half, task.floors.centres), weights, whole))
    return float(torch.stack(losses).mean())


def learned(run: Path) -> list[str]:
    """Returns epochs, steps and seconds of a run, and its losses: of the best epoch and of the last."""
    log = rows(run / "metrics.csv")
    validated = [(int(row["epoch"]), float(row["val/loss"])) for row in log if row.get("val/loss")]
    trained = {int(row["epoch"]): row["train/loss"] for row in log if row.get("train/loss")}
    best, last = min(validated, key=lambda point: point[1]), validated[-1]
    losses = [f"{float(trained[epoch]):.4g} / {loss:.4g}" if epoch in trained else f"- / {loss:.4g}"
              for epoch, loss in (best, last)]  # fmt: skip
    steps = max(int(row["step"]) for row in log) + 1
    seconds = json.loads((run / "seconds.json").read_text())
    return [str(last[0] + 1), str(steps), f"{seconds:.0f}", str(best[0] + 1), *losses]


def draw(runs: dict[str, Path], root: Path, path: Path) -> None:
    """Draws test paintings in the colours of every run, between their grey and their own, from best to worst."""
    works = {row["image"]: row for row in rows(root / "metadata.csv")}
    errors = {row["name"]: float(row["delta_e2000"]) for row in rows(next(iter(runs.values())) / "predict-test" /
                                                                      "figures.csv")}  # fmt: skip
    ordered = sorted(errors, key=errors.__getitem__)
    chosen = [ordered[round(place * (len(ordered) - 1) / (ROWS - 1))] for place in range(ROWS)]
    cells, captions = [], []
    for name in chosen:
        original = read_picture(root / "images" / name)
        found = [read_picture((run / "predict-test" / "colored" / name).with_suffix(".png")) for run in runs.values()]
        cells.append([reduced(each) for each in (grey(original), *found, original)])
        captions.append(f"{works[name]['artist'].title()}, {works[name]['title']}")
    drawn = panel(cells, ["grey", *runs, "original"], captions)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(drawn).save(path, quality=88)


def reduced(picture: Picture) -> Picture:
    """Returns a picture whose longer side has `VIEW` pixels."""
    return scaled(picture, VIEW, VIEW)


def main() -> None:
    """Trains, tests, colours, prints and draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="folder of the runs")
    parser.add_argument("--vgg16", type=Path, help="ImageNet weights")
    parser.add_argument("--drawn", type=int, default=0, help="how many paintings to draw instead of the real ones")
    parser.add_argument("--minutes", type=float, default=5, help="of a core, that each is trained; validation counts")
    parser.add_argument("--side", type=int, default=64, help="of the square that paintings are reduced to")
    parser.add_argument("--batch", type=int, default=10, help="paintings a step")
    parser.add_argument("--rate", type=float, default=3e-4, help="learning rate")
    parser.add_argument("--jobs", type=int, default=2, help="runs at once, on one core each")
    asked = parser.parse_args()
    output: Path = asked.output.absolute()
    root = output / "data"
    test = lay_out(root, asked.drawn)
    cells = list(product(CONFIGS, ["none", "vgg16"] if asked.vgg16 else ["none"]))
    runs = {f"{objective}, {extractor}": output / f"{objective}-{extractor}" for objective, extractor in cells}
    with ThreadPoolExecutor(asked.jobs) as pool:
        jobs = [pool.submit(learn, run, cell, root, asked) for run, cell in zip(runs.values(), cells, strict=True)]
        for job in jobs:
            job.result()
    print(f"{len(test)} test paintings")
    table("run | epochs | steps | seconds of fit | best epoch | train / val loss there | at the last",
          ([name, *learned(run)] for name, run in runs.items()))  # fmt: skip
    batches = test_batches(root, asked.side)
    tasks = {name: task_of(run) for name, run in runs.items()}
    lines = []
    for name, run in runs.items():
        [row] = rows(run / "test" / "metrics.csv")
        values = {figure: float(row[f"test/{figure}"]) for figure in ("loss", *FIGURES)}
        lines.append(figures_line(name, values | {"squared": squared_error(tasks[name], batches)}))
    task = tasks["classes, none"]
    for floor, figures in floor_figures(task, batches).items():
        lines.append(figures_line(floor, figures))
    table("answer | loss | squared error | " + " | ".join(FIGURES), iter(lines))
    print(f"\nLoss of the same classes everywhere: {entropy_of_one_answer(task, batches):.3f}")
    draw(runs, root, output / "paintings.jpg")
    print(output / "paintings.jpg")


def figures_line(name: str, values: dict[str, float]) -> list[str]:
    """Returns a row of the table."""
    loss = f"{values['loss']:.4g}" if "loss" in values else "-"
    places = {"psnr": 2, "ssim": 3}
    shown = [f"{values[figure]:.{places.get(figure, 1)}f}" for figure in FIGURES]
    return [name, loss, f"{values['squared']:.5f}", *shown]


if __name__ == "__main__":
    main()
