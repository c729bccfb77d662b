"""The parent of every task."""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable, ReduceLROnPlateau
from torch import Tensor, nn
from torchmetrics import Metric

from datamodules.batch import Batch, DataFacts
from tasks.metrics.meter import Meter, Step

STAGES = ("train", "val", "test")


def gathered(value: Any, world_size: int) -> list[Any]:
    """Returns the values of all processes, in each of them."""
    if world_size == 1:
        return [value]
    values: list[Any] = [None] * world_size
    torch.distributed.all_gather_object(values, value)
    return values


class ImageTask(LightningModule, ABC):
    """An image task: subclasses add a network, `step`, `predict` and `build_metrics`.

    Logs `<stage>/loss` and `<stage>/<metric>` for the stages train, val and test once per epoch. The values do not
    depend on the number of processes.

    Args:
        optimizer: Builds the optimizer from the trained parameters.
        scheduler: Builds the learning-rate schedule from the optimizer; it steps once per epoch. None by default.
    """

    classes: Sequence[str] = ()
    """Names of the classes, if the task has classes."""
    baselines: Sequence[str] = ()
    """Prefixes of the metrics of trivial baselines."""
    headline = "loss"
    """The metric shown beside the loss in the progress bar; the task's configs monitor it."""
    optional_keys: Sequence[str] = ()
    """State dict keys that checkpoints of earlier versions lack; the task's own values stay."""
    facts = DataFacts()
    """The facts about the data, see `receive`."""
    ask_facts: Callable[[], DataFacts] | None = None
    """Returns the data module's facts, already before `setup`; `callbacks.handover` sets it."""

    def __init__(self, optimizer: OptimizerCallable, scheduler: LRSchedulerCallable | None = None) -> None:
        super().__init__()
        self.optimizer = optimizer
        self.scheduler = scheduler
        metrics = {"train": self.build_training_metrics(), "val": self.build_metrics(), "test": self.build_metrics()}
        self.meters = nn.ModuleDict({f"{stage}_meter": Meter(metrics[stage]) for stage in STAGES})

    # What a task defines

    @abstractmethod
    def build_metrics(self) -> dict[str, Metric]:
        """Returns new metrics; each `update` takes fields of `Step`, each `compute` returns values by name."""

    def build_training_metrics(self) -> dict[str, Metric]:
        """Returns new metrics for training; those of validation by default."""
        return self.build_metrics()

    def outputs(self, batch: Batch) -> Tensor:
        """Returns what the network computes for a batch, in the form that the loss takes; by default `self(image)`."""
        outputs: Tensor = self(batch["image"])
        return outputs

    def activate(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Turns `outputs` of a batch into probabilities in float32; by default a sigmoid each."""
        return outputs.float().sigmoid()

    def probability(self, batch: Batch, outputs: Tensor | None = None) -> Tensor:
        """Returns probabilities for a batch: the one path that `step`, `predict` and the threshold search take.

        Colorization returns the chroma that the image is colored with.

        Args:
            batch: Only `image` is required, and `valid` where some pixels do not count.
            outputs: The network's `outputs` for this batch, where the caller has them; otherwise they are computed.
        """
        return self.activate(self.outputs(batch) if outputs is None else outputs, batch)

    @abstractmethod
    def step(self, batch: Batch) -> Step:
        """Returns loss, prediction and target of a batch; the same for training, validation and test."""

    @abstractmethod
    def predict(self, batch: Batch) -> dict[str, Any]:
        """Returns results by name for a batch of which only `image` is required; for callbacks and for users."""

    # What a task gets from the data and from weights, before it runs

    def prepare_data(self) -> None:
        """Receives the facts before loggers start a run, so that rejected data leave nothing behind."""
        if self.ask_facts is not None:
            self.receive(self.ask_facts())

    def receive(self, facts: DataFacts) -> None:
        """Stores the facts about the data; called before the first batch of a stage, possibly more than once.

        Raises:
            ArgumentError: The task cannot handle such data.
        """
        self.facts = facts

    def prepare(self, batches: Iterable[Batch]) -> None:
        """Fits what training needs to know, unless a checkpoint provided it; nothing by default.

        Args:
            batches: This process's training batches on its device, without augmentation, each image once and in order.
        """

    def summed(self, values: Tensor) -> Tensor:
        """Returns the sum of a tensor over all processes."""
        trainer = self.attached_trainer()
        if trainer is None or trainer.world_size == 1:
            return values
        total = trainer.strategy.reduce(values.to(self.device), reduce_op="sum")
        assert isinstance(total, Tensor)
        return total.to(values.device)

    def attached_trainer(self) -> Trainer | None:
        """Returns the trainer that runs this task; None outside of one, where `trainer` raises a RuntimeError."""
        try:
            return self.trainer
        except RuntimeError:
            return None

    @property
    def fitting(self) -> bool:
        """Whether a trainer fits this task, validation included."""
        trainer = self.attached_trainer()
        return trainer is not None and trainer.state.fn == "fit"

    def load_pretrained(self) -> None:
        """Loads the weights that training starts from; called once, before a new `fit` only."""

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the `optional_keys` that a checkpoint of an earlier version lacks."""
        own = self.state_dict()
        for key in self.optional_keys:
            checkpoint["state_dict"].setdefault(key, own[key])

    # What the trainer calls

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Returns the loss of a training batch.

        Dropout draws from a random state that is a function of (seed, epoch, batch, process), so that a resumed run
        repeats it. Layers draw from the global generator only, so its state is set here and restored after the step.
        """
        key = (int(os.environ.get("PL_GLOBAL_SEED", 0)), self.current_epoch, batch_index, self.global_rank)
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(hash(key) & 0x7FFF_FFFF)  # a tuple of integers hashes the same in every process
            return self._update("train", batch)

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        self._update("val", batch)

    def test_step(self, batch: Batch, batch_index: int) -> None:
        self._update("test", batch)

    def predict_step(self, batch: Batch, batch_index: int) -> dict[str, Any]:
        return self.predict(batch)

    def _update(self, stage: str, batch: Batch) -> Tensor:
        step = self.step(batch)
        self.meter(stage).update(step, len(batch["image"]))
        return step.loss

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_index: int) -> None:
        """Logs at an epoch's last batch, so that callbacks find the metrics at the end of the epoch."""
        if self.trainer.is_last_batch:
            self._log("train")

    def on_validation_epoch_end(self) -> None:
        self._log("val")

    def on_test_epoch_end(self) -> None:
        self._log("test")

    def trained_parameters(self) -> Iterable[nn.Parameter]:
        """Returns the parameters that the optimizer updates."""
        return (parameter for parameter in self.parameters() if parameter.requires_grad)

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer(self.trained_parameters())
        if self.scheduler is None:
            return optimizer
        schedule = self.scheduler(optimizer)
        config: dict[str, Any] = {"scheduler": schedule, "interval": "epoch"}
        if isinstance(schedule, ReduceLROnPlateau):
            config["monitor"] = schedule.monitor
        return {"optimizer": optimizer, "lr_scheduler": config}

    # Metrics

    def meter(self, stage: str) -> Meter:
        """Returns the meter of a stage."""
        meter = self.meters[f"{stage}_meter"]  # ModuleDict rejects the key "train", one of its methods
        assert isinstance(meter, Meter)
        return meter

    def test_meters(self) -> dict[tuple[str, str], Meter]:
        """Returns the meters of a running test by the prefix and the suffix of their metrics' names."""
        return {("", ""): self.meter("test")}

    def figures(self) -> list[str]:
        """Returns the names that validation logs, such as `val/loss`."""
        return [f"val/{name}" for name in Meter(self.build_metrics()).result()]

    def _log(self, stage: str) -> None:
        meters = self.test_meters() if stage == "test" else {("", ""): self.meter(stage)}
        for (prefix, suffix), meter in meters.items():
            for name, value in meter.result().items():
                if name == "loss" and suffix:
                    continue  # the loss is one, of all images
                shown = name in ("loss", self.headline) and not prefix + suffix
                key = f"{stage}/{prefix}{name}{suffix}"
                self.log(key, value, prog_bar=shown, on_step=False, on_epoch=True, batch_size=1)
