import re
import subprocess
from pathlib import Path

import pytest

from benchmarks.demo import demo
from datamodules.samples.__main__ import SAMPLES
from tests.helpers import ROOT

MARGIN = {"clouds": 0.15, "roads": 0.15, "avalanches": 0.1, "colorization": 0.5, "aesthetics": 0.1}


@pytest.mark.slow
@pytest.mark.parametrize("task", MARGIN)
def test_the_demos_learn(task: str, tmp_path: Path) -> None:
    learned = demo(tmp_path, 0, task)
    assert learned.value > learned.baseline + MARGIN[task]


@pytest.mark.parametrize("task", SAMPLES)
def test_make_demo_runs_every_step_of_a_task(task: str) -> None:
    made = subprocess.run(["make", "-n", "demo", f"TASK={task}"], cwd=ROOT, capture_output=True, text=True, check=True)
    steps = re.findall(
        rf"samples {task} sample/{task}|fit --config {task}/demo|belvedere (?:test|predict) --ckpt_path", made.stdout
    )
    assert len(steps) == 4
    assert (ROOT / "configs" / task / "demo.yaml").is_file()
    assert "overview.html" in made.stdout
