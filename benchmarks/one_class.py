"""How well one class, cloud or not, is learned from a dozen pictures: `python -m benchmarks.one_class`.

Takes the HYTA sky photographs and the Landsat 8 tiles under $BELVEDERE_DATA/clouds, lays them out as `images/` and
`masks/cloud/`, and trains FPN + MobileNetV2 from ImageNet weights through the command line, once for each of three
folds, so that every picture is held out once. All answers are compared with the truth at each picture's own size:
the network's, no cloud anywhere, cloud everywhere, and the pixels that are brighter than the one threshold that does
best on the pictures that are not held out.
"""

import argparse
import csv
import os
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from belvedere.__main__ import main as belvedere
from datamodules.read.mask_files import read_mask
from datamodules.read.names import picture_files
from datamodules.read.pictures import read_picture
from tasks.metrics.dice import DiceScores

FOLDS = 3
Masks = list[NDArray[np.bool_]]


def lay_out(pictures: list[Path], folder: Path) -> list[Path]:
    """Links pictures into a folder of the layout that the data module reads."""
    folder.mkdir(parents=True)
    for picture in pictures:
        (folder / picture.name).symlink_to(picture.resolve())
    return sorted(folder.iterdir())


def dice(predictions: Masks, truths: Masks) -> dict[str, float]:
    """Returns figures of masks (H, W), a picture each."""
    metric = DiceScores(["cloud"])
    for prediction, truth in zip(predictions, truths, strict=True):
        metric.update(torch.from_numpy(prediction)[None, None], torch.from_numpy(truth)[None, None])
    return {name: float(metric.compute()[name]) for name in ("dice", "dice_global")}


def best_level(greys: list[NDArray[np.floating]], truths: Masks) -> float:
    """Returns the brightness in [0, 1] above which pixels are called cloud to the best mean dice."""
    levels = np.linspace(0, 1, 51)
    return float(max(levels, key=lambda level: dice([grey > level for grey in greys], truths)["dice"]))


def trained(root: Path, held_out: Path, weights: Path, epochs: int, run: Path) -> None:
    """Trains on the split of `root` and predicts the held-out pictures.

    Raises:
        SystemExit: The command line refused something.
    """
    fit = [
        *("fit", "--config", "clouds/fpn", "--config", "clouds/folders", "--data.root", str(root)),
        *("--data.classes", "[cloud]", "--data.batch_size", "4", "--model.pretrained", str(weights)),
        *("--trainer.max_epochs", str(epochs), "--early_stopping.patience", "null", "--output", str(run)),
        *("--panels.every_n_epochs", "10"),
    ]
    best = str(run / "checkpoints" / "best.ckpt")
    for command in (fit, ["predict", "--ckpt_path", best, "--data.pictures", str(held_out)]):
        if belvedere(command):
            raise SystemExit(2)


def compared(pictures: list[Path], masks: list[Path], home: Path, weights: Path, epochs: int) -> str:
    """Trains a network for each fold; returns a table of all answers over all pictures, in Markdown."""
    order = np.random.default_rng(0).permutation(len(pictures))
    truths: Masks = []
    answers: dict[str, Masks] = defaultdict(list)
    levels, start = [], time.perf_counter()
    for fold in range(FOLDS):
        root, run = home / f"fold{fold}", home / f"run{fold}"
        images, truth_files = lay_out(pictures, root / "images"), lay_out(masks, root / "masks" / "cloud")
        split = {int(i): "test" if place % FOLDS == fold else "train" for place, i in enumerate(order)}
        others = [i for i in order if split[int(i)] == "train"]
        split |= dict.fromkeys(map(int, others[: len(others) // 4]), "val")
        with (root / "splits.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["name", "split"], *([images[i].name, split[i]] for i in split)])
        test = [i for i in range(len(images)) if split[i] == "test"]
        trained(root, lay_out([images[i] for i in test], root / "held_out").pop().parent, weights, epochs, run)
        truth = [read_mask(path) for path in truth_files]
        grey = [read_picture(path).mean(axis=2) / 255 for path in images]
        levels.append(best_level([grey[i] for i in others], [truth[i] for i in others]))
        for i in test:
            truths.append(truth[i])
            answers["no cloud anywhere"].append(np.zeros_like(truth[i]))
            answers["cloud everywhere"].append(np.ones_like(truth[i]))
            answers["brighter than the best threshold"].append(grey[i] > levels[-1])
            answers["FPN + MobileNetV2"].append(
                read_mask(run / "predict" / "masks" / "cloud" / f"{images[i].stem}.png")
            )
    seconds = (time.perf_counter() - start) / FOLDS
    rows = [f"| {name} | {figures['dice']:.3f} | {figures['dice_global']:.3f} |"
            for name, masks_ in answers.items() for figures in [dice(masks_, truths)]]  # fmt: skip
    note = f"{len(pictures)} pictures, {epochs} epochs and {seconds:.0f} s a fold, thresholds {levels}"
    return "\n".join([note, "", "| answer | dice | dice_global |", "|---|---|---|", *rows])


def main() -> None:
    """Prints a table in Markdown for each data set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="a new folder for the links and the runs")
    parser.add_argument("--weights", type=Path, required=True, help="ImageNet weights of MobileNetV2")
    parser.add_argument("--epochs", type=int, default=40)
    arguments = parser.parse_args()
    home = Path(os.environ["BELVEDERE_DATA"]) / "clouds"
    for name, masks in (("hyta", "mask_cloud"), ("landsat8", "masks")):
        files = picture_files(home / name / "images"), picture_files(home / name / masks)
        print(f"\n{name}: {compared(*files, arguments.output / name, arguments.weights, arguments.epochs)}", flush=True)


if __name__ == "__main__":
    main()
