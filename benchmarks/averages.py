"""Is the average of calibrated networks calibrated? `python -m benchmarks.averages FOLDER --weights FILE`.

Keeps `--held-out` of the 70 road tiles out of all folds by `splits.csv`, trains `roads/best` in three folds of the
others and runs `belvedere pool`, both through the command line. Then it measures, on all pixels of the held-out tiles,
what the networks say about them: expected calibration error (15 bins) and log loss of

- the single networks, the mean of the three, before and after calibration by the temperature of `pool`,
- the average of the uncalibrated networks,
- the average of the calibrated networks, which is what `belvedere predict --run` writes,
- the average of the uncalibrated networks at the temperature that is best on the held-out tiles themselves: nobody has
  it without labels there, but no temperature is better.

Intervals resample the held-out tiles, 95 %; differences are paired. To resume after an interruption, repeat the
command.
"""

import argparse
import json
import os
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from belvedere.__main__ import main as belvedere
from belvedere.checkpoints import run_config
from belvedere.folds.found import fold_results
from belvedere.prediction import configured, load
from ops.statistics.calibration import fitted_temperature, log_loss, reliability
from tasks.base import ImageTask
from tasks.metrics.meter import Meter

FOLDS, RESAMPLES = 3, 1000
Measured = NDArray[np.float64]  # error and log loss of all tiles, then of each resample (1 + R, 2)


def lay_out(home: Path, held_out: int) -> Path:
    """Links the tiles into a dataset whose `splits.csv` tests on some of them, and returns its folder."""
    root, source = home / "tiles", Path(os.environ["BELVEDERE_DATA"]) / "roads"
    root.mkdir(parents=True, exist_ok=True)
    for part in ("images", "masks"):
        if not (root / part).exists():
            (root / part).symlink_to(source / part)
    names = sorted(path.name for path in (source / "images").iterdir())
    out = set(np.random.default_rng(0).permutation(names)[:held_out].tolist())
    rows = [f"{name},{'test' if name in out else 'train'}" for name in names]
    (root / "splits.csv").write_text("\n".join(["name,split", *rows]) + "\n")
    return root


def trained(root: Path, study: Path, options: list[str]) -> None:
    """Trains the folds and pools them.

    Raises:
        SystemExit: A command failed.
    """
    parts = json.dumps([str(part + 1) for part in range(FOLDS)])
    fit = ["study", "folds", "--config", "roads/best", "--data.root", str(root), "--data.folds", str(FOLDS)]
    for command in ([*fit, "--axes.part", parts, "--output", str(study), *options], ["pool", str(study)]):
        if belvedere(command):
            raise SystemExit(2)


def counts_of(task: ImageTask, path: Path) -> NDArray[np.int64]:
    """Returns how often log-odds come true in each held-out tile (N, cells, 2), see `log_odds_counts`."""
    data, _ = configured(run_config(path, False), {"folds": None, "fold": 0, "val_fraction": 0})
    found = fold_results(task, data, Meter(task.build_metrics()), torch.device("cpu"))
    return np.stack([each.counts[0] for each in sorted(found, key=lambda each: each.name)])


def measured(counts: NDArray[np.int64], temperature: float = 1.0) -> Measured:
    """Returns calibration error and log loss of all tiles together, and of each resample of the tiles."""
    rng, number = np.random.default_rng(0), len(counts)
    times = rng.multinomial(number, np.full(number, 1 / number), size=RESAMPLES)
    sums = np.tensordot(np.concatenate([np.ones((1, number), np.int64), times]), counts, 1)
    return np.array([[reliability(each, temperature).error, log_loss(each, temperature)] for each in sums])


def shown(values: Measured, base: Measured | None = None) -> str:
    """Returns the cells of a row: error and log loss with intervals, and how much the loss is above that of a base."""
    low, high = np.percentile(values[1:], [2.5, 97.5], axis=0)
    cells = [f"{values[0, k]:.4f} [{low[k]:.4f}, {high[k]:.4f}]" for k in range(2)]
    if base is None:
        return " | ".join([*cells, ""])
    more = (values - base)[:, 1]
    low, high = np.percentile(more[1:], [2.5, 97.5])
    return " | ".join([*cells, f"{more[0]:+.4f} [{low:+.4f}, {high:+.4f}]"])


def table(study: Path) -> str:
    """Returns the table in Markdown."""
    home = study / "pooled"
    best = home / "checkpoints" / "best.ckpt"
    members = json.loads((home / "ensemble.json").read_text())["members"]
    paths = [path for path in sorted(study.rglob("checkpoints/best.ckpt")) if path != best]
    assert sorted(os.path.realpath(home / each) for each in members) == [os.path.realpath(path) for path in paths[1:]]
    pooled = load(best)
    temperature = float(pooled.get_buffer("decision.temperature.values"))
    singles = [counts_of(load(path), path) for path in paths]
    plain, calibrated = load(paths[0]), pooled
    for task in (plain, calibrated):
        task.add_members([load(path) for path in paths[1:]], paths[1:])
    average = counts_of(plain, paths[0])
    written = measured(counts_of(calibrated, paths[0]))
    own = fitted_temperature(average.sum(axis=0))
    rows = {
        "single networks": np.mean([measured(each) for each in singles], axis=0),
        "single networks, calibrated": np.mean([measured(each, temperature) for each in singles], axis=0),
        "average of uncalibrated networks": measured(average),
        f"average of uncalibrated networks at {own:.2f}, best here": measured(average, own),
    }
    lines = [f"{len(average)} held-out tiles, {len(paths)} networks, temperature {temperature:.2f}", "",
             "| probability | calibration error | log loss | log loss above that of `predict` |", "|---|---|---|---|",
             f"| average of calibrated networks, as `predict` | {shown(written)} |"]  # fmt: skip
    return "\n".join([*lines, *(f"| {name} | {shown(values, written)} |" for name, values in rows.items())])


def main() -> None:
    """Trains what is missing and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="for the dataset of links and the study")
    parser.add_argument("--weights", type=Path, required=True, help="ImageNet weights of MobileNetV2")
    parser.add_argument("--held-out", type=int, default=20, help="tiles that no fold has (20)")
    parser.add_argument("--side", type=int, default=160, help="pixels of the side to which tiles are reduced (160)")
    parser.add_argument("--steps", type=int, default=400, help="of each training, of four tiles (400)")
    asked = parser.parse_args()
    options = ["--model.pretrained", str(asked.weights.absolute()), "--data.size", f"[{asked.side},{asked.side}]"]
    options += ["--data.steps_per_epoch", "40", "--trainer.max_epochs", str(asked.steps // 40)]
    study = asked.folder.absolute() / "study"
    trained(lay_out(asked.folder.absolute(), asked.held_out), study, options)
    print(table(study))


if __name__ == "__main__":
    main()
