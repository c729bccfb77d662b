import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress

import pytest

from callbacks import signals
from ops.processes import SIGNALS
from tests.helpers import ROOT


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


@pytest.mark.parametrize("each", signals.STOPPING)
def test_a_command_is_stopped_once(each: signal.Signals) -> None:
    before = signal.getsignal(signal.SIGINT)
    with signals.stoppable(), pytest.raises(signals.Stopped) as stopped:
        os.kill(os.getpid(), each)
    assert stopped.value.signal == each
    os.kill(os.getpid(), signal.SIGTERM)  # would end this process, which is exiting
    assert signal.getsignal(signal.SIGINT) == before


def test_a_block_that_must_be_complete_delays_the_stop() -> None:
    steps = []

    def work() -> None:
        with signals.unstopped():
            with signals.unstopped():
                os.kill(os.getpid(), signal.SIGTERM)
                steps.append("inner")
            steps.append("outer")
        steps.append("after")

    with signals.stoppable(), pytest.raises(signals.Stopped):
        work()
    assert steps == ["inner", "outer"]


def test_a_second_interrupt_does_not_wait() -> None:
    def work() -> None:
        with signals.unstopped():
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with signals.stoppable(), pytest.raises(KeyboardInterrupt):
        work()


def test_a_swallowed_stop_is_raised_again() -> None:
    with signals.stoppable():
        signals.check_stopped()
        with suppress(signals.Stopped):
            os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(signals.Stopped):
            signals.check_stopped()
    signals.check_stopped()


def test_a_signal_ends_a_forked_process() -> None:
    with signals.stoppable():
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(0)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGTERM


def test_another_thread_leaves_signals_alone() -> None:
    def run() -> None:
        with signals.noted(), signals.stoppable():
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
