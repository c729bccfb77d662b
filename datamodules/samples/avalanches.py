"""Draws the avalanches sample: snowy mountains in sun or shade, each with the track of an avalanche."""

from pathlib import Path

import cv2
import numpy as np

from datamodules.samples import draw
from datamodules.samples.draw import Canvas, Field, Image, Size
from datamodules.samples.folder import dealt, sample, write_picture
from ops.atomic import write_table

# Snow in the light, its shadows, rock, forest, and the sky above and at the horizon.
SUNNY = ("#fbf8f2", "#8fa5c9", "#6b5f57", "#27322c", "#23539b", "#9fc0e2")
SHADY = ("#8a959f", "#5a6673", "#3d3d40", "#161c1c", "#8d96a0", "#b3bac0")


def _lit(canvas: Canvas, grain: float, octaves: int) -> Field:
    """Returns how much a bumpy slope (H, W) faces the light, with mean 0 and standard deviation 1."""
    down, across = np.gradient(canvas.noise(grain, octaves))
    return np.asarray((0.7 * down - across) / (0.7 * down - across).std(), np.float32)


def _track(canvas: Canvas, start: float) -> Field:
    """Returns how far each pixel (H, W) lies inside an avalanche's outline, as a share of the height; negative outside.

    The avalanche starts at the height `start` and widens downhill.
    """
    uniform, y, x, width = canvas.rng.uniform, canvas.y, canvas.x, canvas.size[1] / canvas.size[0]
    end, middle = uniform(0.85, 1.2), uniform(0.3, 0.7) * width
    along = ((y - start) / (end - start)).clip(0, 1)
    away = np.abs(x - middle - uniform(-0.2, 0.2) * width * along)
    half = width * (uniform(0.06, 0.12) + uniform(0.12, 0.28) * along)
    toe = end - y - 0.35 * away + 0.04 * canvas.edge(14)
    sides = np.minimum(half - away, toe) + 0.02 * canvas.noise(10, octaves=2)
    return np.asarray(np.minimum(sides, y - start - 0.02 * canvas.edge(6)), np.float32)


def mountain(rng: np.random.Generator, size: Size, sunny: bool) -> tuple[Image, Image]:
    """Draws a snowy mountain (H, W, 3), and the mask (H, W) of an avalanche on it: 0 or 255.

    Brightness alone does not mark the avalanche, its texture does: blocks and their shadows on smooth snow. Snow in the
    sun is bright with blue shadows; without sun, everything is gray and blue.
    """
    snow, shadow, rock, forest, zenith, horizon = SUNNY if sunny else SHADY
    sky, slope = Canvas(rng, size), Canvas(rng, size)
    ridge = np.float32((rng.uniform(0.2, 0.3) + 0.05 * sky.edge(30, octaves=5)).clip(0.12, 0.4))
    below = sky.y - ridge
    inside = np.minimum(_track(sky, float(np.median(ridge)) + rng.uniform(0.1, 0.2)), below - 0.02)
    sky.pixels = draw.shade(zenith, horizon, 3 * sky.y)
    sky.lay(0.3 * sky.noise(30, octaves=4), horizon)
    slope.pixels = draw.shade(snow, shadow, 0.3 - 0.25 * _lit(slope, 28, 1))
    slope.lay(0.8 * draw.step(slope.noise(55, octaves=3), 0.9, 1.2), shadow)  # of other mountains
    crags = draw.step(slope.noise((14, 5), octaves=3) + 1.5 - below / 0.07, 0, 0.5)
    slope.lay(crags * (inside < 0), draw.rgb(rock) * (1 + 0.35 * _lit(slope, 5, 3)[..., None]))
    blocks = 0.9 + 0.12 * (_lit(slope, 3, 2) + 0.6 * _lit(slope, 7, 2))
    bed = cv2.GaussianBlur(slope.pixels, (0, 0), 2 * slope.unit) * blocks[..., None]
    slope.lay(draw.step(inside, -0.003, 0.003), bed)
    trees = draw.step(slope.noise(28, octaves=2) + 1.5 * (slope.y - 0.7) + 0.5 * slope.noise((4, 1.5)), 1, 1.3)
    slope.lay(trees * (inside < 0), draw.rgb(forest) * (1 + 0.3 * slope.noise(1)[..., None]))
    sky.lay(draw.step(below, 0, 0.01), slope.pixels)
    tone = rng.uniform(0.93, 1.02) + 0.015 * rng.standard_normal((*size, 1), dtype=np.float32)
    return draw.finished(cv2.GaussianBlur(sky.pixels, (0, 0), 0.55) * tone), (255 * (inside > 0)).astype(np.uint8)


def outlined(image: Image, mask: Image) -> Image:
    """Returns the image (H, W, 3) with a red line around the marked region of its mask (H, W)."""
    drawn = image.copy()
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    cv2.drawContours(drawn, contours, -1, (230, 20, 30), max(1, round(len(mask) / 160)), cv2.LINE_AA)
    return drawn


@sample(pictures=1, size=64)
def draw_avalanches(root: Path, pictures: int = 12, size: Size = (160, 240), seed: int = 0) -> None:
    """Draws a sample in the layout of the avalanches data module.

    `images/`, `masks/` and `references/` (the outline in red) hold JPEG files with the same names, so masks have grays.
    `conditions.csv` calls half of the images sunny; `boxes.csv` has a box for every other image. `size` is the height
    and width of the images.

    Returns the folder; `datamodules.samples.folder.sample` names the errors.
    """
    rng, conditions, boxes = np.random.default_rng(seed), [], []
    for index, condition in enumerate(dealt(rng, ["sunny", "shady"], pictures)):
        name = f"avalanche_{index:03d}.jpg"
        image, mask = mountain(rng, size, condition == "sunny")
        for part, content in (("images", image), ("masks", mask), ("references", outlined(image, mask))):
            write_picture(root / part / name, content)
        conditions.append((name, condition))
        x, y, width, height = cv2.boundingRect(mask)
        if index % 2:
            boxes.append((name, x, y, x + width, y + height))
    write_table(root / "conditions.csv", ("image", "condition"), conditions)
    write_table(root / "boxes.csv", ("image", "x0", "y0", "x1", "y1"), boxes)
