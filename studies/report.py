"""The report of a study: all of it on one page, in one file."""

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from callbacks.drawing import replacing
from studies.figures import Drawn
from studies.page import html_table, page, paragraph, picture, section
from studies.plan import Column, Run, Study
from studies.results import MEANING, machines, mixed, read_record
from studies.run_tables import joined_table
from studies.study_file import RECORDED
from studies.tables import NONE, RULE, number_text, table, warnings_of

if TYPE_CHECKING:
    import pandas as pd

STATES = ("finished", "begun", "failed", "waiting")
LARGEST = 1_500_000  # bytes of an SVG; a larger figure is shown as PNG
BETTER = {"max": "large values are better", "min": "small values are better", None: ""}


def write_report(
    study: Study, rows: "pd.DataFrame", states: Mapping[Path, str], drawn: Sequence[Drawn], folder: Path
) -> Path:
    """Writes `report.html`; a file of that name is whole at any moment.

    Args:
        study: The study.
        rows: What `studies.results.read_results` gives.
        states: What `studies.results.read_states` gives.
        drawn: What `studies.figures.write_figures` gives.
        folder: The study's folder.
    """
    parts = (
        _head(study, states),
        _results(study, rows, states),
        _figures(drawn),
        _meaning(study, rows),
        *(_run_table(study, rows, folder, name) for name in study.tables),
        _runs(study, rows, states, folder),
        _versions(rows),
        _commands(study),
    )
    path = folder / "report.html"
    with replacing(path) as temporary:
        temporary.write_text(page(f"Study {study.name}", "\n".join(parts)), encoding="utf-8")
    return path


def _head(study: Study, states: Mapping[Path, str]) -> str:
    found = [states[run.folder] for run in study.runs]
    counts = {name: found.count(name) for name in STATES if name in found}
    said = [f"{counts.pop('finished', 0)} of {len(found)} runs finished"]
    said += [f"{count} {name}" for name, count in counts.items()]
    cells = len({run.cell for run in study.runs})
    seeds = f"{len(study.seeds)} seed{'s' if len(study.seeds) > 1 else ''} each ({', '.join(map(str, study.seeds))})"
    grid = f"{cells} cell{'s' if cells > 1 else ''}, {seeds}"
    if study.impossible:
        grid += f"; {len(study.impossible)} more {'is' if len(study.impossible) == 1 else 'are'} impossible"
    bar = "".join(f'<i class="{name}" style="flex:{found.count(name)}"></i>' for name in STATES if name in found)
    return (
        f'<header><p class="kind">Study {escape(study.name)}</p>\n<h1>{escape(study.question)}</h1>\n'
        f'<div class="bar">{bar}</div>\n{paragraph(", ".join(said) + ". " + grid + ".", "dim")}</header>'
    )


def _results(study: Study, rows: "pd.DataFrame", states: Mapping[Path, str]) -> str:
    lines = table(study, rows, states)
    keys = len(study.axes) + ("measured as" in lines[0])
    return section("Results", _warnings(warnings_of(study, rows)), html_table(lines, keys), paragraph(RULE, "dim"))


def _warnings(sentences: Sequence[str]) -> str:
    paragraphs = "".join(map(paragraph, sentences))
    return f'<div class="warn" role="note">{paragraphs}</div>' if paragraphs else ""


def _figures(drawn: Sequence[Drawn]) -> str:
    if not drawn:
        return section("Figures", paragraph("None yet: no run has come so far.", "dim"))
    return section("Figures", *(picture(_shown(each.path), each.title, each.caption) for each in drawn))


def _shown(path: Path) -> Path:
    """The SVG beside a PNG, which is sharp at any size; the PNG where it is of photographs, or the SVG is huge."""
    drawing = path.with_suffix(".svg")
    size = drawing.stat().st_size if drawing.is_file() else LARGEST
    return drawing if size < LARGEST and b"<image" not in drawing.read_bytes() else path


def _meaning(study: Study, rows: "pd.DataFrame") -> str:
    """What each column of the table is, and what the figures were measured on."""
    heads = ["column", "figure", "definition", "measured on", "better"]
    pictures = _pictures(rows)
    lines = [[column.title, column.figure, column.definition,
              NONE if column.figure in RECORDED else f"test split, {pictures}", BETTER[column.better] or NONE]
             for column in study.columns]  # fmt: skip
    columns = html_table([heads, *lines], 2, words=heads[2:])
    measured = [["measured as", "runs", *MEANING.values()]]
    for letter, those in rows.groupby("definition"):
        measured.append([str(letter), str(len(those)), *(_text(those[name].iloc[0]) for name in MEANING)])
    return section("What the figures are", columns, html_table(measured, 1, words=measured[0][1:]) if len(rows) else "")


def _pictures(rows: "pd.DataFrame") -> str:
    """How many pictures the figures are of."""
    numbers = {str(letter): _text(those["data.test_pictures"].iloc[0]) for letter, those in rows.groupby("definition")}
    known = {letter: "pictures of unknown number" if number == NONE else f"{number} pictures"
             for letter, number in numbers.items()}  # fmt: skip
    if not known:
        return "no run is tested yet"
    if len(set(known.values())) == 1:
        return next(iter(known.values()))
    return ", ".join(f"{text} in {letter}" for letter, text in known.items())


def _run_table(study: Study, rows: "pd.DataFrame", folder: Path, name: str) -> str:
    lines, sentence = joined_table(study, rows, folder, name)
    if not lines:
        return section(name, paragraph("No run has written it yet.", "dim"))
    keys = next(place for place, head in enumerate(lines[0]) if head in ("seed", "seeds"))
    return section(name, _warnings(mixed(rows)[:1]), html_table(lines, keys), paragraph(sentence, "dim"))


def _runs(study: Study, rows: "pd.DataFrame", states: Mapping[Path, str], folder: Path) -> str:
    """Every run, what its training took, and why it failed."""
    from studies.running import failure

    known = {row["folder"]: row for row in rows.to_dict("records")}
    headline = study.columns[0]
    heads = [*study.axes, "seed", "state", headline.title, "best epoch", "epochs", "time", "memory", "parameters"]
    lines = [[*heads, "folder"]]
    for run in study.runs:
        record, row = read_record(folder / run.folder / "record.json"), known.get(run.folder.as_posix(), {})
        figure, epochs = row.get(headline.figure), (record.get("best_epoch"), record.get("epochs"))
        lines.append([*run.labels.values(), str(run.seed), states[run.folder], _number(figure, headline),
                      *map(_text, epochs), _time(record.get("seconds")), _memory(record.get("peak_bytes")),
                      _text(record.get("parameters")), run.folder.as_posix()])  # fmt: skip
    reasons = "\n\n".join(text for run in study.runs if (text := failure(run, folder)))
    failed = f"<h3>Failed</h3>\n<pre>{escape(reasons)}</pre>" if reasons else ""
    note = "Times are of training with its validation, hours:minutes:seconds; memory is the most that it had at once."
    table_of_runs = html_table(lines, len(study.axes) + 2, words=["folder"])
    return section("Runs", _warnings(machines(rows)), table_of_runs, paragraph(note, "dim"), failed)


def _versions(rows: "pd.DataFrame") -> str:
    """What the runs used, and which runs used which where they differ."""
    found: dict[str, dict[str, list[str]]] = {}
    for row in rows.to_dict("records"):
        for name, version in [("device", _text(row["device"])), *json.loads(_text(row["versions"], "{}")).items()]:
            found.setdefault(name, {}).setdefault(str(version), []).append(str(row["folder"]))
    lines = [[name, version, "all" if len(runs) == len(rows) else ", ".join(runs)]
             for name, versions in found.items() for version, runs in versions.items()]  # fmt: skip
    if not lines:
        return section("Machine and versions", paragraph("No run has said yet.", "dim"))
    return section("Machine and versions", html_table([["of", "which", "runs"], *lines], 2, words=["runs"]))


def _commands(study: Study) -> str:
    """What is typed to repeat each run."""
    note = "Typed in the folder that the study was started in. Each run is written into a folder there."
    blocks = "".join(f"<h3>{escape(' · '.join(run.labels.values()))}, seed {run.seed}</h3>"
                     f"<pre>{escape(chr(10).join(repeating(study, run)))}</pre>\n" for run in study.runs)  # fmt: skip
    commands = f"<details><summary>The commands of {len(study.runs)} runs</summary>\n{blocks}</details>"
    return section("To repeat a run", paragraph(note, "dim"), commands)


def repeating(study: Study, run: Run) -> Iterator[str]:
    """The command lines that repeat a run: training, the test, and what follows it."""
    output = Path("repeated", *run.folder.parts[1:])
    checkpoint = str(output / "checkpoints" / "best.ckpt")
    yield shlex.join(["belvedere", "fit", *run.arguments, "--seed_everything", str(run.seed), "--output", str(output)])
    for command in (("test",), *study.after):
        yield shlex.join(["belvedere", *command, "--ckpt_path", checkpoint])


def _text(value: Any, missing: str = NONE) -> str:
    """A value of a table: whole numbers as such, nothing as `missing`."""
    if value is None or value != value:
        return missing
    return f"{int(value):,}" if isinstance(value, int | float) and value == int(value) else str(value)


def _number(value: Any, column: Column) -> str:
    return NONE if value is None or value != value else number_text(float(value), column, 4)


def _time(seconds: Any) -> str:
    return NONE if seconds is None else str(timedelta(seconds=round(seconds)))


def _memory(size: Any) -> str:
    return NONE if size is None else f"{size / 2**30:.2f} GiB"
