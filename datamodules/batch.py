"""The contract between data modules and tasks: batches, and facts about the data."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Batch: TypeAlias = dict[str, Any]
"""One batch of B samples.

Every batch has `image` (B, 3, H, W), float32 sRGB in [0, 1]; `name`, a list of B image names; and `index` (B,), the
sample's number. What a task learns from is one of

- `mask` (B, K, h, w), float 0 or 1, of K classes; h and w may differ from the image's,
- `label` (B,), 0.0 or 1.0, of windows, with the `mask` (B, 1, h, w) of the whole window where it is known,
- `votes` (B, V), counts of the votes 1 to V, with `professional` (B,), 0.0 or 1.0, and `tags`, a list per image.

Whole images that are measured in windows come one per batch (B = 1), with `windows` (B, N, 3, y, x), uint8, at the
input size of the network and in the order of `ops.windows.window_grid`; `window` and `overlap` as below, `mask` at full
size, and `image` at any.

`valid` (B, 1, H, W), bool, marks the pixels that count; all count where it is missing. `ignored`, bool and of the size
of the mask, (B, 1, h, w), marks pixels whose truth is not known: they count in no loss, metric or fitted threshold.
`altered` is present where augmentation changed the images; where all it did was to mirror some, aesthetics have
`mirrored` (B,), bool, instead.

Batches to predict also have what stitching needs: `size` (B, 2), height and width of the whole output; `origin` and
`window` (B, 2), top left corner and size of the sample in it; `overlap`, the share that neighboring windows have in
common; `boxes`, a list of corners per image, if only these are looked into; and in an image's last sample `source`, the
image (H, W, 3) uint8, the background of its overlay. A data module may also give `georeference`, a list per sample of
where its image lies on the ground, `ops.geo.rasters.Georeference` or None; output formats find it in
`callbacks.writers.segmentation.stitched.Stitched`.

The frames of a film come one per batch and in order, with `frame`, a list of their `Frame`.
"""


class Frame(NamedTuple):
    """What is known of a frame besides its pixels.

    Attributes:
        film: The video file, or the folder of frames.
        number: Its place, from 0.
        total: How many frames the film has.
        name: Name of its image; "" in a video file.
        time: When it is shown, in units of the file's own clock; its number in a folder.
    """

    film: Path
    number: int
    total: int
    name: str
    time: int

    @property
    def last(self) -> bool:
        """Whether no frame follows."""
        return self.number + 1 == self.total


@dataclass(frozen=True)
class DataFacts:
    """What a task may know about its data besides the batches.

    `size`, `classes`, `window` and the given part of `vote_scale` follow from a data module's arguments and are right
    before any file is read; `tags`, `conditions` and the rest of `vote_scale` are right after `setup`.

    Attributes:
        size: Height and width of the images that the network gets; None where images keep their own size.
        classes: Names of the classes that the masks mark, in order; empty where the task names them.
        window: Side in pixels of the windows that a window classifier is trained on.
        tags: Tags and styles that some test image has.
        conditions: Conditions, such as the weather, that some test image was taken under.
        references: Color images that gray ones take colors from, a batch of each, in prediction.
        channels: Number of channels that the network gets; None where the task chooses, gray or color.
        vote_scale: The highest vote and the threshold above which an image is a professional shot; each None while
            unknown.
    """

    size: tuple[int, int] | None = None
    classes: Sequence[str] = ()
    window: int | None = None
    tags: Sequence[str] = ()
    conditions: Sequence[str] = ()
    references: Sequence[Batch] = ()
    channels: int | None = None
    vote_scale: tuple[int | None, float | None] = (None, None)


class DataSource(Protocol):
    """The part of a data module that tasks and callbacks may use, besides the batches from the trainer."""

    def facts(self) -> DataFacts:
        """Returns the facts about the data."""

    def unaugmented(self, split: str) -> Iterator[Batch]:
        """Yields this process's batches of a split on its device: each image once, in order, without augmentation."""

    def fingerprint(self) -> str:
        """Returns a digest of the data that metrics are measured on."""

    def picture(self, name: str, side: int) -> NDArray[np.uint8] | None:
        """Returns an image of the dataset (H, W, 3) as in its file; None if that is unknown.

        Args:
            name: Its name.
            side: Height and width that suffice; JPEG files are then decoded at a lower resolution.
        """

    def picture_names(self) -> Mapping[str, Sequence[str]]:
        """Returns the image names of each split."""
