"""Recommended recipes against a plain U-Net: `python -m benchmarks.recipes roads --weights FILE`.

Trains `<task>/best` on the five folds of `benchmarks/folds.json` through the command line, predicts the images that
were left out, and compares the masks with those of `benchmarks.plain_unet`, which has to run first: the same weights
file, as many training images seen, the same test images. A tenth of the other images is left for validation, with
`--val 0` none; the plain U-Net trains on all.

Writes `benchmarks/results/recipes_<dataset>[_<name>].json`, and prints the mean dice of both, their F1 over all pixels,
the mean difference per image with a 95 % bootstrap interval, and how many images are better. Folds that are done are
not run again. What follows `--` goes to `fit`, for ablations.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.plain_unet import DATASETS, folds_of, scored, summary, truths_of

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
TASKS = {"roads": "roads", "avalanches": "avalanches", "hyta": "clouds", "landsat8": "clouds"}
OPTIONS = {"hyta": ["--data.classes", "[cloud]"],
           "landsat8": ["--data.classes", "[cloud]", "--data.size", "[256,256]", "--data.augment", "d4", "--model.tta",
                        "d4"]}  # fmt: skip
CSV = "trainer:\n  logger:\n  - class_path: callbacks.loggers.CSVLogger\n"


def belvedere(*arguments: str) -> None:
    """Runs a command in a process of its own.

    Raises:
        SystemExit: It failed.
    """
    environment = os.environ | {"PYTHONPATH": str(ROOT), "WANDB_MODE": "disabled"}
    command = [sys.executable, "-m", "belvedere", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"belvedere {' '.join(arguments)}\n{done.stderr[-3000:]}")


def laid_out(dataset: str, data: Path, folder: Path, test: list[str], names: list[str], share: float) -> None:
    """Makes the dataset of a fold: links to images and masks, and its `splits.csv`; the images to test apart.

    Args:
        dataset: One of `DATASETS`.
        data: Folder of all real images.
        folder: Where to make it.
        test: Images of the fold.
        names: Images of all folds.
        share: Share of the other images to validate on.
    """
    images, masks, *_ = DATASETS[dataset]
    (folder / "test").mkdir(parents=True, exist_ok=True)
    target = folder / "masks" / "cloud" if TASKS[dataset] == "clouds" else folder / "masks"
    target.parent.mkdir(exist_ok=True)
    links = [(folder / "images", data / images), (target, data / masks)]
    for link, source in links + [(folder / "test" / name, data / images / name) for name in test]:
        if not link.exists():
            link.symlink_to(source)
    others = [name for name in names if name not in test]
    order = np.random.default_rng(0).permutation(len(others))
    val = {others[i] for i in order[: max(1, round(share * len(others))) if share else 0]}
    rows = [f"{name},{'test' if name in test else 'val' if name in val else 'train'}" for name in names]
    (folder / "splits.csv").write_text("\n".join(["name,split", *rows]) + "\n")


def run_fold(dataset: str, folder: Path, weights: Path, extra: list[str]) -> float:
    """Trains and predicts a fold, unless that has been done; returns the seconds that it took."""
    run, loggers = folder / "run", folder / "csv.yaml"
    start = time.monotonic()
    if not (run / "done").is_file():
        loggers.write_text(CSV)
        belvedere("fit", "--config", f"{TASKS[dataset]}/best", "--config", str(loggers), "--data.root", str(folder),
                  "--model.pretrained", str(weights), "--output", str(run), "--resume", "auto",
                  *OPTIONS.get(dataset, []), *extra)  # fmt: skip
        belvedere("predict", "--ckpt_path", str(run / "checkpoints" / "best.ckpt"), "--data.pictures",
                  str(folder / "test"), "--output", str(folder / "predicted"), "--overwrite")  # fmt: skip
        (run / "done").touch()
    return time.monotonic() - start


def bootstrap(differences: list[float], draws: int = 10_000) -> tuple[float, float]:
    """Returns the 95 % interval of the mean of paired differences."""
    values = np.array(differences)
    rng = np.random.default_rng(0)
    means = values[rng.integers(len(values), size=(draws, len(values)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def mask_of(predicted: Path, stem: str) -> Any:
    """Returns the mask that `predict` wrote for an image."""
    found = [path for path in predicted.rglob(f"{stem}.png") if "mask" in path.parent.as_posix()]
    found += predicted.rglob(f"{stem}_mask.png")
    if len(found) != 1:
        raise SystemExit(f"{predicted} has {len(found)} masks of {stem}; expected one")
    return cv2.imread(str(found[0]), cv2.IMREAD_GRAYSCALE) > 127


def main() -> None:
    """Runs every fold and compares the masks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", choices=DATASETS)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("recipes"), help="folder for datasets and runs")
    parser.add_argument("--name", default="", help="name of a variant, whose options follow --")
    parser.add_argument("--val", type=float, default=0.1, help="share of validation images; 0: the training images")
    parser.add_argument("--folds", type=int, nargs="*", default=[0, 1, 2, 3, 4])
    own, extra = sys.argv[1:], []
    if "--" in own:
        own, extra = own[: own.index("--")], own[own.index("--") + 1 :]
    options = parser.parse_args(own)
    extra += ["--data.val_fraction", "0"] if options.val == 0 else []
    data = Path(os.environ["BELVEDERE_DATA"])
    truths = truths_of(options.dataset, data)
    plain = json.loads((RESULTS / f"plain_unet_{options.dataset}.json").read_text())["tta"]
    work = options.work.absolute() / (f"{options.dataset}_{options.name}" if options.name else options.dataset)
    ours: dict[str, dict[str, float]] = {}
    seconds = 0.0
    for fold, test in enumerate(folds_of(options.dataset, list(truths))):
        if fold not in options.folds:
            continue
        folder = work / f"fold-{fold}"
        laid_out(options.dataset, data, folder, test, list(truths), options.val)
        seconds += run_fold(options.dataset, folder, options.weights.absolute(), extra)
        for name in test:
            ours[name] = scored(mask_of(folder / "predicted", Path(name).stem), truths[name])
        print(fold, "recipe", summary({name: ours[name] for name in test}), "| plain",
              summary({name: plain[name] for name in test}), flush=True)  # fmt: skip
    differences = [row["dice"] - plain[name]["dice"] for name, row in ours.items()]
    low, high = bootstrap(differences)
    print("recipe", summary(ours), "| plain", summary({name: plain[name] for name in ours}))
    print(f"difference of dice {np.mean(differences):+.4f} [{low:+.4f}, {high:+.4f}], better on "
          f"{sum(each > 0 for each in differences)} of {len(differences)} images, {seconds:.0f} s")  # fmt: skip
    path = RESULTS / f"recipes_{options.dataset}{'_' + options.name if options.name else ''}.json"
    path.write_text(json.dumps({"options": OPTIONS.get(options.dataset, []) + extra, "images": ours}, indent=1) + "\n")


if __name__ == "__main__":
    main()
