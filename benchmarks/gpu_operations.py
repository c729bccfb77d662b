"""Measures image operations on a GPU: `python -m benchmarks.gpu_operations`; real images if $BELVEDERE_DATA names them.

Runs each operation by this project on the GPU, by kornia on the same GPU, and by the usual library on one host core,
image by image, like a loader's worker. Prints Markdown: medians in milliseconds of repeats that take turns, with the
GPU synchronized after each; and the errors of the GPU's results.
"""

from collections.abc import Callable
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any

import cv2
import kornia
import numpy as np
import torch
from kornia.filters import canny as kornia_canny
from torch import Tensor

from benchmarks.filters import by_pillow, tiles
from ops.color.lab import in_gamut, lab_to_rgb, rgb_to_lab
from ops.exact.edges import canny, grey
from ops.exact.filters import FILTERS, filtered
from ops.exact.pyramids import pyramid_down

REPEATS = 7
LONG = 3.0
"""Seconds after which a route is not repeated."""

Routes = dict[str, Callable[[], Any]]


def milliseconds(routes: Routes) -> dict[str, float]:
    """Returns the median time of each route, after one warm-up run."""
    times: dict[str, list[float]] = {name: [] for name in routes}
    for _ in range(REPEATS + 1):
        for name, route in routes.items():
            if sum(times[name]) > 1000 * LONG:
                continue
            torch.cuda.synchronize()
            begin = perf_counter()
            route()
            torch.cuda.synchronize()
            times[name].append(1000 * (perf_counter() - begin))
    return {name: median(values[1:] or values) for name, values in times.items()}


def routes(image: Tensor) -> dict[str, Routes]:
    """Returns the measured routes for uint8 images (B, 3, H, W) on the host."""
    device, last = image.cuda(), list(image.permute(0, 2, 3, 1).contiguous().numpy())
    rgb = device.float() / 255
    floats = [each.astype(np.float32) / 255 for each in last]
    lab = rgb_to_lab(rgb)
    wild = lab * lab.new_tensor([1.0, 3, 3]).view(1, 3, 1, 1)
    labs = [cv2.cvtColor(each, cv2.COLOR_RGB2Lab) for each in floats]
    grey_device, greys = grey(device), [each[0].numpy() for each in grey(image)]
    return {
        "RGB to Lab": {
            "ours": partial(rgb_to_lab, rgb),
            "kornia alone": partial(kornia.color.rgb_to_lab, rgb),
            "OpenCV, a core": lambda: [cv2.cvtColor(each, cv2.COLOR_RGB2Lab) for each in floats],
        },
        "Lab to RGB": {
            "ours": partial(lab_to_rgb, lab),
            "kornia alone": partial(kornia.color.lab_to_rgb, lab),
            "OpenCV, a core": lambda: [cv2.cvtColor(each, cv2.COLOR_Lab2RGB) for each in labs],
        },
        "into sRGB's gamut": {"ours": partial(in_gamut, wild)},
        "four filters": {
            "ours": partial(filtered, device, FILTERS),
            "kornia": partial(filtered, device, FILTERS, "kornia"),
            "Pillow, a core": partial(by_pillow, last, FILTERS),
        },
        "Canny 100/200": {
            "ours": partial(canny, grey_device, 100, 200),
            "kornia": partial(kornia_canny, grey_device.float(), 100, 200, kernel_size=1),
            "OpenCV, a core": lambda: [cv2.Canny(each, 100, 200) for each in greys],
        },
        "pyramid down": {
            "ours": partial(pyramid_down, rgb),
            "kornia": partial(kornia.geometry.transform.pyrdown, rgb),
            "OpenCV, a core": lambda: [cv2.pyrDown(each) for each in floats],
        },
    }


def differences(image: Tensor) -> dict[str, str]:
    """Returns how far the GPU's results are from the exact ones."""
    rgb = image.cuda().float() / 255
    exact = kornia.color.rgb_to_lab(rgb.cpu().double())

    def distance(found: Tensor) -> str:
        return f"{float((found.cpu().double() - exact).abs().max()):.1g}"

    found = {
        "RGB to Lab, ours": distance(rgb_to_lab(rgb)),
        "RGB to Lab, kornia's own": distance(kornia.color.rgb_to_lab(rgb)),
    }
    with torch.autocast("cuda", torch.bfloat16):
        found |= {
            "RGB to Lab, ours, under autocast": distance(rgb_to_lab(rgb)),
            "RGB to Lab, kornia's own, under autocast": distance(kornia.color.rgb_to_lab(rgb)),
        }
    torch.backends.cuda.matmul.allow_tf32 = True
    found["RGB to Lab, ours, where matrix products may round to TF32"] = distance(rgb_to_lab(rgb))
    torch.backends.cuda.matmul.allow_tf32 = False
    levels = grey(image)
    edges = np.stack([cv2.Canny(each[0].numpy(), 100, 200) > 0 for each in levels])
    ours = canny(levels.cuda(), 100, 200)[:, 0].cpu().numpy() > 0
    found["Canny, pixels that differ from OpenCV's"] = f"{(edges != ours).sum()} of {edges.size}"
    made = torch.from_numpy(np.stack(by_pillow(list(image.permute(0, 2, 3, 1).numpy()), FILTERS))).permute(0, 3, 1, 2)
    halves = pyramid_down(image.cuda()).cpu() != pyramid_down(image)
    found["pyramid, uint8 values that differ from OpenCV's"] = f"{int(halves.sum())} of {halves.numel()}"
    odd = int((filtered(image.cuda(), FILTERS).flatten(0, 1).cpu() != made).sum())
    found["filters, values that differ from Pillow's"] = f"{odd} of {made.numel()}"
    return found


def main() -> None:
    """Prints the tables.

    Raises:
        SystemExit: There is no GPU.
    """
    if not torch.cuda.is_available():
        raise SystemExit("There is no CUDA device. For the CPU, run benchmarks.color, .edges, .filters.")
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    image = tiles(64)
    versions = f"torch {torch.__version__}, kornia {kornia.__version__}"
    print(f"{torch.cuda.get_device_name()}, {versions}; {len(image)} images of {image.shape[2]} x {image.shape[3]}\n")
    print("| operation | route | ms | ratio |\n|---|---|---|---|")
    for title, each in routes(image).items():
        times = milliseconds(each)
        for name, value in times.items():
            print(f"| {title} | {name} | {value:.2f} | {value / times['ours']:.3g} |", flush=True)
    print("\n| | largest difference |\n|---|---|")
    for name, text in differences(image).items():
        print(f"| {name} | {text} |")


if __name__ == "__main__":
    main()
