"""Measures edges and pyramids by both backends: `python -m benchmarks.edges`, with $BELVEDERE_DATA set.

Uses sixteen photos reduced to 256 x 256, two to 512 x 512 and one to 1024 x 1024, and spirals, the longest of edges.
Reports CPU times of one thread, so that a busy machine does not distort them. The second table shows how many edge
pixels kornia and OpenCV have in common.
"""

import os
from collections.abc import Callable
from functools import partial
from itertools import cycle
from pathlib import Path
from statistics import median
from time import process_time

import cv2
import numpy as np
import torch
from kornia.geometry.transform import pyrdown
from torch import Tensor

from ops.exact.edges import canny, canny_on_device, grey
from ops.exact.pyramids import pyramid_down

REPEATS = 9
LONG = 1.0
"""Seconds after which a route is not repeated."""

Routes = dict[str, Callable[[], object]]


def photographs(count: int, side: int) -> Tensor:
    """Returns RGB images (B, 3, side, side), avalanches and roads in turn."""
    folders = [Path(os.environ["BELVEDERE_DATA"]) / task / "images" for task in ("avalanches", "roads")]
    paths = [path for pair in zip(*(sorted(folder.iterdir()) for folder in folders), strict=False) for path in pair]
    resized = [cv2.resize(cv2.imread(str(path)), (side, side), interpolation=cv2.INTER_AREA) for path in paths[:count]]
    return torch.from_numpy(np.stack(resized)[..., ::-1].copy()).permute(0, 3, 1, 2).contiguous()


def spiral(side: int) -> Tensor:
    """Draws a gray image (1, 1, side, side) of one line from the center outwards, bright at its inner end only."""
    levels = np.zeros((side, side), np.uint8)
    row, column, length = side // 2, side // 2, 3
    for down, right in cycle([(0, 1), (1, 0), (0, -1), (-1, 0)]):
        next_row, next_column = row + down * length, column + right * length
        if not (0 <= next_row < side and 0 <= next_column < side):
            break
        cv2.line(levels, (column, row), (next_column, next_row), 40)
        row, column, length = next_row, next_column, length + 3
    levels[side // 2, side // 2] = 255
    return torch.from_numpy(levels)[None, None]


def canny_routes(image: Tensor, low: float, high: float) -> Routes:
    """Ways to find the edges of gray images; on the host, the backend `exact` is OpenCV."""
    return {
        "`exact`": partial(canny, image, low, high),
        "`canny_on_device`": partial(canny_on_device, image, low, high, False),
        "`kornia`": partial(canny, image, low, high, l2=True, backend="kornia"),
    }


def pyramid_routes(image: Tensor) -> Routes:
    """Ways to halve color images in float32; on the host, the backend `exact` is OpenCV."""
    return {
        "`exact`": partial(pyramid_down, image),
        "`kornia`": partial(pyramid_down, image, "kornia"),
        "kornia's own `pyrdown`": partial(pyrdown, image),
    }


def milliseconds(routes: Routes) -> dict[str, tuple[float, int]]:
    """Returns each route's median CPU time and number of runs. They take turns, so that other load slows all alike."""
    times: dict[str, list[float]] = {name: [] for name in routes}
    for _ in range(REPEATS):
        for name, route in routes.items():
            if sum(times[name]) < 1000 * LONG:
                begin = process_time()
                route()
                times[name].append(1000 * (process_time() - begin))
    return {name: (median(values), len(values)) for name, values in times.items()}


def agreement(image: Tensor, low: float, high: float, l2: bool) -> float:
    """Returns the F1 score of kornia's edge pixels against OpenCV's."""
    expected = np.stack([cv2.Canny(each, low, high, L2gradient=l2) > 0 for each in image[:, 0].numpy()])
    # One by one: hysteresis takes as long as for the image with the longest edge.
    found = np.concatenate([canny(each[None], low, high, l2=True, backend="kornia")[:, 0].numpy() for each in image])
    return float(2 * (found & expected).sum() / (found.sum() + expected.sum()))


def main() -> None:
    """Prints the tables."""
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    small, large, one = photographs(16, 256), photographs(2, 512), photographs(1, 1024)
    short, long = spiral(96), spiral(512)
    pixels = [int(canny(each, 50, 500).sum()) for each in (short, long)]
    print(f"The spirals have {pixels[0]} and {pixels[1]} edge pixels.\n")
    long_routes = canny_routes(long, 50, 500)
    del long_routes["`kornia`"]  # one round per pixel: not done after eight minutes
    measured = {
        "Canny 100/200, 16 x 256 x 256": canny_routes(grey(small), 100, 200),
        "Canny 100/200, 2 x 512 x 512": canny_routes(grey(large), 100, 200),
        "Canny 100/200, 1024 x 1024": canny_routes(grey(one), 100, 200),
        "Canny 50/500, spiral of 96 x 96": canny_routes(short, 50, 500),
        "Canny 50/500, spiral of 512 x 512": long_routes,
        "down, 16 x 3 x 256 x 256": pyramid_routes(small / 255),
        "down, 2 x 3 x 512 x 512": pyramid_routes(large / 255),
        "down, 3 x 1024 x 1024": pyramid_routes(one / 255),
    }
    print("| | route | ms, median | runs | ratio |\n|---|---|---|---|---|")
    for title, routes in measured.items():
        times = milliseconds(routes)
        ours, _ = next(iter(times.values()))
        for name, (time, runs) in times.items():
            print(f"| {title} | {name} | {time:.2f} | {runs} | {time / ours:.3g} |", flush=True)
    print("\n| F1 of kornia, 16 x 256 x 256 | OpenCV, L2 | OpenCV, L1 |\n|---|---|---|")
    for low, high in [(100, 200), (50, 150)]:
        l2, l1 = (agreement(grey(small), low, high, gradient) for gradient in (True, False))
        print(f"| {low}/{high} | {l2:.4f} | {l1:.4f} |")


if __name__ == "__main__":
    main()
