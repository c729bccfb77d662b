"""Checks and describes a colorization dataset: sizes, colors, artists, and what training makes of images."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray
from PIL import ImageDraw, ImageFont

from datamodules.colorization import Checked, ColorizationDataModule
from datamodules.decoded.letterboxed import picture_problems
from datamodules.describe.study import (
    BINS,
    Chart,
    Image,
    Panel,
    Study,
    bars,
    by_split,
    counts,
    histogram,
    size_range,
    split_column,
    spread,
    summary,
    without_masks,
)
from datamodules.read.names import located
from datamodules.read.pictures import channels_first
from datamodules.read.works import Work
from ops.color.coloring import has_colors
from ops.color.lab import in_gamut, lab_to_rgb, rgb_to_lab
from ops.color.quality import colorfulness
from ops.errors import collected
from ops.pictures import box, valid_pixels

if TYPE_CHECKING:
    import pandas as pd

ALTERED = 3  # images shown as training alters them, 4 times each
STEP, STEPS = 2, 110  # width in CIE units and number of the bins of a and b, from -110 to 110
SHOWN_LIGHTNESS = 60.0  # of the colors that stand for the bins
ENLARGED = 4  # pixels per bin
PAPER, AXIS, LEFT_OUT = 255, 150, 200  # gray levels
MARGIN, LETTERS = 84, 22  # pixels for the values on the axes, and the size of their letters
INK, UPWARD = (32, 32, 32), "b: blue to yellow"


class Colors(NamedTuple):
    """The colors of an image, in CIE units.

    Attributes:
        colorfulness: Of Hasler and Süsstrunk (2003).
        means: L, a and b, and chroma, the distance from gray.
        pairs: Number of pixels in bins of a (rows) and b (columns), (110, 110).
        lightness: Number of pixels in 20 bins of L.
        chroma: Number of pixels in 20 bins of chroma up to 100; the last one counts all above.
        grey: Whether there are no colors to learn, see `ops.color.coloring.has_colors`.
    """

    colorfulness: float
    means: tuple[float, ...]
    pairs: NDArray[np.int64]
    lightness: NDArray[np.int64]
    chroma: NDArray[np.int64]
    grey: bool


def problems(data: ColorizationDataModule) -> list[str]:
    """Returns everything that is wrong with a dataset, one sentence each that names the file."""
    found = collected([data.checked])
    if data.pictures is not None:
        listed: list[tuple[Path, Sequence[str]]] = []
        found += collected([lambda: listed.append(data.predicted_names())])
        if data.unreadable == "refuse":
            found += picture_problems([located(folder, name) for folder, names in listed for name in names])
    return found


def study(data: ColorizationDataModule) -> Study:
    """Returns sizes, colors, artists and splits, the density of a and b, and what training makes of images.

    Colors are those of the letterboxed images, without the white around them.

    Raises:
        DataError: The dataset has problems; the message lists all of them.
    """
    import pandas as pd

    found = data.checked()
    row_of = {name: row for row, name in enumerate(found.data.names) if name not in found.data.problems}
    colors = {name: colors_of(_image(found, row)) for name, row in row_of.items()}
    table = _pictures(found, row_of, colors)
    tables = {"summary": summary("split", by_split(table), _row, 2), "pictures": table}
    if found.works:
        tables["artists"] = _artists(table)
    if found.data.problems:
        causes = [" ".join(each) for each in found.data.problems.values()]
        tables["skipped"] = pd.DataFrame({"name": list(found.data.problems), "problem": causes})
    by_color = table.sort_values("colorfulness", kind="stable")
    return Study(
        tables=tables,
        charts=_charts(table, colors, bool(found.works)),
        examples=[
            without_masks(f"{value:.0f}: {name}", _image(found, row_of[name]))
            for name, value in spread(list(zip(by_color["name"], by_color["colorfulness"], strict=True)))
        ],
        panels={"colors": _color_panel(table, colors), "altered": _altered(data, found, table, row_of)},
    )


def _image(found: Checked, row: int) -> Image:
    """Returns a letterboxed image (h, w, 3) without the white around it."""
    top, left, height, width = box(found.data.size(row), found.data.side)
    return np.ascontiguousarray(found.data.picture(row)[top : top + height, left : left + width])


def colors_of(picture: Image) -> Colors:
    """Returns the colors of an image (h, w, 3)."""
    image = channels_first(picture)[None].float() / 255
    lightness, a, b = rgb_to_lab(image)[0].flatten(1).numpy()
    chroma = np.hypot(a, b)
    edge = STEP * STEPS / 2
    return Colors(
        colorfulness=float(colorfulness(image)[0]),
        means=tuple(float(each.mean()) for each in (lightness, a, b, chroma)),
        pairs=np.histogram2d(a, b, STEPS, [[-edge, edge]] * 2)[0].astype(np.int64),
        lightness=np.histogram(lightness.clip(0, 100), BINS, (0, 100))[0],
        chroma=np.histogram(chroma.clip(0, 99.9), BINS, (0, 100))[0],
        grey=not has_colors(picture),
    )


def _pictures(found: Checked, row_of: dict[str, int], colors: dict[str, Colors]) -> "pd.DataFrame":
    """Returns one row per image; the split is empty for images that `splits.csv` does not name."""
    import pandas as pd

    sizes = np.array([found.data.size(row) for row in row_of.values()])
    works = [found.works.get(name, Work()) for name in row_of]
    means = np.array([colors[name].means for name in row_of])
    return pd.DataFrame(
        {
            "name": list(row_of),
            **{column: [getattr(work, column) for work in works] for column in ("artist", "title", "year")},
            "split": split_column(found.splits, list(row_of)),
            "height": sizes[:, 0],
            "width": sizes[:, 1],
            "aspect": (sizes[:, 1] / sizes[:, 0]).round(3),
            "colorfulness": [round(colors[name].colorfulness, 2) for name in row_of],
            **{column: means[:, place].round(2) for place, column in enumerate(("L", "a", "b", "chroma"))},
            "grey": [colors[name].grey for name in row_of],
        }
    )


def _row(group: "pd.DataFrame") -> dict[str, Any]:
    """Returns the summary of a split."""
    return {
        "pictures": len(group),
        "artists": group["artist"][group["artist"] != ""].nunique(),
        "grey": int(group["grey"].sum()),
        "colorfulness": group["colorfulness"].mean(),
        **{f"mean_{column}": group[column].mean() for column in ("a", "b", "chroma")},
        **size_range(group),
    }


def _artists(table: "pd.DataFrame") -> "pd.DataFrame":
    """Returns one row per artist, those with the most images first."""
    of = table[table["artist"] != ""].groupby("artist")
    artists = of.agg(pictures=("name", "size"), split=("split", "first"), colorfulness=("colorfulness", "mean"))
    return artists.round(2).sort_values("pictures", ascending=False, kind="stable").reset_index()


def _charts(table: "pd.DataFrame", colors: dict[str, Colors], artists: bool) -> dict[str, Chart]:
    def shares(field: str, axis: str) -> Chart:
        pixels = np.sum([getattr(each, field) for each in colors.values()], axis=0)
        return bars(pixels / pixels.sum(), range(0, 101, 5), axis, "share of the pixels")

    longer = table[["height", "width"]].max(axis=1)
    highest = float(max(100, np.ceil(longer.max() / 100) * 100))
    charts = {
        "Images of each split": counts(table["split"], "in none"),
        "Shapes": histogram(
            np.log2(table["aspect"]).clip(-2, 2), (-2, 2), "log₂(width / height): 0 square, 1 twice as wide"
        ),
        "Longer sides": histogram(longer, (0, highest), "pixels"),
        "How colorful images are": histogram(
            table["colorfulness"].clip(0, 120), (0, 120), "colorfulness (Hasler and Süsstrunk); 0 gray"
        ),
        "Lightness of the pixels": shares("lightness", "lightness L: 0 black, 100 white"),
        "Color strength of the pixels": shares("chroma", "distance from gray (chroma); 95: and above"),
    }
    if artists:
        named = table["artist"][table["artist"] != ""].value_counts()
        charts["Images per artist"] = named.value_counts().sort_index().rename("artists").rename_axis("images")
    return charts


def _color_panel(table: "pd.DataFrame", colors: dict[str, Colors]) -> Panel:
    """Returns the density of a and b, of all images and of each split (Zhang et al. 2016, figure 3b)."""
    *splits, everything = by_split(table)
    pairs = {
        part: np.sum([colors[name].pairs for name in group["name"]], axis=0)
        for part, group in (everything, *splits)
        if len(group)
    }
    return Panel([*pairs], [[with_axes(density(each)) for each in pairs.values()]])


def with_axes(picture: Image) -> Image:
    """Returns a density with white `MARGIN`s to the left and below, and there the values of a and b."""
    side = len(picture)
    framed = np.full((side + MARGIN, side + MARGIN, 3), PAPER, np.uint8)
    framed[:side, MARGIN:] = picture
    canvas = PIL.Image.fromarray(framed)
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(LETTERS)
    for value in (-100, -50, 0, 50, 100):
        place = round((value / STEP + STEPS / 2) * ENLARGED)
        draw.line((MARGIN + place, side, MARGIN + place, side + 5), fill=(AXIS,) * 3)
        draw.line((MARGIN - 6, side - 1 - place, MARGIN - 1, side - 1 - place), fill=(AXIS,) * 3)
        draw.text((MARGIN + place, side + 7), str(value), fill=INK, font=font, anchor="mt")
        draw.text((MARGIN - 8, side - 1 - place), str(value), fill=INK, font=font, anchor="rm")
    draw.text((MARGIN + side / 2, side + MARGIN - 4), "a: green to red", fill=INK, font=font, anchor="mb")
    length = math.ceil(font.getlength(UPWARD))
    label = PIL.Image.new("RGB", (length, LETTERS + 6), "white")
    ImageDraw.Draw(label).text((length / 2, LETTERS / 2 + 3), UPWARD, fill=INK, font=font, anchor="mm")
    canvas.paste(label.transpose(PIL.Image.Transpose.ROTATE_90), (0, (side - length) // 2))
    return np.asarray(canvas)


def density(pairs: NDArray[np.int64]) -> Image:
    """Returns an image (H, W, 3) of the number of pixels in bins of a (rows) and b (columns).

    Each bin has its own color, stronger with the logarithm of its count. a grows to the right, b upward; gray lines
    mark 0.
    """
    middles = (torch.arange(STEPS) - (STEPS - 1) / 2) * STEP
    a, b = torch.meshgrid(middles, middles, indexing="ij")
    lab = torch.stack([torch.full_like(a, SHOWN_LIGHTNESS), a, b])[None]
    own_colors = 255 * lab_to_rgb(in_gamut(lab))[0].permute(1, 2, 0).numpy()
    strength = np.log1p(pairs) / max(1e-9, np.log1p(pairs.max()))
    strength[pairs > 0] = 0.3 + 0.7 * strength[pairs > 0]  # a single pixel is visible
    paper = np.full((STEPS, STEPS, 3), PAPER, np.float64)
    image = np.rot90(paper + strength[..., None] * (own_colors - paper))
    image = image.repeat(ENLARGED, axis=0).repeat(ENLARGED, axis=1)
    middle = STEPS * ENLARGED // 2
    image[middle] = image[:, middle] = AXIS
    result: Image = image.round().astype(np.uint8)
    return result


def _altered(data: ColorizationDataModule, found: Checked, table: "pd.DataFrame", row_of: dict[str, int]) -> Panel:
    """Returns a few training images as they are and as training alters them; ignored pixels are gray."""
    names = table["name"][table["split"] == "train"].iloc[:ALTERED]
    lines = []
    for row in (row_of[name] for name in names):
        image = channels_first(found.data.picture(row))[None].float() / 255
        valid = valid_pixels(torch.tensor([box(found.data.size(row), found.data.side)]), found.data.side)
        seeds = 4 * row + torch.arange(4)
        moved, kept = data.altered(image.expand(4, -1, -1, -1), valid.expand(4, -1, -1, -1), seeds)
        shown = torch.where(torch.cat([valid, kept]), 255 * torch.cat([image, moved]), LEFT_OUT)
        lines.append([each.round().byte().permute(1, 2, 0).numpy() for each in shown])
    return Panel(["letterboxed", *["in training"] * 4], lines, names.tolist())
