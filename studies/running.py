"""Runs a study: each step of each run in its own process; finished steps are never repeated."""

import ctypes
import fcntl
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from ops.errors import StudyError
from ops.files.locks import is_claimed
from studies.notes import LOG, NOTE, Note, has_checkpoint, read_note, read_table, state, steps, write_note
from studies.plan import Run, Study
from studies.tables import number_text

PROGRAM = (sys.executable, "-m", "belvedere")
CHECK = (sys.executable, "-m", "belvedere.commandline.checking")
CHECK_STEPS = (sys.executable, "-m", "belvedere.commandline.checking_steps")
LOG_STUDY = (sys.executable, "-m", "belvedere.dashboards")
PREEMPTED = 75  # exit code of a training that saved its state and stopped on a signal
PATIENCE = 10.0  # seconds; the loader workers of a killed run take up to this long to exit
SHOWN, LONGEST = 5, 12  # lines to show of a failed run's log, and at most of an error message
LOCK = ".lock"
DASHBOARDS = ("wandb/id.txt", "tensorboard")  # in a run's folder, see callbacks.loggers
ENDING = 110.0  # seconds that a terminated command has to exit; fewer than studies.slurm.WARNING
SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of <sys/prctl.h>


def check_options(study: Study, runs: Sequence[Run], folder: Path) -> None:
    """Checks the options of runs: of all that are not trained yet in one process, and of the commands after each test.

    Raises:
        StudyError: Options are invalid, or images to predict are missing; the message names the first cell or command.
    """
    notes = [(run, read_note(folder / run.folder)) for run in runs]
    after = [words for words in study.after
             if any(note is None or shlex.join(words) not in note.seconds for _, note in notes)]  # fmt: skip
    for words in after:
        _check_images(words)
    _check_trainings(notes)
    plain = [words for words in after if words[:-1] == ("predict", "--data.pictures")]  # checked already
    unknown = [words for words in after if words not in plain]
    if unknown:
        found = _answer(CHECK_STEPS, [list(runs[0].arguments), *map(list, unknown)])
        if found is not None:
            number, problem = found
            raise StudyError(f"Nothing was started, because options of {unknown[number][0]} are invalid: {problem}")


def _check_images(words: Sequence[str]) -> None:
    """Rejects a command whose images to predict do not exist."""
    for place, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name != "--data.pictures":
            continue
        given = value if equals else "".join(words[place + 1 : place + 2])
        path = Path(given).expanduser()
        if given and not path.is_file() and not (path.is_dir() and any(path.iterdir())):
            found = "an empty folder" if path.is_dir() else "nothing"
            raise StudyError(
                f"Nothing was started, because {words[0]} would fail: --data.pictures is {path}; expected a folder "
                f"or file of images, found {found} there. Give the path of images, or leave the option out."
            )


def _check_trainings(notes: Sequence[tuple[Run, Note | None]]) -> None:
    names = {run.arguments: " · ".join(run.labels.values())
             for run, note in reversed(notes) if note is None or "fit" not in note.seconds}  # fmt: skip
    if not names:
        return
    todo = list(reversed(names))
    found = _answer(CHECK, [list(arguments) for arguments in todo])
    if found is not None:
        number, problem = found
        raise StudyError(f"Nothing was started, because options are invalid. {names[todo[number]]}: {problem}")


def _answer(program: Sequence[str], asked: list[list[str]]) -> tuple[int, str] | None:
    """Returns the number of the first invalid of the arguments that a program checks, and why; None if all are valid.

    Raises:
        StudyError: The program fails.
    """
    done = subprocess.run(program, input=json.dumps(asked), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise StudyError(f"The options cannot be checked: {done.stderr.strip()[-1000:]}")
    found: tuple[int, str] | None = json.loads(done.stdout)
    return found


def log_study(study: Study, folder: Path, files: Sequence[Path], warn: Callable[[str], None]) -> None:
    """Logs tables and figures to the dashboards of the study's runs, if they have any.

    Args:
        study: The study.
        folder: Its folder.
        files: PNG and CSV files.
        warn: Called with a message if that fails; a dashboard that cannot be reached stops no study.
    """
    cells = folder / "cells"
    if any(next(cells.glob(f"*/*/{name}"), None) for name in DASHBOARDS):
        done = subprocess.run([*LOG_STUDY, str(folder), study.name, *map(str, files)], capture_output=True, text=True,
                              check=False)  # fmt: skip
        if done.returncode != 0:
            warn(f"Tables and figures are not on the dashboards: {done.stderr.strip()[-500:]}")


def run_study(study: Study, runs: Sequence[Run], folder: Path, log: Callable[[str], None]) -> None:
    """Runs all unfinished runs one after the other; a failed run is recorded and the others continue.

    Args:
        study: The study.
        runs: Runs of the study to execute.
        folder: The study's folder, after `studies.notes.claim`.
        log: Called with a line when a run starts and when it ends.

    Raises:
        KeyboardInterrupt: The study or the current run received a signal to stop; the run's process has ended.
    """
    waiting = [run for run in runs if state(run, folder) != "finished"]
    left, busy = len(waiting), list[Run]()
    for patience, some in (
        (0.0, waiting),
        (PATIENCE, busy),
    ):  # runs that another process works on are retried at the end
        for run in some:
            name = f"[{runs.index(run) + 1}/{len(runs)}] {run.name}"
            if not _trainable(run, folder):
                if patience:
                    log(f"{name}: not started, because {run.training} is not trained")
                else:
                    busy.append(run)
                continue
            with locked(folder / run.folder, patience) as lock:
                if lock is None or is_claimed(folder / run.folder):  # by another study, or by a command
                    if patience:
                        log(f"{name}: in use by another process; skipped")
                    else:
                        busy.append(run)
                    continue
                left -= 1
                if state(run, folder) == "finished":  # by another process in the meantime
                    continue
                seconds = _run_steps(study, run, folder, lock, partial(_log_as, name, log))
            ended = f"{_headline(study, run, folder)}, " if state(run, folder) == "finished" else "failed after "
            log(f"{name}: {ended}{_duration(seconds)}{_left(runs, left, folder)}")


def _log_as(name: str, log: Callable[[str], None], text: str) -> None:
    log(f"{name}: {text}")


def _run_steps(study: Study, run: Run, folder: Path, lock: int, log: Callable[[str], None]) -> float:
    """Executes the unfinished steps of a run up to the first failure; returns the seconds that this took."""
    place = folder / run.folder
    note = read_note(place) or Note([])
    note.arguments, note.failed = list(run.arguments), None
    write_note(note, place)
    began = time.monotonic()
    todo = [step for step in steps(study.after) if step not in note.seconds]
    if "fit" in todo and run.trained_in != run.folder and not has_checkpoint(place):
        _adopt(folder / run.trained_in, place)
    resumed = "fit" in todo and has_checkpoint(place)
    broken = "fit" in todo and not resumed and any((place / "checkpoints").glob("*.ckpt"))
    how = f" with the training of {run.training}" if run.trained_in != run.folder else ""
    how = (
        how or " from the last checkpoint" if resumed else " from scratch: no checkpoint is complete" if broken else ""
    )
    log(", ".join(todo) + how)
    if "fit" in todo and not resumed:
        _clear(place)
    for step in todo:
        if step == "fit":
            words = ["fit", *run.arguments, "--seed_everything", str(run.seed), "--output", str(place),
                     "--resume", "auto", "--preemption.requeue", "false"]  # fmt: skip
        else:
            words = [*shlex.split(step), "--ckpt_path", str(place / "checkpoints" / "best.ckpt"), "--trust"]
        path, step_began = place / LOG, time.monotonic()
        with path.open("a", encoding="utf-8") as file:
            file.write(f"\n$ belvedere {shlex.join(words)}\n")
        size = path.stat().st_size
        code = run_command([*PROGRAM, *words], path, _environment(study, run), lock)
        if code == PREEMPTED:
            raise KeyboardInterrupt  # the machine is needed for something else: stop the other runs too
        if code != 0:
            note.failed = {"step": step, "code": code, "last": _last_lines(path, size)}
            write_note(note, place)
            break
        note.seconds[step] = round(time.monotonic() - step_began, 1)
        write_note(note, place)
    return time.monotonic() - began


def _trainable(run: Run, folder: Path) -> bool:
    """Returns whether a run can start: it trains itself, or the run that trains for it has done so."""
    note = read_note(folder / run.trained_in)
    return run.trained_in == run.folder or (note is not None and "fit" in note.seconds)


def _adopt(trained: Path, place: Path) -> None:
    """Copies a finished training, which `fit` then resumes at its end: only what follows training is done again."""
    _clear(place)
    shutil.copy(trained / "metrics.csv", place)
    part = place / "part"
    shutil.copytree(trained / "checkpoints", part)
    part.rename(place / "checkpoints")  # only once it is complete


def _clear(place: Path) -> None:
    """Deletes what a training without a checkpoint left behind; a new training would append to its tables."""
    for path in place.iterdir():
        if path.name not in (NOTE, LOG, LOCK):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _environment(study: Study, run: Run) -> dict[str, str]:
    """Returns the environment of a run's processes, with the names by which wandb groups the runs of a study.

    Without the service of a wandb in this process, which would hold the id of a killed run.
    """
    dropped = ("BELVEDERE_RUN", "PL_GLOBAL_SEED", "WANDB_SERVICE")
    environment = {key: value for key, value in os.environ.items() if key not in dropped}
    environment.setdefault("WANDB_RUN_GROUP", study.name)
    return environment | {"WANDB_NAME": f"{run.cell}--seed-{run.seed}"}


def _last_lines(log: Path, start: int) -> list[str]:
    """Returns the error message at the end of a log, or its last lines, as a terminal would show them."""
    with log.open("rb") as file:
        file.seek(start)
        text = file.read().decode("utf-8", errors="replace")
    lines = [re.split(r"\r(?!\n)", line.rstrip())[-1].rstrip() for line in text.split("\n")]
    lines = [line for line in lines if line]
    error = next((place for place, line in enumerate(lines) if line.startswith("belvedere: ")), len(lines) - SHOWN)
    return lines[max(error, len(lines) - LONGEST) :] if lines else []


def _headline(study: Study, run: Run, folder: Path) -> str:
    column = study.columns[0]
    rows = read_table(folder / run.folder / "test" / "metrics.csv")
    value = next((float(row[column.figure]) for row in reversed(rows) if row.get(column.figure)), None)
    return f"{column.title} {number_text(value, metric=column.figure)}"


def _left(runs: Sequence[Run], left: int, folder: Path) -> str:
    """Returns how many runs are left, and how long they take at the average pace of the finished ones."""
    if left == 0:
        return ""
    notes = [read_note(folder / run.folder) for run in runs if state(run, folder) == "finished"]
    taken = [sum(note.seconds.values()) for note in notes if note is not None]
    about = f", about {_duration(left * sum(taken) / len(taken))}" if taken else ""
    return f"; {left} left{about}"


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


@contextmanager
def locked(folder: Path, patience: float) -> Iterator[int | None]:
    """Locks a folder against other processes.

    The kernel releases the lock when the last process that holds it ends, for whatever reason. The process of a run
    holds it too, so that no second process trains the run if only the study was killed.

    Args:
        folder: The folder; created if missing.
        patience: Seconds to wait for the lock.

    Yields:
        The file descriptor to pass to child processes; None if another process holds the lock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + patience
    with (folder / LOCK).open("a") as file:
        held = False
        while not held:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                held = True
            except BlockingIOError:
                if time.monotonic() >= until:
                    break
                time.sleep(0.1)
        yield file.fileno() if held else None


def is_locked(folder: Path) -> bool:
    """Returns whether a process is working in a folder."""
    if not (folder / LOCK).is_file():
        return False
    with locked(folder, 0) as lock:
        return lock is None


def run_command(command: Sequence[str], log: Path, environment: Mapping[str, str], lock: int) -> int:
    """Runs a command and returns its exit code, or the negative number of the signal that ended it.

    The command has its own process group, so that Ctrl-C reaches it once, through this process. If this process is
    interrupted while it waits, it ends the command.

    Args:
        command: Program and arguments.
        log: File that the command's output is appended to.
        environment: Environment of the command.
        lock: File descriptor of the folder's lock.
    """
    with log.open("ab") as file:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment,
            pass_fds=(lock,),
            process_group=0,
            preexec_fn=_end_with(os.getpid()),
        )
        try:
            return child.wait()
        except BaseException:
            _stop(child)
            raise


def _end_with(parent: int) -> Callable[[], None] | None:
    """Returns a hook by which the kernel kills a child when its parent ends, even by SIGKILL; None if unsupported."""
    library = ctypes.CDLL(None)
    if not hasattr(library, "prctl"):  # macOS; there, only the lock keeps out a second process
        return None

    def ask() -> None:
        library.prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
        if os.getppid() != parent:  # the parent ended before the call
            os._exit(1)

    return ask


def _stop(child: subprocess.Popen[bytes]) -> None:
    """Terminates a command, and kills its process group if it does not exit in time or on a second Ctrl-C."""
    try:
        child.terminate()
        child.wait(ENDING)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
