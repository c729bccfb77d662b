"""Images with a folder of masks per class: the base of segmentation datasets."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.base import check
from datamodules.batch import DataFacts
from datamodules.decoded.predicted import predicted
from datamodules.decoded.whole import Decoded, DecodedSample, decoded
from datamodules.loaders import Samples
from datamodules.masked import MaskedDataModule, check_overlap, sides
from datamodules.read.masks import MaskSource, class_masks
from datamodules.read.names import composed
from ops.windows import Size


class SegmentationDataModule(MaskedDataModule):
    """Images with K masks that may overlap, decoded once into a cache.

    A segmentation task derives from this class and gives its folder and classes::

        class GlaciersDataModule(SegmentationDataModule):
            def __init__(self, root: str | Path = "glaciers", **options: Any) -> None:
                super().__init__(root, ("glacier",), **options)

    Batches have `image` (B, 3, H, W), `mask` (B, K, H, W), `name` and `index`, and with `ignore_value` also `ignored`
    (B, 1, H, W); those to predict have no `mask`, but what stitching needs, see `datamodules.decoded.predicted`.

    Args:
        root: Folder with `images/` and `masks/<class>/<stem>.png`. An image may lack the mask file of a class that it
            does not show, but needs the file of at least one class.
        classes: Names of the K classes.
        size: Height and width of the network's input, or one number for both; so are the other sizes.
        output_size: Height and width of the masks that validate and test score and predict writes. None scores at the
            size of the input and predicts at the size of each image.
        window: Height and width in pixels of the overlapping windows that predict cuts large images into, each resized
            to `size`; None takes images whole, as training does.
        overlap: Least share of a window that it has in common with the next one, in [0, 1).
        **options: Options of every data module with masks, see `datamodules.masked.MaskedDataModule`.

    Raises:
        ArgumentError: A number is out of range, or classes are missing or repeated.
    """

    def __init__(
        self,
        root: str | Path,
        classes: Sequence[str],
        size: Size | int = (224, 224),
        output_size: Size | int | None = None,
        window: Size | int | None = None,
        overlap: float = 0.25,
        **options: Any,
    ) -> None:
        super().__init__(root, size, **options)
        check(
            len(classes) == len(set(classes)) > 0,
            f"classes are {list(classes)}; expected one or more different names",
        )
        check_overlap(overlap)
        check(
            window is None or output_size is None,
            f"window is {window} and output_size {output_size}; masks stitched from windows are as large as their "
            "images. Set one of them to null",
        )
        self.classes = list(map(composed, classes))
        self.size = sides("size", size)
        self.output_size = None if output_size is None else sides("output_size", output_size)
        self.window = None if window is None else sides("window", window)
        self.overlap = overlap

    def facts(self) -> DataFacts:
        return DataFacts(size=self.size, classes=self.classes, channels=self.channels.count)

    def preparation(self) -> dict[str, Any]:
        window = {} if self.window is None else {"window": list(self.window), "overlap": self.overlap}
        output = {} if self.output_size is None else {"output_size": list(self.output_size)}
        return super().preparation() | {"kind": "resized", "size": list(self.size), **window, **output}

    def prepare_data(self) -> None:
        if not self.predicting:
            self.decoded()

    def setup(self, stage: str) -> None:
        """Makes the samples of a stage.

        Raises:
            DataError: The dataset is invalid; all problems are listed.
        """
        if stage == "predict":
            pictures = self.predicted_names()
            self.datasets["predict"] = predicted(
                *pictures, self.size, self.output_size, self.window, self.overlap, self.channels
            )
            return
        if self.datasets.keys() >= {"train", "val"}:
            return
        data = self.decoded()
        row = {name: index for index, name in enumerate(data.source.names)}
        for split, names in self.split(data.source.names).items():
            masks = data.masks if split == "train" else data.scored
            rows = masks.counting([row[name] for name in names], f"the {len(names)} {split} images of {self.root}")
            sample = self.sampled(data, split, rows)
            self.datasets[split] = Samples([data.source.names[row] for row in sample.rows], sample, self.seed)
        self.report_splits()

    def balanced(self, names: Sequence[str]) -> NDArray[np.float64]:
        if not self.stratified:
            return super().balanced(names)
        data = self.decoded()
        row = {name: index for index, name in enumerate(data.source.names)}
        areas = np.array([data.masks[row[name]].mean(axis=(1, 2)) for name in names]).reshape(len(names), -1)
        return np.concatenate([areas, areas > 0], axis=1)

    def truth(self) -> list[str | Path]:
        """Returns the classes, sorted, and the given values of masks."""
        return [*sorted(self.classes), *self.mask_truth()]

    def source(self) -> MaskSource:
        """Returns the names, images and masks of the dataset.

        Raises:
            DataError: There is no dataset.
        """
        return self.usable(self.source_of(self.classes, lambda: class_masks(self.root, self.classes, self.values)))

    def decoded(self) -> Decoded:
        """Returns the dataset at the input size and at the scored size, from the cache or decoded into it.

        Raises:
            DataError: The dataset is invalid; all problems are listed.
        """
        source = self.source()
        self.fit_channels(source, lambda: self.split(source.names)["train"])
        return decoded(self.task, source, self.classes, self.size, self.output_size or self.size)

    def sampled(self, data: Decoded, split: str, rows: list[int]) -> DecodedSample:
        """Returns what makes the samples of a split from these rows of the dataset."""
        return DecodedSample(data.pictures, data.masks if split == "train" else data.scored, rows)
