"""Draws the aesthetics sample: good and bad photographs, with votes in the layout of AVA and as a table of stars.

What makes a bad photograph is visible: blur, pale colors, wrong exposure and noise, a tilted camera, a finger in front
of the lens. The stronger these flaws, the lower the votes.
"""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from datamodules.samples import draw
from datamodules.samples.colorization import SUBJECTS, painting
from datamodules.samples.draw import Image, Size
from datamodules.votes.votes import default_threshold
from ops.atomic import write_table

FLAWS = ("blur", "paleness", "exposure", "tilt", "finger")
PROFESSIONAL = 0.7  # share of images with a mean vote above the middle; in AVA above 5
TAGS = {"house": (20, 0), "landscape": (14, 15), "portrait": (17, 0), "seascape": (35, 28), "still_life": (18, 0)}
TAG_NAMES = {28: "Water", 20: "Architecture", 14: "Landscape", 15: "Nature", 17: "Portraiture", 35: "Seascapes",
             18: "Still Life"}  # fmt: skip
"""AVA's semantic tags."""


def shot(rng: np.random.Generator, size: Size, subject: str, flaws: NDArray[np.float64]) -> Image:
    """Draws a photograph (H, W, 3).

    Args:
        rng: The source of randomness.
        size: Height and width in pixels.
        subject: One of `SUBJECTS`.
        flaws: Strength of each of `FLAWS`, in [0, 1].
    """
    blur, paleness, exposure, tilt, finger = flaws.tolist()
    (height, width), (y, x) = size, draw.grid(size)
    canvas = painting(rng, size, subject, 0.002, 0.0).astype(np.float32) / np.float32(255)
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), float(rng.choice([-14, 14])) * tilt, 1 + 0.4 * tilt)
    canvas = cv2.warpAffine(canvas, turn, (width, height), borderMode=cv2.BORDER_REFLECT)
    reach = np.hypot(x / (0.1 + 0.5 * finger), (y - rng.uniform(0.1, 0.9)) / (0.1 + 0.12 * finger))
    draw.lay(canvas, 6 * (1 - reach) * (finger > 0.15), draw.rgb("#b86b54"))
    canvas = cv2.GaussianBlur(canvas, (0, 0), (0.0005 + 0.03 * blur) * height, borderType=cv2.BORDER_REFLECT)
    gray = canvas.mean(axis=2, keepdims=True)
    canvas = 0.5 + (1.1 - 0.6 * paleness) * (gray + (1.25 - 1.1 * paleness) * (canvas - gray) - 0.5)
    canvas = canvas.clip(0, 1) ** np.float32(2.0 ** (float(rng.choice([-1.2, 1.8])) * exposure))
    return draw.finished(canvas + 0.1 * exposure * rng.standard_normal(canvas.shape, np.float32))


def votes_on(rng: np.random.Generator, place: float, bins: int, voters: int) -> list[int]:
    """Returns how many people give each vote from 1 to `bins`.

    Args:
        rng: The source of randomness.
        place: Rank of the image, from 0 (worst) to 1 (best).
        bins: Number of different votes.
        voters: Number of people.
    """
    mean = default_threshold(bins) + 0.4 * (bins - 1) * (place - (1 - PROFESSIONAL))
    weights = np.exp(-0.5 * ((np.arange(1, bins + 1) - mean) / (0.15 * (bins - 1))) ** 2)
    counts: list[int] = rng.multinomial(voters, weights / weights.sum()).tolist()
    return counts


def _shots(rng: np.random.Generator, pictures: int, side: int) -> list[tuple[Image, str, float]]:
    """Returns photographs with their subjects and ranks from 0 (worst) to 1 (best); longer sides are `side` pixels."""
    shots = []
    places = rng.permutation((np.arange(pictures) + 0.5) / pictures).tolist()
    for place, subject in zip(places, map(str, draw.dealt(rng, SUBJECTS, pictures)), strict=True):
        shorter = round(side * float(rng.choice([2 / 3, 3 / 4, 1])))
        size = (side, shorter) if rng.uniform() < 0.3 else (shorter, side)
        strength = (3 if place < 1 - PROFESSIONAL else 0.5) * (1 - place)
        flaws = (strength * rng.dirichlet([0.6] * len(FLAWS))).clip(0, 1)
        shots.append((shot(rng, size, subject, flaws), subject, place))
    return shots


def draw_aesthetics(root: Path, pictures: int = 80, size: int = 160, seed: int = 0) -> Path:
    """Draws a sample in both layouts of the aesthetics data module; see `draw.draw_once`.

    The folder itself has AVA's layout: `AVA.txt`, `tags.txt`, `images/<id>.jpg`, and every fifth id, by rank, in
    `aesthetics_image_lists/generic_test.jpgl`. `stars/` holds half as many images and a table of one to five stars,
    `labels.csv`. `album/` holds twelve images to predict, in two folders with the same file names. `size` is the longer
    side of all images in pixels.
    """
    draw.check_at_least(pictures=(pictures, 10), size=(size, 64))

    def fill(folder: Path) -> None:
        rng, lines, rows, ranked = np.random.default_rng(seed), [], [], []
        names = rng.choice(np.arange(1000, 960_000), pictures, replace=False).tolist()
        shots = zip(names, _shots(rng, pictures, size), strict=True)
        for number, (name, (image, subject, place)) in enumerate(shots, start=1):
            draw.write_picture(folder / "images" / f"{name}.jpg", image)
            votes, tags = votes_on(rng, place, 10, int(rng.integers(80, 350))), TAGS[subject] if number % 4 else (0, 0)
            ranked.append((place, name))
            lines.append((number, name, *votes, *tags, rng.integers(1, 1398)))
        (folder / "AVA.txt").write_text("".join(f"{' '.join(map(str, line))}\n" for line in lines))
        (folder / "tags.txt").write_text("".join(f"{number} {tag}\n" for number, tag in TAG_NAMES.items()))
        test = folder / "aesthetics_image_lists" / "generic_test.jpgl"
        test.parent.mkdir()
        test.write_text("".join(f"{name}\n" for name in sorted(name for _, name in sorted(ranked)[::5])))
        for number, (image, subject, place) in enumerate(_shots(rng, pictures // 2, size), start=1):
            name = f"{subject}_{number:03d}.{'jpg' if number % 4 else 'png'}"
            draw.write_picture(folder / "stars" / "images" / name, image)
            rows.append((name, *votes_on(rng, place, 5, int(rng.integers(20, 40)))))
        write_table(
            folder / "stars" / "labels.csv", ("image", *(f"count_{vote}" for vote in range(1, 6))), sorted(rows)
        )
        for number, (image, *_) in enumerate(_shots(rng, 12, size)):
            album = folder / "album" / ("birthday", "journey")[number % 2]
            draw.write_picture(album / f"IMG_{number // 2 + 1:04d}.jpg", image)

    return draw.draw_once(root, fill, sample="aesthetics", pictures=pictures, size=size, seed=seed)
