"""How well one class, cloud or not, is learned from a dozen pictures: `python -m benchmarks.one_class`.

Takes the HYTA sky photographs and the Landsat 8 tiles under $BELVEDERE_DATA/clouds, lays them out as
`images/` and `masks/cloud/`, trains FPN + MobileNetV2 from ImageNet weights through the command line, and
compares it on the held-out test pictures with three answers that need no network: no cloud anywhere, cloud
everywhere, and every pixel brighter than the one threshold that does best on the training and validation pictures.
"""

import argparse
import csv
import os
import time
from pathlib import Path

import numpy as np
import torch

from datamodules.clouds import CloudsDataModule
from datamodules.files import picture_files
from tasks.__main__ import main as belvedere
from tasks.metrics import DiceScores

FIGURES = ("dice", "dice_positive", "dice_global")
SPLIT = ["--data.val_fraction", "0.2", "--data.test_fraction", "0.3"]


def lay_out(pictures: Path, masks: Path, root: Path) -> None:
    """Links pictures and masks into the layout that the data module reads."""
    for folder, files in ((root / "images", picture_files(pictures)), (root / "masks" / "cloud", picture_files(masks))):
        folder.mkdir(parents=True, exist_ok=True)
        for file in files:
            link = folder / file.name
            if not link.exists():
                link.symlink_to(file.absolute())


def scores(predictions: list[torch.Tensor], targets: list[torch.Tensor]) -> dict[str, float]:
    """The figures of masks (1, H, W) of several pictures."""
    metric = DiceScores(["cloud"])
    for prediction, target in zip(predictions, targets, strict=True):
        metric.update(prediction[None], target[None])
    return {name: float(value) for name, value in metric.compute().items() if name in FIGURES}


def simple_answers(root: Path) -> dict[str, dict[str, float]]:
    """Figures of the answers that need no network, on the test pictures at 224 x 224."""
    data = CloudsDataModule(root, classes=["cloud"], val_fraction=0.2, test_fraction=0.3)
    data.setup("fit")
    samples = {split: [data.datasets[split][0, i] for i in range(len(data.datasets[split]))] for split in data.datasets}
    seen = samples["train"] + samples["val"]

    def brightness(sample: dict[str, torch.Tensor]) -> torch.Tensor:
        return sample["image"].float().mean(0, keepdim=True) / 255

    def bright(chosen: list[dict[str, torch.Tensor]], level: float) -> dict[str, float]:
        return scores([brightness(sample) > level for sample in chosen], [sample["mask"] for sample in chosen])

    best = max(np.linspace(0, 1, 101), key=lambda level: bright(seen, level)["dice"])
    test = samples["test"]
    truth = [sample["mask"] for sample in test]
    return {
        "no cloud anywhere": scores([torch.zeros_like(mask) for mask in truth], truth),
        "cloud everywhere": scores([torch.ones_like(mask) for mask in truth], truth),
        f"brighter than {best:.2f}": bright(test, float(best)),
    }


def network(root: Path, weights: Path, epochs: int, output: Path) -> tuple[dict[str, float], float]:
    """Figures of the trained network on the test pictures, and the seconds that training took."""
    start = time.perf_counter()
    code = belvedere(
        [
            *("fit", "--config", "clouds/fpn", "--config", "clouds/folders", "--data.root", str(root)),
            *("--data.classes", "[cloud]", "--data.batch_size", "4", *SPLIT, "--model.pretrained", str(weights)),
            *("--trainer.max_epochs", str(epochs), "--panels.every_n_epochs", "10", "--output", str(output)),
            *("--early_stopping.patience", "null", "--model.optimizer.lr", "1e-3"),
        ]
    )
    seconds = time.perf_counter() - start
    best = str(output / "checkpoints" / "best.ckpt")
    if code or belvedere(["test", "--ckpt_path", best]):
        raise SystemExit(2)
    belvedere(["predict", "--ckpt_path", best, "--data.pictures", str(root / "images")])
    with (output / "test" / "metrics.csv").open() as file:
        row = list(csv.DictReader(file))[-1]
    return {name: float(row[f"test/{name}"]) for name in FIGURES}, seconds


def main() -> None:
    """Prints a table in Markdown for each data set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path, help="a new folder for the links and the runs")
    parser.add_argument("--weights", type=Path, required=True, help="ImageNet weights of MobileNetV2")
    parser.add_argument("--epochs", type=int, default=40)
    arguments = parser.parse_args()
    home = Path(os.environ["BELVEDERE_DATA"]) / "clouds"
    for name, masks in (("hyta", "mask_cloud"), ("landsat8", "masks")):
        root = arguments.output / name
        lay_out(home / name / "images", home / name / masks, root)
        figures, seconds = network(root, arguments.weights, arguments.epochs, arguments.output / f"{name}-run")
        rows = {**simple_answers(root), f"FPN + MobileNetV2, {arguments.epochs} epochs, {seconds:.0f} s": figures}
        print(f"\n{name}\n\n| answer | {' | '.join(FIGURES)} |\n|---|---|---|---|")
        for answer, values in rows.items():
            print(f"| {answer} | " + " | ".join(f"{values[figure]:.3f}" for figure in FIGURES) + " |")


if __name__ == "__main__":
    main()
