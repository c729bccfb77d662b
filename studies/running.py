"""Runs a study: each step of each run in a process of its own, once, however often the study is begun again."""

import ctypes
import fcntl
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

from drawing.page import NONE
from studies.notes import LOG, NOTE, Note, has_checkpoint, read_note, read_table, state, steps, write_note
from studies.plan import Run, Study

__all__ = ["run_study", "state"]
PROGRAM = (sys.executable, "-m", "belvedere")
PREEMPTED = 75  # exit code of a training that a signal asked to end, and that has saved its state
PATIENCE = 10.0  # seconds that the workers of a killed run's loaders take at most to notice
SHOWN, LONGEST = 5, 12  # lines of a failed run's log, and of a refusal


def run_study(study: Study, runs: Sequence[Run], folder: Path, say: Callable[[str], None]) -> None:
    """Runs what is not finished, one after the other; a run that fails is noted, and does not stop the others.

    Args:
        study: The study.
        runs: Those of its runs that are wanted.
        folder: The study's folder, which is its own: `studies.notes.claim`.
        say: Is given a line when a run begins and when it ends.

    Raises:
        KeyboardInterrupt: The study or its run was asked to end; the run's process has ended.
    """
    waiting = [run for run in runs if state(run, folder) != "finished"]
    left, busy = len(waiting), list[Run]()
    for patience, some in ((0.0, waiting), (PATIENCE, busy)):  # those that another process is at once more, at the end
        for run in some:
            name = f"[{runs.index(run) + 1}/{len(runs)}] {name_of(run)}"
            with locked(folder / run.folder, patience) as lock:
                if lock is None:
                    busy += [] if patience else [run]
                    if patience:
                        say(f"{name}: another process is at it; passed over")
                    continue
                left -= 1
                if state(run, folder) == "finished":  # by another process in the meantime
                    continue
                seconds = _run_steps(study, run, folder, lock, partial(_say_of, name, say))
            ended = f"{_headline(study, run, folder)}, " if state(run, folder) == "finished" else "failed after "
            say(f"{name}: {ended}{_duration(seconds)}{_left(runs, left, folder)}")


def _say_of(name: str, say: Callable[[str], None], text: str) -> None:
    say(f"{name}: {text}")


def name_of(run: Run) -> str:
    """A run in words."""
    return f"{' · '.join(run.labels.values())}, seed {run.seed}"


def failure(run: Run, folder: Path) -> str:
    """Why a run failed: the step, its exit code, the end of what it said, and where all of that stands."""
    note = read_note(folder / run.folder)
    if note is None or note.failed is None:
        return ""
    code = note.failed["code"]
    ended = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    lines = [f"{name_of(run)}: {note.failed['step']} {ended}; {folder / run.folder / LOG}"]
    return "\n".join([*lines, *(f"    {line}" for line in note.failed["last"])])


def _run_steps(study: Study, run: Run, folder: Path, lock: int, say: Callable[[str], None]) -> float:
    """Runs the steps of a run that have not ended well yet, up to one that fails, and returns the seconds it took."""
    place = folder / run.folder
    note = read_note(place) or Note([])
    note.arguments, note.failed = list(run.arguments), None
    write_note(note, place)
    began = time.monotonic()
    todo = [step for step in steps(study.after) if step not in note.seconds]
    half = "fit" in todo and has_checkpoint(place)
    broken = "fit" in todo and not half and any((place / "checkpoints").glob("*.ckpt"))
    how = " from its last checkpoint" if half else " anew, because no checkpoint is whole" if broken else ""
    say(", ".join(todo) + how)
    if "fit" in todo and not half:
        _clear(place)
    for step in todo:
        if step == "fit":
            words = ["fit", *run.arguments, "--seed_everything", str(run.seed), "--output", str(place),
                     "--resume", "auto", "--preemption.requeue", "false"]  # fmt: skip
        else:
            words = [*shlex.split(step), "--ckpt_path", str(place / "checkpoints" / "best.ckpt")]
        log, step_began = place / LOG, time.monotonic()
        with log.open("a", encoding="utf-8") as file:
            file.write(f"\n$ belvedere {shlex.join(words)}\n")
        size = log.stat().st_size
        code = run_command([*PROGRAM, *words], log, _environment(study, run), lock)
        if code == PREEMPTED:
            raise KeyboardInterrupt  # whoever asked wants the machine, of the other runs too
        if code != 0:
            note.failed = {"step": step, "code": code, "last": _last_lines(log, size)}
            write_note(note, place)
            break
        note.seconds[step] = round(time.monotonic() - step_began, 1)
        write_note(note, place)
    return time.monotonic() - began


def _clear(place: Path) -> None:
    """Takes away what a training left that was ended before its first checkpoint: its rows would stand there twice."""
    for path in place.iterdir():
        if path.name not in (NOTE, LOG, LOCK):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _environment(study: Study, run: Run) -> dict[str, str]:
    """What a run's processes find in their environment: the names under which wandb groups the runs of a study."""
    environment = {key: value for key, value in os.environ.items() if key not in ("BELVEDERE_RUN", "PL_GLOBAL_SEED")}
    environment.setdefault("WANDB_RUN_GROUP", study.name)
    return environment | {"WANDB_NAME": f"{run.cell}--seed-{run.seed}"}


def _last_lines(log: Path, start: int) -> list[str]:
    """What a step said in the end, each line as a terminal would show it: why it refused, or the last lines."""
    with log.open("rb") as file:
        file.seek(start)
        text = file.read().decode("utf-8", errors="replace")
    lines = [re.split(r"\r(?!\n)", line.rstrip())[-1].rstrip() for line in text.split("\n")]
    lines = [line for line in lines if line]
    refused = next((place for place, line in enumerate(lines) if line.startswith("belvedere: ")), len(lines) - SHOWN)
    return lines[max(refused, len(lines) - LONGEST) :] if lines else []


def _headline(study: Study, run: Run, folder: Path) -> str:
    column = study.columns[0]
    rows = read_table(folder / run.folder / "test" / "metrics.csv")
    value = next((row[column.figure] for row in reversed(rows) if row.get(column.figure)), None)
    return f"{column.title} {NONE if value is None else format(float(value), '.3f')}"


def _left(runs: Sequence[Run], left: int, folder: Path) -> str:
    """How many runs are left, and about how long they take: as long as those that are finished did."""
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


LOCK = ".lock"
ENDING = 110.0  # seconds in which a command that was asked to end has to; fewer than studies.slurm.WARNING
SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of <sys/prctl.h>


@contextmanager
def locked(folder: Path, patience: float) -> Iterator[int | None]:
    """Keeps every other process out of a folder.

    The kernel gives the lock back when the last process that holds it has ended, however it ended: a run's own process
    holds it too, so that a study that was killed does not train a run twice at once.

    Args:
        folder: It is made if need be.
        patience: Seconds to wait for it.

    Yields:
        The file descriptor to hand on to processes; None where another process has the lock.
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
    """Whether a process works in a folder just now."""
    if not (folder / LOCK).is_file():
        return False
    with locked(folder, 0) as lock:
        return lock is None


def run_command(command: Sequence[str], log: Path, environment: Mapping[str, str], lock: int) -> int:
    """Runs a command to its end and returns its exit code, negative for the signal that ended it.

    It has a process group of its own, so that Ctrl-C reaches it once, through this process; whatever interrupts the
    waiting ends the command too.

    Args:
        command: The program and its arguments.
        log: What it says is written at the end of this file.
        environment: Its environment.
        lock: The file descriptor of the folder's lock.
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
    """What a child calls to be killed when its parent ends, even by SIGKILL; None where the system cannot do that."""
    library = ctypes.CDLL(None)
    if not hasattr(library, "prctl"):  # macOS: there, only the lock keeps a second process out
        return None

    def ask() -> None:
        library.prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before it was asked for
            os._exit(1)

    return ask


def _stop(child: subprocess.Popen[bytes]) -> None:
    """Asks a command to end, then ends it with all its processes; a second Ctrl-C does so at once."""
    try:
        child.terminate()
        child.wait(ENDING)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
