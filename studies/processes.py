"""A command as a process of its own that never outlives the one that began it, nor meets a second one in its folder."""

import ctypes
import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

LOCK = ".lock"
PATIENCE = 110.0  # seconds in which a command that was asked to end has to; fewer than studies.slurm.WARNING
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
        child.wait(PATIENCE)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
