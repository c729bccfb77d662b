"""What `belvedere describe` says of photographs with votes: tables, charts, examples, and what training sees."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from datamodules.aesthetics import AestheticsDataModule
from datamodules.aesthetics_tables import across, charts, picture_table, tables
from datamodules.base import Panel, Study
from datamodules.decoded import channels_first
from datamodules.files import read_picture
from datamodules.scored_pictures import read_square
from datamodules.scored_set import Checked
from ops.crops import central_crops

if TYPE_CHECKING:
    import pandas as pd

EXAMPLES = 8
SEEN = 3  # pictures that are shown as training sees them, 4 times each
VIEW = 640  # pixels a side that examples have at least, where the picture has them


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
