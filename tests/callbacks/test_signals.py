import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from callbacks import signals
from ops.processes import SIGNALS

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("each", SIGNALS)
def test_a_signal_is_noted_instead_of_ending_the_process(each: signal.Signals) -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with signals.noted():
        assert signals.received() is None
        os.kill(os.getpid(), each)
        assert signals.received() == each
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_earlier_signals_are_forgotten_and_none_is_noted_outside() -> None:
    with signals.noted():
        os.kill(os.getpid(), signal.SIGUSR1)
    with signals.noted():
        assert signals.received() is None
        assert signals.are_noted()
    assert not signals.are_noted()


def test_forked_processes_note_nothing() -> None:
    with signals.noted():
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGUSR1)
            os._exit(signals.received() is not None)
        assert os.waitpid(child, 0)[1] == 0
        assert signals.received() is None


def test_a_process_that_leaves_ignores_signals() -> None:
    with signals.noted():
        signals.leave()
        assert subprocess.run(["sh", "-c", "kill -TERM $$; echo sound"], capture_output=True).stdout == b"sound\n"
        os.kill(os.getpid(), signal.SIGUSR1)  # would end this process
    assert [signal.getsignal(number) for number in SIGNALS] == [signal.SIG_IGN] * 2
    assert signals.received() is None


def test_another_thread_leaves_signals_alone() -> None:
    def run() -> None:
        with signals.noted():
            seen.append(signal.getsignal(signal.SIGTERM))

    seen: list[object] = []
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGTERM)]


def test_no_library_is_imported_before_signals_are_noted() -> None:
    code = "import sys, belvedere.__main__; print(sorted({'torch', 'lightning', 'numpy'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert result.stdout.strip() == "[]"
