"""Checks and describes an avalanches dataset: shares, conditions, colors, and principal components of windows."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from datamodules.avalanches import AvalanchesDataModule
from datamodules.decoded.scenes import Scenes
from datamodules.decoded.windows import stored
from datamodules.describe.study import (
    Chart,
    Image,
    Panel,
    Study,
    bars,
    by_split,
    histogram,
    prediction_checks,
    size_range,
    split_column,
    spread,
    summary,
)
from datamodules.read.cache import check_pictures
from datamodules.read.mask_files import IGNORED
from datamodules.read.names import located, stem, tree_names
from datamodules.read.pictures import read_picture, resized
from ops.errors import DataError, collected
from ops.exact.edges import grey
from ops.light import BIN, CONDITIONS, SUNNY, condition_for, level_counts, peak
from ops.statistics.components import principal_components

if TYPE_CHECKING:
    import pandas as pd

REFERENCES = 4  # images shown beside their references
VIEW = 480  # pixels of the longer side of these
COLORS = {"red": "#d62728", "green": "#2ca02c", "blue": "#1f77b4"}  # of the charts
WINDOWS = 20_000  # used for the principal components
HELD = 0.99  # share of the variance that the named number of components holds
SHOWN = 40  # components in the chart


class Colors(NamedTuple):
    """The colors of an image. A peak is the center of the fullest bin.

    Attributes:
        channels: Shares of the pixels in bins of 8 levels of red, green and blue (3, 32).
        brightness: Peak of the gray levels, 0 to 255.
        hue: Peak of the hues in degrees, pixels weighted by saturation; NaN for a gray image.
        saturation: Peak of the saturations, 0 to 255.
    """

    channels: NDArray[np.float64]
    brightness: float
    hue: float
    saturation: float

    @property
    def condition(self) -> str:
        """Sunny or shady, see `ops.light`."""
        return condition_for(self.brightness)


def problems(data: AvalanchesDataModule) -> list[str]:
    """Returns everything that is wrong with a dataset, one sentence each that names the file."""
    checks: list[Callable[[], object]] = [data.checked]
    references = list(_references(data.root).values())
    if references:
        checks.append(lambda: check_pictures(references))
    return collected([*checks, *prediction_checks(data, data.pictures)])


def study(data: AvalanchesDataModule) -> Study:
    """Returns avalanche shares, sizes and conditions, colors of sunny and shady images, and principal components.

    Images are measured at their pyramid level. The components are those of gray training windows.

    Raises:
        DataError: The dataset has problems; the message lists all of them.
    """
    import pandas as pd

    scenes, splits, boxes, conditions = data.checked()
    references, names = _references(data.root), scenes.source.names
    colors = {name: colors_of(scenes.picture(name)) for name in names}
    table = pd.DataFrame(
        {
            "name": names,
            "split": split_column(splits, names),
            "height": [scenes.sizes[name][0] for name in names],
            "width": [scenes.sizes[name][1] for name in names],
            "avalanche": [round(_marked(scenes.labels(name)), 4) for name in names],
            "condition": [conditions.get(name, "") for name in names],
            "by_rule": [colors[name].condition for name in names],
            "brightness_peak": [colors[name].brightness for name in names],
            "hue_peak": [colors[name].hue for name in names],
            "saturation_peak": [colors[name].saturation for name in names],
            "boxes": [len(boxes.get(name, ())) for name in names],
            "reference": [stem(name) in references for name in names],
        }
    )
    shares = variance_shares(scenes, splits["train"], data.window)
    components = pd.DataFrame({"component": range(1, 1 + len(shares)), "variance": shares, "together": shares.cumsum()})
    given = sorted(set(conditions.values()) - {""})
    by_share = table.sort_values("avalanche", kind="stable")["name"].tolist()
    return Study(
        tables={
            "summary": summary("split", by_split(table), lambda group: _row(group, given), 4),
            "pictures": table,
            "histograms": _histograms(colors),
            "components": components.round(6),
        },
        charts=_charts(table, colors, shares),
        examples=[(name, _rows(scenes.picture(name)), _planes(scenes.labels(name))) for name in spread(by_share)],
        classes=["avalanche"],
        panels=_panels(scenes, references),
    )


def _marked(labels: NDArray[np.uint8]) -> float:
    """Returns the share of an image's labeled pixels that an avalanche covers."""
    return float((labels == 1).sum() / max(1, (labels != IGNORED).sum()))


def _planes(labels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Returns the mask of an avalanche and, if there are any, that of the ignored pixels."""
    planes = [labels == 1, labels == IGNORED]
    return np.stack(planes if planes[1].any() else planes[:1])


def colors_of(image: Image) -> Colors:
    """Returns the colors of an image (3, H, W)."""
    hues, saturations = np.moveaxis(cv2.cvtColor(_rows(image), cv2.COLOR_RGB2HSV), 2, 0)[:2]
    by_hue = np.bincount(hues.ravel() // 5, saturations.ravel(), 36)  # OpenCV halves the degrees
    levels = grey(torch.from_numpy(np.array(image))[None]).numpy()
    return Colors(
        channels=np.stack([level_counts(channel) for channel in image]) / hues.size,
        brightness=peak(levels),
        hue=10 * float(by_hue.argmax()) + 5 if by_hue.any() else float("nan"),
        saturation=peak(saturations),
    )


def variance_shares(scenes: Scenes, names: Sequence[str], window: int) -> NDArray[np.float64]:
    """Returns the share of the variance of gray windows in each principal component, in descending order (w²,).

    Computed from 20,000 windows of the named images, the same every time, each equally likely. All shares are 0 where
    the images are flat.
    """
    levels = map(grey, stored(scenes, names, window).windows(WINDOWS))
    variances = principal_components(levels, axes=0).variances.numpy()
    total = variances.sum()
    return np.asarray(variances / total if total > 0 else variances)


def _histograms(colors: Mapping[str, Colors]) -> "pd.DataFrame":
    """Returns the RGB histogram of each image: one row per channel, one column per bin, named by its lowest level."""
    import pandas as pd

    rows = [[name, channel, *shares.round(5)] for name, each in colors.items()
            for channel, shares in zip(("red", "green", "blue"), each.channels, strict=True)]  # fmt: skip
    return pd.DataFrame(rows, columns=["name", "channel", *map(str, range(0, 256, BIN))])


def _row(group: "pd.DataFrame", given: Sequence[str]) -> dict[str, Any]:
    """Returns the summary of a split; `given` are the conditions in the user's table."""
    return {
        "pictures": len(group),
        "mean_avalanche": group["avalanche"].mean(),
        "smallest_avalanche": group["avalanche"].min(),
        "largest_avalanche": group["avalanche"].max(),
        **size_range(group),
        **{f"{condition}_by_rule": int((group["by_rule"] == condition).sum()) for condition in CONDITIONS},
        **{f"{condition}_given": int((group["condition"] == condition).sum()) for condition in given},
        "with_boxes": int((group["boxes"] > 0).sum()),
        "with_reference": int(group["reference"].sum()),
    }


def _charts(table: "pd.DataFrame", colors: Mapping[str, Colors], shares: NDArray[np.float64]) -> dict[str, Chart]:
    together = shares.cumsum()
    held = int(np.searchsorted(together, HELD)) + 1 if shares.any() else 0
    by_rule = [int((table["by_rule"] == condition).sum()) for condition in CONDITIONS]
    shown = together[:SHOWN]
    charts = {
        "Area of the avalanches": histogram(table["avalanche"], (0, 1), "share of the labeled pixels"),
        "Sunny or shady, by brightness": bars(by_rule, CONDITIONS, f"sunny: most frequent gray level from {SUNNY} on"),
        "How well components describe windows": bars(
            shown,
            range(1, 1 + len(shown)),
            f"number of first principal components; {held} of {len(shares)} hold {HELD:.0%}",
            "share of the variance, cumulative",
        ),
    }
    for condition in CONDITIONS:
        chosen = [each.channels for each in colors.values() if each.condition == condition]
        for channel, name in enumerate(("red", "green", "blue") if chosen else ()):
            heights = np.mean([channels[channel] for channels in chosen], axis=0)
            charts[f"{name.title()} in {condition} images"] = bars(
                heights, range(0, 257, BIN), f"{name} level", "share of the pixels", COLORS[name]
            )
    return charts


def _panels(scenes: Scenes, references: Mapping[str, Path]) -> dict[str, Panel]:
    """Returns a few images beside their masks and references, if there are any."""
    names = [name for name in scenes.source.names if stem(name) in references][:REFERENCES]
    rows = []
    for name in names:
        mask = np.repeat(255 * scenes.mask(name)[..., None], 3, axis=2)
        images = [_rows(scenes.picture(name)), mask, read_picture(references[stem(name)], at_least=(VIEW, VIEW))]
        scale = VIEW / max(mask.shape)
        size = max(1, round(scale * mask.shape[0])), max(1, round(scale * mask.shape[1]))
        rows.append([resized(image, size) for image in images])
    return {"references": Panel(["image", "mask", "reference"], rows, names)} if rows else {}


def _references(root: Path) -> dict[str, Path]:
    """Returns the optional images with the outline drawn by hand, by stem."""
    try:
        return {stem(name): located(root / "references", name) for name in tree_names(root / "references")}
    except DataError:
        return {}


def _rows(image: Image) -> Image:
    """Returns an image (3, H, W) as (H, W, 3)."""
    return np.ascontiguousarray(image.transpose(1, 2, 0))
