"""What a study notes in its folder: which steps of a run have ended, which one failed, and whose folder it is."""

import csv
import json
import shlex
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ops.atomic import write_text
from ops.errors import StudyError
from studies.plan import Run, Study

if TYPE_CHECKING:
    pass

NOTE = "study.json"  # in the study's folder, and another one in each run's
LOG = "log.txt"


@dataclass
class Note:
    """How far a run is.

    Attributes:
        arguments: What `fit` was given.
        seconds: How long each step took that ended well, by its words; of one that was gone on with, its last part.
        failed: The `step` that failed, its exit `code` and the `last` lines of its log; None where none did.
    """

    arguments: list[str]
    seconds: dict[str, float] = field(default_factory=dict)
    failed: dict[str, Any] | None = None


def read_note(place: Path) -> Note | None:
    """What is noted in a run's folder; None where nothing is."""
    said = read_record(place / NOTE)
    return Note(**said) if said else None


def write_note(note: Note, place: Path) -> None:
    """Notes it; a note is whole at any moment."""
    _write(asdict(note), place / NOTE)


def steps(after: Sequence[Sequence[str]]) -> list[str]:
    """The words of all steps of a run, in order."""
    return ["fit", "test", *map(shlex.join, after)]


def state(run: Run, folder: Path) -> str:
    """How far a run is, from disk alone: `waiting`, `begun`, `failed` or `finished`.

    Args:
        run: The run.
        folder: The study's folder.
    """
    note = read_note(folder / run.folder)
    if note is None:
        return "waiting"
    if all(step in note.seconds for step in steps(read_record(folder / NOTE).get("after", []))):
        return "finished"
    return "begun" if note.failed is None else "failed"


def has_checkpoint(place: Path) -> bool:
    """Whether a run's training left something whole to go on from."""
    # torch's format is zip, whose last bytes say whether it is all there
    return any(zipfile.is_zipfile(place / "checkpoints" / name) for name in ("last.ckpt", "preempted.ckpt"))


def claim(study: Study, folder: Path) -> None:
    """Makes the folder the study's.

    Raises:
        StudyError: It is another's.
    """
    check_folder(study, folder)
    folder.mkdir(parents=True, exist_ok=True)
    _write({"study": study.name, "axes": list(study.axes), "after": study.after}, folder / NOTE)


def check_folder(study: Study, folder: Path) -> None:
    """Refuses the folder of another study, or of this one with other options; more seeds and labels are welcome.

    What has not come as far as a checkpoint may be run with other options: nothing would be mixed.

    Raises:
        StudyError: It is such a folder; the message says what differs.
    """
    if folder.exists() and not folder.is_dir():
        raise StudyError(f"--output {folder} is a file; a folder was wanted.")
    noted = read_record(folder / NOTE)
    for what, mine in (("study", study.name), ("axes", list(study.axes))):
        if noted and noted[what] != mine:
            raise StudyError(
                f"{folder} holds the {what} {_text(noted[what])}, and this is {_text(mine)}. Give another --output."
            )
    for run in study.runs:
        place = folder / run.folder
        note = read_note(place)
        if note is None or note.arguments == list(run.arguments):
            continue
        if "fit" in note.seconds or has_checkpoint(place):
            raise StudyError(
                f"{place} was begun with other options: {_difference(note.arguments, run.arguments)}. Give the options "
                "that the study was begun with, or another --output for those you have now."
            )


def _difference(before: Sequence[str], now: Sequence[str]) -> str:
    """How two lists of options differ, in words."""
    kept, given = _pairs(before), _pairs(now)
    parts = [f"with {text} then, without it now" for text in kept if text not in given]
    parts += [f"with {text} now, without it then" for text in given if text not in kept]
    return "; ".join(parts) or f"in the order {shlex.join(before)} then, {shlex.join(now)} now"


def _pairs(arguments: Sequence[str]) -> list[str]:
    return [shlex.join(arguments[place : place + 2]) for place in range(0, len(arguments), 2)]


def _text(value: str | list[str]) -> str:
    return value if isinstance(value, str) else ", ".join(value)


def _write(value: dict[str, Any], path: Path) -> None:
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def read_table(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV file; none where it is missing."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def read_record(path: Path) -> dict[str, Any]:
    """What a JSON file holds; nothing where it is missing."""
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return record
