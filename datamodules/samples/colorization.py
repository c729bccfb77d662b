"""Draws the colorization sample: paintings by several artists, and old gray photographs of the same subjects."""

from pathlib import Path

import cv2
import numpy as np

from datamodules.samples import draw
from datamodules.samples.draw import Image, Size
from datamodules.samples.folder import dealt, sample, write_picture
from datamodules.samples.paintings import SUBJECTS, painting
from ops.atomic import write_table

NAMES = ("Aalto", "Bianchi", "Castellanos", "Dubois", "Eriksen", "Fischer", "Grønn", "Hartmann", "Ito", "Jansen")


def photograph(rng: np.random.Generator, image: Image) -> Image:
    """Returns an old photograph (H, W) of what an image (H, W, 3) shows: gray, with grain."""
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return draw.finished((gray + 5 * rng.standard_normal(gray.shape)) / 255)


def _shape(rng: np.random.Generator, side: int) -> Size:
    """Returns height and width: the longer side 75 to 100% of `side`, the other 60 to 100% of that."""
    longer = round(side * rng.uniform(0.75, 1))
    shorter = round(longer * rng.uniform(0.6, 1))
    return (longer, shorter) if rng.uniform() < 0.4 else (shorter, longer)


@sample(pictures=3, size=80)
def draw_colorization(root: Path, pictures: int = 60, size: int = 240, seed: int = 0) -> None:
    """Draws a sample in the layout of the colorization data module.

    `images/<artist>/` holds PNG and JPEG files of many shapes, `metadata.csv` their artists, titles and years; there
    are three to ten artists, each with their own brush and palette. `photographs/<year>/` holds six gray images.
    `size` is the longest side of all images in pixels.

    Returns the folder; `datamodules.samples.folder.sample` names the errors.
    """
    rng, rows, artists = np.random.default_rng(seed), [], max(3, min(len(NAMES), pictures // 6))
    styles = [(rng.uniform(0.002, 0.012), rng.uniform(-0.06, 0.06)) for _ in range(artists)]
    for index, subject in enumerate(map(str, dealt(rng, SUBJECTS, pictures))):
        artist, number = NAMES[index % artists], index // artists + 1
        name = f"{artist.lower().replace('ø', 'o')}/{subject}_{number:02d}{'.jpg' if index % 3 else '.png'}"
        image = painting(rng, _shape(rng, size), subject, *styles[index % artists])
        write_picture(root / "images" / name, image)
        rows.append((name, artist, f"{subject.replace('_', ' ').capitalize()} {number}", rng.integers(1650, 1920)))
    write_table(root / "metadata.csv", ("image", "artist", "title", "year"), sorted(rows))
    for year, subject in zip((1868, 1874, 1889, 1896, 1901, 1901), (*SUBJECTS, "landscape"), strict=True):
        image = photograph(rng, painting(rng, _shape(rng, size), subject, 0.001, 0.0))
        write_picture(root / "photographs" / str(year) / f"{subject}.jpg", image)
