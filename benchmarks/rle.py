"""Measures decoding run-length encoding to masks, at their own size and at the sizes of training and scoring.

`python -m benchmarks.rle` prints a Markdown table, with pycocotools in it where that is installed.
"""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from statistics import median
from time import perf_counter

import cv2
import numpy as np
from numpy.typing import NDArray

from ops.masks.rle import decode, decode_to, encode, parse_runs

SIZE = (1400, 2100)
REPEATS = 51


def draw_boxes() -> NDArray[np.bool_]:
    """Returns a union of boxes with 1100 runs, like the median real clouds mask."""
    mask = np.zeros(SIZE, dtype=np.bool_)
    mask[50:550, 100:550] = True
    mask[300:750, 350:800] = True
    mask[800:1220, 950:1350] = True
    return mask


def draw_blobs() -> NDArray[np.bool_]:
    """Returns smooth random regions, as a network predicts them."""
    noise = np.random.default_rng(0).standard_normal(SIZE)
    return np.asarray(cv2.GaussianBlur(noise, (0, 0), 60) > 0)


def decode_run_by_run(text: str) -> NDArray[np.bool_]:
    """Returns the decoder of most public notebooks."""
    values = np.asarray(text.split(), dtype=np.int64)
    pixels = np.zeros(SIZE[0] * SIZE[1], dtype=np.bool_)
    for start, length in zip(values[::2] - 1, values[1::2], strict=True):
        pixels[start : start + length] = True
    return pixels.reshape(SIZE, order="F")


def encode_pixels(mask: NDArray[np.bool_]) -> str:
    """Returns the encoder of most public notebooks."""
    pixels = np.concatenate([[0], mask.T.flatten(), [0]])
    runs = np.where(pixels[1:] != pixels[:-1])[0] + 1
    runs[1::2] -= runs[::2]
    return " ".join(str(value) for value in runs)


def decode_by_coco(text: str) -> NDArray[np.bool_]:
    """Decodes by pycocotools, whose counts alternate between background and mask."""
    coco = import_module("pycocotools.mask")
    starts, ends = parse_runs(text, SIZE)
    borders = np.concatenate([[0], np.stack([starts, ends], axis=1).ravel(), [SIZE[0] * SIZE[1]]])
    runs = coco.frPyObjects({"counts": np.diff(borders).tolist(), "size": list(SIZE)}, *SIZE)
    pixels: NDArray[np.uint8] = coco.decode(runs)
    return pixels.view(np.bool_)


def decode_and_resize(decoder: Callable[[], NDArray[np.bool_]], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Decodes the mask and resizes it by area."""
    pixels = decoder().view(np.uint8) * 255
    return np.asarray(cv2.resize(pixels, size[::-1], interpolation=cv2.INTER_AREA) >= 128)


def routes(mask: NDArray[np.bool_]) -> dict[str, Callable[[], object]]:
    """Returns the measured routes by name."""
    text = encode(mask)
    measured: dict[str, Callable[[], object]] = {
        "parse and check: `parse_runs`": partial(parse_runs, text, SIZE),
        "encode: `encode`": partial(encode, mask),
        "encode: notebooks": partial(encode_pixels, mask),
    }
    decoders: dict[str, Callable[[], NDArray[np.bool_]]] = {
        "`decode`": partial(decode, text, SIZE),
        "notebooks, run by run": partial(decode_run_by_run, text),
    }
    if find_spec("pycocotools"):
        decoders["pycocotools"] = partial(decode_by_coco, text)
    for name, decoder in decoders.items():
        measured[f"1400 x 2100: {name}"] = decoder
    for size in [(224, 224), (350, 525)]:
        measured[f"{size[0]} x {size[1]}: `decode_to`"] = partial(decode_to, text, SIZE, size)
        for name, decoder in decoders.items():
            measured[f"{size[0]} x {size[1]}: {name}, INTER_AREA"] = partial(decode_and_resize, decoder, size)
    return measured


def milliseconds(measured: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Returns the median time of each route. They take turns, so that other load slows all alike."""
    times: dict[str, list[float]] = {name: [] for name in measured}
    for _ in range(REPEATS):
        for name, route in measured.items():
            begin = perf_counter()
            route()
            times[name].append(1000 * (perf_counter() - begin))
    return {name: median(values) for name, values in times.items()}


def main() -> None:
    """Prints the table."""
    cv2.setNumThreads(1)  # as in a data-loader worker
    masks = {"boxes": draw_boxes(), "blobs": draw_blobs()}
    columns = {
        f"{name}, {len(encode(mask).split()) // 2} runs": milliseconds(routes(mask)) for name, mask in masks.items()
    }
    print(f"| ms, median of {REPEATS} | {' | '.join(columns)} |")
    print("|---|" + "---|" * len(columns))
    for name in next(iter(columns.values())):
        print(f"| {name} | {' | '.join(f'{times[name]:.2f}' for times in columns.values())} |")


if __name__ == "__main__":
    main()
