"""Predicts GeoTIFFs of two sizes: peak memory, and windows per second beside torchgeo and reading windows alone.

python -m benchmarks.geotiff [FOLDER] [--side 20000] [--timed 6000]

The network is one layer, so that all else remains. `predict` reads, predicts, blends and writes rasters, polygons and
center lines; `loop` drops the outputs, as does `torchgeo`, the loop over its GridGeoSampler, where it is installed;
`reading` reads the windows by rasterio. No loader has workers.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ops.geo.rasters import created_raster, opened_raster, windowed
from ops.windows import window_grid

WINDOW, OVERLAP = 512, 0.25
METERS = 0.5  # side of a pixel


def draw(path: Path, side: int) -> Path:
    """Writes a tiled raster of noise with bright roads, 12 m wide, every 250 m."""
    from rasterio import Affine

    place = {"crs": "EPSG:32632", "transform": Affine(METERS, 0, 400_000, 0, -METERS, 5_200_000)}
    rng, bright = np.random.default_rng(0), np.arange(side) % 500 < 24
    with created_raster(path, (side, side), 3, tiled=True, **place) as raster:
        for top in range(0, side, 512):
            rows = bright[top : top + 512]
            values = rng.integers(60, 68, (3, len(rows), side), np.uint8) + 120 * (rows[:, None] | bright)
            raster.write(values.astype(np.uint8), window=windowed(top, top + len(rows), 0, side))
    return path


def network() -> torch.nn.Module:
    """Returns a layer that calls bright neighborhoods roads."""
    layer = torch.nn.Conv2d(3, 1, 3, padding=1)
    layer.weight.data.fill_(20 / 27)
    layer.bias.data.fill_(-10.0)  # type: ignore[union-attr]  # it has one
    return layer


def data_of(path: Path) -> Any:
    """Returns the data module that cuts a raster into windows."""
    from datamodules.roads import RoadsDataModule

    return RoadsDataModule(size=WINDOW, overlap=OVERLAP, pictures=path, batch_size=4, num_workers=0)


def predict(path: Path) -> int:
    """Predicts a raster and writes its maps; returns the number of windows."""
    from lightning.pytorch import Trainer

    from callbacks.writers.segmentation.maps import Maps
    from callbacks.writers.segmentation.stitch import StitchingWriter
    from tasks.roads import RoadsTask

    task = RoadsTask()
    task.network = network()
    data = data_of(path)
    trainer = Trainer(accelerator="cpu", default_root_dir=path.parent / "run", logger=False, enable_progress_bar=False,
                      callbacks=[StitchingWriter([Maps()])])  # fmt: skip
    trainer.predict(task, data, return_predictions=False)
    return len(data.datasets["predict"])


@torch.inference_mode()
def loop(path: Path) -> int:
    """Predicts the windows of the data module, and drops the outputs."""
    data, layer = data_of(path), network()
    data.setup("predict")
    for batch in data.predict_dataloader():
        layer(data.on_after_batch_transfer(batch, 0)["image"]).sigmoid()
    return len(data.datasets["predict"])


def reading(path: Path) -> int:
    """Reads all windows by rasterio, and drops them."""
    with opened_raster(path) as raster:
        grid = window_grid(raster.shape, (WINDOW, WINDOW), OVERLAP)
        for top, left in grid:
            raster.read(window=windowed(top, top + WINDOW, left, left + WINDOW))
    return len(grid)


@torch.inference_mode()
def torchgeo(path: Path) -> int:
    """Predicts the windows of torchgeo's GridGeoSampler, and drops the outputs."""
    from torch.utils.data import DataLoader
    from torchgeo.datasets import RasterDataset, stack_samples
    from torchgeo.samplers import GridGeoSampler, Units

    dataset = RasterDataset(paths=str(path))
    stride = round(WINDOW * (1 - OVERLAP))
    sampler = GridGeoSampler(dataset, size=WINDOW, stride=stride, units=Units.PIXELS)
    layer, count = network(), 0
    for batch in DataLoader(dataset, batch_size=4, sampler=sampler, collate_fn=stack_samples, num_workers=0):
        layer(batch["image"] / 255).sigmoid()
        count += len(batch["image"])
    return count


def measured(kind: str, path: Path) -> None:
    """Prints windows, seconds of the processor and of the clock, and peak megabytes of this process."""
    torch.set_num_threads(1)
    kinds: dict[str, Callable[[Path], int]] = {
        "predict": predict,
        "loop": loop,
        "torchgeo": torchgeo,
        "reading": reading,
    }
    kinds[kind](path.with_name("600.tif"))  # imports
    clock, processor = time.perf_counter(), time.process_time()
    count = kinds[kind](path)
    clock, processor = time.perf_counter() - clock, time.process_time() - processor
    [line] = [each for each in Path("/proc/self/status").read_text().splitlines() if each.startswith("VmHWM")]
    print(f"{kind:9} {path.stem:>6} {count:5} windows {count / processor:7.1f}/s of processor "
          f"{count / clock:7.1f}/s of clock {int(line.split()[1]) / 1024:6.0f} MB")  # fmt: skip


def main() -> None:
    """Measures each in a process of its own."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path, nargs="?", default=Path("build/geotiff"))
    parser.add_argument("--side", type=int, default=20_000)
    parser.add_argument("--timed", type=int, default=6_000)
    given: Any = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    draw(given.folder / "600.tif", 600)
    timed = [(kind, given.timed) for kind in ("predict", "loop", "torchgeo", "reading")]
    runs = [("predict", 2_000), ("predict", given.side), *timed]
    for kind, side in runs:
        path = given.folder / f"{side}.tif"
        if not path.exists():
            draw(path, side)
        command = [sys.executable, "-c", f"from benchmarks.geotiff import *; measured({kind!r}, Path({str(path)!r}))"]
        done = subprocess.run(command, capture_output=True, text=True)
        error = done.stderr.strip().splitlines()[-1:]
        print(done.stdout.splitlines()[-1] if done.returncode == 0 else f"{kind}: {error}", flush=True)


if __name__ == "__main__":
    main()
