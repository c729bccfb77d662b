"""Writes the report of a study: everything on one page, in one file."""

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drawing.page import NONE, Table, html_table, image_address, template
from ops.atomic import write_text
from studies.figures import Drawn
from studies.notes import failure, read_record
from studies.plan import RECORDED, Run, Study
from studies.results import CONDITIONS, incomparable, machines
from studies.tables import RULE, joined_table, matrices, number_text, table, warnings_of

if TYPE_CHECKING:
    import pandas as pd

STATES = ("finished", "started", "failed", "waiting")
LARGEST = 1_500_000  # bytes; larger SVGs are replaced by their PNG
BETTER = {"max": "larger is better", "min": "smaller is better", None: NONE}


def write_report(
    study: Study, rows: "pd.DataFrame", states: Mapping[Path, str], figures: Sequence[Drawn], folder: Path
) -> Path:
    """Writes `report.html`, atomically, and returns its path.

    Args:
        study: The study.
        rows: Result of `studies.results.read_results`.
        states: Result of `studies.notes.read_states`.
        figures: Result of `studies.figures.write_figures`.
        folder: The study's folder.
    """
    found = [states[run.folder] for run in study.runs]
    lines = table(study, rows, states)
    html = template("study.html").render(
        study=study,
        counts={state: found.count(state) for state in STATES if state in found},
        cells=len({run.cell for run in study.runs}),
        warnings=warnings_of(study, rows),
        results=html_table(lines, lines[0].index("seeds")),
        rule=RULE,
        matrices=[(title, html_table(shown, keys)) for title, shown, keys in matrices(study, rows)],
        figures=[(each, image_address(_embedded(each.path))) for each in figures],
        metrics=_metrics(study, rows),
        conditions=_conditions(rows),
        run_tables=[(name, *_run_table(study, rows, folder, name)) for name in study.tables],
        mixed=incomparable(rows)[:1],
        machines=machines(rows),
        runs=_runs(study, rows, states, folder),
        failures="\n\n".join(text for run in study.runs if (text := failure(run, folder))),
        versions=_versions(rows),
        repeats=[(run.name, "\n".join(repeating(study, run))) for run in study.runs],
    )
    path = folder / "report.html"
    write_text(path, html)
    return path


def repeating(study: Study, run: Run) -> Iterator[str]:
    """Yields the commands that repeat a run: training, the test, and the commands after it."""
    output = Path("repeated", *run.folder.parts[1:])
    checkpoint = str(output / "checkpoints" / "best.ckpt")
    yield shlex.join(["belvedere", "fit", *run.arguments, "--seed_everything", str(run.seed), "--output", str(output)])
    for command in (("test",), *study.after):
        yield shlex.join(["belvedere", *command, "--ckpt_path", checkpoint])


def _embedded(path: Path) -> Path:
    """Returns the SVG beside a PNG, which is sharp at any size; the PNG if it holds photographs or is huge."""
    drawing = path.with_suffix(".svg")
    size = drawing.stat().st_size if drawing.is_file() else LARGEST
    return drawing if size < LARGEST and b"<image" not in drawing.read_bytes() else path


def _metrics(study: Study, rows: "pd.DataFrame") -> Table:
    """Returns the definition of each column of the results, and the images that it is computed over."""
    head = ["column", "metric", "definition", "computed over", "better"]
    images = _test_images(rows)
    lines = [[column.title, column.figure, column.definition,
              NONE if column.figure in RECORDED else f"test split, {images}", BETTER[column.better]]
             for column in study.columns]  # fmt: skip
    return html_table([head, *lines], 2, words=head[2:])


def _conditions(rows: "pd.DataFrame") -> Table:
    """Returns what determines the metrics of each group of comparable runs."""
    head = ["group", "runs", *CONDITIONS.values()]
    lines = [[str(letter), str(len(group)), *(_text(group[name].iloc[0]) for name in CONDITIONS)]
             for letter, group in rows.groupby("definition")]  # fmt: skip
    return html_table([head, *lines], 1, words=head[1:])


def _test_images(rows: "pd.DataFrame") -> str:
    counts = {str(letter): _text(group["data.test_pictures"].iloc[0]) for letter, group in rows.groupby("definition")}
    texts = {letter: "unknown number of images" if count == NONE else f"{count} images"
             for letter, count in counts.items()}  # fmt: skip
    if len(set(texts.values())) > 1:
        return ", ".join(f"{text} in {letter}" for letter, text in texts.items())
    return next(iter(texts.values()), "no run tested yet")


def _run_table(study: Study, rows: "pd.DataFrame", folder: Path, name: str) -> tuple[Table | None, str]:
    lines, note = joined_table(study, rows, folder, name)
    if not lines:
        return None, note
    return html_table(lines, next(place for place, head in enumerate(lines[0]) if head in ("seed", "seeds"))), note


def _runs(study: Study, rows: "pd.DataFrame", states: Mapping[Path, str], folder: Path) -> Table:
    """Returns the state, the headline metric and the cost of training of every run."""
    known = {row["folder"]: row for row in rows.to_dict("records")}
    headline = study.columns[0]
    head = [
        *study.axes,
        "seed",
        "state",
        headline.title,
        "best epoch",
        "epochs",
        "time",
        "memory",
        "parameters",
        "folder",
    ]
    lines = []
    for run in study.runs:
        record, row = read_record(folder / run.folder / "record.json"), known.get(run.folder.as_posix(), {})
        seconds = record.get("seconds")
        lines.append([*run.labels.values(), str(run.seed), states[run.folder],
                      number_text(row.get(headline.figure), 4, headline.figure),
                      *(number_text(record.get(name), 0) for name in ("best_epoch", "epochs")),
                      NONE if seconds is None else str(timedelta(seconds=round(seconds))),
                      number_text(record.get("peak_bytes"), metric="peak_bytes"),
                      number_text(record.get("parameters"), 0), run.folder.as_posix()])  # fmt: skip
    return html_table([head, *lines], len(study.axes) + 2, words=["folder"])


def _versions(rows: "pd.DataFrame") -> Table:
    """Returns the devices and versions, and which runs used them if they differ."""
    found: dict[str, dict[str, list[str]]] = {}
    for row in rows.to_dict("records"):
        versions = {} if row["versions"] is None else json.loads(row["versions"])
        for name, version in {"device": _text(row["device"]), **versions}.items():
            found.setdefault(name, {}).setdefault(str(version), []).append(str(row["folder"]))
    lines = [[name, version, "all" if len(runs) == len(rows) else ", ".join(runs)]
             for name, versions in found.items() for version, runs in versions.items()]  # fmt: skip
    return html_table([["what", "version", "runs"], *lines], 2, words=["runs"])


def _text(value: Any) -> str:
    """Returns a value of the results as text: whole numbers without decimals, `-` for missing values."""
    if value is None or value != value:
        return NONE
    return number_text(value, 0) if isinstance(value, int | float) and value == int(value) else str(value)
