import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from studies.notes import state
from studies.plan import read_study
from studies.running import is_locked, locked
from tests.helpers import ROOT

# The study command, with a stand-in for the command line of its runs.
FAKE = (sys.executable, str(ROOT / "tests" / "studies" / "fake_command.py"))
STUDY = f"""
import signal
import sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it in background processes
from studies import running
from studies.command import study
running.PROGRAM, running.PATIENCE = {FAKE!r}, 1
running.CHECK = (sys.executable, "-c", "print('null')")
if "--orphans" in sys.argv:
    sys.argv.remove("--orphans")
    running._end_with = lambda parent: None  # as on systems that cannot end a child with its parent
sys.exit(study(sys.argv[1:]))
"""
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(acting_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts the study in its own process, which is killed after the test; its slow run trains until it is killed."""
    path = acting_file("slow")
    path.write_text(path.read_text().replace("seeds: [0, 1]", "seeds: [0]"))
    for name, value in {"CALLS": tmp_path / "calls", "MENDED": tmp_path / "mended", "CHECKPOINT": 1, "PYTHONPATH": ROOT,
                        "COLUMNS": 80}.items():  # fmt: skip
        monkeypatch.setenv(name, str(value))
    started = []

    def begin(*options: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", STUDY, "quokka.yaml", *options]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        started.append(subprocess.Popen(command, cwd=tmp_path, text=True, **pipes))  # type: ignore[call-overload]
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def child_of(folder: Path) -> int:
    """Waits until the slow run trains, and returns its process."""
    begun = folder / "cells" / "one" / "seed-0" / "begun"
    wait_for(lambda: begun.is_file() and begun.read_text() != "")
    return int(begun.read_text())


def wait_for(condition: Callable[[], bool], seconds: float = 20) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "timed out"
        time.sleep(0.02)


def is_gone(process: int) -> bool:
    try:
        os.kill(process, 0)
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (ProcessLookupError, FileNotFoundError):
        return True


def status_of(start: Start) -> str:
    out, err = start("--status").communicate()
    assert err == ""
    return str(out)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems cannot end a child with its parent")
def test_a_killed_study_leaves_no_process_and_resumes(start: Start, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "studies" / "quokka"
    first = start()
    child = child_of(folder)
    assert "running   One, seed 0: epoch 0" in status_of(start)
    first.kill()
    first.wait()
    wait_for(lambda: is_gone(child), 5)
    assert "stopped   One, seed 0: epoch 0\nwaiting   Two, seed 0" in status_of(start)
    (tmp_path / "mended").touch()
    out, err = start().communicate()
    assert "[1/2] One, seed 0: fit, test from the last checkpoint\n[1/2] One, seed 0: dice 0.400" in out, err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_study_stops_its_run_and_says_how_to_resume(
    start: Start, tmp_path: Path, number: signal.Signals
) -> None:
    folder = tmp_path / "my out"
    process = start("--output", str(folder), "--data.root", "here")
    child = child_of(folder)
    process.send_signal(number)
    _, err = process.communicate()
    assert process.returncode == 130
    assert err.startswith("\nStopped.")
    assert err.endswith(f"\n  belvedere study quokka.yaml --output '{folder}' --data.root here\n")
    assert is_gone(child)
    study = read_study(tmp_path / "quokka.yaml")
    assert [state(run, folder) for run in study.runs] == ["started", "waiting"]  # not failed


def test_a_run_that_outlived_its_study_is_not_trained_twice(start: Start, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "studies" / "quokka"
    first = start("--orphans")
    child = child_of(folder)
    first.kill()
    first.wait()
    try:
        assert not is_gone(child)
        assert is_locked(folder / "cells" / "one" / "seed-0")
        second = start()
        out, _ = second.communicate()
        assert second.returncode == 1  # a run is unfinished
        assert "[2/2] Two, seed 0: fit, test\n" in out
        assert "[1/2] One, seed 0: in use by another process; skipped\n" in out
    finally:
        os.kill(child, signal.SIGKILL)
    wait_for(lambda: not is_locked(folder / "cells" / "one" / "seed-0"))


def test_two_processes_share_a_study(start: Start, tmp_path: Path) -> None:
    (tmp_path / "mended").touch()
    seeds = ["--seeds", "[0, 1, 2]"]
    both = [start(*seeds), start(*seeds)]
    for process in both:
        _, err = process.communicate()
        assert err == ""
    calls = [line.rsplit(" ", 3)[0] for line in (tmp_path / "calls").read_text().splitlines()]
    assert min(process.returncode for process in both) == 0  # one may have left its last run to the other
    assert len(calls) == 12
    assert len(set(calls)) == 12


def test_a_lock_is_released(tmp_path: Path) -> None:
    assert not is_locked(tmp_path)
    with locked(tmp_path / "run", 0) as lock:
        assert lock is not None
        assert is_locked(tmp_path / "run")
    assert not is_locked(tmp_path / "run")
