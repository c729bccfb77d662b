import math
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader

from callbacks.best import BestCheckpoint
from callbacks.curves import Curves
from drawing import charts
from tests.scripted import quiet_trainer


class Tiny(LightningModule):
    """Logs metrics that differ in every epoch and stage, and remembers them."""

    def __init__(self, fail_in_epoch: int | None = None, error: BaseException | None = None) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.fail_in_epoch, self.error = fail_in_epoch, error
        self.logged: dict[tuple[int, str], list[float]] = {}

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        if self.error is not None and self.current_epoch == self.fail_in_epoch:
            raise self.error
        self._note("train/loss", 10.0 * self.current_epoch + batch_idx, on_step=True)
        self._note("train/dice/Fish", 1.0)
        self._note("speed", 1.0)
        return self.layer(batch).sum()

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self._note("val/loss", 100.0 + 10.0 * self.current_epoch + batch_idx)
        self._note("val/auprc", math.nan)
        self._note("val/ratio", math.inf)

    def _note(self, key: str, value: float, on_step: bool = False) -> None:
        self.log(key, value, on_step=on_step, on_epoch=True, batch_size=1)
        if not self.trainer.sanity_checking:
            self.logged.setdefault((self.current_epoch, key), []).append(value)

    def mean(self, epoch: int, key: str) -> float:
        return sum(self.logged[epoch, key]) / len(self.logged[epoch, key])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


class LogsAtTheLastBatch(Callback):
    """Logs as `ImageTask` does: once, in the hook after the last batch."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *rest: Any) -> None:
        if trainer.is_last_batch:
            pl_module.log("train/dice", float(trainer.current_epoch), on_step=False, on_epoch=True)


def fit(
    module: LightningModule, folder: Path, *callbacks: Callback, resume: Path | None = None, **options: Any
) -> Trainer:
    trainer = quiet_trainer(folder, *callbacks, **({"max_epochs": 3} | options))
    loaders = [DataLoader(torch.ones(4, 1), batch_size=2) for _ in range(2)]
    trainer.fit(module, loaders[0], loaders[1], ckpt_path=resume, weights_only=True if resume else None)
    return trainer


def test_rows_hold_the_metrics_of_their_own_epoch(tmp_path: Path) -> None:
    module, curves = Tiny(), Curves()
    fit(module, tmp_path, curves, LogsAtTheLastBatch())
    assert [row["epoch"] for row in curves.history] == [0, 1, 2]
    for epoch, row in enumerate(curves.history):
        assert set(row) == {"epoch", "train/loss", "train/dice", "val/loss", "val/auprc"}
        assert row["train/loss"] == module.mean(epoch, "train/loss") == 10 * epoch + 0.5
        assert row["val/loss"] == module.mean(epoch, "val/loss") == 100.5 + 10 * epoch
        assert row["train/dice"] == epoch
        assert math.isnan(row["val/auprc"])
    assert (tmp_path / "curves.png").stat().st_size > 0


def test_the_kept_epoch_is_marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int | None] = []
    monkeypatch.setattr(charts, "draw_curves", lambda history, monitor, path, best, baselines: drawn.append(best))
    fit(Tiny(), tmp_path, Curves(), BestCheckpoint("val/loss", "max", tolerance=15), max_epochs=4)
    fit(Tiny(), tmp_path / "low", Curves(), BestCheckpoint("val/loss", "min", tolerance=15), max_epochs=4)
    assert drawn == [3, 1]  # 100.5, 110.5, 120.5, 130.5


def test_an_epoch_without_validation_does_not_repeat_the_last_one(tmp_path: Path) -> None:
    curves = Curves()
    fit(Tiny(), tmp_path, curves, max_epochs=4, check_val_every_n_epoch=2)
    assert [row.get("val/loss") for row in curves.history] == [None, 110.5, None, 130.5]


@pytest.mark.parametrize("save_on_train_epoch_end", [True, False])
def test_a_resumed_run_continues_the_history(tmp_path: Path, save_on_train_epoch_end: bool) -> None:
    whole = Curves()
    fit(Tiny(), tmp_path, whole, max_epochs=5)

    keep = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1, save_on_train_epoch_end=save_on_train_epoch_end)
    fit(Tiny(), tmp_path, Curves(), keep, max_epochs=3)
    state = torch.load(tmp_path / "epoch=1.ckpt", weights_only=True)["callbacks"]["Curves"]
    assert [row["epoch"] for row in state["history"]] == [0, 1]

    resumed = Curves()
    fit(Tiny(), tmp_path, resumed, resume=tmp_path / "epoch=1.ckpt", max_epochs=5)
    assert [row["epoch"] for row in resumed.history] == [0, 1, 2, 3, 4]
    assert [row["val/loss"] for row in resumed.history] == [row["val/loss"] for row in whole.history]
    # a checkpoint saved after the validation of epoch 1 does not have its training metrics yet
    start = 0 if save_on_train_epoch_end else 2
    pairs = zip(resumed.history[start:], whole.history[start:], strict=True)
    assert all(row["train/loss"] == same["train/loss"] for row, same in pairs)


def test_a_second_training_starts_a_new_history(tmp_path: Path) -> None:
    curves = Curves()
    fit(Tiny(), tmp_path, curves, max_epochs=3)
    fit(Tiny(), tmp_path, curves, max_epochs=2)
    assert [row["epoch"] for row in curves.history] == [0, 1]


@pytest.mark.parametrize(("error", "raised"), [(KeyboardInterrupt(), SystemExit), (OSError("disk"), OSError)])
def test_an_interrupted_run_is_plotted(
    tmp_path: Path, error: BaseException, raised: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # Lightning would ignore further Ctrl+C
    curves = Curves()
    with pytest.raises(raised):
        fit(Tiny(fail_in_epoch=0, error=error), tmp_path, curves)
    assert not (tmp_path / "curves.png").exists(), "there is nothing to plot yet"
    fit(Tiny(), tmp_path, curves, max_epochs=1)
    assert len(curves.history) == 1
    assert not (tmp_path / "curves.png").exists(), "an epoch makes no curve"
    with pytest.raises(raised):
        fit(Tiny(fail_in_epoch=2, error=error), tmp_path, curves)
    assert [row["epoch"] for row in curves.history] == [0, 1]
    assert (tmp_path / "curves.png").stat().st_size > 0


def test_validating_alone_adds_nothing(tmp_path: Path) -> None:
    module, curves = Tiny(), Curves()
    trainer = fit(module, tmp_path, curves, max_epochs=1)
    before = [dict(row) for row in curves.history]
    trainer.validate(module, DataLoader(torch.ones(4, 1)), verbose=False)
    assert [set(row) for row in curves.history] == [set(row) for row in before]
    assert curves.history[0]["val/loss"] == before[0]["val/loss"]
