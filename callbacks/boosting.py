"""Fits boosted trees after training, which decide instead of the network if they are better on validation images."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray
from torch import Tensor

from callbacks.handover import UsesData
from callbacks.thresholds import best_path, fit_decisions, go_to_best, keep_in_best, write_fitted
from tasks.boosting import fit_boosted, load, save, window_features
from tasks.decision import MINIMUM_AREAS
from tasks.segmentation import SegmentationTask


@runtime_checkable
class WindowSource(Protocol):
    """Describes a data module whose training samples are windows."""

    def training_windows(self, count: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields `count` windows (B, 3, w, w) in [0, 1] and their labels (B,), always the same ones."""


class BoostedTrees(UsesData):
    """Fits gradient-boosted trees on the outputs of the best epoch's network for training windows.

    The task's `xgboost_on` selects the outputs; `none` turns this callback off. The trees are written beside the best
    checkpoint, as `checkpoints/best.ubj` in XGBoost's own format; their threshold and minimum area are fitted on the
    validation images and kept in the checkpoint. Test and predict read the trees beside their checkpoint.

    Args:
        windows: Number of training windows to fit on, always the same ones.
        rounds: Number of trees.
        max_depth: Largest depth of a tree.
        learning_rate: Shrinkage of each tree, in (0, 1].
        minimum_areas: Shares of an image to try, 0 among them.
    """

    def __init__(
        self,
        windows: int = 20_000,
        rounds: int = 100,
        max_depth: int = 4,
        learning_rate: float = 0.1,
        minimum_areas: Sequence[float] = MINIMUM_AREAS,
    ) -> None:
        if min(windows, rounds, max_depth) < 1 or not 0 < learning_rate <= 1:
            raise ValueError(
                f"{windows=}, {rounds=}, {max_depth=} and {learning_rate=}; expected integers of at least 1 and a "
                "rate in (0, 1]"
            )
        self.windows, self.rounds, self.minimum_areas = windows, rounds, list(minimum_areas)
        self.parameters = {"max_depth": max_depth, "learning_rate": learning_rate}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Removes the trees of the network that training continues from."""
        if trainer.is_global_zero:
            (Path(trainer.default_root_dir) / "checkpoints" / "best.ubj").unlink(missing_ok=True)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Loads the best epoch, fits the trees, then their threshold and minimum area, and keeps both."""
        task: Any = pl_module
        assert isinstance(pl_module, SegmentationTask)
        if task.xgboost_on == "none" or not go_to_best(trainer, pl_module):
            return
        path = best_path(trainer)
        assert path is not None
        path = path.with_suffix(".ubj")
        task.eval()
        if trainer.is_global_zero:
            features, labels = self._samples(task)
            save(fit_boosted(features, labels, seed=0, rounds=self.rounds, **self.parameters), path)
        trainer.strategy.barrier()
        task.trees = load(path)
        decisions, batches = {"boosted": task.boosted_decision}, self.source().unaugmented("val")
        fitted = fit_decisions(trainer, pl_module, decisions, batches, self.minimum_areas)
        keep_in_best(trainer, pl_module, ("boosted_decision.", "validation_dice"))
        if trainer.is_global_zero:
            rank_zero_info(f"Boosted trees on {task.xgboost_on} of {len(labels)} training windows: {path}")
            table = Path(trainer.default_root_dir) / "boosted_thresholds.csv"
            rank_zero_info(write_fitted(fitted, pl_module.classes, table))
            rank_zero_info(f"Predict will write the pass {pl_module.final!r}, chosen on the validation images.")

    @torch.no_grad()
    def _samples(self, task: Any) -> tuple[NDArray[Any], NDArray[Any]]:
        """Returns features (N, F) and labels (N,) of training windows."""
        data = self.source()
        assert isinstance(data, WindowSource)
        features, labels = [], []
        for windows, label in data.training_windows(self.windows, task.device):
            features.append(window_features(task.network, task.xgboost_on, windows).float().cpu())
            labels.append(label.cpu())
        return torch.cat(features).numpy(), torch.cat(labels).numpy()

    def _read(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reads the trees beside the checkpoint.

        Raises:
            TreesError: They are missing or incomplete.
        """
        task: Any = pl_module
        if task.xgboost_on != "none" and task.trees is None and trainer.ckpt_path is not None:
            task.trees = load(Path(trainer.ckpt_path).with_suffix(".ubj"))

    on_test_start = on_predict_start = _read
