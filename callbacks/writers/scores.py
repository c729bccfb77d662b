"""Writes the scores of judged images as a table, a page and a contact sheet, the best first."""

import math
from collections.abc import Iterator
from typing import Any

from callbacks.writers.base import Writer
from callbacks.writers.judged import SCORES, Judged, ScoreOverview, ScoreTable
from datamodules.batch import Batch
from ops.errors import ArgumentError


class ScoreWriter(Writer[Judged]):
    """Writes the scores of all images, best first, into the run folder.

    - `scores.csv`: `name,probability,mean,spread,problem`, without `mean` and `spread` if the task predicts no votes,
      and without `problem` if every image is usable. Unusable images come last, with only their `problem`.
    - `overview.html`: all images on one page, see `callbacks.writers.overview`.
    - `contact_sheet.png`: the best of them as one image.

    The task predicts `probability` (B,), and maybe `mean` and `spread` (B,), or None. Batches have `name`, `index`,
    `source`, small images (h, w, 3), and `problem`, "" for usable ones. Small images wait on the disk, so that memory
    holds only a row of scores for each.

    Args:
        on_page: Maximum number of images in `overview.html`, about 15 kB each.
        on_sheet: Maximum number of images in `contact_sheet.png`.

    Raises:
        ArgumentError: One of them is below 1.
    """

    def __init__(self, on_page: int = 2000, on_sheet: int = 120) -> None:
        if on_page < 1 or on_sheet < 1:
            raise ArgumentError(f"expected on_page and on_sheet of at least 1, got {on_page} and {on_sheet}")
        super().__init__([ScoreTable(), ScoreOverview(on_page, on_sheet)])

    def images(self, outputs: Any, batch: Batch) -> Iterator[Judged]:
        given = {name: outputs[name].tolist() for name in SCORES if outputs.get(name) is not None}
        for i, name in enumerate(batch["name"]):
            index, problem = int(batch["index"][i]), batch["problem"][i]
            scores = {key: given[key][i] if key in given and not problem else math.nan for key in SCORES}
            yield Judged(name=name, index=index, problem=problem, source=batch["source"][i], **scores)
