import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from belvedere.__main__ import main
from belvedere.folds.found import FoldResult
from belvedere.folds.thresholds import mean_interval, pooled_cells, write_thresholds
from tasks.decision import ThresholdSearch
from tasks.metrics.dice import DICE_UNITS
from tests.helpers import metrics, table

COUNT = 9
TRAIN = ["--config", "debug", "--data.size", "[32,48]", "--model.pretrained", "false", "--data.folds", "3",
         "--trainer.limit_train_batches", "1", "--trainer.limit_val_batches", "1"]  # fmt: skip


@pytest.fixture(scope="module")
def folds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study's folder with three folds of nine images with bright squares; one label is shifted."""
    home = tmp_path_factory.mktemp("folds")
    rng = np.random.default_rng(0)
    for folder in ("images", "masks/ice"):
        (home / "sky" / folder).mkdir(parents=True)
    for number in range(COUNT):
        mask = np.zeros((32, 48), np.bool_)
        mask[8:20, 8 + number : 24 + number] = True
        pixels = np.where(mask, 220, 60)[..., None] + rng.integers(0, 20, (32, 48, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(home / f"sky/images/{number}.png")
        Image.fromarray(mask.astype(np.uint8) * 255).save(home / f"sky/masks/ice/{number}.png")
    for fold in range(3):
        command = ["fit", "--config", "clouds/fpn", "--config", "clouds/folders", *TRAIN, "--data.fold", str(fold)]
        command += ["--data.root", str(home / "sky"), "--data.classes", "[ice]"]
        assert main([*command, "--output", str(home / f"study/cells/{fold}/seed-0")]) == 0
    return home / "study"


def test_folds_are_measured_together(folds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "pooled"
    assert main(["pool", str(folds), "--output", str(out)]) == 0
    printed = capsys.readouterr().out
    assert f"{COUNT} images" in printed
    images = table(out / "images.csv")
    assert [row["name"] for row in images] == [f"{number}.png" for number in range(COUNT)]
    assert sorted({row["fold"] for row in images}) == ["0", "1", "2"]
    # each image as `test` of its fold has it
    dice = {row["figure"]: float(row["value"]) for row in table(out / "intervals.csv")}["dice"]
    found = []
    for fold in range(3):
        best = folds / f"cells/{fold}/seed-0/checkpoints/best.ckpt"
        where = tmp_path / f"test{fold}"
        assert (
            main(["test", "--ckpt_path", str(best), "--output", str(where), "--trainer.limit_test_batches", "1.0"]) == 0
        )
        found.append(metrics(where / "metrics.csv")["test/dice"])
        own = [float(row["quality"]) for row in images if row["fold"] == str(fold)]
        assert np.mean(own) == pytest.approx(found[-1], abs=1e-5)
    assert dice == pytest.approx(np.mean(found), abs=1e-5)  # three images each
    [row] = table(out / "thresholds.csv")
    [calibration] = table(out / "calibration.csv")
    stored = torch.load(out / "checkpoints/best.ckpt", weights_only=True)["state_dict"]
    temperature = float(stored["decision.temperature.values"])
    assert float(calibration["temperature_taken"]) == pytest.approx(temperature)
    falls = float(calibration["log_loss_calibrated"]) < float(calibration["log_loss"])
    assert temperature == pytest.approx(float(calibration["temperature"]) if falls else 1.0)
    odds = torch.tensor(float(row["threshold_taken"])).logit() / temperature
    assert float(odds.sigmoid()) == pytest.approx(float(stored["decision.thresholds"]))
    gain = float(row["dice"]) - float(row["dice_at_half"])
    assert float(row["gain_low"]) <= gain <= float(row["gain_high"])
    clear = float(row["gain_low"]) > 0
    assert float(row["threshold_taken"]) == (float(row["threshold"]) if clear else 0.5)
    assert 0.1 <= float(calibration["temperature"]) <= 10
    assert len(table(out / "risk_coverage.csv")) == COUNT
    for name in ("reliability.png", "risk_coverage.png"):
        with Image.open(out / name) as drawn:
            assert drawn.width > 400


def test_an_ensemble_is_named_by_its_folder(
    folds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pool", str(folds)]) == 0
    monkeypatch.chdir(tmp_path)
    pictures = folds.parent / "sky" / "images"
    assert main(["predict", "--run", str(folds), "--data.pictures", str(pictures), "--output", "out",
                 "--uncertainty"]) == 0  # fmt: skip
    made = json.loads((tmp_path / "out/checkpoints.json").read_text())
    assert Path(made["checkpoint"]) == folds / "pooled/checkpoints/best.ckpt"
    assert [Path(each).relative_to(folds).parts[1] for each in made["members"]] == ["1", "2"]
    rows = table(tmp_path / "out/uncertainty.csv")
    assert len(rows) == COUNT
    for row in rows:
        assert 0 < float(row["disagreement"]) < float(row["uncertainty"])
        with Image.open(tmp_path / "out/disagreement" / row["name"]) as drawn:
            assert np.asarray(drawn).mean() / 255 == pytest.approx(float(row["disagreement"]), abs=0.01)
    best = str(folds / "pooled/checkpoints/best.ckpt")
    assert main(["pack", best, "--output", "packed", "--worst", "0"]) == 0
    card = (tmp_path / "packed/README.md").read_text()
    assert f"Of {COUNT} images" in card
    for row in table(folds / "pooled/intervals.csv"):
        assert f"| {row['figure']} | {float(row['value']):.4f} |" in card
    assert "unknown" not in card
    moved = Path(shutil.copytree(folds, tmp_path / "moved"))
    assert main(["predict", "--run", str(moved), "--data.pictures", str(pictures), "--output", "again"]) == 0
    made = json.loads((tmp_path / "again/checkpoints.json").read_text())
    assert [Path(each).relative_to(moved).parts[1] for each in made["members"]] == ["1", "2"]
    for text in ("{", "[]", '{"checkpoint": "best.ckpt"}', '{"checkpoint": "best.ckpt", "members": [1]}'):
        (moved / "pooled/ensemble.json").write_text(text)
        assert main(["predict", "--run", str(moved), "--data.pictures", str(pictures)]) == 2
        assert "damaged" in capsys.readouterr().err


def test_other_checkpoints_are_rejected(folds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = str(folds / "cells/0/seed-0/checkpoints/best.ckpt")
    assert main(["pool", one]) == 2
    assert "1 checkpoints" in capsys.readouterr().err
    assert main(["pool", one, "--members", json.dumps([one])]) == 2
    assert "different folds" in capsys.readouterr().err
    assert main(["predict", "--run", str(tmp_path)]) == 2
    assert "belvedere pool" in capsys.readouterr().err
    assert main(["fit", "--run", str(tmp_path)]) == 2
    assert "--run is for" in capsys.readouterr().err


def record(fold: int, cells: np.ndarray) -> FoldResult:
    nothing: Any = np.zeros(0)
    return FoldResult("", fold, {}, 0, 0, 0, [], cells, nothing, nothing, nothing)


def test_thresholds_of_a_fold_come_from_the_others() -> None:
    search = ThresholdSearch([""])
    shape = (1, len(search.thresholds), len(search.minimum_areas))
    rng = np.random.default_rng(0)
    cells = [(rng.random(shape) * DICE_UNITS).astype(np.int64) for _ in range(12)]
    found = [record(number % 3, each) for number, each in enumerate(cells)]
    dice, choices = pooled_cells(found)
    for fold in range(3):
        others = sum(each for number, each in enumerate(cells) if number % 3 != fold)
        row, column = np.unravel_index(others[0].argmax(), shape[1:])
        assert choices[fold] == [(search.thresholds[row], search.minimum_areas[column])]
        for number in range(fold, 12, 3):
            assert dice[number, 0] == pytest.approx(cells[number][0, row, column] / DICE_UNITS)


def test_a_clear_gain_is_taken(tmp_path: Path) -> None:
    """Whose interval is that of the mean: single images differ far more."""
    rng, found = np.random.default_rng(0), []
    for number in range(24):
        search = ThresholdSearch([""])
        mask = torch.zeros(1, 1, 16, 16, dtype=torch.bool)
        mask[..., : 4 + number % 9, 2:14] = True
        spoiled = torch.from_numpy(rng.random(mask.shape)) < 0.02 * (number % 12)
        search.update(torch.where(mask ^ spoiled, 0.3, 0.1), mask)  # found from .3 on, and nothing at .5
        found.append(record(number % 3, search.dice_sum[..., 0].numpy()))
    [(threshold, _)], _ = write_thresholds(found, ["ice"], tmp_path)
    [row] = table(tmp_path / "thresholds.csv")
    images = pooled_cells(found)[0][:, 0]
    low, high = float(row["gain_low"]), float(row["gain_high"])
    assert low < images.mean() < high
    assert (low, high) == pytest.approx(mean_interval(images))
    assert high - low < 0.5 * np.ptp(images)
    assert 0.1 < threshold <= 0.3


def test_the_interval_of_a_mean_is_that_of_the_bootstrap() -> None:
    values = np.random.default_rng(1).normal(0.3, 1, 400)
    low, high = mean_interval(values)
    error = values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - 1.96 * error, values.mean() + 1.96 * error), abs=0.2 * error)


@pytest.mark.slow
def test_judgements_are_measured_too(
    small: Callable[[str], list[str]], tmp_path: Path, belvedere: Callable[..., Any]
) -> None:
    for fold in range(2):
        command = ["fit", *small("aesthetics"), "--data.folds", "2", "--data.fold", str(fold)]
        assert belvedere(*command, "--output", str(tmp_path / f"study/{fold}")).code == 0
    assert belvedere("pool", str(tmp_path / "study")).code == 0
    images = table(tmp_path / "study/pooled/images.csv")
    assert {row["quality"] for row in images} <= {"0.0", "1.0"}
    assert all(float(row["expected"]) >= 0.5 for row in images)
    accuracy = {row["figure"]: float(row["value"]) for row in table(tmp_path / "study/pooled/intervals.csv")}[
        "accuracy"
    ]
    assert np.mean([float(row["quality"]) for row in images]) == pytest.approx(accuracy, abs=1e-6)
    assert not (tmp_path / "study/pooled/thresholds.csv").exists()
    best = tmp_path / "study/pooled/checkpoints/best.ckpt"
    checkpoint = torch.load(best, weights_only=True)
    checkpoint["state_dict"]["temperature.values"] = torch.tensor([4.0])
    album = Path(small("aesthetics")[-1]) / "album"
    chances = []
    for name, warmth in (("cold", 1.0), ("warm", 4.0)):
        checkpoint["state_dict"]["temperature.values"] = torch.tensor([warmth])
        torch.save(checkpoint, best)
        command = ["predict", "--ckpt_path", str(best), "--data.pictures", str(album), "--output", str(tmp_path / name)]
        assert belvedere(*command).code == 0
        rows = table(tmp_path / name / "scores.csv")
        chances.append({row["name"]: float(row["probability"]) for row in rows if row["probability"]})
    cold, warm = (torch.tensor([each[name] for name in sorted(each)]).logit() for each in chances)
    torch.testing.assert_close(cold / 4, warm, atol=1e-3, rtol=1e-3)
