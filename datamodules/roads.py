"""Roads: aerial tiles with a mask each, few of them, multiplied on the device by rotations or filters."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from datamodules.base import SPLITS, ImageDataModule, check
from datamodules.batch import DataFacts
from datamodules.decoded.predicted import predicted
from datamodules.decoded.tiles import Tiles, decoded_tiles
from datamodules.decoded.whole import DecodedSample
from datamodules.loaders import Samples
from datamodules.read.masks import one_mask_each
from datamodules.read.pictures import Size, picture_files
from datamodules.read.tables import read_table
from ops.augment import Strategy, copies
from ops.errors import DataError, refuse
from ops.filters import FILTERS

CATEGORIES = ("no_road", "road")  # where there is no categories.csv


class RoadsDataModule(ImageDataModule):
    """Tiles of aerial pictures and the masks of their roads, decoded once into a cache.

    The protocol is that of Kebir, Taibi and Serradilla (ICCSA 2021), with one difference: they multiply pictures first
    and split them afterwards, so that copies of one tile stand on both sides; here pictures are split first, and only
    training pictures are multiplied.

    Args:
        root: Holds `images/`, `masks/` with the same stems, and maybe `categories.csv` (`image,category`).
        window: Height and width in pixels of the tiles that are cut out of the pictures, in training as in prediction;
            None is `size`: pictures are taken at their own resolution.
        size: Height and width that the network is given; tiles are resized to it.
        overlap: Least share of a predicted window that it has in common with the next one, in [0, 1).
        strategy: What a training batch of B pictures becomes: itself (`few`), or with its copies 4B (`rotations`,
            `filters` of the three by default, `both`), as `ops.augment` says.
        filters: What `filters` and `both` filter with, each one of contour, detail, edge_enhance and find_edges.
        samples_per_category: Pictures that are drawn from each category with the run's seed, to train and validate on;
            the paper's are 520. None takes all.
        pictures: What `predict` reads: a folder or one file.
        batch_size: Pictures a process and step, before they are multiplied.
        num_workers: Loader processes; None decides by the number of cores and tiles.
        val_fraction: Share of the drawn pictures that is validated on.
        test_fraction: Share of all pictures that is tested on; none of them is drawn.
        split_seed: Seed of the split, which is made category by category; `splits.csv` in `root` (`name,split`) wins.
        flips: Whether training pictures are also flipped at random, along both axes.

    Raises:
        ValueError: A number is out of its range, or a strategy or filter is unknown.
    """

    def __init__(
        self,
        root: str | Path = "roads",
        window: Size | None = None,
        size: Size = (256, 256),
        overlap: float = 0.25,
        strategy: Strategy = "filters",
        filters: Sequence[str] = ("contour", "detail", "edge_enhance"),
        samples_per_category: int | None = None,
        pictures: str | Path | None = None,
        batch_size: int = 8,
        num_workers: int | None = None,
        val_fraction: float = 0.2,
        test_fraction: float = 0.5,
        split_seed: int = 0,
        flips: bool = False,
    ) -> None:
        super().__init__(root, pictures, batch_size, num_workers, val_fraction, test_fraction, split_seed, flips)
        for name, sides in (("size", size), ("window", window or size)):
            check(min(sides) >= 1, f"{name} is {list(sides)}; height and width in pixels, 1 or more, were wanted")
        check(0 <= overlap < 1, f"overlap is {overlap}; a share of the window in [0, 1) was wanted")
        check(
            strategy in ("few", "filters") or size[0] == size[1],
            f"the strategy {strategy!r} turns tiles by 90 degrees, and size is {list(size)}; equal height and width "
            "were wanted",
        )
        check(
            set(filters) <= set(FILTERS) and len(set(filters)) == len(filters),
            f"filters are {list(filters)}; different ones of {', '.join(FILTERS)} were wanted",
        )
        check(bool(filters) or strategy in ("few", "rotations"), f"the strategy {strategy!r} wants one filter at least")
        check(
            samples_per_category is None or samples_per_category >= 1,
            f"samples_per_category is {samples_per_category}; null, 1 or more was wanted",
        )
        self.size: Size = (size[0], size[1])
        self.window: Size = self.size if window is None else (window[0], window[1])
        self.overlap, self.strategy, self.filters = overlap, strategy, list(filters)
        self.samples_per_category = samples_per_category

    def facts(self) -> DataFacts:
        return DataFacts(size=self.size)

    def prepare_data(self) -> None:
        """Fills the cache, in one process of each machine."""
        if self.trainer is None or self.trainer.state.fn != "predict":
            self.tiles()

    def setup(self, stage: str) -> None:
        """Makes the data sets of a stage.

        Raises:
            DataError: The data are not as wanted; all problems are listed.
        """
        if stage == "predict":
            files = self.predicted_files()
            self.datasets["predict"] = predicted(files, self.size, window=self.window, overlap=self.overlap)
            return
        if self.datasets.keys() >= {"train", "val"}:
            return
        tiles = self.tiles()
        for split, names in self.split_by_category(tiles).items():
            rows = tiles.of(names)
            sample = DecodedSample(tiles.pictures, tiles.masks, rows)
            named = [tiles.source.names[tiles.owners[row]] for row in rows]
            self.datasets[split] = Samples(named, sample, self.seed)
        rank_zero_info(f"{self.root}: " + ", ".join(f"{len(self.datasets[split])} {split}" for split in SPLITS))

    def truth(self) -> list[str | Path]:
        """Returns the size of the tiles, which metrics are computed on."""
        return [f"window {self.window}"]

    def tiles(self) -> Tiles:
        """The tiles of all pictures, from the cache or decoded into it.

        Raises:
            DataError: The data are not as wanted; all problems are listed.
        """
        return decoded_tiles("roads", one_mask_each(self.root), self.window, self.size)

    def categories(self, tiles: Tiles) -> dict[str, str]:
        """The category of each picture: of `categories.csv`, or else whether its mask holds any road.

        Raises:
            DataError: The table does not name each picture once.
        """
        names, path = tiles.source.names, self.root / "categories.csv"
        if not path.is_file():
            return {name: CATEGORIES[int(count > 0)] for name, count in zip(names, tiles.marked, strict=True)}
        table = read_table(path, ["image", "category"])
        again, known = table[table["image"].duplicated()], set(names)
        named = set(table["image"])
        refuse(
            [f"{path}, row {row}: there is no picture {name!r} in {tiles.source.folder}. Remove the row."
             for row, name in table["image"].items() if name not in known]
            + [f"{path}, row {row}: {name!r} has a row already. Remove one of them." for row, name in
               again["image"].items()]
            + [f"{path}, row {row}: {name!r} has no category. Name one." for row, name in
               table["image"][table["category"] == ""].items()]
            + [f"{path} does not name the picture {name!r}. Add a row." for name in names if name not in named],
            str(path),
        )  # fmt: skip
        return dict(zip(table["image"], table["category"], strict=True))

    def split_by_category(self, tiles: Tiles) -> dict[str, list[str]]:
        """Names of the pictures of train, val and test.

        Raises:
            DataError: A category has too few pictures, or a table is not as wanted.
        """
        self._category_of = self.categories(tiles)
        if self.samples_per_category is not None and (self.root / "splits.csv").is_file():
            rank_zero_warn(
                f"{self.root / 'splits.csv'} says which pictures are taken; samples_per_category does nothing."
            )
        return self.split(tiles.source.names)

    def draw_splits(self, names: Sequence[str]) -> dict[str, list[str]]:
        """Category by category: the test pictures, then what is drawn of the others, then its validation pictures."""
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
                        f"the category {category!r} has {len(drawn)} pictures beside the {tests} that are tested on; "
                        f"{self.samples_per_category} were wanted. Give fewer --data.samples_per_category or null."
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

    def predicted_files(self) -> list[Path]:
        """The pictures to predict.

        Raises:
            DataError: There are none.
        """
        if self.pictures is None:
            raise DataError("Roads are predicted in pictures of your own: --data.pictures and a folder or a file.")
        return picture_files(self.pictures)

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_index: int) -> dict[str, Any]:
        """In training, puts the copies of the pictures behind them, before all become float in [0, 1]."""
        if self.augmenting:
            count = len(batch["image"])
            image, mask = copies(batch["image"], batch["mask"], self.strategy, self.filters, batch["seed"])
            times = len(image) // count
            batch = {key: _repeated(value, times) for key, value in batch.items()} | {"image": image, "mask": mask}
        return super().on_after_batch_transfer(batch, dataloader_index)


def _repeated(value: Any, times: int) -> Any:
    """What belongs to B pictures, for as many copies of each."""
    return value.repeat(times, *[1] * (value.ndim - 1)) if isinstance(value, torch.Tensor) else value * times
