"""Collects the results of a study, one row per run, and checks whether the runs can be compared."""

import json
import math
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ops.atomic import harmless, replacing
from studies.notes import read_record, read_table, state
from studies.plan import RECORDED, Run, Study

if TYPE_CHECKING:
    import pandas as pd

# Arguments of the data modules.
SIZE = ("size", "output_size", "load_size", "squeeze", "pyramid_levels")
TRUTH = ("classes", "labels", "statistic", "threshold")
SPLIT = ("split_seed", "val_fraction", "test_fraction", "test_list")
# Columns of the results that, besides the network, determine a metric, and their titles in reports. Runs that agree in
# all of them are comparable. Settings of one task alone are part of the data fingerprint (`ImageDataModule.truth`).
CONDITIONS = {
    "data.size": "image size",
    "data.truth": "ground truth",
    "data.split": "split",
    "data.test_pictures": "number of test images",
    "data_fingerprint": "data fingerprint",
    "belvedere": "version of belvedere",
}


def read_results(study: Study, folder: Path) -> "pd.DataFrame":
    """Returns a row for each tested run, in the order of the study.

    The columns are the axes, `seed`, the metrics of the study's columns, each with `<metric>_low` and `<metric>_high`
    of its 95 % interval over the test images, the cost of training from `record.json`, the `CONDITIONS`, `definition`
    (a letter; runs with the same letter are comparable), `device`, `versions`, `state`, `arguments` of `belvedere fit`,
    and `folder`. Missing values are empty.

    Args:
        study: The study.
        folder: Its folder.
    """
    import pandas as pd

    metrics = [column.figure for column in study.columns if column.figure not in RECORDED]
    measured = [name + end for name in metrics for end in ("", "_low", "_high")]
    names = ["cell", *study.axes, "seed", *measured, *RECORDED, "device", *CONDITIONS,
             "versions", "state", "arguments", "folder"]  # fmt: skip
    tested = [run for run in study.runs if (folder / run.folder / "test" / "metrics.csv").is_file()]
    rows = pd.DataFrame([_row(run, folder, metrics) for run in tested], columns=pd.Index(names))
    rows.insert(len(study.axes) + 2, "definition", _letters(rows))
    return rows


def write_results(rows: "pd.DataFrame", path: Path) -> None:
    """Writes the results as CSV, atomically; labels that a spreadsheet would compute are neutralized."""
    labels = rows.columns.difference(["arguments"])  # these begin with --
    with replacing(path) as temporary:
        rows.assign(**{name: rows[name].map(harmless) for name in labels}).to_csv(
            temporary, index=False, errors="surrogateescape"
        )


def incomparable(rows: "pd.DataFrame") -> list[str]:
    """Returns warnings about conditions that differ between the runs; none if all runs are comparable."""
    groups = rows.groupby("definition")
    if len(groups) < 2:
        return []
    members = "; ".join(f"{letter}: {_described(rows, group)}" for letter, group in groups)
    sentences = [f"Not all of these runs are comparable; compare only rows of the same group. {members}."]
    for name, title in CONDITIONS.items():
        values = rows[name].fillna("unknown").astype(str)
        if values.nunique() > 1:
            parts = (f"{', '.join(value[:80] for value in dict.fromkeys(values[group.index]))} in {letter}"
                     for letter, group in groups)  # fmt: skip
            sentences.append(f"The {title} differs: {'; '.join(parts)}.")
    return sentences


def machines(rows: "pd.DataFrame") -> list[str]:
    """Returns a warning if times and memory come from different machines; none if from one."""
    devices = rows["device"].fillna("unknown").astype(str)
    if devices.nunique() < 2:
        return []
    members = "; ".join(f"{device}: {_described(rows, rows[devices == device])}" for device in dict.fromkeys(devices))
    return [f"Times and memory come from different machines; compare only runs of one machine. {members}."]


def _row(run: Run, folder: Path, metrics: list[str]) -> dict[str, Any]:
    place = folder / run.folder
    tested = read_table(place / "test" / "metrics.csv")
    intervals = {row["figure"]: row for row in read_table(place / "test" / "intervals.csv")}
    row: dict[str, Any] = {"cell": run.cell, **run.labels, "seed": run.seed}
    for metric in metrics:
        row[metric] = _number(next((line[metric] for line in reversed(tested) if line.get(metric)), None))
        for end in ("low", "high"):
            row[f"{metric}_{end}"] = _number(intervals.get(metric, {}).get(end))
    record, config = read_record(place / "record.json"), place / "config.yaml"
    data = (yaml.safe_load(config.read_text(encoding="utf-8")) if config.is_file() else {}).get("data") or {}
    options, versions = data.get("init_args", data), record.get("versions", {})
    return row | {name: record.get(name) for name in RECORDED} | {
        "device": _device(record),
        "data.size": image_size(options),
        "data.truth": _settings(options, TRUTH),
        "data.split": _settings(options, SPLIT),
        "data.test_pictures": record.get("pictures", {}).get("test"),
        "data_fingerprint": record.get("data_fingerprint"),
        "belvedere": versions.get("belvedere"),
        "versions": json.dumps(versions) if versions else None,
        "state": state(run, folder),
        "arguments": shlex.join(run.arguments),
        "folder": run.folder.as_posix(),
    }  # fmt: skip


def _device(record: dict[str, Any]) -> str | None:
    count, device = record.get("processes", 1), record.get("device")
    return f"{count} x {device}" if device and count > 1 else device


def image_size(options: dict[str, Any]) -> str | None:
    """Returns what determines the size of the images that metrics are computed on, as text; None if nothing does.

    Masks that are scored at an `output_size` do not depend on the size of the network's input.

    Args:
        options: Arguments of the data module.
    """
    scored = options.get("output_size") is not None
    return _settings(options, tuple(name for name in SIZE if name != "size" or not scored))


def _settings(options: dict[str, Any], names: tuple[str, ...]) -> str | None:
    """Returns those of the options that are set, as text; None if none is."""
    values = {name: value for name in names if (value := options.get(name)) is not None and value is not False}
    return ", ".join(f"{name} {value}" for name, value in values.items()) or None


def _number(text: str | None) -> float:
    return float(text) if text else math.nan


def _letters(rows: "pd.DataFrame") -> list[str]:
    """Returns a letter for each row, from A; rows that agree in all `CONDITIONS` share one."""
    keys = [tuple(map(str, values)) for values in rows[list(CONDITIONS)].itertuples(index=False)]
    order = list(dict.fromkeys(keys))
    return [chr(ord("A") + order.index(key)) if len(order) <= 26 else str(order.index(key) + 1) for key in keys]


def _described(rows: "pd.DataFrame", group: "pd.DataFrame") -> str:
    """Describes some of the runs, by the labels of an axis if these select exactly them."""
    columns = list(rows.columns)
    for axis in columns[1 : columns.index("seed")]:
        labels = list(dict.fromkeys(group[axis]))
        if len(rows[rows[axis].isin(labels)]) == len(group) and len(labels) < rows[axis].nunique():
            return f"{axis} {', '.join(labels)}"
    return ", ".join(group["folder"].str.removeprefix("cells/")) if len(group) <= 3 else f"{len(group)} runs"
