"""Draws the page of all predicted images: one HTML file with small images, which any browser sorts and filters."""

from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from drawing.page import Table, template
from drawing.pictures import Picture, scaled
from ops.atomic import replacing

QUALITY = 85  # of JPEGs


class Card(NamedTuple):
    """An image on the page.

    Attributes:
        name: Its name.
        note: Words below it.
        link: Address of the full image, relative to the page; "" for none.
        values: Numbers by name, such as its score.
        jpeg: The image as a JPEG file.
    """

    name: str
    note: str
    link: str
    values: Mapping[str, float]
    jpeg: bytes


def jpeg_of(image: Picture, side: int) -> bytes:
    """Encodes an image (H, W, 3) as JPEG, its longer side reduced to at most `side` pixels."""
    return encoded(image if max(image.shape[:2]) <= side else scaled(image, side, side))


def encoded(image: Picture, quality: int = QUALITY) -> bytes:
    """Encodes an image (H, W, 3) as JPEG."""
    buffer = BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def write_overview(
    path: Path,
    title: str,
    cards: Iterable[Card],
    count: int,
    values: Mapping[str, str],
    metrics: Table | None = None,
    notes: Sequence[str] = (),
) -> None:
    """Writes the page, one image at a time, so that memory does not grow.

    It loads no other file. Without scripts it shows the images in the order given.

    Args:
        path: The HTML file.
        title: Its heading.
        cards: The images.
        count: How many images were predicted.
        values: What each value means, by name; the page sorts by each, the first to begin with.
        metrics: Metrics of the run's test images.
        notes: Paragraphs at the end.
    """
    parts = template("overview.html").stream(
        heading=title, cards=cards, count=count, values=values, metrics=metrics, notes=notes
    )
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", errors="replace") as page:
        page.writelines(parts)
