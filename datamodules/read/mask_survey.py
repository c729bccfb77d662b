"""Compares the mask files of a dataset: what one file alone leaves open, and how masks lie on their images."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn
from numpy.typing import NDArray

from datamodules.read.cache import MappedRows, cache_key, cached_array
from datamodules.read.mask_files import OTHERS, Certainty, value_name
from datamodules.read.masks import FolderMasks, MaskSource
from datamodules.read.names import stem
from ops.errors import collected

WARNINGS = {
    Certainty.FITS: "have another EXIF orientation than their images, and are turned the one way that fits",
    Certainty.ASSUMED: "have no EXIF orientation, but their images are turned by one: they are taken as drawn on the "
    "turned image. If they were drawn on the stored one, write both without orientation",
}


def value_problems(task: str, source: MaskSource) -> list[str]:
    """Returns what is wrong with the values of all mask files together, from the cache or read into it.

    What belongs to the masks of a class must be the same in all files: with 0 and 1 in some and 0 and 255 in others,
    255 may be no data. Given values must occur. Warns where the EXIF orientations of masks and images differ, see
    `datamodules.read.mask_files.fitting_turn`.

    Args:
        task: Task name, which starts the names of the cached files.
        source: Names, images and masks; only folders of files have values.
    """
    if not isinstance(source, FolderMasks):
        return []
    files = list(_owned(source).items())
    if not files:
        return []
    rows: list[MappedRows] = []

    def make(index: int) -> NDArray[np.uint8]:
        path, name = files[index]
        certainty = source.turn(path, name)[1]
        return np.array([source.read(path, name).value, certainty], np.float64).view(np.uint8)

    paths = [*(path for path, _ in files), *(source.path(name) for _, name in files)]
    key, what = (
        cache_key(paths, [source.values.recipe(), source.values.least]),
        f"reading the values of the masks of {source.root}",
    )
    problems = collected([lambda: rows.append(cached_array(f"{task}-values", key, (len(files), 16), make, what))])
    if problems:
        return problems
    found = [(path, *rows[0][index].view(np.float64).tolist()) for index, (path, _) in enumerate(files)]
    for certainty, text in WARNINGS.items():
        turned = [path for path, _, each in found if each == certainty]
        if turned:
            rank_zero_warn(f"{source.root}: {len(turned)} masks, such as {turned[0]}, {text}.")
    for folder, by_stem in zip(source.folders, source.by_class, strict=True):
        of_class = set(by_stem.values())
        problems += _mixed(source, folder, [(path, value) for path, value, _ in found if path in of_class])
    return problems


def _owned(source: FolderMasks) -> dict[Path, str]:
    """Returns the image of each mask file that has one."""
    named = {stem(name): name for name in source.names}
    return {path: named[each] for masks in source.by_class for each, path in masks.items() if each in named}


def _mixed(source: FolderMasks, folder: Path, found: Sequence[tuple[Path, float]]) -> list[str]:
    """Returns the problem of a class whose files mark different values, or none of the given ones."""
    by_value: dict[float, list[Path]] = {}
    for path, value in found:
        if value == value:  # nan: nothing is marked
            by_value.setdefault(value, []).append(path)
    given = source.values.positive
    if given is not None:
        if set(by_value) != {OTHERS}:
            return []
        path = by_value[OTHERS][0]
        histogram = source.read(path, _owned(source)[path]).histogram
        return [
            f"none of the {len(found)} masks in {folder} has one of --data.mask_values; {path.name} has {histogram}. "
            "Correct the values."
        ]
    if len(by_value) < 2:
        return []
    most_first = sorted(by_value.items(), key=lambda each: -len(each[1]))
    parts = [f"{value_name(value)} in {len(paths)}, such as {paths[0].name}" for value, paths in most_first]
    return [
        f"the masks in {folder} mark different values: {'; '.join(parts[:6])}. One of them may stand for no data. Set "
        "--data.mask_values to all that belong to the masks, and --data.ignore_value to those that count nowhere, if "
        "any."
    ]
