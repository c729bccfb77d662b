"""Draws on images: overlays, legends and panels; arrays in, arrays or files out."""

import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from ops.atomic import replacing
from ops.extras import installed

Picture: TypeAlias = NDArray[np.uint8]  # (H, W, 3), RGB
Masks: TypeAlias = NDArray[np.bool_]  # (K, H, W)
# Okabe and Ito, "Color Universal Design" (2008), without black. Orange is first because a single class must stand out
# from a blue sky; dark blue is last because it is hard to see on the ocean.
PALETTE = (
    (230, 159, 0),
    (86, 180, 233),
    (204, 121, 167),
    (0, 158, 115),
    (240, 228, 66),
    (213, 94, 0),
    (0, 114, 178),
)
TALLEST = 1.4  # height of a cell of a panel, in widths
IGNORED = "not counted"  # what a legend calls ignored pixels
LEGEND = 240  # pixels across that show names of up to 30 letters
_INK, _GRAY, _PALE = (32, 32, 32), (150, 150, 150), (225, 225, 225)


def color_of(index: int) -> tuple[int, int, int]:
    """Returns the RGB color of a class by its position; colors repeat after seven."""
    return PALETTE[index % len(PALETTE)]


def overlay(image: Picture, masks: Masks, opacity: float = 0.35) -> Picture:
    """Returns the image with each class tinted and outlined in its color.

    Where classes overlap, the tint is the mean of their colors and coinciding outlines alternate like dashes, so that
    no class hides another. Pixels outside all masks keep their values.

    Args:
        image: The image (H, W, 3).
        masks: One mask per class, (K, H, W).
        opacity: Share of the tint in the mixed color, in [0, 1].

    Raises:
        ValueError: Masks and image differ in size.
    """
    if masks.ndim != 3 or masks.shape[1:] != image.shape[:2]:
        raise ValueError(
            f"expected masks of shape (K, {image.shape[0]}, {image.shape[1]}), got {masks.shape}; resize them to the "
            "image first"
        )
    drawn = image.copy()
    inside = masks.any(axis=0)
    if not inside.any():
        return drawn
    colors = np.array([color_of(k) for k in range(len(masks))], dtype=np.float32)
    covering = masks[:, inside]
    tint = covering.T.astype(np.float32) @ colors / covering.sum(axis=0)[:, None]
    drawn[inside] = np.rint((1 - opacity) * image[inside] + opacity * tint)

    thickness = max(1, round(min(image.shape[:2]) / 200))
    outlines = _outlines(masks, thickness)
    rows, columns = np.nonzero(outlines.any(axis=0))
    meeting = outlines[:, rows, columns]
    turn = (rows + columns) // (6 * thickness) % meeting.sum(axis=0)
    drawn[rows, columns] = colors[np.argmax(meeting & (np.cumsum(meeting, axis=0) - 1 == turn), axis=0)]
    return drawn


def hatched(image: Picture, ignored: NDArray[np.bool_]) -> Picture:
    """Returns the image (H, W, 3) with gray stripes over the ignored pixels (H, W)."""
    drawn, period = image.copy(), max(4, min(image.shape[:2]) // 40)
    rows, columns = np.nonzero(ignored)
    levels = np.where((rows + columns) // period % 2, _GRAY[0], _PALE[0])
    drawn[rows, columns] = levels[:, None]
    return drawn


def _outlines(masks: Masks, thickness: int) -> Masks:
    """Returns the inner border of every mask, also along the edge of the image, so that a full mask has one."""
    kernel = np.ones((3, 3), np.uint8)
    inner = [
        cv2.erode(mask.astype(np.uint8), kernel, iterations=thickness, borderType=cv2.BORDER_CONSTANT, borderValue=0)
        for mask in masks
    ]
    border: Masks = masks & ~np.array(inner, dtype=bool)
    return border


def scaled(image: Picture, width: int, height: int) -> Picture:
    """Returns the image resized to fit (height, width), keeping its aspect ratio."""
    factor = min(width / image.shape[1], height / image.shape[0])
    size = max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor))
    method = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, size, interpolation=method), dtype=np.uint8)


def scaled_masks(masks: Masks, width: int, height: int) -> Masks:
    """Returns masks (K, H, W) resized to (K, height, width) by nearest neighbor."""
    resized = [
        cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST_EXACT) for mask in masks
    ]
    return np.array(resized, dtype=bool).reshape(len(masks), height, width)


def legend(
    classes: Sequence[str],
    width: int,
    present: Sequence[bool] | None = None,
    size: int | None = None,
    ignoring: bool = False,
) -> Picture:
    """Returns a white strip (height, width, 3) with class colors and names, on as many lines as needed.

    Args:
        classes: The names, in the order of the masks.
        width: Width of the strip in pixels.
        present: Which classes occur in the image; the others are grayed out. None: all.
        size: Letter size in pixels; by default it follows the width.
        ignoring: Whether to explain the stripes of ignored pixels too.
    """
    size = size or letter_size(width)
    names = [*classes, IGNORED] if ignoring else list(classes)
    font, margin = font_of(size), size // 2
    places, x, y = [], margin, margin
    for name in names:
        text = shortened(name, font, width - 2 * margin - 2 * size)
        advance = round(1.5 * size + font.getlength(text))
        if x > margin and x + advance > width - margin:
            x, y = margin, y + round(1.6 * size)
        places.append((x, y, text))
        x += advance + size
    strip = Image.new("RGB", (width, y + size + margin), "white")
    draw = ImageDraw.Draw(strip)
    for k, (x, y, text) in enumerate(places):
        if k == len(classes):
            stripes = hatched(np.zeros((size + 1, size + 1, 3), np.uint8), np.ones((size + 1, size + 1), np.bool_))
            strip.paste(Image.fromarray(stripes), (x, y))
            draw.text((x + 1.5 * size, y + size / 2), text, fill=_INK, font=font, anchor="lm")
            continue
        shown = present is None or present[k]
        draw.rectangle((x, y, x + size, y + size), fill=color_of(k) if shown else _PALE)
        draw.text((x + 1.5 * size, y + size / 2), text, fill=_INK if shown else _GRAY, font=font, anchor="lm")
    return np.asarray(strip)


def labelled(image: Picture, classes: Sequence[str], present: Sequence[bool] | None = None) -> Picture:
    """Returns the image with a legend of its classes below.

    White beside a narrow image makes room for the longest name, up to `LEGEND` pixels.
    """
    height, width = image.shape[:2]
    size = letter_size(width)
    needed = max((math.ceil(font_of(size).getlength(printable(name))) + 3 * size for name in classes), default=0)
    full = np.full((height, max(width, min(needed, LEGEND)), 3), 255, np.uint8)
    full[:, :width] = image
    return np.vstack([full, legend(classes, full.shape[1], present, size)])


def panel(rows: Sequence[Sequence[Picture]], titles: Sequence[str], row_names: Sequence[str] | None = None) -> Picture:
    """Returns a grid of images with a title over each column and, if given, a name over each row.

    All columns are as wide as the widest image, and images are enlarged to that width, keeping their aspect ratio,
    unless that makes them higher than `TALLEST` widths. Rows are as high as their images.

    Raises:
        ValueError: A row does not have one image per title.
    """
    for number, row in enumerate(rows):
        if len(row) != len(titles):
            raise ValueError(f"expected {len(titles)} images in row {number}, one per title, got {len(row)}")
    width = max((image.shape[1] for row in rows for image in row), default=1)
    gap = max(4, width // 60)
    size = max(letter_size(width), min(48, len(titles) * (width + gap) // 60))  # legible when all columns are seen
    while size > letter_size(width) and max(font_of(size).getlength(printable(title)) for title in titles) > width:
        size -= 1
    font = font_of(size)
    band, caption = 2 * size, round(1.5 * size) if row_names else 0
    cells = [[scaled(image, width, round(TALLEST * width)) for image in row] for row in rows]
    heights = [max(image.shape[0] for image in row) for row in cells]
    total = band + sum(heights) + len(rows) * (caption + gap)
    grid = Image.new("RGB", (len(titles) * (width + gap) + gap, total), "white")
    draw = ImageDraw.Draw(grid)
    for column, title in enumerate(titles):
        x = gap + column * (width + gap)
        draw.text((x + width / 2, band / 2), shortened(title, font, width), fill=_INK, font=font, anchor="mm")
    y = band
    for number, row in enumerate(cells):
        if row_names:
            text = shortened(row_names[number], font, grid.width - 2 * gap)
            draw.text((gap, y + caption / 2), text, fill=_INK, font=font, anchor="lm")
        for column, image in enumerate(row):
            x = gap + column * (width + gap) + (width - image.shape[1]) // 2
            grid.paste(Image.fromarray(image), (x, y + caption + (heights[number] - image.shape[0]) // 2))
        y += caption + heights[number] + gap
    return np.asarray(grid)


def titled(image: Picture, title: str) -> Picture:
    """Returns the image with a title above."""
    size = min(48, max(14, image.shape[1] // 60))
    strip = Image.new("RGB", (image.shape[1], 2 * size), "white")
    text = shortened(title, font_of(size), image.shape[1] - size)
    ImageDraw.Draw(strip).text((size / 2, size), text, fill=_INK, font=font_of(size), anchor="lm")
    return np.vstack([np.asarray(strip), image])


def save_picture(picture: Picture, path: Path) -> None:
    """Writes an image atomically, as PNG or JPEG by its suffix; a PNG in color says that it is sRGB.

    Raises:
        ValueError: Another suffix.
    """
    if path.suffix.lower() not in {".png", ".jpg", ".jpeg"}:
        raise ValueError(f"expected a file ending in .png, .jpg or .jpeg, got {path}")
    tags = PngImagePlugin.PngInfo()
    if picture.ndim == 3:
        tags.add(b"sRGB", b"\0")  # perceptual intent, see the PNG specification
    with replacing(path) as temporary:
        Image.fromarray(picture).save(temporary, quality=95, pnginfo=tags)


def letter_size(width: int) -> int:
    """Returns the letter size in pixels that reads well next to an image of that width."""
    return min(48, max(12, width // 24))


@cache
def font_of(size: int) -> ImageFont.FreeTypeFont:
    """Returns Matplotlib's DejaVu Sans, without it Pillow's own font, which has no accented letters."""
    if not installed("matplotlib"):  # `belvedere.run` does without
        found = ImageFont.load_default(size)
        assert isinstance(found, ImageFont.FreeTypeFont)  # as Pillow's wheels have it
        return found
    import matplotlib

    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), size)


def printable(text: str) -> str:
    """Returns a text that can be drawn: line breaks become spaces, and what has no letter a question mark."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else " " if letter.isspace() else "\ufffd" for letter in text)


def shortened(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """Returns the printable text, cut off with an ellipsis if wider than `width` pixels."""
    text = printable(text)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
