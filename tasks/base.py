"""The parent of every task."""

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable, ReduceLROnPlateau
from torch import Tensor, nn
from torchmetrics import Metric

from datamodules.batch import Batch, DataFacts
from ops.errors import ArgumentError, TrainingError
from ops.statistics.selection import entropy
from tasks.metrics.meter import Meter, Step
from tasks.schedules import StepSchedule

STAGES = ("train", "val", "test")
SLACK = 1e-3  # by which rounding may take images out of [0, 1]


def disagreement(probability: Tensor) -> Tensor:
    """Returns the mutual information in bits of an answer and the members of an ensemble (M, …), in [0, 1].

    It is the part of the entropy of the mean probability that more of the same training could remove; the rest is the
    mean entropy of the members (S. Depeweg et al., "Decomposition of uncertainty in Bayesian deep learning", ICML
    2018).
    """
    return (entropy(probability.mean(dim=0)) - entropy(probability).mean(dim=0)).clamp(min=0)


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
        scheduler: Builds the learning-rate schedule from the optimizer; it steps once per epoch, a `StepSchedule` once
            per batch. None by default.
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
    members: "Sequence[ImageTask]" = ()
    """Other trained tasks whose probabilities are averaged with this one's in test and predict: an ensemble."""
    disagreeing = False
    """Whether `probability` also keeps the `disagreement` of the members."""
    disagreement: Tensor | None = None
    """How much the members disagreed about the last batch, in the form of the probabilities, see `disagreement`."""
    every_stage = False
    """Whether `predict` makes all passes of a task that has several, not only those that the final one needs."""
    ask_facts: Callable[[], DataFacts] | None = None
    """Returns the data module's facts, already before `setup`; `callbacks.handover` sets it."""

    def __init__(self, optimizer: OptimizerCallable, scheduler: LRSchedulerCallable | None = None) -> None:
        super().__init__()
        self.optimizer = optimizer
        self.scheduler = scheduler
        metrics = {"train": self.build_training_metrics(), "val": self.build_metrics(),
                   "test": self.build_test_metrics()}  # fmt: skip
        self.meters = nn.ModuleDict({f"{stage}_meter": Meter(metrics[stage]) for stage in STAGES})

    @contextmanager
    def with_stages(self, every: bool = True) -> Iterator[None]:
        """Makes `predict` compute every stage in this block, if `every` is true."""
        before = self.every_stage
        self.every_stage = before or every
        try:
            yield
        finally:
            self.every_stage = before

    # What a task defines

    @abstractmethod
    def build_metrics(self) -> dict[str, Metric]:
        """Returns new metrics; each `update` takes fields of `Step`, each `compute` returns values by name."""

    def build_training_metrics(self) -> dict[str, Metric]:
        """Returns new metrics for training; those of validation by default."""
        return self.build_metrics()

    def build_test_metrics(self) -> dict[str, Metric]:
        """Returns new metrics for tests; those of validation by default."""
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
            outputs: The network's `outputs` for this batch, to be taken as they are. Without them, the probabilities
                are `averaged` over views of the images, and over this task and its `members`.
        """
        if outputs is not None:
            return self.calibrated(self.activate(outputs, batch))
        if not self.members:
            return self.calibrated(self.averaged(batch))
        every = (self, *(member.to(self.device) for member in self.members))
        each = torch.stack([self.calibrated(one.averaged(batch)) for one in every])
        if self.disagreeing:
            self.disagreement = disagreement(each)
        return each.mean(dim=0)

    def calibrated(self, probability: Tensor) -> Tensor:
        """Returns probabilities at the temperature of the checkpoint, if it has one; of members at that of the first.

        A temperature is fitted on single networks, so each is calibrated before they are averaged.
        """
        return probability

    def share_temperature(self, other: "ImageTask") -> None:
        """Takes the temperature of another network of the same folds; nothing by default."""

    def exported(self) -> Callable[[Batch], dict[str, Tensor]]:
        """Returns the function that a file of `belvedere export` computes for a batch of `image`: tensors by name.

        It may not depend on values in tensors, nor on whether sizes are multiples of anything.

        Raises:
            ArgumentError: The task cannot be exported.
        """
        return lambda batch: {"probability": self.probability(batch)}

    def averaged(self, batch: Batch) -> Tensor:
        """Returns this task's probabilities for a batch, averaged over views of the images; by default of one view."""
        return self.activate(self.outputs(batch), batch)

    def apart(self, batch: Batch) -> Iterator[Tensor]:
        """Yields what `probability` averages for a batch: the probabilities of each view of this task, and of members.

        Tasks with several passes yield those of the first.
        """
        for each in (self, *self.members):
            yield from map(self.calibrated, each.to(self.device).views_apart(batch))

    def views_apart(self, batch: Batch) -> Iterator[Tensor]:
        """Yields this task's probabilities for each view of the images that `averaged` averages over."""
        yield self.averaged(batch)

    def vectors(self, image: Tensor) -> Tensor | None:
        """Returns vectors (B, V) by which images (B, C, H, W) in [0, 1] can be compared; None if the task has none."""
        return None

    def add_members(self, members: "Sequence[ImageTask]", names: Sequence[object]) -> None:
        """Averages the probabilities of other tasks with this one's.

        Args:
            members: The other tasks; they replace earlier ones.
            names: What to call each in messages, such as the path of its checkpoint.

        Raises:
            ArgumentError: One predicts something else.
        """
        for member, name in zip(members, names, strict=True):
            own, other = self.predicts(), member.predicts()
            if own != other:
                raise ArgumentError(
                    f"{name} is of {other}, the first checkpoint of {own}; expected checkpoints of one kind to average."
                )
        self.members = list(members)

    def predicts(self) -> str:
        """Describes what the probabilities are of; tasks with equal descriptions can be averaged."""
        return f"{type(self).__name__} with the classes {list(self.classes)}"

    @property
    def averages(self) -> bool:
        """Whether `probability` averages over several views of the images, or over several tasks."""
        return bool(self.members)

    def measured(self, batch: Batch, outputs: Tensor | None = None) -> Tensor:
        """Returns the probabilities to measure a batch by; while fitting they are not averaged, which costs least."""
        if self.averages and not self.fitting:
            return self.probability(batch)
        return self.probability(batch, self.outputs(batch) if outputs is None else outputs.detach())

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
            batches: This process's training batches on its device, without augmentation, each image once and in order;
                each iteration yields them again.
        """

    def calibrate(self, batches: Iterable[Batch]) -> None:
        """Fits what only images outside training can decide, after `prepare`; nothing by default.

        Args:
            batches: This process's validation batches, as in `prepare`.
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
        """Returns what `predict` does, and the `name` of each image, so that `trainer.predict` says which is which."""
        return {**self.predict(batch), **{key: batch[key] for key in ("name",) if key in batch}}

    def _update(self, stage: str, batch: Batch) -> Tensor:
        step = self.step(batch)
        self.meter(stage).update(step, len(batch["image"]))
        return step.loss

    def on_train_start(self) -> None:
        """Spreads schedules over the run's steps: any earlier, counting them would keep loaders from resuming."""
        for config in self.trainer.lr_scheduler_configs:
            if isinstance(config.scheduler, StepSchedule):
                config.scheduler.spread(_steps_of(self.trainer, type(config.scheduler).__name__))
        self.on_train_epoch_start()  # Lightning does not call it where a run resumes within an epoch

    def on_train_epoch_start(self) -> None:
        """Has the last epoch validated, whatever `trainer.check_val_every_n_epoch` is."""
        if self.trainer.current_epoch + 1 == self.trainer.max_epochs:
            _validate_next(self.trainer)

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_index: int) -> None:
        """Logs at an epoch's last batch, so that callbacks find the metrics at the end of the epoch."""
        ended = _ends_here(self.trainer)
        if ended:  # within an epoch Lightning would end the run without a validation, and so without a best epoch
            self.trainer.should_stop = True
            _validate_next(self.trainer)
        if ended or self.trainer.is_last_batch:
            self._log("train")

    def on_validation_epoch_end(self) -> None:
        self._log("val")

    def on_test_epoch_end(self) -> None:
        self._log("test")

    def trained_parameters(self) -> Iterable[nn.Parameter] | Iterable[dict[str, Any]]:
        """Returns the parameters that the optimizer updates, or groups of them.

        A group may have a `lr_factor` that the learning rate of its parameters is multiplied by.
        """
        return (parameter for parameter in self.parameters() if parameter.requires_grad)

    def configure_optimizers(self) -> Any:
        try:
            optimizer = self.optimizer(self.trained_parameters())
        except ValueError as error:
            raise ValueError(f"--model.optimizer: {error}") from error
        for group in optimizer.param_groups:
            group["lr"] *= group.pop("lr_factor", 1.0)
        if self.scheduler is None:
            return optimizer
        try:
            schedule = self.scheduler(optimizer)
        except ValueError as error:
            raise ValueError(f"--model.scheduler: {error}") from error
        config: dict[str, Any] = {"scheduler": schedule, "interval": "epoch"}
        if isinstance(schedule, StepSchedule):
            config["interval"] = "step"
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


def _steps_of(trainer: Trainer, schedule: str) -> int:
    """Returns the number of steps that a run has.

    Raises:
        TrainingError: It has no end.
    """
    steps = trainer.estimated_stepping_batches
    if not math.isfinite(steps):
        raise TrainingError(f"{schedule} needs to know when training ends: give --trainer.max_epochs or max_steps.")
    return int(steps)


def _ends_here(trainer: Trainer) -> bool:
    """Returns whether a run ends with this step: by `max_steps`, or because `max_time` or a callback stops it."""
    if 0 < trainer.max_steps <= trainer.global_step:
        return True
    epochs = trainer.current_epoch + int(trainer.is_last_batch)
    least = epochs >= (trainer.min_epochs or 0) and trainer.global_step >= (trainer.min_steps or 0)
    return bool(trainer.should_stop and least)


def _validate_next(trainer: Trainer) -> None:
    """Makes a trainer validate at the end of the current epoch, or where the run stops within it."""
    if trainer.check_val_every_n_epoch is not None:  # None counts batches, not epochs
        trainer.check_val_every_n_epoch = 1


def check_images(batch: Batch) -> None:
    """Checks that a batch to predict has images in [0, 1].

    Raises:
        ArgumentError: They have other values, such as 0 to 255, or there is no batch.
    """
    if not isinstance(batch, dict) or "image" not in batch:
        raise ArgumentError(f"expected a batch such as {{'image': images}}, got {type(batch).__name__}.")
    image = batch["image"]
    if not image.is_floating_point() or image.ndim != 4:
        raise ArgumentError(
            f"image is {image.dtype} of shape {tuple(image.shape)}; expected floating point (B, 3, H, W) in [0, 1]: "
            "divide bytes by 255, or let belvedere.predict read the images."
        )
    if image.numel() and not bool(((image > -SLACK) & (image < 1 + SLACK)).all()):
        low, high = image.aminmax()
        raise ArgumentError(
            f"image has values from {low:g} to {high:g}; expected [0, 1], not normalized: divide bytes by 255, clamp "
            "what resizing left beyond, or let belvedere.predict read the images."
        )
