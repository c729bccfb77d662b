import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader

from callbacks.best import BestCheckpoint, EarlyStopping, FiniteOrStop, Summary
from callbacks.resuming import LastCheckpoint
from ops.errors import TrainingError

STEPS = 3  # batches an epoch


class Scripted(LightningModule):
    """Has a weight that is its epoch, and losses and a validation figure as they are written down.

    Args:
        dices: The figure `val/dice` of each epoch.
        losses: Training losses by step; 1 where there are no more.
    """

    def __init__(self, dices: Sequence[float], losses: Sequence[float] = ()) -> None:
        super().__init__()
        self.dices, self.losses = dices, losses
        self.weight = nn.Parameter(torch.zeros(1))
        self.steps = 0

    def training_step(self, batch: Tensor, batch_index: int) -> Tensor:
        loss = self.losses[self.steps] if self.steps < len(self.losses) else 1.0
        self.steps += 1
        self.weight.data.fill_(self.current_epoch)
        return self.weight.sum() * 0 + loss

    def validation_step(self, batch: Tensor, batch_index: int) -> None:
        self.log("val/dice", self.dices[self.current_epoch])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def fit(folder: Path, module: Scripted, *callbacks: Callback, resume: bool = False, **options: Any) -> Trainer:
    trainer = Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
        num_sanity_val_steps=0,
        callbacks=list(callbacks),
        **({"max_epochs": len(module.dices)} | options),
    )
    batches = DataLoader(torch.zeros(STEPS, 1))  # type: ignore[arg-type]  # a tensor is a data set
    trainer.fit(module, batches, batches, ckpt_path=folder / "checkpoints" / "last.ckpt" if resume else None)
    return trainer


def epoch_of(checkpoint: Path) -> tuple[int, float]:
    loaded = torch.load(checkpoint, weights_only=True)
    return loaded["epoch"], loaded["state_dict"]["weight"].item()


@pytest.mark.parametrize(
    ("mode", "dices", "best"),
    [("max", [0.1, 0.5, 0.4, 0.45], 1), ("min", [0.1, 0.5, 0.05, 0.2], 2), ("max", [0.3, 0.3, 0.3], 0)],
)
def test_best_and_last_epoch_are_kept(tmp_path: Path, mode: str, dices: list[float], best: int) -> None:
    fit(tmp_path, Scripted(dices), BestCheckpoint("val/dice", mode), LastCheckpoint())
    last = len(dices) - 1
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    assert epoch_of(tmp_path / "checkpoints" / "best.ckpt") == (best, best)
    assert epoch_of(tmp_path / "checkpoints" / "last.ckpt") == (last + 1, last)  # epochs are counted when they are over


def test_a_resumed_run_goes_on_from_the_last_and_knows_the_best(tmp_path: Path) -> None:
    fit(tmp_path, Scripted([0.1, 0.6, 0.2]), BestCheckpoint("val/dice", "max"), LastCheckpoint())
    module = Scripted([0.0, 0.0, 0.0, 0.3, 0.4])
    trainer = fit(tmp_path, module, BestCheckpoint("val/dice", "max"), LastCheckpoint(), resume=True)
    assert trainer.current_epoch == 5
    assert module.steps == 2 * STEPS
    assert epoch_of(tmp_path / "checkpoints" / "best.ckpt") == (1, 1)  # .6 is not beaten
    assert epoch_of(tmp_path / "checkpoints" / "last.ckpt") == (5, 4)


def test_a_run_whose_folder_was_moved_still_knows_how_good_the_best_is(tmp_path: Path) -> None:
    fit(tmp_path / "here", Scripted([0.1, 0.6, 0.2]), BestCheckpoint("val/dice", "max"), LastCheckpoint())
    (tmp_path / "here").rename(tmp_path / "there")
    best = BestCheckpoint("val/dice", "max")
    fit(tmp_path / "there", Scripted([0.0, 0.0, 0.0, 0.3, 0.7, 0.4]), best, LastCheckpoint(), resume=True, max_epochs=4)
    assert epoch_of(tmp_path / "there" / "checkpoints" / "best.ckpt") == (1, 1)
    assert best.best_model_path == str(tmp_path / "there" / "checkpoints" / "best.ckpt")
    best = BestCheckpoint("val/dice", "max")
    fit(tmp_path / "there", Scripted([0.0, 0.0, 0.0, 0.3, 0.7, 0.4]), best, LastCheckpoint(), resume=True)
    assert epoch_of(tmp_path / "there" / "checkpoints" / "best.ckpt") == (4, 4)
    assert [path.name for path in (tmp_path / "there" / "checkpoints").glob("best*")] == ["best.ckpt"]


@pytest.mark.parametrize(
    ("patience", "min_delta", "dices", "epochs"),
    [
        (2, 0.0, [0.1, 0.5, 0.4, 0.3, 0.9, 0.9], 4),  # 1 is the best, 2 and 3 are no better
        (3, 0.0, [0.1, 0.5, 0.4, 0.3, 0.9, 0.9], 6),
        (1, 0.0, [0.1, 0.2, 0.3, 0.3, 0.9], 4),  # as good is no better
        (1, 0.2, [0.1, 0.2, 0.9], 2),
        (None, 0.0, [0.9] + [0.1] * 14, 15),
    ],
)
def test_training_stops_when_it_gets_no_better(
    tmp_path: Path, patience: int | None, min_delta: float, dices: list[float], epochs: int
) -> None:
    trainer = fit(tmp_path, Scripted(dices), EarlyStopping("val/dice", "max", patience, min_delta))
    assert trainer.current_epoch == epochs


def test_epochs_that_are_not_validated_are_passed_over(tmp_path: Path) -> None:
    module = Scripted([0.0, 0.1, 0.0, 0.5, 0.0, 0.4, 0.0, 0.3, 0.0, 0.9])
    watching = BestCheckpoint("val/dice", "max"), EarlyStopping("val/dice", "max", patience=2)
    trainer = fit(tmp_path, module, *watching, check_val_every_n_epoch=2)
    assert trainer.current_epoch == 8
    assert epoch_of(tmp_path / "checkpoints" / "best.ckpt") == (3, 3)


def test_early_stopping_watches_for_the_minimum_too(tmp_path: Path) -> None:
    trainer = fit(tmp_path, Scripted([0.5, 0.4, 0.45, 0.1]), EarlyStopping("val/dice", "min", patience=1))
    assert trainer.current_epoch == 3


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_the_run_and_says_so(tmp_path: Path, value: float) -> None:
    module = Scripted([0.1] * 3, [1.0] * (STEPS + 1) + [value])
    with pytest.raises(TrainingError) as caught:
        fit(tmp_path, module, FiniteOrStop("val/dice"), BestCheckpoint("val/dice", "max"))
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("Training stopped in epoch 1, step 6: the training loss is not a finite number any more.")
    for cure in ("--model.optimizer.lr", "--trainer.gradient_clip_val 1", "--trainer.precision 32-true"):
        assert cure in message
    assert message.endswith(f"The best epoch so far is kept in {tmp_path / 'checkpoints' / 'best.ckpt'}.")
    assert epoch_of(tmp_path / "checkpoints" / "best.ckpt") == (0, 0)


@pytest.mark.parametrize(("every", "step"), [(1, 2), (2, 2), (50, 3)])
def test_the_loss_is_looked_at_now_and_then(tmp_path: Path, every: int, step: int) -> None:
    module = Scripted([0.1] * 3, [1.0, math.nan])  # and finite again after it
    with pytest.raises(TrainingError, match=f"in epoch 0, step {step}: the training loss"):
        fit(tmp_path, module, FiniteOrStop("val/dice"), log_every_n_steps=every)


def test_a_monitored_figure_that_is_no_number_stops_the_run(tmp_path: Path) -> None:
    module = Scripted([0.1, math.nan, 0.2])
    with pytest.raises(TrainingError, match=r"in epoch 1, step \d: val/dice is not a finite number any more") as caught:
        fit(tmp_path, module, FiniteOrStop("val/dice"), EarlyStopping("val/dice", "max"))
    assert "kept" not in str(caught.value)  # there is no checkpoint


def test_finite_runs_and_other_figures_are_left_alone(tmp_path: Path) -> None:
    assert fit(tmp_path, Scripted([0.1, 0.2]), FiniteOrStop("val/dice")).current_epoch == 2
    assert fit(tmp_path, Scripted([0.1, math.nan]), FiniteOrStop("val/loss")).current_epoch == 2


@pytest.mark.parametrize(
    ("mode", "best"), [("max", "Best epoch 1: val/dice 0.5000."), ("min", "Best epoch 0: val/dice 0.2")]
)
def test_summary_says_what_came_out_and_where_it_lies(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: Any, best: str
) -> None:
    caplog.set_level("INFO")
    (tmp_path / "curves.png").write_text("")
    fit(tmp_path, Scripted([0.2, 0.5, 0.4]), BestCheckpoint("val/dice", mode), Summary("val/dice", mode))
    said = caplog.messages[-1]
    assert "epochs 3, steps 9" in said
    assert best in said
    named = [line.strip() for line in said.splitlines() if line.startswith("  ")]
    assert named == [str(tmp_path / "checkpoints" / "best.ckpt"), str(tmp_path / "curves.png")]


def test_summary_remembers_the_best_of_the_run_that_it_goes_on_with(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    fit(tmp_path, Scripted([0.2, 0.5]), LastCheckpoint(), BestCheckpoint("val/dice", "max"), Summary("val/dice", "max"))
    fit(tmp_path, Scripted([0.0, 0.0, 0.3]), LastCheckpoint(), Summary("val/dice", "max"), resume=True)
    assert "Best epoch 1: val/dice 0.5000." in caplog.messages[-1]
