"""Masks in the layout of Kaggle's clouds competition: one table with a row of run lengths a picture and class."""

import random
import re
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from datamodules.files import DataError, picture_files, picture_size, read_table
from ops.rle import decode_to, parse_runs

if TYPE_CHECKING:
    import pandas as pd


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
