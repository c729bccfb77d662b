"""What the dense form of a window classifier saves: `OMP_NUM_THREADS=1 python -m benchmarks.dense`, in four minutes.

The logits of every pixel of a picture by `cnn2d`, from its dense form and from one window a pixel, on one thread. Both
take turns on the same picture; a window a pixel is timed at two sizes of batches, of which the better counts. Memory is
that of a process of its own (Linux), for the dense form on a picture of sixteen times as many pixels.
"""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from time import process_time

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tasks.networks.sliding import classify_picture, classify_windows
from tasks.networks.window_classifier import window_classifier

SIDE = 256
LARGE_SIDE = 1024  # for the memory of the dense form, which should not grow with the picture
SMALL_SIDE = 64  # for that of windows, which come in equal batches however many there are
WINDOWS = (17, 33)
TILES = (128, 256)
BATCHES = (128, 512)
PHOTOGRAPH = 4256 * 3694  # pixels of the largest avalanche photograph
MEBIBYTE = 2**20


def make_network(window: int) -> nn.Module:
    """Returns the classifier, with running statistics as if it were trained."""
    torch.manual_seed(0)
    network = window_classifier("cnn2d", window)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d) and layer.running_mean is not None and layer.running_var is not None:
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 1.5)
    return network.eval()


def make_picture(side: int) -> Tensor:
    """Returns noise (3, side, side)."""
    return torch.rand(3, side, side, generator=torch.Generator().manual_seed(1))


def one_by_one(network: nn.Module, picture: Tensor, window: int, batch: int) -> Tensor:
    """Logits of every pixel's own window."""
    before, after = window // 2, window - 1 - window // 2
    border = F.pad(picture[None], (before, after, before, after), mode="reflect")[0]
    return classify_windows(network, border, window, batch=batch)


def timed(route: Callable[[], Tensor]) -> tuple[float, Tensor]:
    """Seconds of the processor and what came of them."""
    begin = process_time()
    logits = route()
    return process_time() - begin, logits


def compare(window: int) -> None:
    """Prints the rows of a window's size."""
    network, picture = make_network(window), make_picture(SIDE)
    seconds: dict[int, list[float]] = {tile: [] for tile in TILES}
    naive: dict[int, float] = {}
    difference = 0.0
    for batch in BATCHES:
        for tile in 2 * TILES:
            time, dense = timed(partial(classify_picture, network, picture, window, tile=tile))
            seconds[tile].append(time)
        naive[batch], expected = timed(partial(one_by_one, network, picture, window, batch))
        difference = max(difference, (dense - expected).abs().max().item())
    best = min(naive.values())
    rows = [(f"a window a pixel, {batch} at a time", time, "naive", batch) for batch, time in naive.items()]
    rows += [(f"dense form, tile {tile}", median(times), "dense", tile) for tile, times in seconds.items()]
    for name, time, kind, size in rows:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            memory = process.submit(memory_growth, kind, window, size).result()
        print(
            f"| {window} | {name} | {time / SIDE**2 * 1e6:.1f} | {best / time:.1f} | "
            f"{time / SIDE**2 * PHOTOGRAPH / 60:.1f} | {memory / MEBIBYTE:.0f} |"
        )
    print(f"| {window} | largest difference of a logit | {difference:.0e} | | | |")


def memory_growth(kind: str, window: int, size: int) -> int:
    """Bytes by which this process grows beyond network and picture, at its peak."""
    torch.set_num_threads(1)
    network, picture = make_network(window), make_picture(LARGE_SIDE if kind == "dense" else SMALL_SIDE)
    classify_picture(network, make_picture(window), window)  # libraries are loaded
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = peak()
    if kind == "dense":
        classify_picture(network, picture, window, tile=size)
    else:
        one_by_one(network, picture, window, size)
    return peak() - before


def peak() -> int:
    """Bytes of memory that this process has held at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def main() -> None:
    """Prints a table in Markdown."""
    torch.set_num_threads(1)
    print("| window | | seconds a million pixels | times as fast | minutes for 4256 x 3694 | MiB at the peak |")
    print("|---|---|---|---|---|---|")
    for window in WINDOWS:
        compare(window)


if __name__ == "__main__":
    main()
