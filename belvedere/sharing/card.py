"""Writes the model card of a package: what the task is, its data, metrics beside baselines, and known failures."""

import csv
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from belvedere.files import run_folder
from belvedere.folds.pool import ENSEMBLE, POOLED
from belvedere.names import TASKS, task_name
from belvedere.sharing import packed
from belvedere.sharing.failures import Review
from callbacks.intervals import COLUMNS
from callbacks.record import FINGERPRINT
from callbacks.writers.base import TESTED, read_checkpoints
from datamodules.read.tables import read_table
from drawing.page import template
from tasks.base import ImageTask
from tasks.coloring import ColoringTask
from tasks.segmentation import SegmentationTask

PICTURE = f"{packed.IMAGES}/worst.jpg"
WITHOUT_TORCH = ("without torch", f"`python -m belvedere.run {packed.ONNX} FOLDER --output OUT`")
TO_FILL_IN = "**to fill in**"

NETWORK = ("network", "architecture", "encoder", "extractor", "backbones", "head", "tta")
"""Settings of a task that say what its network is."""


@dataclass(frozen=True)
class AuthorNotes:
    """Details given by the author; empty texts are left to fill in.

    Attributes:
        title: Title of the card.
        author: Who made the model.
        license: License of the weights, such as `cc-by-4.0`, as the Hub spells it.
        data_license: License of the training data.
        use: What the model is for.
    """

    title: str = ""
    author: str = ""
    license: str = ""
    data_license: str = ""
    use: str = ""

    def missing(self) -> list[str]:
        """Returns the options that were not given."""
        return [name for name, value in asdict(self).items() if name != "title" and not value]


def card(
    task: ImageTask,
    checkpoint: Path,
    config: Mapping[str, Any],
    notes: AuthorNotes,
    name: str,
    review: Review,
    files: Collection[str],
) -> str:
    """Returns the card in Markdown, with the front matter that the Hub reads.

    Args:
        task: The task, with its weights.
        checkpoint: Its checkpoint; `record.json` and the results of `test` are read beside it.
        config: The run's config.
        notes: Details given by the author.
        name: What the package is called.
        review: What the validation images showed.
        files: Names of the package's files.
    """
    record = read_record(checkpoint)
    short = task_name(config["data"])
    metrics, note = _metrics(task, checkpoint, record, review)
    beside = bool(metrics) and len(metrics[0]) > len(("metric", "value", "interval"))  # columns of baselines
    return template("card.md").render(
        **asdict(notes) | {"title": notes.title or f"{_subject(task, short)} (Belvedere)"},
        subject=_subject(task, short),
        to_fill_in=TO_FILL_IN,
        kind=_kind(task),
        task=short,
        name=name,
        facts=_facts(task, config, record) + ([WITHOUT_TORCH] if packed.ONNX in files else []),
        data=_data(config, record),
        metrics=metrics,
        metrics_note=note,
        baselines=_baselines(task, review) if beside else "",
        failures=[(each, f"{value:.4f}") for each, value in review.worst],
        failures_note=_failures(review),
        measure=review.measure,
        picture=PICTURE if PICTURE in files else "",
    )


def read_record(checkpoint: Path) -> dict[str, Any]:
    """Returns the `record.json` of a checkpoint's run; an empty one if there is none."""
    try:
        found = json.loads((run_folder(checkpoint) / "record.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def decisions(task: ImageTask) -> dict[str, dict[str, float]]:
    """Returns threshold and minimum area of each class; nothing for tasks without masks."""
    if not isinstance(task, SegmentationTask):
        return {}
    decision = task.active_decision
    values = zip(decision.thresholds.tolist(), decision.minimum_areas.tolist(), strict=True)
    return {name: {"threshold": round(threshold, 4), "minimum_area": round(area, 6)}
            for name, (threshold, area) in zip(task.classes, values, strict=True)}  # fmt: skip


def _subject(task: ImageTask, short: str) -> str:
    subject = TASKS.get(short, short)
    standard = type(task).classes and list(task.classes) == list(type(task).classes)
    named = f" ({', '.join(task.classes)})" if task.classes and not standard else ""
    return subject[:1].upper() + subject[1:] + named


def _kind(task: ImageTask) -> str:
    if isinstance(task, SegmentationTask):
        return "image-segmentation"
    return "image-to-image" if isinstance(task, ColoringTask) else "image-classification"


def _facts(task: ImageTask, config: Mapping[str, Any], record: Mapping[str, Any]) -> list[tuple[str, str]]:
    model = _arguments(config["model"])
    named = {key: model.get(key) for key in NETWORK}
    network = [f"{key} `{_names(value)}`" for key, value in named.items() if value not in (None, False, "none")]
    count = sum(parameter.numel() for parameter in task.parameters())
    lines = [("task", f"`{_class_path(config['model']).rpartition('.')[2]}`"), ("settings", ", ".join(network))]
    lines.append(("parameters", f"{count:,}"))
    for name, found in decisions(task).items():
        area = found["minimum_area"]
        smallest = f", regions below {area:.2%} of an image are left out" if area else ""
        lines.append((f"class {name}", f"marked where the probability reaches {found['threshold']:.2f}{smallest}"))
    if record:
        trained = f"{record.get('epochs')} epochs, kept is epoch {record.get('best_epoch')}"
        lines.append(("training", f"{trained}; {_time(record.get('seconds'))} on {record.get('device')}"))
        lines.append(("versions", ", ".join(f"{key} {value}" for key, value in record.get("versions", {}).items())))
    if model.get("extractor"):
        separate = f"the weights of `{model['extractor']}` are not in the package"
        lines.append(("extractor", f"{separate}; give their file with `--model.extractor_weights`"))
    return lines


def _data(config: Mapping[str, Any], record: Mapping[str, Any]) -> list[tuple[str, str]]:
    arguments = _arguments(config["data"])
    splits = ", ".join(f"{split} {count}" for split, count in record.get("pictures", {}).items())
    sizes = [f"{key} {arguments[key]}" for key in ("size", "window", "photos", "load_size") if arguments.get(key)]
    return [
        ("dataset", Path(str(arguments.get("root", ""))).name),
        ("images", splits or "unknown: the run has no record.json"),
        ("fingerprint of the test data", f"`{record.get(FINGERPRINT) or 'unknown'}`"),
        ("size in pixels", "; ".join(sizes) or "as they are"),
    ]


def _metrics(
    task: ImageTask, checkpoint: Path, record: Mapping[str, Any], review: Review
) -> tuple[list[list[str]], str]:
    """Returns the rows of the table of metrics, the head first, and the sentence above it."""
    folder = run_folder(checkpoint) / "test"
    if (run_folder(checkpoint) / ENSEMBLE).is_file() and (run_folder(checkpoint) / POOLED).is_file():
        return _out_of_fold(run_folder(checkpoint) / POOLED)
    if not _is_of(folder, checkpoint):
        found = _last_row(run_folder(checkpoint) / "metrics.csv", "val/", record.get("best_epoch"))
        note = "It was not tested (`belvedere test`, then pack again)."
        if not found:
            return [], note
        rows = [[name, f"{value:.4f}"] for name, value in sorted(found.items())]
        return [
            ["validation metric", "value"],
            *rows,
        ], f"{note} The best epoch was chosen on the validation images, so that these values are optimistic:"
    values = _last_row(folder / "metrics.csv", "test/")
    limits: dict[str, str] = {}
    if (folder / "intervals.csv").is_file():
        table = read_table(folder / "intervals.csv", COLUMNS)
        limits = {name.removeprefix("test/"): f"{float(low):.4f} to {float(high):.4f}"
                  for name, low, high in zip(table["figure"], table["low"], table["high"], strict=True)}  # fmt: skip
    own = {name: value for name, value in values.items() if not name.startswith(tuple(f"{b}_" for b in task.baselines))
           and name not in task.baselines}  # fmt: skip
    beside = {base: {name: values.get(f"{base}_{name}", math.nan) for name in own} for base in task.baselines}
    if "majority" in values and "majority" in beside:
        beside["majority"]["accuracy"] = values["majority"]
    beside |= review.baselines
    shown = [base for base in beside if any(not math.isnan(value) for value in beside[base].values())]
    rows = [
        [name, f"{value:.4f}", limits.get(name, ""), *(_number(beside[base].get(name, math.nan)) for base in shown)]
        for name, value in sorted(own.items())
    ]
    count = record.get("pictures", {}).get("test")
    of = f"{count} " if count else ""
    return [
        ["test metric", "value", "95 % interval", *shown],
        *rows,
    ], f"On {of}test images, which training did not see:"


def _out_of_fold(path: Path) -> tuple[list[list[str]], str]:
    """Returns the metrics that `belvedere pool` found, as `_metrics` does."""
    found = read_table(path, (*COLUMNS, "value"))
    rows = [
        [name, f"{float(value):.4f}", f"{float(low):.4f} to {float(high):.4f}" if low else ""]
        for name, value, low, high in zip(*(found[key] for key in ("figure", "value", "low", "high")), strict=True)
    ]
    return [["metric out of fold", "value", "95 % interval"], *rows], (
        f"Of {next(iter(found['pictures']))} images, each measured by the network of the fold that was trained without "
        "it; here is the network of the first fold, with what was fitted on all:"
    )


def _baselines(task: ImageTask, review: Review) -> str:
    meanings = {"grey": "no color", "mean": "one color for all pixels", "mean_by_luminance": "one color per luminance",
                "majority": "always the larger class"} | dict.fromkeys(review.baselines, "")  # fmt: skip
    known = [f"`{name}`: {meanings[name]}" for name in task.baselines if meanings.get(name)]
    marked = ["every pixel or none marked, whatever the image shows"] if review.baselines else []
    parts = known + marked
    return f"Beside it trivial baselines: {'; '.join(parts)}." if parts else ""


def _failures(review: Review) -> str:
    if review.problem:
        return f"Not looked for: {review.problem}"
    if not review.worst:
        return "Not looked for."
    return f"Its worst validation images of {review.count}, by `{review.measure}`:"


def _is_of(folder: Path, checkpoint: Path) -> bool:
    """Returns whether the results in a folder are of this checkpoint alone."""
    try:
        known = read_checkpoints(folder)
        found = known.get(TESTED, known)  # earlier versions had no table
        there = Path(found["checkpoint"])
        # by its name alone: a run that was moved keeps its results beside its checkpoints
        same = there.name == checkpoint.name and not found["members"]
        return same and (folder / "metrics.csv").stat().st_mtime_ns >= checkpoint.stat().st_mtime_ns
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _last_row(path: Path, prefix: str, epoch: int | None = None) -> dict[str, float]:
    """Returns the metrics of the last row of a table that has them, or of an epoch, without the prefix."""
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if any(name.startswith(prefix) and row[name] for name in row)]
    chosen = [row for row in rows if epoch is None or row.get("epoch") == str(epoch)]
    last = chosen[-1] if chosen else {}
    return {
        name.removeprefix(prefix): float(value) for name, value in last.items() if name.startswith(prefix) and value
    }


def _arguments(part: Any) -> Mapping[str, Any]:
    return (part.get("init_args") or {}) if isinstance(part, dict) else {}


def _class_path(part: Any) -> str:
    return str(part["class_path"] if isinstance(part, dict) else part)


def _names(value: Any) -> str:
    return ", ".join(value) if isinstance(value, dict) else str(value)


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.4f}"


def _time(seconds: Any) -> str:
    if not isinstance(seconds, int | float):
        return "unknown time"
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )
