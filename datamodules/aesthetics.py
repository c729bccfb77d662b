"""Aesthetics: photographs with votes, professional shots and snapshots, cropped and flipped on the device."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from datamodules.base import ImageDataModule, check
from datamodules.batch import DataFacts
from datamodules.decoded.letterboxed import tree_names
from datamodules.loaders import Samples
from datamodules.votes.checked import Checked, checked_set, refuse_too_many, summary
from datamodules.votes.files import find_labels
from datamodules.votes.pictures import JudgedPicture, ScoredPicture, readable, write_unusable
from datamodules.votes.splits import drawn_splits, read_lists
from datamodules.votes.votes import Names, Singles, Statistic, Votes
from ops.augment import central_crops, crops_by_seed
from ops.errors import DataError, listed, refuse


class AestheticsDataModule(ImageDataModule):
    """Photographs and the votes on them.

    Batches have `image` (B, 3, S, S), `votes`, the counts of the votes 1 to K (B, K), `professional` (B,), 1.0 where
    the statistic is above the threshold, otherwise 0.0, `tags`, a list of names a picture, `name`, its path below
    `images/`, and `index`. Those to predict have `image`, `name`, `index`, `source`, small pictures (h, w, 3) uint8 to
    look at, and `problem`, what is wrong with a picture that cannot be used, "" otherwise.

    F. Rubio, M. J. Flores and J. M. Puerta (2018), on AVA (N. Murray, L. Marchesotti and F. Perronnin, CVPR 2012).
    Pictures that are missing, empty or unreadable are counted, listed in `unusable.csv` in the run's folder, and left
    out of all splits.

    Args:
        root: Holds `images/`, and `AVA.txt` as published or `labels.csv` (`image,count_1,…,count_k`). Tags and styles
            are read where they lie there, see `datamodules.votes.tags`.
        size: Side S of the square that the network is given.
        load_size: Side of the square that pictures are brought to, of which training takes crops of `size` anywhere,
            and everything else the one in the middle; None is 8/7 of `size`.
        squeeze: Whether whole pictures are squeezed into that square; otherwise it is the one in their middle.
        crop: Where training takes its crops: `random`, or `center` as everything else.
        flips: Whether training pictures are flipped left to right at random.
        labels: Another file of votes, seen from `root`; `datamodules.votes.files` says what it may be.
        statistic: `mean` or `median` of the votes.
        threshold: Professional shots are above it; None is 5 for ten votes, as published, otherwise (1 + k) / 2.
        delta: Pictures whose statistic is at most so far from the threshold are left out of training, and of nothing
            else; 0 leaves none out.
        test_list: A file of names or ids to be tested on, seen from `root`; None is AVA's standard list, where it lies
            in `aesthetics_image_lists/`, otherwise they are drawn.
        train_list: The same, to be trained and validated on; None is all others.
        missing_share: Largest share of the pictures that may be unusable.
        open_all: Whether all pictures are opened once before training; otherwise unreadable ones are found when their
            turn comes, and their batches are smaller. None opens up to 20,000.
        pictures: What `predict` reads: a folder, with pictures anywhere below, or one file.
        batch_size: Pictures a process and step.
        num_workers: Loader processes; None decides by the number of cores and pictures.
        val_fraction: Share of all pictures that is validated on.
        test_fraction: Share of all pictures that is tested on, where no list says which.
        split_seed: Seed of the split. Neither threshold nor δ changes it; `splits.csv` in `root` (`name,split`) wins.

    Raises:
        ValueError: An argument is out of its range.
    """

    def __init__(
        self,
        root: str | Path = "aesthetics",
        size: int = 224,
        load_size: int | None = None,
        squeeze: bool = False,
        crop: Literal["random", "center"] = "random",
        flips: bool = True,
        labels: str | Path | None = None,
        statistic: Statistic = "mean",
        threshold: float | None = None,
        delta: float = 0.0,
        test_list: str | Path | None = None,
        train_list: str | Path | None = None,
        missing_share: float = 0.05,
        open_all: bool | None = None,
        pictures: str | Path | None = None,
        batch_size: int = 128,
        num_workers: int | None = None,
        val_fraction: float = 0.1,
        test_fraction: float = 0.08,
        split_seed: int = 0,
    ) -> None:
        super().__init__(root, pictures, batch_size, num_workers, val_fraction, test_fraction, split_seed, flips)
        side = round(size * 8 / 7) if load_size is None else load_size
        check(size >= 1, f"size is {size}; 1 pixel or more was wanted")
        check(side >= size, f"load_size is {side}; {size} pixels, which is size, or more were wanted")
        check(crop in ("random", "center"), f"crop is {crop!r}; random or center was wanted")
        check(statistic in ("mean", "median"), f"statistic is {statistic!r}; mean or median was wanted")
        check(delta >= 0, f"delta is {delta}; 0 or more was wanted")
        check(0 <= missing_share <= 1, f"missing_share is {missing_share}; a share in [0, 1] was wanted")
        self.size, self.side, self.squeeze, self.crop = size, side, squeeze, crop
        self.labels, self.statistic, self.threshold, self.delta = labels, statistic, threshold, delta
        self.test_list, self.train_list = test_list, train_list
        self.missing_share, self.open_all = missing_share, open_all
        self.unusable: dict[str, str] = {}
        self.tags: tuple[str, ...] = ()  # that some test picture has
        self.scale: tuple[int, float] | None = None  # the best vote and the threshold, once they are read
        self._count = 0  # of all pictures
        self._drawn_from: tuple[Votes, dict[str, list[str]]] | None = None

    def facts(self) -> DataFacts:
        scale = (None, self.threshold) if self.scale is None else self.scale
        return DataFacts(size=(self.size, self.size), tags=self.tags, vote_scale=scale)

    def prepare_data(self) -> None:
        """Opens the pictures, in one process of each machine, where all are to be opened."""
        if self.trainer is None or self.trainer.state.fn != "predict":
            self.checked()

    def setup(self, stage: str) -> None:
        """Makes the data sets of a stage.

        Raises:
            DataError: The data are not as wanted; all problems are listed.
        """
        if stage == "predict":
            folder, names = self.predicted_names()
            sample = JudgedPicture([folder / name for name in names], self.side, self.squeeze)
            self.datasets["predict"] = Samples(names, sample)
            return
        if self.datasets.keys() >= {"train", "val"}:
            return
        found = self.checked()
        self.scale = found.votes.bins, found.threshold
        self._count = len(found.votes)
        self.tags = tuple(sorted({tag for row in found.splits["test"].tolist() for tag in found.tags.of(row)}))
        if self.trainer is None or self.trainer.is_global_zero:
            self._leave_out(found.problems)
        for split, rows in {**found.splits, "train": found.trained}.items():
            make = ScoredPicture(
                self.root / "images", found.votes, found.tags, found.professional, rows, self.side, self.squeeze
            )
            chosen = Names(found.votes.names[row] for row in rows.tolist())
            # Names makes each one when it is asked for: 250,000 strings would be copied into every worker
            self.datasets[split] = Samples(chosen, make, self.seed, Singles(len(rows)))  # type: ignore[arg-type]  # no list
        rank_zero_info(summary(found, self.statistic, self.delta))

    def truth(self) -> list[str | Path]:
        """What of the votes is compared with which threshold, and the file of the votes."""
        threshold = self.threshold if self.scale is None else self.scale[1]
        return [f"{self.statistic} above {threshold}", find_labels(self.root, self.labels)]

    def checked(self, open_all: bool | None = None) -> Checked:
        """The votes, which pictures each split has, and which cannot be used.

        Args:
            open_all: As in the constructor, where this is None.

        Raises:
            DataError: The data are not as wanted; all problems are listed.
        """
        opening = self.open_all if open_all is None else open_all
        return checked_set(self.root, self.labels, self.statistic, self.threshold, self.delta, self.split_votes,
                           self.missing_share, opening, self.side, self.listing("unusable"))  # fmt: skip

    def split_votes(self, votes: Votes) -> tuple[dict[str, list[str]], dict[str, str]]:
        """Names of train, val and test, and what is wrong with names of lists that there are no votes on.

        Raises:
            DataError: A list or `splits.csv` is not as wanted, or has a picture in `test` and in another split.
        """
        table, given = self.root / "splits.csv", [each for each in (self.test_list, self.train_list) if each]
        if table.is_file():
            if given:
                rank_zero_warn(f"{table} says which pictures are tested on; {given[0]} does nothing.")
            splits = self.split(list(votes.names))
            others = {*splits["train"], *splits["val"]}
            refuse([f"{table} has {name!r} in test and in another split. Remove it from one of them."
                    for name in splits["test"] if name in others], str(table))  # fmt: skip
            return splits, {}
        lists, unknown = read_lists(self.root, self.test_list, self.train_list, votes.names)
        self._drawn_from = votes, lists
        return self.split(list(votes.names)), unknown

    def draw_splits(self, names: Sequence[str]) -> dict[str, list[str]]:
        """Splits by lists where there are any; what is drawn has votes spread as those of all."""
        assert self._drawn_from is not None, "split_votes comes first"
        votes, lists = self._drawn_from
        return drawn_splits(votes, lists, self.val_fraction, self.test_fraction, self.split_seed)

    def predicted_names(self) -> tuple[Path, list[str]]:
        """The folder of the pictures to predict, and their paths from it.

        Raises:
            DataError: There are none.
        """
        if self.pictures is None:
            raise DataError("Photographs of your own are judged: --data.pictures and a folder or a file.")
        if self.pictures.is_file():
            return self.pictures.parent, [self.pictures.name]
        return self.pictures, tree_names(self.pictures)

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_index: int) -> dict[str, Any]:
        """Leaves out what could not be read, crops, in training at random and flipped, and makes float in [0, 1]."""
        if "votes" in batch:
            problems = batch.pop("problem")
            self._leave_out({name: problem for name, problem in zip(batch["name"], problems, strict=True) if problem})
            batch = readable(batch, problems)
        image = batch["image"]
        if self.augmenting:
            image = self.trained_on(image, batch["seed"])
            if self.flips or self.crop == "random":
                batch["altered"] = True
        else:
            image = central_crops(image, self.size)
        return {**batch, "image": image.float() / 255}

    def trained_on(self, image: Tensor, seeds: Tensor) -> Tensor:
        """What training sees of loaded squares (B, 3, H, W) with these seeds (B,)."""
        if self.crop == "center":
            image = central_crops(image, self.size)
        return crops_by_seed(image, self.size, seeds, self.flips)

    def _leave_out(self, problems: dict[str, str]) -> None:
        """Counts and lists pictures that cannot be used, in the run's folder.

        Raises:
            DataError: They are too many.
        """
        new = {name: problem for name, problem in problems.items() if name not in self.unusable}
        if not new:
            return
        first = not self.unusable
        self.unusable |= new
        path = self.listing("unusable")
        refuse_too_many(self.unusable, self._count, self.missing_share, self.root, path)
        told = f"{len(new)} of {self._count} pictures of {self.root} cannot be used and are left out"
        if path is not None:
            write_unusable(path, self.unusable)
            told += f"; {path} lists them, and those to come"
        if first:
            rank_zero_warn(f"{told}:\n{listed(list(new.values()))}")
