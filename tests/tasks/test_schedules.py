import math

import pytest
import torch

from datamodules.batch import Batch
from ops.errors import TrainingError
from tasks.clouds import CloudsTask
from tasks.schedules import WarmupCosine
from tests.checks import rejects
from tests.tasks.helpers import Trainers, loader


@pytest.fixture
def images() -> Batch:
    return {"image": torch.rand(2, 3, 32, 32), "mask": torch.ones(2, 1, 32, 32)}


def optimizer(*rates: float) -> torch.optim.Optimizer:
    return torch.optim.SGD([{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates])


def rates(schedule: WarmupCosine, steps: int) -> list[list[float]]:
    found = []
    for _ in range(steps):
        found.append([group["lr"] for group in schedule.optimizer.param_groups])
        schedule.optimizer.step()
        schedule.step()
    return found


def test_rises_and_falls_over_all_steps_in_every_group() -> None:
    schedule = WarmupCosine(optimizer(1.0, 0.1), warmup=0.2)
    schedule.spread(20)
    found = rates(schedule, 20)
    assert all(small == pytest.approx(large / 10) for large, small in found)
    large = [pair[0] for pair in found]
    assert large[:5] == pytest.approx([1 / 5, 2 / 5, 3 / 5, 4 / 5, 1])
    assert large[4:] == pytest.approx([(1 + math.cos(math.pi * step / 16)) / 2 for step in range(16)])
    assert schedule.get_last_lr() == pytest.approx([0, 0])


def test_a_resumed_run_may_be_longer() -> None:
    first = WarmupCosine(optimizer(1.0), warmup=0)
    first.spread(10)
    rates(first, 5)
    other = WarmupCosine(optimizer(1.0), warmup=0)
    other.spread(20)
    other.load_state_dict(first.state_dict())
    other.optimizer.step()
    other.step()
    assert other.get_last_lr() == pytest.approx([(1 + math.cos(math.pi * 6 / 20)) / 2])


def test_warmup_is_a_share() -> None:
    rejects("warmup is 1", WarmupCosine, optimizer(1.0), warmup=1)


def test_a_run_spreads_it_over_its_steps(make_trainer: Trainers, images: Batch) -> None:
    task = CloudsTask(architecture="pspnet", pretrained=False, classes=["cloud"], scheduler=WarmupCosine,
                      encoder_lr=0.1, optimizer=lambda p: torch.optim.SGD(p, lr=1.0))  # fmt: skip
    seen: list[list[float]] = []
    task.on_train_batch_start = lambda *_: seen.append([g["lr"] for g in task.optimizers().param_groups])  # type: ignore
    make_trainer(max_epochs=3).fit(task, loader(images, 7))
    assert len(seen) == 21
    alone = WarmupCosine(optimizer(1.0))
    alone.spread(21)
    assert [rest for rest, _ in seen] == pytest.approx([rate for (rate,) in rates(alone, 21)])
    assert all(encoder == pytest.approx(rest / 10) for rest, encoder in seen)


def test_a_run_without_an_end_cannot_be_spread(make_trainer: Trainers, images: Batch) -> None:
    task = CloudsTask(architecture="pspnet", pretrained=False, classes=["cloud"], scheduler=WarmupCosine)
    rejects("max_epochs", make_trainer(max_epochs=-1).fit, task, loader(images, 2), error=TrainingError)
