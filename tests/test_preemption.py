"""Runs that a scheduler, a machine or a user ends at any moment."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.helpers import CSV, ROOT, free_ports

OPTIONS = ["--config", "clouds/demo", "--model.architecture", "pspnet", "--data.size", "[33,48]",
           "--data.output_size", "[35,53]", "--data.batch_size", "3", "--panels.every_n_epochs", "100",
           "--resume", "auto"]  # fmt: skip
PATIENCE = 900  # seconds, on a busy machine


class Training(subprocess.Popen[bytes]):
    """`belvedere fit` in a process of its own, with its output in a file."""

    def __init__(self, root: Path, output: Path, *options: str, **environment: str) -> None:
        self.output = output
        self.log = output.with_name(f"{output.name}{environment.get('SLURM_PROCID', '')}.log")
        config = output.with_name("csv.yaml")
        config.write_text(CSV)
        arguments = [*OPTIONS, "--config", str(config), "--data.root", str(root), "--output", str(output), *options]
        variables = {"PYTHONPATH": str(ROOT), "JSONARGPARSE_DEPRECATION_WARNINGS": "off"}
        with self.log.open("ab") as log:
            super().__init__([sys.executable, "-m", "belvedere", "fit", *arguments], stdout=log, stderr=log,
                             env=os.environ | variables | environment, cwd=output.parent)  # fmt: skip

    def until(self, done: Callable[[], bool]) -> None:
        """Waits until something is done, or the process has ended."""
        end = time.monotonic() + PATIENCE
        while self.poll() is None and not done():
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.02)

    def ended(self, code: int) -> str:
        """Waits for this exit code and returns the output."""
        assert self.wait(PATIENCE) == code, self.log.read_text()
        return self.log.read_text()


@pytest.fixture
def started(clouds_root: Path, tmp_path: Path) -> Iterator[Callable[..., Training]]:
    """Starts runs, and kills those that are left when the test ends."""
    running: list[Training] = []

    def start(name: str, *options: str, **environment: str) -> Training:
        running.append(Training(clouds_root, tmp_path / name, *options, **environment))
        return running[-1]

    yield start
    for each in running:
        each.kill()
        each.wait()


def rows(output: Path) -> str:
    """Returns the metrics of a run as text; "" before there are any."""
    path = output / "metrics.csv"
    return path.read_text() if path.is_file() else ""


def notes_signals(process: int) -> bool:
    """Whether a process already handles SIGUSR1."""
    caught = Path(f"/proc/{process}/status").read_text().split("SigCgt:")[1].split()[0]
    return bool(int(caught, 16) >> (signal.SIGUSR1 - 1) & 1)


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_repeatedly_killed_run_ends_like_one_that_was_not(
    workers: str, started: Callable[..., Training], same_run: Callable[[Path, Path], None], tmp_path: Path
) -> None:
    options = ["--data.num_workers", workers, "--trainer.max_epochs", "6"]
    started("whole", *options).ended(code=0)
    chance = random.Random(int(workers))
    last = tmp_path / "killed" / "checkpoints" / "last.ckpt"
    kills = 0
    while kills < 4:
        training = started("killed", *options, "--last_checkpoint.steps", "1")
        before = last.stat().st_mtime_ns if last.is_file() else 0
        training.until(lambda before=before: last.is_file() and last.stat().st_mtime_ns != before)
        time.sleep(chance.uniform(0, 1))
        if training.poll() is not None:
            break
        training.kill()
        assert training.wait() == -signal.SIGKILL
        kills += 1
    assert kills >= 1
    started("killed", *options).ended(code=0)
    same_run(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.slow
@pytest.mark.parametrize("each", [signal.SIGUSR1, signal.SIGTERM])
def test_a_run_ended_by_a_signal_resumes(
    each: signal.Signals,
    started: Callable[..., Training],
    same_run: Callable[[Path, Path], None],
    tmp_path: Path,
) -> None:
    options = ["--data.num_workers", "2", "--trainer.max_epochs", "4"]
    started("whole", *options).ended(code=0)
    early = started("stopped", *options)
    early.until(lambda: notes_signals(early.pid))
    early.send_signal(each)  # while it imports libraries
    assert f"Received {each.name}: saved the state of epoch 0, step 0 to" in early.ended(code=75)
    later = started("stopped", *options)
    later.until(lambda: rows(later.output).count("\n") > 2)
    later.send_signal(each)
    assert later.ended(code=75).count("Resume with --resume auto.") == 2
    started("stopped", *options).ended(code=0)
    same_run(tmp_path / "whole", tmp_path / "stopped")


class Job:
    """A SLURM job of two tasks, as its processes see it."""

    def __init__(self, started: Callable[..., Training], folder: Path) -> None:
        self.started, self.commands = started, folder / "commands"
        for name in ("scontrol", "squeue"):
            path = folder / "bin" / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"#!/bin/sh\necho {name} >> {self.commands}\n[ {name} = scontrol ] || echo RUNNING None\n")
            path.chmod(0o755)
        self.path = f"{folder / 'bin'}:{os.environ['PATH']}"

    def start(self, name: str) -> list[Training]:
        """Starts its two processes."""
        options = ["--config", "slurm", "--trainer.accelerator", "cpu", "--trainer.num_nodes", "1",
                   "--trainer.devices", "2", "--trainer.precision", "32-true", "--trainer.sync_batchnorm", "false",
                   "--trainer.max_epochs", "3"]  # fmt: skip
        variables = {"SLURM_JOB_ID": "4711", "SLURM_JOB_NAME": "train", "SLURM_NTASKS": "2", "SLURM_NNODES": "1",
                     "SLURM_NTASKS_PER_NODE": "2", "SLURM_NODEID": "0", "SLURM_STEP_ID": "0",
                     "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_ports()[0]), "PATH": self.path}  # fmt: skip
        return [self.started(name, *options, SLURM_PROCID=str(rank), SLURM_LOCALID=str(rank), **variables)
                for rank in range(2)]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("gap", [0.0, 0.05, 1.0])
def test_two_processes_agree_when_to_end(
    gap: float, started: Callable[..., Training], same_run: Callable[[Path, Path], None], tmp_path: Path
) -> None:
    job = Job(started, tmp_path)
    for each in job.start("whole"):
        each.ended(code=0)
    pair = job.start("stopped")
    pair[0].until(lambda: rows(pair[0].output).count("\n") > 2)
    for each in pair:
        each.send_signal(signal.SIGUSR1)
        time.sleep(gap)
    assert "Received SIGUSR1" in pair[0].ended(code=75)
    assert "Job 4711 was requeued." in pair[0].ended(code=75)
    pair[1].ended(code=0)
    assert job.commands.read_text() == "squeue\nscontrol\n"
    for each in job.start("stopped"):
        each.ended(code=0)
    same_run(tmp_path / "whole", tmp_path / "stopped")
