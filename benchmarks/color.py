"""Measures color operations and compares enlargements: `python -m benchmarks.color`, with $BELVEDERE_DATA set.

Needs scikit-image (`pip install scikit-image`). `--lab` measures Lab only, in half a minute. Times are CPU times of one
thread, or wall times on a GPU if there is one. Memory is the peak of a process of its own beyond input and output, for
an image of 4000 x 3000 pixels (Linux). The last table reduces paintings and photos to 224 pixels, smooths their chroma
like a network's, enlarges it, and reports its distance in a and b from the original.
"""

import argparse
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, median
from time import perf_counter, process_time

import cv2
import kornia
import numpy as np
import skimage
import torch
from torch import Tensor
from torch.nn import functional

from ops.color.bins import annealed_mean, bins, soft_encoding
from ops.color.coloring import guided_upsample
from ops.color.lab import SCALE, in_gamut, joined, lab_to_rgb, luminance_and_chroma, rgb_to_lab
from ops.pictures import box, cropped, letterboxed

REPEATS = 5
SIDE = 224
PICTURES = 20
"""The paper's batch size."""
FULL = (3000, 4000)
SMOOTHED = (0, 1, 2, 4)
"""Standard deviations of the chroma's smoothing, in pixels of the small image."""
RADII, EPSILONS = (1, 2, 4), (0.003, 0.01, 0.03)
MEBIBYTE = 2**20

Routes = dict[str, Callable[[], object]]


def milliseconds(route: Callable[[], object], device: str = "cpu") -> float:
    """Returns the median CPU time, or wall time where a GPU computes."""
    clock, wait = (process_time, lambda: None) if device == "cpu" else (perf_counter, torch.cuda.synchronize)
    times = []
    for _ in range(1 + REPEATS):
        wait()
        begin = clock()
        route()
        wait()
        times.append(1000 * (clock() - begin))
    return median(times[1:])


def noise(*shape: int) -> Tensor:
    """Returns random numbers in [0, 1), always the same."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def lab_routes(device: str) -> Routes:
    """Ways to convert a batch to Lab and back."""
    rgb = noise(PICTURES, 3, SIDE, SIDE)
    lab = rgb_to_lab(rgb)
    there, back = ([each.permute(1, 2, 0).contiguous().numpy() for each in pictures] for pictures in (rgb, lab))
    rgb, lab = rgb.to(device), lab.to(device)
    routes: Routes = {
        "`rgb_to_lab`": partial(rgb_to_lab, rgb),
        "kornia's alone": partial(kornia.color.rgb_to_lab, rgb),
        "`lab_to_rgb`": partial(lab_to_rgb, lab),
        "kornia's alone, back": partial(kornia.color.lab_to_rgb, lab),
    }
    if device == "cpu":
        routes |= {
            "scikit-image's, one by one": lambda: [skimage.color.rgb2lab(each) for each in there],
            "scikit-image's, back": lambda: [skimage.color.lab2rgb(each) for each in back],
            "OpenCV's, one by one": lambda: [cv2.cvtColor(each, cv2.COLOR_RGB2Lab) for each in there],
            "OpenCV's, back": lambda: [cv2.cvtColor(each, cv2.COLOR_Lab2RGB) for each in back],
        }
    return routes


def batch_routes(device: str) -> Routes:
    """Returns other operations of a training step."""
    lab, centres = rgb_to_lab(noise(PICTURES, 3, SIDE, SIDE).to(device)), bins().to(device)
    wild = lab * torch.tensor([1.0, 3, 3], device=device).view(1, 3, 1, 1)
    logits = noise(2, len(centres), SIDE, SIDE).to(device)
    outside = (in_gamut(wild) != wild).any(dim=1).float().mean()
    return {
        "`in_gamut`, all inside": partial(in_gamut, lab),
        f"`in_gamut`, {outside:.0%} outside": partial(in_gamut, wild),
        "`soft_encoding`": partial(soft_encoding, lab[:, 1:], centres),
        "`annealed_mean`, 2 pictures": partial(annealed_mean, logits, centres),
    }


def differences(device: str) -> dict[str, float]:
    """Returns the largest difference in L, a or b from scikit-image's Lab in float64, for random colors."""
    rgb = noise(1, 3, SIDE, SIDE)
    picture = rgb[0].permute(1, 2, 0).contiguous().numpy()
    expected = torch.from_numpy(skimage.color.rgb2lab(picture.astype(np.float64)))
    image = rgb.to(device)
    ways = {"`rgb_to_lab`": rgb_to_lab, "kornia's alone": kornia.color.rgb_to_lab}
    found = {name: convert(image) for name, convert in ways.items()}
    with torch.autocast(device, torch.bfloat16):
        found |= {f"{name}, autocast": convert(image) for name, convert in ways.items()}
    labs = {name: lab[0].permute(1, 2, 0).cpu() for name, lab in found.items()}
    if device == "cpu":
        labs["OpenCV's"] = torch.from_numpy(cv2.cvtColor(picture, cv2.COLOR_RGB2Lab))
    return {name: float((lab - expected).abs().max()) for name, lab in labs.items()}


def full_routes() -> Routes:
    """Operations that write one large colored image."""
    generator = torch.Generator().manual_seed(0)
    small = torch.rand(1, 3, 168, SIDE, generator=generator) * 2 - 1
    luminance = torch.rand(1, 1, *FULL, generator=generator) * 2 - 1
    lab = joined(luminance, torch.rand(1, 2, *FULL, generator=generator) * 2 - 1)
    return {
        "`rgb_to_lab`": partial(rgb_to_lab, torch.rand(1, 3, *FULL, generator=generator)),
        "`guided_upsample`": partial(guided_upsample, small[:, 1:], small[:, :1], luminance),
        "bicubic": partial(interpolated, small[:, 1:], small[:, :1], luminance, method="bicubic"),
        "`in_gamut`, 79% outside": partial(in_gamut, lab),
        "`lab_to_rgb`": partial(lab_to_rgb, lab),
    }


def memory_growth(name: str) -> float:
    """Returns the MiB that a route adds beside its output, in a process that has not run it before."""
    torch.set_num_threads(1)
    route = full_routes()[name]
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = peak()
    output = route()
    assert isinstance(output, Tensor)
    return (peak() - before - output.numel() * output.element_size()) / MEBIBYTE


def peak() -> int:
    """Returns this process's peak memory in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def smooth(chroma: Tensor, deviation: float) -> Tensor:
    """Blurs the chroma of one image by a Gaussian."""
    if not deviation:
        return chroma
    planes = [cv2.GaussianBlur(plane.numpy(), (0, 0), deviation, borderType=cv2.BORDER_REFLECT) for plane in chroma[0]]
    return torch.from_numpy(np.stack(planes))[None]


def of_the_paper(chroma: Tensor, small: Tensor, luminance: Tensor, radius: int, epsilon: float) -> Tensor:
    """He and Sun's own fast guided filter: slope · luminance + offset, both averaged over windows."""

    def averaged(maps: Tensor) -> Tensor:
        return functional.avg_pool2d(maps, 2 * radius + 1, stride=1, padding=radius, count_include_pad=False)

    slopes = averaged(small * chroma) - averaged(small) * averaged(chroma)
    slopes = slopes / (averaged(small * small) - averaged(small) ** 2 + epsilon)
    offsets = averaged(chroma) - slopes * averaged(small)
    maps = functional.interpolate(averaged(torch.cat([slopes, offsets], dim=1)), luminance.shape[2:], mode="bilinear")
    return maps[:, :2] * luminance + maps[:, 2:]


def interpolated(chroma: Tensor, small: Tensor, luminance: Tensor, method: str) -> Tensor:
    """Enlarges chroma without looking at luminance."""
    return functional.interpolate(chroma, luminance.shape[2:], mode=method)


def enlargers() -> dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]]:
    """Ways to enlarge chroma, given small and full luminance."""
    ways: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
        "bilinear": partial(interpolated, method="bilinear"),
        "bicubic": partial(interpolated, method="bicubic"),
    }
    for radius, epsilon in [(1, 0.001), (2, 0.01)]:
        ways[f"He and Sun's, {radius}, {epsilon}"] = partial(of_the_paper, radius=radius, epsilon=epsilon)
    for radius, epsilon in product(RADII, EPSILONS):
        ways[f"`guided_upsample`, {radius}, {epsilon}"] = partial(guided_upsample, radius=radius, epsilon=epsilon)
    return ways


def edges(picture: np.ndarray) -> Tensor:
    """Returns the pixels at most two away from an edge of the full image."""
    found = cv2.Canny(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), 150, 300)
    return torch.from_numpy(cv2.dilate(found, np.ones((5, 5), np.uint8)) > 0)


def distances(paths: list[Path]) -> dict[str, list[str]]:
    """Returns each way's mean distance in a and b per smoothing, over all pixels and at edges."""
    ways = enlargers()
    found: dict[tuple[str, float], list[tuple[float, float]]] = {key: [] for key in product(ways, SMOOTHED)}
    for path in paths:
        picture = np.ascontiguousarray(cv2.imread(str(path))[..., ::-1])
        square = torch.from_numpy(letterboxed(picture, SIDE)).permute(2, 0, 1)[None] / 255
        luminance, truth = luminance_and_chroma(torch.from_numpy(picture).permute(2, 0, 1)[None] / 255)
        at_edges = edges(picture)
        small, chroma = luminance_and_chroma(cropped(square, box(picture.shape[:2], SIDE)))
        for (way, deviation), values in found.items():
            error = SCALE * (ways[way](smooth(chroma, deviation), small, luminance) - truth).norm(dim=1)[0]
            values.append((float(error.mean()), float(error[at_edges].mean())))
    return {
        way: [
            " / ".join(f"{mean(values):.2f}" for values in zip(*found[way, deviation], strict=True))
            for deviation in SMOOTHED
        ]
        for way in ways
    }


def print_batches(device: str, all_of_it: bool) -> None:
    """Prints the cost of batches on a device, and how exact Lab is there."""
    where = "" if device == "cpu" else f" on {torch.cuda.get_device_name()}"
    print(f"| {PICTURES} x {SIDE} x {SIDE}{where} | ms, median |\n|---|---|")
    for name, route in (lab_routes(device) | (batch_routes(device) if all_of_it else {})).items():
        print(f"| {name} | {milliseconds(route, device):.3g} |", flush=True)
    print(f"\n| Lab, float32{where} | largest difference |\n|---|---|")
    for name, difference in differences(device).items():
        print(f"| {name} | {difference:.1g} |")
    print()


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--lab", action="store_true", help="measure Lab only")
    only_lab = parser.parse_args().lab
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        print_batches(device, not only_lab)
    if not only_lab:
        print_full()


def print_full() -> None:
    """Prints the cost of a large image, and which enlargement is nearest the truth."""
    print("| 4000 x 3000 | ms, median | MiB beyond input and output |\n|---|---|---|")
    for name, route in full_routes().items():
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            memory = process.submit(memory_growth, name).result()
        print(f"| {name} | {milliseconds(route):.0f} | {memory:.0f} |", flush=True)
    folder = Path(os.environ["BELVEDERE_DATA"])
    paths = sorted((folder / "colorization" / "images").iterdir())[::4]
    paths += sorted((folder / "colorization_photos").glob("*.jpg"))[::2]
    columns = " | ".join(f"smoothed by {deviation}" for deviation in SMOOTHED)
    print(f"\n| {len(paths)} pictures, all pixels / at edges | {columns} |\n|{'---|' * (len(SMOOTHED) + 1)}")
    for way, values in distances(paths).items():
        print(f"| {way} | {' | '.join(values)} |")


if __name__ == "__main__":
    main()
