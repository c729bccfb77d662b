"""Checks and describes any dataset of images with one mask per class.

The charts follow chapter 4 of H. Nagarkar, honors thesis, University of Mississippi, 2020.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from datamodules.decoded.whole import Decoded
from datamodules.describe.study import (
    EXAMPLES,
    Chart,
    Example,
    Item,
    Predicting,
    Study,
    bars,
    histogram,
    prediction_checks,
    split_column,
)
from datamodules.read.cache import core_count
from datamodules.read.masks import MaskSource
from datamodules.read.pictures import read_picture, resized
from datamodules.read.rasters import shown
from ops.errors import collected
from ops.progress import progress

if TYPE_CHECKING:
    import pandas as pd

EXAMPLE_HEIGHT = 280  # pixels
MOST_REGIONS = 8  # the last bar of the regions per mask counts all masks with more


class Segmentation(Predicting, Protocol):
    """Describes what the study needs of a data module.

    Attributes:
        root: Folder of the dataset.
        classes: Names of the K classes.
        size: Height and width of the network's input.
        pictures: Folder or file of the images to predict.
    """

    root: Path
    classes: list[str]
    size: tuple[int, int]
    pictures: Path | None

    def source(self) -> MaskSource:
        """Returns where names, images and masks come from."""

    def decoded(self) -> Decoded:
        """Returns images and masks at the network's input size."""

    def split(self, names: Sequence[str]) -> dict[str, list[str]]:
        """Returns the names in each split."""


def problems(data: Segmentation, predicted: Path | None = None) -> list[str]:
    """Returns everything that is wrong with a dataset, one sentence each that names the file and the row.

    Opens every file; files found intact are remembered in the cache, so only changed ones are opened again.

    Args:
        data: The data module.
        predicted: Folder of the images to predict where `data.pictures` names none.
    """
    checks: list[Callable[[], object]] = [data.decoded, lambda: data.split(data.source().names)]
    return collected([*checks, *prediction_checks(data, data.pictures or predicted, data.size)])


def study(data: Segmentation) -> Study:
    """Returns areas, regions and splits of the masks, and examples.

    Areas and boxes are measured at the network's input size, as shares of the image's labeled pixels.

    Raises:
        DataError: The dataset has problems; the message lists all of them.
    """
    import pandas as pd

    decoded = data.decoded()
    source, classes = decoded.source, data.classes

    def measure(row: int) -> tuple[NDArray[np.float64], list[tuple[Any, ...]]]:
        planes = decoded.masks.sample(row)
        masks = planes["mask"]
        counted = masks[0].size - int(planes["ignored"].sum()) if "ignored" in planes else masks[0].size
        found = [(row, label, *box) for label, mask in zip(classes, masks, strict=True) for box in _boxes(mask)]
        return masks.sum(axis=(1, 2)) / max(1, counted), found

    measures = measured(measure, len(source.names), "masks")
    areas = np.stack([each for each, _ in measures])
    regions = pd.DataFrame(
        [row for _, rows in measures for row in rows], columns=["picture", "class", "width", "height", "fill"]
    ).astype({"width": float, "height": float, "fill": float})
    table = pd.DataFrame(
        {
            "name": source.names,
            "split": split_column(data.split(source.names), source.names),
            "masks": (areas > 0).sum(axis=1),
            **{f"area_{label}": area.round(4) for label, area in zip(classes, areas.T, strict=True)},
        }
    )
    return Study(
        tables={"summary": _summary(areas, regions, classes), "pictures": table},
        charts=_charts(areas, regions, classes),
        examples=_examples(source, areas),
        classes=classes,
    )


def measured(measure: Callable[[int], Item], count: int, what: str) -> list[Item]:
    """Returns `measure` of each of `count` rows, computed on all cores behind a progress bar."""
    with ThreadPoolExecutor(core_count()) as pool:
        rows = pool.map(measure, range(count))
        return list(progress(rows, f"measuring {what}", count))


def _boxes(mask: NDArray[np.uint8]) -> Iterable[tuple[float, float, float]]:
    """Yields width and height of each region's box, as shares of the image, and the share of the box that is filled.

    Pixels that touch at an edge or a corner belong to one region.
    """
    _, _, regions, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    for _, _, width, height, area in regions[1:].tolist():
        yield width / mask.shape[1], height / mask.shape[0], area / (width * height)


def _summary(areas: NDArray[np.float64], regions: "pd.DataFrame", classes: list[str]) -> "pd.DataFrame":
    """Returns one row per class, then one for all classes."""
    import pandas as pd

    def row(label: str, areas: NDArray[np.float64], regions: "pd.DataFrame") -> dict[str, Any]:
        masks, with_mask = areas[areas > 0], int((areas > 0).any(axis=1).sum())
        of_masks = [masks.mean(), np.median(masks), masks.min(), masks.max()] if masks.size else [math.nan] * 4
        return {
            "class": label,
            "pictures": with_mask,
            "empty_cells": areas.size - masks.size,
            "share": with_mask / len(areas),
            **dict(zip(("mean_area", "median_area", "smallest_area", "largest_area"), of_masks, strict=True)),
            "regions_per_mask": len(regions) / masks.size if masks.size else math.nan,
            "mean_width": regions["width"].mean(),
            "mean_height": regions["height"].mean(),
        }

    rows = [row(label, areas[:, [k]], regions[regions["class"] == label]) for k, label in enumerate(classes)]
    return pd.DataFrame([*rows, row("all", areas, regions)]).round(4)


def _charts(areas: NDArray[np.float64], regions: "pd.DataFrame", classes: list[str]) -> dict[str, Chart]:
    present = areas > 0
    per_image = np.bincount(present.sum(axis=1), minlength=len(classes) + 1)
    numbers = range(0 if per_image[0] else 1, len(classes) + 1)
    per_mask = regions.groupby(["picture", "class"]).size().clip(upper=MOST_REGIONS).to_numpy()
    labels = [*range(1, MOST_REGIONS), f"{MOST_REGIONS}+"]
    return {
        "Images by their number of masks": bars(per_image[list(numbers)], numbers, "masks"),
        "Images of each class": bars(present.sum(axis=0), classes, "class"),
        "Images without each class": bars((~present).sum(axis=0), classes, "class"),
        "Areas of masks": histogram(areas[present], (0, 1), "share of the labeled pixels", "masks"),
        "Connected regions in a mask": bars(
            np.bincount(per_mask, minlength=MOST_REGIONS + 1)[1:], labels, "regions", "masks"
        ),
        "How much of its bounding box a region fills": histogram(
            regions["fill"], (0, 1), "share of the box", "regions"
        ),
        "Widths of the regions": histogram(regions["width"], (0, 1), "share of the image's width", "regions"),
        "Heights of the regions": histogram(regions["height"], (0, 1), "share of the image's height", "regions"),
    }


def _examples(source: MaskSource, areas: NDArray[np.float64]) -> list[Example]:
    """Returns images with small to large masks of every class, each image once."""
    chosen: list[int] = []
    for of_class in areas.T:
        by_area = [
            row for row in np.argsort(of_class, kind="stable").tolist() if of_class[row] > 0 and row not in chosen
        ]
        places = np.linspace(0, len(by_area), max(1, EXAMPLES // areas.shape[1]) + 2)[1:-1].astype(int)
        chosen += [by_area[place] for place in dict.fromkeys(places.tolist()) if place < len(by_area)]
    examples = []
    for name in (source.names[row] for row in chosen):
        image = shown(read_picture(source.path(name), channels=source.channels))
        size = EXAMPLE_HEIGHT, max(1, round(EXAMPLE_HEIGHT * image.shape[1] / image.shape[0]))
        examples.append((name, resized(image, size), source.planes(name, size).astype(np.bool_)))
    return examples
