from pathlib import Path

import pytest
import torch

from callbacks.baselines import ColorBaselines, JudgementBaseline
from callbacks.best import BestCheckpoint
from callbacks.resuming import LastCheckpoint
from tests.scripted import Scripted, batches, fit, quiet_trainer

EPOCHS = [{"loss": loss, "delta_e76": 9.0 + loss, "mean_delta_e76": 5.0} for loss in (3.0, 1.0, 2.0)]


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [message for message in caplog.messages if message.startswith("Compared with trivial baselines:")]


@pytest.mark.parametrize(
    ("callbacks", "expected"),
    [
        ((ColorBaselines(), BestCheckpoint()), "delta_e76 10 vs 5"),  # the best epoch
        ((ColorBaselines(),), "delta_e76 11 vs 5"),  # the last epoch, where no checkpoint is kept
    ],
)
def test_after_training_the_best_epoch_is_compared(
    callbacks: tuple[ColorBaselines, BestCheckpoint], expected: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    fit(tmp_path, Scripted(EPOCHS), *callbacks)
    [text] = logged(caplog)
    assert text.splitlines()[1:] == [f"  - val: no better than one color for all pixels (mean): {expected}."]


def test_a_resumed_run_remembers_the_best_epoch(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    kept = BestCheckpoint(), LastCheckpoint()
    fit(tmp_path, Scripted(EPOCHS), ColorBaselines(), JudgementBaseline(), *kept, max_epochs=2)
    states = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["callbacks"]
    for key in ("ColorWords", "JudgementWords"):  # as in older checkpoints
        assert states[key]["figures"]["val/loss"] == 1.0
    fit(tmp_path, Scripted(EPOCHS), ColorBaselines(), BestCheckpoint(), resume="last.ckpt")
    assert ["delta_e76 10 vs 5" in text for text in logged(caplog)] == [True, True]


def test_validation_and_test_are_compared_by_themselves(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    trainer = quiet_trainer(tmp_path, ColorBaselines())
    trainer.validate(Scripted(EPOCHS), batches(), verbose=False)
    trainer.test(Scripted(EPOCHS), batches(), verbose=False)
    assert [text.split("- ")[1].split(":")[0] for text in logged(caplog)] == ["val", "test"]


GOOD = {"psnr": 22.0, "mean_psnr": 21.0, "delta_e76": 10.0, "mean_delta_e76": 12.0, "grey_delta_e76": 14.0,
        "mean_by_luminance_delta_e76": 11.0, "colorfulness": 20.0, "colorfulness_true": 40.0,
        "colorfulness_difference": -20.0}  # fmt: skip


def colors(stage: str = "val", **changes: float) -> list[str]:
    metrics = {f"val/{name}": value for name, value in (GOOD | changes).items()}
    return ColorBaselines().sentences(metrics, stage)


def test_a_model_that_beats_all_baselines_gets_no_warning() -> None:
    assert colors() == []
    assert colors(colorfulness=15, colorfulness_true=45) == []  # a third is not sepia
    assert colors("test", delta_e76=99) == []  # the metrics are of another stage
    assert ColorBaselines().sentences({}, "val") == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"delta_e76": 11.5}, "(mean_by_luminance): delta_e76 11.5 vs 11."),
        (
            {"psnr": 20.25, "delta_e76": 11, "mean_by_luminance_delta_e76": 11.1, "mean_delta_e76": 11},
            "(mean): psnr 20.25 vs 21, delta_e76 11 vs 11.",  # equal is no better
        ),
        ({"colorfulness": 13}, "close to sepia: colorfulness 13 vs 40 of the true images."),
    ],
)
def test_a_metric_that_beats_no_baseline_is_named(changes: dict[str, float], expected: str) -> None:
    [sentence] = colors(**changes)
    assert sentence.startswith("val: ")
    assert sentence.endswith(expected)


def test_each_baseline_has_its_sentence() -> None:
    found = colors(delta_e76=20, colorfulness=5)
    for sentence, key in zip(found, ("(grey)", "(mean)", "(mean_by_luminance)", "sepia"), strict=True):
        assert key in sentence


@pytest.mark.parametrize(
    ("accuracy", "balanced", "expected"),
    [
        (0.75, 0.6, ["accuracy 0.75, better than"]),
        (0.7, 0.6, ["accuracy 0.7, no better than"]),
        (0.7, 0.5, ["accuracy 0.7, no better than", "balanced accuracy 0.5; guessing"]),
    ],
)
def test_the_accuracy_is_compared_with_the_larger_class(accuracy: float, balanced: float, expected: list[str]) -> None:
    metrics = {"test/accuracy": accuracy, "test/majority": 0.7, "test/balanced_accuracy": balanced, "val/majority": 1.0}
    found = JudgementBaseline().sentences(metrics, "test")
    for sentence, start in zip(found, expected, strict=True):
        assert sentence.startswith(f"test: {start}")
    assert "(majority 0.7)" in found[0]
    assert JudgementBaseline().sentences({"val/loss": 1.0}, "val") == []
