"""Draws the roads sample: aerial tiles with roads, fields, houses and trees, and the masks of the roads."""

import math
from pathlib import Path

import cv2
import numpy as np

from datamodules.samples import draw
from datamodules.samples.draw import Canvas, Field, Image, Size
from datamodules.samples.folder import dealt, sample, write_picture
from ops.atomic import write_table

UNIT = 2.56  # pixels; lengths on the ground are the same in every image
GROUNDS = ("#4d6335", "#5f7040", "#71804b", "#3e5230", "#86804f", "#7d6a4a", "#aca283", "#8f8b80")
ROOFS = ("#98523d", "#7f4538", "#ab6a4d", "#6f6f70", "#8c8b88", "#cfcdc8")
TREES = ("#2a3f22", "#35492a", "#24361f")
WATER, DIRT, SHADE = "#4b5a4f", "#8a7d62", "#2c3024"


def _fields(canvas: Canvas) -> Field:
    """Returns farmland (H, W, 3): each pixel belongs to the field of its nearest point, ragged by noise."""
    rng, size = canvas.rng, canvas.size
    y, x = (size[0] * each + 3 * UNIT * canvas.noise(9) for each in (canvas.y, canvas.x))
    points = rng.uniform(0, size, (max(3, round(size[0] * size[1] / (34 * UNIT) ** 2)), 2))
    nearest = np.argmin([(y - row) ** 2 + (x - column) ** 2 for row, column in points], axis=0)
    colors = np.stack([draw.rgb(code) for code in rng.choice(GROUNDS, len(points))])
    return np.asarray(colors[nearest] * (1 + 0.07 * canvas.noise(12, octaves=4)[..., None]), np.float32)


def _scatter(canvas: Canvas, angle: float) -> None:
    """Draws houses along a direction and round trees, each with its shadow; what is drawn later covers them."""
    rng, (height, width) = canvas.rng, canvas.size
    for _ in range(round(rng.uniform(1, 3) * height * width / (15 * UNIT) ** 2)):
        tree, middle = rng.uniform() < 0.5, rng.uniform(0, (width, height))
        sides, color = UNIT * rng.uniform(4, 12, 2), str(rng.choice(TREES if tree else ROOFS))
        for offset, code in ((4, SHADE), (0, color)):
            if tree:
                center = tuple(map(round, middle + offset))
                cv2.circle(canvas.pixels, center, round(sides.min() / 2), draw.rgb(code).tolist(), cv2.FILLED)
            else:
                corners = cv2.boxPoints(((*(middle + offset),), (*sides,), math.degrees(angle)))
                cv2.fillConvexPoly(canvas.pixels, np.int32(corners), draw.rgb(code).tolist())


def _line(rng: np.random.Generator, size: Size, angle: float, width: float) -> Image:
    """Returns how much of each pixel (H, W) a gently bent line through the image covers, 0 to 255."""
    cover, along = np.zeros(size, np.uint8), np.arange(-sum(size), sum(size), UNIT)
    aside = rng.choice([0, rng.uniform(3, 9)]) * UNIT * np.sin(along / (20 * UNIT) + rng.uniform(0, 6))
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    points = rng.uniform(0.25, 0.75, 2) * size[::-1] + np.stack([along, aside], axis=1) @ turn
    cv2.polylines(cover, [np.int32(16 * points)], False, 255, round(width), cv2.LINE_AA, 4)
    return cover


def road_tile(rng: np.random.Generator, size: Size, roads: int) -> tuple[Image, Image]:
    """Draws land from above (H, W, 3), and the mask of its roads (H, W): 0 to 255, gray along their edges.

    Gray alone does not mark roads: some roofs and fields are gray too, and rivers and dirt paths, which every image
    without roads has, are lines too. Larger images show more land, not wider roads.
    """
    angle, canvas, mask = rng.uniform(0, math.pi), Canvas(rng, size, UNIT), np.zeros(size, np.uint8)
    canvas.pixels = _fields(canvas)
    _scatter(canvas, angle)
    if roads == 0 or rng.uniform() < 0.35:
        river = rng.uniform() < 0.5
        cover = _line(rng, size, angle + math.pi / 4, rng.uniform(5, 9) * UNIT * (1 if river else 0.4))
        canvas.lay(cover / 255, WATER if river else DIRT)
    for index in range(roads):
        cover = _line(rng, size, angle + index * math.pi / 2 + rng.normal(0, 0.15), rng.uniform(5, 9) * UNIT)
        gray = np.float32(rng.choice([rng.uniform(0.27, 0.38), rng.uniform(0.5, 0.64)]) * rng.uniform(0.94, 1.06, 3))
        canvas.lay(cover / 255, gray * (1 + 0.03 * canvas.noise(3)[..., None]))
        mask = np.maximum(mask, cover)
    light = rng.uniform(0.85, 1.1) + 0.035 * rng.standard_normal((*size, 1), dtype=np.float32)
    return draw.finished(cv2.GaussianBlur(canvas.pixels, (0, 0), 0.6) * light), mask


@sample(tiles=2, size=64)
def draw_roads(root: Path, tiles: int = 64, size: int = 256, seed: int = 0) -> None:
    """Draws a sample in the layout of the roads data module.

    `images/` and `masks/` hold PNG files with the same names, square `tiles` of `size` pixels a side; `categories.csv`
    calls half of them `road` and the others `no_road`. `pictures/` holds images to predict: a town of 2.4 x 3.2 tiles,
    and five villages of one tile.

    Returns the folder; `datamodules.samples.folder.sample` names the errors.
    """
    rng, rows = np.random.default_rng(seed), []
    for index, roads in enumerate(dealt(rng, [1, 0, 2, 0, 3, 0, 2, 0], tiles)):
        name = f"tile_{index:04d}.png"
        image, mask = road_tile(rng, (size, size), int(roads))
        write_picture(root / "images" / name, image)
        write_picture(root / "masks" / name, mask)
        rows.append((name, "road" if roads else "no_road"))
    write_table(root / "categories.csv", ("image", "category"), rows)
    shown = {"town": ((round(2.4 * size), round(3.2 * size)), 7)}
    shown |= {f"village_{index}": ((size, size), index) for index in range(5)}
    for name, (extent, roads) in shown.items():
        write_picture(root / "pictures" / f"{name}.png", road_tile(rng, extent, roads)[0])
