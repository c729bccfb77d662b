"""Paints five subjects. Colorization learns their colors, and aesthetics photographs them.

Colors follow from what a thing is and how light it is, so a network can learn them: blue skies that pale toward the
horizon, green grass, red bricks, oranges that are lighter than apples.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from datamodules.samples import draw
from datamodules.samples.draw import Canvas, Image, Share, Size

SUBJECTS = ("house", "landscape", "portrait", "seascape", "still_life")
CLOTHS = (("#0d1433", "#3c4f94"), ("#4a0f12", "#c2473a"), ("#5f7a5c", "#d9e6cf"))  # the lighter, the greener
FRUITS = (("#8a3d05", "#ffb53d"), ("#3a0709", "#c9352b"), ("#2f4310", "#a5bf45"))  # oranges, apples, limes


class _Painting(Canvas):
    """A canvas with what the subjects consist of. All lengths are shares of the height."""

    def paint(self, cover: Share, dark: str, light: str, share: NDArray[np.floating]) -> None:
        self.lay(cover, draw.shade(dark, light, share))

    def below(self, edge: float | NDArray[np.floating], dark: str, light: str, share: NDArray[np.floating]) -> None:
        self.paint(draw.step(self.y - edge, 0, 1 / self.size[0]), dark, light, share)

    def ball(self, y: float, x: float, height: float, width: float, dark: str, light: str) -> None:
        """Paints an ellipse with these radii, lit from the upper left."""
        down, aside = (self.y - y) / height, (self.x - x) / width
        cover = draw.step(1 - np.hypot(down, aside), 0, 2 / (min(height, width) * self.size[0]))
        self.paint(cover, dark, light, 0.7 - 0.4 * down - 0.25 * aside + 0.04 * self.noise(0.05, octaves=2))

    def subject(self, name: str) -> None:
        """Paints one of `SUBJECTS`, from back to front."""
        y, x, width, uniform = self.y, self.x, self.size[1] / self.size[0], self.rng.uniform
        edge, texture = float(uniform(0.4, 0.55)), 0.5 + 0.15 * self.noise(0.1, octaves=2)
        if name == "portrait":
            middle = width / 2 + float(uniform(-0.05, 0.05))
            self.below(-1, "#1c130d", "#7a5a38", texture - 0.2 * y)
            self.ball(1.05, middle, 0.45, 0.42, *CLOTHS[self.rng.integers(3)])
            self.ball(0.34, middle, 0.27, 0.22, "#20130c", "#6e4626")  # hair
            self.ball(0.58, middle, 0.16, 0.08, "#8a5136", "#f6d9bd")  # neck
            self.ball(0.4, middle, 0.22, 0.16, "#8a5136", "#f6d9bd")  # face
            for aside in (-0.06, 0.06):
                self.ball(0.38, middle + aside, 0.015, 0.025, "#1b1410", "#1b1410")
            self.ball(0.51, middle, 0.015, 0.045, "#9c3a35", "#9c3a35")
            return
        if name == "still_life":
            self.below(-1, "#22241f", "#5d6257", texture)
            self.below(edge, "#3b2413", "#a87243", 0.5 + 0.15 * np.sin(60 * y + self.noise(0.3, octaves=2)))
            for foot in sorted(uniform(edge, 0.95, self.rng.integers(3, 8)).tolist()):
                radius = uniform(0.08, 0.15)
                self.ball(foot - radius, uniform(0.1, 0.9) * width, radius, radius, *FRUITS[self.rng.integers(3)])
            return
        self.below(-1, "#3467ad", "#d5e3ea", y / edge)
        self.lay(0.4 * self.noise(0.3, octaves=2), "#ffffff")
        if name == "seascape":
            waves = np.sin(80 * y + 2 * self.noise(0.1, octaves=2))
            self.below(edge, "#0f3b46", "#8fc4bd", 0.8 - 0.6 * y + 0.18 * waves)
            for place in uniform(0.1, 0.9, self.rng.integers(1, 4)) * width:
                foot = edge + uniform(0.03, 0.3)
                sail = (y < foot) & (x > place) & (x - place < 0.5 * (y - foot + 0.3))
                self.paint(sail, "#a65a2a", "#f3e3c2", 0.5 + 3 * (x - place))
                self.ball(foot, place, 0.025, 0.13, "#2a1710", "#2a1710")
            return
        if name == "landscape":
            self.below(edge - 0.04 * (1 + np.sin(7 * x)), "#33506b", "#9fb3bd", texture)  # far hills
        self.below(edge + 0.05, "#1f3a16", "#a9b757", texture + 0.5 - y + 0.1 * self.noise(0.02, octaves=2))
        for foot in sorted(uniform(edge + 0.1, 0.98, self.rng.integers(1, 5)).tolist()):
            place, tall = uniform(0, width), foot - edge + 0.1
            trunk = (np.abs(x - place) < 0.05 * tall) & (np.abs(y - foot + tall / 2) < tall / 2)
            self.paint(trunk, "#2e1f14", "#6b4d33", texture)
            self.ball(foot - 0.8 * tall, place, 0.35 * tall, 0.3 * tall, "#152b12", "#7fa544")
        if name == "house":
            left, right, top, row = 0.2 * width, uniform(0.7, 0.9) * width, edge - 0.05, np.floor(y / 0.03)
            joints = (y / 0.03 - row < 0.2) | ((x / 0.07 + 0.5 * (row % 2)) % 1 < 0.1)
            wall = (x > left) & (x < right) & (y > top) & (y < 0.85)
            self.paint(wall, "#5c2117", "#b25a40", texture - 0.25 * joints)
            roof = (y < top) & (np.abs(x - (left + right) / 2) < (right - left) * (y - top + 0.25) * 2)
            self.paint(roof, "#23262c", "#5b626e", 0.5 + 0.3 * np.sin(150 * y))
            for place in (0.75 * left + 0.25 * right, 0.25 * left + 0.75 * right):
                window = (np.abs(x - place) < 0.06) & (np.abs(y - top - 0.15) < 0.07)
                self.paint(window, "#e8d9a0", "#fff3c4", y)


def painting(rng: np.random.Generator, size: Size, subject: str, brush: float, warmth: float) -> Image:
    """Draws a painting (H, W, 3) of one of `SUBJECTS`.

    Strokes are as wide as `brush`, a share of the height; the palette leans to yellow (`warmth` above 0) or blue.
    """
    canvas, stroke = _Painting(rng, size, unit=size[0]), brush * size[0]
    y, x = (size[0] * each + 0.5 * stroke * draw.noise(rng, size, max(2, 2 * stroke)) for each in (canvas.y, canvas.x))
    canvas.subject(subject)
    painted = cv2.remap(canvas.pixels, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    painted = painted * np.array([1 + warmth, 1, 1 - warmth]) * (1 + 0.03 * draw.noise(rng, size, 2)[..., None])
    return draw.finished(painted)
