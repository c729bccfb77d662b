"""Measures the four filters, and an epoch of filtered tiles: `python -m benchmarks.filters` prints Markdown.

First the filters alone, on a batch of 16 tiles of 256 x 256 (real ones if $BELVEDERE_DATA names them, else noise): both
backends, and Pillow in a loop from arrays to arrays as a loader would. Then an epoch of 64 tiles with three filtered
copies each, on which a small network trains: copies made on the device, or by Pillow in two loader workers. On the CPU
with one thread and, unless OMP_NUM_THREADS is 1, two; and on a GPU if there is one.
"""

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from datamodules.read.names import picture_files
from datamodules.read.pictures import read_picture
from ops.exact.backends import Backend
from ops.exact.filters import FILTERS, filtered

KERNELS = {
    "contour": ImageFilter.CONTOUR,
    "detail": ImageFilter.DETAIL,
    "edge_enhance": ImageFilter.EDGE_ENHANCE,
    "find_edges": ImageFilter.FIND_EDGES,
}
Pictures = Sequence[NDArray[np.uint8]]


def tiles(count: int) -> Tensor:
    """Returns tiles (count, 3, 256, 256), uint8."""
    folder = Path(os.environ.get("BELVEDERE_DATA", "/nowhere")) / "roads" / "images"
    if not folder.is_dir():
        return torch.randint(0, 256, (count, 3, 256, 256), dtype=torch.uint8)
    pictures = [read_picture(file)[:256, :256] for file in picture_files(folder)[:count]]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()


def by_pillow(pictures: Pictures, filters: Sequence[str]) -> list[NDArray[np.uint8]]:
    """Filters images (H, W, 3), all in the first way, then all in the second, …."""
    return [np.asarray(Image.fromarray(each).filter(KERNELS[name])) for name in filters for each in pictures]


def milliseconds(routes: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Returns the median time of each route. They take turns, so that other load slows all alike."""
    times: dict[str, list[float]] = {name: [] for name in routes}
    for _ in range(repeats + 1):
        for name, route in routes.items():
            begin = perf_counter()
            route()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            times[name].append(1000 * (perf_counter() - begin))
    return {name: median(values[1:]) for name, values in times.items()}


class Copies(Dataset[Tensor]):
    """Dataset of tiles, each a sample (1 + number of filters, 3, H, W) with its copies by Pillow."""

    def __init__(self, image: Tensor, filters: Sequence[str]) -> None:
        self.pictures = image.permute(0, 2, 3, 1).numpy()
        self.filters = filters

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> Tensor:
        picture = self.pictures[index]
        return torch.from_numpy(np.stack([picture, *by_pillow([picture], self.filters)])).permute(0, 3, 1, 2)


def epoch_seconds(
    image: Tensor, filters: Sequence[str], device: str, batch_size: int = 4, num_workers: int = 2, repeats: int = 3
) -> dict[str, float]:
    """Returns the median seconds of an epoch, with copies made on the device or by Pillow in the loader's workers.

    Args:
        image: Tiles (N, 3, H, W), uint8, held in memory.
        filters: Names of `FILTERS`: a batch of B tiles becomes (1 + their number) B.
        device: Where the network is.
        batch_size: B.
        num_workers: Loader processes, which live on from epoch to epoch, as those of our data modules.
        repeats: Epochs of each route, which take turns; one more comes first and does not count.
    """
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2), nn.ReLU(), nn.Conv2d(32, 1, 1)
    ).to(device)

    def step(batch: Tensor) -> None:
        network.zero_grad()
        loss = network(batch.float() / 255).square().mean()
        loss.backward()

    def epoch(loader: DataLoader[Tensor], on_device: Sequence[str]) -> None:
        for batch in loader:
            tile = batch.to(device).flatten(0, 1)
            step(torch.cat([tile, *filtered(tile, on_device)]))

    def steps_alone() -> None:
        batch = image[:batch_size].to(device).repeat(1 + len(filters), 1, 1, 1)
        for _ in range(0, len(image), batch_size):
            step(batch)

    def loader(in_workers: Sequence[str]) -> DataLoader[Tensor]:
        return DataLoader(Copies(image, in_workers), batch_size, num_workers=num_workers, persistent_workers=True)

    routes: dict[str, Callable[[], object]] = {
        "copies on the device": partial(epoch, loader([]), filters),
        f"copies by Pillow in {num_workers} workers": partial(epoch, loader(filters), []),
        "the network's steps alone": steps_alone,
    }
    return {name: value / 1000 for name, value in milliseconds(routes, repeats).items()}


def print_table(title: str, unit: str, times: dict[str, float]) -> None:
    """Prints times and their ratios to the first."""
    first = next(iter(times.values()))
    print(f"\n| {title} | {unit} | ratio |\n|---|---|---|")
    for name, value in times.items():
        print(f"| {name} | {value:.2f} | {value / first:.2f} |")


def compare(image: Tensor, where: str) -> None:
    """Prints the table of the filters alone."""
    pictures = list(image.cpu().permute(0, 2, 3, 1).numpy())
    routes: dict[str, Callable[[], object]] = {
        "exact": partial(filtered, image, FILTERS),
        "Pillow in a loop": partial(by_pillow, pictures, FILTERS),
        "kornia": partial(filtered, image, FILTERS, "kornia"),
    }
    print_table(f"{len(image)} tiles, four filters, {where}", "ms, median of 15", milliseconds(routes, 15))


def main() -> None:
    """Prints the tables."""
    image, many, copied = tiles(16), tiles(64), FILTERS[:3]
    made = torch.from_numpy(np.stack(by_pillow(list(image.permute(0, 2, 3, 1).numpy()), FILTERS))).permute(0, 3, 1, 2)
    for backend in get_args(Backend):
        result = filtered(image, FILTERS, backend)
        print(f"- {backend}: {(result.flatten(0, 1) != made).sum()} of {made.numel()} values differ from Pillow's")
    title = f"an epoch of {len(many)} tiles, 4 a batch, which become 16"
    unit = "seconds, median of 3"
    for threads in sorted({1, min(2, torch.get_num_threads())}):
        torch.set_num_threads(threads)
        compare(image, f"CPU, threads: {threads}")
        print_table(f"{title}, CPU, threads: {threads}", unit, epoch_seconds(many, copied, "cpu"))
    if torch.cuda.is_available():
        compare(image.cuda(), torch.cuda.get_device_name())
        print_table(f"{title}, {torch.cuda.get_device_name()}", unit, epoch_seconds(many, copied, "cuda"))


if __name__ == "__main__":
    main()
