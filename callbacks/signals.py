"""The signals with which a scheduler asks a training to end, noted from the first moment: the imports take seconds."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGUSR1, signal.SIGTERM)
_received: list[signal.Signals] = []
_process = 0


@contextmanager
def noted() -> Iterator[None]:
    """Has this process note SIGUSR1 and SIGTERM instead of ending; `received` tells them."""
    global _process
    if threading.current_thread() is not threading.main_thread():  # only that one may say what signals do
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
        # SIG_IGN stays while Python, at its end, takes its own handlers back: a late signal would change the code
        for each, handler in earlier.items():
            signal.signal(each, handler if _process else signal.SIG_IGN)
        _process = 0


def leave() -> None:
    """Has this process, which has saved its state and ends now, not hear another signal."""
    global _process
    _process = 0


def are_noted() -> bool:
    """Whether this process notes them."""
    return _process == os.getpid()


def received() -> signal.Signals | None:
    """The first signal that came; None where none did."""
    return _received[0] if _received else None


def _note(number: int, frame: FrameType | None) -> None:
    # A process that was forked inherits the handler, and the scheduler signals all of them; only this one answers.
    if os.getpid() == _process:
        _received.append(signal.Signals(number))
