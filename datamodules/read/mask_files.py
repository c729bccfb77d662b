"""Reads mask files: which pixels belong to the mask, and which count nowhere."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from datamodules.read.pictures import TURNED, TURNS, orientation, picture_size
from ops.errors import ArgumentError, DataError, Problem
from ops.files.images import check_pixels, opened
from ops.windows import Size

Value: TypeAlias = int | float | Sequence[int]
"""A value in a mask file: a gray value, the index of a palette, or a color [r, g, b]."""
Values: TypeAlias = int | float | Sequence[Value]
Form: TypeAlias = float | tuple[int, ...]

IGNORED = 2  # label of a pixel that counts nowhere; the others are 0 and 1
DARK, BRIGHT = 0.15, 0.85  # of the highest value: at most that of a dark part, at least that of a bright one
FEW = 16  # a lossless mask with no more values may have labels: all but two values must be rims
LEAST_RIMS = 3  # these values; fewer may be labels
REACH = 8  # pixels from a rim to black and to white: a block of JPEG
RIMS, FLAT, BETWEEN = 0.8, 0.05, 0.4  # least share of grays that are rims; largest of flat grays; largest of grays
HIGHEST = 65535  # of two values, a higher one stands for no data
TOLERANCE = 1e-3  # of floating-point values, relative: nobody types -3.4028234663852886e+38
FAR, STRAY = 48, 0.05  # a JPEG's pixel farther from all given values than this is stray; largest share of these
SHOWN = 6  # values of a histogram in a message


@dataclass(frozen=True)
class MaskValues:
    """What the values in mask files mean; `meaning` makes it of a data module's arguments.

    Attributes:
        positive: Values that belong to the mask; None decides per file, and accepts only what is certain.
        ignored: Values of pixels that count nowhere.
        least: Lowest gray, 0 to 255, that belongs to a mask with soft or noisy edges; in files of 16 bits, 256 times
            that.
    """

    positive: tuple[Form, ...] | None = None
    ignored: tuple[Form, ...] = ()
    least: int = 128

    def recipe(self) -> list[str]:
        """Returns the given values as text, for cache keys and fingerprints; empty if there are none."""
        given = [] if self.positive is None else [f"mask_values {list(self.positive)}"]
        return given + ([f"ignore_value {list(self.ignored)}"] if self.ignored else [])


def meaning(positive: Values | None, ignored: Values | None, least: int = 128) -> MaskValues:
    """Returns the meaning of the arguments `mask_values` and `ignore_value` of a data module.

    Raises:
        ArgumentError: A value is neither a number nor a color, repeats, or belongs to both.
    """
    marked, left = _forms("mask_values", positive), _forms("ignore_value", ignored)
    both = next((each for each in marked if _among(each, left)), None)
    if both is not None:
        raise ArgumentError(
            f"{_shown(both)} is in mask_values {positive} and in ignore_value {ignored}; expected pixels of a value "
            "to belong to the mask or to count nowhere"
        )
    if positive is not None and not marked:
        raise ArgumentError("mask_values is []; expected one or more values that belong to the mask, or null")
    return MaskValues(None if positive is None else marked, left, least)


def _forms(name: str, values: Values | None) -> tuple[Form, ...]:
    forms: list[Form] = []
    for value in [] if values is None else values if isinstance(values, list | tuple) else [values]:
        if isinstance(value, list | tuple):
            form: Form = tuple(value)
            sound = len(value) == 3 and all(type(part) is int and 0 <= part <= 255 for part in value)
        else:
            sound = isinstance(value, int | float) and not isinstance(value, bool)
            form = float(value) if sound else 0.0  # type: ignore[arg-type]  # a number
        if not sound:
            raise ArgumentError(
                f"{name} has {value!r}; expected numbers, such as [1, 2], or colors of three integers from 0 to 255, "
                "such as [[255, 0, 0]]"
            )
        if _among(form, forms):
            raise ArgumentError(f"{name} is {values} and repeats {value}. Write a color as [[255, 0, 0]].")
        forms.append(form)
    return tuple(forms)


def _among(form: Form, others: Sequence[Form]) -> bool:
    return any(form == other or (form != form and other != other) for other in others)  # NaN is NaN


def _shown(form: Form) -> str:
    return str(list(form)) if isinstance(form, tuple) else f"{form:.7g}"


@dataclass(frozen=True)
class Marks:
    """A mask as it was read.

    Attributes:
        labels: 1 where a pixel belongs to the mask, `IGNORED` where it counts nowhere, otherwise 0; uint8 (H, W).
        value: What was taken to belong to the mask, for comparing files, see `value_name`; `NONE` if nothing was. If
            the values were given, 1 where one occurs, and `OTHERS` where only others do that are not 0.
        histogram: The most frequent values and their shares, as text.
    """

    labels: NDArray[np.uint8]
    value: float
    histogram: str


NONE, OTHERS, WHITE, COLOR = float("nan"), -1.0, float("inf"), float(1 << 32)


def value_name(value: float) -> str:
    """Returns the name of the `value` of `Marks`: a gray value, `WHITE`, or `COLOR` plus 0xRRGGBB."""
    if value == WHITE:
        return "white"
    return str(_rgb(int(value - COLOR))) if value >= COLOR else _shown(value)


def _rgb(packed: int) -> list[int]:
    return [packed >> 16, packed >> 8 & 255, packed & 255]


class _Pixels:
    """Pixels of a file by value.

    Args:
        values: Gray values, indices of a palette, or colors 0xRRGGBB (H, W).
        kind: `bit`, `gray`, `palette` or `color`.
        lossy: Whether the format changes values.
        palette: Colors (256, 3) of a palette.

    Attributes:
        levels: Values that occur, ascending; NaN is last, once.
        counts: How many pixels have each.
    """

    def __init__(self, values: NDArray[Any], kind: str, lossy: bool, palette: NDArray[np.uint8] | None = None) -> None:
        self.values, self.kind, self.lossy, self.palette = values, kind, lossy, palette
        self.levels, self.counts = _levels(values)

    def color(self, level: Any) -> tuple[int, ...]:
        """Returns the color of a level; of grays beyond 8 bits there is none."""
        if self.palette is not None:
            return tuple(self.palette[int(level)].tolist())
        if self.kind == "color":
            return tuple(_rgb(int(level)))
        return (int(level),) * 3 if self.values.dtype == np.uint8 else ()

    def forms(self, level: Any) -> list[Form]:
        """Returns what may be given for a level; the first is its name in messages."""
        color = self.color(level)
        if self.kind == "color":
            return [color]
        return [float(level), *([color] if color else []), *([1.0] if self.kind == "bit" and level else [])]

    def matching(self, given: Sequence[Form]) -> NDArray[np.bool_]:
        """Returns which levels were given."""
        if not given:
            return np.zeros(len(self.levels), np.bool_)
        if self.values.dtype.kind == "f":
            numbers = np.array([form for form in given if not isinstance(form, tuple)])
            close = np.isclose(self.levels[:, None].astype(np.float64), numbers, TOLERANCE, 0.0, equal_nan=True)
            return np.asarray(close.any(axis=1))
        wanted = set(given)
        return np.array([not wanted.isdisjoint(self.forms(level)) for level in self.levels], np.bool_)

    def where(self, chosen: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Returns which pixels (H, W) have one of the chosen levels."""
        found = np.isin(self.values, self.levels[chosen])
        if self.values.dtype.kind == "f" and np.isnan(self.levels[chosen]).any():
            found |= np.isnan(self.values)
        return found

    def histogram(self) -> str:
        """Returns the most frequent values and their shares, as text."""
        most = sorted(np.argsort(-self.counts, kind="stable")[:SHOWN].tolist())
        texts = [f"{self._name(self.levels[row])}: {_percent(self.counts[row] / self.values.size)}" for row in most]
        more = len(self.levels) - len(most)
        return ", ".join(texts) + (f" and {more} more" if more else "")

    def _name(self, level: Any) -> str:
        name = _shown(self.forms(level)[0])
        return f"{name} {_shown(self.color(level))}" if self.kind == "palette" else name


def _percent(share: float) -> str:
    return f"{share:.2%}" if share < 0.01 else f"{share:.1%}"


def _levels(values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Returns the values that occur, ascending, and their counts."""
    if values.dtype != np.uint8:
        levels, counts = np.unique(values, return_counts=True)
        return levels, counts
    counts = np.bincount(values.ravel(), minlength=256)
    levels = np.flatnonzero(counts)
    return levels, counts[levels]


def read_mask(path: Path, least: int = 128) -> NDArray[np.bool_]:
    """Returns a mask (H, W) whose values have a certain meaning; see `read_marks`."""
    return np.asarray(read_marks(path, MaskValues(least=least)).labels == 1)


def read_marks(path: Path, values: MaskValues, turn: int | None = None) -> Marks:
    """Reads a mask file.

    Without given values, these are certain once ignored pixels are left out: one value, which is 0 or belongs to the
    mask; 0 and one other; dark and bright, maybe with soft or noisy edges, from `least` up; black and one other color.

    A JPEG changes values: its pixels have the nearest of the given values and black.

    Args:
        path: Any image file.
        values: What its values mean.
        turn: EXIF orientation to turn the mask by; None is its own.

    Raises:
        DataError: The file is missing, truncated or not an image, or what its values mean is not certain; the message
            has their histogram.
    """
    with opened(path) as picture:
        check_pixels(path, picture.height, picture.width)
        pixels = _pixels(path, picture, turn)
    marks = _decided(pixels, values) if values.positive is None else _given(path, pixels, values)
    if marks is None:
        others = [pixels.forms(level)[0] for level in pixels.levels if level != 0][:4]
        advice = (
            "Expected 0 and one other value, or black and white with soft edges. Set --data.mask_values to the values "
            f"that belong to the mask, such as [{', '.join(map(_shown, others[:1]))}], and --data.ignore_value to "
            "those that count nowhere, if any."
        )
        raise DataError(Problem(f"{path}: the meaning of its values is not certain ({pixels.histogram()}).", advice))
    return marks


def _pixels(path: Path, picture: Image.Image, turn: int | None) -> _Pixels:
    """Returns the pixels of an opened file, turned by an EXIF orientation, or by its own.

    Raises:
        DataError: It has one color and differs in transparency only.
    """
    own = orientation(picture)
    picture.load()
    done, wanted = own if picture.format == "TIFF" else 1, own if turn is None else turn  # Pillow has turned a TIFF
    lossy, upright = picture.format == "JPEG", picture
    if done != wanted:
        for each in ({6: 8, 8: 6}.get(done, done), wanted):
            upright = upright.transpose(TURNS[each]) if each in TURNS else upright
    if upright.mode == "1":
        return _Pixels(np.asarray(upright) * np.uint8(255), "bit", lossy)
    if upright.mode == "L" or upright.mode.startswith(("I", "F")):
        values = np.asarray(upright)
        return _Pixels(values.astype(values.dtype.newbyteorder("=")), "gray", lossy)
    if upright.mode == "P":
        palette = np.zeros((256, 3), np.uint8)
        given = np.array(upright.getpalette("RGB") or [], np.uint8).reshape(-1, 3)
        palette[: len(given)] = given
        return _Pixels(np.asarray(upright), "palette", lossy, palette)
    colors = np.asarray(upright.convert("RGB"))
    opacities = set(upright.getchannel("A").getextrema()) if "A" in upright.getbands() else set()
    if len(opacities) > 1 and (colors == colors[:1, :1]).all():
        raise DataError(f"{path} has one color and differs in transparency only; expected a mask of 0 and 255.")
    if (colors == colors[..., :1]).all():
        return _Pixels(np.ascontiguousarray(colors[..., 0]), "gray", lossy)
    return _Pixels(colors.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32), "color", lossy)


def _given(path: Path, pixels: _Pixels, given: MaskValues) -> Marks:
    """Returns a mask by its given values.

    Raises:
        DataError: A level has two meanings, or too many pixels of a JPEG have none.
    """
    positive = given.positive or ()
    if pixels.lossy:
        labels = _nearest(path, pixels, positive, given.ignored)
        return Marks(labels, 1.0 if (labels == 1).any() else NONE, pixels.histogram())
    marked, left = pixels.matching(positive), pixels.matching(given.ignored)
    if (marked & left).any():
        level = pixels.levels[marked & left][0]
        raise DataError(
            f"{path}: {' or '.join(map(_shown, pixels.forms(level)))} is one value in this file, but belongs to the "
            "mask by --data.mask_values and counts nowhere by --data.ignore_value. Give one of them."
        )
    labels = pixels.where(marked).astype(np.uint8)
    labels[pixels.where(left)] = IGNORED
    others = (pixels.levels[~marked & ~left] != 0).any()
    return Marks(labels, 1.0 if marked.any() else OTHERS if others else NONE, pixels.histogram())


def _nearest(path: Path, pixels: _Pixels, positive: Sequence[Form], ignored: Sequence[Form]) -> NDArray[np.uint8]:
    """Returns the labels of a JPEG's pixels: those of the nearest given value; 0 for black, unless that is given.

    Raises:
        DataError: Too many are far from all of them.
    """
    labeled = [(form, 1) for form in positive] + [(form, IGNORED) for form in ignored]
    anchors: dict[tuple[float, ...], int] = {(0, 0, 0): 0}
    anchors |= {form if isinstance(form, tuple) else (form,) * 3: label for form, label in labeled}
    colors = np.array([pixels.color(level) for level in pixels.levels], np.float64)
    distances = np.abs(colors[:, None] - np.array(list(anchors), np.float64)).max(axis=2)
    stray = pixels.counts[distances.min(axis=1) > FAR].sum() / pixels.values.size
    if stray > STRAY:
        raise DataError(
            f"{path} is a JPEG, whose values are not exact, and {stray:.1%} of its pixels are far from all given values"
            f" ({pixels.histogram()}). Give all values with --data.mask_values and --data.ignore_value, or write PNG."
        )
    labels = np.array(list(anchors.values()), np.uint8)[distances.argmin(axis=1)]
    return np.asarray(labels[np.searchsorted(pixels.levels, pixels.values)])


def _decided(pixels: _Pixels, given: MaskValues) -> Marks | None:
    """Returns a mask whose values have a certain meaning without being given, or None."""
    left = pixels.matching(given.ignored)
    ignored = pixels.where(left) if left.any() else None
    rest = pixels.levels[~left]
    if pixels.lossy and given.ignored and len(pixels.levels) > 2:
        return None  # its values are not exact
    if pixels.kind in ("bit", "gray"):
        found = _by_gray(pixels.values, ignored, rest, pixels.lossy, given.least)
    else:
        found = _by_color(pixels, ignored, rest, given.least)
    if found is None:
        return None
    labels = found[0].astype(np.uint8)
    if ignored is not None:
        labels[ignored] = IGNORED
    return Marks(labels, found[1], pixels.histogram())


Found: TypeAlias = tuple[NDArray[np.bool_], float] | None
"""A mask, and what was taken to belong to it, see `Marks`; None if that is not certain."""


def _by_color(pixels: _Pixels, ignored: NDArray[np.bool_] | None, rest: NDArray[Any], least: int) -> Found:
    """Returns a mask of a palette or of colors."""
    colors = [pixels.color(level) for level in rest[:257]]
    if pixels.kind == "palette" and len(set(colors)) < min(3, len(colors)):
        return None  # two indices that look the same
    if len(colors) <= 2 and any(len(set(color)) > 1 for color in colors):
        if len(colors) == 2 and (0, 0, 0) not in colors:
            return None
        chosen = np.array([color != (0, 0, 0) for color in colors])
        red, green, blue = colors[int(chosen.argmax())]
        marked = np.isin(pixels.values, rest[chosen])
        return marked, COLOR + (red << 16) + (green << 8) + blue
    if pixels.palette is not None:
        rgb = pixels.palette[pixels.values]
    else:
        rgb = np.stack([pixels.values >> shift & 255 for shift in (16, 8, 0)], axis=-1).astype(np.uint8)
    colored = rgb.max(axis=2) - rgb.min(axis=2) > 40
    if colored.mean() > 0.01:
        return None
    grays = np.asarray(Image.fromarray(rgb).convert("L"))
    levels = _levels(grays if ignored is None else grays[~ignored])[0]
    return _by_gray(grays, ignored, levels, pixels.lossy, least)


def _by_gray(
    values: NDArray[Any], ignored: NDArray[np.bool_] | None, levels: NDArray[Any], lossy: bool, least: int
) -> Found:
    """Returns a mask of gray values.

    Args:
        values: Gray values (H, W).
        ignored: Pixels to leave out of account (H, W).
        levels: Values of the other pixels, ascending.
        lossy: Whether the format changes values.
        least: See `MaskValues`.
    """
    if not len(levels):
        return np.zeros(values.shape, np.bool_), NONE
    high = float(levels[-1])
    if not (levels[0] >= 0 and high <= HIGHEST):  # NaN is the last level
        return None
    white = WHITE if high == {"uint8": 255, "uint16": 65535}.get(values.dtype.name) else high
    lowest = least if high <= 255 else 256 * least
    two = len(levels) == 2 and (levels[0] == 0 or (levels[0] <= DARK * high and high >= lowest))
    if len(levels) == 1 or two:
        return values == levels[-1] if high else np.zeros(values.shape, np.bool_), white if high else NONE
    if values.dtype.kind == "f" or high < lowest or not _is_soft(values, ignored, levels, lossy):
        return None
    marked = values >= lowest
    return marked if ignored is None else marked & ~ignored, WHITE


def _is_soft(values: NDArray[Any], ignored: NDArray[np.bool_] | None, levels: NDArray[Any], lossy: bool) -> bool:
    """Returns whether gray values are those of a dark and a bright part with soft or noisy edges, not labels."""
    counted = np.ones(values.shape, np.bool_) if ignored is None else ~ignored
    values, high = np.where(counted, values, 0).astype(np.uint16), float(levels[-1])
    dark, bright = counted & (values <= DARK * high), counted & (values >= BRIGHT * high)
    between = counted & ~dark & ~bright
    usual = [np.bincount(values[part]).argmax() for part in (dark, bright) if part.any()]
    others = counted & ~np.isin(values, usual)
    few = not lossy and len(levels) <= FEW
    rims = others if few else between
    near = np.ones((2 * REACH + 1,) * 2, np.uint8)
    for part in (dark, bright):
        rims = rims & cv2.dilate(part.view(np.uint8), near).view(np.bool_)
    box = np.ones((3, 3), np.uint8)
    flat = (cv2.erode(values, box) == cv2.dilate(values, box)) & (
        between if lossy else others
    )  # as areas of labels are
    return bool(
        (not few or len(levels) - len(usual) >= LEAST_RIMS)
        and np.count_nonzero(between) <= BETWEEN * np.count_nonzero(counted)
        and np.count_nonzero(rims) >= RIMS * np.count_nonzero(others if few else between)
        and np.count_nonzero(flat) <= FLAT * np.count_nonzero(others)
    )


class Certainty(IntEnum):
    """How certain it is by which EXIF orientation a mask has to be turned.

    `SURE` if mask and image agree, or a mask without orientation fits the turned image only; `FITS` if they differ, but
    their sizes fit in one way only; `ASSUMED` if the mask has none and fits both ways; `DIFFERS` if it has another than
    the image and fits both ways.
    """

    SURE = 0
    FITS = 1
    ASSUMED = 2
    DIFFERS = 3


def fitting_turn(path: Path, image: Path) -> tuple[int, Certainty]:
    """Returns the EXIF orientation by which a mask has to be turned to lie on its image, and how certain that is.

    Returns:
        The orientation and its certainty. If both fit, a mask without one is taken as drawn on the turned image.

    Raises:
        DataError: A file is not an image.
    """
    own, others = _orientation_of(path), _orientation_of(image)
    size = picture_size(image)
    fitting = [turn for turn in dict.fromkeys((own, others)) if turned_size(path, turn) == size]
    if own == others or not fitting:
        return own, Certainty.SURE
    if len(fitting) == 1:
        return fitting[0], Certainty.SURE if own == fitting[0] == 1 else Certainty.FITS
    return own, Certainty.ASSUMED if own == 1 else Certainty.DIFFERS


def turned_size(path: Path, turn: int) -> Size:
    """Returns the height and width of an image file if it is turned by this EXIF orientation instead of its own."""
    height, width = picture_size(path)
    return (height, width) if (turn in TURNED) == (_orientation_of(path) in TURNED) else (width, height)


def _orientation_of(path: Path) -> int:
    with opened(path) as picture:
        return orientation(picture)
