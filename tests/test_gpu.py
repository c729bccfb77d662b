"""Every task on a CUDA device, through the command line; the rest of the tests runs on the CPU."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from belvedere.__main__ import main
from tasks.metrics.dice import PixelAveragePrecision
from tests.helpers import metrics

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

RUNS = {
    "clouds": ["--config", "clouds/fpn", "--model.pretrained", "false", "--model.encoder", "mobilenet_v2"],
    "roads": ["--config", "roads/vgg10", "--model.pretrained", "false", "--data.window", "[64,64]", "--data.size",
              "[64,64]"],
    "avalanches": ["--config", "avalanches/cnn2d", "--model.second_input", "edges"],
    "colorization": ["--config", "colorization/classes", "--model.extractor", "null", "--data.size", "64"],
    "aesthetics": ["--config", "aesthetics/alexnet", "--model.dense_width", "8", "--data.size", "67"],
}  # fmt: skip
CSV_ONLY = ["--trainer.logger", '[{"class_path": "callbacks.loggers.CSVLogger"}]']


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, float]]:
    """Trains two epochs and tests; returns the metrics of the last epoch and of the test."""
    monkeypatch.chdir(tmp_path)

    def run(task: str, root: Path, name: str, *options: str) -> dict[str, float]:
        arguments = ["fit", *RUNS[task], *CSV_ONLY, "--data.root", str(root), "--trainer.max_epochs", "2",
                     "--trainer.limit_train_batches", "6", "--data.batch_size", "4", "--output", name,
                     *options]  # fmt: skip
        assert main(arguments) == 0
        assert main(["test", "--ckpt_path", f"{name}/checkpoints/best.ckpt", *options]) == 0
        return metrics(Path(name, "metrics.csv")) | metrics(Path(name, "test", "metrics.csv"))

    return run


@pytest.mark.parametrize("task", RUNS)
def test_a_gpu_trains_like_the_cpu(
    task: str, request: pytest.FixtureRequest, trained: Callable[..., dict[str, float]]
) -> None:
    root: Any = request.getfixturevalue(f"{task}_root")
    expected = trained(task, root, "cpu", "--trainer.accelerator", "cpu")
    found = trained(task, root, "gpu", "--trainer.accelerator", "gpu")
    assert found.keys() == expected.keys()
    # dropout draws other numbers on a device
    for name in ("train/loss", "val/loss", "test/loss"):
        assert found[name] == pytest.approx(expected[name], rel=0.2), name


@pytest.mark.parametrize("task", RUNS)
def test_mixed_precision_trains(
    task: str, request: pytest.FixtureRequest, trained: Callable[..., dict[str, float]]
) -> None:
    root: Any = request.getfixturevalue(f"{task}_root")
    plain = trained(task, root, "plain", "--trainer.accelerator", "gpu")
    mixed = trained(task, root, "mixed", "--config", "gpu")
    for name in ("train/loss", "val/loss", "test/loss"):
        assert mixed[name] == pytest.approx(plain[name], rel=0.2), name


def test_average_precision_counts_on_a_gpu_as_on_the_cpu() -> None:
    probability = torch.rand(4, 2, 50, 50, generator=torch.Generator().manual_seed(0))
    target = probability.sqrt() > 0.7
    both = [PixelAveragePrecision(["a", "b"]).to(device) for device in ("cpu", "cuda")]
    for metric in both:
        metric.update(probability.to(metric.device), target.to(metric.device))
    assert torch.equal(both[0].pixels, both[1].pixels.cpu())
