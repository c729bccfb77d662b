"""How long the four filters take, and an epoch of filtered tiles: `python -m benchmarks.filters`.

First the filters alone, on a batch of 16 tiles of 256 x 256 (real ones where $BELVEDERE_DATA names them, else noise):
ours, Pillow in a loop from arrays to arrays as a loader would, and four separate convolutions; on the CPU and on a GPU
where there is one. Then an epoch of 64 tiles, each with three filtered copies, that a small network is trained on: the
copies made on the device from a batch, or made by Pillow in two loader workers.
"""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from datamodules.files import picture_files, read_picture
from ops.filters import FILTERS, filtered

REPEATS = 15
KERNELS = (ImageFilter.CONTOUR, ImageFilter.DETAIL, ImageFilter.EDGE_ENHANCE, ImageFilter.FIND_EDGES)
COPIES = 3  # contour, detail and edge enhance: the default of roads


def tiles(count: int) -> Tensor:
    """Tiles (count, 3, 256, 256)."""
    folder = Path(os.environ.get("BELVEDERE_DATA", "/nowhere")) / "roads" / "images"
    if not folder.is_dir():
        return torch.randint(0, 256, (count, 3, 256, 256), dtype=torch.uint8)
    pictures = [read_picture(file)[:256, :256] for file in picture_files(folder)[:count]]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()


def by_pillow(pictures: list[Any], kernels: tuple[type, ...]) -> list[Any]:
    """Arrays (H, W, 3), filtered in each way."""
    made = []
    for picture in map(Image.fromarray, pictures):
        made += [np.asarray(picture.filter(kernel)) for kernel in kernels]
    return made


def by_convolutions(image: Tensor) -> list[Tensor]:
    """Four separate convolutions in float32, rounded and clipped; DETAIL is off by one at some ties."""
    made = []
    for kernel in KERNELS:
        _, scale, offset, weights = kernel.filterargs
        weight = torch.tensor(weights, dtype=torch.float32, device=image.device).view(1, 1, 3, 3).repeat(3, 1, 1, 1)
        values = functional.conv2d(image.float(), weight / scale, padding=1, groups=3) + offset
        made.append((values + 0.5).clamp(0, 255).byte())
    return made


def milliseconds(routes: dict[str, Callable[[], object]], repeats: int = REPEATS) -> dict[str, float]:
    """Median time of each route; the routes take turns, so that a busy machine disturbs all alike."""
    times: dict[str, list[float]] = {name: [] for name in routes}
    for _ in range(repeats + 1):
        for name, route in routes.items():
            begin = perf_counter()
            route()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            times[name].append(1000 * (perf_counter() - begin))
    return {name: median(values[1:]) for name, values in times.items()}


class Filtered(Dataset[Tensor]):
    """Tiles and their copies by Pillow, each a sample (1 + COPIES, 3, H, W)."""

    def __init__(self, image: Tensor) -> None:
        self.pictures = image.permute(0, 2, 3, 1).numpy()

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> Tensor:
        made = [self.pictures[index], *by_pillow([self.pictures[index]], KERNELS[:COPIES])]
        return torch.from_numpy(np.stack(made)).permute(0, 3, 1, 2)


def train(loader: DataLoader[Tensor], on_device: bool, network: nn.Module, device: str) -> None:
    """An epoch: each batch, multiplied or to be multiplied, through a step of the network."""
    for batch in loader:
        image = batch.to(device)
        image = torch.cat([image, *filtered(image, FILTERS[:COPIES])]) if on_device else image.flatten(0, 1)
        network.zero_grad()
        network(image.float() / 255).square().mean().backward()


def epochs(device: str) -> dict[str, Callable[[], object]]:
    """The two epochs."""
    image = tiles(64)
    network = nn.Conv2d(3, 4, 3, padding=1).to(device)
    loaders: dict[str, Any] = {
        "copies on the device": (DataLoader(image, batch_size=4, num_workers=2), True),  # type: ignore[arg-type]  # a tensor is a data set
        "copies by Pillow in two workers": (DataLoader(Filtered(image), batch_size=4, num_workers=2), False),
    }
    return {name: partial(train, *loader, network, device) for name, loader in loaders.items()}


def table(title: str, found: dict[str, float]) -> None:
    """Prints one, with how many times as long each takes as the first."""
    first = next(iter(found.values()))
    print(f"\n| {title} | ms | ratio |\n|---|---|---|")
    for name, value in found.items():
        print(f"| {name} | {value:.2f} | {value / first:.1f} |")


def main() -> None:
    """Prints the tables."""
    image = tiles(16)
    arrays = list(image.permute(0, 2, 3, 1).numpy())
    for threads in (1, 2):
        torch.set_num_threads(threads)
        table(
            f"16 tiles of 256 x 256, four filters, CPU, threads: {threads}",
            milliseconds(
                {
                    "ours": partial(filtered, image, FILTERS),
                    "Pillow in a loop": partial(by_pillow, arrays, KERNELS),
                    "four convolutions": partial(by_convolutions, image),
                }
            ),
        )
    table("an epoch of 64 tiles, 256 pictures, CPU", milliseconds(epochs("cpu"), repeats=5))
    if torch.cuda.is_available():
        name, on_gpu = torch.cuda.get_device_name(), image.cuda()
        table(
            f"16 tiles of 256 x 256, four filters, {name}",
            milliseconds(
                {
                    "ours": partial(filtered, on_gpu, FILTERS),
                    "Pillow in a loop, on the host": partial(by_pillow, arrays, KERNELS),
                    "four convolutions": partial(by_convolutions, on_gpu),
                }
            ),
        )
        table(f"an epoch of 64 tiles, 256 pictures, {name}", milliseconds(epochs("cuda"), repeats=5))


if __name__ == "__main__":
    main()
