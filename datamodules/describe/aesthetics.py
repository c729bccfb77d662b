"""Checks and describes photographs with votes: votes, classes, images near the threshold, and sizes of networks.

The networks are those of F. Rubio, M. J. Flores and J. M. Puerta, "Optimización de las técnicas de Transfer Learning
para la clasificación de la calidad estética en fotografía".
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from datamodules.aesthetics import AestheticsDataModule
from datamodules.base import SPLITS
from datamodules.describe.study import (
    BINS,
    Chart,
    Panel,
    Study,
    bars,
    by_split,
    histogram,
    spread,
    summary,
    without_masks,
)
from datamodules.read.names import located
from datamodules.read.pictures import channels_first, read_picture
from datamodules.votes.checked import Checked
from datamodules.votes.pictures import read_square
from datamodules.votes.votes import Statistic, mean_votes, median_votes, near, vote_spreads
from ops.augment import central_crops
from ops.errors import collected

if TYPE_CHECKING:
    import pandas as pd

SEEN = 3  # images shown as training sees them, 4 times each
VIEW = 640  # smallest side of the examples in pixels, for images that have as many
FINE, WHOLE = (0.1, 0.25, 0.5), (1, 2, 3, 4, 5, 6, 8)  # bin widths of means and of counts, times powers of ten
NEAR = (0.0, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0)  # δ of the table, as far as the scale goes

WIDTHS = (4096, 1000, 500, 250)
"""Nodes of the dense layers in the paper's table I."""
CONVOLUTIONS = {
    "alexnet": ((3, 96, 11), (96, 256, 5), (256, 384, 3), (384, 384, 3), (384, 256, 3)),
    "alexnet_torchvision": ((3, 64, 11), (64, 192, 5), (192, 384, 3), (384, 256, 3), (256, 256, 3)),
    "vgg16": tuple(
        (inputs, outputs, 3)
        for inputs, outputs in (
            (3, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 256),
            (256, 512), (512, 512), (512, 512), (512, 512), (512, 512), (512, 512),
        )
    ),
}  # fmt: skip
"""Input channels, output channels and kernel size of each convolution."""
FLAT = {"alexnet": 256 * 6 * 6, "alexnet_torchvision": 256 * 6 * 6, "vgg16": 512 * 7 * 7}
"""Number of inputs of fc6: the last feature map, flattened."""
PRINTED: dict[str, dict[int, tuple[float, int]]] = {
    "alexnet": dict(zip(WIDTHS, ((60, 223), (14, 54), (8.6, 33), (6.1, 24)), strict=True)),
    "vgg16": dict(zip(WIDTHS, ((134, 513), (41, 156), (28, 106), (21, 81)), strict=True)),
}
"""The paper's table I: millions of parameters and size in MB, by network and width."""


def problems(data: AestheticsDataModule) -> list[str]:
    """Returns everything that is wrong with a dataset, one sentence each; opens every file."""
    found = collected([lambda: data.checked(open_all=True)])
    return found + (collected([data.predicted_names]) if data.pictures is not None else [])


def study(data: AestheticsDataModule) -> Study:
    """Returns votes, classes, images near the threshold and sizes of networks, with examples and training crops.

    Raises:
        DataError: The dataset has problems; the message lists all of them.
    """
    found = data.checked(open_all=True)
    pictures = picture_table(found)
    made = tables(found, pictures, data.statistic, data.delta)
    examples = []
    for row in spread(pictures["mean"].sort_values(kind="stable").index.tolist()):
        name, mean, deviation = pictures.loc[row, ["name", "mean", "spread"]]
        image = read_picture(located(data.root / "images", name), at_least=(VIEW, VIEW))
        examples.append(without_masks(f"{mean:.2f} ± {deviation:.2f}: {name}", image))
    return Study(
        tables=made,
        charts=charts(found, pictures, data.statistic, made),
        examples=examples,
        panels={"training": _seen(data, found)},
    )


def _seen(data: AestheticsDataModule, found: Checked) -> Panel:
    """Returns a few training images: the squares that are loaded, the validation crop, and training crops."""
    rows = spread(found.trained.tolist(), SEEN)
    lines = []
    for row in rows:
        path = located(data.root / "images", found.votes.names[row])
        image = channels_first(read_square(path, data.side, data.squeeze))[None]
        crops = data.trained_on(image.expand(4, -1, -1, -1), 4 * row + torch.arange(4))
        views = [image[0], central_crops(image, data.size)[0], *crops]
        lines.append([np.ascontiguousarray(view.permute(1, 2, 0).numpy()) for view in views])
    titles = ["loaded", "in validation", *["in training"] * 4]
    return Panel(titles, lines, [found.votes.names[row] for row in rows])


def picture_table(found: Checked) -> "pd.DataFrame":
    """Returns one row per usable image: its split ("" for none), votes, their mean, median and spread, and its class.

    The index is the row of the image among the votes.
    """
    import pandas as pd

    names, counts = list(found.votes.names), found.votes.counts
    splits = np.full(len(names), "", object)
    for split, rows in found.splits.items():
        splits[rows] = split
    table = pd.DataFrame(
        {
            "name": names,
            "split": splits,
            "votes": counts.sum(axis=1, dtype=np.int64),
            "mean": mean_votes(counts),
            "median": median_votes(counts),
            "spread": vote_spreads(counts),
            "professional": found.professional,
        }
    )
    return table[~table["name"].isin(list(found.problems))]


def tables(found: Checked, pictures: "pd.DataFrame", statistic: Statistic, delta: float) -> "dict[str, pd.DataFrame]":
    """Returns all tables, the summary first.

    Args:
        found: A checked dataset.
        pictures: Its `picture_table`.
        statistic: The statistic that is compared with the threshold.
        delta: Training skips images closer to the threshold; the table of δ includes this value.
    """
    import pandas as pd

    def row(part: "pd.DataFrame") -> dict[str, Any]:
        professional = int(part["professional"].sum())
        return {
            "pictures": len(part),
            f"{statistic}_above_{found.threshold:g}": professional,
            "professional": professional / max(1, len(part)),
            "majority": max(professional, len(part) - professional) / max(1, len(part)),
            "votes_a_picture": part["votes"].mean(),
            "mean": part["mean"].mean(),
            "spread": part["spread"].mean(),
        }

    made = {
        "summary": summary("split", by_split(pictures), row, 3),
        "votes": _vote_table(found, pictures),
        "deltas": delta_table(found, pictures, delta),
        "sizes": size_table(),
    }
    if found.tags.names:
        made["tags"] = _tag_table(found, pictures)
    if found.problems:
        made["unusable"] = pd.DataFrame({"name": list(found.problems), "problem": list(found.problems.values())})
    return {**made, "pictures": pictures.round({"mean": 4, "spread": 4})}


def _vote_table(found: Checked, pictures: "pd.DataFrame") -> "pd.DataFrame":
    """Returns how often each vote was given in each split, and the shares."""
    import pandas as pd

    table = pd.DataFrame({"vote": range(1, found.votes.bins + 1)})
    for name, part in by_split(pictures):
        counts = found.votes.counts[part.index].sum(axis=0, dtype=np.int64)
        table[name], table[f"{name}_share"] = counts, (counts / max(1, counts.sum())).round(4)
    return table


def delta_table(found: Checked, pictures: "pd.DataFrame", delta: float) -> "pd.DataFrame":
    """Returns for each δ how many images are that close to the threshold, and what would be left to train on."""
    import pandas as pd

    train = pictures[pictures["split"] == "train"]
    widest = (found.votes.bins - 1) / 2
    rows = []
    for step in sorted({*(each for each in NEAR if each < widest), delta}):
        close, out = (near(found.scores[part.index], found.threshold, step) for part in (pictures, train))
        left = train[~out]
        rows.append(
            {
                "delta": step,
                "near": int(close.sum()),
                "train_near": int(out.sum()),
                "train_left": len(left),
                "train_professional": round(float(left["professional"].mean()), 4) if len(left) else 0.0,
            }
        )
    return pd.DataFrame(rows)


def _tag_table(found: Checked, pictures: "pd.DataFrame") -> "pd.DataFrame":
    """Returns one row per tag, the most frequent first."""
    import pandas as pd

    rows = [(tag, row) for row in pictures.index for tag in found.tags.of(row)]
    owned = pd.DataFrame(rows, columns=["tag", "row"]).join(pictures, on="row")
    for split in SPLITS:
        owned[split] = owned["split"] == split
    of = owned.groupby("tag")
    table = of.agg(
        pictures=("name", "size"), **{split: (split, "sum") for split in SPLITS},
        professional=("professional", "mean"), mean=("mean", "mean"), spread=("spread", "mean"),
    )  # fmt: skip
    return table.round(3).sort_values("pictures", ascending=False, kind="stable").reset_index()


def size_table() -> "pd.DataFrame":
    """Returns parameters and MiB (float32, without file overhead) of each network, beside the paper's table I."""
    import pandas as pd

    none = (math.nan, math.nan)
    rows = []
    for network, width in ((network, width) for network in CONVOLUTIONS for width in WIDTHS):
        parameters = parameter_count(network, width)
        millions, megabytes = PRINTED.get(network, {}).get(width, none)
        share = parameters / parameter_count(network, max(WIDTHS))
        rows.append(
            (network, width, parameters, round(parameters * 4 / 2**20, 3), round(share, 4), millions, megabytes)
        )
    return pd.DataFrame(rows, columns=["network", "dense_width", "parameters", "mebibytes", "share_of_widest",
                                       "printed_millions", "printed_mb"])  # fmt: skip


def parameter_count(network: str, dense_width: int, outputs: int = 2) -> int:
    """Returns the number of parameters of a network, biases included.

    Args:
        network: One of `CONVOLUTIONS`.
        dense_width: Nodes of fc6 and of fc7.
        outputs: Nodes of the output layer.
    """
    convolutions = sum((inputs * kernel**2 + 1) * channels for inputs, channels, kernel in CONVOLUTIONS[network])
    nodes = (FLAT[network], dense_width, dense_width, outputs)
    return convolutions + sum((inputs + 1) * layer for inputs, layer in pairwise(nodes))


def charts(
    found: Checked, pictures: "pd.DataFrame", statistic: Statistic, made: "dict[str, pd.DataFrame]"
) -> dict[str, Chart]:
    """Returns charts of the votes, classes and networks.

    Args:
        found: A checked dataset.
        pictures: Its `picture_table`.
        statistic: The statistic that is compared with the threshold.
        made: Its `tables`.
    """
    bins, votes, deltas, sizes = found.votes.bins, made["votes"]["all"], made["deltas"], made["sizes"]
    most = max(1, int(pictures["votes"].max())) if len(pictures) else 1
    classes = {name: float(part["professional"].mean()) for name, part in by_split(pictures) if len(part)}
    above = f"{found.threshold:g}"
    return {
        "How often each vote was given": bars(
            votes / max(1, votes.sum()), range(1, bins + 1), "vote", "share of all votes"
        ),
        "Mean vote of each image": histogram(pictures["mean"], edges(1, bins, FINE), "mean vote"),
        "Disagreement about each image": histogram(
            pictures["spread"], edges(0, (bins - 1) / 2, FINE), "standard deviation of its votes"
        ),
        "Number of votes per image": histogram(pictures["votes"], edges(0, most, WHOLE), "votes"),
        "Professional shots in each split": bars(
            list(classes.values()), list(classes), f"{statistic} above {above}", "share of the images"
        ),
        "Training images near the threshold": bars(
            deltas["train_near"], deltas["delta"].tolist(), f"δ: distance of the {statistic} from {above}, at most"
        ),
        "Sizes of the paper's networks": bars(
            sizes["mebibytes"].round(1),
            [f"{network} {width}" for network, width in zip(sizes["network"], sizes["dense_width"], strict=True)],
            "network, dense width",
            "MiB",
        ),
    }


def edges(low: float, high: float, widths: Sequence[float]) -> NDArray[np.float64]:
    """Returns edges of at most 20 bins from `low`, the last at or above `high`.

    The bins are as narrow as the widths, and their multiples by powers of ten, allow.
    """
    fitting = (width * 10**power for power in range(10) for width in widths)
    width = next(each for each in fitting if high - low <= BINS * each)
    count = math.ceil(round((high - low) / width, 6))
    return np.array([low + width * place for place in range(max(1, count) + 1)], np.float64)
