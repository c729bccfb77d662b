"""Colorization: images of any size letterboxed in white, augmented on the device, split by artist."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from datamodules.base import ImageDataModule, check
from datamodules.batch import Batch, DataFacts
from datamodules.decoded.films import film_samples
from datamodules.decoded.letterboxed import (
    Letterboxed,
    LetterboxedSample,
    PredictedPicture,
    checked_picture,
    letterboxed_tree,
    picture_problems,
)
from datamodules.loaders import EpochLoader, Samples
from datamodules.read.hints import find_hints
from datamodules.read.names import located, predicted_names, tree_names
from datamodules.read.pictures import LEAST_SIDE, channels_first
from datamodules.read.video import find_film
from datamodules.read.works import Work, draw_by_group, groups, read_works
from ops.augment import random_warps, warped
from ops.color.coloring import has_colors
from ops.errors import DataError, collected, listed, refuse
from ops.pictures import box, letterboxed, valid_pixels

LAYOUT = """    {root}/images/**/<stem>.jpg   any image format, any size, anywhere below
    {root}/metadata.csv           optional: columns image,artist,title,year
    {root}/splits.csv             optional: columns name,split"""


@dataclass(frozen=True)
class Checked:
    """A dataset that passed all checks.

    Attributes:
        data: Decoded images.
        views: The same in squares of the side `view`, if there is one.
        works: Rows of `metadata.csv` by image name.
        splits: Names of each split; skipped images are in none.
    """

    data: Letterboxed
    views: Letterboxed | None
    works: dict[str, Work]
    splits: dict[str, list[str]]


class ColorizationDataModule(ImageDataModule):
    """Images with their colors, letterboxed once into a cache.

    Batches have `image` (B, 3, S, S), white around the image, `valid` (B, 1, S, S), true inside it, `name`, the path
    below `images/`, and `index`. Batches to predict have one image, and also lists of `source`, the whole image uint8
    (H, W, 3), `hints` (N, 5), row, column and sRGB of given colors, and `problem`, why it cannot be used or ""; and
    `box` (1, 4), its top, left, height and width in `image`. An unusable image is valid nowhere and has an empty source
    and box. Of a film they have one frame, and `frame`, a list of its `datamodules.batch.Frame`.

    Training images are augmented as in the notebook of the group whose report this follows (IIT Guwahati, after
    Baldassarre et al., arXiv:1712.03400): shear .2, zoom .2, rotation 20° and flips left to right. Their library takes
    that shear for degrees, which is invisible; here it is a share. Both sides are zoomed alike.

    Args:
        root: Folder with `images/`, which may have subfolders, and optionally `metadata.csv`
            (`image,artist,title,year`, where `image` is the path below `images/`); with it, no artist is in two splits.
        size: Side S of the network's input.
        hints: Colors that a person gives for some pixels of the images to predict: a table `image,x,y,color`, or a
            folder of such tables and of transparent PNG files with strokes, named like the images; see
            `datamodules.read.hints.find_hints`.
        reference: A color image, or a folder of them, from which the images to predict take colors: each from the one
            that looks most like it.
        view: Side V of a second letterboxed copy of each image, `view` (B, 3, V, V) in batches, for an extractor whose
            input is larger than the network's; null for none.
        pictures: Images to predict: a folder, which may have subfolders, or one file, which may be a film.
        frames: Whether the folder of images to predict has the frames of one film, in the order of the numbers in their
            names.
        batch_size: Images per process and step; those to predict come one at a time.
        val_fraction: Share of the images to validate on; 0 validates on the training images.
        test_fraction: Share of the images to test on.
        flips: Whether to flip training images left to right at random.
        shear: Largest shear of training images as a share, in [0, 1).
        zoom: Largest enlargement or reduction of training images as a share, in [0, 1).
        rotation: Largest rotation of training images in degrees, in [0, 180].
        unreadable: What to do about images that are truncated, have a side of less than 32 pixels or are otherwise
            unusable: reject the dataset and list all of them (`refuse`), or use the others (`skip`). None rejects in
            training and skips in prediction.
        augmentations: albumentations transforms of training images and of where they are valid, a list of `class_path`
            and `init_args`; see `datamodules.augmentations`.
        **options: Options of every data module, see `ImageDataModule`. Folds keep works of an artist together, unless
            `fold_by` names another column, and so does `train_share`.

    Raises:
        ArgumentError: A number is out of range.
    """

    paths = (*ImageDataModule.paths, "hints", "reference")

    def __init__(
        self,
        root: str | Path = "colorization",
        size: int = 224,
        pictures: str | Path | None = None,
        batch_size: int = 20,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        flips: bool = True,
        shear: float = 0.2,
        zoom: float = 0.2,
        rotation: float = 20.0,
        unreadable: Literal["refuse", "skip"] | None = None,
        augmentations: list[dict[str, Any]] | None = None,
        view: int | None = None,
        hints: str | Path | None = None,
        reference: str | Path | None = None,
        frames: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(
            root,
            pictures,
            batch_size,
            val_fraction=val_fraction,
            test_fraction=test_fraction,
            flips=flips,
            augmentations=augmentations,
            **options,
        )
        check(size >= LEAST_SIDE, f"size is {size}; expected {LEAST_SIDE} pixels or more")
        check(view is None or view >= LEAST_SIDE, f"view is {view}; expected {LEAST_SIDE} pixels or more, or null")
        check(
            view is None or not augmentations,
            f"augmentations and view {view}; expected one of the two, since augmentations change only one copy of an "
            "image. Set data.view to null",
        )
        for name, share in (("shear", shear), ("zoom", zoom)):
            check(0 <= share < 1, f"{name} is {share}; expected a share in [0, 1)")
        check(0 <= rotation <= 180, f"rotation is {rotation}; expected degrees in [0, 180]")
        check(unreadable in ("refuse", "skip", None), f"unreadable is {unreadable!r}; expected refuse, skip or null")
        self.size, self.shear, self.zoom, self.rotation, self.unreadable = size, shear, zoom, rotation, unreadable
        self.view = view
        self.hints = None if hints is None else Path(hints).expanduser()
        self.reference = None if reference is None else Path(reference).expanduser()
        self.frames = frames
        self._references: list[Batch] | None = None

    def facts(self) -> DataFacts:
        return DataFacts(size=(self.size, self.size), references=self.references() if self.predicting else ())

    def references(self) -> list[Batch]:
        """Returns a batch of each reference, as the network sees it.

        Raises:
            DataError: One cannot be read or is gray; all are listed.
        """
        if self._references is None:
            found: list[Batch] = []
            folder, names = (Path(), []) if self.reference is None else predicted_names(self.reference, unique=False)
            added = (partial(self._add_reference, located(folder, name), name, found) for name in names)
            refuse(collected(added), str(self.reference))
            self._references = found
        return self._references

    def _add_reference(self, path: Path, name: str, found: list[Batch]) -> None:
        picture = checked_picture(path)
        if not has_colors(picture):
            raise DataError(f"{path} is gray; expected a reference with colors. Remove it.")
        place = torch.tensor(box((picture.shape[0], picture.shape[1]), self.size))[None]
        image = channels_first(letterboxed(picture, self.size))[None].float() / 255
        found.append({"image": image, "valid": valid_pixels(place, self.size), "name": [name]})

    def preparation(self) -> dict[str, Any]:
        view = {} if self.view is None else {"view": self.view}
        return {"kind": "letterboxed", "side": self.size, **view}

    def prepare_data(self) -> None:
        if not self.predicting:
            self.checked()

    def predicted_names(self) -> tuple[Path, list[str]]:
        """Returns the folder of the images to predict, and their names below it; a film is one image."""
        if self.frames and self.pictures is not None:
            return self.pictures.absolute().parent, [self.pictures.absolute().name]
        return super().predicted_names()

    def setup(self, stage: str) -> None:
        """Makes the samples of a stage.

        Raises:
            DataError: The dataset is invalid; all problems are listed.
        """
        if stage == "predict":
            folder, names = self.predicted_names()
            film = find_film(self.pictures, self.frames)
            if film is not None:
                self.datasets["predict"] = film_samples(film, names[0], self.size, self.view, self.hints)
                return
            files = [located(folder, name) for name in names]
            hints = None if self.hints is None else find_hints(self.hints, folder, names)
            if self.unreadable == "refuse":
                refuse(picture_problems(files), str(self.pictures))
            self.datasets["predict"] = Samples(names, PredictedPicture(files, self.size, self.view, names, hints))
            return
        if self.datasets.keys() >= {"train", "val"}:
            return
        found = self.checked()
        skipped = [problem for problems in found.data.problems.values() for problem in problems]
        if skipped:
            rank_zero_warn(f"{len(found.data.problems)} images of {self.root} are skipped:\n{listed(skipped)}")
        row = {name: index for index, name in enumerate(found.data.names)}
        for split, names in found.splits.items():
            sample = LetterboxedSample(found.data, [row[name] for name in names], found.views)
            self.datasets[split] = Samples(names, sample, self.seed)
        self.report_splits()

    def checked(self) -> Checked:
        """Returns the images, from the cache or decoded into it, and the names of each split.

        Raises:
            DataError: The dataset is invalid; all problems are listed.
        """
        folder = self.root / "images"
        try:
            names = tree_names(folder)
        except DataError as error:
            raise DataError(
                f"No dataset in {self.root}; --data.root names another. Expected:\n"
                f"{LAYOUT.format(root=self.root)}\n{error}"
            ) from error
        data: list[Letterboxed] = []
        works: dict[str, Work] = {}
        splits: list[dict[str, list[str]]] = []
        skip = self.unreadable == "skip" or (self.skipping and self.unreadable is None)
        problems = collected(
            [
                lambda: data.append(letterboxed_tree(self.task, folder, names, self.size, skip)),
                lambda: works.update(read_works(self.root / "metadata.csv", names)),
                lambda: splits.append(self.split_by_artist(names, works)),
            ]
        )
        refuse(problems, str(self.root))
        self.unusable |= {name: " ".join(each) for name, each in data[0].problems.items()}
        usable = {split: [name for name in part if name not in data[0].problems] for split, part in splits[0].items()}
        refuse([f"None of the {len(splits[0][split])} images of the split {split!r} can be used: "
                + next(iter(data[0].problems[splits[0][split][0]])) for split in ("train", "val") if not usable[split]],
               str(self.root))  # fmt: skip
        views = None if self.view is None else letterboxed_tree(self.task, folder, names, self.view, skip)
        return Checked(data[0], views, works, usable)

    def split_by_artist(self, names: Sequence[str], works: dict[str, Work]) -> dict[str, list[str]]:
        """Returns the names of the images of train, val and test.

        Raises:
            DataError: There are too few images or artists, or `splits.csv` is invalid.
        """
        self._group_of = groups(names, works)
        single = sum(group.startswith("picture ") for group in self._group_of.values())
        if works and single:
            rank_zero_warn(
                f"{self.root / 'metadata.csv'} has no artist for {single} of the {len(names)} images; each is split as "
                "if by an artist of its own."
            )
        splits = self.split(names)
        parts = {split: {self._group_of[name] for name in part} for split, part in splits.items()}
        measured = parts["test"] if splits["val"] == splits["train"] else parts["val"] | parts["test"]
        both = {group.removeprefix("artist ") for group in parts["train"] & measured}
        if works and both:
            rank_zero_warn(
                f"{self.root / 'splits.csv'} has images by the same artists in train and in val or test "
                f"({len(both)}, such as {min(both)!r})."
            )
        return splits

    def fold_groups(self, names: Sequence[str]) -> Mapping[str, str]:
        return self._group_of if self.fold_by is None else super().fold_groups(names)

    def draw_splits(self, names: Sequence[str]) -> dict[str, list[str]]:
        """Draws splits by artist if `metadata.csv` names any, otherwise by image."""
        if not any(group.startswith("artist ") for group in self._group_of.values()):
            return super().draw_splits(names)
        return draw_by_group(self._group_of, {"val": self.val_fraction, "test": self.test_fraction}, self.split_seed)

    def predict_dataloader(self) -> EpochLoader:
        """Returns the images to predict one at a time with few workers, since each comes whole."""
        return self.loader("predict", batch_size=1, most_workers=2)

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_index: int) -> dict[str, Any]:
        """Converts images to float in [0, 1], adds `valid` and, in training only, augments them."""
        image = batch["image"].float() / 255
        valid = batch["valid"] if "valid" in batch else valid_pixels(batch["box"], self.size)
        view = {"view": batch["view"].float() / 255} if "view" in batch else {}
        if "source" not in batch:
            del batch["box"]
        if self.augmenting and (self.flips or self.shear or self.zoom or self.rotation):
            image, valid = self.altered(image, valid, batch["seed"])
            for key, square in view.items():
                view[key] = self.altered(square, square[:, :1] >= 0, batch["seed"])[0]
            batch["altered"] = True
        elif self.augmenting and self.augmentations is not None:
            batch["altered"] = True
        return {**batch, **view, "image": image, "valid": valid}

    def altered(self, image: Tensor, valid: Tensor, seeds: Tensor) -> tuple[Tensor, Tensor]:
        """Returns images and where they are valid, flipped, zoomed, sheared and rotated by these seeds."""
        return warped(image, valid, random_warps(seeds, self.shear, self.zoom, self.rotation, self.flips))
