"""Clouds: the Kaggle folder of satellite images, or any images with a folder of masks per class."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray

from datamodules.base import check
from datamodules.decoded.whole import Decoded, DecodedSample, PackedMasks
from datamodules.read.masks import MaskSource, mask_source, split_labels
from datamodules.read.names import predicted_names
from datamodules.read.tables import Table
from datamodules.segmentation import SegmentationDataModule
from ops.errors import DataError
from ops.pictures import seen
from ops.windows import Size


class CloudsDataModule(SegmentationDataModule):
    """Satellite images with masks of cloud types, which may overlap, decoded once into a cache.

    Args:
        root: The Kaggle folder as downloaded (`train.csv`, `train_images`), or `images/` and
            `masks/<class>/<stem>.png`.
        classes: Names of the K classes.
        size: Height and width of the network's input, or one number for both; so are the other sizes.
        output_size: Height and width of the masks that validate and test score and predict writes; those of the
            competition are 350 x 525. None scores at the size of the input and predicts at the size of each image.
        small_masks: What to do with training masks below `small_mask_area`: `keep` them, `drop_mask` (train as if the
            class were absent) or `drop_picture` (do not train on the image).
        small_mask_area: Share of the image's area, in [0, 1].
        leave_out_gaps: Whether to ignore black gaps between two orbits in the loss and in predictions. Not for images
            in which land or shadows are black (Landsat).
        pictures: Images to predict: a folder or one file; None is `test_images` in `root`.
        **options: See `SegmentationDataModule`.

    Raises:
        ArgumentError: A number is out of range, or classes are missing or repeated.
    """

    def __init__(
        self,
        root: str | Path = "understanding_cloud_organization",
        classes: Sequence[str] = ("Fish", "Flower", "Gravel", "Sugar"),
        size: Size | int = (224, 224),
        output_size: Size | int | None = None,
        small_masks: Literal["keep", "drop_mask", "drop_picture"] = "keep",
        small_mask_area: float = 0.01,
        leave_out_gaps: bool = False,
        pictures: str | Path | None = None,
        **options: Any,
    ) -> None:
        super().__init__(root, classes, size, output_size, pictures=pictures, **options)
        check(
            0 <= small_mask_area <= 1,
            f"small_mask_area is {small_mask_area}; expected a share of the image in [0, 1]",
        )
        self.small_masks, self.small_mask_area = small_masks, small_mask_area
        self.leave_out_gaps = leave_out_gaps

    def preparation(self) -> dict[str, Any]:
        return super().preparation() | {"leave_out_gaps": self.leave_out_gaps}

    def source(self) -> MaskSource:
        return self.usable(self.source_of(self.classes, lambda: mask_source(self.root, self.classes, self.values)))

    def sampled(self, data: Decoded, split: str, rows: list[int]) -> DecodedSample:
        if split != "train":
            return super().sampled(data, split, rows)
        rows, absent = self._without_small(rows, data.masks)
        return DecodedSample(data.pictures, data.masks, rows, absent)

    def _without_small(self, rows: list[int], masks: PackedMasks) -> tuple[list[int], dict[int, NDArray[np.bool_]]]:
        """Returns the training rows to keep, and which classes of a row to treat as absent.

        Raises:
            DataError: No row is left.
        """
        if self.small_masks == "keep":
            return rows, {}
        small: dict[int, NDArray[np.bool_]] = {}
        for row in rows:
            areas = masks[row].mean(axis=(1, 2))
            below = (areas > 0) & (areas < self.small_mask_area)
            if below.any():
                small[row] = below
        rank_zero_info(f"{self.small_masks}: {len(small)} of {len(rows)} training images have masks below "
                       f"{self.small_mask_area:.2%} of their area.")  # fmt: skip
        if self.small_masks == "drop_mask":
            return rows, small
        if len(small) == len(rows):
            raise DataError(
                f"All {len(rows)} training images of {self.root} have masks below {self.small_mask_area:.2%} of their "
                "area, so small_masks=drop_picture leaves none. Give a lower small_mask_area."
            )
        return [row for row in rows if row not in small], {}

    def predicted_names(self) -> tuple[Path, list[str]]:
        """Returns the images to predict, in the order of `sample_submission.csv` if it lists them.

        Raises:
            DataError: There are none, or the table has an unknown class or image.
        """
        folder, order = self.root / "test_images", self.root / "sample_submission.csv"
        if self.pictures is None and not folder.is_dir():
            raise DataError(
                f"There are no images to predict: there is no folder {folder}. Give a folder or a file with "
                "--data.pictures."
            )
        pictures = predicted_names(self.pictures or folder)
        if self.pictures is not None or not order.is_file():
            return pictures
        table = Table(order, ["Image_Label"])
        table.rows = split_labels(table.rows["Image_Label"], self.classes)
        known = ", ".join(self.classes)
        table.known("label", self.classes, lambda label: f"the class {label!r} is unknown; the classes are {known}.")
        names = table.rows["name"]
        for row, name in names[~names.isin(pictures[1]) & ~names.duplicated()].items():
            table.add(row, f"there is no image {name!r} in {folder}. Unpack the test images again.")
        table.check()
        return folder, list(dict.fromkeys(names))

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_index: int) -> dict[str, Any]:
        """Adds `valid` (B, 1, H, W), false in black gaps."""
        batch = super().on_after_batch_transfer(batch, dataloader_index)
        if self.leave_out_gaps:
            seen_there = seen(batch["image"])
            batch["valid"] = batch["valid"] & seen_there if "valid" in batch else seen_there
        return batch
