"""Measures coloring 12 megapixels: `python -m benchmarks.coloring`, with $BELVEDERE_DATA set.

A painting enlarged to 3000 x 4000, and its gray version, are read, letterboxed to 224, colored at full size and
written, with panel and metrics. The task returns the small image's own chroma, so everything but the network is
measured. Each case is a process of its own, which predicts an image of 64 x 64 first; memory is what the large one adds
to the process's peak (VmHWM, so Linux only).
"""

import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

PICTURE = "colorization/images/vincent_van_gogh__the_bedroom.jpg"
SIZE = (3000, 4000)
CASES = {
    "grey, png": ("grey", True, "png"),
    "colours, png": ("colors", True, "png"),
    "colours, png, not guided": ("colors", False, "png"),
    "colours, jpg": ("colors", True, "jpg"),
}


def draw(folder: Path) -> None:
    """Writes the pictures: `small`, and the large `colors` and `grey`, each in a folder of its own."""
    painting = np.asarray(Image.open(Path(os.environ["BELVEDERE_DATA"]) / PICTURE).convert("RGB"))
    large: NDArray[Any] = cv2.resize(painting, SIZE[::-1], interpolation=cv2.INTER_CUBIC)
    grain = np.random.default_rng(0).normal(0, 3, SIZE)[..., None]  # so that it compresses like a scan
    large = np.clip(large + grain, 0, 255).astype(np.uint8)
    pictures = {"small": painting[:64, :64], "colors": large, "grey": cv2.cvtColor(large, cv2.COLOR_RGB2GRAY)}
    for name, picture in pictures.items():
        (folder / name).mkdir()
        Image.fromarray(picture).save(folder / name / f"{name}.jpg", quality=95)


def measured(folder: Path, case: str) -> None:
    """Predicts the small picture, then the large one; prints wall and processor seconds, and megabytes."""
    import torch
    from lightning.pytorch import LightningModule, Trainer

    from callbacks.writers.coloring.writer import ColoringWriter
    from datamodules.colorization import ColorizationDataModule
    from ops.color.lab import luminance_and_chroma

    class OwnChroma(LightningModule):
        def predict_step(self, batch: dict[str, Any], batch_index: int) -> dict[str, Any]:
            return {"chroma": luminance_and_chroma(batch["image"])[1]}

    def predict(name: str) -> None:
        data = ColorizationDataModule(pictures=folder / name, num_workers=0)
        writer = ColoringWriter(guided, "jpg" if suffix == "jpg" else "png")
        trainer = Trainer(accelerator="cpu", default_root_dir=folder / "run", logger=False, callbacks=[writer],
                          enable_progress_bar=False)  # fmt: skip
        trainer.predict(OwnChroma(), data, return_predictions=False)

    name, guided, suffix = CASES[case]
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))
    predict("small")
    before, wall, processor = peak(), time.perf_counter(), time.process_time()
    predict(name)
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    print(wall, processor, peak() - before, peak())


def peak() -> float:
    """Returns the most memory that this process has had so far, in MiB."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


def main() -> None:
    """Prints the table."""
    pixels = SIZE[0] * SIZE[1]
    print("| 3000 x 4000 | seconds | of the processor | MiB more than 64 x 64 | bytes a pixel | MiB in all |")
    print("|---|---|---|---|---|---|")
    with TemporaryDirectory() as home:
        draw(Path(home))
        for case in CASES:
            command = [sys.executable, "-m", "benchmarks.coloring", home, case]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            wall, processor, growth, whole = map(float, done.stdout.splitlines()[-1].split())
            print(f"| {case} | {wall:.1f} | {processor:.1f} | {growth:.0f} | {growth * 2**20 / pixels:.1f} "
                  f"| {whole:.0f} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    measured(Path(sys.argv[1]), sys.argv[2]) if len(sys.argv) > 2 else main()
