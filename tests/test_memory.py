"""Memory of predicting a picture of 8,000 x 8,000; run as a script, it is the process that is measured."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from PIL import Image

from callbacks.predictions import SegmentationWriter
from datamodules.roads import RoadsDataModule
from tasks.roads import RoadsTask

ROOT = Path(__file__).parents[1]
MEGABYTE = 1 << 20
SIDE = 8000
PIXELS = SIDE**2 / MEGABYTE  # 61: one byte a pixel
FLOATS = 16  # bytes a pixel: the picture and one map of it in float32, which a network would need at once


def predict(pictures: Path, folder: Path, minimum_area: int) -> None:
    """Predicts with one layer that calls a pixel road where its neighbourhood is bright."""
    task = RoadsTask(minimum_area=minimum_area)
    task.network = torch.nn.Conv2d(3, 1, 3, padding=1)
    task.network.weight.data.fill_(1 / 27)
    task.network.bias.data.fill_(-0.5)
    data = RoadsDataModule(size=(512, 512), pictures=pictures, batch_size=4, num_workers=0)
    trainer = Trainer(accelerator="cpu", default_root_dir=folder, logger=False, enable_progress_bar=False,
                      callbacks=[SegmentationWriter(submission=False, folders=False)])  # fmt: skip
    trainer.predict(task, data, return_predictions=False)


def peak() -> float:
    """The most memory that this program has had so far, in megabytes; `resource` would count its parent's too."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says how much memory a process had")
@pytest.mark.parametrize(
    ("minimum_area", "most"),
    [(0, 8), (200, 12)],  # bytes a pixel: the picture has 3, its mask 1, each copy of that 1, region numbers 4
)
def test_a_large_picture_is_predicted_in_little_memory(minimum_area: int, most: int, tmp_path: Path) -> None:
    ramp = (np.arange(SIDE) * (256 / SIDE)).astype(np.uint8)
    picture = np.broadcast_to(ramp[:, None, None], (SIDE, SIDE, 3))
    Image.fromarray(picture[:600, :600].copy()).save(tmp_path / "small.png")
    Image.fromarray(picture.copy()).save(tmp_path / "large.png", compress_level=1)
    command = [sys.executable, __file__, str(tmp_path), str(minimum_area)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    growth = float(done.stdout.splitlines()[-1])
    print(f"{growth:.0f} MB beyond a small picture's")
    assert growth < most * PIXELS < FLOATS * PIXELS
    with Image.open(tmp_path / "run" / "masks" / "large.png") as mask:
        rows = np.asarray(mask)
    assert rows.shape == (SIDE, SIDE)
    assert not rows[: SIDE // 2 - 40].any()
    assert rows[SIDE // 2 + 40 : -1, 1:-1].all()  # the layer pads with zeros


if __name__ == "__main__":
    home, smallest = Path(sys.argv[1]), int(sys.argv[2])
    predict(home / "small.png", home / "run", smallest)
    before = peak()
    predict(home / "large.png", home / "run", smallest)
    print(peak() - before)
