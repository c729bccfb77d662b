"""Draws photographs that are shot well or badly, and the votes on them, as AVA and as a table of stars lay them out.

What makes a snapshot can be seen: it is blurred, pale, noisy, too dark or too bright, tilted, or a finger is before the
lens. The more of it there is, the fewer points people give.
"""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from datamodules.samples.clouds import Field
from datamodules.samples.colorization import SUBJECTS, Picture, painting
from datamodules.samples.files import Arguments, draw_once, write_picture, write_table

FLAWS = ("blur", "paleness", "exposure", "tilt", "finger")
PROFESSIONAL = 0.7
"""Share of the pictures that are to have a mean vote above the middle: AVA's, where the middle is 5."""
TAGS = {"house": (20,), "landscape": (14, 15), "portrait": (17,), "seascape": (35, 28), "still_life": (18,)}
TAG_NAMES = {28: "Water", 20: "Architecture", 14: "Landscape", 15: "Nature", 17: "Portraiture", 35: "Seascapes",
             18: "Still Life"}  # fmt: skip
"""AVA's semantic tags of what the pictures show."""


def shot(rng: np.random.Generator, size: tuple[int, int], subject: str, flaws: npt.NDArray[np.float64]) -> Picture:
    """Take a photograph (H, W, 3).

    Args:
        rng: Decides everything that the other arguments leave open.
        size: Height and width in pixels.
        subject: One of `SUBJECTS`.
        flaws: How strong each of `FLAWS` is, in [0, 1].
    """
    blur, paleness, exposure, tilt, finger = flaws.tolist()
    height, width = size
    canvas = painting(rng, size, subject, 0.002, 0.0).astype(np.float32) / np.float32(255)
    canvas = _turned(canvas, float(rng.choice([-14, 14])) * tilt)
    if finger > 0.15:
        _put_finger(rng, canvas, finger)
    canvas = cv2.GaussianBlur(canvas, (0, 0), 0.0005 * height + 0.03 * height * blur, borderType=cv2.BORDER_REFLECT)
    grey = canvas.mean(axis=2, keepdims=True)
    canvas = grey + (1.25 - 1.1 * paleness) * (canvas - grey)  # colours
    canvas = 0.5 + (1.1 - 0.6 * paleness) * (canvas - 0.5)  # contrast
    canvas = canvas.clip(0, 1) ** np.float32(2.0 ** (float(rng.choice([-1.2, 1.8])) * exposure))
    canvas = canvas + 0.07 * exposure * rng.standard_normal(canvas.shape, np.float32)
    y, x = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)
    vignette = 1 - 0.12 * max(0.0, 1 - flaws.sum()) * (y**2 + x**2)  # lenses of those who take their time
    result: Picture = (255 * canvas * vignette[..., None]).clip(0, 255).round().astype(np.uint8)
    return result


def _turned(canvas: Field, degrees: float) -> Field:
    """A picture (H, W, 3) turned about its middle and enlarged, so that none of its corners is empty."""
    height, width = canvas.shape[:2]
    angle = abs(np.deg2rad(degrees))
    factor = float(np.cos(angle) + np.sin(angle) * max(width / height, height / width))
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, factor)
    turned: Field = cv2.warpAffine(canvas, matrix, (width, height), borderMode=cv2.BORDER_REFLECT)
    return turned


def _put_finger(rng: np.random.Generator, canvas: Field, strength: float) -> None:
    """Lay a finger over the edge of a picture (H, W, 3), the farther the stronger."""
    height, width = canvas.shape[:2]
    y, x = np.mgrid[:height, :width].astype(np.float32) / np.float32(height)
    side = width / height * float(rng.integers(2))
    down = rng.uniform(0.1, 0.9)
    distance = np.hypot((x - side) / (0.15 + 0.45 * strength), (y - down - 0.2 * (x - side)) / (0.1 + 0.12 * strength))
    cover = (6 * (1 - distance)).clip(0, 1)[..., None]
    skin = np.array([0.72, 0.42, 0.33], np.float32) * (1.1 - 0.5 * distance.clip(0, 1)[..., None])
    canvas += cover * (skin - canvas)


def votes_on(rng: np.random.Generator, place: float, bins: int, voters: int) -> npt.NDArray[np.int64]:
    """Counts of the votes 1 to `bins` on a picture, (bins,).

    Args:
        rng: Decides who votes what.
        place: Of the picture among all, from the worst, 0, to the best, 1.
        bins: How many votes there are to choose from.
        voters: How many people vote.
    """
    middle = 5.0 if bins == 10 else (1 + bins) / 2
    mean = middle + 0.4 * (bins - 1) * (place - (1 - PROFESSIONAL))
    scale = np.arange(1, bins + 1)
    weights = np.exp(-0.5 * ((scale - mean) / (0.15 * (bins - 1))) ** 2)
    return rng.multinomial(voters, weights / weights.sum())


def _taken(rng: np.random.Generator, pictures: int, side: int) -> list[tuple[Picture, str, float]]:
    """Photographs, what they show, and their places among all, dealt so that few pictures have both kinds too."""
    places = rng.permutation((np.arange(pictures) + 0.5) / pictures)
    subjects = rng.permutation(np.resize(sorted(SUBJECTS), pictures)).tolist()
    taken = []
    for place, subject in zip(places.tolist(), subjects, strict=True):
        shares = rng.dirichlet([0.6] * len(FLAWS))
        flaws = (2.2 * (1 - place) * shares).clip(0, 1) if place < 1 - PROFESSIONAL else 0.7 * (1 - place) * shares
        taken.append((shot(rng, _shape(rng, side), subject, flaws), subject, place))
    return taken


def _shape(rng: np.random.Generator, side: int) -> tuple[int, int]:
    """Height and width: the longer side is `side`, the other two thirds, three quarters or all of it."""
    shorter = round(side * float(rng.choice([2 / 3, 3 / 4, 1])))
    return (side, shorter) if rng.uniform() < 0.3 else (shorter, side)


def draw_ava(folder: Path, pictures: int, side: int, rng: np.random.Generator) -> None:
    """Write photographs and votes from 1 to 10 on them as AVA is published.

    `AVA.txt` has a line a picture, `images/<id>.jpg`, `tags.txt` names its tags, and
    `aesthetics_image_lists/generic_test.jpgl` holds a fifth of the ids.

    Args:
        folder: An empty folder.
        pictures: How many.
        side: The longer side of all pictures in pixels.
        rng: Decides everything else.
    """
    (folder / "images").mkdir()
    names = rng.choice(np.arange(1000, 960_000), pictures, replace=False).tolist()
    lines = []
    for number, (name, (picture, subject, place)) in enumerate(
        zip(names, _taken(rng, pictures, side), strict=True), start=1
    ):
        write_picture(folder / "images" / f"{name}.jpg", picture)
        votes = votes_on(rng, place, 10, int(rng.integers(80, 350)))
        tags = (*TAGS[subject], 0, 0)[:2] if number % 4 else (0, 0)
        lines.append(" ".join(map(str, (number, name, *votes.tolist(), *tags, rng.integers(1, 1398)))))
    (folder / "AVA.txt").write_text("\n".join(lines) + "\n")
    (folder / "tags.txt").write_text("".join(f"{number} {tag}\n" for number, tag in TAG_NAMES.items()))
    lists = folder / "aesthetics_image_lists"
    lists.mkdir()
    test = sorted(rng.choice(names, max(1, pictures // 5), replace=False).tolist())
    (lists / "generic_test.jpgl").write_text("\n".join(map(str, test)) + "\n")


def draw_stars(folder: Path, pictures: int, side: int, rng: np.random.Generator) -> None:
    """Write photographs, and one to five stars that people gave them: `images/` and `labels.csv`.

    Args:
        folder: An empty folder.
        pictures: How many.
        side: The longer side of all pictures in pixels.
        rng: Decides everything else.
    """
    (folder / "images").mkdir()
    rows: list[tuple[Any, ...]] = []
    for number, (picture, subject, place) in enumerate(_taken(rng, pictures, side), start=1):
        name = f"{subject}_{number:03d}.{'png' if number % 4 == 0 else 'jpg'}"
        write_picture(folder / "images" / name, picture)
        rows.append((name, *votes_on(rng, place, 5, int(rng.integers(20, 40))).tolist()))
    write_table(folder / "labels.csv", ("image", *(f"count_{vote}" for vote in range(1, 6))), sorted(rows))


def draw_aesthetics(root: Path, pictures: int = 80, size: int = 160, seed: int = 0) -> Path:
    """Draw samples of photographs with votes, in both layouts that the aesthetics data module reads.

    The folder itself is laid out as AVA is; `stars/` holds half as many pictures, and a table of their stars;
    `album/` two folders of a few without votes, to be judged, whose names are the same. The same arguments give the
    same bytes.

    Args:
        root: The folder to draw: absent, empty, or drawn before from the same arguments.
        pictures: How many photographs there are in `images/`.
        size: The longer side of all pictures in pixels.
        seed: Decides everything else.

    Returns:
        `root`.

    Raises:
        ValueError: `root` has other content, there are too few pictures, or they are under 64 pixels.
    """
    if pictures < 10 or size < 64:
        raise ValueError(f"{pictures=}, {size=}: 10 pictures or more, and 64 pixels or more, were wanted.")

    def draw(folder: Path) -> None:
        rng = np.random.default_rng(seed)
        draw_ava(folder, pictures, size, rng)
        (folder / "stars").mkdir()
        draw_stars(folder / "stars", pictures // 2, size, rng)
        for number, (picture, *_) in enumerate(_taken(rng, 12, size)):
            path = folder / "album" / ("birthday", "journey")[number % 2] / f"IMG_{number // 2 + 1:04d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_picture(path, picture)

    arguments: Arguments = {"sample": "aesthetics", "pictures": pictures, "size": size, "seed": seed}
    return draw_once(root, arguments, draw)
