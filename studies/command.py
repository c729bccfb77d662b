"""The command `belvedere study`."""

import os
import shlex
import signal
import sys
import textwrap
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from drawing.page import NONE
from ops.atomic import check_writable, in_words, write_table, write_text
from ops.errors import ArgumentError, StudyError
from ops.files.names import safe_name
from studies.notes import check_folder, claim, failure, read_note, read_states, read_table, state
from studies.plan import SHIPPED, Run, Study, find_study, option_pairs, read_study
from studies.results import read_results, write_results
from studies.running import check_options, is_locked, log_study, run_study
from studies.slurm import array_script
from studies.tables import joined_table, matrices, table_text

if TYPE_CHECKING:
    import pandas as pd

HELP = """belvedere study: trains and compares a grid of settings with several seeds

  belvedere study NAME --data.root FOLDER ...   executes all unfinished runs, then writes the report; to resume after an
                                                interruption, repeat the command
  ... --status       prints the table so far and the state of each run
  ... --report       writes results.csv, table.md, figures/ and report.html from the runs so far
  ... --run N        executes only training N, counted from 0, without a report; several processes may share a study
  ... --slurm [FILE] prints a SLURM job array, one task per training; FILE: a copy of configs/studies/slurm/default.yaml

NAME is a study file of yours or one of the shipped studies:
  {shipped}

Options

  --output FOLDER                    default: runs/studies/NAME
  --seeds '[0, 1, 2]'                seeds of each cell
  --axes.AXIS '[LABEL, LABEL]'       only these labels of an axis, in every study that has it
  --also '[]'                        without the studies that the same command runs afterwards, or with some of them
  --data.pictures FOLDER             images that each run predicts after its test
  --KEY VALUE                        any option of belvedere fit, for every run
"""
MAIN = ("--also", "--data.pictures")  # options of the named study alone
MODES = ("status", "report", "run", "slurm")


class Arguments(NamedTuple):
    """Arguments of `belvedere study`.

    Attributes:
        name: Name or file of the study.
        output: The study's folder, if given.
        mode: One of `MODES`, or None for all runs.
        value: Value of the mode.
        rest: Options for the study: seeds, labels, and options of `fit`.
        typed: The command to repeat after an interruption, if another one than `command` runs the study.
    """

    name: str
    output: Path | None
    mode: str | None
    value: str | None
    rest: list[str]
    typed: Sequence[str] = ()

    @property
    def command(self) -> list[str]:
        """The command that runs the study, without a mode."""
        output = [] if self.output is None else ["--output", str(self.output)]
        return ["belvedere", "study", self.name, *output, *self.rest]


def study(words: Sequence[str], typed: Sequence[str] = ()) -> int:
    """Runs the command; returns exit code 0, 1 if a run is unfinished, or 2 for invalid input.

    Args:
        words: Name of the study and its options.
        typed: The command to repeat after an interruption, if it is another one.
    """
    if not words or {"-h", "--help"} & set(words):
        names = ", ".join(sorted(path.stem for path in SHIPPED.glob("*.yaml")))
        print(HELP.format(shipped=textwrap.fill(names, 100, subsequent_indent="  ")))
        return 0
    try:
        return _study(read_arguments(words)._replace(typed=typed))
    except BrokenPipeError:  # the reader, such as `head`, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        print(f"\nbelvedere: {f'{error.filename}: ' if error.filename else ''}{in_words(error)}.", file=sys.stderr)
        return 2
    except (StudyError, ArgumentError) as error:
        print(f"\nbelvedere: {error}", file=sys.stderr)
        return 2


def _study(arguments: Arguments) -> int:
    """Runs a study and those that its file names, each in a folder of its own inside the study's."""
    also = read_study(find_study(arguments.name), [word for pair in _pairs(arguments, "also") for word in pair]).also
    axes = {name: read_study(find_study(name)).axes for name in (arguments.name, *also)}
    everywhere = {axis for each in axes.values() for axis in each}

    def words(study: str) -> list[str]:
        """Returns the options of a study; those of axes go to every study that has the axis."""
        kept = []
        for option, value in _pairs(arguments):
            axis = option.removeprefix("--axes.") if option.startswith("--axes.") else ""
            main = study == arguments.name
            if (axis in axes[study] or (main and axis not in everywhere)) if axis else (main or option not in MAIN):
                kept += [option, value]
        return kept

    planned = read_study(find_study(arguments.name), words(arguments.name))
    folder = (arguments.output or Path("runs", "studies", safe_name(planned.name))).expanduser().absolute()
    others = [(read_study(find_study(name), words(name)), folder / name) for name in also]
    studies = [(planned, folder), *others]
    if arguments.mode in ("run", "slurm"):
        if others:
            print(f"Without {', '.join(planned.also)}: --{arguments.mode} is for one study.", file=sys.stderr)
        studies = studies[:1]
    if arguments.mode == "report":
        studies[1:] = [each for each in studies[1:] if each[1].is_dir()]
    for each, place in studies:
        check_folder(each, place)
    if arguments.mode is None:
        for _, place in studies:
            check_writable(place)
        for each, place in studies:
            check_options(each, each.runs, place)
    codes = [_run_mode(each, arguments, place) for each, place in studies]
    sys.stdout.flush()
    return max(codes)


def _pairs(arguments: Arguments, only: str = "") -> list[tuple[str, str]]:
    """Returns options, with their dashes, and their values."""
    return [(f"--{name}", value) for name, value in option_pairs(arguments.rest) if only in ("", name)]


def read_arguments(words: Sequence[str]) -> Arguments:
    """Splits the command line.

    Raises:
        StudyError: There is no name, an option lacks its value, or there are two modes.
    """
    name, *left = words
    if name.startswith("-"):
        raise StudyError(f"expected the name or file of a study before {name}: belvedere study clouds {name} …")
    found: dict[str, str | None] = {}
    rest: list[str] = []
    while left:
        option, equals, value = left.pop(0).partition("=")
        key = option.removeprefix("--")
        if option not in [f"--{mode}" for mode in (*MODES, "output")]:
            rest += [option + equals + value] + ([] if equals or not left else [left.pop(0)])
            continue
        given = value if equals else None
        if not equals and key in ("run", "output", "slurm") and left and not left[0].startswith("--"):
            given = left.pop(0)
        if given is None and key in ("run", "output"):
            raise StudyError(f"{option} has no value; expected {option} {'N' if key == 'run' else 'FOLDER'}.")
        if given is not None and key in ("status", "report"):
            raise StudyError(f"{option} takes no value, got {given!r}.")
        found[key] = given
    modes = [mode for mode in MODES if mode in found]
    if len(modes) > 1:
        raise StudyError(f"--{' and --'.join(modes)} exclude each other; use one of them.")
    output = found.get("output")
    mode = modes[0] if modes else None
    return Arguments(name, None if output is None else Path(output), mode, found.get(mode or ""), rest)


def status_text(planned: Study, folder: Path) -> str:
    """Returns the table so far and a line for each run."""
    states = read_states(planned, folder)
    lines = [table_text(planned, read_results(planned, folder), states)]
    for run in planned.runs:
        place, status = folder / run.folder, states[run.folder]
        note = read_note(place)
        details = [f"{step} {seconds:.0f} s" for step, seconds in note.seconds.items()] if note else []
        if status == "started":
            epochs = [row["epoch"] for row in read_table(place / "metrics.csv") if row.get("epoch")]
            if epochs and note and "fit" not in note.seconds:
                details.append(f"epoch {epochs[-1]}")
            status = "running" if is_locked(place) else "stopped"
        lines.append(f"{status:8}  {run.name}{': ' if details else ''}{', '.join(details)}")
    return "\n".join([*lines, *_failures(planned.runs, folder)])


def write_outputs(planned: Study, folder: Path) -> None:
    """Writes results, table, figures and report from the runs so far, and prints their paths."""
    from studies.figures import write_figures
    from studies.layers import TABLE, layer_table, networks_of
    from studies.report import write_report

    rows, states = read_results(planned, folder), read_states(planned, folder)
    text = table_text(planned, rows, states)
    print(f"\n{text}")
    write_results(rows, folder / "results.csv")
    write_text(folder / "table.md", text)
    layers = layer_table(networks_of(planned, folder))
    write_table(folder / TABLE, layers[0], layers[1:])
    figures = write_figures(planned, rows, folder)
    report = write_report(planned, rows, states, figures, folder)
    tables = [folder / name for name in ("results.csv", "table.md", TABLE)] + _write_tables(planned, rows, folder)
    drawn = [figure.path for figure in figures]
    for path in (*tables, *drawn, report):
        print(path)
    logged = [path for path in (*tables, *drawn) if path.suffix != ".md"]
    log_study(planned, folder, logged, partial(print, file=sys.stderr))


def _write_tables(planned: Study, rows: "pd.DataFrame", folder: Path) -> list[Path]:
    """Writes matrices and joined tables as CSV, and returns their paths."""
    found = {f"matrix_{name}.csv": lines
             for name, (_, lines, _) in zip(planned.matrices, matrices(planned, rows), strict=True)}  # fmt: skip
    found |= {name: lines for name in planned.tables if (lines := joined_table(planned, rows, folder, name)[0])}
    paths = []
    for name, (head, *body) in found.items():
        paths.append(folder / name.replace("/", "_"))
        write_table(paths[-1], head, [["" if text == NONE else text for text in row] for row in body])
    return paths


def _run_mode(planned: Study, arguments: Arguments, folder: Path) -> int:
    if arguments.mode == "slurm":
        print(array_script(planned, arguments.command, Path(arguments.value) if arguments.value else None))
    elif arguments.mode == "status":
        print(status_text(planned, folder))
    elif arguments.mode == "report":
        if not folder.is_dir():
            raise StudyError(f"{folder} does not exist. Run the study first, or name its folder: --output FOLDER.")
        write_outputs(planned, folder)
    else:
        return _run(planned, arguments, folder)
    return 0


def _run(planned: Study, arguments: Arguments, folder: Path) -> int:
    """Executes one run, or all runs and the report."""
    runs = planned.runs
    if arguments.mode == "run":
        number, last = arguments.value or "", len(planned.trainings) - 1
        if not number.isdecimal() or int(number) > last:
            raise StudyError(f"--run is {arguments.value}; expected an integer from 0 to {last}.")
        runs = planned.trainings[int(number)]
    check_writable(folder)
    if arguments.mode == "run":
        check_options(planned, runs, folder)
    claim(planned, folder)
    finished = sum(state(run, folder) == "finished" for run in runs)
    print(f"{planned.name}: runs {len(runs)}, finished {finished}; {folder}", flush=True)
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        run_study(planned, runs, folder, partial(print, flush=True))
        if arguments.mode is None:
            write_outputs(planned, folder)
    except KeyboardInterrupt:
        again = shlex.join(arguments.typed or arguments.command)
        print(f"\nStopped. To resume, repeat the command:\n  {again}", file=sys.stderr)
        return 128 + signal.SIGINT
    finally:
        signal.signal(signal.SIGTERM, before)
    states = read_states(planned, folder)
    for line in _failures(runs, folder):
        print(line, file=sys.stderr)
    return int(any(states[run.folder] != "finished" for run in runs))


def _failures(runs: Sequence[Run], folder: Path) -> list[str]:
    """Returns messages about the runs that failed."""
    failed = [text for run in runs if (text := failure(run, folder))]
    head = f"\nFailed: {len(failed)} of {len(runs)} runs. To retry them, repeat the command."
    return [head, *failed] if failed else []


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    """Stops the study, and with it the process of its run, as Ctrl-C does."""
    raise KeyboardInterrupt
