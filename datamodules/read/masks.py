"""Reads the masks of segmentation datasets: a Kaggle table of run lengths, or folders of mask images."""

import random
import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from datamodules.read.cache import core_count
from datamodules.read.names import located, stem, tree_names
from datamodules.read.pictures import picture_size, read_mask, read_picture, resized_mask
from datamodules.read.tables import Table
from ops.errors import DataError, collected
from ops.rle import decode_to, parse_runs
from ops.windows import Size

if TYPE_CHECKING:
    import pandas as pd

FOLDERS = """    {root}/images/<stem>.jpg          any image format, any size
    {root}/masks/<class>/<stem>.png   0/255 or 0/1, as large as its image"""
KAGGLE_OR_FOLDERS = f"""Either the Kaggle folder as downloaded:
    {{root}}/train.csv                  columns Image_Label,EncodedPixels
    {{root}}/train_images/*.jpg
    {{root}}/test_images/*.jpg          optional
    {{root}}/sample_submission.csv      optional
or a folder of images and one of masks per class:
{FOLDERS}"""
ONE_MASK = """    {root}/images/<stem>.png   any image format, any size
    {root}/masks/<stem>.png    0/255 or 0/1, as large as its image
    {root}/categories.csv      optional: columns image,category"""


class MaskSource(Protocol):
    """Named images and their masks.

    Attributes:
        root: Folder of the dataset.
        names: File names of the images that exist, sorted.
        files: Files that the masks are made from, for the key of a cache; the images count as well.
        problems: What is wrong with the table or the folders; no image was opened to find out.
    """

    root: Path
    names: list[str]
    files: list[Path]
    problems: list[str]

    def path(self, name: str) -> Path:
        """Returns the file of an image."""

    def masks(self, name: str, size: Size) -> NDArray[np.bool_]:
        """Returns the masks (K, H, W) of an image, resized to this height and width."""

    def misfit(self, name: str) -> str | None:
        """Returns what is wrong with the size of an image or of its masks, or None."""

    def drop(self, names: Collection[str]) -> None:
        """Removes images and their masks, as if they did not exist."""


def unusable(source: MaskSource) -> dict[str, str]:
    """Returns the problems of images that cannot be read, or whose masks cannot, by name; opens every file."""

    def problems(name: str) -> str:
        misfit = source.misfit(name)
        checks: list[Callable[[], object]] = [
            lambda: read_picture(source.path(name)),
            lambda: source.masks(name, (8, 8)),
        ]
        return "\n".join(dict.fromkeys([*([misfit] if misfit else []), *collected(checks)]))

    with ThreadPoolExecutor(core_count()) as pool:
        found = dict(zip(source.names, pool.map(problems, source.names), strict=True))
    return {name: problem for name, problem in found.items() if problem}


def mask_source(root: Path, classes: Sequence[str]) -> MaskSource:
    """Returns the dataset in `root`, in the Kaggle layout or in folders; its `problems` say what is wrong with it.

    Raises:
        DataError: There is no dataset, or its table cannot be read.
    """
    return (
        KaggleMasks(root, classes) if (root / "train.csv").is_file() else class_masks(root, classes, KAGGLE_OR_FOLDERS)
    )


def class_masks(root: Path, classes: Sequence[str], layout: str = FOLDERS) -> "FolderMasks":
    """Returns the images in `images` and their masks in `masks/<class>`; its `problems` say what is wrong with them.

    Args:
        root: Folder of the dataset.
        classes: Names of the classes.
        layout: Layout to show if there is no dataset, with `{root}` in it.

    Raises:
        DataError: There is no dataset.
    """
    _check_images(root, layout)
    return FolderMasks(root, [located(root / "masks", label) for label in classes])


def one_mask_each(root: Path, layout: str = ONE_MASK, least: int = 128) -> "FolderMasks":
    """Returns the images in `images` and one mask for each in `masks`; its `problems` say what is wrong with them.

    Args:
        root: Folder of the dataset.
        layout: Layout to show if there is no dataset, with `{root}` in it.
        least: Lowest gray, 0 to 255, that belongs to a mask.

    Raises:
        DataError: There is no dataset.
    """
    _check_images(root, layout)
    return FolderMasks(root, [root / "masks"], least)


def _check_images(root: Path, layout: str) -> None:
    if (root / "images").is_dir():
        return
    found = "that folder does not exist"
    if root.exists():
        names = sorted(path.name for path in root.iterdir()) if root.is_dir() else []
        found = "found there: " + (", ".join(names[:10]) or "nothing")
    raise DataError(f"No dataset in {root} ({found}). Expected:\n{layout.format(root=root)}")


class FolderMasks:
    """Images in `images/` and a folder of masks `<stem>.png` per class, of any size.

    An image may lack the mask file of a class that it does not show, but needs the file of at least one class.

    Args:
        root: Folder that contains `images`.
        folders: Folders of the masks of the K classes.
        least: Lowest gray, 0 to 255, that belongs to a mask.

    Raises:
        DataError: There are no images.
    """

    def __init__(self, root: Path, folders: Sequence[Path], least: int = 128) -> None:
        self.root, self.least = root, least
        self.folder = root / "images"
        self.problems: list[str] = []
        self.names = tree_names(self.folder)
        self.paths = {name: located(self.folder, name) for name in self.names}
        pictures = self._by_stem(self.folder, self.names)
        self.by_class = [self._by_stem(folder, self._mask_names(folder)) for folder in folders]
        self.files = [path for by_stem in self.by_class for path in by_stem.values()]
        self.problems += [
            f"the mask {path} has no image {each}.* in {self.folder}. Add the image, or remove the mask."
            for by_stem in self.by_class
            for each, path in by_stem.items()
            if each not in pictures
        ]
        masked = {each for by_stem in self.by_class for each in by_stem}
        self.problems += [
            f"the image {path} has no mask {each}.png in {' or '.join(map(str, folders))}. Add one, or remove the "
            "image."
            for each, path in pictures.items()
            if each not in masked and all(self.by_class)  # a folder without masks is reported already
        ]

    def _by_stem(self, folder: Path, names: Sequence[str]) -> dict[str, Path]:
        by_stem: dict[str, Path] = {}
        for name in names:
            path = located(folder, name)
            first = by_stem.setdefault(stem(name), path)
            if first != path:
                self.problems.append(f"{path} and {first.name} differ in their suffix only. Keep one of them.")
        return by_stem

    def _mask_names(self, folder: Path) -> list[str]:
        if not folder.is_dir():
            found = sorted(path.name for path in folder.parent.iterdir()) if folder.parent.is_dir() else []
            more = ", or give --data.classes" if folder.parent != self.root else ""
            self.problems.append(
                f"there is no folder {folder}; expected masks in it. {folder.parent} contains "
                f"{', '.join(found) or 'nothing'}: rename a folder{more}."
            )
            return []
        names: list[str] = []
        self.problems += collected([lambda: names.extend(tree_names(folder))])
        return names

    def drop(self, names: Collection[str]) -> None:
        """Removes images and their masks, as if they did not exist."""
        stems = set(map(stem, names))
        self.names = [name for name in self.names if name not in names]
        self.paths = {name: self.paths[name] for name in self.names}
        self.by_class = [{key: path for key, path in each.items() if key not in stems} for each in self.by_class]
        self.files = [path for by_stem in self.by_class for path in by_stem.values()]

    def path(self, name: str) -> Path:
        """Returns the file of an image."""
        return self.paths[name]

    def _masks_of(self, name: str) -> list[Path | None]:
        return [by_stem.get(stem(name)) for by_stem in self.by_class]

    def mask(self, name: str) -> NDArray[np.bool_]:
        """Returns the mask (H, W) of the first class, at the size of the image.

        Raises:
            DataError: The mask cannot be read.
        """
        path = self._masks_of(name)[0]
        return np.zeros(picture_size(self.path(name)), np.bool_) if path is None else read_mask(path, self.least)

    def masks(self, name: str, size: Size) -> NDArray[np.bool_]:
        """Returns the masks (K, H, W) of an image, resized to this height and width.

        Raises:
            DataError: A mask cannot be read.
        """
        empty = np.zeros(size, dtype=np.bool_)
        paths = self._masks_of(name)
        return np.stack([resized_mask(read_mask(path, self.least), size) if path else empty for path in paths])

    def misfit(self, name: str) -> str | None:
        """Returns what is wrong with the sizes of an image's masks, or None."""
        try:
            size = picture_size(self.path(name))
            for path in filter(None, self._masks_of(name)):
                height, width = picture_size(path)
                if (height, width) != size:
                    return (
                        f"{path} is {height} x {width} pixels (height x width), but its image {name} is "
                        f"{size[0]} x {size[1]}. A mask must be as large as its image."
                    )
        except DataError:
            return None  # reported when it is decoded
        return None


COLUMNS = ["Image_Label", "EncodedPixels"]


def split_labels(labels: "pd.Series[str]", classes: Sequence[str]) -> "pd.DataFrame":
    """Splits cells such as 0011165.jpg_Fish into the columns `name` and `label`.

    The label follows the last underscore, or is a whole class that contains underscores itself.
    """
    known = "|".join(re.escape(label) for label in classes)
    return labels.str.extract(rf"^(?P<name>.*?)_(?P<label>{known}|[^_]*)$").fillna("")


class KaggleMasks:
    """The folder of the Kaggle competition "Understanding Clouds from Satellite Images".

    Args:
        root: Folder that contains `train.csv` and `train_images`.
        classes: Names of the K classes.

    Raises:
        DataError: The table cannot be read, or there is no folder of images.
    """

    def __init__(self, root: Path, classes: Sequence[str]) -> None:
        self.root = root
        self.table = root / "train.csv"
        self.folder = root / "train_images"
        self.classes = list(classes)
        table = Table(self.table, COLUMNS)
        if not self.folder.is_dir():
            raise DataError(f"{self.table} exists, but the folder of its images {self.folder} does not. Add it.")
        self.names = tree_names(self.folder)
        self.files = [self.table]
        rows = table.rows[COLUMNS]
        rows = rows.join(split_labels(rows["Image_Label"], classes)).rename_axis("row").reset_index()
        rows["known"] = rows["label"].isin(self.classes)
        rows["there"] = rows["name"].isin(self.names)
        used = rows["known"] & rows["there"] & ~rows.duplicated(["name", "label"])
        self.runs = {(name, label): (runs, row) for name, label, runs, row in
                     rows.loc[used, ["name", "label", "EncodedPixels", "row"]].itertuples(index=False)}  # fmt: skip
        table.unique("Image_Label")
        self._check_names(table, rows)
        self._check_unused_runs(table, rows[~used])
        rowless = sorted(set(self.names) - set(rows["name"]))
        self.problems = table.problems() + [
            f"{self.folder / name} has no rows in {self.table}; expected {len(self.classes)}. Add them, or remove the "
            "image."
            for name in rowless
        ]

    def _check_names(self, table: Table, rows: "pd.DataFrame") -> None:
        """Adds rows with an unknown class or image, and images that lack the row of a class."""
        unknown = rows[~rows["known"]]
        for row, text, label in unknown[["row", "Image_Label", "label"]].itertuples(index=False):
            table.add(row, f"the class {label!r} of {text!r} is unknown; the classes are {', '.join(self.classes)}. "
                           "Correct it, or set --data.classes.")  # fmt: skip
        misspelled = set(unknown["name"])
        images = rows[rows["known"]].groupby("name").agg({"label": set, "row": "first", "there": "first"})
        for name, labels, row, there in images.itertuples():
            if not there:
                table.add(row, f"there is no image {name!r} in {self.folder}. Add it, or remove its rows.")
            absent = [label for label in self.classes if label not in labels]
            if absent and name not in misspelled:
                table.add(row, f"{name!r} has no row for {', '.join(absent)}; expected {len(self.classes)} rows per "
                               "image. Add them, with an empty EncodedPixels if a class is absent.")  # fmt: skip

    def _check_unused_runs(self, table: Table, rows: "pd.DataFrame") -> None:
        """Adds wrong run lengths of rows that no mask is made from, so that they are reported with the others."""
        try:
            frame = self.frame
        except DataError:
            return  # reported when the images are decoded
        for text, runs, row in rows[["Image_Label", "EncodedPixels", "row"]].itertuples(index=False):
            try:
                parse_runs(runs, frame)
            except ValueError as error:
                table.add(row, f"{text}: {error}")

    @cached_property
    def frame(self) -> Size:
        """Height and width that run lengths are numbered over: the most frequent among nine images.

        Raises:
            DataError: No image can be read.
        """
        sizes: list[Size] = []
        for name in random.Random(0).sample(self.names, len(self.names)):
            try:
                sizes.append(picture_size(self.path(name)))
            except DataError:
                continue  # reported when the images are decoded
            if len(sizes) == 9:
                break
        if not sizes:
            raise DataError(f"No image in {self.folder} can be read, so run lengths cannot be checked.")
        return Counter(sizes).most_common(1)[0][0]

    def drop(self, names: Collection[str]) -> None:
        """Removes images and their masks, as if they did not exist."""
        self.names = [name for name in self.names if name not in names]

    def path(self, name: str) -> Path:
        """Returns the file of an image."""
        return located(self.folder, name)

    def masks(self, name: str, size: Size) -> NDArray[np.bool_]:
        """Returns the masks (K, H, W) of an image at this height and width; a class without a row has none.

        Raises:
            DataError: Run lengths are wrong; the message names the row.
        """
        frame, problems, masks = self.frame, [], np.zeros((len(self.classes), *size), dtype=np.bool_)
        for index, label in enumerate(self.classes):
            runs, row = self.runs.get((name, label), ("", 0))
            try:
                masks[index] = decode_to(runs, frame, size)
            except ValueError as error:
                problems.append(f"{self.table}, row {row}: {name}_{label}: {error}")
        if problems:
            raise DataError("\n".join(problems), problems)
        return masks

    def misfit(self, name: str) -> str | None:
        """Returns what is wrong with the size of an image, or None."""
        try:
            height, width = picture_size(self.path(name))
        except DataError:
            return None  # reported when it is decoded
        if (height, width) == self.frame:
            return None
        return (
            f"{self.path(name)} is {height} x {width} pixels (height x width), but the run lengths of {self.table} are "
            f"numbered over {self.frame[0]} x {self.frame[1]}, the size of the other images. Download it again."
        )
