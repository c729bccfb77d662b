"""Where the masks of a segmentation data set come from: a Kaggle table of run lengths, or a folder a class."""

import random
import re
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from datamodules.read.pictures import picture_files, picture_size, read_mask, resized_mask
from datamodules.read.tables import read_table
from ops.errors import DataError
from ops.rle import decode_to, parse_runs

if TYPE_CHECKING:
    import pandas as pd

LAYOUTS = """Either the Kaggle folder as downloaded:
    {root}/train.csv                  columns Image_Label,EncodedPixels
    {root}/train_images/*.jpg
    {root}/test_images/*.jpg          optional
    {root}/sample_submission.csv      optional
or a folder of pictures and one of masks a class:
    {root}/images/<stem>.jpg          any picture format, any size
    {root}/masks/<class>/<stem>.png   0/255 or 0/1, as large as its picture"""
LAYOUT = """    {root}/images/<stem>.png   any picture format, any size
    {root}/masks/<stem>.png    0/255 or 0/1, as large as its picture
    {root}/categories.csv      optional: columns image,category"""


class MaskSource(Protocol):
    """Named pictures and their masks.

    Attributes:
        root: The folder of the data set.
        names: File names of the pictures that are there, sorted.
        files: What the masks are made from, for a cache's key; the pictures themselves count too.
        problems: What is wrong with the table or the folders, a sentence each; no picture was opened for them.
    """

    root: Path
    names: list[str]
    files: list[Path]
    problems: list[str]

    def path(self, name: str) -> Path:
        """The picture's file."""

    def masks(self, name: str, size: tuple[int, int]) -> NDArray[np.bool_]:
        """The picture's masks (K, H, W) at this height and width."""

    def misfit(self, name: str) -> str | None:
        """What is wrong with the size of the picture or of its masks, or None."""


def mask_source(root: Path, classes: Sequence[str]) -> MaskSource:
    """The data set in `root`, in whichever layout it is; what is wrong with it is in its `problems`.

    Raises:
        DataError: There is no data set, or no table that could be read.
    """
    if (root / "train.csv").is_file():
        return KaggleMasks(root, classes)
    if (root / "images").is_dir():
        return FolderMasks(root, [root / "masks" / label for label in classes])
    raise DataError(f"No data set in {root} ({_found(root)}). Wanted:\n{LAYOUTS.format(root=root)}")


def one_mask_each(root: Path, layout: str = LAYOUT, least: int = 128) -> "FolderMasks":
    """Pictures in `images`, and the mask of each in `masks`; what is wrong with them is in its `problems`.

    Args:
        root: The folder of the data set.
        layout: What is told where there is none, with `{root}` in it.
        least: The lowest grey of 0 to 255 that belongs to a mask.

    Raises:
        DataError: There is no data set.
    """
    if not (root / "images").is_dir():
        raise DataError(f"No data set in {root} ({_found(root)}). Wanted:\n{layout.format(root=root)}")
    return FolderMasks(root, [root / "masks"], least)


def _found(root: Path) -> str:
    if not root.exists():
        return "that folder does not exist"
    names = sorted(path.name for path in root.iterdir()) if root.is_dir() else []
    return "found there: " + (", ".join(names[:10]) or "nothing")


class FolderMasks:
    """Pictures in `images/` and a folder of masks `<stem>.png` for each class, of any size.

    A picture may lack the file of a class that it does not show, but needs one of at least one class.

    Args:
        root: Holds `images`.
        folders: Of the masks of the K classes.
        least: The lowest grey of 0 to 255 that belongs to a mask.

    Raises:
        DataError: There are no pictures.
    """

    def __init__(self, root: Path, folders: Sequence[Path], least: int = 128) -> None:
        self.root, self.least = root, least
        self.folder = root / "images"
        self.problems: list[str] = []
        pictures = self._by_stem(picture_files(self.folder))
        self.by_class = [self._by_stem(self._mask_files(folder)) for folder in folders]
        self.files = [path for by_stem in self.by_class for path in by_stem.values()]
        self.problems += [
            f"the mask {path} has no picture {path.stem}.* in {self.folder}. Add the picture, or remove the mask."
            for path in self.files
            if path.stem not in pictures
        ]
        masked = {path.stem for path in self.files}
        self.problems += [
            f"the picture {path} has no mask {stem}.png in {' or '.join(map(str, folders))}. Add one, or remove the "
            "picture."
            for stem, path in pictures.items()
            if stem not in masked and all(self.by_class)  # a folder without masks is told already
        ]
        self.names = sorted(path.name for path in pictures.values())

    def _by_stem(self, files: Sequence[Path]) -> dict[str, Path]:
        by_stem: dict[str, Path] = {}
        for path in files:
            first = by_stem.setdefault(path.stem, path)
            if first != path:
                self.problems.append(f"{path} and {first.name} differ in their endings only. Keep one of them.")
        return by_stem

    def _mask_files(self, folder: Path) -> list[Path]:
        if not folder.is_dir():
            found = sorted(path.name for path in folder.parent.iterdir()) if folder.parent.is_dir() else []
            more = ", or give --data.classes" if folder.parent != self.root else ""
            self.problems.append(
                f"there is no folder {folder}; masks were wanted there. {folder.parent} holds "
                f"{', '.join(found) or 'nothing'}: rename a folder{more}."
            )
            return []
        try:
            return picture_files(folder)
        except DataError as error:
            self.problems += error.problems
            return []

    def path(self, name: str) -> Path:
        """The picture's file."""
        return self.folder / name

    def _masks_of(self, name: str) -> list[Path | None]:
        return [by_stem.get(Path(name).stem) for by_stem in self.by_class]

    def mask(self, name: str) -> NDArray[np.bool_]:
        """The picture's mask (H, W) of the first class, as large as the picture.

        Raises:
            DataError: The mask cannot be read.
        """
        path = self._masks_of(name)[0]
        return np.zeros(picture_size(self.path(name)), np.bool_) if path is None else read_mask(path, self.least)

    def masks(self, name: str, size: tuple[int, int]) -> NDArray[np.bool_]:
        """The picture's masks (K, H, W) at this height and width.

        Raises:
            DataError: A mask cannot be read.
        """
        empty = np.zeros(size, dtype=np.bool_)
        paths = self._masks_of(name)
        return np.stack([resized_mask(read_mask(path, self.least), size) if path else empty for path in paths])

    def misfit(self, name: str) -> str | None:
        """What is wrong with the sizes of a picture's masks, or None."""
        try:
            size = picture_size(self.path(name))
            for path in filter(None, self._masks_of(name)):
                height, width = picture_size(path)
                if (height, width) != size:
                    return (
                        f"{path} is {height} x {width} pixels (height x width); its picture {name} is "
                        f"{size[0]} x {size[1]}. A mask must be as large as its picture."
                    )
        except DataError:
            return None  # told when it is decoded
        return None


COLUMNS = ["Image_Label", "EncodedPixels"]


def split_labels(labels: "pd.Series[str]", classes: Sequence[str]) -> "pd.DataFrame":
    """The columns `name` and `label` of cells such as 0011165.jpg_Fish.

    What follows the last underscore is the label, or a whole class where the class has underscores of its own.
    """
    known = "|".join(re.escape(label) for label in classes)
    return labels.str.extract(rf"^(?P<name>.*?)_(?P<label>{known}|[^_]*)$").fillna("")


class KaggleMasks:
    """The folder of the Kaggle competition "Understanding Clouds from Satellite Images".

    Args:
        root: Holds `train.csv` and `train_images`.
        classes: Names of the K classes.

    Raises:
        DataError: The table cannot be read, or there is no folder of pictures.
    """

    def __init__(self, root: Path, classes: Sequence[str]) -> None:
        self.root = root
        self.table = root / "train.csv"
        self.folder = root / "train_images"
        self.classes = list(classes)
        rows = read_table(self.table, COLUMNS)[COLUMNS]
        if not self.folder.is_dir():
            raise DataError(
                f"{self.table} is there, but not its pictures: there is no folder {self.folder}. Unpack them there."
            )
        self.names = [path.name for path in picture_files(self.folder)]
        self.files = [self.table]
        rows = rows.join(split_labels(rows["Image_Label"], classes)).rename_axis("row").reset_index()
        rows["known"] = rows["label"].isin(self.classes)
        rows["there"] = rows["name"].isin(self.names)
        rows["again"] = rows.duplicated(["name", "label"])
        used = rows["known"] & rows["there"] & ~rows["again"]
        self.runs = {(name, label): (runs, row) for name, label, runs, row in
                     rows.loc[used, ["name", "label", "EncodedPixels", "row"]].itertuples(index=False)}  # fmt: skip
        self.problems = self._wrong_rows(rows) + self._wrong_runs(rows[~used])

    def _wrong_rows(self, rows: "pd.DataFrame") -> list[str]:
        """Problems of the rows, in their order, then pictures without any."""
        count, wanted = len(self.classes), ", ".join(self.classes)
        unknown, again = rows[~rows["known"]], rows[rows["known"] & rows["again"]]
        problems = [
            (row, f"the class {label!r} of {text!r} is unknown; the classes are {wanted} (--data.classes). Mend it.")
            for row, text, label in unknown[["row", "Image_Label", "label"]].itertuples(index=False)
        ]
        misspelt = set(unknown["name"])
        problems += [
            (row, f"{text!r} has a row already; one row a picture and class was wanted. Remove one of them.")
            for row, text in again[["row", "Image_Label"]].itertuples(index=False)
        ]
        pictures = rows[rows["known"]].groupby("name").agg({"label": set, "row": "first", "there": "first"})
        for name, labels, row, there in pictures.itertuples():
            if not there:
                problems.append((row, f"there is no picture {name!r} in {self.folder}. Unpack it, or remove its rows."))
            absent = [label for label in self.classes if label not in labels]
            if absent and name not in misspelt:
                text = f"{name!r} has no row for {', '.join(absent)}; {count} rows a picture were wanted"
                problems.append((row, f"{text}. Add them, with an empty EncodedPixels where a class is absent."))
        rowless = sorted(set(self.names) - set(rows["name"]))
        return [f"{self.table}, row {row}: {problem}" for row, problem in sorted(problems)] + [
            f"{self.folder / name} has no rows in {self.table}; {count} were wanted. Add them, or remove the picture."
            for name in rowless
        ]

    def _wrong_runs(self, rows: "pd.DataFrame") -> list[str]:
        """Problems of run lengths that no mask will be made from, so that they too are told at once."""
        problems = []
        try:
            frame = self.frame
        except DataError:
            return []  # told when the pictures are decoded
        for text, runs, row in rows[["Image_Label", "EncodedPixels", "row"]].itertuples(index=False):
            try:
                parse_runs(runs, frame)
            except ValueError as error:
                problems.append(f"{self.table}, row {row} ({text}): {error}")
        return problems

    @cached_property
    def frame(self) -> tuple[int, int]:
        """The height and width that run lengths are numbered in: those of most pictures, by a look at a few.

        Raises:
            DataError: No picture can be read.
        """
        sizes: list[tuple[int, int]] = []
        for name in random.Random(0).sample(self.names, len(self.names)):
            try:
                sizes.append(picture_size(self.path(name)))
            except DataError:
                continue  # told with all others when the pictures are decoded
            if len(sizes) == 9:
                break
        if not sizes:
            raise DataError(f"None of the pictures in {self.folder} can be read, so no run length can be checked.")
        return Counter(sizes).most_common(1)[0][0]

    def path(self, name: str) -> Path:
        """The picture's file."""
        return self.folder / name

    def masks(self, name: str, size: tuple[int, int]) -> NDArray[np.bool_]:
        """The picture's masks (K, H, W) at this height and width, straight from the run lengths; none without a row.

        Raises:
            DataError: A run length is wrong; the message names the row.
        """
        frame, problems, masks = self.frame, [], np.zeros((len(self.classes), *size), dtype=np.bool_)
        for index, label in enumerate(self.classes):
            runs, row = self.runs.get((name, label), ("", 0))
            try:
                masks[index] = decode_to(runs, frame, size)
            except ValueError as error:
                problems.append(f"{self.table}, row {row} ({name}_{label}): {error}")
        if problems:
            raise DataError("\n".join(problems), problems)
        return masks

    def misfit(self, name: str) -> str | None:
        """What is wrong with a picture's size, or None."""
        try:
            height, width = picture_size(self.path(name))
        except DataError:
            return None  # told when it is decoded
        if (height, width) == self.frame:
            return None
        return (
            f"{self.path(name)} is {height} x {width} pixels (height x width); the run lengths of {self.table} are "
            f"numbered over {self.frame[0]} x {self.frame[1]}, the size of the other pictures. Fetch it again."
        )
