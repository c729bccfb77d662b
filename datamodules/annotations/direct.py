"""Reads datasets whose labels are still files of an annotation tool."""

from collections.abc import Callable, Sequence
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_info

from datamodules.annotations.coco import read_coco
from datamodules.annotations.cvat import read_cvat
from datamodules.annotations.dataset import BACKGROUND, IGNORED, REJECTED, Choice, class_name, write_dataset
from datamodules.annotations.files import tree
from datamodules.annotations.labelme import read_labelme
from datamodules.annotations.labels import Labels
from datamodules.read.cache import cache_folder, cache_key
from datamodules.read.mask_files import meaning
from datamodules.read.masks import FolderMasks
from datamodules.read.names import located, tree_names
from datamodules.read.tables import Table
from ops.errors import ArgumentError, DataError


def annotated_masks(root: Path, annotations: Path, classes: Sequence[str]) -> FolderMasks:
    """Returns the images in `root` and masks of what an annotation tool wrote, drawn once into the cache.

    Images without labels are not part of the dataset; rejected annotations are its `problems`.

    Args:
        root: Folder of the dataset, with the images in `images`.
        annotations: A folder of labelme's JSON files, a COCO file or a CVAT file.
        classes: Classes to read. A single one may have another name in the file, if the file has only one.

    Raises:
        ArgumentError: The file has no such class.
        DataError: There are no labels, or no images.
    """
    reader, suffix = _reader(annotations)
    home = root / "images"
    images = tree_names(home)
    files = [*tree(annotations, suffix), *(located(home, name) for name in images)]
    folder = cache_folder() / f"annotations-{cache_key(files, [list(classes), str(annotations)])}"
    if not (folder / "images").is_dir():
        labels = reader(annotations)
        choice = Choice(_chosen(labels, classes), link=True)
        write_dataset(labels, annotations, folder, choice, home, home, keep=True)
    source = FolderMasks(folder, [folder / "masks" / class_name(label) for label in classes], meaning(None, IGNORED))
    if (folder / REJECTED).is_file():
        rows = Table(folder / REJECTED, ["file", "place", "reason"]).rows
        source.problems += [f"{row.file}, {row.place}: {row.reason}" for row in rows.itertuples()]
    left = len(images) - len(source.names)
    if left:
        rank_zero_info(f"{annotations}: {left} of {len(images)} images in {home} have no labels and are not used.")
    return source


def _reader(annotations: Path) -> tuple[Callable[[Path], Labels], str]:
    """Returns what reads a file or folder, and the suffix of its files.

    Raises:
        DataError: It does not exist, or is none that is read.
    """
    if annotations.is_dir():
        return read_labelme, ".json"
    if annotations.suffix.lower() == ".json":
        return read_coco, ".json"
    if annotations.suffix.lower() == ".xml":
        return read_cvat, ".xml"
    raise DataError(
        f"{annotations} is no annotation file; expected a folder of labelme's JSON files, a COCO file (.json) or a "
        "CVAT file (.xml) for --data.annotations. Other formats: belvedere import."
    )


def _chosen(labels: Labels, classes: Sequence[str]) -> dict[str, str]:
    """Returns the class of the dataset for each class of the file that is used.

    Raises:
        ArgumentError: One is missing.
    """
    found = {shape.label for image in labels.images for shape in image.shapes} - {*BACKGROUND, "__ignore__"}
    if len(classes) == len(found) == 1:
        return {found.pop(): classes[0]}
    missing = [label for label in classes if label not in found]
    if missing:
        raise ArgumentError(
            f"--data.annotations has the classes {', '.join(sorted(found)) or 'none'}, not {missing[0]!r}. Rename or "
            "merge classes with belvedere import --classes old=new."
        )
    return {label: label for label in classes}
