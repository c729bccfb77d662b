"""Paints the tiles of the roads sample: fields, houses and trees from above, roads, and grey things that are none."""

import math
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from datamodules.samples.clouds import Field, cells, noise

UNIT = 2.56  # pixels: lengths on the ground are the same in a tile and in a larger picture
GROUNDS = ("#4d6335", "#5f7040", "#71804b", "#3e5230", "#86804f", "#7d6a4a", "#94805d", "#aca283", "#8f8b80")
ROOFS = ("#98523d", "#7f4538", "#ab6a4d", "#6f6f70", "#8c8b88", "#a8a7a2", "#cfcdc8", "#565352")
VERGES = ("#9a9078", "#8a7d62", "#a8926a", "#7f6c50")
WATERS = ("#3f5352", "#4b5a4f", "#55625f", "#384a55")
LEAVES = ("#2a3f22", "#35492a", "#24361f", "#40552c")
WHITE = np.ones(1, np.float32)
Picture = npt.NDArray[np.uint8]
Points = npt.NDArray[np.float64]
Colour = npt.NDArray[np.float32]


class Line(NamedTuple):
    """A road, river or path: the points (N, 2) of its middle as x, y, a `UNIT` apart, and its width, in pixels."""

    points: Points
    width: float


def _colour(rng: np.random.Generator, palette: tuple[str, ...]) -> Colour:
    """One of the palette's colours, a little lighter or darker, as sRGB in [0, 1]."""
    code = bytes.fromhex(palette[rng.integers(len(palette))][1:])
    return (np.array(list(code)) / 255 * rng.uniform(0.85, 1.15)).astype(np.float32)


def _asphalt(rng: np.random.Generator) -> Colour:
    """A light or dark grey."""
    grey = rng.choice([rng.uniform(0.27, 0.38), rng.uniform(0.5, 0.64)])
    return np.float32(grey) * rng.uniform(0.94, 1.06, 3).astype(np.float32)


def _fields(rng: np.random.Generator, size: tuple[int, int], angle: float) -> Field:
    """Farmland (H, W, 3) in [0, 1]: rectangles turned by `angle`, with furrows, some with a hedge."""
    height, width = size
    side = math.ceil(math.hypot(height, width))
    canvas = np.zeros((side, side, 3), np.float32)
    for top, left, bottom, right in cells(rng, (side, side), max(2, round((side / (34 * UNIT)) ** 2))):
        y, x = np.mgrid[top:bottom, left:right].astype(np.float32)
        furrows = np.sin((x, y)[rng.integers(2)] * (2 * math.pi / (rng.uniform(1.2, 3) * UNIT)))
        field = canvas[top:bottom, left:right]
        field[:] = _colour(rng, GROUNDS) * (1 + rng.uniform(0, 0.07) * furrows[..., None])
        if rng.uniform() < 0.4:
            field[: round(UNIT)] = field[:, : round(UNIT)] = _colour(rng, LEAVES)
    turn = cv2.getRotationMatrix2D((side / 2, side / 2), -math.degrees(angle), 1)
    turn[:, 2] += (width - side) / 2, (height - side) / 2
    turned: Field = cv2.warpAffine(canvas, turn, (width, height), borderMode=cv2.BORDER_REFLECT)
    turned *= 1 + 0.07 * noise(rng, size, 12 * UNIT)[..., None] + 0.07 * noise(rng, size, UNIT)[..., None]
    return turned


def _lines(rng: np.random.Generator, size: tuple[int, int], count: int, angle: float) -> list[Line]:
    """Lines through the frame, straight or gently bent; each but the first begins on the one before or crosses it."""
    height, width = size
    far = math.ceil(math.hypot(height, width) / UNIT)
    lines: list[Line] = []
    crossings = [np.array([width, height]) * rng.uniform(0.25, 0.75, 2)]
    for index in range(count):
        if lines:
            across = lines[-1].points / (width, height)
            inner = lines[-1].points[((across > 0.1) & (across < 0.9)).all(axis=1)]
            offered = rng.choice(inner, 8)  # the one farthest from all crossings, so that no two roads run as one
            gaps = np.linalg.norm(offered[:, None] - np.array(crossings), axis=2).min(axis=1)
            crossings.append(offered[gaps.argmax()])
        heading = angle + index * math.pi / 2 + rng.choice([0, math.pi]) + rng.normal(0, 0.15)
        along = np.array([math.cos(heading), math.sin(heading)])
        steps = UNIT * np.arange(-far if index == 0 or rng.uniform() < 0.6 else 0, far)  # 0 is the crossing
        bend, wave, phase = rng.choice([0, rng.uniform(3, 9)]) * UNIT, rng.uniform(14, 26) * UNIT, rng.uniform(0, 6)
        sideways = bend * (np.sin(steps / wave + phase) - math.sin(phase))
        points = crossings[-1] + steps[:, None] * along + sideways[:, None] * np.array([-along[1], along[0]])
        lines.append(Line(points, rng.uniform(5, 9) * UNIT))
    return lines


def _stroke(size: tuple[int, int], pieces: list[Points], width: float) -> Picture:
    """How much of every pixel (H, W) a line, in one piece or several, covers; 255 at most."""
    canvas = np.zeros(size, np.uint8)
    cv2.polylines(canvas, [np.int32(16 * piece) for piece in pieces], False, 255, max(1, round(width)), cv2.LINE_AA, 4)
    return canvas


def _lay(picture: Field, cover: Picture, colour: Colour | Field) -> None:
    """Lay a colour over a picture (H, W, 3), as far as `cover` (H, W) says."""
    picture += cover[..., None] / np.float32(255) * (colour - picture)


def _pave(rng: np.random.Generator, picture: Field, lines: list[Line]) -> Picture:
    """Build roads along the lines, some with verges and dashes; return their mask (H, W)."""
    size = (picture.shape[0], picture.shape[1])
    mask = np.zeros(size, np.uint8)
    if rng.uniform() < 0.6:
        verge = _colour(rng, VERGES)
        for line in lines:
            _lay(picture, _stroke(size, [line.points], line.width + 1.6 * UNIT), verge)
    for line in reversed(lines):  # so that one that begins on another does not show its round end there
        cover = _stroke(size, [line.points], line.width)
        _lay(picture, cover, _asphalt(rng) * (1 + 0.03 * noise(rng, size, 3 * UNIT)[..., None]))
        mask = np.maximum(mask, cover)
    for line in lines:
        if rng.uniform() < 0.4:
            dashes = [line.points[start : start + 3] for start in range(0, len(line.points), 5)]
            _lay(picture, _stroke(size, dashes, 1), np.full(3, 0.8, np.float32))
    return mask


def _cut(rng: np.random.Generator, picture: Field, line: Line) -> Picture:
    """Lay a river or a dirt path along the line; return what it covers (H, W)."""
    size = (picture.shape[0], picture.shape[1])
    river = rng.uniform() < 0.5
    cover = _stroke(size, [line.points], line.width * (rng.uniform(0.8, 1.3) if river else rng.uniform(0.25, 0.5)))
    if river:
        _lay(picture, _stroke(size, [line.points], 1.3 * line.width + 3 * UNIT), _colour(rng, LEAVES))
    _lay(picture, cover, _colour(rng, WATERS if river else VERGES))
    return cover


def _beside(rng: np.random.Generator, line: Line, distance: float) -> tuple[Points, float]:
    """A point at a distance from a line's edge, and the direction of the line there."""
    index = int(rng.integers(len(line.points) - 1))
    dx, dy = line.points[index + 1] - line.points[index]
    aside = rng.choice([-1, 1]) * (line.width / 2 + distance) / math.hypot(dx, dy)
    return line.points[index] + aside * np.array([-dy, dx]), math.atan2(dy, dx)


def _fill(canvas: Picture, corners: Points, colour: Colour) -> None:
    """Draw a convex polygon (N, 2) on a picture (H, W, 3) or, with one value for a colour, on a mask (H, W)."""
    cv2.fillConvexPoly(canvas, np.int32(16 * corners), (255 * colour).clip(0, 255).tolist(), cv2.LINE_AA, 4)


def _plots(rng: np.random.Generator, taken: Picture, lines: list[Line], angle: float) -> list[Points]:
    """The corners (4, 2) of houses and yards, along the lines or anywhere, none on what is `taken` (H, W)."""
    height, width = taken.shape
    taken = cv2.dilate(taken, np.ones((5, 5), np.uint8))
    plots = []
    for _ in range(round(rng.uniform(0.3, 1.8) * height * width / (15 * UNIT) ** 2)):
        sides = rng.uniform(4, 10, 2) * UNIT * rng.choice([1, 2], p=[0.85, 0.15])
        place, turn = rng.uniform(0, [width, height]), angle
        if rng.uniform() < 0.7:
            line = lines[rng.integers(len(lines))]
            place, turn = _beside(rng, line, sides[1] / 2 + rng.uniform(1.5, 5) * UNIT)
        axes = np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
        corners = place + np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * sides / 2 @ axes
        plot = np.zeros_like(taken)
        _fill(plot, corners, WHITE)
        if not (plot & taken).any():
            taken |= plot
            plots.append(corners)
    return plots


def _crowns(rng: np.random.Generator, roads: Picture, lines: list[Line]) -> list[Points]:
    """The outlines (16, 2) of trees: some hang over the edges of lines, none stands on a road (H, W)."""
    height, width = roads.shape
    around = np.linspace(0, 2 * math.pi, 16, endpoint=False)
    crowns = []
    for _ in range(round(rng.uniform(0.4, 2.5) * height * width / (13 * UNIT) ** 2)):
        radius = rng.uniform(1.2, 3.2) * UNIT
        place = rng.uniform(0, [width, height])
        if rng.uniform() < 0.4:
            place, _ = _beside(rng, lines[rng.integers(len(lines))], rng.uniform(0.4, 1.5) * radius)
        x, y = place.astype(int)
        if not (0 <= x < width and 0 <= y < height and roads[y, x]):
            crowns.append(place + radius * np.stack([np.cos(around), np.sin(around)], axis=1))
    return crowns


def _build(rng: np.random.Generator, picture: Picture, plots: list[Points], crowns: list[Points], sun: Points) -> None:
    """Paint houses with gable roofs, or asphalt yards, on the plots, and trees; shadows fall by `sun`, in pixels."""
    yard = rng.uniform(size=len(plots)) < 0.3
    shadow = np.zeros(picture.shape[:2], np.uint8)
    for corners, paved in zip(plots, yard, strict=True):
        if paved:
            _fill(picture, corners, _asphalt(rng))
    for corners in [plot for plot, paved in zip(plots, yard, strict=True) if not paved] + crowns:
        for share in (0.3, 0.6, 1):  # a shadow hangs on to what throws it
            _fill(shadow, corners + share * sun, WHITE)
    picture -= (0.5 * shadow[..., None] / 255 * picture).astype(np.uint8)
    for corners, paved in zip(plots, yard, strict=True):
        if not paved:
            roof, middles = _colour(rng, ROOFS), (corners + corners[[3, 2, 1, 0]]) / 2
            _fill(picture, corners, roof)
            _fill(picture, np.concatenate([middles[:2], corners[2:]]), rng.uniform(0.75, 0.95) * roof)
    for crown in crowns:
        leaf, middle = _colour(rng, LEAVES), crown.mean(axis=0)
        _fill(picture, crown, leaf)
        for _ in range(4):
            tuft = middle + rng.uniform(-0.55, 0.55, 2) * np.ptp(crown, axis=0) / 2
            _fill(picture, tuft + 0.45 * (crown - middle), rng.uniform(0.85, 1.35) * leaf)


def road_tile(rng: np.random.Generator, size: tuple[int, int], roads: int) -> tuple[Picture, Picture]:
    """Paint a piece of country from above, and the mask of its roads.

    Grey is not enough to find them: yards are paved too, roofs and bare fields are grey, and rivers and paths
    run as roads do. Widths are the same in pixels at every size.

    Args:
        rng: Decides everything that the other arguments leave open.
        size: Height and width in pixels.
        roads: How many roads cross the picture. Without any, a river or a dirt path takes the place of one.

    Returns:
        The sRGB picture (H, W, 3), and the mask (H, W): 255 on roads, under overhanging trees too, greys along
        their rims, 0 elsewhere.
    """
    angle = rng.uniform(0, math.pi)
    ground = _fields(rng, size, angle)
    other = roads == 0 or rng.uniform() < 0.35
    lines = _lines(rng, size, roads + other, angle)
    taken = _cut(rng, ground, lines[-1]) if other else np.zeros(size, np.uint8)
    mask = _pave(rng, ground, lines[:roads])
    picture = (255 * ground.clip(0, 1)).round().astype(np.uint8)
    plots = _plots(rng, taken | mask, lines, angle)
    west = rng.uniform(0, 2 * math.pi)
    sun = rng.uniform(1, 2) * UNIT * np.array([math.cos(west), math.sin(west)])
    _build(rng, picture, plots, _crowns(rng, mask, lines), sun)
    light = rng.uniform(0.85, 1.1) * rng.uniform(0.96, 1.04, 3)
    grain = 0.035 * rng.standard_normal((*size, 1), dtype=np.float32)
    return (cv2.GaussianBlur(picture, (0, 0), 0.6) * (light + grain)).clip(0, 255).round().astype(np.uint8), mask
