"""The command `belvedere study`."""

import os
import shlex
import signal
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import NamedTuple, NoReturn

from ops.errors import StudyError
from studies.notes import check_folder, claim, read_note, read_table
from studies.plan import SHIPPED, Run, Study, find_study, read_study
from studies.results import read_results, read_states, write_results
from studies.running import failure, is_locked, name_of, run_study, state
from studies.slurm import array_script
from studies.tables import table_text, write_table

HELP = """belvedere study: many runs of a grid and its seeds, and what they came to as table, figures and report

  belvedere study NAME --data.root FOLDER ...   runs all that is not finished, one after the other, then the report;
                                                after anything that ended it, the same command goes on
  ... --status       the table so far and the state of each run, from disk
  ... --report       results.csv, table.md, figures/ and report.html of what there is
  ... --run N        only run N, from 0 on, and no table; the same study may be run by several processes at once
  ... --slurm [FILE] prints a SLURM job array, a task a run; FILE is a copy of configs/studies/slurm/default.yaml

NAME is a file of yours, or one of the shipped:
  {shipped}

On top of it go

  --output FOLDER                    runs/studies/NAME where it is not given
  --seeds '[0, 1, 2]'                these seeds
  --axes.AXIS '[LABEL, LABEL]'       these labels of an axis only
  --data.pictures FOLDER             each run also predicts these, after its test
  --KEY VALUE                        any setting of belvedere fit, for every run
"""
MODES = ("status", "report", "run", "slurm")


class Typed(NamedTuple):
    """What was typed.

    Attributes:
        name: The study's name or file.
        output: Its folder, where one was given.
        mode: One of `MODES`, or None for all runs.
        value: What the mode was given.
        rest: What is for the study: seeds, labels, and settings of `fit`.
    """

    name: str
    output: Path | None
    mode: str | None
    value: str | None
    rest: list[str]

    @property
    def command(self) -> list[str]:
        """What is typed to run the study, without a mode."""
        output = [] if self.output is None else ["--output", str(self.output)]
        return ["belvedere", "study", self.name, *output, *self.rest]


def study(arguments: Sequence[str]) -> int:
    """Runs the command and returns its exit code: 0, 1 where a run is not finished, 2 where the input is refused."""
    if not arguments or {"-h", "--help"} & set(arguments):
        print(HELP.format(shipped=", ".join(sorted(path.stem for path in SHIPPED.glob("*.yaml")))))
        return 0
    try:
        typed = read_typed(arguments)
        planned = read_study(find_study(typed.name), typed.rest)
        folder = (typed.output or Path("runs", "studies", planned.name)).expanduser().absolute()
        check_folder(planned, folder)
        code = _run_mode(planned, typed, folder)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # who reads, such as `head`, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except StudyError as error:
        print(f"\nbelvedere: {error}", file=sys.stderr)
        return 2


def read_typed(arguments: Sequence[str]) -> Typed:
    """What was typed, in parts.

    Raises:
        StudyError: There is no name, an option has no value, or there are two modes.
    """
    name, *words = arguments
    if name.startswith("-"):
        raise StudyError(f"{name} was typed where a study's name or file was wanted: belvedere study clouds {name} …")
    found: dict[str, str | None] = {}
    rest: list[str] = []
    while words:
        option, equals, value = words.pop(0).partition("=")
        key = option.removeprefix("--")
        if option not in [f"--{mode}" for mode in (*MODES, "output")]:
            rest += [option + equals + value] + ([] if equals or not words else [words.pop(0)])
            continue
        given = value if equals else None
        if not equals and key in ("run", "output", "slurm") and words and not words[0].startswith("--"):
            given = words.pop(0)
        if given is None and key in ("run", "output"):
            raise StudyError(f"{option} has no value; wanted is {option} {'N' if key == 'run' else 'FOLDER'}.")
        if given is not None and key in ("status", "report"):
            raise StudyError(f"{option} takes no value, and {given!r} came.")
        found[key] = given
    modes = [mode for mode in MODES if mode in found]
    if len(modes) > 1:
        raise StudyError(f"--{' and --'.join(modes)} were typed; one of them was wanted.")
    output = found.get("output")
    mode = modes[0] if modes else None
    return Typed(name, None if output is None else Path(output), mode, found.get(mode or ""), rest)


def status_text(planned: Study, folder: Path) -> str:
    """The table so far, and a line for each run."""
    states = read_states(planned, folder)
    lines = [table_text(planned, read_results(planned, folder), states)]
    for run in planned.runs:
        place, words = folder / run.folder, states[run.folder]
        note = read_note(place)
        taken = ", ".join(f"{step} {seconds:.0f} s" for step, seconds in note.seconds.items()) if note else ""
        if words == "begun":
            epochs = [row["epoch"] for row in read_table(place / "metrics.csv") if row.get("epoch")]
            taken += f"{', ' if taken else ''}epoch {epochs[-1]}" if epochs and "fit" not in taken else ""
            words = "running" if is_locked(place) else "stopped"
        lines.append(f"{words:8}  {name_of(run)}{f': {taken}' if taken else ''}")
    return "\n".join([*lines, *_failures(planned.runs, folder)])


def write_outputs(planned: Study, folder: Path) -> None:
    """Writes the results, the table, the figures and the report of what there is, and says where."""
    from studies.figures import write_figures
    from studies.report import write_report

    rows, states = read_results(planned, folder), read_states(planned, folder)
    text = table_text(planned, rows, states)
    print(f"\n{text}")
    write_results(rows, folder / "results.csv")
    write_table(text, folder / "table.md")
    drawn = write_figures(planned, rows, folder)
    report = write_report(planned, rows, states, drawn, folder)
    for path in (folder / "results.csv", folder / "table.md", *(figure.path for figure in drawn), report):
        print(path)


def _run_mode(planned: Study, typed: Typed, folder: Path) -> int:
    if typed.mode == "slurm":
        print(array_script(planned, typed.command, Path(typed.value) if typed.value else None))
    elif typed.mode == "status":
        print(status_text(planned, folder))
    elif typed.mode == "report":
        if not folder.is_dir():
            raise StudyError(f"There is no {folder} yet. Run the study first, or name its folder: --output FOLDER.")
        write_outputs(planned, folder)
    else:
        return _run(planned, typed, folder)
    return 0


def _run(planned: Study, typed: Typed, folder: Path) -> int:
    """Runs one run, or all and what comes after them."""
    runs = planned.runs
    if typed.mode == "run":
        last = len(runs) - 1
        if not (typed.value or "").isdecimal() or int(typed.value or "") > last:
            raise StudyError(f"--run is {typed.value}; a whole number from 0 to {last} was wanted, the study's runs.")
        runs = (runs[int(typed.value or "")],)
    claim(planned, folder)
    finished = sum(state(run, folder) == "finished" for run in runs)
    print(f"{planned.name}: runs {len(runs)}, finished {finished}; {folder}", flush=True)
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        run_study(planned, runs, folder, partial(print, flush=True))
        if typed.mode is None:
            write_outputs(planned, folder)
    except KeyboardInterrupt:
        print(f"\nStopped. The same command goes on:\n  {shlex.join(typed.command)}", file=sys.stderr)
        return 128 + signal.SIGINT
    finally:
        signal.signal(signal.SIGTERM, before)
    states = read_states(planned, folder)
    for line in _failures(runs, folder):
        print(line, file=sys.stderr)
    return int(any(states[run.folder] != "finished" for run in runs))


def _failures(runs: Sequence[Run], folder: Path) -> list[str]:
    """What is said of the runs that failed."""
    failed = [text for run in runs if (text := failure(run, folder))]
    head = f"\nFailed: {len(failed)} of {len(runs)} runs. The same command tries them again."
    return [head, *failed] if failed else []


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    """Ends a study as Ctrl-C does: with its run's process."""
    raise KeyboardInterrupt
