"""`aesthetics/best` through the command line, and from Python."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import belvedere as api
from tasks.aesthetics import LinearAestheticsTask
from tests.helpers import CSV, metrics, table

Command = Callable[..., Any]


def test_a_fitted_layer_is_used_by_every_command(belvedere: Command, aesthetics_root: Path) -> None:
    weights = Path("net.pth")
    torch.manual_seed(0)
    stages: Any = LinearAestheticsTask({"test_resnet": False}).network.backbones[0]
    torch.save(stages.network.state_dict(), weights)
    Path("csv.yaml").write_text(CSV)
    fit = ["fit", "--config", "aesthetics/best", "--config", "csv.yaml", "--data.root", str(aesthetics_root)]
    small = ["--model.backbones", "{test_resnet: net.pth}", "--data.size", "32", "--data.load_size", "32"]
    assert belvedere(*fit, *small, "--data.num_workers", "0", "--output", "run").code == 0
    weights.unlink()
    checkpoint = "run/checkpoints/best.ckpt"
    assert belvedere("test", "--ckpt_path", checkpoint, "--output", "test").code == 0
    assert {"test/auc", "test/balanced_accuracy"} <= metrics("test/metrics.csv").keys()
    album = str(aesthetics_root / "images")
    predict = ["predict", "--ckpt_path", checkpoint, "--data.pictures", album]
    assert belvedere(*predict, "--output", "predict").code == 0
    rows = {row["name"]: float(row["probability"]) for row in table("predict/scores.csv")}
    found = api.predict(checkpoint, album)
    assert found.table is not None
    for name, probability in zip(found.table["name"], found.table["probability"], strict=True):
        assert probability == pytest.approx(rows[name], abs=1e-3)
    assert belvedere(*predict, "--model.tta", "none", "--output", "plain").code == 0
    plain = {row["name"]: float(row["probability"]) for row in table("plain/scores.csv")}
    assert plain.keys() == rows.keys()
    assert plain != rows
    assert belvedere("features", "--ckpt_path", checkpoint, "--classifiers", "false", "--output", "seen").code == 0
    vectors = np.load("seen/vectors/pooled.npy")
    task: Any = api.load(checkpoint)
    assert vectors.shape == (30, task.network.length)
    message = belvedere("features", "--ckpt_path", checkpoint, "--vectors", "[fc7]", "--output", "fc7").refusal
    assert "no vectors fc7" in message
    assert "pooled" in message
    assert belvedere(*fit, *small, "--output", "run", "--resume", "auto").code == 0
