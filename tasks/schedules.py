"""Learning-rate schedules that step after every batch and know how many batches a run has."""

import math
from abc import ABC, abstractmethod
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

STATE = ("base_lrs", "last_epoch", "_step_count", "_last_lr", "lr_lambdas")  # what a resumed run takes over


class StepSchedule(LambdaLR, ABC):
    """A schedule over the share of the run's steps that are done.

    Args:
        optimizer: The optimizer, whose learning rates are the highest of the schedule.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.steps = 1
        super().__init__(optimizer, lambda step: self.factor(min(step / self.steps, 1.0)))

    @abstractmethod
    def factor(self, done: float) -> float:
        """Returns what the learning rate is multiplied by when this share of the steps is done."""

    def spread(self, steps: int) -> None:
        """Spreads the schedule over a number of steps; called once, before the first of them."""
        self.steps = steps
        for group, rate in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = rate * self.lr_lambdas[0](self.last_epoch)
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """Returns the position only: a resumed run may have more steps."""
        return {name: value for name, value in super().state_dict().items() if name in STATE}


class WarmupCosine(StepSchedule):
    """Rises linearly from nearly 0, then falls to 0 along half a cosine.

    Loshchilov and Hutter, "SGDR: stochastic gradient descent with warm restarts", ICLR 2017, without restarts.

    Args:
        optimizer: The optimizer.
        warmup: Share of the steps in which the learning rate rises, in [0, 1).

    Raises:
        ValueError: `warmup` is out of range.
    """

    def __init__(self, optimizer: Optimizer, warmup: float = 0.05) -> None:
        if not 0 <= warmup < 1:
            raise ValueError(f"warmup is {warmup}; expected a share of the steps in [0, 1)")
        self.warmup = warmup
        super().__init__(optimizer)

    def factor(self, done: float) -> float:
        if done < self.warmup:
            return (done * self.steps + 1) / (self.warmup * self.steps + 1)
        return (1 + math.cos(math.pi * (done - self.warmup) / (1 - self.warmup))) / 2
