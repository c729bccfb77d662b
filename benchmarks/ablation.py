"""Each ingredient of a recipe left out once: `python -m benchmarks.ablation roads --weights FILE`.

Trains `<task>/best` on folds of `benchmarks/folds.json`, at half its size and for half as long, whole and with one
ingredient left out or made plain, through the command line as `benchmarks.recipes` does. `--name LABEL` compares what
follows `--` with the recipe instead. Folds that are done are not run again.

Prints a table in Markdown: the mean dice of the images, the F1 over all pixels, and the mean difference of dice from
the whole recipe with a 95 % bootstrap interval over images.
"""

import argparse
import os
import sys
from pathlib import Path

import numpy as np
import yaml

from benchmarks.plain_unet import folds_of, scored, summary, truths_of
from benchmarks.recipes import ROOT, TASKS, bootstrap, laid_out, mask_of, run_fold

SMALL = {"roads": ["--data.size", "[160,160]"], "avalanches": ["--data.photos", "[192,128]"]}
SHORT = ["--trainer.max_epochs", "8"]  # of 40 steps: 1,280 images
# Options of `fit`, or a callback that is left out, in angle brackets
VARIANTS: dict[str, list[str]] = {
    "the recipe": [],
    "no augmentation": ["--data.augment", "none"],
    "BCE without dice": ["--model.loss", "bce"],
    "random weights at the start": ["--model.pretrained", "false"],
    "constant learning rate": ["--model.scheduler", "null"],
    "last weights, not averaged ones": ["<AveragedWeights>"],
    "batches of 8, half as many steps": ["--data.batch_size", "8", "--data.steps_per_epoch", "20"],
    "one view of a predicted image": ["--model.tta", "none"],
    "threshold .5, no minimum area": ["<FittedThresholds>"],
}


def without(dataset: str, callback: str, folder: Path) -> Path:
    """Writes a config whose callbacks are those of the recipe but one."""
    recipe = yaml.safe_load((ROOT / "configs" / TASKS[dataset] / "best.yaml").read_text())
    left = [each for each in recipe["trainer"]["callbacks"] if each["class_path"] != callback]
    path = folder / f"without_{callback}.yaml"
    path.write_text(yaml.safe_dump({"trainer": {"callbacks": left}}))
    return path


def main() -> None:
    """Trains every variant on every fold and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", choices=SMALL)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("ablation"), help="folder for datasets and runs")
    parser.add_argument("--folds", type=int, nargs="*", default=[0, 1])
    parser.add_argument("--name", help="what stands after --, in the table")
    own, extra = sys.argv[1:], []
    if "--" in own:
        own, extra = own[: own.index("--")], own[own.index("--") + 1 :]
    options = parser.parse_args(own)
    variants = {"the recipe": [], options.name: extra} if options.name else VARIANTS
    data, work = Path(os.environ["BELVEDERE_DATA"]), options.work.absolute()
    truths = truths_of(options.dataset, data)
    names, folds = list(truths), folds_of(options.dataset, list(truths))
    work.mkdir(parents=True, exist_ok=True)
    found: dict[str, dict[str, dict[str, float]]] = {}
    for what, given in variants.items():
        arguments = [*SMALL[options.dataset], *SHORT]
        for each in given:
            dropped = each.startswith("<")
            arguments += ["--config", str(without(options.dataset, each[1:-1], work))] if dropped else [each]
        found[what] = {}
        for fold in options.folds:
            folder = work / options.dataset / what.replace(" ", "_") / f"fold-{fold}"
            laid_out(options.dataset, data, folder, folds[fold], names, 0.1)
            seconds = run_fold(options.dataset, folder, options.weights.absolute(), arguments)
            here = {name: scored(mask_of(folder / "predicted", Path(name).stem), truths[name]) for name in folds[fold]}
            found[what] |= here
            print(f"# {what}, fold {fold}: {summary(here)}, {seconds:.0f} s", flush=True)
    whole = found["the recipe"]
    print("| | dice | F1 of all pixels | difference of dice |\n|---|---|---|---|")
    for what, rows in found.items():
        differences = [rows[name]["dice"] - whole[name]["dice"] for name in whole]
        low, high = bootstrap(differences)
        total, overlap = (sum(row[key] for row in rows.values()) for key in ("total", "overlap"))
        change = "" if rows is whole else f"{np.mean(differences):+.3f} [{low:+.3f}, {high:+.3f}]"
        dice = np.mean([row["dice"] for row in rows.values()])
        print(f"| {what} | {dice:.3f} | {2 * overlap / total:.3f} | {change} |")


if __name__ == "__main__":
    main()
