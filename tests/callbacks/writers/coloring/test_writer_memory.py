"""Memory needed to colorize an image of 12 megapixels; run as a script, it is the process measured."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightning.pytorch import LightningModule, Trainer
from PIL import Image

from callbacks.writers.coloring.writer import ColoringWriter
from datamodules.colorization import ColorizationDataModule
from ops.color.lab import luminance_and_chroma
from tests.helpers import ROOT

SIZE = (3000, 4000)
MOST = 32  # bytes per pixel; Lab and RGB of the whole image in float32 would be 24 beside the image's and result's 6


class OwnColors(LightningModule):
    def predict_step(self, batch: dict[str, Any], index: int) -> dict[str, Any]:
        return {"chroma": luminance_and_chroma(batch["image"])[1]}


def predict(images: Path, folder: Path) -> None:
    data = ColorizationDataModule(pictures=images, num_workers=0)
    trainer = Trainer(accelerator="cpu", default_root_dir=folder, logger=False, enable_progress_bar=False,
                      callbacks=[ColoringWriter()])  # fmt: skip
    trainer.predict(OwnColors(), data, return_predictions=False)


def peak() -> float:
    """The most memory that this program has had so far, in bytes."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says how much memory a process had")
def test_a_large_image_is_colored_in_little_memory(tmp_path: Path) -> None:
    y, x = np.ogrid[: SIZE[0], : SIZE[1]]
    image = np.stack(np.broadcast_arrays(y * 255 // SIZE[0], x * 255 // SIZE[1], (x + y) // 8 % 256), axis=2)
    Image.fromarray(image[:64, :64].astype(np.uint8)).save(tmp_path / "small.png")
    Image.fromarray(image.astype(np.uint8)).save(tmp_path / "large.png", compress_level=1)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, __file__, str(tmp_path)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    growth = float(done.stdout.splitlines()[-1])
    print(f"{growth:.1f} bytes a pixel")
    assert growth < MOST
    with Image.open(tmp_path / "run" / "colored" / "large.png") as colored:
        assert colored.size == SIZE[::-1]


if __name__ == "__main__":
    home = Path(sys.argv[1])
    predict(home / "small.png", home / "run")
    before = peak()
    predict(home / "large.png", home / "run")
    print((peak() - before) / (SIZE[0] * SIZE[1]))
