"""Draws the avalanches sample: snowy mountains in sun or shade, each with the track of an avalanche."""

from pathlib import Path

import cv2
import numpy as np

from datamodules.samples import draw
from datamodules.samples.draw import Field, Image, Size
from ops.atomic import write_table

# Snow in the light, its shadows, rock, forest, and the sky above and at the horizon.
SUNNY = ("#fbf8f2", "#8fa5c9", "#6b5f57", "#27322c", "#23539b", "#9fc0e2")
SHADY = ("#8a959f", "#5a6673", "#3d3d40", "#161c1c", "#8d96a0", "#b3bac0")


def _lit(rng: np.random.Generator, size: Size, grain: float, octaves: int) -> Field:
    """Returns how much a bumpy slope (H, W) faces the light, with mean 0 and standard deviation 1."""
    down, across = np.gradient(draw.noise(rng, size, grain, octaves))
    return np.asarray((0.7 * down - across) / (0.7 * down - across).std(), np.float32)


def _track(rng: np.random.Generator, size: Size, start: float) -> Field:
    """Returns how far each pixel (H, W) lies inside an avalanche's outline, as a share of the height; negative outside.

    The avalanche starts at the height `start` and widens downhill.
    """
    y, x = draw.grid(size)
    unit, width = size[0] / 100, size[1] / size[0]
    end, middle = rng.uniform(0.85, 1.2), rng.uniform(0.3, 0.7) * width
    along = ((y - start) / (end - start)).clip(0, 1)
    away = np.abs(x - middle - rng.uniform(-0.2, 0.2) * width * along)
    half = width * (rng.uniform(0.06, 0.12) + rng.uniform(0.12, 0.28) * along)
    toe = end - y - 0.35 * away + 0.04 * draw.noise(rng, (2, size[1]), (2, 14 * unit))[:1]
    ragged = 0.02 * draw.noise(rng, size, 10 * unit, octaves=2)
    crown = y - start - 0.02 * draw.noise(rng, (2, size[1]), (2, 6 * unit))[:1]
    return np.asarray(np.minimum(np.minimum(half - away, toe) + ragged, crown), np.float32)


def mountain(rng: np.random.Generator, size: Size, sunny: bool) -> tuple[Image, Image]:
    """Draws a snowy mountain and the mask of an avalanche on it.

    Brightness alone does not mark the avalanche, its texture does: blocks and their shadows on smooth snow.

    Args:
        rng: The source of randomness.
        size: Height and width in pixels.
        sunny: Bright snow with blue shadows; otherwise everything is gray and blue.

    Returns:
        The sRGB image (H, W, 3), and the mask (H, W): 255 on the avalanche, 0 elsewhere.
    """
    snow, shadow, rock, forest, zenith, horizon = SUNNY if sunny else SHADY
    unit, (y, _) = size[0] / 100, draw.grid(size)
    ridge = rng.uniform(0.2, 0.3) + 0.05 * draw.noise(rng, (2, size[1]), (2, 30 * unit), octaves=5)[:1]
    ridge = np.asarray(ridge.clip(0.12, 0.4), np.float32)
    inside = np.minimum(_track(rng, size, float(np.median(ridge)) + rng.uniform(0.1, 0.2)), y - ridge - 0.02)
    canvas = draw.shade(zenith, horizon, 3 * y)
    draw.lay(canvas, 0.3 * draw.noise(rng, size, 30 * unit, octaves=4), draw.rgb(horizon))
    slope = draw.shade(snow, shadow, 0.3 - 0.25 * _lit(rng, size, 28 * unit, 1))
    cast = draw.step(draw.noise(rng, size, 55 * unit, octaves=3), 0.9, 1.2)  # shadows of other mountains
    draw.lay(slope, 0.8 * cast, draw.rgb(shadow))
    crags = draw.noise(rng, size, (14 * unit, 5 * unit), octaves=3) + 1.5 - (y - ridge) / 0.07
    draw.lay(
        slope,
        draw.step(crags, 0, 0.5) * (inside < 0),
        draw.rgb(rock) * (1 + 0.35 * _lit(rng, size, 5 * unit, 3)[..., None]),
    )
    blocks = _lit(rng, size, 3 * unit, 2) + 0.6 * _lit(rng, size, 7 * unit, 2)
    bed = cv2.GaussianBlur(slope, (0, 0), 2 * unit) * (0.9 + 0.12 * blocks[..., None])
    draw.lay(slope, draw.step(inside, -0.003, 0.003), np.asarray(bed, np.float32))
    trees = (
        draw.noise(rng, size, 28 * unit, octaves=2)
        + 1.5 * (y - 0.7)
        + 0.5 * draw.noise(rng, size, (4 * unit, 1.5 * unit))
    )
    draw.lay(
        slope,
        draw.step(trees, 1, 1.3) * (inside < 0),
        draw.rgb(forest) * (1 + 0.3 * draw.noise(rng, size, unit)[..., None]),
    )
    draw.lay(canvas, draw.step(y - ridge, 0, 0.01), slope)
    tone = rng.uniform(0.93, 1.02) + 0.015 * rng.standard_normal((*size, 1), dtype=np.float32)
    return draw.finished(cv2.GaussianBlur(canvas, (0, 0), 0.55) * tone), (255 * (inside > 0)).astype(np.uint8)


def outlined(image: Image, mask: Image) -> Image:
    """Returns the image (H, W, 3) with a red line around the marked region of its mask (H, W)."""
    drawn = image.copy()
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    cv2.drawContours(drawn, contours, -1, (230, 20, 30), max(1, round(len(mask) / 160)), cv2.LINE_AA)
    return drawn


def draw_avalanches(root: Path, pictures: int = 12, size: Size = (160, 240), seed: int = 0) -> Path:
    """Draws a sample in the layout of the avalanches data module; see `draw.draw_once`.

    `images/`, `masks/` and `references/` (the outline in red) hold JPEG files with the same names, so masks have grays.
    `conditions.csv` calls half of the images sunny; `boxes.csv` has a box for every other image. `size` is the height
    and width of the images.
    """
    draw.check_at_least(pictures=(pictures, 1), size=(min(size), 64))

    def fill(folder: Path) -> None:
        rng, conditions, boxes = np.random.default_rng(seed), [], []
        for index, condition in enumerate(draw.dealt(rng, ["sunny", "shady"], pictures)):
            name = f"avalanche_{index:03d}.jpg"
            image, mask = mountain(rng, size, condition == "sunny")
            for part, content in (("images", image), ("masks", mask), ("references", outlined(image, mask))):
                draw.write_picture(folder / part / name, content)
            conditions.append((name, condition))
            x, y, width, height = cv2.boundingRect(mask)
            if index % 2:
                boxes.append((name, x, y, x + width, y + height))
        write_table(folder / "conditions.csv", ("image", "condition"), conditions)
        write_table(folder / "boxes.csv", ("image", "x0", "y0", "x1", "y1"), boxes)

    return draw.draw_once(root, fill, sample="avalanches", pictures=pictures, size=size, seed=seed)
