"""Shares images to predict among shards: whole rows of windows, several shards per image, or whole images."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from datamodules.decoded.predicted import WholePictures, Windows
from datamodules.decoded.scenes import PredictedScene
from datamodules.loaders import Samples
from datamodules.read.pictures import BACKGROUND, fitted, picture_size
from datamodules.read.strips import Strip
from ops.errors import ArgumentError, DataError
from ops.geo.rasters import Georeference
from ops.windows import Size

END = -1  # instead of the row after an image's last one


@dataclass(frozen=True)
class Share:
    """Rows of an image that one shard predicts.

    Attributes:
        shard: Number of the shard.
        picture: Number of the image.
        name: Its name.
        rows: First row of the share, and the one after its last; `END` for the end of the image.
        samples: Its windows among all samples. The first may lie above `rows` and reach into them.
    """

    shard: int
    picture: int
    name: str
    rows: tuple[int, int]
    samples: range


def plan(samples: Samples, shards: int) -> list[Share]:
    """Returns the shares of all shards, in the order of the images and their rows.

    Shards get equally many rows of windows, whatever the number and the size of the images; an image that is predicted
    whole is one row.

    Args:
        samples: Those of `datamodules.decoded.predicted.predicted`, or of `PredictedScene`.
        shards: Number of shards.

    Raises:
        ArgumentError: The samples are others, which cannot be shared.
    """
    make = samples.make
    if not isinstance(make, WholePictures | Windows | PredictedScene):
        raise ArgumentError(
            "--shards is for tasks that mark masks, such as roads, clouds and avalanches. Split the folder of images "
            "instead, and predict each part."
        )
    rows: list[tuple[int, list[int]]] = []  # number of the image, and the first sample of each row of its windows
    for picture, group in enumerate(samples.groups):
        tops = [make.places[index][1] if isinstance(make, Windows) else 0 for index in group]
        starts = [k for k in range(len(group)) if not k or tops[k] != tops[k - 1]]
        rows += [(picture, [group[k] for k in starts])]
    total = sum(len(starts) for _, starts in rows)
    bounds = [total * shard // shards for shard in range(shards + 1)]
    shares, before = [], 0
    for picture, starts in rows:
        for shard in range(shards):
            first, last = (min(max(bound - before, 0), len(starts)) for bound in bounds[shard : shard + 2])
            if first < last:
                shares.append(_share(samples, shard, picture, starts, first, last))
        before += len(starts)
    return shares


def _share(samples: Samples, shard: int, picture: int, starts: Sequence[int], first: int, last: int) -> Share:
    """Returns the share of rows of windows from `first` to before `last`."""
    make, group = samples.make, samples.groups[picture]
    begin, end, reaching = 0, END, first
    if isinstance(make, Windows):
        tops = [make.places[start][1] for start in starts]
        begin = tops[first]
        end = tops[last] if last < len(starts) else END
        while reaching and tops[reaching - 1] + make.window[0] > begin:
            reaching -= 1
    stop = starts[last] if last < len(starts) else group.stop
    return Share(shard, picture, samples.names[group[0]], (begin, end), range(starts[reaching], stop))


@dataclass(frozen=True)
class SharedSample:
    """Makes the samples of `shared`; a class, which loader workers can receive.

    Attributes:
        samples: All samples.
        owners: The share of each sample.
        indices: Its number among all samples.
    """

    samples: Samples
    owners: Sequence[Share]
    indices: Sequence[int]

    def __call__(self, index: int) -> dict[str, Any]:
        """Returns sample `index`."""
        share = self.owners[index]
        sample = self.samples.make(self.indices[index])
        return {**sample, "picture": share.picture, "rows": torch.tensor(share.rows)}


def shared(samples: Samples, shares: Sequence[Share]) -> Samples:
    """Returns the samples of some shares, with `picture`, the number of the image, and `rows` (2,), those of the share.

    Args:
        samples: Samples that the shares were planned for.
        shares: At most one share per image.
    """
    owners = [share for share in shares for _ in share.samples]
    make = SharedSample(samples, owners, [index for share in shares for index in share.samples])
    ends = np.cumsum([0, *(len(share.samples) for share in shares)]).tolist()
    groups = [range(*pair) for pair in pairwise(ends)]
    return Samples([share.name for share in owners], make, samples.seed, groups)


@dataclass(frozen=True)
class Background:
    """What is drawn below the masks of an image, and where it lies.

    Attributes:
        source: The image (h, w, 3), its longer side reduced to at most 1200 pixels; empty if it cannot be read.
        georeference: Where it lies on the ground; None if unknown.
        boxes: Corners of the boxes that were looked into; none if the whole image was.
        problem: Why it cannot be read, or "".
    """

    source: NDArray[np.uint8]
    georeference: Georeference | None = None
    boxes: Sequence[tuple[float, float, float, float]] = ()
    problem: str = ""


def background(samples: Samples, picture: int) -> Background:
    """Returns the background of an image, the same as in the last sample of an image that is predicted at once."""
    make = samples.make
    if isinstance(make, WholePictures | PredictedScene):
        sample = make(picture)
        return Background(sample["source"], sample.get("georeference"), sample.get("boxes", ()), sample["problem"])
    assert isinstance(make, Windows)
    file, inputs = make.files[picture], make.inputs
    try:
        size: Size = picture_size(file, inputs.channels)
        strip = Strip(file, size, 1, fitted(size, BACKGROUND), inputs.channels)
        strip.move(size[0] - 1)
        return Background(strip.view(), inputs.reference(file))
    except DataError as error:
        return Background(np.zeros((0, 0, 3), np.uint8), problem=str(error))
