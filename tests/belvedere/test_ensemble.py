"""Ensembles and precision on the command line."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.helpers import table

Run = Callable[..., Any]


@pytest.fixture
def other(fitted: Path, tmp_path: Path) -> Path:
    """A checkpoint of the same task with other weights, in a run's folder."""
    folder = Path(shutil.copytree(fitted, tmp_path / "other"))
    path = folder / "checkpoints" / "best.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    generator = torch.Generator().manual_seed(0)
    for name, value in checkpoint["state_dict"].items():
        if value.is_floating_point() and name.endswith("weight"):
            value += 0.05 * torch.randn(value.shape, generator=generator)
    torch.save(checkpoint, path)
    return path


def test_members_are_tested_and_predicted_together(belvedere: Run, fitted: Path, other: Path, tiny: list[str]) -> None:
    best = fitted / "checkpoints" / "best.ckpt"
    data = tiny[tiny.index("--data.root") :]
    metrics = {}
    for name, arguments in {"one": (best,), "two": (other,), "both": (best, other), "twice": (best, best)}.items():
        members = ["--members", json.dumps([str(path) for path in arguments[1:]])] if arguments[1:] else []
        assert belvedere("test", "--ckpt_path", str(arguments[0]), *members, *data, "--output", name).code == 0
        metrics[name] = table(f"{name}/metrics.csv")[-1]["test/auprc"]
    assert metrics["twice"] == metrics["one"]
    assert len({metrics["one"], metrics["two"], metrics["both"]}) == 3


def test_a_member_of_another_task_is_rejected(belvedere: Run, fitted: Path, trained: Callable[[str], Path]) -> None:
    best = fitted / "checkpoints" / "best.ckpt"
    found = belvedere("test", "--ckpt_path", str(best), "--members", json.dumps([str(trained("roads"))]))
    assert "RoadsTask" in found.refusal
    assert "CloudsTask" in found.refusal


@pytest.mark.parametrize(("typed", "expected"), [([], "bf16-mixed"), (["--trainer.precision", "32-true"], "32-true")])
def test_precision_auto_leaves_what_is_typed(
    typed: list[str], expected: str, belvedere: Run, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("belvedere.cli.fastest_precision", lambda accelerator, devices: "bf16-mixed")
    options = ["--config", "debug", "--precision", "auto", *typed, "--output", "run"]
    assert belvedere("fit", *tiny, *options).code == 0
    assert yaml.safe_load(Path("run/config.yaml").read_text())["trainer"]["precision"] == expected
