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
from datamodules.read.mask_files import IGNORED, Certainty, Marks, MaskValues, fitting_turn, read_marks, turned_size
from datamodules.read.names import located, stem, tree_names
from datamodules.read.pictures import picture_size, read_picture, resized_mask, touched
from datamodules.read.rasters import COLOR, Channels
from datamodules.read.tables import Table
from ops.errors import DataError, collected
from ops.geo.rasters import VRT
from ops.masks.rle import decode_to, parse_runs
from ops.windows import Size

if TYPE_CHECKING:
    import pandas as pd

FOLDERS = """    {root}/images/<stem>.jpg          any image format, any size
    {root}/masks/<class>/<stem>.png   0 and one other value, or see --data.mask_values; as large as its image"""
KAGGLE_OR_FOLDERS = f"""Either the Kaggle folder as downloaded:
    {{root}}/train.csv                  columns Image_Label,EncodedPixels
    {{root}}/train_images/*.jpg
    {{root}}/test_images/*.jpg          optional
    {{root}}/sample_submission.csv      optional
or a folder of images and one of masks for each of the --data.classes:
{FOLDERS}"""
ONE_MASK = """    {root}/images/<stem>.png   any image format, any size
    {root}/masks/<stem>.png    0 and one other value, or see --data.mask_values; as large as its image
    {root}/categories.csv      optional: columns image,category"""


class MaskSource(Protocol):
    """Named images and their masks.

    Attributes:
        root: Folder of the dataset.
        names: File names of the images that exist, sorted.
        files: Files that the masks are made from, for the key of a cache; the images count as well.
        problems: What is wrong with the table or the folders; no image was opened to find out.
        values: What the values of mask files mean.
        channels: How rasters among the images are read.
    """

    channels: Channels
    root: Path
    names: list[str]
    files: list[Path]
    problems: list[str]
    values: MaskValues

    def path(self, name: str) -> Path:
        """Returns the file of an image."""

    def masks(self, name: str, size: Size) -> NDArray[np.bool_]:
        """Returns the masks (K, H, W) of an image, resized to this height and width."""

    def planes(self, name: str, size: Size) -> NDArray[np.bool_]:
        """Returns the masks of an image, and, if `values` may be ignored, which pixels are: (K + 1, H, W)."""

    def misfit(self, name: str) -> str | None:
        """Returns what is wrong with the size of an image or of its masks, or None."""

    def drop(self, names: Collection[str]) -> None:
        """Removes images and their masks, as if they did not exist."""


class OneMask(MaskSource, Protocol):
    """Images with one mask each.

    Attributes:
        folder: Folder of the images.
        paths: Their files by name.
    """

    folder: Path
    paths: dict[str, Path]

    def files_of(self, name: str) -> list[Path | None]:
        """Returns the mask file of each class of an image, None where it has none."""

    def labels(self, name: str) -> NDArray[np.uint8]:
        """Returns the mask (H, W) at the size of the image: 0, 1, or `IGNORED`."""


def unusable(source: MaskSource) -> dict[str, str]:
    """Returns the problems of images that cannot be read, or whose masks cannot, by name; opens every file."""

    def problems(name: str) -> str:
        misfit = source.misfit(name)
        checks: list[Callable[[], object]] = [
            lambda: read_picture(source.path(name), channels=source.channels),
            lambda: source.masks(name, (8, 8)),
        ]
        found = list(dict.fromkeys([*([misfit] if misfit else []), *collected(checks)]))
        return found[0] if len(found) == 1 else "\n".join(found)

    with ThreadPoolExecutor(core_count()) as pool:
        found = dict(zip(source.names, pool.map(problems, source.names), strict=True))
    return {name: problem for name, problem in found.items() if problem}


ANY_VALUES = MaskValues()


def mask_source(root: Path, classes: Sequence[str], values: MaskValues = ANY_VALUES) -> MaskSource:
    """Returns the dataset in `root`, in the Kaggle layout or in folders; its `problems` say what is wrong with it.

    Raises:
        DataError: There is no dataset, or its table cannot be read, or has no values to give a meaning.
    """
    if not (root / "train.csv").is_file():
        return class_masks(root, classes, values, KAGGLE_OR_FOLDERS)
    if values.recipe():
        raise DataError(
            f"{root / 'train.csv'} has run lengths, but --data.mask_values and --data.ignore_value are about mask "
            "files. Set both to null, or move the table away to use folders of masks."
        )
    return KaggleMasks(root, classes)


def class_masks(
    root: Path, classes: Sequence[str], values: MaskValues = ANY_VALUES, layout: str = FOLDERS
) -> "FolderMasks":
    """Returns the images in `images` and their masks in `masks/<class>`; its `problems` say what is wrong with them.

    Args:
        root: Folder of the dataset.
        classes: Names of the classes.
        values: What the values of mask files mean.
        layout: Layout to show if there is no dataset, with `{root}` in it.

    Raises:
        DataError: There is no dataset.
    """
    _check_images(root, layout)
    return FolderMasks(root, [located(root / "masks", label) for label in classes], values)


def one_mask_each(root: Path, values: MaskValues = ANY_VALUES, layout: str = ONE_MASK) -> "FolderMasks":
    """Returns the images in `images` and one mask for each in `masks`; its `problems` say what is wrong with them.

    Args:
        root: Folder of the dataset.
        values: What the values of mask files mean.
        layout: Layout to show if there is no dataset, with `{root}` in it.

    Raises:
        DataError: There is no dataset.
    """
    _check_images(root, layout)
    return FolderMasks(root, [root / "masks"], values)


def _check_images(root: Path, layout: str) -> None:
    if (root / "images").is_dir():
        return
    found = "that folder does not exist"
    if root.exists():
        names = sorted(path.name for path in root.iterdir()) if root.is_dir() else []
        found = "found there: " + (", ".join(names[:10]) or "nothing")
    raise DataError(f"No dataset in {root} ({found}); --data.root names another. Expected:\n{layout.format(root=root)}")


class FolderMasks:
    """Images in `images/` and a folder of masks `<stem>.png` per class, of any size.

    An image may lack the mask file of a class that it does not show, but needs the file of at least one class.

    Args:
        root: Folder that contains `images`.
        folders: Folders of the masks of the K classes.
        values: What the values of their files mean.

    Raises:
        DataError: There are no images.
    """

    channels = COLOR

    def __init__(self, root: Path, folders: Sequence[Path], values: MaskValues = ANY_VALUES) -> None:
        self.root, self.folders, self.values = root, list(folders), values
        self.folder = root / "images"
        self.problems: list[str] = []
        self.names = tree_names(self.folder, (VRT,))
        self.paths = {name: located(self.folder, name) for name in self.names}
        pictures = self._by_stem(self.folder, self.names)
        self._check_folders()
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

    def _check_folders(self) -> None:
        """Adds one problem for all folders of masks that are missing."""
        missing = [folder for folder in self.folders if not folder.is_dir()]
        if not missing:
            return
        home = missing[0].parent
        if not home.is_dir():
            self.problems.append(f"there is no folder {home}; expected {', '.join(map(str, missing))} with the masks.")
            return
        found = ", ".join(sorted(path.name for path in home.iterdir())) or "nothing"
        more = ", or give --data.classes" if home != self.root else ""
        self.problems.append(
            f"there is no folder {', '.join(map(str, missing))}; expected masks in it. {home} contains {found}: "
            f"rename a folder{more}."
        )

    def _mask_names(self, folder: Path) -> list[str]:
        if not folder.is_dir():
            return []  # reported already
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

    def files_of(self, name: str) -> list[Path | None]:
        """Returns the mask file of each class of an image, None where it has none."""
        return [by_stem.get(stem(name)) for by_stem in self.by_class]

    def labels(self, name: str) -> NDArray[np.uint8]:
        """Returns the mask (H, W) of the first class at the size of the image: 0, 1, or `IGNORED`.

        Raises:
            DataError: The mask cannot be read.
        """
        path = self.files_of(name)[0]
        size = picture_size(self.path(name), self.channels)
        return np.zeros(size, np.uint8) if path is None else self.read(path, name).labels

    def read(self, path: Path, name: str) -> Marks:
        """Returns a mask file of an image, turned to lie on it.

        Raises:
            DataError: The mask cannot be read.
        """
        return read_marks(path, self.values, self.turn(path, name)[0])

    def turn(self, path: Path, name: str) -> tuple[int, Certainty]:
        """Returns by which EXIF orientation to turn a mask, see `fitting_turn`; masks of rasters lie as stored."""
        image = self.path(name)
        return (1, Certainty.SURE) if self.channels.reads(image) else fitting_turn(path, image)

    def masks(self, name: str, size: Size) -> NDArray[np.bool_]:
        """Returns the masks (K, H, W) of an image, resized to this height and width.

        Raises:
            DataError: A mask cannot be read.
        """
        return self.planes(name, size)[: len(self.folders)]

    def planes(self, name: str, size: Size) -> NDArray[np.bool_]:
        """Returns the masks of an image at this height and width, see `label_planes`.

        Raises:
            DataError: A mask cannot be read.
        """
        labels = [self.read(path, name).labels if path else None for path in self.files_of(name)]
        return label_planes(labels, size, self.values)

    def misfit(self, name: str) -> str | None:
        """Returns what is wrong with the sizes of an image's masks, or None."""
        try:
            size = picture_size(self.path(name), self.channels)
            for path in filter(None, self.files_of(name)):
                turn, certain = self.turn(path, name)
                if certain == Certainty.DIFFERS:
                    return (
                        f"{path} has the EXIF orientation {turn}, but its image {name} has another one, and both ways "
                        "of turning fit. Write the mask as the image is seen, without orientation."
                    )
                height, width = turned_size(path, turn)
                if (height, width) != size:
                    return (
                        f"{path} is {height} x {width} pixels (height x width), but its image {name} is "
                        f"{size[0]} x {size[1]}. A mask must be as large as its image."
                    )
        except DataError:
            return None  # reported when it is decoded
        return None


def label_planes(labels: Sequence[NDArray[np.uint8] | None], size: Size, values: MaskValues) -> NDArray[np.bool_]:
    """Returns the masks of K classes, resized, and, if values may be ignored, the ignored pixels as one more plane.

    Pixels that one class ignores are ignored for all, and belong to no mask. A resized pixel is ignored if any part of
    it is.

    Args:
        labels: For each class (H, W) with 0, 1 and `IGNORED`; None marks nothing.
        size: Height and width of the planes.
        values: What the values of the masks mean.
    """
    empty = np.zeros(size, np.bool_)
    planes = [empty if each is None else resized_mask(each == 1, size) for each in labels]
    if values.ignored:
        ignored = np.any([empty, *(touched(each == IGNORED, size) for each in labels if each is not None)], axis=0)
        planes = [*(plane & ~ignored for plane in planes), ignored]
    return np.stack(planes)


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
        DataError: The table cannot be read, has other classes, or there is no folder of images.
    """

    channels = COLOR

    def __init__(self, root: Path, classes: Sequence[str]) -> None:
        self.root, self.values = root, ANY_VALUES
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
        self._check_classes(rows)
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

    def _check_classes(self, rows: "pd.DataFrame") -> None:
        """Raises a DataError if a class of most images is unknown, which one line says better than one for each row."""
        counts = rows["label"].value_counts()
        common = counts[counts >= max(2, rows["name"].nunique() / 2)].index
        if not set(common) <= set(self.classes):
            found = ",".join(sorted(counts.index))
            raise DataError(
                f"{self.table} has the classes {found}; expected {','.join(self.classes)}. Correct the names, or give "
                f"--data.classes '[{found}]'."
            )

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

    planes = masks  # no pixel is ignored

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
