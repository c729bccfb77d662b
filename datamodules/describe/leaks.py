"""Finds images of one split that another split shows too, so that its metrics measure memorization."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from numpy.typing import NDArray

from datamodules.base import SPLITS, ImageDataModule
from datamodules.describe.study import Panel, Study
from datamodules.read.cache import core_count
from datamodules.read.pictures import fitted, resized
from ops.duplicates import Thumbnails, same, thumbnails
from ops.errors import DataError, listed
from ops.extras import installed
from ops.files.images import opened
from ops.geo.rasters import georeference, is_raster
from ops.progress import progress

if TYPE_CHECKING:
    import pandas as pd

SIDE = 128  # pixels at which images are compared
SECONDS = 10  # between two shots of a burst
OVERLAP = 0.01  # share of the smaller raster from which two overlap
ALIKE = 0.7  # least cosine of the vectors of frozen networks; unrelated tiles of one flight reach .67
MOST = 20_000  # images that are compared
ENLARGED = 3  # times, in the panel, whose rows have long names
SHOWN = 10  # pairs in the warning and in the panel
CAMERA, TAKEN = (0x010F, 0x0110), 0x9003  # EXIF: make and model; when the photograph was taken
VIEWS = ("", "turned by 90°", "turned by 180°", "turned by 270°", "mirrored", "mirrored, turned by 90°",
         "mirrored, turned by 180°", "mirrored, turned by 270°")  # fmt: skip
Box = tuple[float, float, float, float]
Looks = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Maps images (N, S, S, 3) to vectors (N, V) of what a frozen network sees."""


class Leak(NamedTuple):
    """Two images of different splits that belong together.

    Attributes:
        name: One image.
        split: Its split.
        other: The other image.
        other_split: Its split.
        why: What they share.
    """

    name: str
    split: str
    other: str
    other_split: str
    why: str


@dataclass(frozen=True)
class Seen:
    """What is compared of an image.

    Attributes:
        pixels: The image, reduced.
        digest: Of its file.
        shot: Camera and time of the photograph, if known.
        ground: CRS and left, bottom, right and top of a raster, if known.
    """

    pixels: NDArray[np.uint8]
    digest: bytes
    shot: tuple[str, datetime] | None
    ground: tuple[str, Box] | None


def add_leaks(study: Study, data: ImageDataModule, looks: Looks | None = None) -> None:
    """Adds the table and the panel `leaks` to what describes a dataset, and warns, if splits share what they show.

    Compared are the images of different splits: equal files; the same picture, however resized, recompressed, mirrored
    or turned (see `ops.duplicates`; crops by more than a few percent are not found); photographs that one camera took
    within seconds; works of one artist; rasters that overlap on the ground; with `looks` also images that look alike to
    a frozen network, such as crops and other photographs of one place.

    Args:
        study: Its table `pictures` has the columns `name`, `split` and maybe `artist`.
        data: The dataset.
        looks: Maps images to vectors.
    """
    import pandas as pd

    table = study.tables["pictures"]
    table = table[table["split"].isin(SPLITS)]
    if table["split"].nunique() < 2:
        return
    if len(table) > MOST:
        rank_zero_info(f"{len(table)} images are more than {MOST:,}: their splits are not compared for duplicates.")
        return
    seen = _all_seen(data, table["name"].tolist())
    leaks = list(found_leaks(table, seen, looks))
    if not leaks:
        return
    study.tables["leaks"] = pd.DataFrame(leaks, columns=Leak._fields)
    shown = [leak for leak in leaks if leak.name in seen and leak.other in seen][:SHOWN]
    study.panels["leaks"] = _panel(shown, seen)
    lines = [f"{_told(leak)}." for leak in leaks]
    rank_zero_warn(
        f"{data.root}: {len(leaks)} pairs of images belong together, but lie in different splits, so metrics measure "
        f"memorization too. Put each pair into one split by a splits.csv (columns name,split).\n"
        f"{listed(lines, SHOWN, ', see leaks.csv')}"
    )


def found_leaks(table: "pd.DataFrame", seen: Mapping[str, Seen], looks: Looks | None = None) -> Iterator[Leak]:
    """Yields the images of different splits that belong together, each pair once.

    Args:
        table: Columns `name`, `split` and maybe `artist`.
        seen: What is known of each image.
        looks: Maps images to vectors, if those are to be compared too.
    """
    names = {split: [name for name in table.loc[table["split"] == split, "name"] if name in seen] for split in SPLITS}
    reduced = {split: thumbnails([seen[name].pixels for name in each]) for split, each in names.items() if each}
    artists, vectors = _artists(table), {} if looks is None else _vectors(seen, looks)
    for left, right in combinations(reduced, 2):
        why: dict[tuple[str, str], str] = {}
        for pair in _pairs(names[left], names[right], seen):
            why.setdefault(pair[:2], pair[2])
        for found in _alike(reduced[left], reduced[right], names[left], names[right]):
            why.setdefault(found[:2], found[2])
        for found in _similar(names[left], names[right], vectors):
            why.setdefault(found[:2], found[2])
        for (name, other), reason in sorted(why.items()):
            yield Leak(name, left, other, right, reason)
        for artist in sorted(artists[left].keys() & artists[right].keys()):
            yield Leak(artists[left][artist], left, artists[right][artist], right, f"same artist, {artist}")


def _pairs(left: Sequence[str], right: Sequence[str], seen: Mapping[str, Seen]) -> Iterator[tuple[str, str, str]]:
    """Yields the pairs that files and their headers tell, and why."""
    by_digest: dict[bytes, list[str]] = {}
    by_camera: dict[str, list[str]] = {}
    by_crs: dict[str, list[str]] = {}
    for name in right:
        one = seen[name]
        by_digest.setdefault(one.digest, []).append(name)
        if one.shot:
            by_camera.setdefault(one.shot[0], []).append(name)
        if one.ground:
            by_crs.setdefault(one.ground[0], []).append(name)
    for name in left:
        one = seen[name]
        yield from ((name, other, "equal files") for other in by_digest.get(one.digest, ()))
        for other in by_camera.get(one.shot[0], ()) if one.shot else ():
            assert one.shot is not None
            gap = abs((one.shot[1] - seen[other].shot[1]).total_seconds())  # type: ignore[index]  # it has one
            if gap <= SECONDS:
                yield name, other, f"taken by one camera within {gap:.0f} s"
        for other in by_crs.get(one.ground[0], ()) if one.ground else ():
            share = _overlap(one.ground[1], seen[other].ground[1])  # type: ignore[index]  # both have one
            if share >= OVERLAP:
                yield name, other, f"overlap on the ground by {share:.0%}"


def _alike(
    left: Thumbnails, right: Thumbnails, names: Sequence[str], others: Sequence[str]
) -> Iterator[tuple[str, str, str]]:
    for pair in same(left, right):
        view = f", {VIEWS[pair.view]}" if pair.view else ""
        yield names[pair.left], others[pair.right], f"the same picture{view} (similarity {pair.similarity:.2f})"


def _vectors(seen: Mapping[str, Seen], looks: Looks) -> dict[str, NDArray[np.float32]]:
    """Returns a vector of length 1 for each image: how it differs from the mean of all, which a dataset shares."""
    squares = np.stack([cv2.resize(one.pixels, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for one in seen.values()])
    vectors = looks(squares)
    vectors -= vectors.mean(axis=0)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    return dict(zip(seen, vectors, strict=True))


def _similar(
    left: Sequence[str], right: Sequence[str], vectors: Mapping[str, NDArray[np.float32]]
) -> Iterator[tuple[str, str, str]]:
    """Yields each image of one split with the one of the other that looks most like it, if they look alike."""
    if not vectors or not left or not right:
        return
    others = np.stack([vectors[name] for name in right])
    for name in left:
        cosines = others @ vectors[name]
        best = int(cosines.argmax())
        if cosines[best] >= ALIKE:
            yield name, right[best], f"alike to a frozen network (cosine {cosines[best]:.2f})"


def _artists(table: "pd.DataFrame") -> dict[str, dict[str, str]]:
    """Returns the first image of each artist, by split and artist."""
    found: dict[str, dict[str, str]] = {split: {} for split in SPLITS}
    if "artist" in table.columns:
        for name, split, artist in table[["name", "split", "artist"]].itertuples(index=False):
            plain = " ".join(str(artist).split()).casefold()
            if plain:
                found[split].setdefault(plain, name)
    return found


def _overlap(one: Box, other: Box) -> float:
    """Returns the area that two boxes share, as a share of the smaller one."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return max(0.0, width) * max(0.0, height) / smaller if smaller > 0 else 0.0


def _all_seen(data: ImageDataModule, names: Sequence[str]) -> dict[str, Seen]:
    """Returns what is compared of each image; those that cannot be read are left out."""

    def look(name: str) -> Seen | None:
        path = data.picture_file(name)
        try:
            pixels = data.picture(name, SIDE)
            return None if path is None or pixels is None else _seen(path, pixels)
        except (DataError, OSError):
            return None

    with ThreadPoolExecutor(core_count()) as pool:
        found = list(progress(pool.map(look, names), "comparing splits", len(names)))
    return {name: one for name, one in zip(names, found, strict=True) if one is not None}


def _seen(path: Path, pixels: NDArray[np.uint8]) -> Seen:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").digest()
    raster = is_raster(path) and installed("rasterio")
    reference = georeference(path) if raster else None
    ground = None
    if reference is not None:
        rows, columns = reference.size
        corners = reference.projected(np.array([[0, 0], [columns, 0], [columns, rows], [0, rows]], np.float64))
        (left, bottom), (right, top) = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
        ground = reference.crs, (left, bottom, right, top)
    small = resized(pixels, fitted((pixels.shape[0], pixels.shape[1]), SIDE))
    return Seen(small, digest, None if raster else _shot(path), ground)


def _shot(path: Path) -> tuple[str, datetime] | None:
    """Returns camera and time of a photograph; None if its EXIF does not tell both."""
    try:
        with opened(path) as picture:
            exif = picture.getexif()
            taken = exif.get_ifd(0x8769).get(TAKEN)
            camera = " ".join(str(exif.get(tag, "")).strip("\0 ") for tag in CAMERA).strip()
        return (camera, datetime.strptime(str(taken).strip("\0 "), "%Y:%m:%d %H:%M:%S")) if camera else None
    except MemoryError:
        raise
    except Exception:  # broken EXIF makes the parser raise anything
        return None


def _panel(leaks: Sequence[Leak], seen: Mapping[str, Seen]) -> Panel:
    return Panel(
        titles=["one split", "another split"],
        rows=[[_enlarged(seen[name].pixels) for name in (leak.name, leak.other)] for leak in leaks],
        names=[_told(leak) for leak in leaks],
    )


def _enlarged(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = pixels.shape[:2]
    return resized(pixels, (ENLARGED * height, ENLARGED * width))


def _told(leak: Leak) -> str:
    return f"{leak.name} ({leak.split}) and {leak.other} ({leak.other_split}): {leak.why}"
