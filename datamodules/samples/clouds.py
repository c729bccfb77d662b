"""Draws the clouds sample: four cloud patterns over dark water, in the layout of Kaggle's clouds competition.

The patterns are those of Stevens et al., "Sugar, gravel, fish and flowers" (2020).
"""

import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from datamodules.samples import draw
from datamodules.samples.draw import Canvas, Field, Image, Size
from datamodules.samples.folder import dealt, sample, write_picture
from ops.atomic import write_table
from ops.masks.rle import encode

CLOUD_CLASSES = ("Fish", "Flower", "Gravel", "Sugar")
Box = NDArray[np.int_]  # ((top, bottom), (left, right))


def _pattern(canvas: Canvas, pattern: str) -> Field:
    """Returns the cloud cover (H, W), in [0, 1], of one pattern over a whole image."""
    noise, uniform, y, x = canvas.noise, canvas.rng.uniform, 100 * canvas.y, 100 * canvas.x
    if pattern == "Fish":  # long bent spines with slanted ribs
        spine = (y + 4 * noise(25)) / 30 + uniform()
        away = 30 * np.abs(spine % 1 - 0.5)
        ribs = np.sin((x + 0.6 * away) / 1.3 + noise(8)) * (away < 4 + 8 * uniform())
        bones: Field = np.maximum(0.95 * draw.step(-away, -3.5, -2), 0.75 * draw.step(ribs, 0.2, 0.7))
        return bones
    if pattern == "Flower":  # bright round blobs, wide apart
        y, x = (each + 3 * noise(12) for each in (y, x))
        blobs = np.cos((y + 99 * uniform()) * math.pi / 13) + np.cos((x + 99 * uniform()) * math.pi / 13)
        return draw.step(blobs + 0.15 * noise(4), 0.5, 0.9)
    if pattern == "Gravel":  # medium grains along arcs
        radius = np.hypot(y + uniform(20, 100), x - uniform(-30, 180))
        return 0.75 * draw.step(noise(2.5) + 1.1 * np.cos(radius * math.pi / 5), 0.6, 1.4)
    return 0.12 + 0.4 * draw.step(noise(1) + 0.3 * noise(10), 0.2, 2.2)  # Sugar: faint puffs


def _moved(rng: np.random.Generator, box: Box, size: Size) -> Box:
    """Returns the box with each edge moved by up to 6% of its side, within the image."""
    moved = box + rng.uniform(-0.06, 0.06, (2, 2)) * np.diff(box)
    return moved.round().clip(0, np.reshape(size, (2, 1))).astype(np.int_)


def _inside(boxes: Sequence[Box], size: Size) -> NDArray[np.bool_]:
    """Returns which pixels (H, W) lie in any of the boxes."""
    found = np.zeros(size, np.bool_)
    for (top, bottom), (left, right) in boxes:
        found[top:bottom, left:right] = True
    return found


def cloud_picture(
    rng: np.random.Generator, size: Size, classes: Sequence[str], gap: bool
) -> tuple[Image, dict[str, NDArray[np.bool_]]]:
    """Draws an image (H, W, 3) that shows each of `classes` once, and their masks (H, W) by class.

    A mask is as coarse as those that people drew: the union of one to three boxes. The black `gap` between two orbits
    crosses the image, and masks continue below it.
    """
    canvas, density, masks = Canvas(rng, size), np.zeros(size, np.float32), {}
    counts = (1, 2) if len(classes) == 1 else (2, 2 + len(classes) // 4)  # at least one cell stays open water
    for name, cell in zip(classes, rng.permutation(math.prod(counts))[: len(classes)], strict=True):
        places = zip(divmod(int(cell), counts[1]), counts, size, strict=True)
        box = np.array([(place * side // count, (place + 1) * side // count) for place, count, side in places])
        box = _moved(rng, box, size)
        region = cv2.blur(_inside([box], size).astype(np.float32), (7, 7)) + 0.1 * canvas.noise(100 / 16)
        density = np.maximum(density, _pattern(canvas, name) * draw.step(region, 0.35, 0.65))
        masks[name] = _inside([_moved(rng, box, size) for _ in range(rng.integers(1, 4))], size)
    canvas.pixels = draw.rgb("#141c33") + 0.02 * canvas.noise(50)[..., None]
    canvas.lay(density, "#ededea")
    canvas.pixels += 0.012 * rng.standard_normal((*size, 1), dtype=np.float32)
    if gap:
        width = canvas.x.max()
        middle = (rng.uniform(0.1, 0.9) + rng.uniform(-0.1, 0.1) * (canvas.y - 0.5)) * width
        canvas.pixels[np.abs(canvas.x - middle) < rng.uniform(0.02, 0.05) * width] = 0
    return draw.finished(canvas.pixels), masks


def _write(rng: np.random.Generator, folder: Path, names: list[str], size: Size) -> list[tuple[str, str]]:
    """Writes images, the patterns in turn and a third of them with a gap, and returns the rows of their masks."""
    folder.mkdir()
    rows, turns = [], np.zeros(len(CLOUD_CLASSES))
    counts, gaps = dealt(rng, [2, 1, 3, 2, 1, 4, 2, 1], len(names)), dealt(rng, [1, 0, 0], len(names))
    for name, count, gap in zip(names, counts, gaps, strict=True):
        chosen = np.argsort(turns + rng.uniform(0, 1, len(turns)))[: int(count)]  # rare classes first
        turns[chosen] += 1
        image, masks = cloud_picture(rng, size, [CLOUD_CLASSES[index] for index in chosen], bool(gap))
        write_picture(folder / name, image)
        rows += [(f"{name}_{cloud}", encode(masks[cloud]) if cloud in masks else "") for cloud in CLOUD_CLASSES]
    return rows


@sample(pictures=1, test_pictures=0, size=64)
def draw_clouds(root: Path, pictures: int = 48, test_pictures: int = 6, size: Size = (280, 420), seed: int = 0) -> None:
    """Draws a sample in the layout of Kaggle's "Understanding Clouds from Satellite Images".

    `train.csv` has four rows for each of the `pictures` in `train_images/`, half of them with a mask;
    `sample_submission.csv` has four for each of the `test_pictures` in `test_images/`. `size` is the height and width
    of all images. The black gap between two orbits crosses a third of them.

    Returns the folder; `datamodules.samples.folder.sample` names the errors.
    """
    rng = np.random.default_rng(seed)
    names = [f"{name:07x}.jpg" for name in rng.choice(16**7, pictures + test_pictures, replace=False)]
    header = ("Image_Label", "EncodedPixels")
    write_table(root / "train.csv", header, _write(rng, root / "train_images", sorted(names[:pictures]), size))
    rows = _write(rng, root / "test_images", sorted(names[pictures:]), size)
    write_table(root / "sample_submission.csv", header, [(name, "1 1") for name, _ in rows])
