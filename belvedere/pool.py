"""The command `pool`: measures the folds of a cross-validation as a whole."""

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from lightning.fabric.utilities import move_data_to_device
from numpy.typing import NDArray

from belvedere.checkpoints import run_config
from belvedere.doubts import Doubt, doubts, reduced
from belvedere.files import run_folder
from belvedere.prediction import configured, load
from callbacks.intervals import bootstrap
from datamodules.base import ImageDataModule
from drawing.pictures import Picture, overlay, panel, save_picture, scaled
from drawing.trust import draw_reliability, draw_risk_coverage
from ops.atomic import check_writable, replacing, write_table, write_text
from ops.calibration import Counts, fitted_temperature, kept_quality, log_loss, log_odds_counts, reliability
from ops.errors import ArgumentError
from ops.progress import progress
from tasks.base import ImageTask
from tasks.decision import HALF, ThresholdSearch
from tasks.judging import JudgingTask
from tasks.metrics.dice import DICE_UNITS
from tasks.metrics.meter import Meter, States, Step
from tasks.segmentation import SegmentationTask

ENSEMBLE = "ensemble.json"
BEST = Path("checkpoints", "best.ckpt")
RESAMPLES = 1000
FIRST = 0.1  # share of the images to look at, in the sentence about certainty
VIEW = 300  # pixels of an image in a panel
Choice: TypeAlias = tuple[float, float]
"""Threshold and minimum area of a class."""


@dataclass
class Found:
    """What was found of an image by the network that was trained without it.

    Attributes:
        name: Its name.
        fold: Its fold.
        states: What it adds to the metrics.
        quality: Dice of its masks, the mean over the classes; or 1 for a right judgement and 0 for a wrong one.
        expected: The same as the network expects it by its probabilities.
        uncertainty: Mean of 4 p (1 - p), 0 if the network is sure of everything.
        counts: Its probabilities and truth, by class.
        cells: Dice of each class, threshold and minimum area, in `DICE_UNITS`; None without masks.
        label: Reduced truth (K, h, w).
        probability: Reduced probability (K, h, w).
        mask: Reduced masks (K, h, w) of the network's own decision.
    """

    name: str
    fold: int
    states: States
    quality: float
    expected: float
    uncertainty: float
    counts: list[Counts]
    cells: NDArray[np.int64] | None
    label: NDArray[np.float32]
    probability: NDArray[np.float32]
    mask: NDArray[np.float32]


def pool(ckpt_path: str, members: list[str] | None = None, output: str | None = None, trust: bool = False) -> int:
    """Measures a cross-validation as a whole: each image by the network of the fold that it was not trained in.

    Writes metrics with 95 % intervals over all images; thresholds, minimum areas and a temperature fitted on all of
    them; how quality rises if the least certain images are left out; and the images whose labels are doubtful.

    Args:
        ckpt_path: The folder of a study of folds, or the checkpoint of one fold.
        members: The checkpoints of the other folds.
        output: Folder to write to; default: `pooled` in the study's folder.
        trust: Let the checkpoints' configs name any class.
    """
    paths, folder = _checkpoints(ckpt_path, members, output)
    check_writable(folder)
    tasks = [load(path, trust=trust) for path in paths]
    found: list[Found] = []
    meter: Meter | None = None
    for task, data in zip(tasks, _folds(paths, trust), strict=True):
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        meter = Meter(task.build_metrics())
        meter.each = []
        found += measured(task.to(device), data, meter, device)
        task.to("cpu")
    assert meter is not None
    found.sort(key=lambda each: each.name)
    classes = list(tasks[0].classes) if isinstance(tasks[0], SegmentationTask) else ["professional shot"]
    lines = [f"{len(found)} images, each measured by the network of {len(paths)} that was trained without it."]
    lines += _write_metrics(meter, found, folder)
    if isinstance(tasks[0], SegmentationTask):
        taken, about = _write_thresholds(found, classes, folder)
        lines += about
        _write_ensemble(paths, taken if tasks[0].active_decision is tasks[0].decision else None, folder)
        lines.append(f"Predict with all of them: belvedere predict --run {folder} --data.pictures FOLDER")
    lines += _write_calibration(found, classes, folder)
    lines += _write_certainty(found, folder)
    if isinstance(tasks[0], SegmentationTask):
        lines += _write_doubts(found, classes, data, folder)
    print("\n".join(lines))
    return 0


def _checkpoints(ckpt_path: str, members: list[str] | None, output: str | None) -> tuple[list[Path], Path]:
    """Returns the checkpoints of all folds, and where to write.

    Raises:
        ArgumentError: There are fewer than two.
    """
    first = Path(ckpt_path).expanduser()
    found = sorted(first.rglob(BEST.as_posix())) if first.is_dir() else [first, *map(Path, members or ())]
    paths = [path for path in found if "pooled" not in path.parts]
    if len(paths) < 2:
        raise ArgumentError(
            f"{first} has {len(paths)} checkpoints; expected the folder of `belvedere study folds`, or the "
            "checkpoint of one fold and those of the others as --members."
        )
    home = first if first.is_dir() else run_folder(first).parent
    return paths, (home / "pooled" if output is None else Path(output).expanduser()).absolute()


def _folds(paths: Sequence[Path], trust: bool) -> Iterator[ImageDataModule]:
    """Yields the data module of each checkpoint, ready for its test.

    Raises:
        ArgumentError: They are not the folds of one cross-validation.
    """
    modules = [configured(run_config(path, trust), {})[0] for path in paths]
    kinds = {(str(each.root), each.folds, each.split_seed, each.fold_by) for each in modules}
    if len(kinds) > 1 or modules[0].folds is None or len({each.fold for each in modules}) < len(modules):
        shown = ", ".join(f"fold {each.fold} of {each.folds} of {each.root}" for each in modules)
        raise ArgumentError(f"expected checkpoints of different folds of one dataset (--data.folds), got {shown}.")
    yield from modules


@torch.no_grad()
def measured(task: ImageTask, data: ImageDataModule, meter: Meter, device: torch.device) -> Iterator[Found]:
    """Yields what a task finds of the test images of a fold.

    Raises:
        ArgumentError: The task neither marks nor judges images.
    """
    if not isinstance(task, SegmentationTask | JudgingTask):
        raise ArgumentError(f"pool measures tasks that mark regions or judge images, not {type(task).__name__}.")
    data.prepare_data()
    data.setup("test")
    task.eval()
    task.receive(data.facts())
    loader = data.loader("test")
    for batch in progress(loader, f"fold {data.fold}", len(loader)):
        moved = data.on_after_batch_transfer(move_data_to_device(batch, device), 0)
        step = task.step(moved)
        meter.each = []
        meter.update(step, len(moved["image"]))
        for index, states in enumerate(meter.each):
            hosted = {key: value.cpu() for key, value in states.items()}
            of_one = _marked if isinstance(task, SegmentationTask) else _judged
            yield of_one(step, index, batch["name"][index], data.fold, hosted)


def _marked(step: Step, index: int, name: str, fold: int, states: States) -> Found:
    """Returns what was found of an image with masks."""
    assert step.probability is not None
    probability = step.probability[index].float().cpu()
    valid = torch.ones_like(probability[:1], dtype=torch.bool) if step.valid is None else step.valid[index].cpu()
    truth, mask = (each[index].cpu() > 0.5 for each in (step.target, step.prediction.float()))
    there = valid[0].numpy()
    search = ThresholdSearch([""] * len(probability))
    search.update(probability[None], truth[None], valid[None])
    quality, expected = [], []
    for found, true, chance in zip(mask & valid, truth & valid, probability * valid, strict=True):
        marked, total = float(found.sum()), float(found.sum() + true.sum())
        quality.append(2 * float((found & true).sum()) / total if total else 1.0)
        total = marked + float(chance.sum())
        expected.append(2 * float((found * chance).sum()) / total if total else 1.0)
    inside = probability[valid.expand_as(probability)]
    return Found(
        name=name,
        fold=fold,
        states=states,
        quality=float(np.mean(quality)),
        expected=float(np.mean(expected)),
        uncertainty=float((4 * inside * (1 - inside)).mean()) if inside.numel() else 0.0,
        counts=[
            log_odds_counts(chance.numpy()[there], true.numpy()[there])
            for chance, true in zip(probability, truth, strict=True)
        ],
        cells=search.dice_sum.numpy(),
        label=reduced((truth & valid).float().numpy()),
        probability=reduced((probability * valid).numpy()),
        mask=reduced((mask & valid).float().numpy()),
    )


def _judged(step: Step, index: int, name: str, fold: int, states: States) -> Found:
    """Returns what was found of a judged photograph."""
    chance, true = step.prediction[index].float().cpu().reshape(1), step.target[index].cpu().reshape(1) > 0.5
    certain = float(chance)
    return Found(
        name=name,
        fold=fold,
        states=states,
        quality=float((certain >= 0.5) == bool(true)),
        expected=max(certain, 1 - certain),
        uncertainty=4 * certain * (1 - certain),
        counts=[log_odds_counts(chance.numpy(), true.numpy())],
        cells=None,
        label=np.zeros((0, 1, 1), np.float32),
        probability=np.zeros((0, 1, 1), np.float32),
        mask=np.zeros((0, 1, 1), np.float32),
    )


def _write_metrics(meter: Meter, found: Sequence[Found], folder: Path) -> list[str]:
    """Writes `metrics.csv` and returns its lines."""
    from callbacks.intervals import of_image

    images = [[each.states] for each in found]
    values = of_image(meter, [each.states for each in found])
    ends = bootstrap(meter, images, RESAMPLES)
    rows = [[name, value, *ends.get(name, ("", "")), len(found)] for name, value in values.items()]
    write_table(folder / "metrics.csv", ("figure", "value", "low", "high", "pictures"), rows)
    return [f"  {name:20} {value:.4f}" + (f"  [{low:.4f}, {high:.4f}]" if low != "" else "")
            for name, value, low, high, _ in rows]  # fmt: skip


def pooled_cells(found: Sequence[Found]) -> tuple[NDArray[np.float64], list[list[Choice]]]:
    """Returns the dice (N, K) of each image at the best threshold and minimum area of all other folds, and the choices.

    Args:
        found: All images.

    Returns:
        The dice, and for each fold, and last for all of them together, threshold and minimum area of each class.
    """
    cells = np.stack([each.cells for each in found if each.cells is not None])
    folds = np.array([each.fold for each in found])
    count, classes = cells.shape[:2]
    search = ThresholdSearch([""] * classes)
    grid = [(threshold, area) for threshold in search.thresholds for area in search.minimum_areas]
    flat = cells.reshape(count, classes, -1)
    dice, choices = np.zeros((count, classes)), []
    for fold in [*np.unique(folds).tolist(), None]:
        others = flat if fold is None else flat[folds != fold]
        best = others.sum(axis=0).argmax(axis=1)  # the first of equal ones, as in `ThresholdSearch`
        choices.append([grid[each] for each in best])
        if fold is not None:
            own = flat[folds == fold]
            dice[folds == fold] = np.take_along_axis(own, best[None, :, None], axis=2)[..., 0] / DICE_UNITS
    return dice, choices


def _write_thresholds(found: Sequence[Found], classes: Sequence[str], folder: Path) -> tuple[list[Choice], list[str]]:
    """Writes `thresholds.csv`, and returns threshold and minimum area of each class and lines about them.

    Others than .5 and 0 are taken only if their gain is clear: if its 95 % interval lies above 0.
    """
    dice, choices = pooled_cells(found)
    half = np.stack([each.cells[:, 0, 0] for each in found if each.cells is not None]) / DICE_UNITS
    taken: list[Choice] = []
    rows, lines = [], ["Thresholds fitted on all folds; their dice is that of thresholds fitted on the other folds:"]
    for k, name in enumerate(classes):
        low, high = mean_interval(dice[:, k] - half[:, k])
        (threshold, area), spread = choices[-1][k], [choice[k][0] for choice in choices[:-1]]
        before, after = float(half[:, k].mean()), float(dice[:, k].mean())
        taken.append((threshold, area) if low > 0 else (HALF, 0.0))
        rows.append([name, threshold, area, before, after, low, high, min(spread), max(spread), *taken[-1]])
        without = f"{min(spread):.2f} to {max(spread):.2f} without one fold"
        gain = f"dice {before:.4f} at .5, {after:.4f}; gain [{low:.4f}, {high:.4f}]"
        kept = "" if low > 0 else "; .5 and 0 are kept, since the gain is not clear"
        lines.append(f"  {name:20} threshold {threshold:.2f} ({without}), minimum area {area:.2%}: {gain}{kept}")
    header = ("class", "threshold", "minimum_area", "dice_at_half", "dice", "gain_low", "gain_high", "least", "most",
              "threshold_taken", "minimum_area_taken")  # fmt: skip
    write_table(folder / "thresholds.csv", header, rows)
    return taken, lines


def mean_interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """Returns the 95 % interval of the mean of images, by resampling them."""
    rng = np.random.default_rng(0)
    times = rng.multinomial(len(values), np.full(len(values), 1 / len(values)), size=RESAMPLES)
    low, high = np.percentile(times @ values / len(values), [2.5, 97.5])
    return float(low), float(high)


def _write_calibration(found: Sequence[Found], classes: Sequence[str], folder: Path) -> list[str]:
    """Writes `calibration.csv` and `reliability.png`, and returns lines about them."""
    rows, lines, drawn = (
        [],
        ["Calibration; the calibrated error is that of temperatures fitted on the other folds:"],
        {},
    )
    folds = sorted({each.fold for each in found})
    for k, name in enumerate(classes):
        by_fold = [np.sum([each.counts[k] for each in found if each.fold == fold], axis=0) for fold in folds]
        whole = np.sum(by_fold, axis=0)
        temperature = fitted_temperature(whole)
        without = [fitted_temperature(whole - own) for own in by_fold]
        parts = [reliability(own, each) for own, each in zip(by_fold, without, strict=True)]
        sizes = np.array([own.sum() for own in by_fold]) / max(1, whole.sum())
        after = sum(part.error * size for part, size in zip(parts, sizes, strict=True))
        loss = sum(log_loss(own, each) * size for own, each, size in zip(by_fold, without, sizes, strict=True))
        before = sum(reliability(own).error * size for own, size in zip(by_fold, sizes, strict=True))
        rows.append([name, temperature, before, after, log_loss(whole), loss])
        errors = f"expected calibration error {before:.4f} -> {after:.4f}"
        losses = f"log loss {log_loss(whole):.4f} -> {loss:.4f}"
        lines.append(f"  {name:20} temperature {temperature:.2f}: {errors}, {losses}")
        drawn[name] = (reliability(whole), reliability(whole, temperature))
    header = ("class", "temperature", "error", "error_calibrated", "log_loss", "log_loss_calibrated")
    write_table(folder / "calibration.csv", header, rows)
    draw_reliability(drawn, folder / "reliability.png")
    return lines


def _write_certainty(found: Sequence[Found], folder: Path) -> list[str]:
    """Writes `images.csv`, `risk_coverage.csv` and its chart, and returns a sentence about them."""
    names = ("name", "fold", "quality", "expected", "uncertainty")
    write_table(folder / "images.csv", names, [[getattr(each, name) for name in names] for each in found])
    quality = np.array([each.quality for each in found])
    curves = {
        "by the expected quality": kept_quality(-np.array([each.expected for each in found]), quality),
        "by the uncertainty": kept_quality(np.array([each.uncertainty for each in found]), quality),
        "best possible": kept_quality(-quality, quality),
    }
    coverage = np.arange(1, len(found) + 1) / len(found)
    rows = zip(coverage.tolist(), *(curve.tolist() for curve in curves.values()), strict=True)
    write_table(folder / "risk_coverage.csv", ("coverage", "expected", "uncertainty", "best"), rows)
    draw_risk_coverage(coverage, curves, folder / "risk_coverage.png")
    left = len(found) - max(1, round(FIRST * len(found)))
    kept = curves["by the expected quality"][left - 1]
    what = "dice" if found[0].cells is not None else "accuracy"
    few = f"If you look at the {len(found) - left} least certain of {len(found)} images"
    return [f"{few}, the rest has a mean {what} of {kept:.4f}, all of them {quality.mean():.4f}."]


def _write_doubts(found: Sequence[Found], classes: Sequence[str], data: ImageDataModule, folder: Path) -> list[str]:
    """Writes `doubtful.csv` and `doubtful.png`, and returns lines about them."""
    labels, probabilities = [each.label for each in found], [each.probability for each in found]
    gaps = [each.expected - each.quality for each in found]
    listed = doubts([each.name for each in found], labels, probabilities, gaps)
    rows = [[each.name, round(each.gap, 4), each.hint] for each in listed]
    write_table(folder / "doubtful.csv", ("name", "doubt", "hint"), rows)
    if not listed:
        return []
    by_name = {each.name: each for each in found}
    shown = [each for each in listed if by_name[each.name].label.size][:10]
    drawn = [_views(each, by_name[each.name], data) for each in shown]
    save_picture(panel(drawn, ["image", "label", "prediction without it"], [_caption(each) for each in shown]),
                 folder / "doubtful.png")  # fmt: skip
    first = [f"  {each.name}: {each.hint or 'the network is sure of something else'}" for each in listed[:5]]
    return ["Labels to look at first (doubtful.csv, doubtful.png):", *first]


def _caption(doubt: Doubt) -> str:
    return f"{doubt.name}: {doubt.hint}" if doubt.hint else doubt.name


def _views(doubt: Doubt, found: Found, data: ImageDataModule) -> list[Picture]:
    image = data.picture(found.name, VIEW)
    if image is None:
        image = np.full((VIEW, VIEW, 3), 200, np.uint8)
    view = scaled(image, VIEW, 2 * VIEW)
    masks = [(maps > 0.5).astype(np.uint8) for maps in (found.label, found.mask)]
    grown = [np.stack([_resized(plane, view.shape[:2]) for plane in mask]) for mask in masks]
    return [view, overlay(view, grown[0]), overlay(view, grown[1])]


def _resized(mask: NDArray[np.uint8], size: tuple[int, ...]) -> NDArray[np.bool_]:
    import cv2

    return np.asarray(cv2.resize(mask, (size[1], size[0]), interpolation=cv2.INTER_NEAREST)).astype(np.bool_)


def _write_ensemble(paths: Sequence[Path], taken: Sequence[Choice] | None, folder: Path) -> None:
    """Writes the first checkpoint, and which others to average with it.

    Args:
        paths: The checkpoints.
        taken: Threshold and minimum area of each class; None keeps those of the first checkpoint.
        folder: Where to write.
    """
    checkpoint: dict[str, Any] = torch.load(paths[0], map_location="cpu", weights_only=True)
    if taken is not None:
        state = checkpoint["state_dict"]
        state["decision.thresholds"] = torch.tensor([threshold for threshold, _ in taken])
        state["decision.minimum_areas"] = torch.tensor([area for _, area in taken])
    with replacing(folder / BEST) as temporary:
        torch.save(checkpoint, temporary)
    with replacing(folder / "config.yaml") as temporary:
        shutil.copyfile(run_folder(paths[0]) / "config.yaml", temporary)
    members = [str(path.absolute()) for path in paths[1:]]
    write_text(folder / ENSEMBLE, json.dumps({"checkpoint": BEST.as_posix(), "members": members}, indent=2) + "\n")
