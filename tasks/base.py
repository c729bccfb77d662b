"""The parent of every task: one loop, one set of log names, one way to optimisers and weights."""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable, ReduceLROnPlateau
from torch import Tensor, nn
from torchmetrics import Metric

from tasks.metrics.meter import Meter, Step

Batch: TypeAlias = dict[str, Any]
"""The only contract between data and tasks: `image` (B, 3, H, W) float32 sRGB in [0, 1], `name` list[str],
`index` (B,), and what the task learns from (`mask`, `label`, `votes`; `valid` where something must not count).
To predict, what the outputs are put together by: `size`, the height and width of the picture's output, `origin` and
`window`, the place of the sample in it, (B, 2) each; `overlap`, of neighbouring windows; and in the last sample of a
picture `source`, the picture (H, W, 3) uint8 to draw over."""
STAGES = ("train", "val", "test")


class ImageTask(LightningModule, ABC):
    """A picture task: subclasses give a network, `step`, `predict` and `build_metrics`.

    Logs `<stage>/loss` and `<stage>/<metric>` for the stages train, val and test once an epoch, exact under
    several processes.

    Args:
        optimizer: Makes the optimiser from the parameters that are trained.
        scheduler: Makes the learning-rate schedule from the optimiser, stepped once an epoch; none by default.
    """

    classes: Sequence[str] = ()
    """Names of the classes, of a task that has some."""
    baselines: Sequence[str] = ()
    """Prefixes of the metrics that belong to trivial baselines."""
    headline = "loss"
    """The figure that stands beside the loss behind the progress bar; the task's configs monitor it."""

    def __init__(self, optimizer: OptimizerCallable, scheduler: LRSchedulerCallable | None = None) -> None:
        super().__init__()
        self.optimizer = optimizer
        self.scheduler = scheduler
        metrics = {"train": self.build_training_metrics(), "val": self.build_metrics(), "test": self.build_metrics()}
        self.meters = nn.ModuleDict({f"{stage}_meter": Meter(metrics[stage]) for stage in STAGES})

    @abstractmethod
    def build_metrics(self) -> dict[str, Metric]:
        """New metrics whose `compute` returns a dict of named figures; `update` takes fields of `Step`."""

    def build_training_metrics(self) -> dict[str, Metric]:
        """New metrics for training, where they are not those of validation."""
        return self.build_metrics()

    @abstractmethod
    def step(self, batch: Batch) -> Step:
        """Loss, prediction and target of a batch; the same for training, validation and test."""

    @abstractmethod
    def predict(self, batch: Batch) -> dict[str, Any]:
        """Named results for a batch of which only `image` is needed; for callbacks and for users."""

    def load_pretrained(self) -> None:
        """Fills the network with the weights that training starts from; called once, before `fit` only."""

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Loss of a training batch."""
        return self._update("train", batch)

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Counts a validation batch."""
        self._update("val", batch)

    def test_step(self, batch: Batch, batch_index: int) -> None:
        """Counts a test batch."""
        self._update("test", batch)

    def predict_step(self, batch: Batch, batch_index: int) -> dict[str, Any]:
        """`predict`, for a trainer."""
        return self.predict(batch)

    def meter(self, stage: str) -> Meter:
        """What counts a stage."""
        meter = self.meters[f"{stage}_meter"]  # "train" alone is refused as a key: it is a method of ModuleDict
        assert isinstance(meter, Meter)
        return meter

    def test_meters(self) -> dict[tuple[str, str], Meter]:
        """The meters of a test that has begun, by what the names of their figures begin and end with."""
        return {("", ""): self.meter("test")}

    def _update(self, stage: str, batch: Batch) -> Tensor:
        step = self.step(batch)
        self.meter(stage).update(step, len(batch["image"]))
        return step.loss

    def on_train_batch_start(self, batch: Batch, batch_index: int) -> None:
        """Makes dropout a function of (seed, epoch, batch, process), so that a resumed run repeats it."""
        key = (int(os.environ.get("PL_GLOBAL_SEED", 0)), self.current_epoch, batch_index, self.global_rank)
        torch.manual_seed(hash(key) & 0x7FFF_FFFF)  # a tuple of integers hashes the same in every process

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_index: int) -> None:
        """Logs at an epoch's last batch, so that callbacks find the figures at the epoch's end."""
        if self.trainer.is_last_batch:
            self._log("train")

    def on_validation_epoch_end(self) -> None:
        """Logs `val/…`."""
        self._log("val")

    def on_test_epoch_end(self) -> None:
        """Logs `test/…`."""
        self._log("test")

    def _log(self, stage: str) -> None:
        meters = self.test_meters() if stage == "test" else {("", ""): self.meter(stage)}
        for (beginning, ending), meter in meters.items():
            for name, value in meter.result().items():
                if name == "loss" and ending:
                    continue  # there is one loss, of all pictures
                shown = name in ("loss", self.headline) and not beginning + ending
                key = f"{stage}/{beginning}{name}{ending}"
                self.log(key, value, prog_bar=shown, on_step=False, on_epoch=True, batch_size=1)

    def figures(self) -> list[str]:
        """Names of what validation logs, such as `val/loss`."""
        return [f"val/{name}" for name in Meter(self.build_metrics()).result()]

    def trained_parameters(self) -> Iterable[nn.Parameter]:
        """The parameters that the optimiser is given."""
        return (parameter for parameter in self.parameters() if parameter.requires_grad)

    def configure_optimizers(self) -> Any:
        """The optimiser and, where there is one, the schedule, stepped once an epoch."""
        optimizer = self.optimizer(self.trained_parameters())
        if self.scheduler is None:
            return optimizer
        schedule = self.scheduler(optimizer)
        config: dict[str, Any] = {"scheduler": schedule, "interval": "epoch"}
        if isinstance(schedule, ReduceLROnPlateau):
            config["monitor"] = schedule.monitor
        return {"optimizer": optimizer, "lr_scheduler": config}
