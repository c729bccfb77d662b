"""Output formats of segmented images: masks, overlays, run lengths and a page."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from callbacks.writers.format import Row, Table
from callbacks.writers.overview import Overview
from callbacks.writers.segmentation.mask_files import ReducedMask, mask_file
from callbacks.writers.segmentation.stitched import Stitched, StitchedFormat, Whole
from drawing.pictures import Picture, labelled, overlay, save_picture
from ops.errors import ArgumentError
from ops.files.names import safe_name, safe_path
from ops.masks.rle import encode


class MaskFiles(StitchedFormat):
    """Writes `masks/<class>/<path and stem>.png`, or `masks/<path and stem>.png` without class folders."""

    folders = ("masks",)

    def __init__(self, by_class: bool = True) -> None:
        self.by_class = by_class

    def write(self, image: Stitched, folder: Path) -> list[Row]:
        if not self.by_class and len(image.classes) > 1:
            raise ArgumentError(
                "Without class folders the masks of different classes would overwrite each other: expected one class, "
                f"got {image.classes}. Set folders to true."
            )
        for k, label in enumerate(image.classes):
            inner = folder / "masks" / (safe_name(label) if self.by_class else "")
            path = inner / safe_path(image.name, ".png")
            if isinstance(image.content, Whole):  # Pillow compresses better, but needs the whole mask
                save_picture(image.mask(k).view(np.uint8) * np.uint8(255), path)
                continue
            with mask_file(path, image.size) as append:
                for band in image.bands(k):
                    append(band)
        return []


class Overlays(StitchedFormat):
    """Writes `overlays/<path and stem>.jpg`."""

    folders = ("overlays",)

    def write(self, image: Stitched, folder: Path) -> list[Row]:
        save_picture(overlaid(image), folder / "overlays" / safe_path(image.name, ".jpg"))
        return []


class MaskOverview(StitchedFormat, Overview[Stitched]):
    """Writes `overview.html` of segmented images."""

    explanations: Mapping[str, str] = {
        "uncertainty": "mean of 4 p (1 - p) over all pixels, p their probability: 0 if the network is sure of every "
        "pixel, 1 if it is undecided everywhere",
        "marked %": "share of the image's pixels in any mask",
    }

    def view(self, image: Stitched) -> Picture:
        return overlaid(image, legend=len(image.classes) > 1)

    def values(self, image: Stitched) -> dict[str, float]:
        marked = sum(int(np.any(bands, axis=0).sum()) for bands in _together(image))
        return {"uncertainty": image.content.uncertainty, "marked %": 100 * marked / max(1, math.prod(image.size))}

    def note(self, image: Stitched) -> str:
        found = [label for k, label in enumerate(image.classes) if any(band.any() for band in image.bands(k))]
        if len(image.classes) == 1 and found:
            return ""  # the same on every card
        return ", ".join(found) or "nothing marked"

    def link(self, image: Stitched) -> str:
        return f"overlays/{safe_path(image.name, '.jpg')}"


def _together(image: Stitched) -> Iterator[tuple[NDArray[np.bool_], ...]]:
    """Yields bands of all classes at once, from the top."""
    return zip(*(image.bands(k) for k in range(len(image.classes))), strict=True)


class Submission(StitchedFormat, Table[Stitched]):
    """Writes `submission.csv`."""

    file = "submission.csv"
    columns = ("Image_Label", "EncodedPixels")

    def write(self, image: Stitched, folder: Path) -> Iterator[Row]:
        yield from runs(image)


def runs(image: Stitched) -> Iterator[list[str]]:
    """Yields a row of `submission.csv` for each class: `<name>_<class>` and its run lengths, see `ops.masks.rle`."""
    for k, label in enumerate(image.classes):
        yield [f"{image.name}_{label}", encode(image.mask(k))]  # runs go down columns: the whole mask is needed


def overlaid(image: Stitched, legend: bool = True) -> Picture:
    """Returns the image with masks tinted and outlined, at the size of its source, and a legend below."""
    reduced = []
    for k in range(len(image.classes)):
        reduced.append(ReducedMask(image.size, image.source.shape[:2]))
        for band in image.bands(k):
            reduced[k].add(band)
    drawn = overlay(image.source, np.stack([each.mask for each in reduced]))
    return drawn if not legend else labelled(drawn, image.classes, [each.present for each in reduced])
