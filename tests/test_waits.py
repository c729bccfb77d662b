"""Training steps do not make the host wait for the device."""

from pathlib import Path
from typing import Any

import pytest
import torch

from belvedere.__main__ import main
from datamodules.decoded.windows import Store
from tasks.metrics.dice import scattered
from tests.followed import Followed, StepsFollowed
from tests.test_gpu import CSV_ONLY, RUNS


def test_reads_and_copies_from_the_host_are_counted() -> None:
    mode = Followed()
    device, host = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])
    mode.put([device])
    with mode:
        double = device * 2
        assert not mode.waits
        double.sum().item()
        assert mode.waits.total() == 1
        double + host
        assert mode.waits.total() == 2
        double[double > 3]
        assert mode.waits.total() == 3
        torch.ones(2).sum().item()
        double * 3.0
        assert mode.waits == {"tests/test_waits.py": 3}


@pytest.mark.parametrize("name", RUNS)
def test_no_training_step_makes_the_host_wait(
    name: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    followed: list[StepsFollowed] = []
    real = StepsFollowed.on_fit_start
    monkeypatch.setattr(StepsFollowed, "on_fit_start", lambda self, *given: (followed.append(self), real(self, *given)))
    monkeypatch.setattr("tasks.metrics.dice.counted", scattered)  # as on a device
    monkeypatch.setattr(Store, "to", Store.to)  # restores it after it is wrapped
    root: Any = request.getfixturevalue(f"{name}_root")
    options = ["--data.root", str(root), "--data.batch_size", "4", "--data.num_workers", "0", "--output", str(tmp_path),
               "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "4", "--trainer.accelerator", "cpu",
               "--trainer.callbacks+=tests.followed.StepsFollowed"]  # fmt: skip
    assert main(["fit", *RUNS[name], *CSV_ONLY, *options]) == 0
    assert followed[0].steps > 0
    # kornia makes its matrices and white points from Python numbers in each conversion
    assert set(followed[0].mode.waits) == ({"kornia"} if name == "colorization" else set())
    assert followed[0].mode.waits["kornia"] <= 8 * followed[0].steps
