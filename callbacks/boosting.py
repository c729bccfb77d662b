"""Boosted trees that decide in a network's place, fitted when training is over."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray

from callbacks.thresholds import best_path, fit_decision, go_to_best, keep_in_best, write_table
from tasks.base import ImageTask
from tasks.boosting import fit_boosted, load, save, window_features
from tasks.decision import MINIMUM_AREAS


class BoostedTrees(Callback):
    """Fits gradient-boosted trees on what the best epoch's network says of training windows.

    The task says what they are fitted on, `xgboost_on`; with `none` nothing is done. They are written beside the best
    checkpoint, `checkpoints/best.ubj`, in XGBoost's own format; their threshold and minimum area are fitted on the
    validation pictures and kept in the checkpoint. Test and predict read the trees that lie beside their checkpoint.

    Args:
        windows: How many training windows they are fitted on, always the same ones.
        rounds: Number of trees.
        max_depth: Decisions from a tree's root to its leaves, at most.
        learning_rate: By how much each tree is shrunk.
        minimum_areas: Shares of a picture that are tried, 0 among them.
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
                f"{windows=}, {rounds=}, {max_depth=} and {learning_rate=}; whole numbers from 1 on and a rate in "
                "(0, 1] were wanted"
            )
        self.windows, self.rounds, self.minimum_areas = windows, rounds, list(minimum_areas)
        self.parameters = {"max_depth": max_depth, "learning_rate": learning_rate}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Removes the trees of what is trained on from here."""
        if trainer.is_global_zero:
            (Path(trainer.default_root_dir) / "checkpoints" / "best.ubj").unlink(missing_ok=True)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Goes back to the best epoch, fits the trees, then when they mark a pixel, and keeps both."""
        task: Any = pl_module
        assert isinstance(pl_module, ImageTask)
        if task.xgboost_on == "none" or not go_to_best(trainer, pl_module):
            return
        path = best_path(trainer)
        assert path is not None
        path = path.with_suffix(".ubj")
        task.eval()
        if trainer.is_global_zero:
            features, labels = self._samples(trainer, task)
            save(fit_boosted(features, labels, seed=0, rounds=self.rounds, **self.parameters), path)
        trainer.strategy.barrier()
        task.trees = load(path)
        fitted = fit_decision(trainer, pl_module, task.boosted_decision, self.minimum_areas, task.boosted_step)
        keep_in_best(trainer, pl_module, "boosted_decision.")
        if trainer.is_global_zero:
            rank_zero_info(f"Boosted trees on {task.xgboost_on} of {len(labels)} training windows: {path}")
            table = Path(trainer.default_root_dir) / "boosted_thresholds.csv"
            rank_zero_info(write_table(fitted, pl_module.classes, table))

    @torch.no_grad()
    def _samples(self, trainer: Trainer, task: Any) -> tuple[NDArray[Any], NDArray[Any]]:
        """Features (N, F) and labels (N,) of training windows."""
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]  # untyped there
        features, labels = [], []
        for windows, label in datamodule.training_windows(self.windows, task.device):
            features.append(window_features(task.network, task.xgboost_on, windows).float().cpu())
            labels.append(label.cpu())
        return torch.cat(features).numpy(), torch.cat(labels).numpy()

    def _read(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes the trees that lie beside the checkpoint.

        Raises:
            TreesError: They are missing or not whole.
        """
        task: Any = pl_module
        if task.xgboost_on != "none" and task.trees is None and trainer.ckpt_path is not None:
            task.trees = load(Path(trainer.ckpt_path).with_suffix(".ubj"))

    on_test_start = on_predict_start = _read
