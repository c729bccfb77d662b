"""Finds the validation images that a task does worst on, and what trivial baselines get on the test images."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from torchmetrics import MetricCollection

from belvedere.prediction import configured
from callbacks.best import mode_of
from callbacks.handover import Handover
from callbacks.intervals import of_image
from callbacks.loggers import ProgressBar
from callbacks.panels import Panels
from datamodules.base import ImageDataModule
from datamodules.batch import Batch
from ops.errors import UserError
from tasks.base import ImageTask
from tasks.segmentation import SegmentationTask, known

PREFERRED = ("dice", "delta_e2000")
"""Metrics of a single image, the first that a task has; the loss for tasks that have none."""


@dataclass
class Review:
    """What a task's validation and test images showed.

    Attributes:
        worst: Names and values of the worst validation images, the worst first.
        measure: The metric of these values.
        count: Number of validation images.
        baselines: Test metrics by name, of every pixel marked and of none; empty for tasks without masks.
        problem: Why nothing was measured; "" if it was.
    """

    worst: list[tuple[str, float]] = field(default_factory=list)
    measure: str = "loss"
    count: int = 0
    baselines: dict[str, dict[str, float]] = field(default_factory=dict)
    problem: str = ""


def review(task: ImageTask, config: Mapping[str, Any], root: str | None, worst: int, folder: Path) -> Review:
    """Measures a task on its validation images one by one, and draws the worst.

    Args:
        task: The task, with its weights.
        config: The run's config.
        root: The dataset's folder, if it is no longer where the config says.
        worst: Number of images; 0 looks at none.
        folder: Gets `panels/validate.png`, if the task's results can be drawn.
    """
    options: dict[str, Any] = {"batch_size": 1} | ({} if root is None else {"root": root})
    data, _ = configured(config, options)
    if not data.root.is_dir():
        return Review(problem=f"the dataset of the run, {data.root}, is not there. Give its folder: --data.")
    looker = _Worst(max(1, worst), data)
    trainer = Trainer(
        accelerator="auto",
        devices=1,
        default_root_dir=folder,
        callbacks=[ProgressBar(), Handover(data), looker],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    try:
        trainer.validate(task, data, verbose=False)
    except UserError as error:
        return Review(problem=str(error))
    if not worst:
        (folder / "panels" / "validate.png").unlink(missing_ok=True)
        looker.found.worst, looker.found.problem = [], "disabled with --worst 0."
    return looker.found


class _Worst(Panels):
    """Draws the worst validation images instead of the first."""

    def __init__(self, pictures: int, source: ImageDataModule) -> None:
        super().__init__(pictures)
        self.module = source
        self.found = Review()
        self._kept: list[tuple[float, str, float, Batch]] = []  # rank, name, value
        self._loss = 0.0

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, ImageTask)
        pl_module.meter("val").each = []
        if isinstance(pl_module, SegmentationTask):
            self.found.baselines = self._marked(pl_module)

    def _marked(self, task: SegmentationTask) -> dict[str, dict[str, float]]:
        """Returns test metrics of every pixel marked, and of none."""
        self.module.setup("test")
        marked = {name: MetricCollection(dict(task.build_metrics()), compute_groups=False).to(task.device)
                  for name in ("all marked", "none marked")}  # fmt: skip
        if not self.module.picture_names().get("test"):
            return {}
        for batch in self.module.unaugmented("test"):
            target = task.target(batch)
            for name, metrics in marked.items():
                mask = torch.full_like(target, name == "all marked")
                metrics.update(prediction=mask > 0, target=target, probability=mask.float(), valid=known(batch))
        return {
            name: {key: float(value) for key, value in metrics.compute().items()} for name, metrics in marked.items()
        }

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        assert isinstance(pl_module, ImageTask)
        meter = pl_module.meter("val")
        before, self._loss = self._loss, float(meter.loss.total)
        values = {"loss": self._loss - before} | of_image(meter, meter.each or [])
        meter.each = []
        self.found.count += 1
        self.found.measure = next((name for name in PREFERRED if name in values), "loss")
        value, [name] = values[self.found.measure], batch["name"]
        rank = value if mode_of(self.found.measure) == "min" else -value
        if np.isfinite(value) and (len(self._kept) < self.pictures or rank > self._kept[-1][0]):
            self._kept.append((rank, name, value, batch))
            self._kept = sorted(self._kept, key=lambda each: -each[0])[: self.pictures]

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.found.worst = [(name, value) for _, name, value, _ in self._kept]
        self._samples = [batch for *_, batch in self._kept]
        super().on_validation_epoch_end(trainer, pl_module)
