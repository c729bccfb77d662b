"""Images with masks: what their values mean, and how training images vary on the device."""

from abc import ABC
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from datamodules.base import ImageDataModule, check
from datamodules.read.mask_files import Values, meaning
from datamodules.read.rasters import Scale, channels_of
from ops.errors import ArgumentError
from ops.jitter import Augment, RandomViews
from ops.windows import Size


class MaskedDataModule(ImageDataModule, ABC):
    """Images whose masks say which pixels to find.

    Args:
        root: Folder of the dataset.
        trained: Height and width of the images that training augments on the device, or one number for both; None
            augments none.
        augment: How training images vary on the device, in place of `flips`: `none`, `flips`, `d4`, `photo` or
            `aerial`, see `ops.jitter`. None leaves it to `flips`.
        crop: Height and width of the views that training takes at random places of its images; None takes the whole.
        mask_values: Values in mask files that belong to the mask: gray values, indices of a palette, or colors
            [r, g, b]. None accepts masks only if what their values mean is certain.
        ignore_value: Value, or list of values, of pixels in mask files that count nowhere: in no loss, metric or
            threshold.
        bands: Numbers from 1 on, or names, of the bands of GeoTIFFs that become the channels of images; None takes red,
            green and blue, or a single band. One band fills three channels.
        scale: The values of GeoTIFFs that become black and white: [low, high], or one such pair per band; `dtype`, 0
            and the largest value of the data type; `percentiles`, the 2nd and 98th of each band over the training
            images, which the checkpoint keeps. None expects 8 bits.
        **options: Options of every data module, see `ImageDataModule`.

    Raises:
        ArgumentError: A number is out of range, images of this size have no such views, or a value of masks is invalid.
    """

    least_gray: ClassVar[int] = 128
    """The lowest gray that belongs to a mask, unless `mask_values` says which do."""

    def __init__(
        self,
        root: str | Path,
        trained: Size | int | None,
        augment: Augment | None = None,
        crop: Size | int | None = None,
        mask_values: Values | None = None,
        ignore_value: Values | None = None,
        bands: list[int | str] | None = None,
        scale: Scale | None = None,
        **options: Any,
    ) -> None:
        super().__init__(root, **options)
        self.channels = channels_of(bands, scale)
        self.values = meaning(mask_values, ignore_value, self.least_gray)
        if trained is not None and (augment is not None or crop is not None):
            cropped = None if crop is None else sides("crop", crop)
            try:
                self.views = RandomViews(augment or "none", sides("size", trained), cropped)
            except ValueError as error:
                raise ArgumentError(str(error)) from error


def sides(name: str, size: Sequence[int] | int) -> Size:
    """Returns an argument that is a height and a width in pixels, or one number for both.

    Raises:
        ArgumentError: A side is below 1.
    """
    size = (size, size) if isinstance(size, int) else size
    check(min(size) >= 1, f"{name} is {list(size)}; expected height and width in pixels, 1 or more")
    return size[0], size[1]


def check_overlap(overlap: float) -> None:
    """Raises an ArgumentError unless windows can have this share in common."""
    check(0 <= overlap < 1, f"overlap is {overlap}; expected a share of the window in [0, 1)")
