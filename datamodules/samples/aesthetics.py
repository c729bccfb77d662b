"""Draws the aesthetics sample: good and bad photographs, with votes in the layout of AVA and as a table of stars.

What makes a bad photograph is visible: blur, pale colors, wrong exposure and noise, a tilted camera, a finger in front
of the lens. The stronger these flaws, the lower the votes.
"""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from datamodules.samples import draw
from datamodules.samples.draw import Canvas, Image, Size
from datamodules.samples.folder import dealt, sample, write_picture
from datamodules.samples.paintings import SUBJECTS, painting
from datamodules.votes.votes import default_threshold
from ops.atomic import write_table

FLAWS = ("blur", "paleness", "exposure", "tilt", "finger")
PROFESSIONAL = 0.7  # share of images with a mean vote above the middle; in AVA above 5
TAGS = {"house": (20, 0), "landscape": (14, 15), "portrait": (17, 0), "seascape": (35, 28), "still_life": (18, 0)}
TAG_NAMES = {28: "Water", 20: "Architecture", 14: "Landscape", 15: "Nature", 17: "Portraiture", 35: "Seascapes",
             18: "Still Life"}  # fmt: skip
"""AVA's semantic tags."""


def shot(rng: np.random.Generator, size: Size, subject: str, flaws: NDArray[np.float64]) -> Image:
    """Draws a photograph (H, W, 3) of one of `SUBJECTS`, with each of `FLAWS` as strong as given, in [0, 1]."""
    blur, paleness, exposure, tilt, finger = flaws.tolist()
    canvas, (height, width) = Canvas(rng, size), size
    scene = painting(rng, size, subject, 0.002, 0.0).astype(np.float32) / np.float32(255)
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), float(rng.choice([-14, 14])) * tilt, 1 + 0.4 * tilt)
    canvas.pixels = cv2.warpAffine(scene, turn, (width, height), borderMode=cv2.BORDER_REFLECT)
    reach = np.hypot(canvas.x / (0.1 + 0.5 * finger), (canvas.y - rng.uniform(0.1, 0.9)) / (0.1 + 0.12 * finger))
    canvas.lay(6 * (1 - reach) * (finger > 0.15), "#b86b54")
    image = cv2.GaussianBlur(canvas.pixels, (0, 0), (0.0005 + 0.03 * blur) * height, borderType=cv2.BORDER_REFLECT)
    gray = image.mean(axis=2, keepdims=True)
    image = 0.5 + (1.1 - 0.6 * paleness) * (gray + (1.25 - 1.1 * paleness) * (image - gray) - 0.5)
    image = image.clip(0, 1) ** np.float32(2.0 ** (float(rng.choice([-1.2, 1.8])) * exposure))
    return draw.finished(image + 0.1 * exposure * rng.standard_normal(image.shape, np.float32))


def _votes(rng: np.random.Generator, place: float, bins: int, voters: tuple[int, int]) -> list[int]:
    """Returns how many people give each vote from 1 to `bins` to an image of rank `place`, from 0 (worst) to 1 (best).

    The number of people is in the range `voters`.
    """
    mean = default_threshold(bins) + 0.4 * (bins - 1) * (place - (1 - PROFESSIONAL))
    weights = np.exp(-0.5 * ((np.arange(1, bins + 1) - mean) / (0.15 * (bins - 1))) ** 2)
    counts: list[int] = rng.multinomial(rng.integers(*voters), weights / weights.sum()).tolist()
    return counts


def _shots(rng: np.random.Generator, pictures: int, side: int) -> list[tuple[Image, str, float]]:
    """Returns photographs with their subjects and ranks from 0 (worst) to 1 (best); longer sides are `side` pixels."""
    shots = []
    places = rng.permutation((np.arange(pictures) + 0.5) / pictures).tolist()
    for place, subject in zip(places, map(str, dealt(rng, SUBJECTS, pictures)), strict=True):
        shorter = round(side * float(rng.choice([2 / 3, 3 / 4, 1])))
        size = (side, shorter) if rng.uniform() < 0.3 else (shorter, side)
        strength = (3 if place < 1 - PROFESSIONAL else 0.5) * (1 - place)
        flaws = (strength * rng.dirichlet([0.6] * len(FLAWS))).clip(0, 1)
        shots.append((shot(rng, size, subject, flaws), subject, place))
    return shots


@sample(pictures=10, size=64)
def draw_aesthetics(root: Path, pictures: int = 80, size: int = 160, seed: int = 0) -> None:
    """Draws a sample in both layouts of the aesthetics data module.

    The folder itself has AVA's layout: `AVA.txt`, `tags.txt`, `images/<id>.jpg`, and every fifth id, by rank, in
    `aesthetics_image_lists/generic_test.jpgl`. `stars/` holds half as many images and a table of one to five stars,
    `labels.csv`. `album/` holds twelve images to predict, in two folders with the same file names. `size` is the longer
    side of all images in pixels.

    Returns the folder; `datamodules.samples.folder.sample` names the errors.
    """
    rng, lines, rows, ranked = np.random.default_rng(seed), [], [], []
    names = rng.choice(np.arange(1000, 960_000), pictures, replace=False).tolist()
    for number, (name, (image, subject, place)) in enumerate(zip(names, _shots(rng, pictures, size), strict=True), 1):
        write_picture(root / "images" / f"{name}.jpg", image)
        votes, tags = _votes(rng, place, 10, (80, 350)), TAGS[subject] if number % 4 else (0, 0)
        ranked.append((place, name))
        lines.append((number, name, *votes, *tags, rng.integers(1, 1398)))
    test = sorted(name for _, name in sorted(ranked)[::5])
    (root / "aesthetics_image_lists").mkdir()
    for file, table in (("AVA.txt", lines), ("tags.txt", TAG_NAMES.items()),
                        ("aesthetics_image_lists/generic_test.jpgl", zip(test))):  # fmt: skip
        (root / file).write_text("".join(f"{' '.join(map(str, line))}\n" for line in table))
    for number, (image, subject, place) in enumerate(_shots(rng, pictures // 2, size), 1):
        name = f"{subject}_{number:03d}.{'jpg' if number % 4 else 'png'}"
        write_picture(root / "stars" / "images" / name, image)
        rows.append((name, *_votes(rng, place, 5, (20, 40))))
    write_table(root / "stars" / "labels.csv", ("image", *(f"count_{stars}" for stars in range(1, 6))), sorted(rows))
    for number, (image, *_) in enumerate(_shots(rng, 12, size)):
        day = ("birthday", "journey")[number % 2]
        write_picture(root / "album" / day / f"IMG_{number // 2 + 1:04d}.jpg", image)
