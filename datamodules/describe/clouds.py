"""What `belvedere describe` says of a clouds data set: everything that is wrong with it, or tables and charts.

The charts follow chapter 4 of H. Nagarkar, honors thesis, University of Mississippi, 2020.
"""

import math
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from datamodules.clouds import CloudsDataModule
from datamodules.decoded.whole import PackedMasks
from datamodules.describe.study import Study
from datamodules.read.cache import MappedRows, check_pictures, core_count
from datamodules.read.masks import MaskSource, mask_source
from datamodules.read.pictures import picture_files, read_picture, resized
from ops.errors import collected
from ops.pictures import share_of_black

if TYPE_CHECKING:
    import pandas as pd

EXAMPLES = 8
EXAMPLE_HEIGHT = 280  # pixels


def problems(data: CloudsDataModule) -> list[str]:
    """Everything that is wrong with a data set, a sentence each that names the file, the row and what was wanted.

    Every file is opened; which ones were whole is kept in the cache, so that only changed files are opened again.
    """
    checks: list[Callable[[], object]] = [
        data.decoded,
        lambda: data.split(mask_source(data.root, data.classes).names),
    ]
    if data.pictures is not None or (data.root / "test_images").is_dir():
        folder = data.pictures or data.root / "test_images"
        checks += [data.predicted_files, lambda: check_pictures(picture_files(folder), data.size)]
    return collected(checks)


def study(data: CloudsDataModule) -> Study:
    """The thesis's data study: the charts are its figures 4.1 to 4.4 and section 4.6, the examples figure 4.5.

    Areas, boxes and black pixels are measured at the size that the network is given, as shares of the picture.

    Raises:
        DataError: The data are not as wanted; all problems are listed.
    """
    decoded = data.decoded()
    source = decoded.source
    split_of = {name: split for split, names in data.split(source.names).items() for name in names}
    areas, regions, black = _measured(decoded.pictures, decoded.masks, data.classes)
    return Study(
        tables={
            "summary": _summary(areas, regions, data.classes),
            "pictures": _pictures(source.names, split_of, areas, black, data.classes),
        },
        charts=_charts(areas, regions, black, data.classes),
        examples=_examples(source, areas),
        classes=data.classes,
    )


def _measured(
    pictures: MappedRows, packed: PackedMasks, classes: list[str]
) -> "tuple[NDArray[np.float64], pd.DataFrame, NDArray[np.float64]]":
    """Areas of the masks (N, K), one row a region, and shares of black pixels (N,)."""
    import pandas as pd

    def measure(index: int) -> tuple[NDArray[np.float64], list[tuple[Any, ...]], float]:
        masks = packed[index]
        found = [(index, label, *box) for label, mask in zip(classes, masks, strict=True) for box in _boxes(mask)]
        return masks.mean(axis=(1, 2)), found, share_of_black(pictures[index])

    with ThreadPoolExecutor(core_count()) as pool:
        measured = list(
            tqdm(pool.map(measure, range(len(pictures))), desc="measuring", total=len(pictures), unit="", leave=False)
        )
    areas, regions, black = zip(*measured, strict=True)
    table = pd.DataFrame(
        [row for rows in regions for row in rows], columns=["picture", "class", "width", "height", "fill"]
    )
    return np.stack(areas), table.astype({"width": float, "height": float, "fill": float}), np.array(black)


def _boxes(mask: NDArray[np.uint8]) -> Iterable[tuple[float, float, float]]:
    """Width and height of the box around each region, as shares of the picture's, and how much of it is region.

    Pixels that touch at an edge or a corner belong to one region.
    """
    _, _, regions, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    for _, _, width, height, area in regions[1:].tolist():
        yield width / mask.shape[1], height / mask.shape[0], area / (width * height)


def _summary(areas: NDArray[np.float64], regions: "pd.DataFrame", classes: list[str]) -> "pd.DataFrame":
    """One row a class, then one of all classes together."""
    import pandas as pd

    rows = [
        _statistics(label, areas[:, [index]], regions[regions["class"] == label]) for index, label in enumerate(classes)
    ]
    return pd.DataFrame([*rows, _statistics("all", areas, regions)]).round(4)


def _statistics(label: str, areas: NDArray[np.float64], regions: "pd.DataFrame") -> dict[str, Any]:
    """A row of the summary; areas (N, 1) of one class, or (N, K) of all."""
    masks = areas[areas > 0]
    with_mask = int((areas > 0).any(axis=1).sum())
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


def _pictures(
    names: list[str],
    split_of: dict[str, str],
    areas: NDArray[np.float64],
    black: NDArray[np.float64],
    classes: list[str],
) -> "pd.DataFrame":
    """One row a picture; the split of one that splits.csv leaves out is empty."""
    import pandas as pd

    table = pd.DataFrame({"name": names, "split": [split_of.get(name, "") for name in names]})
    table["masks"] = (areas > 0).sum(axis=1)
    for label, area in zip(classes, areas.T, strict=True):
        table[f"area_{label}"] = area.round(4)
    table["black"] = black.round(4)
    return table


def _charts(
    areas: NDArray[np.float64], regions: "pd.DataFrame", black: NDArray[np.float64], classes: list[str]
) -> "dict[str, pd.Series[Any]]":
    import pandas as pd

    present = areas > 0
    per_picture = np.bincount(present.sum(axis=1), minlength=len(classes) + 1)
    numbers = range(0 if per_picture[0] else 1, len(classes) + 1)
    region_counts = regions.groupby(["picture", "class"]).size().clip(upper=8)
    per_mask = region_counts.value_counts().reindex(range(1, 9), fill_value=0)
    class_index = pd.Index(classes, name="class")
    return {
        "Pictures by number of masks": pd.Series(
            per_picture[list(numbers)], pd.Index(numbers, name="masks"), name="pictures"
        ),
        "Pictures of each class": pd.Series(present.sum(axis=0), class_index, name="pictures"),
        "Empty cells of each class": pd.Series((~present).sum(axis=0), class_index, name="pictures without it"),
        "Areas of masks": _histogram(areas[present], "share of the picture", "masks"),
        "Regions of each mask": per_mask.rename("masks").rename(index={8: "8+"}).rename_axis("regions"),
        "How far regions fill their boxes": _histogram(regions["fill"], "share of the box", "regions"),
        "Widths of region boxes": _histogram(regions["width"], "share of the picture's width", "regions"),
        "Heights of region boxes": _histogram(regions["height"], "share of the picture's height", "regions"),
        "Black pixels": _histogram(
            black, "share of the picture", "pictures", max(0.1, math.ceil(black.max() * 10) / 10)
        ),
    }


def _histogram(
    shares: "NDArray[np.float64] | pd.Series[Any]", share_of: str, what: str, highest: float = 1.0
) -> "pd.Series[Any]":
    """How many shares lie in each of twenty bins from 0 to `highest`."""
    import pandas as pd

    counts, edges = np.histogram(shares, bins=20, range=(0, highest))
    return pd.Series(counts, pd.IntervalIndex.from_breaks(edges.round(4), name=share_of), name=what)


def _examples(source: MaskSource, areas: NDArray[np.float64]) -> list[tuple[str, NDArray[np.uint8], NDArray[np.bool_]]]:
    """Pictures with small to large masks of every class, each picture once."""
    shown: list[int] = []
    for of_class in areas.T:
        by_area = [
            row for row in np.argsort(of_class, kind="stable").tolist() if of_class[row] > 0 and row not in shown
        ]
        places = np.linspace(0, len(by_area), max(1, EXAMPLES // areas.shape[1]) + 2)[1:-1].astype(int)
        shown += [by_area[place] for place in dict.fromkeys(places.tolist()) if place < len(by_area)]
    examples = []
    for row in shown:
        name = source.names[row]
        picture = read_picture(source.path(name))
        size = EXAMPLE_HEIGHT, max(1, round(EXAMPLE_HEIGHT * picture.shape[1] / picture.shape[0]))
        examples.append((name, resized(picture, size), source.masks(name, size)))
    return examples
