"""The command `pool`: measures the folds of a cross-validation as a whole."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from belvedere.files import run_folder
from belvedere.folds.certainty import write_calibration, write_certainty
from belvedere.folds.found import FoldResult, fold_modules, fold_results
from belvedere.folds.panels import write_doubts
from belvedere.folds.thresholds import RESAMPLES, Choice, write_thresholds
from belvedere.prediction import load
from callbacks.intervals import bootstrap, of_image
from ops.atomic import check_writable, replacing, write_table, write_text
from ops.errors import ArgumentError
from ops.files.tensors import write_tensors
from tasks.metrics.meter import Meter
from tasks.segmentation import SegmentationTask

ENSEMBLE = "ensemble.json"
POOLED = "intervals.csv"
BEST = Path("checkpoints", "best.ckpt")


def pool(ckpt_path: str, members: list[str] | None = None, output: str | None = None, trust: bool = False) -> int:
    """Measures a cross-validation as a whole: each image by the network of the fold that it was not trained in.

    Writes metrics with 95 % intervals over all images; thresholds, minimum areas and temperatures fitted on all of
    them; how quality rises if the least certain images are left out; and the images whose labels are doubtful.

    Args:
        ckpt_path: The folder of a study of folds, or the checkpoint of one fold.
        members: The checkpoints of the other folds.
        output: Folder to write to; default: `pooled` in the study's folder.
        trust: Let the checkpoints' configs name any class.
    """
    paths, folder = checkpoints_of(ckpt_path, members, output)
    check_writable(folder)
    tasks = [load(path, trust=trust) for path in paths]
    found: list[FoldResult] = []
    meter: Meter | None = None
    for task, data in zip(tasks, fold_modules(paths, trust), strict=True):
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        meter = Meter(task.build_metrics()).to(device)
        meter.each = []
        found += fold_results(task.to(device), data, meter, device)
        task.to("cpu")
    assert meter is not None
    found.sort(key=lambda each: each.name)
    classes = list(tasks[0].classes) if isinstance(tasks[0], SegmentationTask) else ["professional shot"]
    lines = [f"{len(found)} images, each measured by the network of {len(paths)} that was trained without it."]
    lines += _write_metrics(meter, found, folder)
    choices: list[Choice] = []
    if isinstance(tasks[0], SegmentationTask):
        choices, about = write_thresholds(found, classes, folder)
        lines += about
    temperatures, about = write_calibration(found, classes, folder)
    lines += about
    if isinstance(tasks[0], SegmentationTask) and tasks[0].active_decision is not tasks[0].decision:
        _write_ensemble(paths, {}, folder)  # the decision of another pass than the one that was measured
    else:
        _write_ensemble(paths, _fitted(choices, temperatures), folder)
    lines.append(f"Predict with all of them: belvedere predict --run {folder} --data.pictures FOLDER")
    lines += write_certainty(found, folder)
    lines += write_doubts(found, data, folder)
    print("\n".join(lines))
    return 0


def _fitted(choices: Sequence[Choice], temperatures: Sequence[float]) -> dict[str, torch.Tensor]:
    """Returns what a checkpoint gets that was fitted on all folds, by the keys of its state dict.

    Args:
        choices: Threshold and minimum area of each class; none for tasks without masks.
        temperatures: Of each class. Thresholds are those of calibrated probabilities, which mark the same pixels.
    """
    values = torch.tensor(temperatures)
    if not choices:
        return {"temperature.values": values}
    thresholds, areas = (torch.tensor(each) for each in zip(*choices, strict=True))
    calibrated = (thresholds.double().logit() / values.double()).sigmoid().float()
    return {"decision.thresholds": torch.where(values == 1, thresholds, calibrated),
            "decision.minimum_areas": areas, "decision.temperature.values": values}  # fmt: skip


def checkpoints_of(ckpt_path: str, members: list[str] | None, output: str | None) -> tuple[list[Path], Path]:
    """Returns the checkpoints of all folds, and where to write.

    Raises:
        ArgumentError: There are fewer than two.
    """
    first = Path(ckpt_path).expanduser()
    below = [path for path in sorted(first.rglob(BEST.as_posix())) if not (path.parents[1] / ENSEMBLE).is_file()]
    paths = below if first.is_dir() else [first, *map(Path, members or ())]
    if len(paths) < 2:
        raise ArgumentError(
            f"{first} has {len(paths)} checkpoints; expected the folder of `belvedere study folds`, or the "
            "checkpoint of one fold and those of the others as --members."
        )
    home = first if first.is_dir() else run_folder(first).parent
    return paths, (home / "pooled" if output is None else Path(output).expanduser()).absolute()


def _write_metrics(meter: Meter, found: Sequence[FoldResult], folder: Path) -> list[str]:
    """Writes `intervals.csv`, whose metrics are out of fold, and returns its lines."""
    images = [[each.states] for each in found]
    values = of_image(meter, [each.states for each in found])
    ends = bootstrap(meter, images, RESAMPLES)
    rows = [[name, value, *ends.get(name, ("", "")), len(found)] for name, value in values.items()]
    write_table(folder / POOLED, ("figure", "value", "low", "high", "pictures"), rows)
    return [f"  {name:20} {value:.4f}" + (f"  [{low:.4f}, {high:.4f}]" if low != "" else "")
            for name, value, low, high, _ in rows]  # fmt: skip


def _write_ensemble(paths: Sequence[Path], fitted: Mapping[str, torch.Tensor], folder: Path) -> None:
    """Writes the first checkpoint, and which others to average with it.

    Args:
        paths: The checkpoints.
        fitted: What it gets, by the keys of its state dict.
        folder: Where to write.
    """
    checkpoint: dict[str, Any] = torch.load(paths[0], map_location="cpu", weights_only=True)
    checkpoint["state_dict"] |= fitted
    write_tensors(folder / BEST, checkpoint)
    beside = {run_folder(paths[0]) / "config.yaml": folder / "config.yaml",  # a copy is in the checkpoint
              run_folder(paths[0]) / "record.json": folder / "record.json",  # for the card of a package
              paths[0].with_suffix(".ubj"): (folder / BEST).with_suffix(".ubj")}  # fmt: skip
    for path, target in beside.items():
        if path.is_file():
            with replacing(target) as temporary:
                shutil.copyfile(path, temporary)
    members = [os.path.relpath(path.absolute(), folder) for path in paths[1:]]  # a study may be moved
    write_text(folder / ENSEMBLE, json.dumps({"checkpoint": BEST.as_posix(), "members": members}, indent=2) + "\n")
