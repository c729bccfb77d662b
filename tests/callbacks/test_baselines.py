from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader

from callbacks.baselines import ColorWords
from callbacks.best import BestCheckpoint


class Logged(LightningModule):
    """Logs the figures of each epoch as they are given."""

    def __init__(self, epochs: list[dict[str, float]]) -> None:
        super().__init__()
        self.epochs, self.weight = epochs, torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch: torch.Tensor, index: int) -> torch.Tensor:
        return self.weight.sum()

    def validation_step(self, batch: torch.Tensor, index: int) -> None:
        self.log_dict({f"val/{name}": value for name, value in self.epochs[self.current_epoch].items()})

    def test_step(self, batch: torch.Tensor, index: int) -> None:
        self.log_dict({f"test/{name}": value for name, value in self.epochs[0].items()})

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def make_trainer(folder: Path, epochs: int, *callbacks: Callback) -> Trainer:
    return Trainer(default_root_dir=folder, accelerator="cpu", max_epochs=epochs, logger=False, log_every_n_steps=1,
                   enable_progress_bar=False, enable_model_summary=False, callbacks=list(callbacks))  # fmt: skip


def loader() -> DataLoader[Any]:
    return DataLoader([torch.zeros(1)])  # type: ignore[arg-type]  # a list is a data set


def spoken(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [message for message in caplog.messages if message.startswith("What the figures say")]


EPOCHS = [{"loss": loss, "delta_e76": 9.0 + loss, "mean_delta_e76": 5.0} for loss in (3.0, 1.0, 2.0)]


def test_after_training_the_words_are_about_the_best_epoch(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    make_trainer(tmp_path, 3, ColorWords(), BestCheckpoint()).fit(Logged(EPOCHS), loader(), loader())
    [text] = spoken(caplog)
    assert text == (
        "What the figures say:\n  - val: no better than one colour for everything (mean): delta_e76 10 against 5."
    )


def test_without_a_checkpoint_they_are_about_the_last(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    trainer = make_trainer(tmp_path, 3, ColorWords())
    trainer.fit(Logged(EPOCHS), loader(), loader())
    assert "delta_e76 11 against 5" in spoken(caplog)[0]


def test_a_resumed_run_remembers_the_best_epoch(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    make_trainer(tmp_path, 2, ColorWords(), BestCheckpoint()).fit(Logged(EPOCHS), loader(), loader())
    resumed = make_trainer(tmp_path, 3, ColorWords(), BestCheckpoint())
    resumed.fit(Logged(EPOCHS), loader(), loader(), ckpt_path=tmp_path / "checkpoints" / "best.ckpt", weights_only=True)
    assert ["delta_e76 10 against 5" in text for text in spoken(caplog)] == [True, True]


def test_validation_and_test_speak_about_their_own(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    trainer = make_trainer(tmp_path, 1, ColorWords())
    trainer.validate(Logged(EPOCHS), loader(), verbose=False)
    trainer.test(Logged(EPOCHS), loader(), verbose=False)
    assert [text.split("- ")[1].split(":")[0] for text in spoken(caplog)] == ["val", "test"]
