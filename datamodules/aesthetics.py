"""Aesthetics: photos with votes, professional shots and snapshots, cropped and flipped on the device."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from numpy.typing import NDArray
from torch import Tensor

from datamodules.base import ImageDataModule, check
from datamodules.batch import DataFacts
from datamodules.loaders import Samples
from datamodules.read.names import located, predicted_names
from datamodules.votes.checked import Checked, checked_set, refuse_too_many, summary
from datamodules.votes.files import find_labels
from datamodules.votes.pictures import JudgedPicture, ScoredPicture, readable, write_unusable
from datamodules.votes.splits import drawn_splits, read_lists
from datamodules.votes.votes import Names, Singles, Statistic, Votes, by_score, mean_votes
from ops.augment import central_crops, crops_by_seed, mirrored_by_seed
from ops.errors import listed, refuse


class AestheticsDataModule(ImageDataModule):
    """Photos and the votes on them.

    Batches have `image` (B, 3, S, S), `votes`, the counts of the votes 1 to K (B, K), `professional` (B,), 1.0 if the
    statistic is above the threshold and 0.0 otherwise, `tags`, a list of names per image, `name`, the path below
    `images/`, and `index`. Batches to predict have `image`, `name`, `index`, `source`, thumbnails (h, w, 3) uint8, and
    `problem`, why an image cannot be used or "".

    F. Rubio, M. J. Flores and J. M. Puerta (2018), on AVA (N. Murray, L. Marchesotti and F. Perronnin, CVPR 2012).
    Images that are missing, empty or unreadable are listed in `unusable.csv` in the run's folder and are in no split.

    Args:
        root: Folder with `images/`, and `AVA.txt` as published or `labels.csv` (`image,count_1,…,count_k`). It may also
            have tags and styles, see `datamodules.votes.tags`.
        size: Side S of the network's input.
        load_size: Side of the square that images are resized to, from which training takes random crops of `size` and
            everything else the central one; None is 8/7 of `size`.
        squeeze: Whether to squeeze whole images into that square; otherwise their central square is taken.
        crop: Crops in training: `random`, or `center` as everywhere else.
        flips: Whether to flip training images left to right at random.
        labels: Another file of votes, relative to `root`; see `datamodules.votes.files` for its formats.
        statistic: `mean` or `median` of the votes.
        threshold: Professional shots are above it; None is 5 on the scale to 10, as published, otherwise (1 + k) / 2.
        delta: Training skips images whose statistic is at most this far from the threshold; 0 skips none. Validation
            and test are not affected.
        test_list: File of names or ids to test on, relative to `root`; None is AVA's standard list if it is in
            `aesthetics_image_lists/`, otherwise test images are drawn at random.
        train_list: The same for training and validation; None is all other images.
        missing_share: Largest share of the images that may be unusable.
        open_all: Whether to open all images once before training; otherwise unreadable ones are found when they are
            loaded, and their batches are smaller. None opens up to 20,000.
        batch_size: Images per process and step.
        val_fraction: Share of all images to validate on; 0 validates on the training images.
        test_fraction: Share of all images to test on, if no list says which.
        **options: Options of every data module, see `datamodules.base.ImageDataModule`.

    Raises:
        ArgumentError: An argument is out of range.
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
        batch_size: int = 128,
        val_fraction: float = 0.1,
        test_fraction: float = 0.08,
        **options: Any,
    ) -> None:
        super().__init__(
            root, batch_size=batch_size, val_fraction=val_fraction, test_fraction=test_fraction, flips=flips, **options
        )
        side = round(size * 8 / 7) if load_size is None else load_size
        check(size >= 1, f"size is {size}; expected 1 pixel or more")
        check(side >= size, f"load_size is {side}; expected {size} pixels, the size, or more")
        check(crop in ("random", "center"), f"crop is {crop!r}; expected random or center")
        check(statistic in ("mean", "median"), f"statistic is {statistic!r}; expected mean or median")
        check(delta >= 0, f"delta is {delta}; expected 0 or more")
        check(0 <= missing_share <= 1, f"missing_share is {missing_share}; expected a share in [0, 1]")
        self.size, self.side, self.squeeze, self.crop = size, side, squeeze, crop
        self.labels, self.statistic, self.threshold, self.delta = labels, statistic, threshold, delta
        self.test_list, self.train_list = test_list, train_list
        self.missing_share, self.open_all = missing_share, open_all
        self.tags: tuple[str, ...] = ()  # of the test images
        self.scale: tuple[int, float] | None = None  # highest vote and threshold, once they are read
        self._count = 0  # of all images
        self._drawn_from: tuple[Votes, dict[str, list[str]]] | None = None

    def facts(self) -> DataFacts:
        scale = (None, self.threshold) if self.scale is None else self.scale
        return DataFacts(size=(self.size, self.size), tags=self.tags, vote_scale=scale)

    def preparation(self) -> dict[str, Any]:
        return {"kind": "squared", "side": self.side, "size": self.size, "squeeze": self.squeeze}

    def prepare_data(self) -> None:
        if not self.predicting:
            found = self.checked()
            self.scale = found.votes.bins, found.threshold

    def setup(self, stage: str) -> None:
        """Makes the samples of a stage.

        Raises:
            DataError: The dataset is invalid; all problems are listed.
        """
        if stage == "predict":
            folder, names = self.predicted_names()
            sample = JudgedPicture([located(folder, name) for name in names], self.side, self.squeeze)
            self.datasets["predict"] = Samples(names, sample)
            return
        if self.datasets.keys() >= {"train", "val"}:
            return
        found = self.checked()
        self.scale = found.votes.bins, found.threshold
        self._count = len(found.votes)
        self.tags = tuple(sorted({tag for row in found.splits["test"].tolist() for tag in found.tags.of(row)}))
        if self.trainer is None or self.trainer.is_global_zero:
            self._skip(found.problems)
        for split, rows in {**found.splits, "train": found.trained}.items():
            make = ScoredPicture(
                self.root / "images", found.votes, found.tags, found.professional, rows, self.side, self.squeeze
            )
            chosen = Names(found.votes.names[row] for row in rows.tolist())
            # Names makes each string on demand: 250,000 of them would be copied into every worker
            self.datasets[split] = Samples(chosen, make, self.seed, Singles(len(rows)))  # type: ignore[arg-type]  # no list
        rank_zero_info(summary(found, self.statistic, self.delta))

    def truth(self) -> list[str | Path]:
        """Returns the statistic with its threshold, and the file of the votes."""
        threshold = self.threshold if self.scale is None else self.scale[1]
        return [f"{self.statistic} above {threshold}", find_labels(self.root, self.labels)]

    def checked(self, open_all: bool | None = None) -> Checked:
        """Returns the votes, the images of each split, and the unusable ones.

        Args:
            open_all: Overrides the argument of the class unless it is None.

        Raises:
            DataError: The dataset is invalid; all problems are listed.
        """
        opening = self.open_all if open_all is None else open_all
        found = checked_set(self.root, self.labels, self.statistic, self.threshold, self.delta, self.split_votes,
                            self.missing_share, opening, self.side, self.listing("unusable"))  # fmt: skip
        if self.skipping:
            self.unusable |= found.problems
        return found

    def split_votes(self, votes: Votes) -> tuple[dict[str, list[str]], dict[str, str]]:
        """Returns the names of train, val and test, and the problems of listed names without votes.

        Raises:
            DataError: A list or `splits.csv` is invalid, or has an image in `test` and in another split.
        """
        table, given = self.root / "splits.csv", [each for each in (self.test_list, self.train_list) if each]
        if table.is_file():
            if given:
                rank_zero_warn(f"{table} decides the test images; {given[0]} has no effect.")
            self._drawn_from = votes, {}
            splits = self.split(list(votes.names))
            others = {*splits["train"], *splits["val"]}
            refuse([f"{table} has {name!r} in test and in another split. Remove it from one of them."
                    for name in splits["test"] if name in others], str(table))  # fmt: skip
            return splits, {}
        lists, unknown = read_lists(self.root, self.test_list, self.train_list, votes.names)
        self._drawn_from = votes, lists
        return self.split(list(votes.names)), unknown

    def held_out(self, names: Sequence[str]) -> set[str]:
        assert self._drawn_from is not None, "split_votes runs first"
        return super().held_out(names) | {*self._drawn_from[1].get("test", ())}

    def balanced(self, names: Sequence[str]) -> NDArray[np.float64]:
        """Returns which fifth of the images each lies in by its mean vote, so that folds have the same distribution."""
        assert self._drawn_from is not None, "split_votes runs first"
        votes = self._drawn_from[0]
        ordered = by_score(mean_votes(votes.counts), votes.names).tolist()
        place = {votes.names[row]: rank for rank, row in enumerate(ordered)}
        return np.eye(5)[[place[name] * 5 // len(votes) for name in names]]

    def draw_splits(self, names: Sequence[str]) -> dict[str, list[str]]:
        """Draws splits with the same distribution of votes, or follows the lists."""
        assert self._drawn_from is not None, "split_votes runs first"
        votes, lists = self._drawn_from
        return drawn_splits(votes, lists, self.val_fraction, self.test_fraction, self.split_seed)

    def predicted_names(self) -> tuple[Path, list[str]]:
        return predicted_names(self.required_pictures(), unique=False)

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_index: int) -> dict[str, Any]:
        """Drops unreadable images, crops and, in training, flips them, and converts them to float in [0, 1]."""
        if "votes" in batch:
            problems = batch.pop("problem")
            self._skip({name: problem for name, problem in zip(batch["name"], problems, strict=True) if problem})
            batch = readable(batch, problems)
        image = batch["image"]
        if self.augmenting:
            image = self.trained_on(image, batch["seed"])
            if self.crop == "random" or self.augmentations is not None:
                batch["altered"] = True
            elif self.flips:
                batch["mirrored"] = mirrored_by_seed(batch["seed"])
        else:
            image = central_crops(image, self.size)
        return {**batch, "image": image.float() / 255}

    def trained_on(self, image: Tensor, seeds: Tensor) -> Tensor:
        """Returns training crops of loaded squares (B, 3, H, W) with these seeds (B,)."""
        if self.crop == "center":
            image = central_crops(image, self.size)
        return crops_by_seed(image, self.size, seeds, self.flips)

    def _skip(self, problems: dict[str, str]) -> None:
        """Counts unusable images and lists them in the run's folder.

        Raises:
            DataError: There are too many.
        """
        new = {name: problem for name, problem in problems.items() if name not in self.unusable}
        if not new:
            return
        first = not self.unusable
        self.unusable |= new
        path = self.listing("unusable")
        refuse_too_many(self.unusable, self._count, self.missing_share, self.root, path)
        message = f"{len(new)} of {self._count} images of {self.root} cannot be used and are skipped"
        if path is not None:
            write_unusable(path, self.unusable)
            message += f"; {path} lists them and any found later"
        if first:
            rank_zero_warn(f"{message}:\n{listed(list(new.values()))}")
