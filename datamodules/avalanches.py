"""Avalanches: windows drawn from mountain photographs to train on, whole photographs to measure and to predict."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from datamodules.base import SPLITS, ImageDataModule, check
from datamodules.batch import Batch, DataFacts
from datamodules.decoded.scenes import PredictedScene, Scene, Scenes, decoded_scenes, readable_sizes, too_small
from datamodules.decoded.windows import Draws, Ratio, Store, stored
from datamodules.loaders import EpochLoader, EpochSampler, Samples, collate, leave_signals
from datamodules.read.masks import one_mask_each
from datamodules.read.pictures import Size, picture_files, picture_size, same_stems
from datamodules.read.tables import Box, boxes_beside, read_boxes, read_conditions, strangers
from ops.errors import DataError, refuse

SAMPLED = 20_000  # training windows that `unaugmented` yields
LEAST = 127  # the lowest grey that is avalanche: masks are JPEGs
LAYOUT = """    {root}/images/<stem>.jpg       any picture format, any size
    {root}/masks/<stem>.jpg        avalanche from a grey of 127 on, as large as its picture
    {root}/references/<stem>.jpg   optional: the picture with the outline drawn
    {root}/boxes.csv               optional: columns image,x0,y0,x1,y1
    {root}/conditions.csv          optional: columns image,condition"""


class AvalanchesDataModule(ImageDataModule):
    """Windows of mountain photographs and whether an avalanche is at their centre; whole photographs to measure on.

    Alharbi, Faut, Gumina, Kelso and Miller ("Predicting avalanche field in images using convolutional neural networks
    and edge detection", 2020) classify each pixel by the window around it. All windows of a photograph would take a
    thousand times its memory: here the training photographs lie on the device, and each batch is drawn from them.
    Unlike theirs, splits are by picture, so that no pixel of a picture that is measured on was trained on.

    Training batches have `image` (B, 3, w, w), `label` (B,), 0.0 or 1.0: the mask at row and column w // 2, `index` and
    `seed`. Validation and test batches have one picture: `image` (1, 3, H, W), `mask` (1, 1, H, W), `name` and
    `condition`, "" where none is given; batches to predict have `image`, its full `size`, `level`, the halvings
    between the two, and `source`, the full picture. Where `boxes.csv` names a picture, `valid` (1, 1, H, W) is true
    inside its boxes; elsewhere there is no `valid`.

    Args:
        root: Holds `images/`, `masks/` with the same stems, and maybe `references/` (the pictures with the outline
            drawn), `boxes.csv` (`image,x0,y0,x1,y1`) and `conditions.csv` (`image,condition`).
        window: Height and width of the windows in pixels.
        pyramid_levels: How often the sides of all pictures are halved before anything else.
        ratio: What windows are drawn by: as many around avalanche as around none (`balanced`), or any pixel as likely
            as any other (`natural`).
        windows_per_epoch: How many are drawn.
        val_pictures: How many of the validation pictures are measured on, drawn with `split_seed`; None takes all.
        pictures: What `predict` reads: a folder or one file.
        batch_size: Windows a process and step; whole pictures come one by one.
        num_workers: Loader processes for whole pictures; None is 0. Windows need none.
        val_fraction: Share of the pictures that is validated on.
        test_fraction: Share of the pictures that is tested on.
        split_seed: Seed of the split; `splits.csv` in `root` (`name,split`) wins.
        flips: Whether windows are flipped at random, along both axes. In windows of an even size this moves the pixel
            of the label from row or column w // 2 to the one before.

    Raises:
        ValueError: A number is out of its range, or the ratio is unknown.
    """

    def __init__(
        self,
        root: str | Path = "avalanches",
        window: int = 33,
        pyramid_levels: int = 0,
        ratio: Ratio = "balanced",
        windows_per_epoch: int = 20000,
        val_pictures: int | None = None,
        pictures: str | Path | None = None,
        batch_size: int = 256,
        num_workers: int | None = None,
        val_fraction: float = 0.2,
        test_fraction: float = 0.2,
        split_seed: int = 0,
        flips: bool = True,
    ) -> None:
        super().__init__(root, pictures, batch_size, num_workers, val_fraction, test_fraction, split_seed, flips)
        check(window >= 1, f"window is {window}; 1 pixel or more was wanted")
        check(pyramid_levels >= 0, f"pyramid_levels is {pyramid_levels}; 0 or more was wanted")
        check(ratio in ("natural", "balanced"), f"ratio is {ratio!r}; natural or balanced was wanted")
        check(windows_per_epoch >= 1, f"windows_per_epoch is {windows_per_epoch}; 1 or more was wanted")
        check(val_pictures is None or val_pictures >= 1, f"val_pictures is {val_pictures}; null, 1 or more was wanted")
        self.window, self.pyramid_levels, self.ratio = window, pyramid_levels, ratio
        self.windows_per_epoch, self.val_pictures = windows_per_epoch, val_pictures
        self.conditions: list[str] = []  # those of the test pictures
        self._store: Store | None = None

    def facts(self) -> DataFacts:
        return DataFacts(window=self.window, conditions=self.conditions)

    def prepare_data(self) -> None:
        """Fills the cache, in one process of each machine."""
        if self.trainer is None or self.trainer.state.fn != "predict":
            self.checked()

    def setup(self, stage: str) -> None:
        """Makes the data sets of a stage; those to train on are put into memory.

        Raises:
            DataError: The data are not as wanted; all problems are listed.
        """
        if stage == "predict":
            files = self.predicted_files()
            sizes = {file.name: picture_size(file) for file in files}
            table = boxes_beside(files[0])
            if len(files) > 1:
                refuse(strangers(table, list(sizes), files[0].parent), str(table))
            sample = PredictedScene(files, self.pyramid_levels, read_boxes(table, sizes, self.pyramid_levels))
            self.datasets["predict"] = Samples(list(sizes), sample)
            return
        if self.datasets.keys() >= {"train", "val"} and (stage != "fit" or self._store is not None):
            return
        scenes, splits, boxes, conditions = self.checked()
        self.conditions = sorted({conditions.get(name, "") for name in splits["test"]} - {""})
        for split in ("val", "test"):
            names = self.measured(splits[split]) if split == "val" else splits[split]
            self.datasets[split] = Samples(names, Scene(scenes, names, boxes, conditions))
        self.datasets["train"] = Draws(self.windows_per_epoch, self.seed, splits["train"])
        if stage == "fit":
            self._store = self.store(scenes, splits["train"])
        rank_zero_info(f"{self.root}: " + ", ".join(f"{len(splits[split])} {split}" for split in SPLITS))

    def checked(self) -> tuple[Scenes, dict[str, list[str]], dict[str, list[Box]], dict[str, str]]:
        """The decoded pictures, the names of each split, and boxes and conditions by name.

        Raises:
            DataError: The data are not as wanted; all problems are listed.
        """
        source = one_mask_each(self.root, LAYOUT, LEAST)
        checks: list[Callable[[], Any]] = [
            lambda: decoded_scenes("avalanches", source, self.pyramid_levels, self.window),
            lambda: self.split(source.names),
            lambda: self.boxes(readable_sizes(source)[0]),
            lambda: read_conditions(self.root / "conditions.csv", source.names),
            lambda: refuse(strangers(self.root / "boxes.csv", source.names), str(self.root)),
        ]
        found, problems = [], []
        for each in checks:
            try:
                found.append(each())
            except DataError as error:
                problems += error.problems
        refuse(problems, str(self.root))
        scenes, splits, boxes, conditions, _ = found
        return scenes, splits, boxes, conditions

    def boxes(self, sizes: Mapping[str, Size]) -> dict[str, list[Box]]:
        """The boxes that `boxes.csv` has for pictures of these sizes, by name.

        Raises:
            DataError: A box is not as wanted.
        """
        return read_boxes(self.root / "boxes.csv", sizes, self.pyramid_levels)

    def measured(self, names: Sequence[str]) -> list[str]:
        """The validation pictures that are measured on."""
        if self.val_pictures is None or self.val_pictures >= len(names):
            return list(names)
        order = np.random.default_rng(self.split_seed).permutation(len(names))
        return [names[index] for index in sorted(order[: self.val_pictures])]

    def store(self, scenes: Scenes, names: Sequence[str]) -> Store:
        """The pictures with these names, for windows to be drawn from.

        Raises:
            DataError: The windows cannot be balanced.
        """
        store = stored(scenes, names, self.window)
        if self.ratio == "balanced" and not min(store.counts):
            what = "avalanche" if store.counts[0] else "anything else"
            raise DataError(
                f"No window of {self.window} x {self.window} pixels of the {len(names)} training pictures of "
                f"{self.root} has {what} at its centre. Give a smaller --data.window, or --data.ratio natural."
            )
        return store

    def predicted_files(self) -> list[Path]:
        """The pictures to predict.

        Raises:
            DataError: There are none, or some cannot be used; all problems are listed.
        """
        if self.pictures is None:
            raise DataError("Avalanches are predicted in pictures of your own: --data.pictures and a folder or a file.")
        files = picture_files(self.pictures)
        problems = same_stems(files)
        for file in files:
            try:
                problems += too_small(file, picture_size(file), self.pyramid_levels, self.window, trained=True)
            except DataError as error:
                problems += error.problems
        refuse(problems, str(self.pictures))
        return files

    def _loader(self, split: str, training: bool = False) -> EpochLoader:
        world, rank = (1, 0) if self.trainer is None else (self.trainer.world_size, self.trainer.global_rank)
        dataset = self.datasets[split]
        sampler = EpochSampler(dataset, shuffle=training, seed=self.seed, world=world, rank=rank)
        return EpochLoader(
            dataset,
            batch_size=self.batch_size if training else 1,
            sampler=sampler,
            num_workers=0 if training else self.num_workers or 0,
            collate_fn=collate,
            worker_init_fn=leave_signals,
            pin_memory=torch.cuda.is_available(),
            # a last batch of one window has no batch statistics
            drop_last=training and len(sampler) > self.batch_size and len(sampler) % self.batch_size == 1,
        )

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_index: int) -> dict[str, Any]:
        """Draws the windows of a training batch, on the device that it is on."""
        if "image" not in batch:
            assert self._store is not None  # setup("fit") comes first
            self._store = self._store.to(batch["seed"].device)  # which moves it once
            batch["image"], batch["label"] = self._store.draw(batch["index"], batch["seed"], self.ratio)
        return super().on_after_batch_transfer(batch, dataloader_index)

    def training_windows(self, count: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        """Training windows (B, 3, w, w) in [0, 1] and their labels (B,), in batches on a device, always the same ones.

        Args:
            count: How many there are of them.
            device: Where they are drawn.
        """
        assert self._store is not None  # setup("fit") comes first
        self._store = self._store.to(device)
        for first in range(0, count, self.batch_size):
            numbers = torch.arange(first, min(first + self.batch_size, count), device=device)
            windows, labels = self._store.draw(numbers, numbers, self.ratio)
            yield windows.float() / 255, labels

    def unaugmented(self, split: str) -> Iterator[Batch]:
        """Yields batches without augmentation; of the training windows a sample, all centers equally likely."""
        if split != "train":
            yield from super().unaugmented(split)
            return
        assert self._store is not None  # setup("fit") comes first
        assert self.trainer is not None
        for windows in self._store.windows(SAMPLED):  # always the same ones
            share = windows[self.trainer.global_rank :: self.trainer.world_size]
            yield {"image": share.to(self.trainer.strategy.root_device).float() / 255}
