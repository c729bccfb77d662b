import math
import tempfile
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch

from callbacks.best import BestCheckpoint, EarlyStopping, FiniteOrStop, Summary
from callbacks.resuming import LastCheckpoint
from ops.errors import TrainingError
from tests.scripted import STEPS, Scripted, fit


def epoch_of(folder: Path, name: str = "best") -> tuple[int, float]:
    """Epoch and weight of a checkpoint of a run."""
    loaded = torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)
    return loaded["epoch"], loaded["state_dict"]["weight"].item()


def checkpoints(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


@pytest.mark.parametrize(
    ("mode", "dices", "best"),
    [("max", [0.1, 0.5, 0.4, 0.45], 1), ("min", [0.1, 0.5, 0.05, 0.2], 2), ("max", [0.3, 0.3, 0.3], 0)],
)
def test_best_and_last_epoch_are_kept(tmp_path: Path, mode: str, dices: list[float], best: int) -> None:
    fit(tmp_path, Scripted(dices), BestCheckpoint("val/dice", mode), LastCheckpoint())
    last = len(dices) - 1
    assert checkpoints(tmp_path) == ["best.ckpt", "last.ckpt"]
    assert epoch_of(tmp_path) == (best, best)
    assert epoch_of(tmp_path, "last") == (last + 1, last)  # epochs are counted when they are over


@pytest.mark.parametrize(
    ("mode", "dices", "kept"),
    [
        ("max", [0.1, 0.5, 0.46, 0.44, 0.3], 2),  # the latest within .05 of .5
        ("max", [0.5, 0.47, 0.44, 0.41, 0.38], 1),  # it does not slide down: .44 is compared with .5
        ("max", [0.5, 0.3, 0.52, 0.2], 2),
        ("min", [0.5, 0.2, 0.24, 0.3], 2),
        ("max", [math.nan, 0.1, math.nan], 1),
    ],
)
def test_the_latest_epoch_that_is_nearly_as_good_is_kept(
    tmp_path: Path, mode: str, dices: list[float], kept: int
) -> None:
    best = BestCheckpoint("val/dice", mode, tolerance=0.05)
    fit(tmp_path, Scripted(dices), best)
    assert epoch_of(tmp_path) == (kept, kept)
    assert best.kept == (kept, pytest.approx(dices[kept]))


def test_a_resumed_run_remembers_the_peak_not_the_kept_value(tmp_path: Path) -> None:
    fit(tmp_path, Scripted([0.5, 0.46]), BestCheckpoint("val/dice", "max", 0.05), LastCheckpoint())
    dices = [0.0, 0.0, 0.42]  # nearly as good as the kept .46, not as .5
    best = BestCheckpoint("val/dice", "max", 0.05)
    fit(tmp_path, Scripted(dices), best, LastCheckpoint(), resume="last.ckpt")
    assert best.kept == (1, pytest.approx(0.46))
    assert best.peak == pytest.approx(0.5)


def test_an_older_checkpoint_without_peak_is_not_replaced_by_a_worse_epoch(tmp_path: Path) -> None:
    fit(tmp_path, Scripted([0.1, 0.5]), BestCheckpoint("val/dice", "max"), LastCheckpoint())
    last = tmp_path / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(last, weights_only=True)
    [state] = [state for key, state in checkpoint["callbacks"].items() if key.startswith("BestCheckpoint")]
    del state["peak"], state["kept"]
    torch.save(checkpoint, last)
    best = BestCheckpoint("val/dice", "max")
    fit(tmp_path, Scripted([0.0, 0.0, 0.4]), best, LastCheckpoint(), resume="last.ckpt")
    assert epoch_of(tmp_path) == (1, 1)
    assert best.kept == (1, pytest.approx(0.5))


def test_a_folder_without_best_begins_anew(tmp_path: Path) -> None:
    there, here = tmp_path / "there", tmp_path / "here"
    fit(there, Scripted([0.1, 0.9]), BestCheckpoint("val/dice", "max"), LastCheckpoint())
    (here / "checkpoints").mkdir(parents=True)
    (there / "checkpoints" / "last.ckpt").rename(here / "checkpoints" / "last.ckpt")
    best = BestCheckpoint("val/dice", "max")
    fit(here, Scripted([0.0, 0.0, 0.4, 0.3]), best, LastCheckpoint(), resume="last.ckpt")
    assert epoch_of(here) == (2, 2)
    assert best.kept == (2, pytest.approx(0.4))
    assert epoch_of(there) == (1, 1)
    assert best.best_model_path == str(here / "checkpoints" / "best.ckpt")


@pytest.mark.parametrize("tolerance", [-0.1, math.nan, math.inf])
def test_a_tolerance_is_not_negative_and_finite(tolerance: float) -> None:
    with pytest.raises(ValueError, match="tolerance is"):
        BestCheckpoint("val/dice", "max", tolerance)


def test_a_resumed_run_knows_the_best_epoch_even_in_a_moved_folder(tmp_path: Path) -> None:
    run, best = tmp_path / "there", BestCheckpoint("val/dice", "max")
    fit(tmp_path / "here", Scripted([0.1, 0.6, 0.2]), best, LastCheckpoint())
    (tmp_path / "here").rename(run)
    module = Scripted([0.0, 0.0, 0.0, 0.3, 0.4])
    trainer = fit(run, module, best := BestCheckpoint("val/dice", "max"), LastCheckpoint(), resume="last.ckpt")
    assert trainer.current_epoch == 5
    assert module.steps == 2 * STEPS
    assert epoch_of(run) == (1, 1)  # .6 is not beaten
    assert epoch_of(run, "last") == (5, 4)
    assert best.best_model_path == str(run / "checkpoints" / "best.ckpt")
    fit(run, Scripted([*[0.0] * 5, 0.7, 0.4]), BestCheckpoint("val/dice", "max"), LastCheckpoint(), resume="last.ckpt")
    assert epoch_of(run) == (5, 5)
    assert checkpoints(run) == ["best.ckpt", "last.ckpt"]


def test_best_is_written_beside_its_target_and_replaced_only_when_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save(checkpoint: dict[str, Any], file: BinaryIO) -> None:
        if checkpoint["epoch"] == 1:
            file.write(b"half")
            raise OSError("No space left on device")
        kept(checkpoint, file)

    kept = torch.save
    monkeypatch.setattr(torch, "save", save)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))  # nothing goes through the temporary folder
    with pytest.raises(OSError, match="No space left"):
        fit(tmp_path, Scripted([0.1, 0.5]), BestCheckpoint("val/dice", "max"))
    assert epoch_of(tmp_path) == (0, 0)
    assert checkpoints(tmp_path) == ["best.ckpt"]


@pytest.mark.parametrize(
    ("mode", "patience", "min_delta", "dices", "epochs"),
    [
        ("max", 2, 0.0, [0.1, 0.5, 0.4, 0.3, 0.9, 0.9], 4),  # 1 is the best, 2 and 3 are no better
        ("max", 3, 0.0, [0.1, 0.5, 0.4, 0.3, 0.9, 0.9], 6),
        ("max", 1, 0.0, [0.1, 0.2, 0.3, 0.3, 0.9], 4),  # as good is no better
        ("max", 1, 0.2, [0.1, 0.2, 0.9], 2),
        ("max", None, 0.0, [0.9] + [0.1] * 14, 15),
        ("min", 1, 0.0, [0.5, 0.4, 0.45, 0.1], 3),
    ],
)
def test_training_stops_when_it_gets_no_better(
    tmp_path: Path, mode: str, patience: int | None, min_delta: float, dices: list[float], epochs: int
) -> None:
    trainer = fit(tmp_path, Scripted(dices), EarlyStopping("val/dice", mode, patience, min_delta))
    assert trainer.current_epoch == epochs


def test_a_resumed_run_that_had_stopped_trains_no_more(tmp_path: Path) -> None:
    stopped = fit(tmp_path, Scripted([0.5, 0.4, 0.9]), EarlyStopping("val/dice", "max", 1), LastCheckpoint())
    module = Scripted([0.5, 0.4, 0.9])
    resumed = fit(tmp_path, module, EarlyStopping("val/dice", "max", 1), LastCheckpoint(), resume="last.ckpt")
    assert stopped.current_epoch == resumed.current_epoch == 2
    assert module.steps == 0
    module = Scripted([0.5, 0.4, 0.9])
    fit(tmp_path, module, EarlyStopping("val/dice", "max", 2), LastCheckpoint(), resume="last.ckpt")
    assert module.steps == STEPS  # a larger patience lets it continue


def test_epochs_that_are_not_validated_are_skipped(tmp_path: Path) -> None:
    module = Scripted([0.0, 0.1, 0.0, 0.5, 0.0, 0.4, 0.0, 0.3, 0.0, 0.9])
    watching = BestCheckpoint("val/dice", "max"), EarlyStopping("val/dice", "max", patience=2)
    trainer = fit(tmp_path, module, *watching, check_val_every_n_epoch=2)
    assert trainer.current_epoch == 8
    assert epoch_of(tmp_path) == (3, 3)


@pytest.mark.parametrize("value", [math.nan, math.inf, 2e6])
def test_a_loss_that_is_not_finite_or_far_too_large_stops_the_run(tmp_path: Path, value: float) -> None:
    module = Scripted([0.1] * 3, [1.0] * (STEPS + 1) + [value])
    with pytest.raises(TrainingError) as caught:
        fit(tmp_path, module, FiniteOrStop("val/dice"), BestCheckpoint("val/dice", "max"))
    message = str(caught.value)
    for part in ("epoch 1, step 6", "training loss", "--model.optimizer.lr", "--trainer.gradient_clip_val 1",
                 "--trainer.precision 32-true", str(tmp_path / "checkpoints" / "best.ckpt")):  # fmt: skip
        assert part in message
    assert "\n" not in message
    assert epoch_of(tmp_path) == (0, 0)


@pytest.mark.parametrize(("every", "step"), [(1, 2), (2, 2), (50, 3)])
def test_the_loss_is_checked_at_every_logged_step(tmp_path: Path, every: int, step: int) -> None:
    module = Scripted([0.1] * 3, [1.0, math.nan])  # and finite again after it
    with pytest.raises(TrainingError, match=f"epoch 0, step {step}: the training loss"):
        fit(tmp_path, module, FiniteOrStop("val/dice"), log_every_n_steps=every)


def test_a_monitored_metric_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    module = Scripted([0.1, math.nan, 0.2])
    with pytest.raises(TrainingError, match=r"epoch 1, step \d: val/dice is nan") as caught:
        fit(tmp_path, module, FiniteOrStop("val/dice"), EarlyStopping("val/dice", "max"))
    assert "kept" not in str(caught.value)  # there is no checkpoint


def test_finite_runs_and_other_metrics_do_not_stop(tmp_path: Path) -> None:
    assert fit(tmp_path, Scripted([0.1, 0.2]), FiniteOrStop("val/dice")).current_epoch == 2
    assert fit(tmp_path, Scripted([0.1, math.nan]), FiniteOrStop("val/loss")).current_epoch == 2


@pytest.mark.parametrize(
    ("mode", "best"), [("max", "Best epoch 1: val/dice 0.5000."), ("min", "Best epoch 0: val/dice 0.2")]
)
def test_summary_names_the_best_epoch_and_the_files(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: Any, best: str
) -> None:
    caplog.set_level("INFO")
    (tmp_path / "curves.png").write_text("")
    fit(tmp_path, Scripted([0.2, 0.5, 0.4]), BestCheckpoint("val/dice", mode), Summary(), LastCheckpoint())
    text = caplog.messages[-1]
    assert "Epochs: 3, steps: 9." in text
    assert best in text
    files = [line.strip() for line in text.splitlines() if line.startswith("  ")]
    assert files == [str(tmp_path / "checkpoints" / "best.ckpt"), str(tmp_path / "curves.png")]
    fit(tmp_path, Scripted([0.3] * 4), BestCheckpoint("val/dice", mode), Summary(), resume="last.ckpt")
    assert best in caplog.messages[-1], "a resumed run remembers it"


def test_summary_says_what_the_tolerance_gave_away(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    fit(tmp_path, Scripted([0.2, 0.5, 0.49]), BestCheckpoint("val/dice", "max", 0.02), Summary())
    assert "Kept epoch 2: val/dice 0.4900 (at best 0.5000, tolerance 0.02)." in caplog.messages[-1]
