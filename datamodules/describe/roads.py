"""Checks and describes a roads dataset: categories, splits, road shares, and what training makes of tiles."""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from datamodules.decoded.tiles import Tiles
from datamodules.describe.study import (
    Chart,
    Example,
    Image,
    Panel,
    Study,
    counts,
    histogram,
    prediction_checks,
    split_column,
    spread,
    summary,
)
from datamodules.read.pictures import channels_first
from datamodules.read.rasters import shown
from datamodules.roads import RoadsDataModule
from ops.errors import collected

if TYPE_CHECKING:
    import pandas as pd

ALTERED = 2  # tiles shown as training alters them
TITLES = {
    "few": ["in training"] * 4,
    "rotations": ["0°", "90°", "180°", "270°"],
    "both": [f"{turn}°, filtered or not" for turn in (0, 90, 180, 270)],
}
"""Titles of what each strategy makes of a tile; `filters` has the names of the filters."""


def problems(data: RoadsDataModule) -> list[str]:
    """Returns everything that is wrong with a dataset, one sentence each that names the file."""
    return collected([lambda: _splits(data, data.tiles()), *prediction_checks(data, data.pictures)])


def _splits(data: RoadsDataModule, tiles: Tiles) -> dict[str, list[str]]:
    return data.split_by_category(tiles.source, tiles.marked)


def study(data: RoadsDataModule) -> Study:
    """Returns categories, splits, road shares and sizes, examples, and what training makes of two tiles.

    Raises:
        DataError: The dataset has problems; the message lists all of them.
    """
    import pandas as pd

    tiles = data.tiles()
    names, categories = tiles.source.names, data.categories(tiles.source, tiles.marked)
    table = pd.DataFrame(
        {
            "name": names,
            "category": [categories[name] for name in names],
            "split": split_column(_splits(data, tiles), names),
            "height": tiles.sizes[:, 0],
            "width": tiles.sizes[:, 1],
            "tiles": np.bincount(tiles.owners, minlength=len(names)),
            "road": (tiles.marked / np.maximum(1, tiles.sizes.prod(axis=1) - tiles.ignored)).round(4),
        }
    )
    shares = [tiles.masks[row].mean() for row in range(len(tiles.pictures))]
    by_road = np.argsort(shares, kind="stable").tolist()
    return Study(
        tables={
            "summary": summary("category", [*table.groupby("category"), ("all", table)], _row, 4),
            "pictures": table,
        },
        charts=_charts(table),
        examples=[_example(tiles, row) for row in spread(by_road)],
        classes=["road"],
        panels=_altered(data, tiles, by_road),
    )


def _row(group: "pd.DataFrame") -> dict[str, Any]:
    """Returns the summary of a category."""
    return {
        "pictures": len(group),
        **{split: int((group["split"] == split).sum()) for split in ("train", "val", "test")},
        "tiles": int(group["tiles"].sum()),
        "mean_road": group["road"].mean(),
        "smallest_road": group["road"].min(),
        "largest_road": group["road"].max(),
    }


def _charts(table: "pd.DataFrame") -> dict[str, Chart]:
    with_road = table["road"][table["road"] > 0]
    highest = max(0.05, float(np.ceil(with_road.max() * 20) / 20)) if len(with_road) else 1.0
    sizes = table["width"].astype(str) + " x " + table["height"].astype(str)
    return {
        "Images of each category": counts(table["category"]),
        "Images of each split": counts(table["split"], "unused"),
        "Road area of images with roads": histogram(with_road, (0, highest), "share of the labeled pixels"),
        "Most frequent image sizes": counts(sizes).head(8).rename_axis("width x height"),
    }


def _example(tiles: Tiles, row: int) -> Example:
    name = tiles.source.names[tiles.owners[row]]
    return (
        name,
        np.array(shown(tiles.pictures[row])),
        np.concatenate(list(tiles.masks.sample(row).values())).astype(np.bool_),
    )


def _altered(data: RoadsDataModule, tiles: Tiles, by_road: list[int]) -> dict[str, Panel]:
    """Returns tiles beside what training makes of them, the masks below; nothing if training leaves tiles alone."""
    titles = ["tile", *(TITLES.get(data.strategy) or (name.replace("_", " ") for name in ("tile", *data.filters)))]
    lines: list[list[Image]] = []
    names: list[str] = []
    for row in by_road[::-1][:: max(1, len(by_road) // 4)][:ALTERED]:
        image, mask = channels_first(tiles.pictures[row])[None], torch.from_numpy(tiles.masks[row])[None]
        times = 4 if data.strategy == "few" else 1
        batch = data.copied({
            "image": image.expand(times, -1, -1, -1), "mask": mask.expand(times, -1, -1, -1).float(),
            "seed": 4 * row + torch.arange(times),
        })  # fmt: skip
        batch["image"] = batch["image"].float() / 255
        data.vary(batch)
        lines.append([_rows(image), *(_rows(255 * each[None]) for each in batch["image"])])
        lines.append([_rows(255 * each.expand(1, 3, -1, -1)) for each in (mask, *batch["mask"])])
        name = tiles.source.names[tiles.owners[row]]
        names += [name, f"mask of {name}"]
    if all(np.array_equal(line[0], each) for line in lines for each in line):
        return {}
    if all(np.array_equal(line[0], line[1]) for line in lines):  # the first copy is the tile
        titles, lines = titles[:1] + titles[2:], [line[:1] + line[2:] for line in lines]
    return {"altered": Panel(titles, lines, names)}


def _rows(image: torch.Tensor) -> Image:
    """Returns an image (1, C, H, W), levels up to 255, as (H, W, 3)."""
    return np.ascontiguousarray(shown(image[0].permute(1, 2, 0).round().byte().numpy()))
