"""A study of real networks: run to its end, and killed in the middle of an epoch and resumed."""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from tests.helpers import ROOT, metrics

STEPS, EPOCHS = 3, 3  # 15 training images in batches of five
FILE = f"""
question: Does it resume?
options:
  config: clouds/demo
  data.size: [32, 48]
  data.output_size: [35, 53]
  data.batch_size: 5
  data.num_workers: 1
  trainer.max_epochs: {EPOCHS}
  last_checkpoint.steps: 2
  panels.pictures: 1
axes:
  architecture:
    PSPNet: {{model.architecture: pspnet}}
    FPN: {{model.architecture: fpn}}
    SegNet: {{model.architecture: fpn, model.pretrained: segnet.safetensors}}
seeds: [0, 1]
columns:
- {{figure: test/dice, title: dice, better: max, definition: Dice of Kaggle.}}
- {{figure: test/loss, title: loss, better: min, definition: The loss.}}
curves: [val/dice]
panel: predict-*/overlays/*.jpg
"""
# The command line of a run, which kills its study before a certain step.
KILLING = f"""
import os, signal, sys, time
from belvedere.__main__ import main
from tasks.base import ImageTask

kept = ImageTask.on_train_batch_start

def killing(task, *arguments):
    if task.global_step == int(os.environ["KILL_AT"]):
        assert task.global_step % {STEPS}, "not in the middle of an epoch"
        assert task.trainer.num_training_batches == {STEPS}
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)
    return kept(task, *arguments)

ImageTask.on_train_batch_start = killing
sys.exit(main(sys.argv[1:]))
"""
KILLED = f"""
import sys
from studies import running
from studies.command import study
running.PROGRAM = (sys.executable, "-c", {KILLING!r})
sys.exit(study(sys.argv[1:]))
"""
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, clouds_root: Path) -> Path:
    """The working folder, with the study file."""
    folder = tmp_path_factory.mktemp("studied")
    (folder / "quokka.yaml").write_text(FILE)
    (folder / "segnet.safetensors").write_bytes(b"no weights")
    return folder


@pytest.fixture(scope="module")
def study(place: Path, clouds_root: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the study in its own process."""

    def run(*options: str, code: str = "", kill_at: int = 0) -> subprocess.CompletedProcess[str]:
        started = ["-c", code] if code else ["-m", "belvedere", "study"]
        command = [sys.executable, *started, "quokka", "--data.root", str(clouds_root), *options]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "KILL_AT": str(kill_at),
                                    "WANDB_MODE": "offline"}  # fmt: skip
        return subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True)

    return run


@pytest.fixture(scope="module")
def unkilled(study: Callable[..., Any], place: Path, clouds_root: Path) -> subprocess.CompletedProcess[str]:
    """Runs the whole study; the weights of one network are broken."""
    done: subprocess.CompletedProcess[str] = study("--output", "whole")
    return done


def weights(run: Path) -> dict[str, dict[str, torch.Tensor]]:
    return {name: torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)["state_dict"]
            for name in ("best", "last")}  # fmt: skip


def test_a_failing_network_stops_no_other(unkilled: subprocess.CompletedProcess[str], place: Path) -> None:
    assert unkilled.returncode == 1
    assert "Failed: 2 of 6 runs" in unkilled.stderr
    assert "segnet" in unkilled.stderr
    results = pd.read_csv(place / "whole" / "results.csv")
    assert list(results["cell"]) == ["pspnet", "pspnet", "fpn", "fpn"]
    for _, row in results.iterrows():
        folder = place / "whole" / row["folder"]
        assert row["test/dice"] == pytest.approx(metrics(folder / "test" / "metrics.csv")["test/dice"])
        logged = b"".join(path.read_bytes() for path in folder.glob("wandb/offline-run-*/run-*.wandb"))
        assert b"quokka" in logged  # the group
        assert f"{row['cell']}--seed-{row['seed']}".encode() in logged
    first, second = (weights(place / "whole" / "cells" / "fpn" / f"seed-{seed}")["last"] for seed in (0, 1))
    assert any(not torch.equal(first[key], second[key]) for key in first)
    for name in ("table.md", "report.html", "figures/curves_dice.svg", "figures/bars.png"):
        assert (place / "whole" / name).stat().st_size > 0


def test_a_study_killed_within_an_epoch_gives_the_same_result(
    unkilled: Any, study: Callable[..., Any], place: Path
) -> None:
    kill_at = random.SystemRandom().choice([step for step in range(1, STEPS * EPOCHS) if step % STEPS])
    some = ["--output", "killed", "--axes.architecture", "PSPNet", "--seeds", "1"]
    killed = study(*some, code=KILLED, kill_at=kill_at)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    run = place / "killed" / "cells" / "pspnet" / "seed-1"
    assert "fit" not in (run / "study.json").read_text().split('"seconds"')[1]
    if kill_at >= 2:  # there was a checkpoint by then
        half = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
        assert 0 < half["global_step"] <= kill_at
    done = study(*some)
    assert done.returncode == 0, done.stderr
    assert ("from the last checkpoint" in done.stdout) == (kill_at >= 2)
    other = place / "whole" / "cells" / "pspnet" / "seed-1"
    for name, mine in weights(run).items():
        theirs = weights(other)[name]
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[key], theirs[key]) for key in mine), f"{name} differs, killed at step {kill_at}"
    for name in ("metrics.csv", "thresholds.csv", "test/metrics.csv"):
        assert (run / name).read_text() == (other / name).read_text(), f"{name} differs, killed at step {kill_at}"
