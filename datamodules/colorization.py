"""Colorization: pictures of any size in a white square, altered on the device, split by artist."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from datamodules.base import SPLITS, ImageDataModule, check
from datamodules.batch import DataFacts
from datamodules.decoded.letterboxed import (
    LEAST_SIDE,
    Letterboxed,
    LetterboxedSample,
    PredictedPicture,
    letterboxed_tree,
    picture_problems,
    predicted_names,
    tree_names,
)
from datamodules.loaders import EpochLoader, EpochSampler, Samples, collate
from datamodules.read.cache import core_count
from datamodules.read.tables import Work, draw_by_group, groups, read_works
from ops.augment import random_warps, warped
from ops.errors import DataError, collected, listed, refuse
from ops.pictures import valid_pixels

LAYOUT = """    {root}/images/**/<stem>.jpg   any picture format, any size, anywhere below
    {root}/metadata.csv           optional: columns image,artist,title,year
    {root}/splits.csv             optional: columns name,split"""


@dataclass(frozen=True)
class Checked:
    """A data set that was found to be as wanted.

    Attributes:
        data: The decoded pictures.
        works: What `metadata.csv` says of them, by name.
        splits: Names of each split; those that are skipped are in none.
    """

    data: Letterboxed
    works: dict[str, Work]
    splits: dict[str, list[str]]


class ColorizationDataModule(ImageDataModule):
    """Pictures with their colours, letterboxed once into a cache.

    Batches have `image` (B, 3, S, S), white around the picture, `valid` (B, 1, S, S), true in it, `name`, the path
    below `images/`, and `index`. Those to predict have one picture, and also `source`, a list of the whole one, uint8
    (H, W, 3), `box` (1, 4), top, left, height and width of it in `image`, and `problem`, a list of what is wrong with a
    picture that cannot be used, "" otherwise; such a one is valid nowhere, its source and box are empty.

    Training pictures are altered as in the notebook of the group whose report this follows (IIT Guwahati, after
    Baldassarre et al., arXiv:1712.03400), which has shear .2, zoom .2, rotation 20° and flips left to right. Its
    library takes that shear for degrees, which nobody sees; here it is a share. Both sides are zoomed alike.

    Args:
        root: Holds `images/`, with pictures anywhere below, and maybe `metadata.csv` (`image,artist,title,year`, where
            `image` is the path below `images/`): with it, no artist is in two splits.
        size: Side S of the square that the network is given.
        pictures: What `predict` reads: a folder, with pictures anywhere below, or one file.
        batch_size: Pictures a process and step; those to predict come one by one.
        num_workers: Loader processes; None decides by the number of cores and pictures.
        val_fraction: Share of the pictures that is validated on.
        test_fraction: Share of the pictures that is tested on.
        split_seed: Seed of the split; `splits.csv` in `root` (`name,split`) wins.
        flips: Whether training pictures are flipped left to right at random.
        shear: Training pictures are sheared by up to this share, in [0, 1).
        zoom: They are enlarged or reduced by up to this share, in [0, 1).
        rotation: They are turned by up to so many degrees, in [0, 180].
        unreadable: What becomes of pictures that are truncated, smaller than 32 pixels a side or otherwise not to be
            used: all are named and nothing is done (`refuse`), or the others are taken (`skip`). None refuses them in
            training, and skips them in prediction.

    Raises:
        ValueError: A number is out of its range.
    """

    def __init__(
        self,
        root: str | Path = "colorization",
        size: int = 224,
        pictures: str | Path | None = None,
        batch_size: int = 20,
        num_workers: int | None = None,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        split_seed: int = 0,
        flips: bool = True,
        shear: float = 0.2,
        zoom: float = 0.2,
        rotation: float = 20.0,
        unreadable: Literal["refuse", "skip"] | None = None,
    ) -> None:
        super().__init__(root, pictures, batch_size, num_workers, val_fraction, test_fraction, split_seed, flips)
        check(size >= LEAST_SIDE, f"size is {size}; {LEAST_SIDE} pixels or more were wanted")
        for name, share in (("shear", shear), ("zoom", zoom)):
            check(0 <= share < 1, f"{name} is {share}; a share in [0, 1) was wanted")
        check(0 <= rotation <= 180, f"rotation is {rotation}; degrees in [0, 180] were wanted")
        check(unreadable in ("refuse", "skip", None), f"unreadable is {unreadable!r}; refuse, skip or null was wanted")
        self.size, self.shear, self.zoom, self.rotation, self.unreadable = size, shear, zoom, rotation, unreadable

    def facts(self) -> DataFacts:
        return DataFacts(size=(self.size, self.size))

    def prepare_data(self) -> None:
        """Fills the cache, in one process of each machine."""
        if self.trainer is None or self.trainer.state.fn != "predict":
            self.checked()

    def setup(self, stage: str) -> None:
        """Makes the data sets of a stage.

        Raises:
            DataError: The data are not as wanted; all problems are listed.
        """
        if stage == "predict":
            folder, names = self.predicted_names()
            files = [folder / name for name in names]
            if self.unreadable == "refuse":
                refuse(picture_problems(files), str(self.pictures))
            self.datasets["predict"] = Samples(names, PredictedPicture(files, self.size))
            return
        if self.datasets.keys() >= {"train", "val"}:
            return
        found = self.checked()
        skipped = [problem for problems in found.data.problems.values() for problem in problems]
        if skipped:
            rank_zero_warn(f"{len(found.data.problems)} pictures of {self.root} are left out:\n{listed(skipped)}")
        row = {name: index for index, name in enumerate(found.data.names)}
        for split, names in found.splits.items():
            sample = LetterboxedSample(found.data, [row[name] for name in names])
            self.datasets[split] = Samples(names, sample, self.seed)
        rank_zero_info(f"{self.root}: " + ", ".join(f"{len(self.datasets[split])} {split}" for split in SPLITS))

    def checked(self) -> Checked:
        """The decoded pictures, from the cache or decoded into it, and the names of each split.

        Raises:
            DataError: The data are not as wanted; all problems are listed.
        """
        folder = self.root / "images"
        try:
            names = tree_names(folder)
        except DataError as error:
            raise DataError(f"No data set in {self.root}. Wanted:\n{LAYOUT.format(root=self.root)}\n{error}") from error
        data: list[Letterboxed] = []
        works: dict[str, Work] = {}
        splits: list[dict[str, list[str]]] = []
        skip = self.unreadable == "skip"
        problems = collected(
            [
                lambda: data.append(letterboxed_tree("colorization", folder, names, self.size, skip)),
                lambda: works.update(read_works(self.root / "metadata.csv", names)),
                lambda: splits.append(self.split_by_artist(names, works)),
            ]
        )
        refuse(problems, str(self.root))
        usable = {split: [name for name in part if name not in data[0].problems] for split, part in splits[0].items()}
        refuse([f"None of the {len(splits[0][split])} pictures of the split {split!r} can be used: "
                + next(iter(data[0].problems[splits[0][split][0]])) for split in ("train", "val") if not usable[split]],
               str(self.root))  # fmt: skip
        return Checked(data[0], works, usable)

    def split_by_artist(self, names: Sequence[str], works: dict[str, Work]) -> dict[str, list[str]]:
        """Names of the pictures of train, val and test.

        Raises:
            DataError: There are too few pictures or artists, or `splits.csv` is not as wanted.
        """
        self._group_of = groups(names, works)
        single = sum(group.startswith("picture ") for group in self._group_of.values())
        if works and single:
            rank_zero_warn(
                f"{self.root / 'metadata.csv'} names no artist of {single} of the {len(names)} pictures; they are "
                "split as if each were of another."
            )
        splits = self.split(names)
        parts = {split: {self._group_of[name] for name in part} for split, part in splits.items()}
        both = {group.removeprefix("artist ") for group in parts["train"] & (parts["val"] | parts["test"])}
        if works and both:
            rank_zero_warn(
                f"{self.root / 'splits.csv'} has pictures of the same artists in train and in val or test "
                f"({len(both)}, such as {min(both)!r})."
            )
        return splits

    def draw_splits(self, names: Sequence[str]) -> dict[str, list[str]]:
        """Splits drawn artist by artist, where `metadata.csv` names any; otherwise picture by picture."""
        if not any(group.startswith("artist ") for group in self._group_of.values()):
            return super().draw_splits(names)
        return draw_by_group(self._group_of, {"val": self.val_fraction, "test": self.test_fraction}, self.split_seed)

    def predicted_names(self) -> tuple[Path, list[str]]:
        """The folder of the pictures to predict, and their paths from it.

        Raises:
            DataError: There are none, or what is written of two would have one name.
        """
        if self.pictures is None:
            raise DataError("Pictures of your own are coloured: --data.pictures and a folder or a file.")
        return predicted_names(self.pictures)

    def predict_dataloader(self) -> EpochLoader:
        """The pictures to predict, one by one: each comes whole, and memory holds a few of them only."""
        dataset = self.datasets["predict"]
        world, rank = (1, 0) if self.trainer is None else (self.trainer.world_size, self.trainer.global_rank)
        workers = self.num_workers
        if workers is None:
            workers = 0 if len(dataset) < 64 else min(2, core_count())
        sampler = EpochSampler(dataset, shuffle=False, seed=self.seed, world=world, rank=rank)
        return EpochLoader(dataset, batch_size=1, sampler=sampler, num_workers=workers, collate_fn=collate)

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_index: int) -> dict[str, Any]:
        """Makes pictures float in [0, 1], says where they are valid and, in training only, alters them."""
        image, valid = batch["image"].float() / 255, valid_pixels(batch["box"], self.size)
        if "source" not in batch:
            del batch["box"]
        if self.augmenting and (self.flips or self.shear or self.zoom or self.rotation):
            image, valid = self.altered(image, valid, batch["seed"])
            batch["altered"] = True
        return {**batch, "image": image, "valid": valid}

    def altered(self, image: Tensor, valid: Tensor, seeds: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures and where they are valid, flipped, zoomed, sheared and turned as these seeds say."""
        return warped(image, valid, random_warps(seeds, self.shear, self.zoom, self.rotation, self.flips))
