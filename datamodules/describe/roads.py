"""What `belvedere describe` says of a roads data set: everything that is wrong with it, or tables and pictures."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from datamodules.decoded.tiles import Tiles
from datamodules.describe.study import Panel, Study
from datamodules.read.cache import check_pictures
from datamodules.read.pictures import channels_first, picture_files
from datamodules.roads import RoadsDataModule
from ops.errors import collected
from ops.filters import FILTERS, filtered

if TYPE_CHECKING:
    import pandas as pd

EXAMPLES = 8
COPIED = 2  # tiles whose copies are shown


def problems(data: RoadsDataModule) -> list[str]:
    """Everything that is wrong with a data set, a sentence each that names the file and what was wanted."""
    checks: list[Callable[[], object]] = [lambda: data.split_by_category(data.tiles())]
    if data.pictures is not None:
        pictures = data.pictures
        checks += [data.predicted_files, lambda: check_pictures(picture_files(pictures))]
    return collected(checks)


def study(data: RoadsDataModule) -> Study:
    """Categories, splits, road shares and sizes; examples; and the copies of two tiles (the paper's figure 3).

    Raises:
        DataError: The data are not as wanted; all problems are listed.
    """
    tiles = data.tiles()
    categories = data.categories(tiles)
    split_of = {name: split for split, names in data.split_by_category(tiles).items() for name in names}
    table = _pictures(tiles, categories, split_of)
    by_road = np.argsort([tiles.masks[row].mean() for row in range(len(tiles.pictures))], kind="stable")
    return Study(
        tables={"summary": _summary(table), "pictures": table},
        charts=_charts(table),
        examples=_examples(tiles, by_road),
        classes=["road"],
        panels={"copies": _copies(tiles, by_road)},
    )


def _pictures(tiles: Tiles, categories: dict[str, str], split_of: dict[str, str]) -> "pd.DataFrame":
    """One row a picture; the split of one that was not drawn is empty."""
    import pandas as pd

    names = tiles.source.names
    return pd.DataFrame(
        {
            "name": names,
            "category": [categories[name] for name in names],
            "split": [split_of.get(name, "") for name in names],
            "height": tiles.sizes[:, 0],
            "width": tiles.sizes[:, 1],
            "tiles": np.bincount(tiles.owners, minlength=len(names)),
            "road": (tiles.marked / tiles.sizes.prod(axis=1)).round(4),
        }
    )


def _summary(table: "pd.DataFrame") -> "pd.DataFrame":
    """One row a category, then one of all together."""
    import pandas as pd

    groups = [*table.groupby("category"), ("all", table)]
    rows = [
        {
            "category": name,
            "pictures": len(group),
            **{split: int((group["split"] == split).sum()) for split in ("train", "val", "test")},
            "tiles": int(group["tiles"].sum()),
            "mean_road": group["road"].mean(),
            "smallest_road": group["road"].min(),
            "largest_road": group["road"].max(),
        }
        for name, group in groups
    ]
    return pd.DataFrame(rows).round(4)


def _charts(table: "pd.DataFrame") -> "dict[str, pd.Series[Any]]":
    import pandas as pd

    with_road = table["road"][table["road"] > 0]
    highest = max(0.05, float(np.ceil(with_road.max() * 20) / 20)) if len(with_road) else 1.0
    counts, edges = np.histogram(with_road, bins=20, range=(0, highest))
    shares = pd.IntervalIndex.from_breaks(edges.round(4), name="share of the picture")
    sizes = (table["width"].astype(str) + " x " + table["height"].astype(str)).value_counts()
    splits = table["split"].replace("", "not drawn").value_counts()
    return {
        "Pictures of each category": table["category"].value_counts().rename("pictures"),
        "Pictures of each split": splits.rename("pictures"),
        "Road, where there is any": pd.Series(counts, shares, name="pictures"),
        "Sizes": sizes.head(8).rename("pictures").rename_axis("width x height"),
    }


def _examples(tiles: Tiles, by_road: NDArray[np.int64]) -> list[tuple[str, NDArray[np.uint8], NDArray[np.bool_]]]:
    """Tiles from those with the least road to those with the most."""
    places = np.linspace(0, len(by_road) - 1, EXAMPLES).round().astype(int)
    chosen = dict.fromkeys(by_road[places].tolist())
    return [
        (tiles.source.names[tiles.owners[row]], np.array(tiles.pictures[row]), tiles.masks[row].astype(np.bool_))
        for row in chosen
    ]


def _copies(tiles: Tiles, by_road: NDArray[np.int64]) -> Panel:
    """Tiles and all the copies that training can make of them, the mask of each copy below it."""
    rows = by_road[::-1][:: max(1, len(by_road) // 4)][:COPIED].tolist()
    titles = ["tile", "90°", "180°", "270°", *(name.replace("_", " ") for name in FILTERS)]
    lines: list[list[NDArray[np.uint8]]] = []
    for row in rows:
        image, mask = channels_first(tiles.pictures[row])[None], torch.from_numpy(tiles.masks[row])[None] * 255
        turns = [(torch.rot90(image, turn, (2, 3)), torch.rot90(mask, turn, (2, 3))) for turn in range(4)]
        copies = [*turns, *((each, mask) for each in filtered(image, FILTERS))]
        lines.append([_picture(each) for each, _ in copies])
        lines.append([_picture(each.expand(-1, 3, -1, -1)) for _, each in copies])
    return titles, lines


def _picture(image: torch.Tensor) -> NDArray[np.uint8]:
    """(1, 3, H, W) as (H, W, 3)."""
    return np.ascontiguousarray(image[0].permute(1, 2, 0).numpy())
