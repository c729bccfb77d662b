"""Avalanches: random windows or whole mountain photos to train on, whole photos to evaluate and predict."""

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray
from torch import Tensor

from datamodules.augmentations import Augmentations
from datamodules.base import SPLITS, Steps, check
from datamodules.batch import Batch, DataFacts
from datamodules.decoded.scenes import (
    PredictedScene,
    ResizedScene,
    Scene,
    Scenes,
    decoded_scenes,
    readable_sizes,
)
from datamodules.decoded.windows import Draws, Ratio, Store, stored
from datamodules.loaders import EpochLoader, Samples
from datamodules.masked import MaskedDataModule, sides
from datamodules.read.boxes import Box, boxes_beside, read_boxes
from datamodules.read.masks import one_mask_each
from datamodules.read.names import located
from datamodules.read.tables import Table, no_image
from ops.errors import DataError, collected, refuse
from ops.exact.backends import Backend, check_backend
from ops.exact.pyramids import pyramid
from ops.jitter import Augment
from ops.windows import Size

SAMPLED = 20_000  # training windows that `unaugmented` yields
LOOKED_AT = 200  # photos to predict whose sizes are read for a notice about their shape, at most
MOST_SQUEEZED = 1.3  # factor between a photo's shape and that of `photos` above which there is a notice
STEPS = (32, 14)  # pixels that sides of `photos` are multiples of: halved five times, or patches of DINOv2
LAYOUT = """    {root}/images/<stem>.jpg       any image format, any size
    {root}/masks/<stem>.jpg        avalanche from a gray of 127 up, as large as its image
    {root}/references/<stem>.jpg   optional: the image with the outline drawn
    {root}/boxes.csv               optional: columns image,x0,y0,x1,y1
    {root}/conditions.csv          optional: columns image,condition"""


class AvalanchesDataModule(MaskedDataModule):
    """Windows of mountain photos with the label of their central pixel to train on; whole photos to evaluate.

    Alharbi, Faut, Gumina, Kelso and Miller ("Predicting avalanche field in images using convolutional neural networks
    and edge detection", 2020) classify each pixel by the window around it. Storing all windows of a photo would take a
    thousand times its memory, so the training photos are stored on the device and each batch is drawn from them. Unlike
    the authors' splits, these are by photo: no pixel of an evaluated photo was trained on.

    With `photos`, for networks that mark a whole photo at once, training takes whole photos of that size instead.

    Training batches have `image` (B, 3, w, w), `mask` (B, 1, w, w), `label` (B,), the mask at row and column w // 2 as
    0.0 or 1.0, `index` and `seed`. Validation and test batches have one photo: `image` (1, 3, H, W), `mask`
    (1, 1, H, W), `name` and `condition`, "" if none is given. Batches to predict have `image`, its full `size`,
    `level`, how often the sides were halved, and `source`, the full photo. If `boxes.csv` lists a photo, `valid`
    (1, 1, H, W) is true inside its boxes; otherwise there is no `valid`. With `ignore_value`, `ignored` (1, 1, H, W)
    marks pixels that do not count; no training window is centered on one.

    Args:
        root: Folder with `images/`, `masks/` with the same stems, and optionally `references/` (the images with the
            outline drawn), `boxes.csv` (`image,x0,y0,x1,y1`) and `conditions.csv` (`image,condition`).
        window: Height and width of the windows in pixels.
        pyramid_levels: How often the sides of all images are halved first.
        ratio: How windows are drawn: half of them centered on avalanche (`balanced`), or every pixel equally likely
            (`natural`).
        windows_per_epoch: Number of windows in an epoch.
        val_pictures: How many of the validation images to use, drawn with `split_seed`; None uses all.
        batch_size: Windows per process and step; whole images come one at a time. Windows need no
            `num_workers`, and whole images get none unless it is given.
        test_fraction: Share of the images to test on.
        flips: Whether to flip windows at random, along both axes; None does. In windows of an even size this moves the
            labeled pixel from row or column w // 2 to the one before. Photos vary by `augment`.
        augmentations: albumentations transforms of training windows or photos, a list of `class_path` and `init_args`,
            see `datamodules.augmentations`. On windows only transforms that move no pixels are allowed; windows are
            copied from the device to the host and back, which is slow on a GPU.
        photos: Height and width that whole photos are resized to, to train on them; None trains on windows.
        augment: How photos vary on the device: `none`, `flips`, `photo` or others, see `ops.jitter`; not for windows.
        crop: Height and width of the parts that training takes at random places of photos, as large as `photos` says;
            None takes the whole; not for windows.
        steps_per_epoch: Batches in a training epoch of photos, see `ImageDataModule`; windows have `windows_per_epoch`.
        backend: Reduces images to predict on their device: `exact` like OpenCV, or `kornia`. For `fit` and `test`
            OpenCV fills the cache on the host, with the same bits.
        **options: Options of every data module with masks, see `datamodules.masked.MaskedDataModule`.

    Raises:
        ArgumentError: A number is out of range, or the ratio is unknown.
    """

    least_gray = 127  # masks are JPEGs

    def __init__(
        self,
        root: str | Path = "avalanches",
        window: int = 33,
        pyramid_levels: int = 0,
        ratio: Ratio = "balanced",
        windows_per_epoch: int = 20000,
        val_pictures: int | None = None,
        batch_size: int = 256,
        test_fraction: float = 0.2,
        flips: bool | None = None,
        augmentations: list[dict[str, Any]] | None = None,
        photos: Size | int | None = None,
        augment: Augment = "photo",
        crop: Size | int | None = None,
        steps_per_epoch: Steps = "auto",
        backend: Backend = "exact",
        **options: Any,
    ) -> None:
        whole = photos is not None
        super().__init__(
            root,
            photos,
            augment=augment,
            crop=crop,
            batch_size=batch_size,
            test_fraction=test_fraction,
            flips=flips,
            augmentations=augmentations if whole else None,
            steps_per_epoch=steps_per_epoch if whole else None,
            **options,
        )
        check(whole or crop is None, "crop is for whole photos: give --data.photos; windows have --data.window")
        check(
            whole or augment == "photo",
            f"augment is {augment!r}, which is for whole photos: give --data.photos; windows vary by --data.flips",
        )
        check(
            whole or steps_per_epoch in ("auto", None),
            "steps_per_epoch is for photos; for windows give windows_per_epoch",
        )
        self.photos = None if photos is None else sides("photos", photos)
        check(window >= 1, f"window is {window}; expected 1 pixel or more")
        check(pyramid_levels >= 0, f"pyramid_levels is {pyramid_levels}; expected 0 or more")
        check(ratio in ("natural", "balanced"), f"ratio is {ratio!r}; expected natural or balanced")
        check(windows_per_epoch >= 1, f"windows_per_epoch is {windows_per_epoch}; expected 1 or more")
        check(val_pictures is None or val_pictures >= 1, f"val_pictures is {val_pictures}; expected null, 1 or more")
        self.window, self.pyramid_levels, self.ratio = window, pyramid_levels, ratio
        self.windows_per_epoch, self.val_pictures = windows_per_epoch, val_pictures
        check_backend(backend)
        self.backend = backend
        check(self.channels.count == 3, "avalanches are found in images of one or three bands; expected as many bands")
        self.conditions: list[str] = []  # of the test images
        self.window_augmentations = Augmentations(augmentations, moving=False) if augmentations and not whole else None
        self._store: Store | None = None

    def facts(self) -> DataFacts:
        if self.photos is not None:
            return DataFacts(size=self.photos, conditions=self.conditions)
        return DataFacts(window=self.window, conditions=self.conditions)

    def preparation(self) -> dict[str, Any]:
        levels = {"levels": self.pyramid_levels, "least_side": self.least_side}
        return super().preparation() | {"kind": "pyramid", **levels}

    def prepare_data(self) -> None:
        if not self.predicting:
            self.checked()

    def setup(self, stage: str) -> None:
        """Makes the samples of a stage, and loads the training images into memory for `fit`.

        Raises:
            DataError: The dataset is invalid; all problems are listed.
        """
        if stage == "predict":
            folder, names = self.predicted_names()
            known = names if len(names) > 1 else None  # the table of a single image may list others
            table = boxes_beside(self.required_pictures())
            sizes = (
                readable_sizes({name: located(folder, name) for name in names}, self.channels)[0]
                if table.is_file()
                else {}
            )
            boxes = read_boxes(table, sizes, self.pyramid_levels, known, folder)
            if self.photos is not None:
                looked_at = names[:: -(-len(names) // LOOKED_AT)]
                paths = {name: located(folder, name) for name in looked_at}
                self._report_shape(list(readable_sizes(paths, self.channels)[0].values()))
            scene = PredictedScene(folder, names, self.pyramid_levels, self.least_side, boxes, self.channels)
            self.datasets["predict"] = Samples(names, scene)
            return
        if self.datasets.keys() >= {"train", "val"} and (stage != "fit" or self.photos or self._store is not None):
            return
        scenes, splits, boxes, conditions = self.checked()
        self._report_shape(list(scenes.sizes.values()))
        self.conditions = sorted({conditions.get(name, "") for name in splits["test"]} - {""})
        for split in ("val", "test"):
            names = self.measured(splits[split]) if split == "val" else splits[split]
            self.datasets[split] = Samples(names, Scene(scenes, names, boxes, conditions))
        if self.photos is not None:
            sample = ResizedScene(scenes, splits["train"], boxes, self.photos)
            self.datasets["train"] = Samples(splits["train"], sample, self.seed)
        else:
            self.datasets["train"] = Draws(self.windows_per_epoch, self.seed, splits["train"])
        if stage == "fit" and self.photos is None:
            self._store = self.store(scenes, splits["train"])
        rank_zero_info(f"{self.root}: " + ", ".join(f"{len(splits[split])} {split}" for split in SPLITS))

    def _report_shape(self, sizes: Sequence[Size]) -> None:
        """Reports photos whose shape `photos` changes much."""
        text = "" if self.photos is None else squeezed(sizes, self.photos)
        if text:
            rank_zero_info(text)

    @property
    def least_side(self) -> int:
        """The smallest height and width in pixels of an image, at its pyramid level."""
        return self.window if self.photos is None else 1

    def truth(self) -> list[str | Path]:
        """Returns the given values of masks."""
        return self.mask_truth()

    def checked(self) -> tuple[Scenes, dict[str, list[str]], dict[str, list[Box]], dict[str, str]]:
        """Returns the decoded images, the names of each split, and boxes and conditions by image name.

        Raises:
            DataError: The dataset is invalid; all problems are listed.
        """
        plain = partial(one_mask_each, self.root, self.values, LAYOUT)
        source = self.usable(self.source_of(("avalanche",), plain))
        self.fit_channels(source, lambda: self.split(source.names)["train"])
        scenes: list[Scenes] = []
        splits: dict[str, list[str]] = {}
        boxes: dict[str, list[Box]] = {}
        conditions: dict[str, str] = {}
        problems = collected(
            [
                lambda: scenes.append(decoded_scenes(self.task, source, self.pyramid_levels, self.least_side)),
                lambda: splits.update(self.split(source.names)),
                lambda: boxes.update(self.boxes(readable_sizes(source.paths, source.channels)[0], source.names)),
                lambda: conditions.update(read_conditions(self.root / "conditions.csv", source.names)),
            ]
        )
        refuse(problems, str(self.root))
        return scenes[0], splits, boxes, conditions

    def balanced(self, names: Sequence[str]) -> NDArray[np.float64]:
        if not self.stratified:
            return super().balanced(names)
        plain = partial(one_mask_each, self.root, self.values, LAYOUT)
        source = self.usable(self.source_of(("avalanche",), plain))
        source.channels = self.channels
        scenes = decoded_scenes(self.task, source, self.pyramid_levels, self.least_side)
        return np.array([[scenes.mask(name).mean()] for name in names])

    def boxes(self, sizes: Mapping[str, Size], names: Sequence[str]) -> dict[str, list[Box]]:
        """Returns the boxes of `boxes.csv` by image name.

        Args:
            sizes: Height and width of the readable images by name.
            names: Names of all images.

        Raises:
            DataError: A box or a name is invalid.
        """
        return read_boxes(self.root / "boxes.csv", sizes, self.pyramid_levels, names)

    def measured(self, names: Sequence[str]) -> list[str]:
        """Returns the validation images to use."""
        if self.val_pictures is None or self.val_pictures >= len(names):
            return list(names)
        order = np.random.default_rng(self.split_seed).permutation(len(names))
        return [names[index] for index in sorted(order[: self.val_pictures])]

    def store(self, scenes: Scenes, names: Sequence[str]) -> Store:
        """Returns the images with these names, to draw windows from.

        Raises:
            DataError: The windows cannot be balanced.
        """
        store = stored(scenes, names, self.window)
        if self.ratio == "balanced" and not min(store.counts):
            what = "avalanche" if store.counts[0] else "anything else"
            raise DataError(
                f"No window of {self.window} x {self.window} pixels in the {len(names)} training images of "
                f"{self.root} has {what} at its center. Give a smaller --data.window, or --data.ratio natural."
            )
        return store

    def report_few_steps(self, batches: int) -> None:
        if self.photos is not None:  # windows have `windows_per_epoch`
            super().report_few_steps(batches)

    def loader(
        self,
        split: str,
        batch_size: int | None = None,
        workers: int | None = None,
        most_workers: int = 0,
        training: bool = False,
    ) -> EpochLoader:
        # Windows are drawn on the device and need no worker; whole images differ in size.
        if training:
            return super().loader(
                split, batch_size, workers or (self.num_workers if self.photos else 0) or 0, training=True
            )
        return super().loader(split, batch_size or 1, workers or self.num_workers or 0)

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_index: int) -> dict[str, Any]:
        """Draws the windows of a training batch, or reduces an image to predict, on the device."""
        if "source" in batch:
            batch["image"] = pyramid(batch["image"], self.pyramid_levels, self.backend)[-1]
        if "image" not in batch:
            assert self._store is not None  # setup("fit") comes first
            self._store = self._store.to(batch["seed"].device)  # which moves it once
            batch["image"], batch["label"], batch["mask"] = self._store.draw(batch["index"], batch["seed"], self.ratio)
            if self.window_augmentations is not None and self.augmenting:
                batch["image"] = self.window_augmentations.images(batch["image"], batch["seed"])
        return super().on_after_batch_transfer(batch, dataloader_index)

    def training_windows(self, count: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields batches of training windows (B, 3, w, w) in [0, 1] with labels (B,), always the same ones.

        Args:
            count: Number of windows.
            device: Device to draw them on.
        """
        assert self._store is not None  # setup("fit") comes first
        self._store = self._store.to(device)
        for first in range(0, count, self.batch_size):
            numbers = torch.arange(first, min(first + self.batch_size, count), device=device)
            windows, labels, _ = self._store.draw(numbers, numbers, self.ratio)
            yield windows.float() / 255, labels

    def unaugmented(self, split: str) -> Iterator[Batch]:
        """Yields batches without augmentation; of the training windows a sample, all centers equally likely."""
        if split != "train" or self.photos is not None:
            yield from super().unaugmented(split)
            return
        assert self._store is not None  # setup("fit") comes first
        assert self.trainer is not None
        for windows in self._store.windows(SAMPLED):  # always the same ones
            share = windows[self.trainer.global_rank :: self.trainer.world_size]
            yield {"image": share.to(self.trainer.strategy.root_device).float() / 255}


def squeezed(sizes: Sequence[Size], photos: Size) -> str:
    """Returns a notice if photos have another shape than they are resized to; "" if they do not.

    Args:
        sizes: Heights and widths of the photos.
        photos: The height and width that they are resized to.
    """
    shapes = np.array([height / width for height, width in sizes])
    factors = shapes * photos[1] / photos[0]
    odd = np.maximum(factors, 1 / factors) > MOST_SQUEEZED
    if not odd.any():
        return ""
    text = (
        f"{odd.sum()} of {len(sizes)} photographs have another shape than --data.photos [{photos[0]},{photos[1]}] "
        f"(height, width), which squeezes them by more than a factor of {MOST_SQUEEZED}."
    )
    step = next((each for each in STEPS if photos[0] % each == photos[1] % each == 0), STEPS[0])
    area, shape = photos[0] * photos[1], float(np.median(shapes))
    height, width = (max(1, round(math.sqrt(each) / step)) * step for each in (area * shape, area / shape))
    if (height, width) == photos or max(height / width / shape, shape * width / height) > MOST_SQUEEZED:
        return text  # their shapes are too different, or extreme
    return f"{text} To train in their shape: --data.photos [{height},{width}]."


def read_conditions(path: Path, names: Sequence[str]) -> dict[str, str]:
    """Reads the conditions of images by name from a table `image,condition`; empty if there is no table.

    Args:
        path: The table.
        names: Names of all images.

    Raises:
        DataError: It has an unknown image or lists one twice; all problems are listed.
    """
    if not path.is_file():
        return {}
    table = Table(path, ["image", "condition"])
    table.known("image", names, no_image(path.parent / "images"))
    table.unique("image")
    table.check()
    return dict(zip(table.rows["image"], table.rows["condition"], strict=True))
