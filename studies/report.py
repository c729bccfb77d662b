"""The report of a study: all of it on one page, in one file."""

import json
import math
import shlex
import statistics
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drawing.page import NONE, html_table, page, paragraph, picture, section
from ops.atomic import replacing
from studies.figures import Drawn
from studies.notes import read_record, read_table
from studies.plan import RECORDED, Column, Run, Study
from studies.results import MEANING, machines, mixed
from studies.tables import RULE, decimals_of, number_text, table, warnings_of

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


MEANS = "Mean ± standard deviation over the seeds that have the line."
EACH = "The lines of a run do not differ in words, so that those of several seeds cannot be told apart: a line a seed."


def joined_table(study: Study, rows: "pd.DataFrame", folder: Path, name: str) -> tuple[list[list[str]], str]:
    """A table of the runs' folders, of all runs: averaged over the seeds of a cell where lines can be told apart.

    What is no number in any run says what a line is of; lines of one cell, measured alike, that agree in it are of
    different seeds.

    Args:
        study: The study.
        rows: What `studies.results.read_results` gives; tables of other runs are left out.
        folder: The study's folder.
        name: The table's path in a run's folder.

    Returns:
        The lines, the heads first, and a sentence on what they are. Without any table there are no lines.
    """
    found = [(run, line) for run in rows.to_dict("records") for line in read_table(folder / str(run["folder"]) / name)]
    heads = list(dict.fromkeys(head for _, line in found for head in line))
    numbers = [head for head in heads if _is_number([line.get(head) or "" for _, line in found])]
    words = [head for head in heads if head not in numbers]
    places = {head: _places([line.get(head) or "" for _, line in found]) for head in numbers}
    marks = [*study.axes, *(["definition"] if rows["definition"].nunique() > 1 else [])]
    groups: dict[tuple[str, ...], list[tuple[int, dict[str, str]]]] = {}
    for run, line in found:
        key = (*(str(run[mark]) for mark in marks), *(line.get(word) or NONE for word in words))
        groups.setdefault(key, []).append((int(run["seed"]), line))
    if not groups:
        return [], ""
    shown = ["measured as" if mark == "definition" else mark for mark in marks] + words
    if any(len({seed for seed, _ in lines}) < len(lines) for lines in groups.values()):
        each = [(key, seed, line) for key, lines in groups.items() for seed, line in lines]
        values = [
            [*key, str(seed), *(_told([line], head, places[head]) for head in numbers)] for key, seed, line in each
        ]
        return [[*shown, "seed", *numbers], *values], EACH
    values = [[*key, str(len(lines)), *(_told([line for _, line in lines], head, places[head]) for head in numbers)]
              for key, lines in groups.items()]  # fmt: skip
    return [[*shown, "seeds", *numbers], *values], MEANS


def _is_number(texts: Sequence[str]) -> bool:
    """Whether these are numbers, where they are not empty; nothing but empty ones are no number."""
    try:
        return bool([float(text) for text in texts if text])
    except ValueError:
        return False


def _places(texts: Sequence[str]) -> int:
    """Decimals that numbers are told with: none where all are whole."""
    values = [value for value in map(float, filter(None, texts)) if math.isfinite(value)]
    return 0 if all(map(float.is_integer, values)) else max(map(decimals_of, values))


def _told(lines: Sequence[Mapping[str, str]], head: str, decimals: int) -> str:
    """A number of some lines: itself where all say the same whole one, otherwise its mean and deviation."""
    texts = [line.get(head) or "nan" for line in lines]
    values = [value for value in map(float, texts) if not math.isnan(value)]
    if not values:
        return NONE
    mean, same = statistics.fmean(values), len(set(values)) == 1
    if len(values) == 1 or (decimals == 0 and same):
        return f"{mean:,.{decimals}f}"
    decimals = max(1, decimals)  # means of whole numbers are none
    return f"{mean:,.{decimals}f} ± {statistics.stdev(values):,.{decimals}f}"
