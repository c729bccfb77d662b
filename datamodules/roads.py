"""Roads: aerial images with one mask each, cut into tiles that are multiplied on the device by rotations or filters."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from numpy.typing import NDArray

from datamodules.base import SPLITS, check
from datamodules.batch import DataFacts
from datamodules.decoded.measured import MeasuredSample, whole_images
from datamodules.decoded.predicted import predicted
from datamodules.decoded.tiles import Tiles, decoded_tiles, measured
from datamodules.decoded.whole import DecodedSample
from datamodules.loaders import MOST_WORKERS, EpochLoader, Samples
from datamodules.masked import MaskedDataModule, check_overlap, sides
from datamodules.read.masks import OneMask, one_mask_each
from datamodules.read.tables import Table, no_image
from ops.augment import Strategy, copies, copy_count
from ops.errors import refuse
from ops.exact.backends import Backend, check_backend
from ops.exact.filters import FILTERS
from ops.windows import Size

MEASURED = ("val", "test")  # splits of whole images
CATEGORIES = ("no_road", "road")  # unless there is a categories.csv


class RoadsDataModule(MaskedDataModule):
    """Aerial images and the masks of their roads, decoded once into a cache.

    Training sees tiles. Validation and test see whole images, one at a time, in the overlapping windows of `predict`.

    The protocol is that of Kebir, Taibi and Serradilla (ICCSA 2021), with one difference: they augment before
    splitting, so that copies of one tile are in several splits; here images are split first, and only training images
    are augmented.

    Args:
        root: Folder with `images/`, `masks/` with the same stems, and optionally `categories.csv` (`image,category`).
        window: Height and width in pixels of the tiles that images are cut into, in training and in prediction; None is
            `size`, which keeps the resolution of the images.
        size: Height and width of the network's input, which tiles are resized to.
        overlap: Least share of a predicted window that it has in common with the next one, in [0, 1).
        strategy: The augmentation: `few` keeps the batch as it is; `rotations`, `filters` and `both` add three altered
            copies of each tile, see `ops.augment`.
        filters: Filters for `filters` and `both`, from contour, detail, edge_enhance and find_edges.
        samples_per_category: Images to draw from each category with the run's seed, to train and validate on; 520 in
            the paper. None takes all.
        batch_size: Images per process and step, copies included: with three copies of each tile, 8 are two tiles. A
            multiple of the number of copies plus 1.
        test_fraction: Share of all images to test on; they are set aside before drawing.
        flips: Whether to also flip training images at random, along both axes; None does not.
        backend: Computes the filters: `exact` like Pillow, or `kornia`.
        **options: Options of every data module with masks, see `datamodules.masked.MaskedDataModule`.

    Raises:
        ArgumentError: A number is out of range, or a strategy or filter is unknown.
    """

    flips_by_default = False

    def __init__(
        self,
        root: str | Path = "roads",
        window: Size | int | None = None,
        size: Size | int = (256, 256),
        overlap: float = 0.25,
        strategy: Strategy = "filters",
        filters: Sequence[str] = ("contour", "detail", "edge_enhance"),
        samples_per_category: int | None = None,
        batch_size: int = 8,
        test_fraction: float = 0.5,
        flips: bool | None = None,
        backend: Backend = "exact",
        **options: Any,
    ) -> None:
        super().__init__(root, size, batch_size=batch_size, test_fraction=test_fraction, flips=flips, **options)
        self.size = sides("size", size)
        self.window = self.size if window is None else sides("window", window)
        check_overlap(overlap)
        check(
            strategy in ("few", "filters") or self.size[0] == self.size[1],
            f"the strategy {strategy!r} rotates tiles by 90 degrees, but size is {list(self.size)}; expected equal "
            "height and width",
        )
        check(
            set(filters) <= set(FILTERS) and len(set(filters)) == len(filters),
            f"filters are {list(filters)}; expected different ones of {', '.join(FILTERS)}",
        )
        check(bool(filters) or strategy in ("few", "rotations"), f"the strategy {strategy!r} needs at least one filter")
        check(
            samples_per_category is None or samples_per_category >= 1,
            f"samples_per_category is {samples_per_category}; expected null, 1 or more",
        )
        self.overlap, self.strategy, self.filters = overlap, strategy, list(filters)
        self.samples_per_category = samples_per_category
        check_backend(backend)
        self.backend = backend

    def facts(self) -> DataFacts:
        return DataFacts(size=self.size, channels=self.channels.count)

    def preparation(self) -> dict[str, Any]:
        places = {"size": list(self.size), "window": list(self.window), "overlap": self.overlap}
        return super().preparation() | {"kind": "resized", **places}

    def tiles_per_step(self) -> int:
        """Returns how many tiles a training batch is made of; their copies fill it.

        Raises:
            ArgumentError: `batch_size` is not a multiple of the number of images that a tile becomes.
        """
        each = copy_count(self.strategy, self.filters)
        above = -(-self.batch_size // each) * each
        check(
            above == self.batch_size,
            f"batch_size is {self.batch_size}, but with the strategy {self.strategy!r} each tile becomes {each} images "
            f"of the batch; expected a multiple of {each}, such as {above}",
        )
        return self.batch_size // each

    def prepare_data(self) -> None:
        if self.trainer is not None and self.trainer.state.fn == "fit":
            self.tiles_per_step()  # rejected before any file is read
        if not self.predicting:
            whole_images(self.task, self.tiles())

    def setup(self, stage: str) -> None:
        """Makes the samples of a stage.

        Raises:
            DataError: The dataset is invalid; all problems are listed.
        """
        if stage == "predict":
            pictures = self.predicted_names()
            self.datasets["predict"] = predicted(
                *pictures, self.size, window=self.window, overlap=self.overlap, channels=self.channels
            )
            return
        if self.datasets.keys() >= {"train", "val"}:
            return
        tiles = self.tiles()
        images = whole_images(self.task, tiles)
        for split, names in self.split_by_category(tiles.source, tiles.marked).items():
            if split in MEASURED:
                there = images.counting(names, f"the {len(names)} {split} images of {self.root}")
                whole = MeasuredSample(images, there, self.window, self.size, self.overlap)
                self.datasets[split] = Samples(there, whole, self.seed)
                continue
            rows = tiles.of(names)
            sample = DecodedSample(tiles.pictures, tiles.masks, rows)
            named = [tiles.source.names[tiles.owners[row]] for row in rows]
            self.datasets[split] = Samples(named, sample, self.seed)
        self.report_splits()

    def truth(self) -> list[str | Path]:
        """Returns what metrics are computed on, tiles in earlier versions, and the given values of masks."""
        return ["whole images", *self.mask_truth()]

    def tiles(self) -> Tiles:
        """Returns the tiles of all images, from the cache or decoded into it.

        Raises:
            DataError: The dataset is invalid; all problems are listed.
        """
        source = self.usable(self.source_of(("road",), lambda: one_mask_each(self.root, self.values)))
        self.fit_channels(source, lambda: self.split_by_category(source, measured(self.task, source)[:, 2])["train"])
        return decoded_tiles(self.task, source, self.window, self.size)

    def categories(self, source: OneMask, marked: NDArray[np.int64]) -> dict[str, str]:
        """Returns the category of each image: that of `categories.csv`, or else whether its mask contains road.

        Args:
            source: The images.
            marked: Pixels with road of each.

        Raises:
            DataError: The table does not list each image once.
        """
        names, path = source.names, self.root / "categories.csv"
        if not path.is_file():
            return {name: CATEGORIES[int(count > 0)] for name, count in zip(names, marked.tolist(), strict=True)}
        table = Table(path, ["image", "category"])
        table.known("image", names, no_image(source.folder))
        table.unique("image")
        table.filled("category")
        listed = set(table.rows["image"])
        table.check([f"{path} does not list the image {name!r}. Add a row." for name in names if name not in listed])
        return dict(zip(table.rows["image"], table.rows["category"], strict=True))

    def split_by_category(self, source: OneMask, marked: NDArray[np.int64]) -> dict[str, list[str]]:
        """Returns the names of the images of train, val and test; see `categories`.

        Raises:
            DataError: A category has too few images, or a table is invalid.
        """
        self._category_of = self.categories(source, marked)
        self._marked = dict(zip(source.names, marked.tolist(), strict=True))
        if self.samples_per_category is not None and (self.root / "splits.csv").is_file():
            rank_zero_warn(
                f"{self.root / 'splits.csv'} decides which images are used; samples_per_category has no effect."
            )
        return self.split(source.names)

    def balanced(self, names: Sequence[str]) -> NDArray[np.float64]:
        categories = sorted(set(self._category_of.values()))
        marked = [[self._marked[name], *(self._category_of[name] == each for each in categories)] for name in names]
        return np.array(marked, np.float64)

    def draw_splits(self, names: Sequence[str]) -> dict[str, list[str]]:
        """Draws per category: first the test images, then `samples_per_category` of the others for train and val."""
        splits: dict[str, list[str]] = {split: [] for split in SPLITS}
        problems = []
        for category in sorted(set(self._category_of.values())):
            ordered = sorted(name for name in names if self._category_of[name] == category)
            shuffled = [ordered[i] for i in np.random.default_rng(self.split_seed).permutation(len(ordered))]
            tests = round(self.test_fraction * len(shuffled))
            splits["test"] += shuffled[:tests]
            drawn = shuffled[tests:]
            if self.samples_per_category is not None:
                if len(drawn) < self.samples_per_category:
                    problems.append(
                        f"the category {category!r} has {len(drawn)} images besides the {tests} test images; expected "
                        f"{self.samples_per_category}. Give a smaller --data.samples_per_category or null."
                    )
                chosen = np.random.default_rng(self.seed).permutation(len(drawn))[: self.samples_per_category]
                drawn = [drawn[i] for i in sorted(chosen)]
            vals = round(self.val_fraction * len(drawn))
            if self.val_fraction > 0 and len(drawn) > 1:
                vals = max(1, vals)
            splits["val"] += drawn[:vals]
            splits["train"] += drawn[vals:]
        refuse(problems, str(self.root))
        return {split: sorted(part) for split, part in splits.items()}

    def loader(
        self,
        split: str,
        batch_size: int | None = None,
        workers: int | None = None,
        most_workers: int = MOST_WORKERS,
        training: bool = False,
    ) -> EpochLoader:
        if split in MEASURED:
            batch_size = 1  # the numbers of windows differ
        elif training and batch_size is None:
            batch_size = self.tiles_per_step()
        return super().loader(split, batch_size, workers, most_workers, training)

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_index: int) -> dict[str, Any]:
        return super().on_after_batch_transfer(self.copied(batch) if self.augmenting else batch, dataloader_index)

    def copied(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Returns a batch with the copies that `strategy` adds: copy 0 of each image, then copy 1 of each, …."""
        count = len(batch["image"])
        keys = [key for key in ("mask", "ignored") if key in batch]
        planes = torch.cat([batch[key] for key in keys], dim=1)
        image, planes = copies(batch["image"], planes, self.strategy, self.filters, batch["seed"], self.backend)
        times = len(image) // count
        moved = {"mask": planes[:, : batch["mask"].shape[1]]}
        if "ignored" in batch:
            moved["ignored"] = planes[:, -1:].bool()
        return {key: _repeated(value, times) for key, value in batch.items()} | {"image": image, **moved}


def _repeated(value: Any, times: int) -> Any:
    """Repeats what belongs to B images for their copies."""
    return value.repeat(times, *[1] * (value.ndim - 1)) if isinstance(value, torch.Tensor) else value * times
