"""Notes the signals with which a scheduler ends a run, from the first moment: the imports alone take seconds."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from ops.processes import SIGNALS

_received: list[signal.Signals] = []
_process = 0  # ID of the process that notes signals; 0 if none does


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


def _note(number: int, frame: FrameType | None) -> None:
    # Forked processes inherit the handler, and the scheduler signals all of them; only this one reacts.
    if os.getpid() == _process:
        _received.append(signal.Signals(number))
