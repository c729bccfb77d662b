"""Draws the clouds sample: four cloud patterns over dark water, in the layout of Kaggle's clouds competition.

The patterns are those of Stevens et al., "Sugar, gravel, fish and flowers" (2020).
"""

import math
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from datamodules.samples import draw
from datamodules.samples.draw import Field, Image, Size
from ops.atomic import write_table
from ops.masks.rle import encode

CLOUD_CLASSES = ("Fish", "Flower", "Gravel", "Sugar")
Box = tuple[slice, slice]


def _pattern(rng: np.random.Generator, size: Size, pattern: str) -> Field:
    """Returns the cloud cover (H, W), in [0, 1], of one pattern over a whole image."""
    unit = size[0] / 100
    y, x = (100 * each for each in draw.grid(size))
    if pattern == "Fish":  # long bent spines with slanted ribs
        spine = (y + 4 * draw.noise(rng, size, 25 * unit)) / 30 + rng.uniform()
        away = 30 * np.abs(spine % 1 - 0.5)
        ribs = np.sin((x + 0.6 * away) / 1.3 + draw.noise(rng, size, 8 * unit)) * (away < 4 + 8 * rng.uniform())
        bones: Field = np.maximum(0.95 * draw.step(-away, -3.5, -2), 0.75 * draw.step(ribs, 0.2, 0.7))
        return bones
    if pattern == "Flower":  # bright round blobs, wide apart
        y, x = (each + 3 * draw.noise(rng, size, 12 * unit) for each in (y, x))
        blobs = np.cos((y + 99 * rng.uniform()) * math.pi / 13) + np.cos((x + 99 * rng.uniform()) * math.pi / 13)
        return draw.step(blobs + 0.15 * draw.noise(rng, size, 4 * unit), 0.5, 0.9)
    if pattern == "Gravel":  # medium grains along arcs
        radius = np.hypot(y + rng.uniform(20, 100), x - rng.uniform(-30, 180))
        return 0.75 * draw.step(draw.noise(rng, size, 2.5 * unit) + 1.1 * np.cos(radius * math.pi / 5), 0.6, 1.4)
    dust = draw.noise(rng, size, unit) + 0.3 * draw.noise(rng, size, 10 * unit)  # Sugar: faint puffs
    return 0.12 + 0.4 * draw.step(dust, 0.2, 2.2)


def _moved(rng: np.random.Generator, box: Box, size: Size) -> Box:
    """Returns the box with each edge moved by up to 6% of its side, within the image."""
    moved = []
    for edges, side in zip(box, size, strict=True):
        start, stop = (edges.start, edges.stop) + rng.uniform(-0.06, 0.06, 2) * (edges.stop - edges.start)
        moved.append(slice(max(0, round(start)), min(side, round(stop))))
    return moved[0], moved[1]


def cloud_picture(
    rng: np.random.Generator, size: Size, classes: Sequence[str], gap: bool
) -> tuple[Image, dict[str, NDArray[np.bool_]]]:
    """Draws an image of the given patterns, with masks as coarse as those that people drew.

    Args:
        rng: The source of randomness.
        size: Height and width in pixels.
        classes: The patterns shown, each once, of `CLOUD_CLASSES`.
        gap: Whether the black gap between two orbits crosses the image. Masks continue below it.

    Returns:
        The sRGB image (H, W, 3), and for each of `classes` a mask (H, W): the union of one to three boxes.
    """
    y, x = draw.grid(size)
    rows, columns = (1, 2) if len(classes) == 1 else (2, 2 + len(classes) // 4)  # at least one cell stays open water
    cells = rng.permutation(rows * columns)[: len(classes)]
    density, masks = np.zeros(size, np.float32), {}
    for name, cell in zip(classes, cells, strict=True):
        places = zip(divmod(int(cell), columns), (rows, columns), size, strict=True)
        top, left = (slice(place * side // count, (place + 1) * side // count) for place, count, side in places)
        box = _moved(rng, (top, left), size)
        region, masks[name] = np.zeros(size, np.float32), np.zeros(size, np.bool_)
        region[box] = 1
        region = draw.step(cv2.blur(region, (7, 7)) + 0.1 * draw.noise(rng, size, size[0] / 16), 0.35, 0.65)
        density = np.maximum(density, _pattern(rng, size, name) * region)
        for _ in range(rng.integers(1, 4)):
            masks[name][_moved(rng, box, size)] = True
    canvas = draw.rgb("#141c33") + 0.02 * draw.noise(rng, size, size[0] / 2)[..., None]
    draw.lay(canvas, density, draw.rgb("#ededea"))
    canvas += 0.012 * rng.standard_normal((*size, 1), dtype=np.float32)
    if gap:
        middle = (rng.uniform(0.1, 0.9) + rng.uniform(-0.1, 0.1) * (y - 0.5)) * x.max()
        canvas[np.abs(x - middle) < rng.uniform(0.02, 0.05) * x.max()] = 0
    return draw.finished(canvas), masks


def draw_clouds(root: Path, pictures: int = 48, test_pictures: int = 6, size: Size = (280, 420), seed: int = 0) -> Path:
    """Draws a sample in the layout of Kaggle's "Understanding Clouds from Satellite Images"; see `draw.draw_once`.

    `train.csv` has four rows for each of the `pictures` in `train_images/`, half of them with a mask;
    `sample_submission.csv` has four for each of the `test_pictures` in `test_images/`. `size` is the height and width
    of all images. The black gap between two orbits crosses a third of them.
    """
    draw.check_at_least(pictures=(pictures, 1), test_pictures=(test_pictures, 0), size=(min(size), 64))

    def images(rng: np.random.Generator, folder: Path, names: list[str]) -> list[tuple[str, str]]:
        """Writes the images, and returns the rows of their masks."""
        folder.mkdir()
        rows = []
        counts, gaps = draw.dealt(rng, [2, 1, 3, 2, 1, 4, 2, 1], len(names)), draw.dealt(rng, [1, 0, 0], len(names))
        turns = np.zeros(len(CLOUD_CLASSES))
        for name, count, gap in zip(names, counts, gaps, strict=True):
            chosen = np.argsort(turns + rng.uniform(0, 1, len(turns)))[: int(count)]  # rare classes first
            turns[chosen] += 1
            image, masks = cloud_picture(rng, size, [CLOUD_CLASSES[index] for index in chosen], bool(gap))
            draw.write_picture(folder / name, image)
            rows += [(f"{name}_{cloud}", encode(masks[cloud]) if cloud in masks else "") for cloud in CLOUD_CLASSES]
        return rows

    def fill(folder: Path) -> None:
        rng = np.random.default_rng(seed)
        names = [f"{name:07x}.jpg" for name in rng.choice(16**7, pictures + test_pictures, replace=False)]
        train, test, header = sorted(names[:pictures]), sorted(names[pictures:]), ("Image_Label", "EncodedPixels")
        write_table(folder / "train.csv", header, images(rng, folder / "train_images", train))
        images(rng, folder / "test_images", test)
        cells = [(f"{name}_{cloud}", "1 1") for name, cloud in product(test, CLOUD_CLASSES)]
        write_table(folder / "sample_submission.csv", header, cells)

    return draw.draw_once(
        root, fill, sample="clouds", pictures=pictures, test_pictures=test_pictures, size=size, seed=seed
    )
