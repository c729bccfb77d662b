"""The command `learning-curve`: trains on shares of the training images, and says what more labels would bring."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from belvedere.checkpoints import run_config
from belvedere.commandline.arguments import option, reported
from belvedere.folds.found import FoldResult, fold_modules, fold_results
from belvedere.prediction import load
from belvedere.quiet import quiet
from callbacks.signals import stoppable
from drawing.trust import draw_learning_curve
from ops.atomic import check_writable, write_table
from ops.errors import ArgumentError, UserError
from ops.statistics.powerlaw import fitted_power_law
from studies.command import MODES, study
from tasks.metrics.meter import Meter

HELP = """belvedere learning-curve: trains on an eighth to all of the images, and says what more labels would bring

  belvedere learning-curve --config roads/best --data.root FOLDER   trains 4 shares x 3 folds, as a study; to resume
                                                                    after an interruption, repeat the command
  belvedere learning-curve runs/studies/learning_curve              measures such a study again; --trust, as for predict

It takes the options of belvedere study, such as --output, --axes.share '[1/4, 1/2, 1]' for fewer shares, --status and
--slurm, and writes into the folder of the study:
  learning_curve.csv, learning_curve.png   metric of each share, and of twice as many images by a power law
"""
STUDY = "learning_curve"
RESAMPLES = 1000
FURTHER = 2  # times as many training images, in the sentence
DENSE = 40  # points of the drawn law


class Share(NamedTuple):
    """What was measured of the networks that were trained on one share of the training images.

    Attributes:
        share: The share.
        size: Mean number of training images of the folds.
        quality: Dice, or 1 and 0 of right and wrong, of each image (N,), in the order of their names.
    """

    share: float
    size: float
    quality: NDArray[np.float64]


class LearningCurve(NamedTuple):
    """What more training images bring.

    Attributes:
        sizes: Numbers of training images (S,).
        quality: Mean quality of all images at each, its lower and its upper end (S, 3).
        further: Numbers of images at which the power law is given, up to `FURTHER` times the largest (D,).
        law: Quality by the power law there, its lower and its upper end (D, 3).
        gain: By how much the law rises from the largest size to `FURTHER` times that, with both ends (3,).
        exponent: Of the law, with both ends (3,).
    """

    sizes: NDArray[np.float64]
    quality: NDArray[np.float64]
    further: NDArray[np.float64]
    law: NDArray[np.float64]
    gain: NDArray[np.float64]
    exponent: NDArray[np.float64]


def learning_curve(words: Sequence[str]) -> int:
    """Runs the command and returns its exit code, that of the study if some run is unfinished."""
    if not words or {"-h", "--help"} & set(words):
        print(HELP)
        return 0
    quiet()
    try:
        if words[0].startswith("-"):
            _check_task(words)
            code = study([STUDY, *words], typed=["belvedere", "learning-curve", *words])
            if code or any(word.partition("=")[0] in [f"--{mode}" for mode in MODES] for word in words):
                return code
            folder, trust = Path(option(list(words), "--output") or Path("runs", "studies", STUDY)), True
        else:
            folder, trust = Path(words[0]), "--trust" in words
            more = [word for word in words[1:] if word != "--trust"]
            if more:
                raise ArgumentError(
                    f"expected a folder alone, or options to train with; got {more[0]!r} after {folder}."
                )
        with stoppable():
            _write(folder.absolute(), trust)
    except (UserError, OSError) as error:
        return reported(error)
    return 0


def _check_task(words: Sequence[str]) -> None:
    """Rejects a task that `fold_results` would reject after all trainings."""
    for word, value in pairwise(words):
        if word == "--config" and value.startswith("colorization"):
            raise ArgumentError(
                "learning-curve measures tasks that mark regions or judge images, not colorization. Compare shares by "
                "their loss: belvedere study learning_curve."
            )


def _write(folder: Path, trust: bool) -> None:
    """Measures all networks of a study, and writes and prints its learning curve."""
    shares, folds, what = _measured(folder, trust)
    check_writable(folder)
    curve = fitted_curve(shares, folds)
    last = curve.sizes[-1]
    rows = [[share.share, size, "measured", *quality]
            for share, size, quality in zip(shares, curve.sizes, curve.quality.tolist(), strict=True)]  # fmt: skip
    rows.append([FURTHER, FURTHER * last, "power law", *curve.law[-1].tolist()])
    write_table(folder / f"{STUDY}.csv", ("share", "pictures", "source", what, "low", "high"), rows)
    draw_learning_curve(curve.sizes, curve.quality, curve.further, curve.law, what, folder / f"{STUDY}.png")
    print(f"\n{len(folds)} images, each measured by networks that were trained without it. 95 % intervals are over "
          f"folds and images.\n{'training images':>17}  {what}")  # fmt: skip
    for _, size, source, value, low, high in rows:
        print(f"{size:17.0f}  {value:.4f} [{low:.4f}, {high:.4f}]{' by the power law' * (source != 'measured')}")
    print(sentences(curve, what))
    for suffix in (".csv", ".png"):
        print(folder / f"{STUDY}{suffix}")


def sentences(curve: LearningCurve, what: str) -> str:
    """Says what twice as many labels would bring.

    Args:
        curve: The learning curve.
        what: Name of the metric.
    """
    (gain, low, high), (exponent, least, most) = curve.gain.tolist(), curve.exponent.tolist()
    size = curve.sizes[-1]
    law = f"The error falls like n^-{exponent:.2f}" if exponent >= 0 else f"The error rises like n^{-exponent:.2f}"
    text = (
        f"{law} (exponent {exponent:.2f} [{least:.2f}, {most:.2f}]). Twice as many labels, {FURTHER * size:.0f} "
        f"training images instead of {size:.0f}, "
    )
    between = f"[{low:+.4f}, {high:+.4f}]"
    if low > 0:
        return f"{text}would bring {gain:+.4f} {what} {between}."
    return f"{text}would bring {gain:+.4f} {what} {between}: not clearly more than nothing."


def _measured(folder: Path, trust: bool) -> tuple[list[Share], NDArray[np.int64], str]:
    """Returns what was measured of each share, the fold of each image, and what the quality is.

    Raises:
        ArgumentError: The folder has no such networks, or not of every fold for every share.
    """
    paths = sorted(folder.rglob("checkpoints/best.ckpt"))
    by_share: dict[float, list[Path]] = {}
    for path in paths:
        share = (run_config(path, trust)["data"].get("init_args") or {}).get("train_share", 1.0)
        by_share.setdefault(float(share), []).append(path)
    if len(by_share) < 2:
        raise ArgumentError(
            f"{folder} has networks of {len(by_share)} shares of the training images; expected two or more, as "
            "`belvedere learning-curve --config … --data.root …` trains them."
        )
    shares: list[Share] = []
    order: list[tuple[str, int]] = []
    what = ""
    for share, members in sorted(by_share.items()):
        found, sizes = _of_share(members, trust)
        named = [(each.name, each.fold) for each in found]
        if order and named != order:
            raise ArgumentError(
                f"The networks of {share:g} of the training images were tested on {len(named)} images, those of "
                f"{shares[0].share:g} on {len(order)}, or on others; expected the same folds for each share."
            )
        order, what = named, "dice" if found[0].cells is not None else "accuracy"
        shares.append(Share(share, float(np.mean(sizes)), np.array([each.quality for each in found])))
    return shares, np.array([fold for _, fold in order]), what


def _of_share(paths: Sequence[Path], trust: bool) -> tuple[list[FoldResult], list[int]]:
    """Returns what the networks of one share found, the mean over seeds, and the numbers of their training images."""
    found: dict[str, list[FoldResult]] = {}
    sizes: list[int] = []
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for group in _by_seed(paths):
        for path, data in zip(group, fold_modules(group, trust), strict=True):
            task = load(path, trust=trust).to(device)
            meter = Meter(task.build_metrics()).to(device)
            for each in fold_results(task, data, meter, device):
                found.setdefault(each.name, []).append(each)
            sizes.append(len(data.picture_names()["train"]))
    means = []
    for _, seeds in sorted(found.items()):
        seeds[0].quality = float(np.mean([one.quality for one in seeds]))
        means.append(seeds[0])
    return means, sizes


def _by_seed(paths: Sequence[Path]) -> list[list[Path]]:
    """Returns the checkpoints of each seed's folds."""
    groups: dict[str, list[Path]] = {}
    for path in paths:
        groups.setdefault(path.parents[1].name, []).append(path)
    return list(groups.values())


def fitted_curve(shares: Sequence[Share], folds: NDArray[np.int64]) -> LearningCurve:
    """Fits a power law to the mean error, with 95 % intervals by resampling folds, and images in them.

    All shares are resampled alike, since they share the images.

    Args:
        shares: Two or more, the smallest first.
        folds: Fold of each image (N,).
    """
    sizes = np.array([share.size for share in shares])
    errors = np.stack([1 - share.quality for share in shares])  # (S, N)
    times = resampled_folds(folds, RESAMPLES)
    drawn = times @ errors.T / times.sum(axis=1, keepdims=True)  # (R, S)
    last = sizes[-1]
    further = np.append(np.geomspace(sizes[0], last, DENSE), np.geomspace(last, FURTHER * last, DENSE))
    law, laws = fitted_power_law(sizes, errors.mean(axis=1)), fitted_power_law(sizes, drawn)
    best = np.array([law.error(n) for n in further])
    every = np.stack([laws.error(n) for n in further], axis=1)  # (R, D)
    gain = law.error(last) - best[-1]
    gains = laws.error(last) - every[:, -1]
    return LearningCurve(
        sizes,
        _with_ends(1 - errors.mean(axis=1), 1 - drawn),
        further,
        _with_ends(1 - best, 1 - every),
        _with_ends(np.array([gain]), gains[:, None])[0],
        _with_ends(np.array([law.exponent]), laws.exponent[:, None])[0],
    )


def resampled_folds(folds: NDArray[np.int64], count: int) -> NDArray[np.float64]:
    """Returns how often each image is drawn if folds are drawn with replacement, and then as many images from each.

    Returns:
        (count, N).
    """
    rng = np.random.default_rng(0)
    members = [np.flatnonzero(folds == fold) for fold in np.unique(folds)]
    times = np.zeros((count, len(folds)))
    for row in times:
        for fold in rng.integers(0, len(members), len(members)):
            rows = members[fold]
            row[rows] += rng.multinomial(len(rows), np.full(len(rows), 1 / len(rows)))
    return times


def _with_ends(value: NDArray[np.float64], drawn: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns values (V,) with the ends of their 95 % intervals (V, 3), from resampled ones (R, V)."""
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
    return np.stack([value, low, high], axis=1)
