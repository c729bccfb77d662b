"""Clouds: the Kaggle folder of satellite pictures, or any pictures with a folder of masks a class."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray

from datamodules.base import SPLITS, ImageDataModule, check
from datamodules.batch import DataFacts
from datamodules.decoded.predicted import predicted
from datamodules.decoded.whole import Decoded, DecodedSample, PackedMasks, decoded
from datamodules.loaders import Samples
from datamodules.read.masks import MaskSource, mask_source, split_labels
from datamodules.read.pictures import Size, picture_files
from datamodules.read.tables import read_table
from ops.errors import DataError, refuse
from ops.pictures import seen


class CloudsDataModule(ImageDataModule):
    """Pictures with K masks that may overlap, decoded once into a cache.

    Args:
        root: The Kaggle folder as downloaded (`train.csv`, `train_images`), or `images/` and
            `masks/<class>/<stem>.png`.
        classes: Names of the K classes.
        size: Height and width that the network is given.
        output_size: Height and width of the masks that validate and test score and predict writes; the
            competition's are 350 x 525. None: the network's for scores, each picture's own for predict.
        small_masks: What to do with training masks below `small_mask_area`: `keep` them, `drop_mask` (train as
            if the class were absent) or `drop_picture` (leave the picture out of training).
        small_mask_area: A share of the picture's area, in [0, 1].
        leave_out_gaps: Whether black gaps between two orbits count in neither loss nor prediction. Not for
            pictures where land or shadows are black (Landsat).
        window: Height and width in pixels of the overlapping windows that predict cuts large pictures into, each
            resized to `size`; None takes pictures whole, as training does.
        overlap: Least share of a window that it has in common with the next one, in [0, 1).
        pictures: What `predict` reads: a folder or one file; None is `test_images` of `root`.
        batch_size: Pictures a process and step.
        num_workers: Loader processes; None decides by the number of cores and pictures.
        val_fraction: Share of the pictures that is validated on.
        test_fraction: Share of the pictures that is tested on.
        split_seed: Seed of the split; `splits.csv` in `root` (`name,split`) wins.
        flips: Whether training pictures are flipped at random, along both axes.

    Raises:
        ValueError: A number is out of its range, or the classes are none or not different.
    """

    def __init__(
        self,
        root: str | Path = "understanding_cloud_organization",
        classes: Sequence[str] = ("Fish", "Flower", "Gravel", "Sugar"),
        size: Size = (224, 224),
        output_size: Size | None = None,
        small_masks: Literal["keep", "drop_mask", "drop_picture"] = "keep",
        small_mask_area: float = 0.01,
        leave_out_gaps: bool = False,
        window: Size | None = None,
        overlap: float = 0.25,
        pictures: str | Path | None = None,
        batch_size: int = 16,
        num_workers: int | None = None,
        val_fraction: float = 0.2,
        test_fraction: float = 0.1,
        split_seed: int = 0,
        flips: bool = True,
    ) -> None:
        super().__init__(root, pictures, batch_size, num_workers, val_fraction, test_fraction, split_seed, flips)
        check(
            len(classes) == len(set(classes)) > 0,
            f"classes are {list(classes)}; one or more different names were wanted",
        )
        for name, sides in (("size", size), ("output_size", output_size or size), ("window", window or size)):
            check(min(sides) >= 1, f"{name} is {list(sides)}; height and width in pixels, 1 or more, were wanted")
        check(
            0 <= small_mask_area <= 1,
            f"small_mask_area is {small_mask_area}; a share of the picture in [0, 1] was wanted",
        )
        check(0 <= overlap < 1, f"overlap is {overlap}; a share of the window in [0, 1) was wanted")
        check(
            window is None or output_size is None,
            f"window is {window} and output_size {output_size}; masks made of windows are as large as their pictures. "
            "Give window or output_size, and null for the other",
        )
        self.classes = list(classes)
        self.size: Size = (size[0], size[1])
        self.output_size: Size | None = None if output_size is None else (output_size[0], output_size[1])
        self.small_masks, self.small_mask_area = small_masks, small_mask_area
        self.window: Size | None = None if window is None else (window[0], window[1])
        self.leave_out_gaps, self.overlap = leave_out_gaps, overlap

    def facts(self) -> DataFacts:
        return DataFacts(size=self.size, classes=self.classes)

    def prepare_data(self) -> None:
        """Fills the cache, in one process of each machine."""
        if self.trainer is None or self.trainer.state.fn != "predict":
            self.decoded()

    def setup(self, stage: str) -> None:
        """Makes the data sets of a stage.

        Raises:
            DataError: The data are not as wanted; all problems are listed.
        """
        if stage == "predict":
            files = self.predicted_files()
            self.datasets["predict"] = predicted(files, self.size, self.output_size, self.window, self.overlap)
            return
        if self.datasets.keys() >= {"train", "val"}:
            return
        data = self.decoded()
        row = {name: index for index, name in enumerate(data.source.names)}
        for split, names in self.split(data.source.names).items():
            rows = [row[name] for name in names]
            if split == "train":
                rows, absent = self._without_small(rows, data.masks)
                sample = DecodedSample(data.pictures, data.masks, rows, absent)
            else:
                sample = DecodedSample(data.pictures, data.scored, rows)
            self.datasets[split] = Samples([data.source.names[row] for row in rows], sample, self.seed)
        rank_zero_info(f"{self.root}: " + ", ".join(f"{len(self.datasets[split])} {split}" for split in SPLITS))

    def truth(self) -> list[str | Path]:
        """The classes, in whatever order."""
        return sorted(self.classes)

    def source(self) -> MaskSource:
        """Returns the names, images and masks of the dataset."""
        return mask_source(self.root, self.classes)

    def decoded(self) -> Decoded:
        """The data set at the network's size and at the size of the scores, from the cache or decoded into it.

        Raises:
            DataError: The data are not as wanted; all problems are listed.
        """
        return decoded("clouds", self.source(), self.classes, self.size, self.output_size or self.size)

    def _without_small(self, rows: list[int], masks: PackedMasks) -> tuple[list[int], dict[int, NDArray[np.bool_]]]:
        """Training rows that stay, and which classes of a row count as absent.

        Raises:
            DataError: No row stays.
        """
        if self.small_masks == "keep":
            return rows, {}
        small: dict[int, NDArray[np.bool_]] = {}
        for row in rows:
            areas = masks[row].mean(axis=(1, 2))
            below = (areas > 0) & (areas < self.small_mask_area)
            if below.any():
                small[row] = below
        rank_zero_info(f"{self.small_masks}: {len(small)} of {len(rows)} training pictures have masks below "
                       f"{self.small_mask_area:.2%} of their area.")  # fmt: skip
        if self.small_masks == "drop_mask":
            return rows, small
        if len(small) == len(rows):
            raise DataError(
                f"All {len(rows)} training pictures of {self.root} have masks below {self.small_mask_area:.2%} of "
                "their area, and small_masks=drop_picture leaves none. Give a lower small_mask_area."
            )
        return [row for row in rows if row not in small], {}

    def predicted_files(self) -> list[Path]:
        """The pictures to predict, in the order of `sample_submission.csv` where that names them.

        Raises:
            DataError: There are none, or the table names an unknown class or a picture that is not there.
        """
        folder, order = self.root / "test_images", self.root / "sample_submission.csv"
        files = picture_files(self.pictures or folder)
        if self.pictures is not None or not order.is_file():
            return files
        rows = split_labels(read_table(order, ["Image_Label"])["Image_Label"], self.classes)
        by_name = {file.name: file for file in files}
        unknown, absent = rows[~rows["label"].isin(self.classes)], rows[~rows["name"].isin(by_name)]
        refuse(
            [f"{order}, row {row}: the class {label!r} is unknown; the classes are {', '.join(self.classes)}."
             for row, label in unknown["label"].items()]
            + [f"{order}, row {row}: there is no picture {name!r} in {folder}. Unpack the test pictures again."
               for row, name in absent.drop_duplicates("name")["name"].items()],
            str(order),
        )  # fmt: skip
        return [by_name[name] for name in dict.fromkeys(rows["name"])]

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_index: int) -> dict[str, Any]:
        """Adds `valid` (B, 1, H, W), false in black gaps."""
        batch = super().on_after_batch_transfer(batch, dataloader_index)
        if self.leave_out_gaps:
            batch["valid"] = seen(batch["image"])
        return batch
