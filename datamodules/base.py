"""The parent of every data module: splits, loaders, and what is done to a batch on the device."""

import os
from abc import ABC
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_warn

from datamodules.batch import Batch, DataFacts
from datamodules.loaders import EpochLoader, EpochSampler, Samples, collate, leave_signals
from datamodules.read.cache import core_count
from datamodules.read.fingerprint import fingerprint
from datamodules.read.tables import read_table
from ops.augment import flip_by_seed
from ops.errors import DataError, refuse

if TYPE_CHECKING:
    pass

SPLITS = ("train", "val", "test")


def check(holds: bool, otherwise: str) -> None:
    """Raises a ValueError that says what is wrong with an argument, unless the condition holds."""
    if not holds:
        raise ValueError(otherwise)


class ImageDataModule(LightningDataModule, ABC):
    """Pictures of a folder in the splits train, val and test, and pictures to predict.

    Subclasses fill `datasets` in `setup`.

    Args:
        root: The folder of the data set.
        pictures: What `predict` reads: a folder or one file; None is the data set's own choice.
        batch_size: Pictures a process and step.
        num_workers: Loader processes; None is the number of cores, at most 8, and 0 for less than 64 pictures.
        val_fraction: Share of the pictures that is validated on.
        test_fraction: Share of the pictures that is tested on.
        split_seed: Seed of the split. `splits.csv` in `root` with the columns `name,split` wins over all three.
        flips: Whether training pictures are flipped at random, along both axes.

    Raises:
        ValueError: A number is out of its range.
    """

    def __init__(
        self,
        root: str | Path,
        pictures: str | Path | None,
        batch_size: int,
        num_workers: int | None,
        val_fraction: float,
        test_fraction: float,
        split_seed: int,
        flips: bool,
    ) -> None:
        super().__init__()
        check(batch_size >= 1, f"batch_size is {batch_size}; 1 or more was wanted")
        check(num_workers is None or num_workers >= 0, f"num_workers is {num_workers}; null, 0 or more was wanted")
        check(
            val_fraction >= 0 and test_fraction >= 0 and val_fraction + test_fraction < 1,
            f"val_fraction is {val_fraction} and test_fraction {test_fraction}; shares in [0, 1) that leave some to "
            "train on were wanted",
        )
        self.root = Path(root).expanduser()
        self.pictures = None if pictures is None else Path(pictures).expanduser()
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.val_fraction, self.test_fraction, self.split_seed = val_fraction, test_fraction, split_seed
        self.flips = flips
        self.datasets: dict[str, Samples] = {}
        self._unaugmented = False
        self.folder: Path | None = None  # that lists are written into where there is no trainer

    def facts(self) -> DataFacts:
        """Returns what the task may know about the data; each task's data module adds its own."""
        return DataFacts()

    @property
    def augmenting(self) -> bool:
        """Whether batches are augmented on their way to the device: in training, except for `unaugmented` ones."""
        return self.trainer is not None and self.trainer.training and not self._unaugmented

    def unaugmented(self, split: str) -> Iterator[Batch]:
        """Yields this process's batches of a split on its device: each image once, in order, without augmentation."""
        assert self.trainer is not None
        for batch in self._loader(split, training=False):
            self._unaugmented = True
            try:
                batch = self.trainer.strategy.batch_to_device(batch)  # calls `on_after_batch_transfer`
            finally:
                self._unaugmented = False
            yield batch

    def listing(self, name: str) -> Path | None:
        """Path of a list that this process writes, in the run's folder or `folder`; None where there is neither."""
        if self.trainer is None:
            return None if self.folder is None else self.folder / f"{name}.csv"
        rank = self.trainer.global_rank
        return Path(self.trainer.default_root_dir) / (f"{name}_{rank}.csv" if rank else f"{name}.csv")

    def truth(self) -> list[str | Path]:
        """What decides about what is true beside the files below `root`: settings as text, and chosen files."""
        return []

    def picture_names(self) -> dict[str, list[str]]:
        """Names of the pictures of each split, each once, after `setup`."""
        return {split: sorted(set(self.datasets[split].pictures)) for split in SPLITS if split in self.datasets}

    def fingerprint(self) -> str:
        """A digest of what figures are measured on, see `datamodules.read.fingerprint`; after `setup`."""
        return fingerprint(self.root, self.picture_names().get("test", []), self.truth())

    @property
    def seed(self) -> int:
        """The run's seed, of order and augmentation."""
        return int(os.environ.get("PL_GLOBAL_SEED", 0))

    def split(self, names: Sequence[str]) -> dict[str, list[str]]:
        """Names of train, val and test: disjoint, seeded and repeatable, or as the user's `splits.csv` says.

        Raises:
            DataError: `splits.csv` names an unknown picture or split, or a split that is needed is empty.
        """
        table = self.root / "splits.csv"
        splits = self._read_splits(table, names) if table.is_file() else self.draw_splits(names)
        for split in ("train", "val"):
            if not splits[split]:
                raise DataError(
                    f"The split {split!r} of {self.root} is empty ({len(names)} pictures in all). Give more pictures, "
                    "another val_fraction and test_fraction, or a splits.csv with the columns name,split."
                )
        return splits

    def draw_splits(self, names: Sequence[str]) -> dict[str, list[str]]:
        """Names of train, val and test, drawn with `split_seed`, where there is no `splits.csv`."""
        ordered = sorted(names)
        shuffled = [ordered[i] for i in np.random.default_rng(self.split_seed).permutation(len(ordered))]
        val = max(1, round(self.val_fraction * len(names))) if self.val_fraction > 0 else 0
        test = max(1, round(self.test_fraction * len(names))) if self.test_fraction > 0 else 0
        parts = {"val": shuffled[:val], "test": shuffled[val : val + test], "train": shuffled[val + test :]}
        return {split: sorted(part) for split, part in parts.items()}

    def _read_splits(self, path: Path, names: Sequence[str]) -> dict[str, list[str]]:
        table = read_table(path, ["name", "split"])
        known = set(names)
        refuse(
            [f"{path}, row {row}: there is no picture {name!r} in {self.root}." for row, name in
             table["name"].items() if name not in known]
            + [f"{path}, row {row}: the split {split!r} is not one of {', '.join(SPLITS)}." for row, split in
               table["split"].items() if split not in SPLITS],
            str(path),
        )  # fmt: skip
        splits = {split: sorted(set(table["name"][table["split"] == split])) for split in SPLITS}
        for left, right in (("train", "val"), ("train", "test"), ("val", "test")):
            both = set(splits[left]) & set(splits[right])
            if both:
                rank_zero_warn(
                    f"{path} has pictures in both {left} and {right} ({len(both)}, such as {min(both)!r}): their "
                    "scores say how well pictures are remembered, not how well new ones are understood."
                )
        out = len(known) - len(set(table["name"]))
        if out:
            rank_zero_warn(f"{path} does not name {out} of the {len(known)} pictures; they are left out.")
        return splits

    def _loader(self, split: str, training: bool = False) -> EpochLoader:
        """Returns a loader: shuffled and in equal shares for `training`, otherwise every image once and in order."""
        dataset = self.datasets[split]
        trainer = self.trainer
        world, rank = (trainer.world_size, trainer.global_rank) if trainer is not None else (1, 0)
        if len(dataset.groups) < world and split != "train":
            raise DataError(
                f"{split} has fewer pictures than there are processes: {len(dataset.groups)} for {world}. Each has to "
                "have one. Take fewer processes, such as --trainer.devices 1 --trainer.num_nodes 1, or more pictures."
            )
        workers = self.num_workers
        if workers is None:
            workers = 0 if len(dataset) < 64 else min(8, core_count())
        if len(dataset.groups) < len(dataset):
            workers = min(1, workers)  # which keeps a picture while its windows are cut: several would all decode it
        sampler = EpochSampler(dataset, shuffle=training, seed=self.seed, world=world, rank=rank)
        return EpochLoader(
            dataset,
            batch_size=self.batch_size,
            sampler=sampler,
            num_workers=workers,
            persistent_workers=workers > 0 and training,
            collate_fn=collate,
            worker_init_fn=leave_signals,
            pin_memory=torch.cuda.is_available(),
            # a last batch of one picture has no batch statistics
            drop_last=training and len(sampler) > self.batch_size and len(sampler) % self.batch_size == 1,
        )

    def train_dataloader(self) -> EpochLoader:
        """Training batches, in an order that is a function of (seed, epoch)."""
        return self._loader("train", training=True)

    def val_dataloader(self) -> EpochLoader:
        """Validation batches, every picture once."""
        return self._loader("val")

    def test_dataloader(self) -> EpochLoader:
        """Test batches, every picture once."""
        return self._loader("test")

    def predict_dataloader(self) -> EpochLoader:
        """Batches of the pictures to predict, every one once."""
        return self._loader("predict")

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_index: int) -> dict[str, Any]:
        """Makes pictures float in [0, 1] and, in training only, augments them."""
        batch["image"] = batch["image"].float() / 255
        if "mask" in batch:
            batch["mask"] = batch["mask"].float()
        if self.flips and self.augmenting:
            keys = [key for key in ("image", "mask") if key in batch]
            batch.update(zip(keys, flip_by_seed([batch[key] for key in keys], batch["seed"]), strict=True))
        return batch
