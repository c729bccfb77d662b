"""Defines what `belvedere describe` shows of a dataset, and helps the descriptions of all tasks to make it."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from datamodules.base import SPLITS
from datamodules.read.cache import unreadable
from datamodules.read.names import picture_files
from datamodules.read.rasters import Channels

if TYPE_CHECKING:
    import pandas as pd

EXAMPLES = 8
BINS = 20

Image: TypeAlias = NDArray[np.uint8]
Example: TypeAlias = tuple[str, Image, NDArray[np.bool_]]
"""Title, image (H, W, 3) and masks (K, H, W); one mask more marks the pixels that count nowhere."""
Chart: TypeAlias = "pd.Series[Any]"
"""Heights of bars; the index holds their labels or bins, and the names of index and series are those of the axes."""
Item = TypeVar("Item")


class Panel(NamedTuple):
    """A grid of images.

    Attributes:
        titles: Of the columns.
        rows: Images (H, W, 3), one per title in each row.
        names: Of the rows; empty for none.
    """

    titles: list[str]
    rows: list[list[Image]]
    names: Sequence[str] = ()


@dataclass
class Study:
    """What `belvedere describe` shows of a dataset.

    Attributes:
        tables: Tables by name; the first is the summary.
        charts: Bar charts by title.
        examples: Images with their masks.
        classes: Names of the K classes.
        panels: Grids of images by name.
    """

    tables: "dict[str, pd.DataFrame]" = field(default_factory=dict)
    charts: dict[str, Chart] = field(default_factory=dict)
    examples: list[Example] = field(default_factory=list)
    classes: Sequence[str] = ()
    panels: dict[str, Panel] = field(default_factory=dict)


class Predicting(Protocol):
    """A data module that can list the images to predict.

    Attributes:
        unusable: Problems of images that are skipped, by name.
        channels: How rasters are read.
    """

    unusable: dict[str, str]
    channels: Channels

    def predicted_names(self) -> tuple[Path, list[str]]:
        """Returns the folder and the names of the images to predict, or raises a DataError."""


def prediction_checks(
    data: Predicting, folder: Path | None, at_least: tuple[int, int] | None = None
) -> list[Callable[[], object]]:
    """Returns checks of the images to predict; those that cannot be opened become `unusable`.

    Args:
        data: The data module.
        folder: Folder or file of the images to predict; None checks nothing.
        at_least: Height and width that suffice; JPEG files are then opened at a lower resolution.
    """
    if folder is None:
        return []
    channels = data.channels.unscaled
    return [data.predicted_names, lambda: data.unusable.update(unreadable(picture_files(folder), at_least, channels))]


def split_column(splits: "dict[str, list[str]]", names: Sequence[str]) -> list[str]:
    """Returns the split of each image, "" for images in no split."""
    split_of = {name: split for split, members in splits.items() for name in members}
    return [split_of.get(name, "") for name in names]


def by_split(table: "pd.DataFrame") -> "list[tuple[str, pd.DataFrame]]":
    """Returns the rows of each split of a table with the column `split`, then all rows as `all`."""
    return [*((split, table[table["split"] == split]) for split in SPLITS), ("all", table)]


def summary(
    column: str,
    groups: "Iterable[tuple[str, pd.DataFrame]]",
    row: "Callable[[pd.DataFrame], dict[str, Any]]",
    decimals: int,
) -> "pd.DataFrame":
    """Returns a table with one row per group, its name in `column`, the rest made by `row` and rounded."""
    import pandas as pd

    return pd.DataFrame([{column: name, **row(group)} for name, group in groups]).round(decimals)


def size_range(table: "pd.DataFrame") -> dict[str, str]:
    """Returns the smallest and the largest size by area, like `640 x 480`, of a table with `height` and `width`."""
    areas = (table["height"] * table["width"]).sort_values(kind="stable").index
    sizes = table["width"].astype(str) + " x " + table["height"].astype(str)
    return {
        "smallest_size": sizes[areas[0]] if len(table) else "",
        "largest_size": sizes[areas[-1]] if len(table) else "",
    }


def bars(
    heights: ArrayLike,
    labels: Sequence[Any] | NDArray[Any] | range,
    axis: str,
    name: str = "images",
    color: str | None = None,
) -> Chart:
    """Returns a bar chart.

    Args:
        heights: Heights of the N bars.
        labels: N labels, or N + 1 bin edges.
        axis: Name of the horizontal axis.
        name: Name of the vertical axis.
        color: Color of the bars, in Matplotlib's terms.
    """
    import pandas as pd

    values = np.asarray(heights)
    edges = len(labels) == len(values) + 1
    index = (
        pd.IntervalIndex.from_breaks(np.asarray(labels).round(4), name=axis) if edges else pd.Index(labels, name=axis)
    )
    series = pd.Series(values, index, name=name)
    if color is not None:
        series.attrs["color"] = color
    return series


def histogram(values: ArrayLike, edges: NDArray[Any] | tuple[float, float], axis: str, name: str = "images") -> Chart:
    """Returns a bar chart of how many values lie in each bin.

    Args:
        values: The values.
        edges: Bin edges, or the ends of 20 equal bins.
        axis: Name of the horizontal axis.
        name: Name of the vertical axis.
    """
    breaks = np.linspace(*edges, BINS + 1) if isinstance(edges, tuple) else edges
    return bars(np.histogram(values, breaks)[0], breaks, axis, name)


def counts(values: "pd.Series[Any]", empty: str = "") -> Chart:
    """Returns a bar chart of how often each value occurs; "" is called `empty`.

    Splits are in the order train, val, test, other values the most frequent first.
    """
    found = values.replace("", empty).value_counts().rename("images")
    if {*SPLITS} & {*found.index}:
        found = found.reindex([each for each in (*SPLITS, empty) if each in found.index])
    return found


def spread(ordered: Sequence[Item], count: int = EXAMPLES) -> list[Item]:
    """Returns up to `count` items at equal distances, the first and the last among them."""
    places = np.linspace(0, len(ordered) - 1, count if ordered else 0).round().astype(int).tolist()
    return [ordered[place] for place in dict.fromkeys(places)]


def without_masks(title: str, image: Image) -> Example:
    """Returns an example of a task without masks."""
    return title, image, np.zeros((0, *image.shape[:2]), np.bool_)
