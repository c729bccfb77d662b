"""Does `belvedere describe --run` find wrong labels? `python -m benchmarks.spoiled FOLDER --weights FILE`.

Takes the dataset of `benchmarks.averages` and spoils the labels of six of the road tiles that the folds share: the
masks of two pairs are swapped, one mask is moved by 30 of 400 pixels, and one is blank. Trains `roads/best` in three
folds with the spoiled labels, without views, and looks for doubtful labels with `belvedere pool` and
`belvedere describe --run`. Prints the place of each spoiled label in `doubtful.csv` and the reason that is given
there. `--seed` draws other tiles.

One training says little about six labels. `--clean STUDY` takes the folder of a study that `benchmarks.averages` has
pooled, whose networks learned from the right labels, spoils six labels 200 times, each time others, and prints how
often they are among the first of the list, and how often the reason fits. Nothing is trained.
"""

import argparse
import csv
import re
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from belvedere.__main__ import main as belvedere
from belvedere.folds.doubts import SIDE, doubts
from belvedere.folds.found import FoldResult, fold_modules, fold_results
from belvedere.prediction import load
from benchmarks.averages import lay_out, trained
from tasks.metrics.meter import Meter

MOVED = 30  # pixels, down and to the right
TIMES = 200
BACK = r"fits better moved by -\d+% of the width and -\d+% of the height"


def moved(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Returns a mask moved down and to the right, with nothing in what comes into view."""
    result = np.zeros_like(mask)
    result[MOVED:, MOVED:] = mask[:-MOVED, :-MOVED]
    return result


def spoil(root: Path, seed: int) -> dict[str, str]:
    """Replaces the links to masks by copies of which six are wrong, and returns what is wrong with each."""
    with (root / "splits.csv").open(newline="") as file:
        names = [row["name"] for row in csv.DictReader(file) if row["split"] == "train"]
    source = (root / "masks").resolve()
    masks = {path.name: np.asarray(Image.open(path)) for path in sorted(source.iterdir())}
    some = [name for name in names if (masks[name] > 127).mean() > 0.05]  # a blank mask is no error where no road is
    one, two, three, four, shifted, blank = np.random.default_rng(seed).permutation(some)[:6].tolist()
    wrong = {one: masks[two], two: masks[one], three: masks[four], four: masks[three],
             shifted: moved(masks[shifted]), blank: np.zeros_like(masks[blank])}  # fmt: skip
    (root / "masks").unlink()
    (root / "masks").mkdir()
    for name, mask in masks.items():
        Image.fromarray(wrong.get(name, mask)).save(root / "masks" / name)
    return {one: f"swapped with {two}", two: f"swapped with {one}", three: f"swapped with {four}",
            four: f"swapped with {three}", shifted: f"moved by {MOVED / 400:+.1%}", blank: "blank"}  # fmt: skip


def found_by(study: Path) -> list[FoldResult]:
    """Returns what the folds find of the images that they were not trained on, as `describe` looks at them."""
    pooled, found = study / "pooled" / "checkpoints" / "best.ckpt", list[FoldResult]()
    paths = [path for path in sorted(study.rglob("checkpoints/best.ckpt")) if path != pooled]
    for path, data in zip(paths, fold_modules(paths, False), strict=True):
        task = load(path, tta="none")
        task.share_temperature(load(pooled))
        found += fold_results(task, data, Meter(task.build_metrics()), torch.device("cpu"))
    return found


def dice(one: NDArray[np.float32], two: NDArray[np.float32]) -> float:
    """Returns the dice of two reduced masks."""
    left, right = one > 0.5, two > 0.5
    total = int(left.sum()) + int(right.sum())
    return 2 * int((left & right).sum()) / total if total else 1.0


def redrawn(found: list[FoldResult]) -> str:
    """Returns how often spoiled labels are found, in Markdown."""
    rng, counts = np.random.default_rng(0), Counter[tuple[str, str]]()
    names, masks = [each.name for each in found], [each.probability for each in found]
    some = [row for row, each in enumerate(found) if (each.label > 0.5).mean() > 0.05]
    step = round(MOVED / 400 * SIDE)
    for _ in range(TIMES):
        one, two, three, four, shifted, blank = rng.permutation(some)[:6].tolist()
        labels = [each.label for each in found]
        for left, right in ((one, two), (three, four)):
            labels[left], labels[right] = labels[right], labels[left]
        labels[shifted] = np.pad(labels[shifted], ((0, 0), (step, 0), (step, 0)))[:, :SIDE, :SIDE]
        labels[blank] = np.zeros_like(labels[blank])
        gaps = [each.expected - (each.quality if label is each.label else dice(each.mask, label))
                for each, label in zip(found, labels, strict=True)]  # fmt: skip
        places = {each.name: (place, each.hint) for place, each in enumerate(doubts(names, labels, masks, gaps), 1)}
        pairs = {one: two, two: one, three: four, four: three}
        wrong = {row: ("swapped", re.escape(f"swapped with {names[other]}?")) for row, other in pairs.items()}
        wrong |= {shifted: ("moved", BACK), blank: ("blank", "nothing is labeled")}
        for row, (kind, reason) in wrong.items():
            place, given = places.get(names[row], (len(found) + 1, ""))
            fits = re.fullmatch(reason, given) is not None
            counts.update({(kind, "drawn"): 1, (kind, "first 6"): place <= 6, (kind, "first 10"): place <= 10,
                           (kind, "reason fits"): fits})  # fmt: skip
        right = [hint for name, (_, hint) in places.items() if names.index(name) not in wrong]
        counts.update({("right", "drawn"): len(found) - 6, ("right", "listed"): len(right),
                       ("right", "with a reason"): sum(map(bool, right))})  # fmt: skip
    columns = ("first 6", "first 10", "reason fits")
    rows = [f"| {kind} | {counts[kind, 'drawn']} | "
            + " | ".join(f"{counts[kind, each] / counts[kind, 'drawn']:.1%}" for each in columns) + " |"
            for kind in ("swapped", "moved", "blank")]  # fmt: skip
    clean = [f"{counts['right', each] / counts['right', 'drawn']:.2%} {each}" for each in ("listed", "with a reason")]
    return "\n".join(["| label | drawn | first 6 | first 10 | reason fits |", "|---|---|---|---|---|", *rows, "",
                      f"Of the right labels, {' and '.join(clean)}."])  # fmt: skip


def main() -> None:
    """Spoils, trains and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a new folder for the dataset and the study")
    parser.add_argument("--weights", type=Path, help="ImageNet weights of MobileNetV2; --clean needs none")
    parser.add_argument("--held-out", type=int, default=20, help="tiles that no fold has (20)")
    parser.add_argument("--side", type=int, default=160, help="pixels of the side to which tiles are reduced (160)")
    parser.add_argument("--steps", type=int, default=400, help="of each training, of four tiles (400)")
    parser.add_argument("--seed", type=int, default=0, help="of the tiles that are spoiled (0)")
    parser.add_argument("--clean", type=Path, help="a study of the right labels, to spoil those of its results")
    asked = parser.parse_args()
    if asked.clean is not None:
        print(redrawn(found_by(asked.clean.absolute())))
        return
    home = asked.folder.absolute()
    if home.exists() or asked.weights is None:
        parser.error(f"expected a new folder and --weights; got {home}, --weights {asked.weights}")
    wrong = spoil(lay_out(home, asked.held_out), asked.seed)
    options = ["--model.pretrained", str(asked.weights.absolute()), "--data.size", f"[{asked.side},{asked.side}]"]
    options += ["--data.steps_per_epoch", "40", "--trainer.max_epochs", str(asked.steps // 40), "--model.tta", "none"]
    trained(home / "tiles", home / "study", options)
    if belvedere(["describe", "--run", str(home / "study"), "--output", str(home / "described")]):
        raise SystemExit(2)
    with (home / "described" / "doubtful.csv").open(newline="") as file:
        found = {row["name"]: (place, row) for place, row in enumerate(csv.DictReader(file), 1)}
    print(f"\n{len(found)} labels are listed.\n\n| label | place | doubt | reason given |\n|---|---|---|---|")
    for name, what in wrong.items():
        place, row = found.get(name, ("not listed", {"doubt": "", "hint": ""}))
        print(f"| {name}: {what} | {place} | {row['doubt']} | {row['hint']} |")


if __name__ == "__main__":
    main()
