"""Paints the pictures of the clouds sample: dark water, four cloud patterns after the real ones, orbit gaps.

The satellite pictures' patterns are those of Stevens et al., "Sugar, gravel, fish and flowers" (2020).
"""

import math
from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

CLOUD_CLASSES = ("Fish", "Flower", "Gravel", "Sugar")
Field = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


class Box(NamedTuple):
    """An axis-aligned rectangle in pixels; `bottom` and `right` lie outside it."""

    top: int
    left: int
    bottom: int
    right: int


def noise(rng: np.random.Generator, size: tuple[int, int], grain: float) -> Field:
    """Smooth noise (H, W) of mean 0 and standard deviation 1, in lumps about `grain` pixels wide."""
    height, width = size
    rows, columns = max(2, round(height / grain)), max(2, round(width / grain))
    coarse = rng.standard_normal((rows, columns), dtype=np.float32)
    field: Field = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    field -= field.mean()
    field /= field.std()
    return field


def _ramp(field: Field, low: float, high: float) -> Field:
    """0 up to `low`, 1 from `high` on, a straight line between."""
    ramped: Field = np.clip((field - low) / (high - low), 0, 1)
    return ramped


def _fluffy(rng: np.random.Generator, density: Field) -> Field:
    """The densities with ragged outlines (each pixel is fetched from nearby) and a mottled inside."""
    size = (density.shape[0], density.shape[1])
    unit = size[0] / 100
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float32)
    for grain in (5 * unit, 2 * unit):
        y, x = (axis + 0.16 * grain * noise(rng, size, grain) for axis in (y, x))
    ragged = cv2.remap(density, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    return _ramp(ragged * (0.88 + 0.1 * noise(rng, size, 1.5 * unit)), 0, 1)


def _blurred(field: Field, sigma: float) -> Field:
    blurred: Field = cv2.GaussianBlur(field, (0, 0), sigma)
    return blurred


def cells(rng: np.random.Generator, size: tuple[int, int], count: int) -> list[Box]:
    """The frame cut into `count` boxes, the largest one across its longer side each time."""
    boxes = [Box(0, 0, *size)]
    while len(boxes) < count:
        boxes.sort(key=lambda box: (box.bottom - box.top) * (box.right - box.left))
        top, left, bottom, right = boxes.pop()
        share = rng.uniform(0.42, 0.58)
        if bottom - top > right - left:
            cut = round(top + share * (bottom - top))
            boxes += [Box(top, left, cut, right), Box(cut, left, bottom, right)]
        else:
            cut = round(left + share * (right - left))
            boxes += [Box(top, left, bottom, cut), Box(top, cut, bottom, right)]
    return boxes


def _moved(rng: np.random.Generator, box: Box, size: tuple[int, int], inward: float, outward: float) -> Box:
    """The box with each edge moved by up to `inward` or `outward` times its side, within the frame."""
    height, width = box.bottom - box.top, box.right - box.left
    top, left, bottom, right = rng.uniform(-outward, inward, 4) * (height, width, height, width)
    return Box(
        max(0, round(box.top + top)),
        max(0, round(box.left + left)),
        min(size[0], round(box.bottom - bottom)),
        min(size[1], round(box.right - right)),
    )


def _region(rng: np.random.Generator, box: Box, size: tuple[int, int]) -> Field:
    """1 inside the box and 0 outside, with a frayed edge that runs about the box's outline."""
    unit = size[0] / 100
    inside = np.zeros(size, np.float32)
    inside[box.top : box.bottom, box.left : box.right] = 1
    return _ramp(_blurred(inside, 2.5 * unit) + 0.1 * noise(rng, size, 6 * unit), 0.35, 0.65)


def _fish(rng: np.random.Generator, box: Box, size: tuple[int, int]) -> Field:
    """Skeletons: long bent spines with slanted ribs."""
    unit = size[0] / 100
    canvas = np.zeros(size, np.float32)
    spines = max(1, round((box.bottom - box.top) / (30 * unit)))
    slope = rng.uniform(-0.15, 0.15)
    columns = np.arange(box.left, box.right, 2 * unit)
    for spine in range(spines):
        middle = box.top + (spine + 0.5) * (box.bottom - box.top) / spines
        bend = rng.uniform(2, 5) * unit * np.sin(columns / (14 * unit) + rng.uniform(0, 2 * math.pi))
        points = np.stack([columns, middle + slope * (columns - columns.mean()) + bend], axis=1)
        cv2.polylines(canvas, [np.int32(points)], False, 1.0, round(4.5 * unit), cv2.LINE_AA)
        for point, side in product(points[::2], (-1, 1)):
            tip = point + rng.uniform(5, 16) * unit * np.array([rng.uniform(0.3, 1.1), side])
            cv2.line(canvas, np.int32(point), np.int32(tip), rng.uniform(0.5, 0.9), round(1.6 * unit), cv2.LINE_AA)
    bones = 0.95 * _ramp(_blurred(canvas, 0.7 * unit), 0.1, 0.9)
    return _fluffy(rng, bones) * _region(rng, box, size)


def _flower(rng: np.random.Generator, box: Box, size: tuple[int, int]) -> Field:
    """Bright roundish blobs, wide apart."""
    unit = size[0] / 100
    canvas = np.zeros(size, np.float32)
    height, width = box.bottom - box.top, box.right - box.left
    rows, columns = max(1, round(height / (25 * unit))), max(1, round(width / (25 * unit)))
    for row, column in product(range(rows), range(columns)):
        y, x = np.array([row, column]) + 0.5 + rng.uniform(-0.16, 0.16, 2)
        centre = round(box.left + x * width / columns), round(box.top + y * height / rows)
        axes = np.int32(rng.uniform(6, 9.5, 2) * unit)
        cv2.ellipse(canvas, centre, axes, rng.uniform(0, 180), 0, 360, 1.0, cv2.FILLED, cv2.LINE_AA)
    return _fluffy(rng, _ramp(_blurred(canvas, 2 * unit) + 0.15 * noise(rng, size, 4 * unit), 0.35, 0.85))


def _gravel(rng: np.random.Generator, box: Box, size: tuple[int, int]) -> Field:
    """Grains of middle size strung along arcs."""
    unit = size[0] / 100
    height, width = size
    y, x = np.mgrid[:height, :width].astype(np.float32)
    centre_y, centre_x = rng.uniform(-1, -0.2) * height, rng.uniform(-0.2, 1.2) * width
    radius = np.hypot(y - centre_y, x - centre_x) + 1.5 * unit * noise(rng, size, 12 * unit)
    arcs = np.cos(radius * (2 * math.pi / (10 * unit)))
    grains = noise(rng, size, 2.5 * unit)
    return 0.75 * _ramp(grains + 1.1 * arcs, 0.6, 1.4) * _region(rng, box, size)


def _sugar(rng: np.random.Generator, box: Box, size: tuple[int, int]) -> Field:
    """A dust of tiny faint puffs."""
    unit = size[0] / 100
    drifts = 0.3 * noise(rng, size, 10 * unit)
    dust = _ramp(noise(rng, size, unit) + drifts, 0.2, 2.2)
    return (0.12 + 0.4 * dust) * _region(rng, box, size)


PATTERNS = dict(zip(CLOUD_CLASSES, (_fish, _flower, _gravel, _sugar), strict=True))


def _ocean(rng: np.random.Generator, size: tuple[int, int]) -> Field:
    """Dark blue-grey water (H, W, 3) in [0, 1] with a gradient over the picture."""
    slopes = rng.uniform(-0.03, 0.03, 2)
    y, x = np.linspace(-1, 1, size[0])[:, None], np.linspace(-1, 1, size[1])
    light = slopes[0] * y + slopes[1] * x + 0.008 * noise(rng, size, size[0] / 4)
    water: Field = (np.array([0.08, 0.11, 0.2]) + light[..., None]).astype(np.float32)
    return water


def _gap(rng: np.random.Generator, size: tuple[int, int]) -> Mask:
    """Where two orbits leave a gap: a slanted stripe (H, W) that widens to one side."""
    height, width = size
    y, x = np.mgrid[:height, :width] / np.array([height, width])[:, None, None]
    middle = rng.uniform(0.1, 0.9) + rng.choice([-1, 1]) * rng.uniform(0.05, 0.12) * (y - 0.5)
    half_width = rng.uniform(0.02, 0.05) + rng.uniform(-0.02, 0.02) * (y - 0.5)
    stripe: Mask = np.abs(x - middle) < half_width
    return stripe


def cloud_picture(
    rng: np.random.Generator, size: tuple[int, int], classes: Sequence[str], gap: bool
) -> tuple[npt.NDArray[np.uint8], dict[str, Mask]]:
    """Paint a picture of the given patterns and draw a mask around each, as people did.

    Args:
        rng: Decides everything that the other arguments leave open.
        size: Height and width in pixels.
        classes: Which of `CLOUD_CLASSES` the picture shows, each once.
        gap: Whether a black orbit gap crosses the picture; masks run on under it.

    Returns:
        The sRGB picture (H, W, 3), and for each of `classes` a mask (H, W), the union of one to three boxes.
    """
    density = np.zeros(size, np.float32)
    masks = {}
    boxes = cells(rng, size, len(classes) + 1)  # one stays open water
    for name, index in zip(classes, rng.permutation(len(boxes)), strict=False):
        box = _moved(rng, boxes[index], size, inward=0.08, outward=0.06)
        density = np.maximum(density, PATTERNS[name](rng, box, size))
        masks[name] = np.zeros(size, np.bool_)
        for _ in range(rng.integers(1, 4)):  # people
            top, left, bottom, right = _moved(rng, box, size, inward=0.06, outward=0.04)
            masks[name][top:bottom, left:right] = True
    water = _ocean(rng, size)
    picture = water + density[..., None] * (np.array([0.93, 0.93, 0.92], np.float32) - water)
    picture += 0.012 * rng.standard_normal((*size, 1), dtype=np.float32)
    if gap:
        picture[_gap(rng, size)] = 0
    return (255 * np.clip(picture, 0, 1)).round().astype(np.uint8), masks
