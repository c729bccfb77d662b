"""Where the masks of a segmentation data set come from: a Kaggle table of run lengths, or a folder a class."""

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from datamodules.files import DataError, picture_files, picture_size, read_mask, read_table, refuse
from datamodules.geometry import resized_mask
from ops.rle import decode_to

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


class MaskSource(Protocol):
    """Named pictures and their masks.

    Attributes:
        names: File names of the pictures, sorted.
        files: What the masks are made from, for a cache's key.
    """

    names: list[str]
    files: list[Path]

    def path(self, name: str) -> Path:
        """The picture's file."""

    def masks(self, name: str, size: tuple[int, int]) -> NDArray[np.bool_]:
        """The picture's masks (K, H, W) at this height and width."""

    def misfit(self, name: str) -> str | None:
        """What is wrong with the size of the picture or of its masks, or None."""


def mask_source(root: Path, classes: Sequence[str]) -> MaskSource:
    """The data set in `root`, in whichever layout it is.

    Raises:
        DataError: There is no data set, or its table or folders are not as wanted; all problems are listed.
    """
    if (root / "train.csv").is_file():
        return KaggleMasks(root, classes)
    if (root / "images").is_dir():
        return FolderMasks(root, classes)
    if not root.exists():
        found = "that folder does not exist"
    else:
        found = "found there: " + (", ".join(sorted(path.name for path in root.iterdir())[:10]) or "nothing")
    raise DataError(f"No data set in {root} ({found}). Wanted:\n{LAYOUTS.format(root=root)}")


class KaggleMasks:
    """The folder of the Kaggle competition "Understanding Clouds from Satellite Images".

    Args:
        root: Holds `train.csv` and `train_images`.
        classes: Names of the K classes.

    Raises:
        DataError: The table does not fit the pictures; every problem is listed with its row.
    """

    def __init__(self, root: Path, classes: Sequence[str]) -> None:
        self.table = root / "train.csv"
        self.folder = root / "train_images"
        self.classes = list(classes)
        rows = read_table(self.table, ["Image_Label", "EncodedPixels"])
        if not self.folder.is_dir():
            raise DataError(f"{self.table} is there, but not its pictures: there is no folder {self.folder}.")
        parts = rows["Image_Label"].str.rpartition("_")
        rows = rows.assign(name=parts[0], label=parts[2], row=np.arange(2, len(rows) + 2))
        refuse(self._wrong_rows(rows), str(self.table))
        self.names = sorted(rows["name"].unique())
        self.files = [self.table]
        self.runs = {(name, label): (runs, row) for name, label, runs, row in
                     rows[["name", "label", "EncodedPixels", "row"]].itertuples(index=False)}  # fmt: skip
        self.frame = self._frame()

    def _wrong_rows(self, rows: "pd.DataFrame") -> list[str]:
        wanted = ", ".join(self.classes)
        problems = [
            f"row {row}: the class {label!r} of {text!r} is unknown; the classes are {wanted}."
            for row, label, text in rows.loc[~rows["label"].isin(self.classes), ["row", "label", "Image_Label"]]
            .itertuples(index=False)
        ]  # fmt: skip
        problems += [
            f"row {row}: {text!r} has a row already; one row a picture and class was wanted."
            for row, text in rows.loc[rows.duplicated("Image_Label"), ["row", "Image_Label"]].itertuples(index=False)
        ]
        present = {path.name for path in self.folder.iterdir()}
        labels = rows.groupby("name", sort=True).agg(labels=("label", set), row=("row", "first"))
        for name, have, row in labels.itertuples():
            if name not in present:
                problems.append(f"row {row}: there is no picture {name!r} in {self.folder}.")
            absent = [label for label in self.classes if label not in have]
            if absent and have <= set(self.classes):
                problems.append(
                    f"row {row}: {name!r} has no row for {', '.join(absent)}; {len(self.classes)} rows a picture "
                    "were wanted, with an empty EncodedPixels where the class is absent."
                )
        rowless = sorted(path.name for path in picture_files(self.folder) if path.name not in labels.index)
        problems += [f"the picture {name!r} of {self.folder} has no rows; {len(self.classes)} were wanted."
                     for name in rowless]  # fmt: skip
        return problems

    def _frame(self) -> tuple[int, int]:
        """The size that the masks are numbered in: that of most pictures, by a look at a few."""
        few = random.Random(0).sample(self.names, min(9, len(self.names)))
        sizes = []
        for name in few:
            try:
                sizes.append(picture_size(self.path(name)))
            except DataError:
                continue  # told with all others when the pictures are decoded
        if not sizes:
            raise DataError(f"None of the pictures {', '.join(few)} in {self.folder} can be read.")
        return Counter(sizes).most_common(1)[0][0]

    def path(self, name: str) -> Path:
        """The picture's file."""
        return self.folder / name

    def masks(self, name: str, size: tuple[int, int]) -> NDArray[np.bool_]:
        """The picture's masks (K, H, W) at this height and width, straight from the run lengths.

        Raises:
            DataError: A run length is wrong; the message names the row.
        """
        problems, masks = [], np.zeros((len(self.classes), *size), dtype=np.bool_)
        for index, label in enumerate(self.classes):
            runs, row = self.runs[name, label]
            try:
                masks[index] = decode_to(runs, self.frame, size)
            except ValueError as error:
                problems.append(f"{self.table}, row {row} ({name}_{label}): {error}")
        if problems:
            raise DataError("\n  - ".join(problems))
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
            f"numbered over {self.frame[0]} x {self.frame[1]}, the size of the other pictures."
        )


class FolderMasks:
    """Pictures in `images/`, masks in `masks/<class>/<stem>.png`, of any size.

    A picture may lack the file of a class that it does not show, but needs one of at least one class.

    Args:
        root: Holds `images` and `masks`.
        classes: Names of the K classes, and of the folders.

    Raises:
        DataError: Pictures and masks do not pair; every problem is listed.
    """

    def __init__(self, root: Path, classes: Sequence[str]) -> None:
        self.folder = root / "images"
        folders = [root / "masks" / label for label in classes]
        refuse([f"there is no folder {folder}; masks of the class {folder.name!r} were wanted there."
                for folder in folders if not folder.is_dir()], str(root))  # fmt: skip
        pictures = {path.stem: path for path in picture_files(self.folder)}
        self.by_class = [{path.stem: path for path in picture_files(folder)} for folder in folders]
        self.files = [path for by_stem in self.by_class for path in by_stem.values()]
        masked = {path.stem for path in self.files}
        refuse(
            [f"the mask {path} has no picture {path.stem}.* in {self.folder}." for path in self.files
             if path.stem not in pictures]
            + [f"the picture {path} has no mask {stem}.png in any of {', '.join(map(str, folders))}."
               for stem, path in sorted(pictures.items()) if stem not in masked],
            str(root),
        )  # fmt: skip
        self.names = sorted(path.name for path in pictures.values())

    def path(self, name: str) -> Path:
        """The picture's file."""
        return self.folder / name

    def _masks_of(self, name: str) -> list[Path | None]:
        return [by_stem.get(Path(name).stem) for by_stem in self.by_class]

    def masks(self, name: str, size: tuple[int, int]) -> NDArray[np.bool_]:
        """The picture's masks (K, H, W) at this height and width.

        Raises:
            DataError: A mask cannot be read.
        """
        empty = np.zeros(size, dtype=np.bool_)
        return np.stack([resized_mask(read_mask(path), size) if path else empty for path in self._masks_of(name)])

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
