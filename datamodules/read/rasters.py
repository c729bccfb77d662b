"""Reads the bands of rasters as images of 8 bits per channel, a few rows at a time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ops.errors import ArgumentError, DataError, nearest
from ops.files.images import check_pixels
from ops.geo.rasters import TIFF, is_raster, named, opened_raster, strips, valid_pixels, windowed
from ops.windows import Size

Range: TypeAlias = tuple[float, float]
Scale: TypeAlias = Literal["dtype", "percentiles"] | Sequence[float] | Sequence[Sequence[float]]
Pixels: TypeAlias = NDArray[np.uint8]
PERCENTILES = (2.0, 98.0)
SAMPLED = 512  # pixels of the longer side that percentiles are measured on


@dataclass(frozen=True)
class Channels:
    """What becomes of the bands of rasters: the channels of images, and the values from 0 to 255.

    Attributes:
        bands: Numbers from 1 on, or names, of the bands to read; None reads red, green and blue, or a single band.
        scale: Lowest and highest value of all bands, or of each, which become 0 and 255; `dtype`, 0 and the largest
            value of the data type; `percentiles`, to be fitted first; None accepts 8 bits only.
    """

    bands: tuple[int | str, ...] | None = None
    scale: tuple[Range, ...] | Literal["dtype", "percentiles"] | None = None

    @property
    def count(self) -> int:
        """Number of channels: a single band fills three, as gray images do."""
        return 3 if self.bands is None or len(self.bands) == 1 else len(self.bands)

    @property
    def unscaled(self) -> "Channels":
        """The same with a scale that is known already, to find out whether files can be read."""
        return replace(self, scale="dtype") if self.scale == "percentiles" else self

    def reads(self, path: Path) -> bool:
        """Returns whether a file is read by its bands; otherwise it is a plain image."""
        return is_raster(path) or (self != COLOR and path.suffix.lower() in TIFF)

    def recipe(self) -> list[Any]:
        """Returns what identifies the channels in the key of a cache; nothing for those of plain images."""
        return [] if self == COLOR else [self.bands, self.scale]

    def check(self, path: Path) -> None:
        """Rejects a plain image that has no such channels.

        Raises:
            DataError: `bands` asks for others than red, green and blue.
        """
        if self.count != 3:
            raise DataError(f"{path} has red, green and blue only; expected the bands {list(self.bands or ())}.")


COLOR = Channels()


def channels_of(bands: Sequence[int | str] | None, scale: Scale | None) -> Channels:
    """Returns the channels that options describe.

    Raises:
        ArgumentError: They are invalid.
    """
    if bands is not None and not (
        bands and all(isinstance(band, str) or band >= 1 for band in bands) and len(set(bands)) == len(bands)
    ):
        raise ArgumentError(f"bands is {list(bands)}; expected different numbers from 1 on, or names, of bands")
    chosen = None if bands is None else tuple(bands)
    if scale is None or isinstance(scale, str):
        if scale not in (None, "dtype", "percentiles"):
            raise ArgumentError(f"scale is {scale!r}; expected dtype, percentiles or [low, high]")
        return Channels(chosen, scale)
    pairs: list[Any] = [scale] if scale and not isinstance(scale[0], Sequence) else list(scale)
    ranges = tuple(tuple(map(float, pair)) for pair in pairs)
    if not ranges or not all(len(pair) == 2 and pair[0] < pair[1] for pair in ranges):
        raise ArgumentError(f"scale is {scale}; expected dtype, percentiles, [low, high] or one such pair per band")
    counts = {1, 3} if chosen is None else {1, len(chosen)}
    if len(ranges) not in counts:
        raise ArgumentError(f"scale has {len(ranges)} pairs; expected one, or one per band")
    return Channels(chosen, tuple((low, high) for low, high in ranges))


def raster_bands(path: Path, channels: Channels, first: int = 0) -> Iterator[Pixels]:
    """Yields the rows of a raster from row `first` on, some (n, W, C + 1) at a time.

    The last channel is 255 where there are data; elsewhere all channels are 0.

    Raises:
        DataError: The raster cannot be read, has no such bands, or values of more than 8 bits without a scale.
    """
    with opened_raster(path) as dataset:
        read = _Reader(dataset, path, channels)
        row_bytes = dataset.width * (
            len(read.indexes) * np.dtype(dataset.dtypes[0]).itemsize + 4 * (channels.count + 2)
        )
        for top, bottom in strips(dataset.shape, dataset.block_shapes[0][0], row_bytes):
            if bottom > first:
                begin = max(top, first)
                yield read.window(windowed(begin, bottom, 0, dataset.width), (bottom - begin, dataset.width))


def read_raster(path: Path, channels: Channels, at_least: Size | None = None) -> Pixels:
    """Returns a raster (H, W, C + 1), or the smallest of its halvings that is no smaller than `at_least`.

    Raises:
        DataError: See `raster_bands`; or it has too many pixels.
    """
    with opened_raster(path) as dataset:
        size: Size = dataset.shape
        while at_least is not None and size[0] // 2 >= at_least[0] and size[1] // 2 >= at_least[1]:
            size = size[0] // 2, size[1] // 2
        check_pixels(path, *size)
        read = _Reader(dataset, path, channels)
        return read.window(windowed(0, dataset.height, 0, dataset.width), size)


def shown(pixels: Pixels) -> Pixels:
    """Returns the channels (…, 3) of an image (…, C) that people see: the first three, or the first as gray."""
    return pixels[..., :3] if pixels.shape[-1] >= 3 else pixels[..., :1].repeat(3, axis=-1)


class _Reader:
    """Reads windows of an open raster.

    Args:
        dataset: The raster.
        path: Its file, for messages.
        channels: What to read.
    """

    def __init__(self, dataset: Any, path: Path, channels: Channels) -> None:
        self.dataset, self.count = dataset, channels.count
        self.indexes = _indexes(dataset, path, channels)
        kinds = [dataset.dtypes[index - 1] for index in self.indexes]
        palette = dataset.colorinterp[0].name == "palette" and kinds == ["uint8"]
        self.colors = _colors(dataset) if palette and channels == COLOR else None
        self.ranges = _ranges(path, kinds, channels)

    def window(self, window: Any, size: Size) -> Pixels:
        """Returns a rasterio window, reduced to this height and width by area means, (h, w, C + 1)."""
        from rasterio.enums import Resampling

        valid = valid_pixels(self.dataset, window, size)
        pixels = np.empty((*size, self.count + 1), np.uint8)
        how = Resampling.nearest if self.colors is not None else Resampling.average
        for channel, (index, (low, high)) in enumerate(zip(self.indexes, self.ranges, strict=True)):
            values = self.dataset.read(index, window=window, out_shape=size, resampling=how)
            if values.dtype.kind == "f":
                valid &= np.isfinite(values)
            if values.dtype == np.uint8 and (low, high) == (0, 255):
                pixels[..., channel] = values
                continue
            levels = np.where(valid, values, low).astype(np.float32)
            pixels[..., channel] = np.rint(((levels - low) * np.float32(255 / (high - low))).clip(0, 255))
        if self.colors is not None:
            pixels[..., :3] = self.colors[pixels[..., 0]]
        elif len(self.indexes) == 1:
            pixels[..., 1:-1] = pixels[..., :1]
        pixels[..., -1] = np.uint8(255) * valid
        if not valid.all():
            pixels[~valid] = 0
        return pixels


def _indexes(dataset: Any, path: Path, channels: Channels) -> list[int]:
    """Returns the numbers of the bands to read.

    Raises:
        DataError: The raster has no such bands, or it is not clear which to read.
    """
    names = named(dataset)
    listed = ", ".join(f"{number} {name}" for number, name in enumerate(names, 1))
    if channels.bands is None:
        plain = [number for number, name in enumerate(names, 1) if name != "alpha"]
        colors = [names.index(color) + 1 for color in ("red", "green", "blue") if color in names]
        if len(colors) == 3 or len(plain) in (1, 3):
            return colors if len(colors) == 3 else plain
        raise DataError(
            f"{path} has {len(names)} bands ({listed}), and it is not clear which are red, green and blue. Choose them "
            "with --data.bands, such as '[1,2,3]'."
        )
    found = []
    for band in channels.bands:
        if isinstance(band, str) and band.lower() in names:
            found.append(names.index(band.lower()) + 1)
        elif isinstance(band, int) and band <= len(names):
            found.append(band)
        else:
            hint = nearest(str(band), names) if isinstance(band, str) else ""
            raise DataError(f"{path} has no band {band!r}; it has {listed}. Correct --data.bands.{hint}")
    return found


def _ranges(path: Path, kinds: Sequence[str], channels: Channels) -> list[Range]:
    """Returns which values become 0 and 255 in each band, from the type of each.

    Raises:
        DataError: Values are complex, or it is not known.
    """
    if any(np.dtype(kind).kind == "c" for kind in kinds):
        raise DataError(f"{path} has complex numbers; expected integers or floating-point numbers.")
    count = len(kinds)
    if isinstance(channels.scale, tuple):
        if len(channels.scale) not in (1, count):
            raise DataError(f"{path} has {count} bands to read, but --data.scale is of {len(channels.scale)}.")
        return list(channels.scale) * count if len(channels.scale) == 1 else list(channels.scale)
    if set(kinds) == {"uint8"} and channels.scale != "percentiles":
        return [(0.0, 255.0)] * count
    if channels.scale != "dtype":
        raise DataError(
            f"{path} has values of the type {', '.join(sorted(set(kinds)))}; expected 8 bits, or --data.scale "
            "'[low,high]', the values that become black and white (dtype takes the whole range of the type; "
            "percentiles fits them to the training images)."
        )
    return [(0.0, 1.0 if np.dtype(kind).kind == "f" else float(np.iinfo(kind).max)) for kind in kinds]


def _colors(dataset: Any) -> NDArray[np.uint8]:
    """Returns the colors (256, 3) of a palette."""
    colors = np.zeros((256, 3), np.uint8)
    for index, color in dataset.colormap(1).items():
        colors[index] = color[:3]
    return colors


def fitted_scale(channels: Channels, paths: Sequence[Path]) -> Channels:
    """Returns channels whose scale is the 2nd and 98th percentile of each band over rasters.

    Of each raster at most 512 x 512 pixels count.

    Args:
        channels: With the scale `percentiles`.
        paths: The rasters.

    Raises:
        DataError: There is no raster, or one cannot be read or has another number of bands, or there are no values, or
            they are all equal.
    """
    if not paths:
        raise DataError(
            "--data.scale percentiles fits the values of rasters (GeoTIFF, VRT), but no training image is one. Leave "
            "it out."
        )
    values: list[list[NDArray[Any]]] = []
    for path in paths:
        with opened_raster(path) as dataset:
            indexes = _indexes(dataset, path, channels)
            factor = max(1, max(dataset.shape) / SAMPLED)
            size = max(1, int(dataset.height / factor)), max(1, int(dataset.width / factor))
            bands = dataset.read(indexes, out_shape=(len(indexes), *size))
            valid = valid_pixels(dataset, None, size)
        values = values or [[] for _ in indexes]
        if len(indexes) != len(values):
            raise DataError(
                f"{path} has {len(indexes)} bands to read, but {paths[0]} has {len(values)}. Choose the same bands of "
                "all with --data.bands, such as '[1]'."
            )
        for band, found in zip(bands, values, strict=True):
            found.append(band[valid & np.isfinite(band)])
    ranges = []
    for found in values:
        pooled = np.concatenate(found)
        low, high = np.percentile(pooled, PERCENTILES) if len(pooled) else (0.0, 0.0)
        if not low < high:
            raise DataError(
                f"The values of a band of the training images do not vary between their {PERCENTILES[0]:g}th and "
                f"{PERCENTILES[1]:g}th percentile (both {low:g}). Give --data.scale '[low,high]' or other --data.bands."
            )
        ranges.append((float(low), float(high)))
    return replace(channels, scale=tuple(ranges))
