"""Images with masks: what their values mean, and how training images vary on the device."""

from abc import ABC
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray

from datamodules.annotations.direct import annotated_masks
from datamodules.base import ImageDataModule, Source, check
from datamodules.read.mask_files import Values, meaning
from datamodules.read.masks import FolderMasks, MaskSource
from datamodules.read.names import located, picture_files, tree_names
from datamodules.read.pictures import read_picture
from datamodules.read.raster_masks import RasterMasks
from datamodules.read.rasters import COLOR, Scale, channels_of, fitted_scale, shown
from ops.errors import ArgumentError
from ops.geo.labels import VectorLabels
from ops.geo.rasters import VRT
from ops.jitter import Augment, RandomViews
from ops.windows import Size


class MaskedDataModule(ImageDataModule, ABC):
    """Images whose masks say which pixels to find.

    Args:
        root: Folder of the dataset.
        trained: Height and width of the images that training augments on the device, or one number for both; None
            augments none.
        augment: How training images vary on the device, in place of `flips`: `none`, `flips`, `d4`, `photo` or
            `aerial`, see `ops.jitter`. None leaves it to `flips`. Training rejects `flips` that contradict it.
        crop: Height and width of the views that training takes at random places of its images; None takes the whole.
        flips: Whether to flip training images at random, along both axes; None does, except for roads.
        mask_values: Values in mask files that belong to the mask: gray values, indices of a palette, or colors
            [r, g, b]. None accepts masks only if what their values mean is certain.
        ignore_value: Value, or list of values, of pixels in mask files that count nowhere: in no loss, metric or
            threshold.
        bands: Numbers from 1 on, or names, of the bands of GeoTIFFs that become the channels of images; None takes red,
            green and blue, or a single band. One band fills three channels.
        scale: The values of GeoTIFFs that become black and white: [low, high], or one such pair per band; `dtype`, 0
            and the largest value of the data type; `percentiles`, the 2nd and 98th of each band over the training
            images, which the checkpoint keeps. None expects 8 bits.
        annotations: Labels of an annotation tool in place of `masks/`: a folder of labelme's JSON files, a COCO file or
            a CVAT file; see `belvedere import` for others.
        labels: Vector labels in place of `masks/`: a GeoPackage, GeoJSON or shapefile with polygons or lines, for all
            images, or a folder with one file for each, of the same stem.
        label_field: Field that holds the class of a feature; None if there is one class.
        line_width: Width of lines in meters, or the field that holds it.
        split_by: What is drawn for train, val and test: every `raster`, or blocks of ground that large rasters are cut
            into, and that small ones are grouped by, so that neighbors are not in different splits.
        block: Side of these blocks in meters.
        **options: Options of every data module, see `ImageDataModule`.

    Raises:
        ArgumentError: A number is out of range, images of this size have no such views, or a value of masks is invalid.
    """

    paths = (*ImageDataModule.paths, "annotations", "labels")
    least_gray: ClassVar[int] = 128
    """The lowest gray that belongs to a mask, unless `mask_values` says which do."""
    flips_by_default: ClassVar[bool] = True
    """Whether training images are flipped where neither `flips` nor `augment` is given."""

    def __init__(
        self,
        root: str | Path,
        trained: Size | int | None,
        augment: Augment | None = None,
        crop: Size | int | None = None,
        flips: bool | None = None,
        mask_values: Values | None = None,
        ignore_value: Values | None = None,
        bands: list[int | str] | None = None,
        scale: Scale | None = None,
        annotations: str | Path | None = None,
        labels: str | Path | None = None,
        label_field: str | None = None,
        line_width: float | str | None = None,
        split_by: Literal["raster", "block"] = "raster",
        block: float = 500.0,
        **options: Any,
    ) -> None:
        super().__init__(root, flips=self.flips_by_default if flips is None else flips, **options)
        self.channels = channels_of(bands, scale)
        check(split_by in ("raster", "block"), f"split_by is {split_by!r}; expected raster or block")
        check(block > 0, f"block is {block}; expected meters above 0")
        check(
            isinstance(line_width, str | None) or line_width > 0, f"line_width is {line_width}; expected meters above 0"
        )
        self.annotation_path = None if annotations is None else Path(annotations).expanduser()
        self.label_path = None if labels is None else Path(labels).expanduser()
        self.label_field, self.line_width = label_field, line_width
        self.block = block if split_by == "block" else None
        self.groups: dict[str, str] = {}  # key of the block that an image lies in
        self._places: dict[str, Path] = {}  # files of images
        self._fitted = False
        # a scale that is fitted needs the training images, and decoding needs the scale: folds cannot look at masks
        self.stratified = self.channels.scale != "percentiles"
        self.values = meaning(mask_values, ignore_value, self.least_gray)
        self.augment = augment if trained is not None else None
        self.given_flips = flips
        if trained is not None and (augment is not None or crop is not None):
            cropped = None if crop is None else sides("crop", crop)
            try:
                self.views = RandomViews(
                    augment or ("flips" if self.flips else "none"), sides("size", trained), cropped
                )
            except ValueError as error:
                raise ArgumentError(str(error)) from error

    def check_training(self) -> None:
        if self.augment is None or self.given_flips is None or getattr(self.trainer, "ckpt_path", None):
            return  # a resumed run goes on as it began
        flipping = self.augment != "none"
        instead = "none to train without flips" if flipping else "flips to train with them"
        check(
            flipping == self.given_flips,
            f"flips is {str(self.given_flips).lower()}, but augment is {self.augment!r}, which decides instead. Give "
            f"--data.augment {instead}.",
        )

    def preparation(self) -> dict[str, Any]:
        check(
            self.channels == COLOR,
            "bands or scale are given, but exported files take images in color: use belvedere predict",
        )
        return {}

    def source_of(self, classes: Sequence[str], plain: Callable[[], Source]) -> Source | RasterMasks | FolderMasks:
        """Returns images and masks: those of `plain`, unless there are rasters among the images.

        Args:
            classes: Names of the classes.
            plain: Lists the dataset.

        Raises:
            DataError: There is no dataset, or rasters, masks or labels are invalid.
        """
        if self.annotation_path is not None:
            return annotated_masks(self.root, self.annotation_path, classes)
        folder = self.root / "images"
        wanted = self.label_path is not None or self.block is not None
        names = tree_names(folder, (VRT,)) if folder.is_dir() else []
        if not names or not (wanted or any(self.channels.reads(located(folder, name)) for name in names)):
            return plain()
        labels: VectorLabels | None = None
        masks: FolderMasks | None = None
        if self.label_path is not None:
            check(
                len(classes) == 1 or self.label_field is not None,
                f"there are {len(classes)} classes, but label_field is null; expected the field that holds the class",
            )
            labels = VectorLabels(self.label_path, classes, self.label_field, self.line_width)
        else:
            listed = plain()
            if not isinstance(listed, FolderMasks):  # Kaggle's table
                return listed
            masks = listed
            masks.channels = self.channels
        source = RasterMasks(self.task, self.root, masks, labels, self.channels, self.block)
        self.groups, self._places = source.groups, source.paths
        return source

    def fit_channels(self, source: MaskSource, trained: Callable[[], Sequence[str]]) -> None:
        """Fits the scale of rasters to the training images, if it is to be fitted.

        Args:
            source: All images.
            trained: Returns the names of the training images.

        Raises:
            DataError: A raster cannot be read, or does not vary.
        """
        if self.channels.scale == "percentiles" and not source.problems:
            paths = [source.path(name) for name in trained()]
            self.channels = fitted_scale(self.channels, [each for each in paths if self.channels.reads(each)])
            self._fitted = True
            rank_zero_info(f"{self.root}: values that become black and white: {self.channels.scale}.")
        source.channels = self.channels

    def state_dict(self) -> dict[str, Any]:
        """Returns the fitted scale, for the checkpoint."""
        return {"scale": self.channels.scale} if self._fitted else {}

    def draw_grouped(self, names: Sequence[str]) -> dict[str, list[str]]:
        """Draws images, or blocks of ground with all images in them."""
        if not self.groups:
            return super().draw_grouped(names)
        members: dict[str, list[str]] = {}
        for name in sorted(names):
            members.setdefault(self.groups[name], []).append(name)
        by_first = {each[0]: each for each in members.values()}
        drawn = self.draw_splits(list(by_first))
        return {split: sorted(name for each in part for name in by_first[each]) for split, part in drawn.items()}

    def fold_groups(self, names: Sequence[str]) -> Mapping[str, str]:
        return self.groups if self.groups and self.fold_by is None else super().fold_groups(names)

    def picture_file(self, name: str) -> Path | None:
        return self._places.get(name) or super().picture_file(name)

    def files(self) -> list[Path]:
        # blocks are cut from rasters, whose files they are
        return super().files() if self.block is None else picture_files(self.root / "images")

    def picture(self, name: str, side: int) -> NDArray[np.uint8] | None:
        if name in self._places:
            return shown(read_picture(self._places[name], (side, side), self.channels))
        return super().picture(name, side)

    def mask_truth(self) -> list[str | Path]:
        """Returns what decides the masks besides the files below `root`."""
        if self.annotation_path is not None:
            found = self.annotation_path
            return [found] if found.is_file() else sorted(found.rglob("*.json"))
        if self.label_path is None:
            return [*self.values.recipe()]
        recipe = VectorLabels(self.label_path, (), self.label_field, self.line_width).recipe()
        files = [self.label_path] if self.label_path.is_file() else sorted(self.label_path.glob("*"))
        return [*recipe, *(path for path in files if path.is_file())]


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
