"""What the runs of a study came to: a row a run, and whether the rows were measured alike."""

import json
import math
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ops.atomic import replacing
from studies.notes import read_record, read_table
from studies.plan import RECORDED, Run, Study

if TYPE_CHECKING:
    import pandas as pd

# Arguments of the data modules.
SIZE = ("size", "output_size", "load_size", "squeeze", "window", "pyramid_levels")
TRUTH = ("classes", "labels", "statistic", "threshold")
SPLIT = ("split_seed", "val_fraction", "test_fraction", "test_list")
# What figures depend on beside the network. Words for a reader by the column of the results.
MEANING = {
    "data.size": "size of the pictures",
    "data.truth": "truth",
    "data.split": "split",
    "data.test_pictures": "number of test pictures",
    "data_fingerprint": "fingerprint of the data",
    "belvedere": "version of belvedere, and with it of its metrics",
}


def read_results(study: Study, folder: Path) -> "pd.DataFrame":
    """A row for each run that has figures of a test, in the order of the study.

    The columns are the axes, `seed`, the figures of the study's columns, each with `<figure>_low` and `<figure>_high`
    of its 95 % interval over the test pictures, what `record.json` says of the training, what the figures depend on
    (`MEANING`), `definition` (a letter: rows of one letter were measured alike), `device`, `versions`, `state`,
    `arguments` of `belvedere fit`, and `folder`. What a run does not say is empty.

    Args:
        study: The study.
        folder: Its folder.
    """
    import pandas as pd

    figures = [column.figure for column in study.columns if column.figure not in RECORDED]
    measured = [name + end for name in figures for end in ("", "_low", "_high")]
    names = ["cell", *study.axes, "seed", *measured, *RECORDED, "device", *MEANING,
             "versions", "state", "arguments", "folder"]  # fmt: skip
    tested = [run for run in study.runs if (folder / run.folder / "test" / "metrics.csv").is_file()]
    rows = pd.DataFrame([_row(run, folder, figures) for run in tested], columns=pd.Index(names))
    rows.insert(len(study.axes) + 2, "definition", _letters(rows))
    return rows


def write_results(rows: "pd.DataFrame", path: Path) -> None:
    """Writes the rows as CSV; a file of that name is whole at any moment."""
    with replacing(path) as temporary:
        rows.to_csv(temporary, index=False)


def read_states(study: Study, folder: Path) -> dict[Path, str]:
    """How far each run is, `waiting`, `begun`, `failed` or `finished`, by its folder in the study's."""
    from studies.running import state

    return {run.folder: state(run, folder) for run in study.runs}


def mixed(rows: "pd.DataFrame") -> list[str]:
    """Sentences about what the rows' figures do not have in common; none if they were measured alike."""
    alike = rows.groupby("definition")
    if len(alike) < 2:
        return []
    counts = "; ".join(f"{letter}: {_named(rows, those)}" for letter, those in alike)
    said = [f"These figures were not all measured alike; compare only rows of one letter with each other. {counts}."]
    for name, words in MEANING.items():
        values = rows[name].fillna("unknown").astype(str)
        if values.nunique() > 1:
            parts = (f"{', '.join(value[:80] for value in dict.fromkeys(values[those.index]))} in {letter}"
                     for letter, those in alike)  # fmt: skip
            said.append(f"The {words} differs: {'; '.join(parts)}.")
    return said


def machines(rows: "pd.DataFrame") -> list[str]:
    """A sentence about the machines that the rows' times and memory are of; none where it is one."""
    devices = rows["device"].fillna("unknown").astype(str)
    if devices.nunique() < 2:
        return []
    counts = "; ".join(f"{device}: {_named(rows, rows[devices == device])}" for device in dict.fromkeys(devices))
    return [f"Times and memory are of different machines; compare only those of one. {counts}."]


def _row(run: Run, folder: Path, figures: list[str]) -> dict[str, Any]:
    from studies.running import state

    place = folder / run.folder
    tested = read_table(place / "test" / "metrics.csv")
    intervals = {row["figure"]: row for row in read_table(place / "test" / "intervals.csv")}
    row: dict[str, Any] = {"cell": run.cell, **run.labels, "seed": run.seed}
    for figure in figures:
        row[figure] = _number(next((line[figure] for line in reversed(tested) if line.get(figure)), None))
        row[figure + "_low"], row[figure + "_high"] = (
            _number(intervals.get(figure, {}).get(end)) for end in ("low", "high")
        )
    record, config = read_record(place / "record.json"), place / "config.yaml"
    data = _data(yaml.safe_load(config.read_text(encoding="utf-8")) if config.is_file() else {})
    versions = record.get("versions", {})
    return row | _training(record) | {
        "device": _device(record),
        "data.size": _text(data, SIZE),
        "data.truth": _text(data, TRUTH),
        "data.split": _text(data, SPLIT),
        "data.test_pictures": record.get("pictures", {}).get("test"),
        "data_fingerprint": record.get("data_fingerprint"),
        "belvedere": versions.get("belvedere"),
        "versions": json.dumps(versions) if versions else None,
        "state": state(run, folder),
        "arguments": shlex.join(run.arguments),
        "folder": run.folder.as_posix(),
    }  # fmt: skip


def _training(record: dict[str, Any]) -> dict[str, Any]:
    """What training took and found, by the names of `RECORDED`."""
    return {name: record.get(name) for name in RECORDED}


def _device(record: dict[str, Any]) -> str | None:
    """What trained: how many of which device."""
    count, device = record.get("processes", 1), record.get("device")
    return f"{count} x {device}" if device and count > 1 else device


def _data(config: dict[str, Any]) -> dict[str, Any]:
    """Arguments of the data module."""
    data = config.get("data") or {}
    arguments: dict[str, Any] = dict(data.get("init_args", data))
    if not str(data.get("class_path")).endswith("RoadsDataModule"):
        arguments.pop("window", None)  # what is seen around a pixel, or at once in predict: no other pixels are scored
    return arguments


def _text(arguments: dict[str, Any], names: tuple[str, ...]) -> str | None:
    """Arguments in words, those that say something."""
    said = {name: value for name in names if (value := arguments.get(name)) is not None and value is not False}
    return ", ".join(f"{name} {value}" for name, value in said.items()) or None


def _number(text: str | None) -> float:
    return float(text) if text else math.nan


def _letters(rows: "pd.DataFrame") -> list[str]:
    """A letter for each row, the same for rows that agree in all of `MEANING`: A for the first."""
    keys = [tuple(map(str, values)) for values in rows[list(MEANING)].itertuples(index=False)]
    order = list(dict.fromkeys(keys))
    return [chr(ord("A") + order.index(key)) if len(order) <= 26 else str(order.index(key) + 1) for key in keys]


def _named(rows: "pd.DataFrame", those: "pd.DataFrame") -> str:
    """Which runs these are among all: by the labels of an axis where these are what they have in common."""
    columns = list(rows.columns)
    for axis in columns[1 : columns.index("seed")]:
        labels = list(dict.fromkeys(those[axis]))
        if len(rows[rows[axis].isin(labels)]) == len(those) and len(labels) < rows[axis].nunique():
            return f"{axis} {', '.join(labels)}"
    return ", ".join(those["folder"].str.removeprefix("cells/")) if len(those) <= 3 else f"{len(those)} runs"
