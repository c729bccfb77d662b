import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from belvedere.__main__ import main
from belvedere.folds.learning import Share, fitted_curve, resampled_folds, sentences
from studies import command
from tests.helpers import table

FOLDS = np.arange(60) % 3


def shares(exponent: float, noise: float = 0.0) -> list[Share]:
    """Errors of 60 images that fall with the number of training images from .4 at 5 on."""
    rng = np.random.default_rng(0)
    hard = rng.uniform(0.5, 1.5, len(FOLDS))
    hard /= hard.mean()
    return [Share(size / 40, size, 1 - 0.4 * hard * (size / 5) ** -exponent + rng.normal(0, noise, len(FOLDS)))
            for size in (5.0, 10.0, 20.0, 40.0)]  # fmt: skip


def test_what_twice_as_many_labels_bring() -> None:
    curve = fitted_curve(shares(0.5), FOLDS)
    assert curve.exponent[0] == pytest.approx(0.5, abs=0.006)
    gain = 0.4 * (8**-0.5 - 16**-0.5)
    assert curve.gain == pytest.approx([gain, curve.gain[1], curve.gain[2]], abs=0.002)
    assert 0 < curve.gain[1] < gain < curve.gain[2]
    assert (curve.further[-1], curve.law[-1, 0]) == pytest.approx((80, 1 - 0.4 * 16**-0.5), abs=0.005)
    assert "80 training images instead of 40, would bring" in sentences(curve, "dice")
    flat = fitted_curve(shares(0.0, noise=0.05), FOLDS)
    assert flat.gain[1] < 0 < flat.gain[2]
    assert "not clearly" in sentences(flat, "dice")


def test_folds_are_resampled_and_then_their_images() -> None:
    folds = np.array([0] * 10 + [1] * 20)
    times = resampled_folds(folds, 500)
    sizes = {int(total) for total in times.sum(axis=1)}
    assert sizes == {20, 30, 40}
    assert times.mean(axis=0) == pytest.approx(np.ones(30), abs=0.25)


@pytest.fixture
def squares(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for folder in ("images", "masks/ice"):
        (tmp_path / "sky" / folder).mkdir(parents=True)
    for number in range(12):
        mask = np.zeros((32, 48), np.bool_)
        mask[8:20, 4 + number : 24 + number] = True
        pixels = np.where(mask, 220, 60)[..., None] + rng.integers(0, 20, (32, 48, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"sky/images/{number}.png")
        Image.fromarray(mask.astype(np.uint8) * 255).save(tmp_path / f"sky/masks/ice/{number}.png")
    return tmp_path / "sky"


@pytest.mark.slow
def test_shares_are_trained_and_measured(squares: Path, tmp_path: Path, belvedere: Callable[..., Any]) -> None:
    out = tmp_path / "curve"
    options = ["--config", "clouds/fpn", "--config", "clouds/folders", "--data.root", squares,
               "--data.classes", "[ice]", "--data.size", "[32,48]", "--model.pretrained", "false", "--data.folds", "2",
               "--trainer.max_steps", "1", "--axes.part", "[1, 2]", "--axes.share", "[1/2, 1]",
               "--output", out]  # fmt: skip
    done = belvedere("learning-curve", *map(str, options))
    assert done.code == 0, done.err
    rows = table(out / "learning_curve.csv")
    assert [(row["share"], row["source"]) for row in rows] == [("0.5", "measured"), ("1.0", "measured"),
                                                               ("2", "power law")]  # fmt: skip
    small, large, twice = (float(row["pictures"]) for row in rows)
    assert small == pytest.approx(large / 2, abs=0.5)
    assert twice == 2 * large
    tested = [table(path)[-1] for path in sorted(out.glob("cells/1--*/seed-0/test/metrics.csv"))]
    assert len(tested) == 2
    dice = float(np.mean([float(row["test/dice"]) for row in tested]))  # six images each
    assert float(rows[1]["dice"]) == pytest.approx(dice, abs=1e-5)
    with Image.open(out / "learning_curve.png") as drawn:
        assert drawn.width > 400
    before = (out / "learning_curve.csv").read_text()
    assert belvedere("learning-curve", str(out)).code == 0
    assert (out / "learning_curve.csv").read_text() == before


def test_what_cannot_be_measured_is_rejected_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["learning-curve", "--config", "colorization/best", "--output", str(tmp_path / "new")]) == 2
    assert "not colorization" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
    assert main(["learning-curve", str(tmp_path)]) == 2
    assert "0 shares" in capsys.readouterr().err
    assert main(["learning-curve", str(tmp_path), "--epochs", "3"]) == 2
    assert "a folder alone" in capsys.readouterr().err
    assert main(["learning-curve", "--help"]) == 0
    assert "learning_curve.csv" in capsys.readouterr().out


def test_an_interrupted_curve_names_its_own_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "check_options", lambda *arguments: None)
    monkeypatch.setattr(command, "run_study", interrupted)
    words = ["learning-curve", "--config", "roads/best", "--data.root", "roads", "--output", str(tmp_path / "new")]
    assert main(words) == 130
    assert capsys.readouterr().err.endswith(f"\n  belvedere {shlex.join(words)}\n")
