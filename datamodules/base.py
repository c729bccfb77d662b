"""Base class of all data modules: splits, loaders, and the conversion of batches on the device."""

import hashlib
import math
import os
from abc import ABC
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
import torch
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from numpy.typing import NDArray

from datamodules.augmentations import Augmentations
from datamodules.batch import Batch, DataFacts
from datamodules.decoded.shares import Share, shared
from datamodules.folds import folds_of
from datamodules.loaders import MOST_WORKERS, EpochLoader, Samples, make_loader
from datamodules.read.fingerprint import fingerprint
from datamodules.read.masks import MaskSource, unusable
from datamodules.read.names import located, predicted_names
from datamodules.read.pictures import read_picture
from datamodules.read.rasters import COLOR, shown
from datamodules.read.tables import Table, read_table
from ops.augment import flip_by_seed
from ops.errors import ArgumentError, DataError, refuse
from ops.files.images import MAX_PIXELS, limit_pixels
from ops.jitter import RandomViews

SPLITS = ("train", "val", "test")
LEAST_STEPS = 20  # optimizer steps of an epoch below which a patience of ten epochs is short
Steps = int | Literal["auto"] | None
Source = TypeVar("Source", bound=MaskSource)


def check(holds: bool, otherwise: str) -> None:
    """Raises an ArgumentError with this message unless the condition holds."""
    if not holds:
        raise ArgumentError(otherwise)


class ImageDataModule(LightningDataModule, ABC):
    """Images of a folder in the splits train, val and test, and images to predict.

    Subclasses fill `datasets` in `setup`.

    Args:
        root: Folder of the dataset.
        pictures: Images to predict: a folder or one file; None uses those of the dataset, if it has any.
        batch_size: Images per process and step.
        num_workers: Loader processes; None is the number of cores, at most 8, and 0 for fewer than 64 images.
        val_fraction: Share of the images to validate on; 0 validates on the training images, for datasets too small to
            spare any.
        test_fraction: Share of the images to test on.
        split_seed: Seed of the split. A `splits.csv` in `root` with the columns `name,split` overrides all three.
        folds: Number of folds for cross-validation, dealt with `split_seed` so that each shows the classes equally
            often: tests on fold `fold`, and draws `val_fraction` of the others to validate on. Images that `splits.csv`
            tests on stay out of all folds.
        fold: The fold to test on, from 0.
        fold_by: Column of `groups.csv` or `metadata.csv` in `root`, such as `scene`, beside the column `name` or
            `image`: images with the same value lie in one fold. None deals each image by itself; paintings by artist.
        train_share: Share of the training images to train on, for learning curves: whole groups as in `folds`, drawn
            with `split_seed`; a smaller share is part of a larger one. An epoch has as many steps as with all of them.
        flips: Whether to flip training images at random, along both axes.
        augmentations: albumentations transforms of training images and their masks, such as
            `[{class_path: albumentations.RandomBrightnessContrast, init_args: {p: 0.5}}]`, applied on the host and
            seeded per sample, see `datamodules.augmentations`.
        steps_per_epoch: Batches in a training epoch. `auto` takes every sample once or, if that is fewer than 20
            optimizer steps, as many samples as 20 steps need; None always takes every sample once.
        max_pixels: Most pixels of an image that is decoded as a whole; images cut into windows may have more.

    Raises:
        ArgumentError: A number is out of range, or a transform is invalid.
    """

    paths: ClassVar[Sequence[str]] = ("root", "pictures")
    """Arguments that are paths from the working folder, which configs of runs keep as absolute ones."""
    channels = COLOR
    """How rasters are read."""
    views: RandomViews | None = None
    """How training images and masks vary on the device, in place of `flips`; None leaves it to `flips`."""

    def __init__(
        self,
        root: str | Path,
        pictures: str | Path | None = None,
        batch_size: int = 16,
        num_workers: int | None = None,
        val_fraction: float = 0.2,
        test_fraction: float = 0.1,
        split_seed: int = 0,
        flips: bool = True,
        augmentations: list[dict[str, Any]] | None = None,
        steps_per_epoch: Steps = "auto",
        max_pixels: int = MAX_PIXELS,
        folds: int | None = None,
        fold: int = 0,
        fold_by: str | None = None,
        train_share: float = 1.0,
    ) -> None:
        super().__init__()
        check(root is not None, "root is null; expected the folder of the dataset")
        check(
            not Path(root).expanduser().is_file(),
            f"root is {root}, a file; expected the folder of the dataset. Unpack an archive first",
        )
        check(batch_size >= 1, f"batch_size is {batch_size}; expected 1 or more")
        check(num_workers is None or num_workers >= 0, f"num_workers is {num_workers}; expected null, 0 or more")
        check(
            val_fraction >= 0 and test_fraction >= 0 and val_fraction + test_fraction < 1,
            f"val_fraction is {val_fraction} and test_fraction {test_fraction}; expected shares in [0, 1) that leave "
            "some images to train on",
        )
        check(
            steps_per_epoch in ("auto", None) or (isinstance(steps_per_epoch, int) and steps_per_epoch >= 1),
            f"steps_per_epoch is {steps_per_epoch}; expected auto, null, 1 or more",
        )
        check(folds is None or folds >= 2, f"folds is {folds}; expected null, 2 or more")
        check(
            0 <= fold < (folds or 1),
            f"fold is {fold} and folds {folds}; expected a fold from 0 to folds - 1",
        )
        check(0 < train_share <= 1, f"train_share is {train_share}; expected a share above 0, up to 1")
        self.folds, self.fold, self.fold_by, self.train_share = folds, fold, fold_by, train_share
        self.steps_per_epoch = steps_per_epoch
        check(max_pixels >= 1, f"max_pixels is {max_pixels}; expected 1 or more")
        limit_pixels(max_pixels)
        self.root = Path(root).expanduser()
        self.pictures = None if pictures is None else Path(pictures).expanduser()
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.val_fraction, self.test_fraction, self.split_seed = val_fraction, test_fraction, split_seed
        self.flips = flips
        self.augmentations = Augmentations(augmentations) if augmentations else None
        self.datasets: dict[str, Samples] = {}
        self._unaugmented = False
        self._warned: set[str] = set()
        self.left_out: set[str] = set()  # images that are in no fold
        self.folder: Path | None = None  # for lists, if there is no trainer
        self.finished: Collection[str] = ()  # images that an interrupted prediction has finished
        self.shares: Sequence[Share] | None = None  # of the images to predict; all of them if None
        self.skipping = False  # whether unusable images of any dataset are skipped, for `describe`
        self.unusable: dict[str, str] = {}  # problems of skipped images by name
        self._dropped: dict[str, str] | None = None  # those of the dataset itself, once they are known

    @property
    def task(self) -> str:
        """Task name, which starts the names of cached files."""
        return type(self).__name__.removesuffix("DataModule").lower()

    @property
    def seed(self) -> int:
        """The run's seed, for order and augmentation."""
        return int(os.environ.get("PL_GLOBAL_SEED", 0))

    @property
    def predicting(self) -> bool:
        """Whether the trainer only predicts, so that the dataset itself is not needed."""
        return self.trainer is not None and self.trainer.state.fn == "predict"

    def facts(self) -> DataFacts:
        """Returns what the task may know about the data; each task's data module adds its own."""
        return DataFacts()

    def preparation(self) -> dict[str, Any]:
        """Returns how images become the network's input, in numbers: a `kind`, see `belvedere.export`, and its sizes.

        Raises:
            ArgumentError: Exported files cannot prepare images in this way.
        """
        raise ArgumentError(f"{type(self).__name__} does not say how it prepares images, so it cannot be exported.")

    @property
    def augmenting(self) -> bool:
        """Whether batches are augmented on their way to the device: in training, except for `unaugmented` ones."""
        return self.trainer is not None and self.trainer.training and not self._unaugmented

    def unaugmented(self, split: str) -> Iterator[Batch]:
        """Yields this process's batches of a split on its device: each image once, in order, without augmentation."""
        assert self.trainer is not None
        for batch in self.loader(split, training=False):
            self._unaugmented = True
            try:
                batch = self.trainer.strategy.batch_to_device(batch)  # calls `on_after_batch_transfer`
            finally:
                self._unaugmented = False
            yield batch

    def listing(self, name: str) -> Path | None:
        """Returns the path of a list to write, in the run's folder or `folder`, or None if there is neither."""
        if self.trainer is None:
            return None if self.folder is None else self.folder / f"{name}.csv"
        rank = self.trainer.global_rank
        return Path(self.trainer.default_root_dir) / (f"{name}_{rank}.csv" if rank else f"{name}.csv")

    def truth(self) -> list[str | Path]:
        """Returns what decides the ground truth besides the files below `root`: settings as text, and files."""
        return []

    def picture_file(self, name: str) -> Path | None:
        """Returns the file of an image of the dataset; None if there is none."""
        files = (located(self.root / folder, name) for folder in ("images", "train_images"))
        return next((path for path in files if path.is_file()), None)

    def files(self) -> list[Path]:
        """Returns the image files of the dataset, those held out of all folds too, after `setup`."""
        names = self.left_out.union(*self.picture_names().values())
        return [path for path in map(self.picture_file, sorted(names)) if path is not None]

    def picture(self, name: str, side: int) -> NDArray[np.uint8] | None:
        """Returns an image of the dataset (H, W, 3) as in its file; None if there is no such file."""
        path = self.picture_file(name)
        return None if path is None else shown(read_picture(path, (side, side), self.channels))

    def picture_names(self) -> dict[str, list[str]]:
        """Returns the names of the images of each split, each once, after `setup`."""
        return {split: sorted(set(self.datasets[split].pictures)) for split in SPLITS if split in self.datasets}

    def fingerprint(self) -> str:
        """Returns a digest of the data that metrics are measured on, after `setup`."""
        return fingerprint(self.root, self.picture_names().get("test", []), self.truth())

    def required_pictures(self) -> Path:
        """Returns the folder or file of the images to predict.

        Raises:
            DataError: None was given.
        """
        if self.pictures is None:
            raise DataError("There are no images to predict. Give a folder or a file with --data.pictures.")
        return self.pictures

    def predicted_names(self) -> tuple[Path, list[str]]:
        """Returns the folder of the images to predict, and their names below it.

        Raises:
            DataError: There are none, or the outputs of two would have the same name.
        """
        return predicted_names(self.required_pictures())

    def usable(self, source: Source) -> Source:
        """Returns the images and masks of a dataset, without unusable ones if those are skipped."""
        source.channels = self.channels.unscaled
        if self.skipping:
            found = self._dropped = unusable(source) if self._dropped is None else self._dropped
            self.unusable |= found
            source.drop(found)
            if not source.names:
                refuse(list(found.values()), str(self.root))
        source.channels = self.channels
        return source

    def split(self, names: Sequence[str]) -> dict[str, list[str]]:
        """Returns the names of train, val and test: disjoint and seeded, or those of the `splits.csv` in `root`.

        Raises:
            DataError: `splits.csv` has an unknown image or split, or train or val is empty.
        """
        table = self.root / "splits.csv"
        if self.folds is not None:
            splits = self.draw_folds(names, self.folds)
        else:
            splits = self._read_splits(table, names) if table.is_file() else self.draw_grouped(names)
        if splits["train"] and not splits["val"] and self.val_fraction == 0:
            splits["val"] = splits["train"]
            self._warn(
                f"val_fraction is 0: validation uses the {len(splits['train'])} training images, so its metrics "
                "measure memorization. Only test metrics tell how good the model is."
            )
        for split in ("train", "val"):
            if not splits[split]:
                raise DataError(
                    f"The split {split!r} of {self.root} is empty ({len(names)} images in all). Add images, or change "
                    "val_fraction, test_fraction or splits.csv (columns name,split)."
                )
        if self.train_share < 1:
            splits["train"] = self.thinned(splits["train"])
        return splits

    def thinned(self, names: Sequence[str]) -> list[str]:
        """Returns `train_share` of the training images: the first groups in an order of `split_seed` and their names.

        Raises:
            DataError: A table of groups is invalid.
        """
        members: dict[str, list[str]] = {}
        groups = self.fold_groups(names)
        for name in names:
            members.setdefault(groups[name], []).append(name)

        def place(group: str) -> bytes:
            return hashlib.sha256(f"{self.split_seed} {group}".encode("utf-8", "surrogateescape")).digest()

        ordered = sorted(members, key=place)
        sizes = np.cumsum([len(members[group]) for group in ordered])
        count = int(np.abs(sizes - self.train_share * len(names)).argmin()) + 1
        return sorted(name for group in ordered[:count] for name in members[group])

    def draw_folds(self, names: Sequence[str], count: int) -> dict[str, list[str]]:
        """Returns the names of train, val and test of fold `fold` of `count`.

        Raises:
            DataError: There are too few groups, or a table is invalid.
        """
        out, groups = self.held_out(names), self.fold_groups(names)
        self.left_out = out
        dealt = [name for name in names if name not in out]
        shares = self.balanced(dealt)
        fold_of = folds_of(dealt, shares, groups, count, self.split_seed)
        test = sorted(name for name in dealt if fold_of[name] == self.fold)
        rest = [row for row, name in enumerate(dealt) if fold_of[name] != self.fold]
        known = [dealt[row] for row in rest]
        most, val = len({groups[name] for name in known}), list[str]()
        if self.val_fraction > 0 and most > 1:
            parts = min(max(2, round(1 / self.val_fraction)), most)
            part_of = folds_of(known, shares[rest], groups, parts, self.split_seed + 1)
            val = sorted(name for name in known if part_of[name] == 0)
        return {"train": sorted({*known} - {*val}), "val": val, "test": test}

    def held_out(self, names: Sequence[str]) -> set[str]:
        """Returns the images that stay out of all folds: those that `splits.csv` tests on."""
        table = self.root / "splits.csv"
        return set(self._read_splits(table, names)["test"]) if table.is_file() else set()

    def balanced(self, names: Sequence[str]) -> NDArray[np.float64]:
        """Returns what folds balance besides the number of images, at least 0, (N, V)."""
        return np.zeros((len(names), 0))

    def fold_groups(self, names: Sequence[str]) -> Mapping[str, str]:
        """Returns the group of each image, which lies in one fold.

        Raises:
            DataError: No table has the column `fold_by`, or it lacks an image.
        """
        if self.fold_by is None:
            return {name: name for name in names}
        for path in (self.root / "groups.csv", self.root / "metadata.csv"):
            rows = read_table(path, ()) if path.is_file() else None
            key = next((each for each in ("name", "image") if rows is not None and each in rows.columns), None)
            if rows is None or key is None or self.fold_by not in rows.columns:
                continue
            groups = dict(zip(rows[key], rows[self.fold_by], strict=True))
            refuse([f"{path} has no row of {name!r}. Add one." for name in names if name not in groups], str(path))
            return groups
        raise DataError(
            f"Neither groups.csv nor metadata.csv in {self.root} has the column {self.fold_by!r} (--data.fold_by) and "
            "a column name or image. Add one."
        )

    def draw_grouped(self, names: Sequence[str]) -> dict[str, list[str]]:
        """Returns the names of train, val and test as `draw_splits`, with groups that belong together in one split."""
        return self.draw_splits(names)

    def draw_splits(self, names: Sequence[str]) -> dict[str, list[str]]:
        """Returns the names of train, val and test, drawn with `split_seed`."""
        ordered = sorted(names)
        shuffled = [ordered[i] for i in np.random.default_rng(self.split_seed).permutation(len(ordered))]
        val = max(1, round(self.val_fraction * len(names))) if self.val_fraction > 0 else 0
        test = max(1, round(self.test_fraction * len(names))) if self.test_fraction > 0 else 0
        parts = {"val": shuffled[:val], "test": shuffled[val : val + test], "train": shuffled[val + test :]}
        return {split: sorted(part) for split, part in parts.items()}

    def _read_splits(self, path: Path, names: Sequence[str]) -> dict[str, list[str]]:
        table = Table(path, ["name", "split"])
        table.known("name", names, lambda name: f"there is no image {name!r} in {self.root}.")
        table.known("split", SPLITS, lambda split: f"the split is {split!r}; expected one of {', '.join(SPLITS)}.")
        table.check()
        rows = table.rows
        splits = {split: sorted(set(rows["name"][rows["split"] == split])) for split in SPLITS}
        for left, right in (("train", "val"), ("train", "test"), ("val", "test")):
            both = set(splits[left]) & set(splits[right])
            if both:
                self._warn(
                    f"{path} has images in both {left} and {right} ({len(both)}, such as {min(both)!r}): their metrics "
                    "measure memorization, not generalization."
                )
        out = len(set(names)) - len(set(rows["name"]))
        if out:
            self._warn(f"{path} does not list {out} of the {len(set(names))} images; they are skipped.")
        return splits

    def _warn(self, text: str) -> None:
        """Warns of something once, although images are split several times."""
        if text not in self._warned:
            self._warned.add(text)
            rank_zero_warn(text)

    def report_splits(self) -> None:
        """Logs the number of samples of each split."""
        rank_zero_info(f"{self.root}: " + ", ".join(f"{len(self.datasets[split])} {split}" for split in SPLITS))

    def loader(
        self,
        split: str,
        batch_size: int | None = None,
        workers: int | None = None,
        most_workers: int = MOST_WORKERS,
        training: bool = False,
    ) -> EpochLoader:
        """Returns a loader: shuffled, augmented and in equal shares for `training`, otherwise every image once."""
        batch_size = batch_size or self.batch_size
        world, rank = (1, 0) if self.trainer is None else (self.trainer.world_size, self.trainer.global_rank)
        return make_loader(
            self.datasets[split],
            split,
            batch_size,
            self.num_workers if workers is None else workers,
            self.seed,
            world,
            rank,
            most_workers=most_workers,
            change=self.augmentations if training else None,
            training=training,
            steps=self._steps(len(self.datasets[split]), batch_size * world) if training else None,
            without=self.finished if split == "predict" else (),
        )

    def _steps(self, samples: int, batch: int) -> int | None:
        """Returns the batches in a training epoch, given the samples of all processes in a step; None for one pass."""
        if isinstance(self.steps_per_epoch, int):
            return self.steps_per_epoch
        exact = samples / (self.train_share * batch)
        once = max(1, round(exact)) if self.train_share < 1 else math.ceil(exact)
        least = LEAST_STEPS * getattr(self.trainer, "accumulate_grad_batches", 1)
        if self.steps_per_epoch == "auto" and once < least:
            return least
        return once if self.train_share < 1 else None

    def check_training(self) -> None:
        """Checks arguments that act in training only; checkpoints of runs that had contradicting ones still work.

        Raises:
            ArgumentError: Two contradict each other.
        """

    def train_dataloader(self) -> EpochLoader:
        self.check_training()
        loader = self.loader("train", training=True)
        self.report_few_steps(len(loader))
        return loader

    def report_few_steps(self, batches: int) -> None:
        """Logs a notice if the epochs of a new run are one pass and that is few optimizer steps."""
        trainer = self.trainer
        if not isinstance(trainer, Trainer) or self.steps_per_epoch is not None:
            return
        if trainer.max_epochs == 1 or trainer.ckpt_path:  # a resumed run keeps its epochs
            return
        if isinstance(trainer.limit_train_batches, int) or trainer.limit_train_batches < 1:
            return  # a trial
        steps = -(-batches // trainer.accumulate_grad_batches)
        if steps < LEAST_STEPS:
            rank_zero_info(
                f"An epoch has {steps} optimizer step{'s' * (steps != 1)}, because there are few training images. "
                "Validation and patience count epochs; for longer ones, add --data.steps_per_epoch auto."
            )

    def val_dataloader(self) -> EpochLoader:
        return self.loader("val")

    def test_dataloader(self) -> EpochLoader:
        return self.loader("test")

    def predict_dataloader(self) -> EpochLoader:
        if self.shares is not None:
            self.datasets["predict"], self.shares = shared(self.datasets["predict"], self.shares), None
        return self.loader("predict")

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_index: int) -> dict[str, Any]:
        """Converts images to float in [0, 1] and, in training only, augments them."""
        batch["image"] = batch["image"].float() / 255
        if "mask" in batch:
            batch["mask"] = batch["mask"].float()
        if self.augmenting:
            self.vary(batch)
        return batch

    def vary(self, batch: dict[str, Any]) -> None:
        """Varies the images of a batch, in [0, 1], and all that is as large, by `views` or `flips`."""
        if self.views is not None:
            planes = {key: batch[key].float() for key in ("mask", "valid", "ignored") if key in batch}
            batch["image"], views = self.views(batch["image"], torch.cat(list(planes.values()), dim=1), batch["seed"])
            counts = [plane.shape[1] for plane in planes.values()]
            for key, view in zip(planes, torch.split(views, counts, dim=1), strict=True):
                batch[key] = view if key == "mask" else view > 0
        elif self.flips:
            keys = [key for key in ("image", "mask", "ignored") if key in batch]
            batch.update(zip(keys, flip_by_seed([batch[key] for key in keys], batch["seed"]), strict=True))
