"""Reads colors that a person gives for some pixels of gray images: strokes in transparent PNG files, or a table."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datamodules.read.names import composed, located, stem
from datamodules.read.pictures import picture_size, refuse_depth
from datamodules.read.tables import Table, no_image
from ops.errors import DataError, refuse
from ops.files.images import opened
from ops.windows import Size

OPAQUE = 128  # least alpha of a pixel that is a hint: the soft edges of a brush are mixed with nothing
COLOR = re.compile(r"#?[0-9a-fA-F]{6}")
EXPECTED = "Expected a table image,x,y,color, or a folder of such .csv files and of .png files named like the images."


@dataclass
class HintFiles:
    """Where the hints of images are.

    Attributes:
        strokes: PNG file of each image that has one, by image name.
        points: x, y and sRGB of each image's hints from tables, by image name.
    """

    strokes: dict[str, Path] = field(default_factory=dict)
    points: dict[str, list[tuple[int, ...]]] = field(default_factory=dict)

    def __contains__(self, name: str) -> bool:
        """Returns whether an image has hints."""
        return name in self.strokes or name in self.points

    def read(self, name: str) -> NDArray[np.int64]:
        """Returns row, column and sRGB of each hint of an image, (N, 5); those of a table replace a stroke's.

        Raises:
            DataError: The strokes cannot be read.
        """
        found = [np.zeros((0, 5), np.int64)]
        if name in self.strokes:
            found.append(_strokes(self.strokes[name]))
        found.append(np.array([(y, x, *color) for x, y, *color in self.points.get(name, [])], np.int64).reshape(-1, 5))
        every = np.concatenate(found)[::-1]
        _, last = np.unique(every[:, :2], axis=0, return_index=True)
        return every[last]


def find_hints(path: Path, folder: Path, names: Sequence[str], size: Size | None = None) -> HintFiles:
    """Finds the hints of images and checks them.

    Args:
        path: A table `image,x,y,color`, with pixels from the upper left corner and colors such as `#c03020`; or a
            folder with such tables (`.csv`) and with `<path and stem of the image>.png`, as large as the image, whose
            opaque pixels are hints.
        folder: Folder of the images.
        names: Their names below it.
        size: Height and width of all of them; None reads each image's.

    Raises:
        DataError: There are no hints, or some belong to no image or lie outside of it; all problems are listed.
    """
    if path.is_file():
        tables, files = [path], list[Path]()
    elif path.is_dir():
        every = sorted(each for each in path.rglob("*") if each.is_file() and not each.name.startswith("."))
        tables, files = ([each for each in every if each.suffix.lower() == suffix] for suffix in (".csv", ".png"))
    else:
        raise DataError(f"There is no file or folder {path}. {EXPECTED}")
    if not tables and not files:
        raise DataError(f"{path} contains no hints. {EXPECTED}")
    hints, problems = HintFiles(), list[str]()
    name_of = {stem(name): name for name in names}
    for file in files:
        key = composed(file.relative_to(path).with_suffix("").as_posix())
        if key not in name_of:
            problems.append(f"{file}: there is no image {key}.* in {folder}. Name it like its image, or remove it.")
            continue
        hints.strokes[name_of[key]] = file
        problems += _misfit(file, located(folder, name_of[key]) if size is None else size)
    for table in tables:
        _read_points(table, folder, names, hints.points, size)
    refuse(problems, str(path))
    return hints


def _misfit(file: Path, image: Path | Size) -> list[str]:
    """Returns what is wrong with a file of strokes; images that cannot be read are reported elsewhere."""
    try:
        wanted = picture_size(image) if isinstance(image, Path) else image
    except DataError:
        return []
    try:
        found = picture_size(file)
    except DataError as error:
        return [str(error)]
    if found == wanted:
        return []
    return [
        f"{file} is {found[0]} x {found[1]} pixels (height x width), its image {wanted[0]} x {wanted[1]}. Draw the "
        "strokes on a transparent layer of the image's size."
    ]


def _strokes(file: Path) -> NDArray[np.int64]:
    with opened(file) as picture:
        refuse_depth(file, picture)
        if not (picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info):
            raise DataError(
                f"{file} has the mode {picture.mode!r} without transparency, so every pixel would be a hint. Save the "
                "strokes as a PNG with a transparent background."
            )
        pixels = np.asarray(picture.convert("RGBA"))
    rows, columns = np.nonzero(pixels[:, :, 3] >= OPAQUE)
    return np.column_stack([rows, columns, pixels[rows, columns, :3]]).astype(np.int64)


def _read_points(
    path: Path, folder: Path, names: Sequence[str], points: dict[str, list[tuple[int, ...]]], size: Size | None
) -> None:
    table = Table(path, ["image", "x", "y", "color"])
    table.rows["image"] = [composed(name) for name in table.rows["image"]]
    table.known("image", names, no_image(folder))
    places = table.numbers(["x", "y"], whole=True)
    known = set(table.rows["image"]) & set(names)
    sizes = _sizes(folder, known) if size is None else dict.fromkeys(known, size)
    cells = zip(table.rows.index, table.rows["image"], places, table.rows["color"], strict=True)
    for row, name, (x, y), color in cells:
        if not COLOR.fullmatch(color.strip()):
            table.add(row, f"the color is {color!r}; expected one such as #c03020.")
        elif name in sizes and not (0 <= x < sizes[name][1] and 0 <= y < sizes[name][0]):
            height, width = sizes[name]
            if np.isfinite([x, y]).all():
                inside = f"expected x from 0 to {width - 1} and y from 0 to {height - 1}."
                table.add(row, f"x {x:.0f}, y {y:.0f} is outside the image; {inside}")
        elif np.isfinite([x, y]).all():
            value = int(color.strip().lstrip("#"), 16)
            points.setdefault(name, []).append((int(x), int(y), value >> 16, value >> 8 & 255, value & 255))
    table.check()


def _sizes(folder: Path, names: set[str]) -> Mapping[str, Size]:
    """Returns the height and width of the images that can be read."""
    found = {}
    for name in names:
        try:
            found[name] = picture_size(located(folder, name))
        except DataError:
            continue
    return found
