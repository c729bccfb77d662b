"""Draws a contact sheet of ranked images."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw

from drawing.pictures import Picture, font_of, scaled, shortened

CELL = 200  # pixels of the longer side of an image on the sheet
GAP, HEADING, CAPTION = 12, 44, 66  # pixels between images, above all of them, and below each row
_INK, _GRAY, _PAPER, _BAR, _EMPTY = (32, 32, 32), (110, 110, 110), (255, 255, 255), (0, 114, 178), (225, 225, 225)


class Shown(NamedTuple):
    """An image on a contact sheet.

    Attributes:
        rank: Its rank, from 1.
        name: Its name.
        share: Length of the bar below it, in [0, 1].
        note: Text below it, such as its scores.
        jpeg: The image as a JPEG file.
    """

    rank: int
    name: str
    share: float
    note: str
    jpeg: bytes


def drawn_sheet(title: str, shown: Sequence[Shown], columns: int = 8) -> Picture:
    """Returns an image (H, W, 3) of all images, row by row, with rank, name, bar and note below each.

    Args:
        title: Heading.
        shown: The images; small ones are enlarged to fill a cell, keeping their aspect ratio.
        columns: Maximum number of images per row.
    """
    pitch, large = CELL + GAP, font_of(20)
    images = [Image.fromarray(scaled(_decoded(each.jpeg), CELL, CELL)) for each in shown]
    firsts = range(0, len(shown), columns)
    heights = [max(image.height for image in images[first : first + columns]) for first in firsts]
    # the title may be wider than a single image
    width = GAP + max(min(columns, len(shown)) * pitch, math.ceil(large.getlength(title)) + GAP)
    sheet = Image.new("RGB", (width, HEADING + sum(height + CAPTION for height in heights)), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP, HEADING / 2), title, fill=_INK, font=large, anchor="lm")
    bottom = HEADING
    for first, height in zip(firsts, heights, strict=True):
        bottom += height
        for place, (each, image) in enumerate(zip(shown[first:], images[first : first + columns], strict=False)):
            left = GAP + place * pitch
            sheet.paste(image, (left + (CELL - image.width) // 2, bottom - image.height))
            _draw_caption(draw, left, bottom + 5, each)
        bottom += CAPTION
    return np.asarray(sheet)


def _draw_caption(draw: ImageDraw.ImageDraw, left: int, top: int, shown: Shown) -> None:
    draw.rectangle((left, top, left + CELL - 1, top + 3), fill=_EMPTY)
    filled = round(shown.share * CELL)
    if filled:
        draw.rectangle((left, top, left + filled - 1, top + 3), fill=_BAR)
    lines = ((f"{shown.rank}  {shown.name}", 14, _INK, 8), (shown.note, 12, _GRAY, 26))
    for text, size, color, down in lines:
        draw.text((left, top + down), shortened(text, font_of(size), CELL), fill=color, font=font_of(size))


def _decoded(jpeg: bytes) -> Picture:
    values = np.frombuffer(jpeg, np.uint8)
    return np.ascontiguousarray(np.asarray(cv2.imdecode(values, cv2.IMREAD_COLOR), np.uint8)[..., ::-1])
