"""Child processes and the signals of a scheduler, which reach every process of a job and are for the main one only."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGUSR1, signal.SIGTERM)  # with which a scheduler ends a run
KEYBOARD = (signal.SIGINT,)


@contextmanager
def blocked(*signals: signal.Signals) -> Iterator[None]:
    """Blocks signals in this thread; children started here block them from their first moment until they unblock them.

    What this process receives meanwhile it handles afterwards.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def obey_parent() -> None:
    """Makes this child process ignore all signals of `SIGNALS` and `KEYBOARD` but its parent's SIGTERM, which ends it.

    A child that ignored that one too would keep its parent from exiting: `multiprocessing` terminates the children
    that are left at the exit and then waits for them.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, (*SIGNALS, *KEYBOARD))
    if hasattr(signal, "sigwaitinfo"):
        threading.Thread(target=_end_with_parent, daemon=True).start()
    else:  # macOS does not report the sender
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM,))


def _end_with_parent() -> None:
    while signal.sigwaitinfo((signal.SIGTERM,)).si_pid != os.getppid():
        pass
    os._exit(0)
