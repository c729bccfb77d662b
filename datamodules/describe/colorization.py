"""What `belvedere describe` says of pictures with colours: all that is wrong with them, or tables and pictures."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from datamodules.base import SPLITS
from datamodules.colorization import Checked, ColorizationDataModule
from datamodules.decoded.letterboxed import picture_problems
from datamodules.describe.study import Panel, Study
from datamodules.read.pictures import channels_first
from datamodules.read.works import Work
from ops.color import in_gamut, lab_to_rgb, rgb_to_lab
from ops.color_quality import colorfulness
from ops.coloring import has_colors
from ops.errors import collected
from ops.pictures import box, valid_pixels

if TYPE_CHECKING:
    import pandas as pd

EXAMPLES = 8
ALTERED = 3  # pictures that are shown as training alters them, 4 times each
BIN, BINS = 2, 110  # width in CIE units and number of the bins of a and b, from -110 to 110
SHOWN_LIGHTNESS = 60.0  # of the colours that stand for the bins
ENLARGED = 4  # pixels of a bin
PAPER, AXIS, LEFT_OUT = 255, 150, 200  # greys


class Colors(NamedTuple):
    """The colours of a picture, in CIE units.

    Attributes:
        colorfulness: Of Hasler and Süsstrunk (2003).
        means: L, a and b, and chroma, the distance from grey.
        pairs: Pixels in bins of a (rows) and b (columns), (110, 110).
        lightness: Pixels in 20 bins of L.
        chroma: Pixels in 20 bins of chroma up to 100, the last of which has all above.
        grey: Whether it has no colours to learn, see `ops.coloring.has_colors`.
    """

    colorfulness: float
    means: tuple[float, ...]
    pairs: NDArray[np.int64]
    lightness: NDArray[np.int64]
    chroma: NDArray[np.int64]
    grey: bool


def problems(data: ColorizationDataModule) -> list[str]:
    """Everything that is wrong with a data set, a sentence each that names the file and what was wanted."""
    checks: list[Callable[[], object]] = [data.checked]
    found = collected(checks)
    if data.pictures is not None:
        names: list[Any] = []
        found += collected([lambda: names.extend(data.predicted_names())])
        if names and data.unreadable == "refuse":
            found += picture_problems([names[0] / name for name in names[1]])
    return found


def study(data: ColorizationDataModule) -> Study:
    """Sizes, colours, artists and splits; where colours lie in a and b; and what training makes of pictures.

    Colours are those of the letterboxed pictures, without the white around them.

    Raises:
        DataError: The data are not as wanted; all problems are listed.
    """
    found = data.checked()
    row_of = {name: row for row, name in enumerate(found.data.names) if name not in found.data.problems}
    colors = {name: colors_of(own(found, row)) for name, row in row_of.items()}
    table = _pictures(found, row_of, colors)
    tables = {"summary": _summary(table), "pictures": table}
    if found.works:
        tables["artists"] = _artists(table)
    if found.data.problems:
        import pandas as pd

        tables["skipped"] = pd.DataFrame(
            {"name": list(found.data.problems), "problem": [" ".join(each) for each in found.data.problems.values()]}
        )
    return Study(
        tables=tables,
        charts=_charts(table, colors, bool(found.works)),
        examples=_examples(found, table, row_of),
        panels={"colors": _color_panel(table, colors), "altered": _altered(data, found, table, row_of)},
    )


def own(found: Checked, row: int) -> NDArray[np.uint8]:
    """A letterboxed picture (h, w, 3) without the white around it."""
    top, left, height, width = box(found.data.size(row), found.data.side)
    return np.ascontiguousarray(found.data.picture(row)[top : top + height, left : left + width])


def colors_of(picture: NDArray[np.uint8]) -> Colors:
    """The colours of a picture (h, w, 3)."""
    image = channels_first(picture)[None].float() / 255
    lightness, a, b = rgb_to_lab(image)[0].flatten(1).numpy()
    chroma = np.hypot(a, b)
    edge = BIN * BINS / 2
    return Colors(
        colorfulness=float(colorfulness(image)[0]),
        means=tuple(float(each.mean()) for each in (lightness, a, b, chroma)),
        pairs=np.histogram2d(a, b, BINS, [[-edge, edge]] * 2)[0].astype(np.int64),
        lightness=np.histogram(lightness.clip(0, 100), 20, (0, 100))[0],
        chroma=np.histogram(chroma.clip(0, 99.9), 20, (0, 100))[0],
        grey=not has_colors(picture),
    )


def _pictures(found: Checked, row_of: dict[str, int], colors: dict[str, Colors]) -> "pd.DataFrame":
    """One row a picture; the split of one that `splits.csv` leaves out is empty."""
    import pandas as pd

    split_of = {name: split for split, names in found.splits.items() for name in names}
    sizes = np.array([found.data.size(row) for row in row_of.values()])
    works = [found.works.get(name, Work()) for name in row_of]
    means = np.array([colors[name].means for name in row_of])
    return pd.DataFrame(
        {
            "name": list(row_of),
            **{column: [getattr(work, column) for work in works] for column in ("artist", "title", "year")},
            "split": [split_of.get(name, "") for name in row_of],
            "height": sizes[:, 0],
            "width": sizes[:, 1],
            "aspect": (sizes[:, 1] / sizes[:, 0]).round(3),
            "colorfulness": [round(colors[name].colorfulness, 2) for name in row_of],
            **{column: means[:, place].round(2) for place, column in enumerate(("L", "a", "b", "chroma"))},
            "grey": [colors[name].grey for name in row_of],
        }
    )


def _summary(table: "pd.DataFrame") -> "pd.DataFrame":
    """One row a split, then one of all pictures."""
    import pandas as pd

    rows = []
    for name, group in [*((split, table[table["split"] == split]) for split in SPLITS), ("all", table)]:
        areas = (group["height"] * group["width"]).sort_values(kind="stable").index
        sizes = group["width"].astype(str) + " x " + group["height"].astype(str)
        rows.append(
            {
                "split": name,
                "pictures": len(group),
                "artists": group["artist"][group["artist"] != ""].nunique(),
                "grey": int(group["grey"].sum()),
                "colorfulness": group["colorfulness"].mean(),
                **{f"mean_{column}": group[column].mean() for column in ("a", "b", "chroma")},
                "smallest_size": sizes[areas[0]] if len(group) else "",
                "largest_size": sizes[areas[-1]] if len(group) else "",
            }
        )
    return pd.DataFrame(rows).round(2)


def _artists(table: "pd.DataFrame") -> "pd.DataFrame":
    """One row an artist, the most pictures first."""
    of = table[table["artist"] != ""].groupby("artist")
    artists = of.agg(pictures=("name", "size"), split=("split", "first"), colorfulness=("colorfulness", "mean"))
    return artists.round(2).sort_values("pictures", ascending=False, kind="stable").reset_index()


def _charts(table: "pd.DataFrame", colors: dict[str, Colors], artists: bool) -> "dict[str, pd.Series[Any]]":
    import pandas as pd

    def counted(title: str, values: "pd.Series[Any]", low: float, high: float) -> "pd.Series[Any]":
        counts, edges = np.histogram(values.clip(low, high), 20, (low, high))
        return pd.Series(counts, pd.IntervalIndex.from_breaks(edges.round(4), name=title), name="pictures")

    def shares(title: str, field: str) -> "pd.Series[Any]":
        pixels = np.sum([getattr(each, field) for each in colors.values()], axis=0)
        index = pd.IntervalIndex.from_breaks(range(0, 101, 5), name=title)
        return pd.Series(pixels / pixels.sum(), index, name="share of the pixels")

    longer = table[["height", "width"]].max(axis=1)
    charts = {
        "Pictures of each split": table["split"].replace("", "not named").value_counts().rename("pictures"),
        "Aspect ratios": counted("width : height (log₂)", np.log2(table["aspect"]), -2, 2),
        "Longer sides": counted("pixels", longer, 0, float(max(100, np.ceil(longer.max() / 100) * 100))),
        "Colorfulness": counted("Hasler and Süsstrunk 2003", table["colorfulness"], 0, 120),
        "Lightness": shares("L", "lightness"),
        "Chroma": shares("distance from grey, CIE units; 95: and above", "chroma"),
    }
    if artists:
        named = table["artist"][table["artist"] != ""].value_counts()
        charts["Pictures of an artist"] = named.value_counts().sort_index().rename("artists").rename_axis("pictures")
    return charts


def _examples(
    found: Checked, table: "pd.DataFrame", row_of: dict[str, int]
) -> list[tuple[str, NDArray[np.uint8], NDArray[np.bool_]]]:
    """Pictures from the least to the most colourful one."""
    ordered = table.sort_values("colorfulness", kind="stable")
    chosen = np.unique(np.linspace(0, len(ordered) - 1, EXAMPLES).round().astype(int)).tolist()
    pictures = [own(found, row_of[name]) for name in ordered["name"].iloc[chosen]]
    titles = [f"{each.colorfulness:.0f}: {each.name}" for each in ordered.iloc[chosen].itertuples()]
    return [
        (title, picture, np.zeros((0, *picture.shape[:2]), np.bool_))
        for title, picture in zip(titles, pictures, strict=True)
    ]


def _color_panel(table: "pd.DataFrame", colors: dict[str, Colors]) -> Panel:
    """How many pixels have which a and b, of all pictures and of each split (Zhang et al. 2016, figure 3b)."""
    parts = {"all": table["name"], **{split: table["name"][table["split"] == split] for split in SPLITS}}
    pairs = {
        part: np.sum([colors[name].pairs for name in names], axis=0) for part, names in parts.items() if len(names)
    }
    return [f"{part}: a to the right, b up" for part in pairs], [[density(each) for each in pairs.values()]]


def density(pairs: NDArray[np.int64]) -> NDArray[np.uint8]:
    """A picture (H, W, 3) of how many pixels lie in bins of a (rows) and b (columns): bins in their own colours.

    They are the stronger the more pixels there are, by the logarithm. a grows to the right, b upwards; lines are at 0.
    """
    middles = (torch.arange(BINS) - (BINS - 1) / 2) * BIN
    a, b = torch.meshgrid(middles, middles, indexing="ij")
    lab = torch.stack([torch.full_like(a, SHOWN_LIGHTNESS), a, b])[None]
    own_colors = 255 * lab_to_rgb(in_gamut(lab))[0].permute(1, 2, 0).numpy()
    strength = np.log1p(pairs) / max(1e-9, np.log1p(pairs.max()))
    strength[pairs > 0] = 0.3 + 0.7 * strength[pairs > 0]  # one pixel can be seen
    paper = np.full((BINS, BINS, 3), PAPER, np.float64)
    drawn = np.rot90(paper + strength[..., None] * (own_colors - paper))
    drawn = drawn.repeat(ENLARGED, axis=0).repeat(ENLARGED, axis=1)
    middle = BINS * ENLARGED // 2
    drawn[middle] = drawn[:, middle] = AXIS
    result: NDArray[np.uint8] = drawn.round().astype(np.uint8)
    return result


def _altered(data: ColorizationDataModule, found: Checked, table: "pd.DataFrame", row_of: dict[str, int]) -> Panel:
    """A few training pictures as they are and as training alters them; what does not count is grey."""
    names = table["name"][table["split"] == "train"].iloc[:ALTERED]
    lines = []
    for row in (row_of[name] for name in names):
        image = channels_first(found.data.picture(row))[None].float() / 255
        valid = valid_pixels(torch.tensor([box(found.data.size(row), found.data.side)]), found.data.side)
        seeds = 4 * row + torch.arange(4)
        moved, kept = data.altered(image.expand(4, -1, -1, -1), valid.expand(4, -1, -1, -1), seeds)
        shown = torch.where(torch.cat([valid, kept]), 255 * torch.cat([image, moved]), LEFT_OUT)
        lines.append([each.round().byte().permute(1, 2, 0).numpy() for each in shown])
    return ["letterboxed", *["in training"] * 4], lines
