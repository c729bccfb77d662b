"""Draws textures and shapes for the synthetic samples."""

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

Image = NDArray[np.uint8]
Field = NDArray[np.float32]
Share = NDArray[np.floating] | NDArray[np.integer] | NDArray[np.bool_]  # in [0, 1]
Size = tuple[int, int]


def rgb(code: str) -> Field:
    """Returns the color of a code like `#4c8a3f` as sRGB (3,) in [0, 1]."""
    return np.array(list(bytes.fromhex(code[1:])), np.float32) / np.float32(255)


def noise(rng: np.random.Generator, size: Size, grain: ArrayLike, octaves: int = 1) -> Field:
    """Returns smooth noise (H, W) with mean 0 and standard deviation 1.

    Its lumps have `grain` pixels, or this height and width; each further octave is twice as fine and half as strong.
    """
    lump = np.broadcast_to(grain, 2)
    field = np.zeros(size, np.float32)
    for octave in range(octaves):
        shape = np.maximum(2, np.round(2**octave * np.array(size) / lump)).astype(int)
        coarse = rng.standard_normal(shape, dtype=np.float32)
        field += cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC) / 2**octave
    field -= field.mean()
    field /= field.std()
    return field


def step(field: NDArray[np.floating], low: float, high: float) -> Field:
    """Returns 0 up to `low`, 1 from `high` on, and a linear ramp in between."""
    return ((field - low) / (high - low)).clip(0, 1).astype(np.float32)


def shade(dark: str, light: str, share: NDArray[np.floating]) -> Field:
    """Returns colors (H, W, 3) from `dark` where `share` (H, W) is 0 to `light` where it is 1."""
    return np.asarray(rgb(dark) + share.clip(0, 1)[..., None] * (rgb(light) - rgb(dark)), np.float32)


class Canvas:
    """An image (H, W, 3) to paint on in layers, with textures to paint with.

    Args:
        rng: The source of randomness.
        size: Height and width in pixels.
        unit: Pixels of one unit of length; a hundredth of the height by default.

    Attributes:
        pixels: The image, in [0, 1]; black at first.
        y: Place of each pixel (H, W), as a share of the height.
        x: The same to the right, as a share of the height too.
    """

    def __init__(self, rng: np.random.Generator, size: Size, unit: float | None = None) -> None:
        self.rng, self.size, self.unit = rng, size, unit or size[0] / 100
        self.y, self.x = np.mgrid[: size[0], : size[1]].astype(np.float32) / np.float32(size[0])
        self.pixels: Field = np.zeros((*size, 3), np.float32)

    def noise(self, grain: float | tuple[float, float], octaves: int = 1) -> Field:
        """Returns `noise` (H, W), with lumps of `grain` units."""
        return noise(self.rng, self.size, np.multiply(grain, self.unit), octaves)

    def edge(self, grain: float, octaves: int = 1) -> Field:
        """Returns `noise` for a ragged horizontal line (1, W)."""
        return noise(self.rng, (2, self.size[1]), (2, grain * self.unit), octaves)[:1]

    def lay(self, cover: Share, color: str | Field) -> None:
        """Blends a color, a code or (3,), or an image (H, W, 3) into the canvas, with opacity `cover` (H, W)."""
        color = rgb(color) if isinstance(color, str) else color
        self.pixels += cover.clip(0, 1).astype(np.float32)[..., None] * (color - self.pixels)


def finished(canvas: NDArray[np.floating]) -> Image:
    """Returns the canvas, in [0, 1], as uint8."""
    return (255 * canvas).clip(0, 255).round().astype(np.uint8)
