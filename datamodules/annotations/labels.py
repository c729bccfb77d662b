"""What the readers of annotation files return: shapes of classes in images, and what was rejected."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ops.masks.polygons import Ring, polygon_mask
from ops.windows import Size

Kind = Literal["outline", "box"]
SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


@dataclass(frozen=True)
class Shape:
    """One labeled object of an image.

    Attributes:
        label: Its class, as the file spells it.
        parts: Polygons whose union it is, each a list of rings that are read even-odd: an outline, then its holes.
            Points are (x, y) with the corner of the image, not the center of its first pixel, at (0, 0), as in all
            annotation tools.
        pixels: Its pixels (h, w) instead of `parts`.
        corner: Top and left of `pixels` in the image.
        kind: Whether the file has an outline or only a box around the object.
    """

    label: str
    parts: Sequence[Sequence[Ring]] = ()
    pixels: NDArray[np.bool_] | None = None
    corner: tuple[int, int] = (0, 0)
    kind: Kind = "outline"

    def mask(self, size: Size) -> NDArray[np.bool_]:
        """Returns its pixels in an image of this size: those whose centers lie inside."""
        filled = np.zeros(size, np.bool_)
        for rings in self.parts:
            filled |= polygon_mask([ring - 0.5 for ring in rings], size)
        if self.pixels is not None:
            top, left = max(0, self.corner[0]), max(0, self.corner[1])
            pixels = self.pixels[top - self.corner[0] :, left - self.corner[1] :]
            pixels = pixels[: max(0, size[0] - top), : max(0, size[1] - left)]
            filled[top : top + pixels.shape[0], left : left + pixels.shape[1]] |= pixels
        return filled


@dataclass(frozen=True)
class Labeled:
    """An image and its shapes, in the order in which they were drawn.

    Attributes:
        file: The annotation file.
        image: Path of the image as the file gives it.
        size: Height and width that the file gives; None if it gives none.
        shapes: The shapes; none for an image without objects.
        split: `train`, `val` or `test`, where the source says so.
    """

    file: Path
    image: str
    size: Size | None
    shapes: Sequence[Shape] = ()
    split: str | None = None


@dataclass(frozen=True)
class Rejected:
    """An annotation that was not used.

    Attributes:
        file: Its file.
        place: Where in the file: an image, a line, the number of an annotation.
        reason: Why, and what to do.
    """

    file: Path
    place: str
    reason: str


@dataclass
class Labels:
    """Everything that a reader found in a source."""

    images: list[Labeled] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)

    def reject(self, file: Path, place: object, reason: str) -> None:
        """Notes an annotation that is not used."""
        self.rejected.append(Rejected(file, str(place), reason))


def ring(points: Any) -> Ring:
    """Returns points as a ring (N, 2).

    Args:
        points: Pairs x, y, or a flat list of them.

    Raises:
        ValueError: They are no polygon: not pairs of finite numbers, fewer than three, or without an area.
    """
    try:
        found = np.asarray(points, np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError("its points are not numbers; expected pairs x, y") from error
    if found.ndim == 1 and found.size % 2:
        raise ValueError(f"it has {found.size} coordinates; expected pairs x, y")
    found = found.reshape(-1, 2) if found.ndim == 1 else found
    if found.ndim != 2 or found.shape[1] < 2 or not np.isfinite(found).all():
        raise ValueError("its points are not pairs of finite numbers")
    found = found[:, :2]
    if len(found) > 1 and (found[0] == found[-1]).all():
        found = found[:-1]
    if len(found) < 3:
        raise ValueError(f"it has {len(found)} points; expected three or more")
    x, y = (found - found[0]).T
    if not np.abs(x @ np.roll(y, -1) - np.roll(x, -1) @ y) > 0 and not np.ptp(found, axis=0).all():
        raise ValueError("it has no area")
    return found


def box_ring(left: float, top: float, right: float, bottom: float) -> Ring:
    """Returns the outline of a box.

    Raises:
        ValueError: It has no area.
    """
    if not (left < right and top < bottom):
        raise ValueError(f"the box {left:g}, {top:g}, {right:g}, {bottom:g} has no area")
    return ring([(left, top), (right, top), (right, bottom), (left, bottom)])


def ellipse_ring(center: Sequence[float], radii: Sequence[float], degrees: float = 0, step: float = 1.0) -> Ring:
    """Returns the outline of an ellipse, with a point about every `step` pixels.

    Raises:
        ValueError: It has no area.
    """
    if not min(radii) > 0:
        raise ValueError("it has no area")
    angles = np.linspace(0, 2 * np.pi, max(16, int(2 * np.pi * max(radii) / step)), endpoint=False)
    points = np.stack([radii[0] * np.cos(angles), radii[1] * np.sin(angles)], axis=1)
    return rotated(points + np.asarray(center, np.float64), degrees, center)


def rotated(points: Ring, degrees: float, center: Sequence[float]) -> Ring:
    """Returns points turned clockwise, as seen on the screen, around a center."""
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    around = np.asarray(center, np.float64)
    moved: Ring = (points - around) @ np.array([[cosine, sine], [-sine, cosine]]) + around
    return moved


def size_of(height: Any, width: Any) -> Size | None:
    """Returns a size that a file gives; None if it gives none."""
    given = isinstance(height, int) and isinstance(width, int) and height > 0 and width > 0
    return (height, width) if given else None


def split_of(*texts: str) -> str | None:
    """Returns the split that the first of these paths or names tells, such as `images/train2017/a.jpg`; None if none.

    Folders and words within names count, the last one first.
    """
    for text in texts:
        for word in reversed(re.split(r"[^a-z]+", text.lower())):
            if word in SPLITS:
                return SPLITS[word]
    return None
