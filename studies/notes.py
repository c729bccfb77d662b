"""Keeps the state of a study in its folder: finished steps, failures, and which study the folder belongs to."""

import csv
import json
import shlex
import signal
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ops.atomic import remove_leftovers, write_text
from ops.errors import StudyError
from studies.plan import Run, Study

NOTE = "study.json"  # one in the study's folder, and another in each run's folder
LOG = "log.txt"


@dataclass
class Note:
    """Progress of a run.

    Attributes:
        arguments: Arguments of `fit`.
        seconds: Duration of each finished step, by its command; of a resumed step, the duration of its last part.
        failed: The `step` that failed, its exit `code` and the `last` lines of its log; None without a failure.
    """

    arguments: list[str]
    seconds: dict[str, float] = field(default_factory=dict)
    failed: dict[str, Any] | None = None


def read_note(place: Path) -> Note | None:
    """Returns the note in a run's folder; None if there is none."""
    values = read_record(place / NOTE)
    return Note(**values) if values else None


def write_note(note: Note, place: Path) -> None:
    """Writes the note of a run, atomically."""
    _write(asdict(note), place / NOTE)


def steps(after: Sequence[Sequence[str]]) -> list[str]:
    """Returns the commands of all steps of a run, in order."""
    return ["fit", "test", *map(shlex.join, after)]


def state(run: Run, folder: Path) -> str:
    """Returns the state of a run: `waiting`, `started`, `failed` or `finished`.

    Args:
        run: The run.
        folder: The study's folder.
    """
    note = read_note(folder / run.folder)
    if note is None:
        return "waiting"
    if all(step in note.seconds for step in steps(read_record(folder / NOTE).get("after", []))):
        return "finished"
    return "started" if note.failed is None else "failed"


def read_states(study: Study, folder: Path) -> dict[Path, str]:
    """Returns the `state` of every run by its folder, relative to the study's."""
    return {run.folder: state(run, folder) for run in study.runs}


def failure(run: Run, folder: Path) -> str:
    """Describes the failure of a run: step, exit code, path and last lines of the log; empty without a failure."""
    note = read_note(folder / run.folder)
    if note is None or note.failed is None:
        return ""
    code = note.failed["code"]
    ended = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    lines = [f"{run.name}: {note.failed['step']} {ended}; {folder / run.folder / LOG}"]
    return "\n".join([*lines, *(f"    {line}" for line in note.failed["last"])])


def has_checkpoint(place: Path) -> bool:
    """Returns whether a run's folder has a complete checkpoint to resume from."""
    # checkpoints are zip archives, whose last bytes show whether the file is complete
    return any(zipfile.is_zipfile(place / "checkpoints" / name) for name in ("last.ckpt", "preempted.ckpt"))


def claim(study: Study, folder: Path) -> None:
    """Assigns the folder to the study, and removes what killed processes left half-written.

    Raises:
        StudyError: The folder belongs to another study.
    """
    check_folder(study, folder)
    remove_leftovers(folder, folder / "figures")
    _write({"study": study.name, "axes": list(study.axes), "after": study.after}, folder / NOTE)


def check_folder(study: Study, folder: Path) -> None:
    """Rejects the folder of another study, or of this study with other options; seeds and labels may be added.

    The options of a run without a checkpoint may change: there is no training yet to mix them with.

    Raises:
        StudyError: The folder does not fit; the message lists the differences.
    """
    if folder.exists() and not folder.is_dir():
        raise StudyError(f"--output {folder} is a file; expected a folder.")
    noted = read_record(folder / NOTE)
    for what, mine in (("study", study.name), ("axes", list(study.axes))):
        if noted and noted[what] != mine:
            raise StudyError(
                f"{folder} belongs to the {what} {_text(noted[what])}, not {_text(mine)}. Use another --output."
            )
    for run in study.runs:
        place = folder / run.folder
        note = read_note(place)
        if note is None or note.arguments == list(run.arguments):
            continue
        if "fit" in note.seconds or has_checkpoint(place):
            raise StudyError(
                f"{place} was started with other options: {_difference(note.arguments, run.arguments)}. Use those "
                "options, or another --output."
            )


def _difference(before: Sequence[str], now: Sequence[str]) -> str:
    old, new = _pairs(before), _pairs(now)
    parts = [f"then with {text}, now without" for text in old if text not in new]
    parts += [f"now with {text}, then without" for text in new if text not in old]
    return "; ".join(parts) or f"then in the order {shlex.join(before)}, now {shlex.join(now)}"


def _pairs(arguments: Sequence[str]) -> list[str]:
    return [shlex.join(arguments[place : place + 2]) for place in range(0, len(arguments), 2)]


def _text(value: str | list[str]) -> str:
    return value if isinstance(value, str) else ", ".join(value)


def _write(value: dict[str, Any], path: Path) -> None:
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def read_table(path: Path) -> list[dict[str, str]]:
    """Returns the rows of a CSV file; empty if the file is missing."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def read_record(path: Path) -> dict[str, Any]:
    """Returns the content of a JSON file; empty if the file is missing."""
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return record
