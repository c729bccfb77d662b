"""Paints the photographs of the avalanches sample: snow, rocks and forest under a sky, and an avalanche's track."""

import cv2
import numpy as np
import numpy.typing as npt

from datamodules.samples.clouds import Field, Mask, noise

Picture = npt.NDArray[np.uint8]
Colour = npt.NDArray[np.float32]
UNIT = 160  # lengths are given in pixels of a picture of this height
# Light on snow, the snow's own shadow, rock, forest, and the sky above and at the horizon, as sRGB in [0, 1].
SUNNY = ("#fbf8f2", "#8fa5c9", "#6b5f57", "#27322c", "#23539b", "#9fc0e2")
SHADY = ("#8a959f", "#5a6673", "#3d3d40", "#161c1c", "#8d96a0", "#b3bac0")


def _colours(codes: tuple[str, ...]) -> list[Colour]:
    return [np.array(list(bytes.fromhex(code[1:])), np.float32) / np.float32(255) for code in codes]


def _streaks(rng: np.random.Generator, size: tuple[int, int], height: float, width: float) -> Field:
    """Noise (H, W) of mean 0 and standard deviation 1, in lumps of this height and width in pixels."""
    rows, columns = max(2, round(size[0] / height)), max(2, round(size[1] / width))
    field: Field = cv2.resize(rng.standard_normal((rows, columns), dtype=np.float32), size[::-1],
                              interpolation=cv2.INTER_CUBIC)  # fmt: skip
    field -= field.mean()
    field /= field.std()
    return field


def _lumps(rng: np.random.Generator, size: tuple[int, int], grain: float, octaves: int) -> Field:
    """Fractal noise (H, W): lumps of `grain` pixels with lumps of half the size on them, and so on."""
    layers = [noise(rng, size, grain / 2**octave) / 2**octave for octave in range(octaves)]
    lumps: Field = np.sum(layers, axis=0, dtype=np.float32)
    return lumps


def _lit(relief: Field, light: float) -> Field:
    """How much slopes turn towards a light from the upper left (-1) or the upper right (1), of deviation 1."""
    rows, columns = np.gradient(relief)
    lit = np.asarray(0.7 * rows - light * columns, np.float32)
    lit /= lit.std()
    return lit


def _mix(under: Field, over: Field | Colour, share: Field) -> Field:
    """One picture (H, W, 3) laid over another, as far as `share` (H, W) says."""
    mixed: Field = under + share.clip(0, 1)[..., None] * (over - under)
    return mixed


def _ridge(rng: np.random.Generator, size: tuple[int, int], top: float, relief: float) -> Field:
    """How many pixels each pixel (H, W) lies below a ridge; `top` and `relief` are shares of the height."""
    height, width = size
    octaves = [_streaks(rng, (2, width), 2, 0.35 * width / 2**octave)[0] / 1.8**octave for octave in range(6)]
    line = np.abs(octaves[0]) + np.sum(octaves[1:], axis=0)  # which has peaks where the first octave is 0
    y = np.arange(height, dtype=np.float32)[:, None]
    below: Field = (y - height * (top + relief * (line - line.mean()) / 2)).astype(np.float32)
    return below


def _track(rng: np.random.Generator, below: Field) -> tuple[Field, Field]:
    """An avalanche that starts below a ridge (H, W) and runs down, wider and wider.

    Returns:
        How many pixels each pixel lies inside its outline (negative outside), and below its crown line.
    """
    height, width = size = (below.shape[0], below.shape[1])
    unit = height / UNIT
    middle = width * rng.uniform(0.25, 0.75)
    start = np.argmin(np.abs(below[:, round(middle)])) + rng.uniform(12, 28) * unit
    end = height * rng.uniform(0.85, 1.2)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    along = ((y - start) / (end - start)).clip(0, 1)
    axis = middle + width * rng.uniform(-0.2, 0.2) * along + 6 * unit * np.sin(along * rng.uniform(2, 5))
    half = width * (rng.uniform(0.05, 0.12) + rng.uniform(0.12, 0.32) * along ** rng.uniform(0.8, 1.8))
    crown = y - start - 3 * unit * _streaks(rng, (2, width), 2, 9 * unit)[:1]
    toe = end - y + 7 * unit * _streaks(rng, (2, width), 2, 22 * unit)[:1] - 0.35 * np.abs(x - axis)
    ragged = 3 * unit * noise(rng, size, 16 * unit) + 1.3 * unit * noise(rng, size, 5 * unit)
    inside = np.minimum(np.minimum(half - np.abs(x - axis), toe) + ragged, crown)
    return np.minimum(inside, below - 2 * unit).astype(np.float32), crown.astype(np.float32)


def _trees(rng: np.random.Generator, canvas: Field, forest: Field, colour: Colour, free: Mask) -> None:
    """Paint spruces, the far ones first, where `forest` (H, W) is high, but few on what is `free` of them."""
    height, width = forest.shape
    unit = height / UNIT
    count = round(0.006 * height * width / unit**2)
    feet = rng.uniform((0.25 * height, 0), (height, width), (count, 2))
    for y, x in feet[np.argsort(feet[:, 0])]:
        row, column = int(y), int(x)
        if forest[row, column] < 0.9 or (free[row, column] and rng.uniform() < 0.96):
            continue
        tall = unit * rng.uniform(5, 9) * (0.35 + y / height)
        tint = (255 * colour * rng.uniform(0.7, 1.5)).tolist()
        for share in (1.0, 0.7, 0.4):
            tip, foot, wide = y - tall * (1.3 - 0.3 * share), y - tall * (1 - share), 0.25 * tall * share
            corners = np.array([[x, tip], [x + wide, foot], [x - wide, foot]])
            cv2.fillConvexPoly(canvas, np.int32(16 * corners), [value / 255 for value in tint], cv2.LINE_AA, 4)


def outlined(picture: Picture, mask: Picture) -> Picture:
    """The picture (H, W, 3) with a red line around what its mask (H, W) marks, as if drawn by hand."""
    drawn = picture.copy()
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    cv2.drawContours(drawn, contours, -1, (230, 20, 30), max(1, round(mask.shape[0] / UNIT)), cv2.LINE_AA)
    return drawn


def box_around(mask: Picture) -> tuple[int, int, int, int]:
    """x0, y0, x1, y1 of the smallest box, with a twentieth of its sides around it, around what a mask (H, W) marks."""
    x, y, width, height = cv2.boundingRect(mask)
    right, bottom = min(mask.shape[1], x + width + width // 20), min(mask.shape[0], y + height + height // 20)
    return max(0, x - width // 20), max(0, y - height // 20), right, bottom


def mountain(rng: np.random.Generator, size: tuple[int, int], sunny: bool) -> tuple[Picture, Picture]:
    """Paint a snowy mountain and the mask of an avalanche on it.

    Brightness is not enough to find the avalanche: slopes turn away from the light and rock throws shadows on it, and
    forest and rock are as rough as it is. What differs is its texture: blocks and their shadows, where snow is smooth.

    Args:
        rng: Decides everything that the other arguments leave open.
        size: Height and width in pixels.
        sunny: Whether the sun shines on the snow, which is then as bright as can be, with blue shadows; otherwise all
            lies in shade, grey and blue.

    Returns:
        The sRGB picture (H, W, 3), and the mask (H, W), 255 on the avalanche and 0 elsewhere.
    """
    unit = size[0] / UNIT
    snow, shadow, rock, leaf, zenith, horizon = _colours(SUNNY if sunny else SHADY)
    light = rng.choice([-1, 1])
    far, near = _ridge(rng, size, rng.uniform(0.14, 0.2), 0.09), _ridge(rng, size, rng.uniform(0.22, 0.32), 0.14)
    y = np.linspace(0, 1, size[0], dtype=np.float32)[:, None]
    canvas = zenith + (3 * y[..., None]).clip(0, 1) * (horizon - zenith) * np.ones((*size, 1), np.float32)
    canvas = _mix(canvas, horizon * 1.05, 0.35 * _lumps(rng, size, 50 * unit, 4) - 0.1)

    def slope(grain: float) -> Field:
        """Smooth snow (H, W, 3), lit from one side."""
        relief = _lumps(rng, size, grain, 3) * grain + 0.4 * grain * _streaks(rng, size, 1.2 * grain, 0.3 * grain)
        away = 0.3 - 0.3 * _lit(cv2.GaussianBlur(relief, (0, 0), 1.5 * unit), light)
        return _mix(np.ones((*size, 3), np.float32) * snow, shadow, away)

    def crags(below: Field, depth: float) -> Field:
        """Where rock shows (H, W): most of it near the ridge, in ribs that run down."""
        ribs = 0.8 * _streaks(rng, size, 22 * unit, 9 * unit) + 0.5 * _streaks(rng, size, 7 * unit, 2.5 * unit)
        shown: Field = 2 * (ribs + 0.45 * _lumps(rng, size, 5 * unit, 3) + 1.1 - below / (depth * unit))
        return shown

    rough = 1 + 0.35 * _lit(_lumps(rng, size, 8 * unit, 4), light)[..., None]
    hill = _mix(_mix(slope(30 * unit), rock * rough, crags(far, 14)), horizon, np.full(size, 0.55, np.float32))
    canvas = _mix(canvas, hill, far)
    inside, crown = _track(rng, near)
    mountainside = _mix(slope(45 * unit), rock * rough, crags(near, rng.uniform(10, 22)) * (inside < 0))
    canvas = _mix(canvas, mountainside, near)

    blocks = _lit(_lumps(rng, size, 5 * unit, 3), light) + 0.6 * _lit(_lumps(rng, size, 12 * unit, 2), light)
    bed = cv2.GaussianBlur(canvas, (0, 0), 3 * unit) * (0.9 + (0.07 + 0.09 * y)[..., None] * blocks[..., None])
    canvas = _mix(canvas, bed, inside / unit + 0.5)
    edge: Field = 0.8 * np.exp(-((crown / (1.2 * unit)) ** 2)) * (inside > -1.5 * unit)
    canvas = _mix(canvas, shadow * 0.75, edge)
    if sunny:
        cast = noise(rng, size, 90 * unit) + 0.15 * _lumps(rng, size, 20 * unit, 3) - rng.uniform(0.9, 1.4)
        canvas = _mix(canvas, canvas * (shadow / snow * 0.8), np.where(near > 0, 4 * cast, 0).astype(np.float32))
    forest = _lumps(rng, size, 45 * unit, 3) + 1.2 * (y - 0.55)
    _trees(rng, canvas, forest, leaf, inside > 0)
    tone = rng.uniform(0.93, 1.02) * rng.uniform(0.98, 1.02, 3) + 0.015 * rng.standard_normal((*size, 1))
    picture = cv2.GaussianBlur(canvas.astype(np.float32), (0, 0), 0.55) * tone
    return (255 * picture).clip(0, 255).round().astype(np.uint8), np.where(inside > 0, 255, 0).astype(np.uint8)
