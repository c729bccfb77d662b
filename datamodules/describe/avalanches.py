"""What `belvedere describe` says of an avalanches data set: all that is wrong with it, or tables and pictures."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from datamodules.avalanches import AvalanchesDataModule
from datamodules.base import SPLITS
from datamodules.decoded.scenes import Scenes
from datamodules.decoded.windows import stored
from datamodules.describe.study import Panel, Study
from datamodules.read.cache import check_pictures
from datamodules.read.pictures import picture_files, read_picture, resized
from ops.components import principal_components
from ops.edges import grey
from ops.errors import DataError, collected

if TYPE_CHECKING:
    import pandas as pd

EXAMPLES = 8
REFERENCES = 4  # pictures that are shown beside their references
VIEW = 480  # pixels of the longer side of these
BIN = 8  # levels of a bin of the histograms
SUNNY = 200  # the level from which on a brightness peak is a sunny picture's
WINDOWS = 20_000  # that principal components are computed of
HELD = 0.99  # share of the variance that the named number of components holds
SHOWN = 40  # components


class Colours(NamedTuple):
    """The colours of a picture; a peak is the middle of the fullest bin.

    Attributes:
        channels: Shares of the pixels in bins of 8 levels of red, green and blue (3, 32).
        brightness: Peak of the grey levels, 0 to 255.
        hue: Peak of the hues in degrees, where pixels count by their saturation; NaN of a grey picture.
        saturation: Peak of the saturations, 0 to 255.
    """

    channels: NDArray[np.float64]
    brightness: float
    hue: float
    saturation: float

    @property
    def condition(self) -> str:
        """Sunny where the brightness peak is in [200, 255], where the paper's figure 10 has it; otherwise shady."""
        return "sunny" if self.brightness >= SUNNY else "shady"


def problems(data: AvalanchesDataModule) -> list[str]:
    """Everything that is wrong with a data set, a sentence each that names the file and what was wanted."""
    checks: list[Callable[[], object]] = [data.checked]
    references = list(_references(data.root).values())
    if references:
        checks.append(lambda: check_pictures(references))
    if data.pictures is not None:
        pictures = data.pictures
        checks += [data.predicted_files, lambda: check_pictures(picture_files(pictures))]
    return collected(checks)


def study(data: AvalanchesDataModule) -> Study:
    """Avalanche shares, sizes and conditions, colours of sunny and shady pictures, and principal components of windows.

    All of it is of the pictures at their pyramid level; components are of training windows.

    Raises:
        DataError: The data are not as wanted; all problems are listed.
    """
    scenes, splits, boxes, conditions = data.checked()
    references, names = _references(data.root), scenes.source.names
    colours = {name: colours_of(scenes.picture(name)) for name in names}
    split_of = {name: split for split in SPLITS for name in splits[split]}
    import pandas as pd

    table = pd.DataFrame(
        {
            "name": names,
            "split": [split_of.get(name, "") for name in names],
            "height": [scenes.sizes[name][0] for name in names],
            "width": [scenes.sizes[name][1] for name in names],
            "avalanche": [round(float(scenes.mask(name).mean()), 4) for name in names],
            "condition": [conditions.get(name, "") for name in names],
            "by_rule": [colours[name].condition for name in names],
            "brightness_peak": [colours[name].brightness for name in names],
            "hue_peak": [colours[name].hue for name in names],
            "saturation_peak": [colours[name].saturation for name in names],
            "boxes": [len(boxes.get(name, ())) for name in names],
            "reference": [Path(name).stem in references for name in names],
        }
    )
    shares = variance_shares(scenes, splits["train"], data.window)
    components = pd.DataFrame({"component": range(1, 1 + len(shares)), "variance": shares, "together": shares.cumsum()})
    return Study(
        tables={
            "summary": _summary(table),
            "pictures": table,
            "histograms": _histograms(colours),
            "components": components.round(6),
        },
        charts=_charts(table, colours, shares),
        examples=_examples(scenes, table),
        classes=["avalanche"],
        panels=_panels(scenes, references),
    )


def colours_of(picture: NDArray[np.uint8]) -> Colours:
    """The colours of a picture (3, H, W)."""
    hues, saturations = np.moveaxis(cv2.cvtColor(_rows(picture), cv2.COLOR_RGB2HSV), 2, 0)[:2]
    by_hue = np.bincount(hues.ravel() // 5, saturations.ravel(), 36)  # OpenCV halves the degrees
    levels = grey(torch.from_numpy(np.array(picture))[None]).numpy()
    return Colours(
        channels=np.stack([_histogram(channel) for channel in picture]) / hues.size,
        brightness=_peak(levels),
        hue=10 * float(by_hue.argmax()) + 5 if by_hue.any() else float("nan"),
        saturation=_peak(saturations),
    )


def _histogram(levels: NDArray[np.uint8]) -> NDArray[np.int64]:
    return np.bincount(levels.ravel() // BIN, minlength=256 // BIN)


def _peak(levels: NDArray[np.uint8]) -> float:
    return BIN * (float(_histogram(levels).argmax()) + 0.5)


def variance_shares(scenes: Scenes, names: Sequence[str], window: int) -> NDArray[np.float64]:
    """Which share of the variance of grey windows each principal component holds, descending (w²,).

    They are of 20,000 windows, always the same, of the pictures with these names, any as likely as any other. All are 0
    where the pictures are flat.
    """
    levels = map(grey, stored(scenes, names, window).windows(WINDOWS))
    variances = principal_components(levels, axes=0).variances.numpy()
    total = variances.sum()
    return np.asarray(variances / total if total > 0 else variances)


def _histograms(colours: Mapping[str, Colours]) -> "pd.DataFrame":
    """The RGB histogram of every picture, a row a channel: shares of its pixels, named by a bin's lowest level."""
    import pandas as pd

    rows = [[name, channel, *shares.round(5)] for name, each in colours.items()
            for channel, shares in zip(("red", "green", "blue"), each.channels, strict=True)]  # fmt: skip
    return pd.DataFrame(rows, columns=["name", "channel", *map(str, range(0, 256, BIN))])


def _summary(table: "pd.DataFrame") -> "pd.DataFrame":
    """One row a split, then one of all pictures."""
    import pandas as pd

    rules = ("sunny", "shady")
    groups = [*((split, table[table["split"] == split]) for split in SPLITS), ("all", table)]
    given = sorted(set(table["condition"]) - {""})
    rows = []
    for name, group in groups:
        areas = (group["height"] * group["width"]).sort_values(kind="stable").index
        sizes = group["width"].astype(str) + " x " + group["height"].astype(str)
        rows.append(
            {
                "split": name,
                "pictures": len(group),
                "mean_avalanche": group["avalanche"].mean(),
                "smallest_avalanche": group["avalanche"].min(),
                "largest_avalanche": group["avalanche"].max(),
                "smallest_size": sizes[areas[0]] if len(group) else "",
                "largest_size": sizes[areas[-1]] if len(group) else "",
                **{f"{condition}_by_rule": int((group["by_rule"] == condition).sum()) for condition in rules},
                **{f"{condition}_given": int((group["condition"] == condition).sum()) for condition in given},
                "with_boxes": int((group["boxes"] > 0).sum()),
                "with_reference": int(group["reference"].sum()),
            }
        )  # fmt: skip
    return pd.DataFrame(rows).round(4)


def _charts(
    table: "pd.DataFrame", colours: Mapping[str, Colours], shares: NDArray[np.float64]
) -> "dict[str, pd.Series[Any]]":
    import pandas as pd

    counts, edges = np.histogram(table["avalanche"], bins=20, range=(0, 1))
    together = shares.cumsum()
    held = int(np.searchsorted(together, HELD)) + 1 if shares.any() else 0
    bins = pd.IntervalIndex.from_breaks(range(0, 257, BIN), name="level")
    rule = pd.Index(["sunny", "shady"], name=f"sunny: brightness peak in [{SUNNY}, 255]")
    by_rule = [int((table["by_rule"] == condition).sum()) for condition in rule]
    charts = {
        "Avalanche": pd.Series(counts, pd.IntervalIndex.from_breaks(edges.round(4), name="share of the picture"),
                               name="pictures"),
        "Conditions by rule": pd.Series(by_rule, rule, name="pictures"),
        f"{held} of {len(shares)} components hold {HELD:.0%}": pd.Series(
            together[:SHOWN], pd.RangeIndex(1, 1 + len(together[:SHOWN]), name="principal components"),
            name="share of the variance"),
    }  # fmt: skip
    for condition in rule:
        chosen = [each.channels for each in colours.values() if each.condition == condition]
        for channel, name in enumerate(("Red", "Green", "Blue") if chosen else ()):
            heights = np.mean([channels[channel] for channels in chosen], axis=0)
            charts[f"{name}, {condition}"] = pd.Series(heights, bins, name="share of the pixels")
    return charts


def _examples(scenes: Scenes, table: "pd.DataFrame") -> list[tuple[str, NDArray[np.uint8], NDArray[np.bool_]]]:
    """Pictures with little avalanche to much of it."""
    names = table.sort_values("avalanche", kind="stable")["name"].tolist()
    chosen = dict.fromkeys(np.linspace(0, len(names) - 1, EXAMPLES).round().astype(int).tolist())
    return [
        (names[row], _rows(scenes.picture(names[row])), scenes.mask(names[row]).astype(np.bool_)[None])
        for row in chosen
    ]


def _panels(scenes: Scenes, references: Mapping[str, Path]) -> dict[str, Panel]:
    """A few pictures beside their masks and references, where there are any."""
    rows = []
    for name in [name for name in scenes.source.names if Path(name).stem in references][:REFERENCES]:
        mask = np.repeat(255 * scenes.mask(name)[..., None], 3, axis=2)
        pictures = [_rows(scenes.picture(name)), mask, read_picture(references[Path(name).stem], at_least=(VIEW, VIEW))]
        scale = VIEW / max(mask.shape)
        size = max(1, round(scale * mask.shape[0])), max(1, round(scale * mask.shape[1]))
        rows.append([resized(picture, size) for picture in pictures])
    return {"references": (["picture", "mask", "reference"], rows)} if rows else {}


def _references(root: Path) -> dict[str, Path]:
    """The pictures with the outline drawn by hand, by stem; they may be missing."""
    try:
        return {path.stem: path for path in picture_files(root / "references")}
    except DataError:
        return {}


def _rows(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(3, H, W) as (H, W, 3)."""
    return np.ascontiguousarray(picture.transpose(1, 2, 0))
