"""Writes a dataset of labels that annotation tools wrote: images, masks, boxes and splits."""

import os
import shutil
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from datamodules.annotations.labels import Labeled, Labels, Rejected
from datamodules.read.boxes import CORNERS
from datamodules.read.names import composed, located, stem, tree_names
from datamodules.read.pictures import TURNS, orientation, picture_size
from datamodules.read.tables import Table
from ops.atomic import replacing_folder, write_table
from ops.errors import ArgumentError, DataError, nearest
from ops.files.images import opened
from ops.files.names import safe_path
from ops.windows import Size

BACKGROUND = ("_background_", "__background__", "background")
MARKED, IGNORED = 255, 128  # values in the masks
REJECTED = "rejected.csv"
Boxes = Literal["reject", "masks", "csv"]


@dataclass(frozen=True)
class Choice:
    """What to make of labels.

    Attributes:
        classes: New name of each class to keep, by the name in the source, in the order of the dataset; None keeps all.
        ignored: Classes whose pixels count nowhere.
        boxes: What to do with shapes that are only boxes: `reject`, fill them as `masks`, or list them in a `csv`.
        exclusive: Whether a pixel belongs to the last shape that covers it only.
        one_mask: Whether each image has one mask in `masks/`, not one in a folder per class.
        link: Whether to link images instead of copying them.
    """

    classes: Mapping[str, str] | None = None
    ignored: Collection[str] = ("__ignore__",)
    boxes: Boxes = "reject"
    exclusive: bool = False
    one_mask: bool = False
    link: bool = False


@dataclass
class Imported:
    """What was written.

    Attributes:
        images: Names of the images.
        objects: Number of shapes by class, in the order of the classes.
        showing: Number of images that show a class, by class.
        boxes: Number of boxes in `boxes.csv`.
        ignoring: Number of images with ignored pixels.
        splits: Number of images by split; empty if the source has no splits.
        rejected: Annotations that were not used.
        turned: Names of the images that EXIF turns without changing their size: their labels may be for either view.
        notes: What else is worth a look.
    """

    images: list[str] = field(default_factory=list)
    objects: Counter[str] = field(default_factory=Counter)
    showing: Counter[str] = field(default_factory=Counter)
    boxes: int = 0
    ignoring: int = 0
    splits: Counter[str] = field(default_factory=Counter)
    rejected: list[Rejected] = field(default_factory=list)
    turned: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def class_name(label: str) -> str:
    """Returns the name of a class as that of a folder: without slashes of any kind, and not `.` or `..`."""
    name = label.strip().replace("/", "-").replace("\\", "-")
    return name.replace(".", "-") if set(name) == {"."} else name


def write_dataset(
    labels: Labels,
    source: Path,
    folder: Path,
    choice: Choice,
    images: Path | None = None,
    home: Path | None = None,
    keep: bool = False,
) -> Imported:
    """Writes images, masks, `boxes.csv`, `splits.csv` and `rejected.csv`.

    Args:
        labels: What a reader found.
        source: Where it found it.
        folder: Where to write; must not exist or be empty.
        choice: What to make of it.
        images: Folder of the images; None searches the source.
        home: Folder that images are named from and have to lie in; None is the deepest that all of them share.
        keep: Whether to keep what another process has put at `folder` in the meantime.

    Raises:
        ArgumentError: A class is unknown, or there are several where one is expected.
        DataError: No image is left.
    """
    done = Imported(rejected=list(labels.rejected))
    root = images or (source if source.is_dir() else source.parent)
    # beside labels there may be no images, if these say where theirs are
    below = [located(root, name) for name in tree_names(root, report=False, empty=images is None)]
    found = _with_images(labels.images, root, below, home, done)
    classes = _classes(found.values(), choice, done)
    if not found:
        raise DataError(
            "\n".join(["No labeled image is left.", *(f"  - {each.reason}" for each in done.rejected[:10])])
        )
    names = _short(list(found), home)
    splits = _splits(source, found, names, done)
    with replacing_folder(folder, keep=keep) as temporary:
        boxes: list[tuple[object, ...]] = []
        taken: dict[str, str] = {}
        for path, labeled in found.items():
            name = names[path]
            first = taken.setdefault(stem(name), name)
            if first != name:
                reason = f"its image differs from {first} in the suffix only. Rename one of them."
                done.rejected.append(Rejected(labeled.file, labeled.image, reason))
                continue
            try:
                planes, ignored, boxed = _drawn(path, labeled, classes, choice, done)
            except DataError as error:
                done.rejected.append(Rejected(labeled.file, labeled.image, str(error)))
                continue
            _place(path, temporary / "images" / name, choice.link)
            for label, plane in planes.items():
                inner = temporary / "masks" / ("" if choice.one_mask else label) / safe_path(name, ".png")
                inner.parent.mkdir(parents=True, exist_ok=True)
                values = np.where(plane, MARKED, np.where(ignored, IGNORED, 0)).astype(np.uint8)
                Image.fromarray(values).save(inner)
                done.showing[label] += bool(plane.any())
            done.ignoring += bool(ignored.any())
            boxes += [(name, *corners) for corners in boxed]
            done.images.append(name)
        if not done.images:
            raise DataError("\n".join(["No image is left.", *(f"  - {each.reason}" for each in done.rejected[:10])]))
        if choice.boxes == "csv":
            write_table(temporary / "boxes.csv", ("image", *CORNERS), boxes)
        if done.turned:
            done.notes.append(
                f"{len(done.turned)} images, such as {done.turned[0]}, are turned by their EXIF: their labels are "
                "taken as drawn on the turned images."
            )
        done.boxes = len(boxes)
        kept = [(name, splits[name]) for name in done.images] if splits else []
        done.splits = Counter(split for _, split in kept)
        if kept:
            write_table(temporary / "splits.csv", ("name", "split"), kept)
        if done.rejected:
            rows = [(os.path.abspath(each.file), each.place, each.reason) for each in done.rejected]
            write_table(temporary / REJECTED, ("file", "place", "reason"), rows)
    return done


def _with_images(
    labeled: Sequence[Labeled], root: Path, below: Sequence[Path], home: Path | None, done: Imported
) -> dict[Path, Labeled]:
    """Returns the labels by image file; those of one image in several files are joined.

    Args:
        labeled: The labels.
        root: Folder that their paths may start from.
        below: Images to look among for those whose path leads nowhere.
        home: Folder that images have to lie in, if given.
        done: Gets what is rejected.
    """
    by_name: dict[str, list[Path]] = {}
    by_stem: dict[str, list[Path]] = {}
    for path in below:
        by_name.setdefault(path.name.casefold(), []).append(path)
        by_stem.setdefault(path.stem.casefold(), []).append(path)
    found: dict[Path, Labeled] = {}
    joined: set[Path] = set()
    for each in labeled:
        text = composed(each.image.replace("\\", "/"))
        beside = [place / text.split(":", 1)[-1].lstrip("/") for place in (each.file.parent, root)]
        named = Path(text).name
        if each.file.suffix == ".json":
            beside = [each.file.parent / text, *beside]
        present = [Path(os.path.abspath(place)) for place in beside if place.is_file()]
        present = [place for place in present if home is None or place.is_relative_to(os.path.abspath(home))]
        path = present[0] if present else each.file
        if os.path.abspath(path) == os.path.abspath(each.file):  # a mask is not its own image
            several = by_name.get(named.casefold()) or by_stem.get(Path(named).stem.casefold(), [])
            near = _nearest(several, text)
            if len(near) != 1:
                reason = f"there is no image {each.image!r}" if not near else f"{len(near)} images fit {each.image!r}"
                advice = f" below {root}. Give the folder of the images with --images."
                done.rejected.append(Rejected(each.file, each.image, reason + advice))
                continue
            path = Path(os.path.abspath(near[0]))
        if path in found:
            joined.add(path)
            earlier = found[path]
            found[path] = replace(earlier, shapes=[*earlier.shapes, *each.shapes], size=earlier.size or each.size)
        else:
            found[path] = each
    if joined:
        done.notes.append(f"{len(joined)} images, such as {min(joined).name}, are labeled in several files: joined.")
    return found


def _nearest(paths: Sequence[Path], text: str) -> list[Path]:
    """Returns the paths that share the most last folders with a path."""
    parts = Path(text).parts[::-1]

    def shared(path: Path) -> int:
        pairs = zip(path.parts[::-1], parts, strict=False)
        return next((k for k, (left, right) in enumerate(pairs) if k and left != right), len(parts))

    most = max(map(shared, paths), default=0)
    return [path for path in paths if shared(path) == most]


def _short(paths: Sequence[Path], home: Path | None) -> dict[Path, str]:
    """Returns the names of images within the dataset: their paths below a folder, or below the one that all share."""
    shared = Path(os.path.commonpath([path.parent for path in paths])) if home is None else Path(os.path.abspath(home))
    return {path: composed(path.relative_to(shared).as_posix()) for path in paths}


def _classes(labeled: Collection[Labeled], choice: Choice, done: Imported) -> dict[str, str]:
    """Returns the new name of each class of the source that is kept.

    Raises:
        ArgumentError: A class is unknown, or there are several where one is expected.
    """
    counted = Counter(shape.label for each in labeled for shape in each.shapes)
    known = sorted(label for label in counted if label not in (*BACKGROUND, *choice.ignored))
    if choice.classes is None:
        classes = {label: class_name(label) for label in known}
        folded = Counter(label.casefold() for label in known)
        twice = [label for label in known if folded[label.casefold()] > 1]
        if twice:
            done.notes.append(f"Classes that differ in capitals only: {', '.join(twice)}. --classes a=b merges them.")
        named = Counter(classes.values())
        merged = [repr(label) for label in known if named[classes[label]] > 1]
        if merged:
            done.notes.append(f"Classes of the same name as a folder, which are merged: {', '.join(merged)}.")
    else:
        for label in choice.classes:
            if label not in counted:
                raise ArgumentError(
                    f"--classes: no shape has the class {label!r}; the classes are {', '.join(known) or 'none'}."
                    f"{nearest(label, known)}"
                )
        classes = {label: class_name(new) for label, new in choice.classes.items()}
        left = [f"{label} ({counted[label]})" for label in known if label not in classes]
        if left:
            done.notes.append(f"Left out, since --classes does not name them: {', '.join(left)}.")
    new = list(dict.fromkeys(classes.values()))
    if choice.one_mask and not known and not done.rejected:
        return {"object": "object"}  # all images are negatives
    if choice.one_mask and len(new) != 1:
        if not known:
            raise DataError(
                "\n".join(["No shape can be used.", *(f"  - {each.reason}" for each in done.rejected[:10])])
            )
        raise ArgumentError(
            f"The source has the classes {', '.join(known)}; this task has one mask per image. "
            f"Choose or merge them: --classes '{','.join(f'{label}=object' for label in known)}'."
        )
    return classes


def _drawn(
    path: Path, labeled: Labeled, classes: Mapping[str, str], choice: Choice, done: Imported
) -> tuple[dict[str, NDArray[np.bool_]], NDArray[np.bool_], list[tuple[int, ...]]]:
    """Returns the mask of each class, the ignored pixels, and the boxes of an image, as the image is seen.

    Raises:
        DataError: The image cannot be read, or has another size than its labels.
    """
    size, turn = _lying(path, labeled, done)
    planes = {label: np.zeros(size, np.bool_) for label in dict.fromkeys(classes.values())}
    ignored, boxes = np.zeros(size, np.bool_), []
    for number, shape in enumerate(labeled.shapes, start=1):
        if shape.label in BACKGROUND:
            continue
        is_ignored = shape.label in choice.ignored
        label = classes.get(shape.label)
        if label is None and not is_ignored:
            continue
        place = f"{labeled.image}, {shape.label} {number}"
        if shape.kind == "box" and not is_ignored and choice.boxes == "reject":
            advice = "--boxes masks fills it, --boxes csv lists it in boxes.csv"
            done.rejected.append(Rejected(labeled.file, place, f"it is a box, not an outline; {advice}."))
            continue
        mask = shape.mask(size)
        if not mask.any():
            done.rejected.append(Rejected(labeled.file, place, "it covers no pixel of the image."))
            continue
        if shape.kind == "box" and not is_ignored and choice.boxes == "csv":
            boxes.append(_box(upright(mask, turn)))
            continue
        if is_ignored:
            ignored |= mask
            continue
        assert label is not None
        done.objects[label] += 1
        if choice.exclusive:
            for plane in planes.values():
                plane &= ~mask
        planes[label] |= mask
    ignored &= ~np.any(list(planes.values()), axis=0) if planes else True
    return {label: upright(plane, turn) for label, plane in planes.items()}, upright(ignored, turn), boxes


def _lying(path: Path, labeled: Labeled, done: Imported) -> tuple[Size, int]:
    """Returns the size that labels are drawn at, and the EXIF orientation that turns them as the image is seen.

    Raises:
        DataError: The image cannot be read, or has another size.
    """
    seen = picture_size(path)
    with opened(path) as picture:
        turn = orientation(picture)
        stored = (picture.height, picture.width)
    if labeled.size in (None, seen):
        if turn != 1 and stored == seen:
            done.turned.append(path.name)
        return seen, 1
    if labeled.size == stored:
        return stored, turn
    assert labeled.size is not None
    height, width = labeled.size
    raise DataError(
        f"its labels are for an image of {height} x {width} pixels (height x width), but {path} is "
        f"{seen[0]} x {seen[1]}."
    )


def upright(mask: NDArray[np.bool_], turn: int) -> NDArray[np.bool_]:
    """Returns a mask (H, W) turned as an EXIF orientation, 1 to 8, says."""
    if turn == 1:
        return mask
    return np.asarray(Image.fromarray(mask.astype(np.uint8)).transpose(TURNS[turn])).astype(np.bool_)


def _box(mask: NDArray[np.bool_]) -> tuple[int, ...]:
    """Returns x0, y0, x1, y1 around the pixels of a mask."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _place(path: Path, target: Path, link: bool) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if link:
        target.symlink_to(path.resolve())
    else:
        shutil.copyfile(path, target)


def _splits(source: Path, found: Mapping[Path, Labeled], names: Mapping[Path, str], done: Imported) -> dict[str, str]:
    """Returns the split of each image, if the source has splits."""
    table = (source if source.is_dir() else source.parent) / "splits.csv"
    if table.is_file():
        rows = Table(table, ["name", "split"]).rows
        by_stem = dict(zip(map(stem, rows["name"]), rows["split"], strict=True))
        splits = {name: by_stem.get(stem(name), by_stem.get(stem(Path(name).name))) for name in names.values()}
    else:
        splits = {names[path]: labeled.split for path, labeled in found.items()}
    known = {name: split for name, split in splits.items() if split}
    if known and len(known) < len(splits):
        done.notes.append(
            f"{len(splits) - len(known)} of {len(splits)} images have no split: no splits.csv is written."
        )
        return {}
    if set(known.values()) & {"train"} and not set(known.values()) & {"val"}:
        done.notes.append("The source has no validation split: choose one in splits.csv, or delete the file.")
    return known
