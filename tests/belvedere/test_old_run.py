"""A run folder that commit 66ad3a8 wrote is tested, predicted with and resumed, and comes to the same."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.helpers import ROOT, table

FIXTURE = ROOT / "tests" / "fixtures" / "run_66ad3a8"
Command = Callable[..., Any]


@pytest.fixture
def old(tmp_path: Path, belvedere: Command) -> Path:
    """A copy of the fixture as working folder; the paths in its config are relative to it."""
    shutil.copytree(FIXTURE, tmp_path, dirs_exist_ok=True)
    return tmp_path


def assert_same(path: Path, expected: Path) -> None:
    found, rows = ([{name: float(value) for name, value in row.items() if value} for row in table(each)]
                   for each in (path, expected))  # fmt: skip
    for row, wanted in zip(found, rows, strict=True):
        assert row.keys() >= wanted.keys()
        assert {name: row[name] for name in wanted} == pytest.approx(wanted, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("alone", [False, True])
def test_an_old_run_is_tested(old: Path, belvedere: Command, alone: bool) -> None:
    checkpoint = "run/checkpoints/best.ckpt"
    if alone:  # without its folder, by the config inside
        checkpoint = shutil.copy(checkpoint, "moved.ckpt")
    assert belvedere("test", "--ckpt_path", checkpoint, "--output", "test").code == 0
    assert_same(Path("test/metrics.csv"), old / "expected" / "test" / "metrics.csv")


def test_an_old_run_predicts(old: Path, belvedere: Command) -> None:
    options = ["--ckpt_path", "run/checkpoints/best.ckpt", "--data.pictures", "data/images", "--output", "masks"]
    assert belvedere("predict", *options).code == 0
    expected = sorted((old / "expected" / "predict" / "masks").iterdir())
    for path in expected:
        found = Path("masks/masks") / path.name
        np.testing.assert_array_equal(np.asarray(Image.open(found)), np.asarray(Image.open(path)))
    polygons = [json.loads((folder / "polygons.json").read_text())["pictures"]
                for folder in (Path("masks"), old / "expected" / "predict")]  # fmt: skip
    for name, record in polygons[1].items():
        assert {key: polygons[0][name][key] for key in record} == record


def test_an_old_run_resumes(old: Path, belvedere: Command) -> None:
    options = ["--config", "run/config.yaml", "--trainer.max_epochs", "3", "--resume", "auto", "--output", "run"]
    assert belvedere("fit", *options).code == 0
    assert_same(Path("run/metrics.csv"), old / "expected" / "resumed" / "metrics.csv")
    assert Path("run/thresholds.csv").read_text() == (old / "expected" / "resumed" / "thresholds.csv").read_text()
