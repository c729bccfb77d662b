"""Paints the gallery of the colorization sample: landscapes, seascapes, portraits, still lifes, houses, by artists.

Colours follow from what a thing is and how light it is, so that they can be learnt: skies are blue above and pale at
the horizon, leaves green, bricks red, skin pale, oranges orange.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from datamodules.samples.clouds import Field, noise
from datamodules.samples.files import write_picture, write_table

NAMES = ("Aalto", "Bianchi", "Castellanos", "Dubois", "Eriksen", "Fischer", "Grønn", "Hartmann", "Ito", "Jansen")
Picture = npt.NDArray[np.uint8]
Colour = npt.NDArray[np.float32]
Share = npt.NDArray[np.floating[Any]]


def _colour(code: str) -> Colour:
    """The sRGB colour of a code like #4c8a3f, in [0, 1]."""
    return np.array(list(bytes.fromhex(code[1:])), np.float32) / np.float32(255)


def _between(low: str, high: str, share: Share) -> Field:
    """Colours (H, W, 3) from a dark one (share 0) to a light one (share 1)."""
    mixed: Field = (_colour(low) + share.clip(0, 1)[..., None] * (_colour(high) - _colour(low))).astype(np.float32)
    return mixed


def _lay(canvas: Field, cover: Share, over: Field) -> None:
    """Lay a picture (H, W, 3) over another, as far as `cover` (H, W) in [0, 1] says."""
    canvas += cover.clip(0, 1)[..., None] * (over - canvas)


def _axes(size: tuple[int, int]) -> tuple[Field, Field]:
    """Places of the pixels (H, W) from the top and from the left, as shares of the height."""
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float32) / np.float32(size[0])
    return y, x


def _disc(size: tuple[int, int], centre: tuple[float, float], radii: tuple[float, float]) -> tuple[Field, Field]:
    """How much of each pixel (H, W) an ellipse covers, and how light a ball of that outline is there."""
    y, x = _axes(size)
    down, aside = (y - centre[0]) / radii[0], (x - centre[1]) / radii[1]
    cover = (1 - np.hypot(down, aside)) * min(radii) * size[0] + 0.5
    light = 0.75 - 0.4 * down - 0.25 * aside
    return cover.clip(0, 1).astype(np.float32), light.clip(0, 1).astype(np.float32)


def _sky(rng: np.random.Generator, size: tuple[int, int], horizon: float) -> Field:
    """Blue above, pale at the horizon, with white clouds."""
    y, _ = _axes(size)
    canvas = _between("#3467ad", "#d5e3ea", y / np.float32(horizon))
    clouds = noise(rng, size, 0.3 * size[0]) + 0.5 * noise(rng, size, 0.1 * size[0])
    _lay(canvas, (0.9 * clouds - 0.5).clip(0, 0.9), np.ones_like(canvas))
    return canvas


def _tree(rng: np.random.Generator, canvas: Field, foot: tuple[float, float], tall: float) -> None:
    size = (canvas.shape[0], canvas.shape[1])
    y, x = _axes(size)
    trunk = (np.abs(x - foot[1]) < 0.05 * tall) & (y < foot[0]) & (y > foot[0] - 0.6 * tall)
    _lay(canvas, trunk.astype(np.float32), _between("#2e1f14", "#6b4d33", np.full(size, rng.uniform(), np.float32)))
    for _ in range(5):
        place = foot[0] - tall * rng.uniform(0.5, 0.9), foot[1] + tall * rng.uniform(-0.25, 0.25)
        cover, light = _disc(size, place, (0.25 * tall, 0.25 * tall))
        _lay(canvas, cover, _between("#152b12", "#7fa544", light + 0.15 * noise(rng, size, 0.03 * size[0])))


def _landscape(rng: np.random.Generator, size: tuple[int, int]) -> Field:
    """Hills, grass and trees under a sky."""
    y, _ = _axes(size)
    horizon = rng.uniform(0.35, 0.55)
    canvas = _sky(rng, size, horizon)
    hills = y - horizon - 0.05 * noise(rng, (2, size[1]), 0.4 * size[1])[:1] + 0.04
    _lay(canvas, hills * size[0], _between("#33506b", "#9fb3bd", 0.5 + 0.2 * noise(rng, size, 0.2 * size[0])))
    grass = y - horizon - 0.02 * noise(rng, (2, size[1]), 0.5 * size[1])[:1] - 0.05
    light = 0.75 - 0.5 * y + 0.15 * noise(rng, size, 0.15 * size[0]) + 0.12 * noise(rng, size, 0.02 * size[0])
    _lay(canvas, grass * size[0], _between("#1f3a16", "#a9b757", light))
    for _ in range(rng.integers(1, 5)):
        foot = rng.uniform(horizon + 0.1, 0.98), rng.uniform(0, size[1] / size[0])
        _tree(rng, canvas, foot, (foot[0] - horizon + 0.15) * rng.uniform(0.7, 1.2))
    return canvas


def _seascape(rng: np.random.Generator, size: tuple[int, int]) -> Field:
    """Waves under a sky, with sails."""
    y, x = _axes(size)
    horizon = rng.uniform(0.35, 0.6)
    canvas = _sky(rng, size, horizon)
    depth = (y - horizon).clip(0.003, 1)
    waves = np.sin(12 / (depth + 0.08) + 2 * noise(rng, size, 0.1 * size[0]))
    _lay(canvas, (y - horizon) * size[0], _between("#0f3b46", "#8fc4bd", 0.55 - 0.5 * depth + 0.18 * waves))
    for _ in range(rng.integers(1, 4)):
        foot, place, tall = horizon + rng.uniform(0.03, 0.3), rng.uniform(0.1, 0.9) * size[1] / size[0], 0.3
        sail = (foot - y < tall) & (y < foot) & (x > place) & (x - place < 0.5 * (y - foot + tall))
        _lay(canvas, sail.astype(np.float32), _between("#a65a2a", "#f3e3c2", 0.5 + (x - place) / tall))
        _lay(canvas, _disc(size, (foot, place), (0.025, 0.13))[0], _between("#2a1710", "#2a1710", y))
    return canvas


def _portrait(rng: np.random.Generator, size: tuple[int, int]) -> Field:
    """A face and shoulders before a dark room."""
    y, _ = _axes(size)
    middle = 0.5 * size[1] / size[0] + rng.uniform(-0.05, 0.05)
    canvas = _between("#1c130d", "#7a5a38", 0.35 + 0.15 * noise(rng, size, 0.5 * size[0]) - 0.2 * y)
    cloth, light = _disc(size, (1.05, middle), (0.45, 0.42))
    folds = light + 0.2 * np.sin(25 * y + 3 * noise(rng, size, 0.2 * size[0]))
    # Which colour cloth has, its lightness says: dark blue, red, pale green.
    low, high = (("#0d1433", "#3c4f94"), ("#4a0f12", "#c2473a"), ("#5f7a5c", "#d9e6cf"))[rng.integers(3)]
    _lay(canvas, cloth, _between(low, high, folds))
    _lay(canvas, _disc(size, (0.34, middle), (0.27, 0.22))[0], _between("#20130c", "#6e4626", folds))
    for centre, radii in (((0.58, middle), (0.16, 0.08)), ((0.4, middle), (0.22, 0.16))):
        cover, light = _disc(size, centre, radii)
        _lay(canvas, cover, _between("#8a5136", "#f6d9bd", light + 0.04 * noise(rng, size, 0.05 * size[0])))
    for aside in (-0.06, 0.06):
        _lay(canvas, _disc(size, (0.38, middle + aside), (0.015, 0.025))[0], _between("#1b1410", "#1b1410", y))
    _lay(canvas, _disc(size, (0.51, middle), (0.015, 0.045))[0], _between("#9c3a35", "#9c3a35", y))
    return canvas


def _still_life(rng: np.random.Generator, size: tuple[int, int]) -> Field:
    """Oranges, apples and limes on a table."""
    y, _ = _axes(size)
    edge = rng.uniform(0.45, 0.6)
    canvas = _between("#22241f", "#5d6257", 0.4 + 0.2 * noise(rng, size, 0.5 * size[0]))
    grain = np.sin(60 * y + 1.5 * noise(rng, size, 0.3 * size[0]))
    _lay(canvas, (y - edge) * size[0], _between("#3b2413", "#a87243", 0.6 - 0.3 * (y - edge) + 0.15 * grain))
    for foot in sorted(rng.uniform(edge, 0.95, rng.integers(3, 8))):
        radius = rng.uniform(0.08, 0.15)
        cover, light = _disc(size, (foot - radius, rng.uniform(0.1, 0.9) * size[1] / size[0]), (radius, radius))
        # The lightest are oranges, the darkest apples.
        low, high = (("#8a3d05", "#ffb53d"), ("#3a0709", "#c9352b"), ("#2f4310", "#a5bf45"))[rng.integers(3)]
        _lay(canvas, cover, _between(low, high, light + 0.04 * noise(rng, size, 0.02 * size[0])))
    return canvas


def _house(rng: np.random.Generator, size: tuple[int, int]) -> Field:
    """A brick house on grass under a sky."""
    y, x = _axes(size)
    canvas = _sky(rng, size, 0.75)
    _lay(canvas, (y - 0.75) * size[0], _between("#1f3a16", "#a9b757", 0.5 + 0.2 * noise(rng, size, 0.04 * size[0])))
    left, right = np.array([rng.uniform(0.1, 0.25), rng.uniform(0.7, 0.9)]) * size[1] / size[0]
    top = rng.uniform(0.35, 0.5)
    row = np.floor(y / 0.03)
    joints = (y / 0.03 - row < 0.2) | ((x / 0.07 + 0.5 * (row % 2)) % 1 < 0.1)
    bricks = _between("#5c2117", "#b25a40", 0.5 + 0.2 * noise(rng, size, 0.03 * size[0]) - 0.25 * joints)
    _lay(canvas, ((x > left) & (x < right) & (y > top) & (y < 0.85)).astype(np.float32), bricks)
    roof = (
        (y < top) & (y > top - 0.18) & (np.abs(x - (left + right) / 2) < (right - left) / 2 * (y - top + 0.25) / 0.25)
    )
    _lay(canvas, roof.astype(np.float32), _between("#23262c", "#5b626e", 0.5 + 0.3 * np.sin(150 * y)))
    for share in (0.25, 0.7):
        place = left + share * (right - left)
        window = (np.abs(x - place) < 0.06) & (np.abs(y - top - 0.15) < 0.07)
        _lay(canvas, window.astype(np.float32), _between("#e8d9a0", "#fff3c4", y))
    return canvas


SUBJECTS: dict[str, Callable[[np.random.Generator, tuple[int, int]], Field]] = {
    "house": _house, "landscape": _landscape, "portrait": _portrait, "seascape": _seascape, "still_life": _still_life,
}  # fmt: skip


def painting(rng: np.random.Generator, size: tuple[int, int], subject: str, brush: float, warmth: float) -> Picture:
    """Paint a picture (H, W, 3).

    Args:
        rng: Decides everything that the other arguments leave open.
        size: Height and width in pixels.
        subject: One of `SUBJECTS`.
        brush: Width of the strokes, as a share of the height.
        warmth: How far the artist's palette leans to yellow (above 0) or blue (below), as a share of the light.
    """
    canvas = SUBJECTS[subject](rng, size)
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float32)
    stroke = brush * size[0]
    y, x = (axis + 0.5 * stroke * noise(rng, size, max(2.0, 2 * stroke)) for axis in (y, x))
    canvas = cv2.remap(canvas, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    light = np.array([1 + warmth, 1, 1 - warmth]) * (1 + 0.03 * noise(rng, size, 2)[..., None])
    result: Picture = (255 * canvas * light).clip(0, 255).round().astype(np.uint8)
    return result


def photograph(rng: np.random.Generator, picture: Picture) -> Picture:
    """An old photograph (H, W) of what a picture (H, W, 3) shows: grey, with grain and dark corners."""
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32)
    y, x = (np.linspace(-1, 1, side, dtype=np.float32) for side in grey.shape)
    corners = 1 - 0.18 * (y[:, None] ** 2 + x**2)
    result: Picture = (grey * corners + 5 * rng.standard_normal(grey.shape)).clip(0, 255).round().astype(np.uint8)
    return result


def write_gallery(folder: Path, pictures: int, artists: int, side: int, seed: int) -> None:
    """Write paintings, what is known of them, and old photographs to colour, as the data module reads them.

    `images/<artist>/` has PNGs and JPEGs of all shapes, `metadata.csv` their artists, titles and years; `photographs/`
    has a grey picture of each subject in a folder of its year, two of them of one name.

    Args:
        folder: An empty folder.
        pictures: How many paintings.
        artists: How many painted them, in turn, each with a brush and a palette of their own; ten at most.
        side: The longest side of all pictures in pixels.
        seed: Decides everything else.
    """
    rng = np.random.default_rng(seed)
    styles = [(rng.uniform(0.002, 0.012), rng.uniform(-0.06, 0.06)) for _ in range(artists)]
    subjects = rng.permutation(np.resize(sorted(SUBJECTS), pictures)).tolist()
    rows = []
    for index, subject in enumerate(subjects):
        artist = NAMES[index % artists]
        suffix = ".png" if index % 3 == 0 else ".jpg"
        path = folder / "images" / artist.lower().replace("ø", "o") / f"{subject}_{index // artists + 1:02d}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_picture(path, painting(rng, _shape(rng, side), subject, *styles[index % artists]))
        title = f"{subject.replace('_', ' ').capitalize()} {index // artists + 1}"
        rows.append((path.relative_to(folder / "images").as_posix(), artist, title, str(rng.integers(1650, 1920))))
    write_table(folder / "metadata.csv", ("image", "artist", "title", "year"), sorted(rows))
    for year, subject in zip((1868, 1874, 1889, 1896, 1901, 1901), [*sorted(SUBJECTS), "landscape"], strict=True):
        path = folder / "photographs" / str(year) / f"{subject}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_picture(path, photograph(rng, painting(rng, _shape(rng, side), subject, 0.001, 0.0)))


def _shape(rng: np.random.Generator, side: int) -> tuple[int, int]:
    """Height and width: one side up to a quarter shorter than `side`, the other up to two fifths shorter still."""
    longer = round(side * rng.uniform(0.75, 1))
    shorter = round(longer * rng.uniform(0.6, 1))
    return (longer, shorter) if rng.uniform() < 0.4 else (shorter, longer)
