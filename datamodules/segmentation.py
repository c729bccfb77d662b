"""Images with a folder of masks per class: the base of segmentation datasets."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datamodules.base import ImageDataModule, check
from datamodules.batch import DataFacts
from datamodules.decoded.predicted import predicted
from datamodules.decoded.whole import Decoded, DecodedSample, decoded
from datamodules.loaders import Samples
from datamodules.read.mask_files import Values, meaning
from datamodules.read.masks import MaskSource, class_masks
from datamodules.read.names import composed
from ops.errors import ArgumentError
from ops.imagefiles import MAX_PIXELS
from ops.jitter import Augment, RandomViews
from ops.windows import Size


def sides(name: str, size: Sequence[int]) -> Size:
    """Returns an argument that is a height and a width in pixels.

    Raises:
        ArgumentError: A side is below 1.
    """
    check(min(size) >= 1, f"{name} is {list(size)}; expected height and width in pixels, 1 or more")
    return size[0], size[1]


def views_of(augment: Augment | None, size: Size, crop: Size | None) -> RandomViews | None:
    """Returns what draws views of training images; None without `augment` and `crop`.

    Raises:
        ArgumentError: Images of this size have no such views.
    """
    if augment is None and crop is None:
        return None
    try:
        return RandomViews(augment or "none", size, crop)
    except ValueError as error:
        raise ArgumentError(str(error)) from error


def check_overlap(overlap: float) -> None:
    """Raises an ArgumentError unless windows can have this share in common."""
    check(0 <= overlap < 1, f"overlap is {overlap}; expected a share of the window in [0, 1)")


class SegmentationDataModule(ImageDataModule):
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
        size: Height and width of the network's input.
        output_size: Height and width of the masks that validate and test score and predict writes. None scores at the
            size of the input and predicts at the size of each image.
        window: Height and width in pixels of the overlapping windows that predict cuts large images into, each resized
            to `size`; None takes images whole, as training does.
        overlap: Least share of a window that it has in common with the next one, in [0, 1).
        pictures: Images to predict: a folder or one file.
        batch_size: Images per process and step.
        num_workers: Loader processes; None depends on the number of cores and images.
        val_fraction: Share of the images to validate on; 0 validates on the training images.
        test_fraction: Share of the images to test on.
        split_seed: Seed of the split; a `splits.csv` in `root` (`name,split`) overrides the split.
        flips: Whether to flip training images at random, along both axes.
        augmentations: albumentations transforms of training images and masks, a list of `class_path` and `init_args`;
            see `datamodules.augmentations`.
        augment: How training images vary on the device, in place of `flips`: `none`, `flips`, `d4`, `photo` or
            `aerial`, see `ops.jitter`. None leaves it to `flips`.
        crop: Height and width of the views that training takes at random places of its images; None takes the whole.
        steps_per_epoch: Training steps in an epoch; None takes every image once.
        mask_values: Values in mask files that belong to the mask: gray values, indices of a palette, or colors
            [r, g, b]. None accepts masks only if what their values mean is certain.
        ignore_value: Value, or list of values, of pixels in mask files that count nowhere: in no loss, metric or
            threshold.
        max_pixels: Most pixels of an image that is decoded as a whole; images cut into windows may have more.

    Raises:
        ArgumentError: A number is out of range, or classes are missing or repeated.
    """

    def __init__(
        self,
        root: str | Path,
        classes: Sequence[str],
        size: Size = (224, 224),
        output_size: Size | None = None,
        window: Size | None = None,
        overlap: float = 0.25,
        pictures: str | Path | None = None,
        batch_size: int = 16,
        num_workers: int | None = None,
        val_fraction: float = 0.2,
        test_fraction: float = 0.1,
        split_seed: int = 0,
        flips: bool = True,
        augmentations: list[dict[str, Any]] | None = None,
        augment: Augment | None = None,
        crop: Size | None = None,
        steps_per_epoch: int | None = None,
        mask_values: Values | None = None,
        ignore_value: Values | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        super().__init__(
            root, pictures, batch_size, num_workers, val_fraction, test_fraction, split_seed, flips, augmentations,
            steps_per_epoch, max_pixels,
        )  # fmt: skip
        self.views = views_of(augment, size, crop)
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
        self.values = meaning(mask_values, ignore_value)
        self.size = sides("size", size)
        self.output_size = None if output_size is None else sides("output_size", output_size)
        self.window = None if window is None else sides("window", window)
        self.overlap = overlap

    def facts(self) -> DataFacts:
        return DataFacts(size=self.size, classes=self.classes)

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
            self.datasets["predict"] = predicted(*pictures, self.size, self.output_size, self.window, self.overlap)
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

    def truth(self) -> list[str | Path]:
        """Returns the classes, sorted, and the given values of masks."""
        return [*sorted(self.classes), *self.values.recipe()]

    def source(self) -> MaskSource:
        """Returns the names, images and masks of the dataset.

        Raises:
            DataError: There is no dataset.
        """
        return self.usable(class_masks(self.root, self.classes, self.values))

    def decoded(self) -> Decoded:
        """Returns the dataset at the input size and at the scored size, from the cache or decoded into it.

        Raises:
            DataError: The dataset is invalid; all problems are listed.
        """
        return decoded(self.task, self.source(), self.classes, self.size, self.output_size or self.size)

    def sampled(self, data: Decoded, split: str, rows: list[int]) -> DecodedSample:
        """Returns what makes the samples of a split from these rows of the dataset."""
        return DecodedSample(data.pictures, data.masks if split == "train" else data.scored, rows)
