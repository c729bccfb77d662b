"""Memory of predicting large images, by their height; as a script, the process that is measured."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from PIL import Image

from callbacks.writers.segmentation.writer import SegmentationWriter
from datamodules.roads import RoadsDataModule
from tasks.roads import RoadsTask
from tests.helpers import ROOT
from tests.ops.geo.helpers import UTM, write

WIDTH = 8000
MOST = 160  # MB; an image of 8,000 x 8,000 has 183, its map in float32 244
MAPS = 300  # MB, with maps: GDAL keeps 64 MB of blocks in each of its two copies
MORE = 24  # MB for 64 million more pixels: chance


def predict(pictures: Path, folder: Path, minimum_area: int) -> None:
    """Predicts with one layer that calls bright neighborhoods roads."""
    task = RoadsTask(minimum_area=minimum_area)
    task.network = torch.nn.Conv2d(3, 1, 3, padding=1)
    task.network.weight.data.fill_(1 / 27)
    task.network.bias.data.fill_(-0.5)
    task.line_classes = ()  # thinning half an image to lines takes minutes
    data = RoadsDataModule(size=(512, 512), pictures=pictures, batch_size=4, num_workers=0)
    trainer = Trainer(accelerator="cpu", default_root_dir=folder, logger=False, enable_progress_bar=False,
                      callbacks=[SegmentationWriter(submission=False, folders=False)])  # fmt: skip
    trainer.predict(task, data, return_predictions=False)


def peak() -> float:
    """The peak memory of this process in megabytes; `resource` would include its parent's."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says how much memory a process had")
@pytest.mark.parametrize(("suffix", "minimum_area"), [(".jpg", 0), (".png", 200), (".tif", 0)])
def test_memory_does_not_grow_with_the_height_of_images(suffix: str, minimum_area: int, tmp_path: Path) -> None:
    sizes = {"1 small": (600, 600), "2 large": (8000, WIDTH), "3 larger": (16000, WIDTH)}
    for name, (height, width) in sizes.items():
        ramp = (np.arange(height) * (256 / height)).astype(np.uint8)
        picture = np.broadcast_to(ramp[:, None, None], (height, width, 3))
        if suffix == ".tif":  # also maps, by GDAL
            place = {"crs": "EPSG:32632", "transform": UTM, "tiled": True, "compress": "deflate"}
            write(tmp_path / f"{name}.tif", np.ascontiguousarray(picture.transpose(2, 0, 1)), **place)
            continue
        Image.fromarray(picture.copy()).save(tmp_path / f"{name}{suffix}", compress_level=1)
    command = [sys.executable, __file__, str(minimum_area), *map(str, sorted(tmp_path.iterdir()))]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    small, large, larger = map(float, done.stdout.splitlines()[-3:])
    print(f"{large - small:.0f} MB beyond a small image's, {larger - large:.0f} MB more for twice the height")
    assert large - small < (MAPS if suffix == ".tif" else MOST)
    assert larger - large < MORE
    with Image.open(tmp_path / "run" / "masks" / "3 larger.png") as mask:
        rows = np.asarray(mask)
    assert rows.shape == (16000, WIDTH)
    assert not rows[: 8000 - 80].any()
    assert rows[8000 + 80 : -1, 1:-1].all()  # the layer pads with zeros


if __name__ == "__main__":
    for path in map(Path, sys.argv[2:]):
        predict(path, path.parent / "run", int(sys.argv[1]))
        print(peak())
