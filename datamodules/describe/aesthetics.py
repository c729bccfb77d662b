"""What `belvedere describe` says of photographs with votes: tables, charts, examples, and what training sees."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from datamodules.aesthetics import AestheticsDataModule
from datamodules.base import SPLITS
from datamodules.describe.study import Panel, Study
from datamodules.read.pictures import channels_first, read_picture
from datamodules.votes.checked import Checked
from datamodules.votes.pictures import read_square
from datamodules.votes.votes import Statistic, mean_votes, median_votes, near, vote_spreads
from ops.augment import central_crops
from ops.errors import collected

if TYPE_CHECKING:
    import pandas as pd

EXAMPLES = 8
SEEN = 3  # pictures that are shown as training sees them, 4 times each
VIEW = 640  # pixels a side that examples have at least, where the picture has them


def problems(data: AestheticsDataModule) -> list[str]:
    """Returns everything that is wrong with a dataset, a sentence each; opens every file."""
    found = collected([lambda: data.checked(open_all=True)])
    return found + (collected([data.predicted_names]) if data.pictures is not None else [])


def study(data: AestheticsDataModule) -> Study:
    """Votes, class ratios and spread; what is near the threshold; how large networks are; and examples.

    Raises:
        DataError: The data are not as wanted; all problems are listed.
    """
    found = data.checked(open_all=True)
    pictures = picture_table(found)
    made = tables(found, pictures, data.statistic, data.delta)
    return Study(
        tables=made,
        charts=charts(found, pictures, data.statistic, made["deltas"]),
        examples=_examples(data, pictures),
        panels={"training": _seen(data, found)},
    )


def _examples(
    data: AestheticsDataModule, pictures: "pd.DataFrame"
) -> list[tuple[str, NDArray[np.uint8], NDArray[np.bool_]]]:
    """Pictures from the lowest to the highest mean vote."""
    shown = []
    for each in pictures.loc[across(pictures, EXAMPLES)].itertuples():
        picture = read_picture(data.root / "images" / str(each.name), at_least=(VIEW, VIEW))
        title = f"{each.mean:.2f} ± {each.spread:.2f}: {each.name}"
        shown.append((title, picture, np.zeros((0, *picture.shape[:2]), np.bool_)))
    return shown


def _seen(data: AestheticsDataModule, found: Checked) -> Panel:
    """A few training pictures: the squares that are loaded, what is tested on, and what training makes of them."""
    rows = found.trained[np.unique(np.linspace(0, len(found.trained) - 1, SEEN).round().astype(int))]
    lines = []
    for row in rows.tolist():
        path = data.root / "images" / found.votes.names[row]
        image = channels_first(read_square(path, data.side, data.squeeze))[None]
        crops = data.trained_on(image.expand(4, -1, -1, -1), 4 * row + torch.arange(4))
        views = [image[0], central_crops(image, data.size)[0], *crops]
        lines.append([np.ascontiguousarray(view.permute(1, 2, 0).numpy()) for view in views])
    return ["loaded", "in validation", *["in training"] * 4], lines


BINS = 20  # of histograms, at most
FINE, WHOLE = (0.1, 0.25, 0.5), (1, 2, 3, 4, 5, 6, 8)  # widths of bins of means and of counts; or 10, 100, … times that
NEAR = (0.0, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0)  # δ of the table, as far as the scale goes


def tables(found: Checked, pictures: "pd.DataFrame", statistic: Statistic, delta: float) -> "dict[str, pd.DataFrame]":
    """All tables, the summary first.

    Args:
        found: A data set.
        pictures: What `picture_table` makes of it.
        statistic: What its threshold is held against.
        delta: What training is asked to leave out; the table of δ has a row of it.
    """
    import pandas as pd

    made = {
        "summary": _summary(found, pictures, statistic),
        "votes": _votes(found, pictures),
        "deltas": delta_table(found, pictures, delta),
        "sizes": size_table(),
    }
    if found.tags.names:
        made["tags"] = _tags(found, pictures)
    if found.problems:
        made["unusable"] = pd.DataFrame({"name": list(found.problems), "problem": list(found.problems.values())})
    return {**made, "pictures": pictures.round({"mean": 4, "spread": 4})}


def picture_table(found: Checked) -> "pd.DataFrame":
    """One row a photograph that can be used: split, "" for none, votes, their mean, median and spread, and its class.

    The index is its row among the votes.
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


def _parts(pictures: "pd.DataFrame") -> "list[tuple[str, pd.DataFrame]]":
    return [*((split, pictures[pictures["split"] == split]) for split in SPLITS), ("all", pictures)]


def _summary(found: Checked, pictures: "pd.DataFrame", statistic: Statistic) -> "pd.DataFrame":
    """One row a split, then one of all photographs."""
    import pandas as pd

    rows = []
    for name, part in _parts(pictures):
        professional = int(part["professional"].sum())
        rows.append(
            {
                "split": name,
                "pictures": len(part),
                f"{statistic}_above_{found.threshold:g}": professional,
                "professional": professional / max(1, len(part)),
                "majority": max(professional, len(part) - professional) / max(1, len(part)),
                "votes_a_picture": part["votes"].mean(),
                "mean": part["mean"].mean(),
                "spread": part["spread"].mean(),
            }
        )
    return pd.DataFrame(rows).round(3)


def _votes(found: Checked, pictures: "pd.DataFrame") -> "pd.DataFrame":
    """How often each vote was given in each split, and the shares."""
    import pandas as pd

    table = pd.DataFrame({"vote": range(1, found.votes.bins + 1)})
    for name, part in _parts(pictures):
        counts = found.votes.counts[part.index].sum(axis=0, dtype=np.int64)
        table[name], table[f"{name}_share"] = counts, (counts / max(1, counts.sum())).round(4)
    return table


def delta_table(found: Checked, pictures: "pd.DataFrame", delta: float) -> "pd.DataFrame":
    """Photographs near the threshold: for each δ, how many there are, and what would be left to train on."""
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


def size_table() -> "pd.DataFrame":
    """The networks of the paper and the one with public weights: parameters, MiB, and the paper's table I."""
    import pandas as pd

    table = pd.DataFrame([size._asdict() for size in network_sizes()])
    printed = [PRINTED.get(size.network, {}).get(size.dense_width, (None, None)) for size in network_sizes()]
    table["printed_millions"], table["printed_mb"] = (
        pd.Series(column, dtype=float) for column in zip(*printed, strict=True)
    )
    widest = table.groupby("network")["parameters"].transform("max")
    table.insert(4, "share_of_widest", (table["parameters"] / widest).round(4))
    table["mebibytes"] = table["mebibytes"].round(3)
    return table


def _tags(found: Checked, pictures: "pd.DataFrame") -> "pd.DataFrame":
    """One row a tag, the most frequent first."""
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


def charts(
    found: Checked, pictures: "pd.DataFrame", statistic: Statistic, deltas: "pd.DataFrame"
) -> "dict[str, pd.Series[Any]]":
    """Histograms of votes, of their means, spreads and numbers, class shares, and what is near the threshold.

    Args:
        found: A data set.
        pictures: What `picture_table` makes of it.
        statistic: What its threshold is held against.
        deltas: What `delta_table` makes of it.
    """
    import pandas as pd

    bins = found.votes.bins

    def counted(axis: str, column: str, edges: NDArray[np.float64]) -> "pd.Series[Any]":
        counts, _ = np.histogram(pictures[column], edges)
        return pd.Series(counts, pd.IntervalIndex.from_breaks(edges, name=axis), name="pictures")

    counts = found.votes.counts[pictures.index].sum(axis=0, dtype=np.int64)
    most = int(pictures["votes"].max()) if len(pictures) else 1
    above = f"{statistic} above {found.threshold:g}"
    classes = {name: float(part["professional"].mean()) for name, part in _parts(pictures) if len(part)}
    sizes = network_sizes()
    return {
        "Votes": pd.Series(
            counts / max(1, counts.sum()), pd.RangeIndex(1, bins + 1, name="vote"), name="share of all votes"
        ),
        "Mean votes": counted("mean vote", "mean", edges(1, bins, FINE)),
        "Spread of the votes": counted("standard deviation", "spread", edges(0, (bins - 1) / 2, FINE)),
        "Votes on a picture": counted("votes", "votes", edges(0, max(1, most), WHOLE)),
        "Professional shots": pd.Series(classes, name="share of the pictures").rename_axis(above),
        "Training pictures near the threshold": deltas.set_index("delta")["train_near"].rename("pictures")
        .rename_axis(f"δ: distance of the {statistic} from {found.threshold:g}, at most"),
        "Sizes of the networks": pd.Series(
            [round(size.mebibytes, 1) for size in sizes],
            pd.Index([f"{size.network} {size.dense_width}" for size in sizes], name="network, dense width"),
            name="MiB",
        ),
    }  # fmt: skip


def edges(low: float, high: float, widths: Sequence[float]) -> NDArray[np.float64]:
    """Edges of at most 20 bins from `low` on, the last at `high` or behind it.

    They are as narrow as the widths, and these times powers of ten, allow.
    """
    fitting = (width * 10**power for power in range(10) for width in widths)
    width = next(each for each in fitting if high - low <= BINS * each)
    count = math.ceil(round((high - low) / width, 6))
    return np.array([low + width * place for place in range(max(1, count) + 1)], np.float64)


def across(pictures: "pd.DataFrame", count: int) -> list[int]:
    """Rows of so many photographs, from the lowest to the highest mean vote, as many between each two."""
    ordered = pictures["mean"].sort_values(kind="stable").index
    places = np.unique(np.linspace(0, len(ordered) - 1, count).round().astype(int))
    return [int(row) for row in ordered[places]]


WIDTHS = (4096, 1000, 500, 250)
"""Nodes of the dense layers in table I of F. Rubio, M. J. Flores and J. M. Puerta, "Clasificación de fotografías según
su calidad estética" (2018)."""
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
"""Channels that each convolution takes and gives, and the side of its kernel."""
INPUTS = {"alexnet": 256 * 6 * 6, "alexnet_torchvision": 256 * 6 * 6, "vgg16": 512 * 7 * 7}
"""What fc6 is given: the last map, flat."""
PRINTED: dict[str, dict[int, tuple[float, int]]] = {
    "alexnet": dict(zip(WIDTHS, ((60, 223), (14, 54), (8.6, 33), (6.1, 24)), strict=True)),
    "vgg16": dict(zip(WIDTHS, ((134, 513), (41, 156), (28, 106), (21, 81)), strict=True)),
}
"""The paper's table I: millions of parameters and size in MB, by network and width."""


class NetworkSize(NamedTuple):
    """The size of one network.

    Attributes:
        network: One of `CONVOLUTIONS`.
        dense_width: Nodes of fc6 and of fc7.
        parameters: How many.
        mebibytes: On disk, in float32, without what a file's format adds.
    """

    network: str
    dense_width: int
    parameters: int
    mebibytes: float


def network_size(network: str, dense_width: int, outputs: int = 2) -> NetworkSize:
    """The size of a network with dense layers fc6, fc7 and output, every layer with biases.

    Args:
        network: One of `CONVOLUTIONS`.
        dense_width: Nodes of fc6 and of fc7.
        outputs: Nodes of the output.

    Raises:
        ValueError: There is no such network, or no node.
    """
    if network not in CONVOLUTIONS or dense_width < 1 or outputs < 1:
        raise ValueError(
            f"{network=}, {dense_width=}, {outputs=}: one of {', '.join(CONVOLUTIONS)} and 1 node or more were wanted"
        )
    parameters = sum((inputs * kernel**2 + 1) * channels for inputs, channels, kernel in CONVOLUTIONS[network])
    nodes = (INPUTS[network], dense_width, dense_width, outputs)
    parameters += sum((inputs + 1) * layer for inputs, layer in pairwise(nodes))
    return NetworkSize(network, dense_width, parameters, parameters * 4 / 2**20)


def network_sizes(outputs: int = 2) -> list[NetworkSize]:
    """The sizes of all networks of `CONVOLUTIONS`, each with dense layers of all `WIDTHS`."""
    return [network_size(network, width, outputs) for network in CONVOLUTIONS for width in WIDTHS]
