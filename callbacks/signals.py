"""Signals that end a command, heard from the first moment: the imports alone take seconds.

A training notes them and ends where it can resume (`noted`); other commands stop anywhere (`stoppable`).
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType

from ops.processes import SIGNALS

STOPPING = (signal.SIGTERM, signal.SIGINT)
_received: list[signal.Signals] = []
_process = 0  # ID of the process that notes signals; 0 if none does
_stopped: list["Stopped"] = []  # what ends this process, from its signal on
_delays = 0  # how many blocks that must not be interrupted are open


class Stopped(BaseException):
    """Stops a command where SIGTERM or SIGINT finds it.

    Attributes:
        signal: The signal.
    """

    def __init__(self, received: signal.Signals) -> None:
        super().__init__(received.name)
        self.signal = received


@contextmanager
def noted() -> Iterator[None]:
    """Makes this process note SIGUSR1 and SIGTERM instead of ending; see `received`.

    Outside the main thread it does nothing, because only that one may set signal handlers.
    """
    global _process
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    earlier = {each: signal.getsignal(each) for each in SIGNALS}
    _process = os.getpid()
    _received.clear()
    for each in SIGNALS:
        signal.signal(each, _note)
    try:
        yield
    finally:
        if _process:  # else SIG_IGN stays while Python exits: a late signal would change the code
            for each, handler in earlier.items():
                signal.signal(each, handler)
        _process = 0


def leave() -> None:
    """Ignores further signals while the process exits, and so do the commands that it still runs."""
    global _process
    if are_noted():
        for each in SIGNALS:
            signal.signal(each, signal.SIG_IGN)
    _process = 0


def are_noted() -> bool:
    """Returns whether this process notes signals."""
    return _process == os.getpid()


def received() -> signal.Signals | None:
    """Returns the first signal received, or None."""
    return _received[0] if _received else None


@contextmanager
def stoppable() -> Iterator[None]:
    """Makes SIGTERM and SIGINT raise `Stopped`, once; then SIGTERM is ignored, and SIGINT ends what is left to do.

    Outside the main thread it does nothing, because only that one may set signal handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    earlier = {each: signal.getsignal(each) for each in STOPPING}
    for each in STOPPING:
        signal.signal(each, partial(_stop, os.getpid()))
    try:
        yield
    finally:
        for each, handler in earlier.items():
            if not _stopped or each != signal.SIGTERM:  # a late one would change the exit code
                signal.signal(each, handler)
        _stopped.clear()  # the next command of this process may use `unstopped`


@contextmanager
def unstopped() -> Iterator[None]:
    """Delays `Stopped` to the end of a block whose work must not be cut in half."""
    global _delays
    _delays += 1
    try:
        yield
    finally:
        _delays -= 1
    check_stopped()


def check_stopped() -> None:
    """Raises `Stopped` if this process was signaled, in case a library swallowed the exception where it came first."""
    if _stopped and not _delays:
        raise _stopped[0]


def _stop(process: int, number: int, frame: FrameType | None) -> None:
    if os.getpid() != process:  # a forked process: as if there were no handler
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        return
    _stopped.append(Stopped(signal.Signals(number)))
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    check_stopped()


def _note(number: int, frame: FrameType | None) -> None:
    # Forked processes inherit the handler, and the scheduler signals all of them; only this one reacts.
    if os.getpid() == _process:
        _received.append(signal.Signals(number))
