"""Draws the colorization sample: paintings of five subjects, and old gray photographs of them.

Colors follow from what a thing is and how light it is, so a network can learn them: blue skies that pale toward the
horizon, green grass, red bricks, oranges that are lighter than apples.
"""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from datamodules.samples import draw
from datamodules.samples.draw import Field, Image, Share, Size
from ops.atomic import write_table

NAMES = ("Aalto", "Bianchi", "Castellanos", "Dubois", "Eriksen", "Fischer", "Grønn", "Hartmann", "Ito", "Jansen")
SUBJECTS = ("house", "landscape", "portrait", "seascape", "still_life")
CLOTHS = (("#0d1433", "#3c4f94"), ("#4a0f12", "#c2473a"), ("#5f7a5c", "#d9e6cf"))  # the lighter, the greener
FRUITS = (("#8a3d05", "#ffb53d"), ("#3a0709", "#c9352b"), ("#2f4310", "#a5bf45"))  # oranges, apples, limes


class _Easel:
    """A canvas (H, W, 3) with the coordinates y and x of its pixels, both as shares of the height."""

    def __init__(self, rng: np.random.Generator, size: Size) -> None:
        self.rng, self.size, self.width = rng, size, size[1] / size[0]
        self.y, self.x = draw.grid(size)
        self.canvas: Field = np.zeros((*size, 3), np.float32)

    def noise(self, grain: float) -> Field:
        """Returns noise (H, W); the grain is a share of the height."""
        return draw.noise(self.rng, self.size, grain * self.size[0], octaves=2)

    def paint(self, cover: Share, dark: str, light: str, share: NDArray[np.floating]) -> None:
        draw.lay(self.canvas, cover, draw.shade(dark, light, share))

    def ball(self, y: float, x: float, height: float, width: float, dark: str, light: str) -> None:
        """Paints an ellipse with these radii, lit from the upper left."""
        down, aside = (self.y - y) / height, (self.x - x) / width
        cover = draw.step(1 - np.hypot(down, aside), 0, 2 / (min(height, width) * self.size[0]))
        self.paint(cover, dark, light, 0.7 - 0.4 * down - 0.25 * aside + 0.04 * self.noise(0.05))

    def sky(self, horizon: float) -> None:
        self.paint(self.y < 2, "#3467ad", "#d5e3ea", self.y / horizon)
        self.paint(0.4 * self.noise(0.3), "#ffffff", "#ffffff", self.y)

    def below(self, edge: float | NDArray[np.floating], dark: str, light: str, share: NDArray[np.floating]) -> None:
        self.paint(draw.step(self.y - edge, 0, 1 / self.size[0]), dark, light, share)


def _subject(rng: np.random.Generator, size: Size, subject: str) -> Field:
    """Returns an image (H, W, 3) of one of `SUBJECTS`."""
    easel = _Easel(rng, size)
    y, x, width, edge = easel.y, easel.x, easel.width, float(rng.uniform(0.4, 0.55))
    texture = 0.5 + 0.15 * easel.noise(0.1)
    if subject == "portrait":
        middle = width / 2 + float(rng.uniform(-0.05, 0.05))
        easel.below(-1, "#1c130d", "#7a5a38", texture - 0.2 * y)
        easel.ball(1.05, middle, 0.45, 0.42, *CLOTHS[rng.integers(3)])
        easel.ball(0.34, middle, 0.27, 0.22, "#20130c", "#6e4626")  # hair
        easel.ball(0.58, middle, 0.16, 0.08, "#8a5136", "#f6d9bd")  # neck
        easel.ball(0.4, middle, 0.22, 0.16, "#8a5136", "#f6d9bd")  # face
        for aside in (-0.06, 0.06):
            easel.ball(0.38, middle + aside, 0.015, 0.025, "#1b1410", "#1b1410")
        easel.ball(0.51, middle, 0.015, 0.045, "#9c3a35", "#9c3a35")
    elif subject == "still_life":
        easel.below(-1, "#22241f", "#5d6257", texture)
        easel.below(edge, "#3b2413", "#a87243", 0.5 + 0.15 * np.sin(60 * y + easel.noise(0.3)))
        for foot in sorted(rng.uniform(edge, 0.95, rng.integers(3, 8)).tolist()):
            radius = rng.uniform(0.08, 0.15)
            easel.ball(foot - radius, rng.uniform(0.1, 0.9) * width, radius, radius, *FRUITS[rng.integers(3)])
    elif subject == "seascape":
        easel.sky(edge)
        easel.below(edge, "#0f3b46", "#8fc4bd", 0.8 - 0.6 * y + 0.18 * np.sin(80 * y + 2 * easel.noise(0.1)))
        for place in rng.uniform(0.1, 0.9, rng.integers(1, 4)) * width:
            foot = edge + rng.uniform(0.03, 0.3)
            sail = (y < foot) & (x > place) & (x - place < 0.5 * (y - foot + 0.3))
            easel.paint(sail, "#a65a2a", "#f3e3c2", 0.5 + 3 * (x - place))
            easel.ball(foot, place, 0.025, 0.13, "#2a1710", "#2a1710")
    else:
        easel.sky(edge)
        if subject == "landscape":
            easel.below(edge - 0.04 * (1 + np.sin(7 * x)), "#33506b", "#9fb3bd", texture)  # far hills
        easel.below(edge + 0.05, "#1f3a16", "#a9b757", texture + 0.5 - y + 0.1 * easel.noise(0.02))
        for foot in sorted(rng.uniform(edge + 0.1, 0.98, rng.integers(1, 5)).tolist()):
            place, tall = rng.uniform(0, width), foot - edge + 0.1
            easel.paint((np.abs(x - place) < 0.05 * tall) & (np.abs(y - foot + tall / 2) < tall / 2), "#2e1f14",
                        "#6b4d33", texture)  # fmt: skip
            easel.ball(foot - 0.8 * tall, place, 0.35 * tall, 0.3 * tall, "#152b12", "#7fa544")
    if subject == "house":
        left, right, top, row = 0.2 * width, rng.uniform(0.7, 0.9) * width, edge - 0.05, np.floor(y / 0.03)
        joints = (y / 0.03 - row < 0.2) | ((x / 0.07 + 0.5 * (row % 2)) % 1 < 0.1)
        wall = (x > left) & (x < right) & (y > top) & (y < 0.85)
        easel.paint(wall, "#5c2117", "#b25a40", texture - 0.25 * joints)
        roof = (y < top) & (np.abs(x - (left + right) / 2) < (right - left) * (y - top + 0.25) * 2)
        easel.paint(roof, "#23262c", "#5b626e", 0.5 + 0.3 * np.sin(150 * y))
        for place in (0.75 * left + 0.25 * right, 0.25 * left + 0.75 * right):
            easel.paint((np.abs(x - place) < 0.06) & (np.abs(y - top - 0.15) < 0.07), "#e8d9a0", "#fff3c4", y)
    return easel.canvas


def painting(rng: np.random.Generator, size: Size, subject: str, brush: float, warmth: float) -> Image:
    """Draws a painting (H, W, 3).

    Args:
        rng: The source of randomness.
        size: Height and width in pixels.
        subject: One of `SUBJECTS`.
        brush: Width of the strokes, as a share of the height.
        warmth: How far the artist's palette leans to yellow (above 0) or blue (below 0).
    """
    stroke = brush * size[0]
    y, x = (size[0] * each + 0.5 * stroke * draw.noise(rng, size, max(2, 2 * stroke)) for each in draw.grid(size))
    canvas = cv2.remap(_subject(rng, size, subject), x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    return draw.finished(
        canvas * np.array([1 + warmth, 1, 1 - warmth]) * (1 + 0.03 * draw.noise(rng, size, 2)[..., None])
    )


def photograph(rng: np.random.Generator, image: Image) -> Image:
    """Returns an old photograph (H, W) of what an image (H, W, 3) shows: gray, with grain."""
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return draw.finished((gray + 5 * rng.standard_normal(gray.shape)) / 255)


def _shape(rng: np.random.Generator, side: int) -> Size:
    """Returns height and width: the longer side 75 to 100% of `side`, the other 60 to 100% of that."""
    longer = round(side * rng.uniform(0.75, 1))
    shorter = round(longer * rng.uniform(0.6, 1))
    return (longer, shorter) if rng.uniform() < 0.4 else (shorter, longer)


def draw_colorization(root: Path, pictures: int = 60, size: int = 240, seed: int = 0) -> Path:
    """Draws a sample in the layout of the colorization data module; see `draw.draw_once`.

    `images/<artist>/` holds PNG and JPEG files of many shapes, `metadata.csv` their artists, titles and years; there
    are three to ten artists, each with their own brush and palette. `photographs/<year>/` holds six gray images.
    `size` is the longest side of all images in pixels.
    """
    draw.check_at_least(pictures=(pictures, 3), size=(size, 80))
    artists = max(3, min(len(NAMES), pictures // 6))

    def fill(folder: Path) -> None:
        rng, rows = np.random.default_rng(seed), []
        styles = [(rng.uniform(0.002, 0.012), rng.uniform(-0.06, 0.06)) for _ in range(artists)]
        for index, subject in enumerate(map(str, draw.dealt(rng, SUBJECTS, pictures))):
            artist, number = NAMES[index % artists], index // artists + 1
            name = f"{artist.lower().replace('ø', 'o')}/{subject}_{number:02d}{'.jpg' if index % 3 else '.png'}"
            image = painting(rng, _shape(rng, size), subject, *styles[index % artists])
            draw.write_picture(folder / "images" / name, image)
            title = f"{subject.replace('_', ' ').capitalize()} {number}"
            rows.append((name, artist, title, rng.integers(1650, 1920)))
        write_table(folder / "metadata.csv", ("image", "artist", "title", "year"), sorted(rows))
        for year, subject in zip((1868, 1874, 1889, 1896, 1901, 1901), (*SUBJECTS, "landscape"), strict=True):
            image = photograph(rng, painting(rng, _shape(rng, size), subject, 0.001, 0.0))
            draw.write_picture(folder / "photographs" / str(year) / f"{subject}.jpg", image)

    return draw.draw_once(root, fill, sample="colorization", pictures=pictures, size=size, seed=seed)
