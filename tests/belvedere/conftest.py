"""What several tests of the command line start from."""

import shutil
from pathlib import Path

import pytest
import torch


@pytest.fixture
def other(fitted: Path, tmp_path: Path) -> Path:
    """A checkpoint of the same task with other weights, in a run's folder."""
    path = Path(shutil.copytree(fitted, tmp_path / "other")) / "checkpoints" / "best.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    generator = torch.Generator().manual_seed(0)
    for name, value in checkpoint["state_dict"].items():
        if value.is_floating_point() and name.endswith("weight"):
            value += 0.05 * torch.randn(value.shape, generator=generator)
    torch.save(checkpoint, path)
    return path
