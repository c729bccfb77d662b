import re
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader

from callbacks.best import BestCheckpoint
from callbacks.color_words import ColorWords, words

GOOD = {
    "psnr": 22.0,
    "mean_psnr": 21.0,
    "delta_e76": 10.0,
    "mean_delta_e76": 12.0,
    "grey_delta_e76": 14.0,
    "mean_by_luminance_delta_e76": 11.0,
    "colorfulness": 20.0,
    "colorfulness_true": 40.0,
    "colorfulness_difference": -20.0,
}


def figures(**changes: float) -> dict[str, float]:
    return {f"val/{name}": value for name, value in (GOOD | changes).items()}


def test_a_model_above_all_floors_is_not_talked_about() -> None:
    assert words(figures(), "val") == []
    assert words(figures(delta_e76=99), "test") == []  # no such figures
    assert words({}, "val") == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"delta_e76": 11.5},
            "val: no better than one colour for each luminance (mean_by_luminance): delta_e76 11.5 against 11.",
        ),
        (
            {
                "psnr": 20.25,
                "delta_e76": 11,
                "mean_by_luminance_delta_e76": 11.1,
                "mean_delta_e76": 11,
            },  # equal is no better
            "val: no better than one colour for everything (mean): psnr 20.25 against 21, delta_e76 11 against 11.",
        ),
        ({"colorfulness": 13}, "val: close to sepia, colorfulness 13; that of the true pictures is 40."),
    ],
)
def test_what_is_no_better_than_no_model_is_said(changes: dict[str, float], said: str) -> None:
    assert words(figures(**changes), "val") == [said]


def test_each_floor_has_its_sentence() -> None:
    found = words(figures(delta_e76=20, colorfulness=5), "val")
    assert [re.split(r" \(|,", sentence)[0] for sentence in found] == [
        "val: no better than leaving every picture grey",
        "val: no better than one colour for everything",
        "val: no better than one colour for each luminance",
        "val: close to sepia",
    ]


def test_a_third_of_the_truth_is_no_sepia() -> None:
    assert words(figures(colorfulness=15, colorfulness_true=45), "val") == []


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
