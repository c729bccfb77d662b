"""Puts masks on the pixels of rasters, once: from mask files in any coordinate system, or from vector labels."""

import json
import os
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray

from datamodules.read.cache import cache_folder, cache_key
from datamodules.read.mask_files import IGNORED, MaskValues
from datamodules.read.masks import FolderMasks, label_planes
from datamodules.read.names import located, same_stems, stem, tree_names
from datamodules.read.rasters import Channels
from ops.atomic import in_words, temporary_folder
from ops.errors import DataError, collected, refuse
from ops.geo.ground import Ground, other_systems, transformed
from ops.geo.labels import VectorLabels, rasterized
from ops.geo.rasters import VRT, Georeference, created_raster, georeference_of, opened_raster, valid_pixels, windowed
from ops.progress import progress
from ops.windows import Size, cut

PIECES = "pieces.json"
VERSION = 2  # of the files made here


class RasterMasks:
    """Rasters in `images/` with masks on their pixels, and rasters cut into blocks if they are to be split by these.

    Masks and blocks are made once, into the cache. Pixels without data are ignored.

    Args:
        task: Task name, which starts the name of the folder in the cache.
        masks: Images and mask files; None takes vector labels.
        root: Folder that contains `images`.
        labels: Vector labels.
        channels: How rasters are read.
        block: Side in meters of the blocks that rasters are cut into; None leaves them whole.

    Attributes:
        groups: For each image a key that images of one block share; empty without blocks.

    Raises:
        DataError: Rasters, masks or labels are invalid; all problems are listed.
    """

    def __init__(
        self,
        task: str,
        root: Path,
        masks: FolderMasks | None,
        labels: VectorLabels | None,
        channels: Channels,
        block: float | None,
    ) -> None:
        self.root, self.folder, self.channels = root, root / "images", channels
        self.values = MaskValues(ignored=(float(IGNORED),))
        self.masks_of, self.vectors, self.block = masks, labels, block
        names = masks.names if masks is not None else tree_names(self.folder, (VRT,))
        paths = {name: located(self.folder, name) for name in names}
        self.problems = list(masks.problems) if masks is not None else same_stems(names)
        files = list(masks.files) if masks is not None else []
        if labels is not None:
            self.problems += collected(partial(labels.file, stem(name)) for name in names)
            files = list(dict.fromkeys(labels.file(stem(name)) for name in names)) if not self.problems else []
        recipe = [VERSION, block, labels.recipe() if labels else masks.values.recipe() if masks else [], sorted(names)]
        key = cache_key([*paths.values(), *files], recipe)
        made = cache_folder() / f"{task}-rasters-{key}"
        if not (made / PIECES).is_file() and not self.problems:
            self._make(made, paths)
        refuse(self.problems, str(root))
        pieces: dict[str, Any] = json.loads((made / PIECES).read_text(encoding="utf-8"))
        self.names = sorted(pieces)
        self.paths = {
            name: made / piece["image"] if piece["cut"] else located(self.folder, piece["image"])
            for name, piece in pieces.items()
        }
        self.masks_at = {name: [made / each for each in piece["masks"]] for name, piece in pieces.items()}
        self.files = [path for each in self.masks_at.values() for path in each]
        self.empty = {name for name, piece in pieces.items() if piece["empty"]}
        self.groups = {name: piece["group"] for name, piece in pieces.items()} if block is not None else {}

    def path(self, name: str) -> Path:
        """Returns the file of an image."""
        return self.paths[name]

    def files_of(self, name: str) -> list[Path | None]:
        """Returns the mask file of each class of an image."""
        return [*self.masks_at[name]]

    def labels(self, name: str) -> NDArray[np.uint8]:
        """Returns the mask (H, W) of the first class: 0, 1, or `IGNORED`."""
        return _read(self.masks_at[name][0])

    def masks(self, name: str, size: Size) -> NDArray[np.bool_]:
        """Returns the masks (K, H, W) of an image, resized to this height and width."""
        return self.planes(name, size)[:-1]

    def planes(self, name: str, size: Size) -> NDArray[np.bool_]:
        """Returns the masks of an image at this height and width, and the ignored pixels; see `label_planes`."""
        return label_planes([_read(path) for path in self.masks_at[name]], size, self.values)

    def misfit(self, name: str) -> str | None:
        """Returns why an image cannot be used, or None; masks were made on the pixels of their images."""
        return no_data(self.path(name)) if name in self.empty else None

    def drop(self, names: Collection[str]) -> None:
        """Removes images and their masks, as if they did not exist."""
        self.names = [name for name in self.names if name not in names]
        self.paths = {name: self.paths[name] for name in self.names}
        self.masks_at = {name: self.masks_at[name] for name in self.names}
        self.files = [path for each in self.masks_at.values() for path in each]

    def _make(self, folder: Path, paths: dict[str, Path]) -> None:
        """Fills the folder of the cache, which appears once it is complete.

        Raises:
            DataError: It cannot be written.
        """
        with temporary_folder(folder) as part:
            pieces = dict[str, Any]()
            self._origin: Ground | None = None  # of the grid of blocks
            self._moved: dict[tuple[Path, str, str], None] = {}  # vector files, their system and that of an image
            for name in progress(paths, f"putting masks on the images of {self.root}", len(paths)):
                self.problems += collected([partial(self._add, part, name, paths[name], pieces)])
            if self.problems:
                return
            for file, own, other in self._moved:
                rank_zero_info(f"{file} is in {own}, and was transformed to {other}, the system of its images.")
            (part / PIECES).write_text(json.dumps(pieces), encoding="utf-8")
            try:
                os.replace(part, folder)
            except OSError:  # another process was faster, or left it incomplete
                if not (folder / PIECES).is_file():
                    shutil.rmtree(folder, ignore_errors=True)
                    os.replace(part, folder)

    def _add(self, folder: Path, name: str, path: Path, pieces: dict[str, Any]) -> None:
        """Writes the masks of an image, and its blocks, and adds them to the pieces by name."""
        if not self.channels.reads(path):
            raise DataError(
                f"{path} has no position on the ground, but others have, or labels or blocks need it. Expected GeoTIFF "
                "or VRT."
            )
        with opened_raster(path) as raster:
            reference = georeference_of(raster, path)
            if reference is None and (self.vectors is not None or self.block is not None):
                raise DataError(
                    f"{path} has no coordinate reference system or no position. Assign them first (gdal_edit, or rio "
                    "edit-info), or leave out --data.labels and --data.split_by block."
                )
            sources = self._sources(name, reference, (raster.height, raster.width))
            before = len(pieces)
            for row, column, (top, bottom, left, right) in self._blocks(reference, raster):
                piece = f"{stem(name)}_r{row}_c{column}.tif" if self.block is not None else name
                window, size = windowed(top, bottom, left, right), (bottom - top, right - left)
                masks = []
                empty = ~valid_pixels(raster, window)
                if empty.all() and self.block is not None:
                    continue  # the margin of a rotated scene
                for k, source in enumerate(sources):
                    mask = f"masks/{k}/{stem(piece)}.tif"
                    levels = np.where(empty, np.uint8(IGNORED), source((top, left), size).astype(np.uint8))
                    with _written(folder / mask, size, 1) as file:
                        file.write(levels, 1)
                    masks.append(mask)
                image = name
                if self.block is not None:
                    image = f"images/{piece}"
                    _cut(raster, window, folder / image)
                group = self._group(reference, (top + bottom) / 2, (left + right) / 2)
                about = {"image": image, "cut": self.block is not None, "masks": masks, "group": group}
                pieces[piece] = about | {"empty": bool(empty.all())}
            if len(pieces) == before:
                raise DataError(no_data(path))

    def _sources(self, name: str, reference: Georeference | None, size: Size) -> list[Callable[[Size, Size], Any]]:
        """Returns for each class what gives the labels of a window of an image by its origin and size."""
        if self.vectors is not None:
            assert reference is not None
            file, system = self.vectors.file(stem(name)), self.vectors.system(stem(name))
            if systems := other_systems(system, reference.crs):
                self._moved[file, *systems] = None
            return [partial(rasterized, shapes) for shapes in self.vectors.shapes(stem(name), reference)]
        assert self.masks_of is not None
        files = self.masks_of.files_of(name)
        return [partial(cut, _on_pixels(self.masks_of, path, name, reference, size)) for path in files]

    def _blocks(self, reference: Georeference | None, raster: Any) -> list[tuple[int, int, tuple[int, int, int, int]]]:
        """Returns row, column and (top, bottom, left, right) of the blocks of a raster; one without `block`."""
        counts = [1, 1]
        if self.block is not None:
            assert reference is not None
            side = float(np.sqrt(reference.pixel_areas(np.array([raster.height // 2]))[0]))
            counts = [max(1, round(length * side / self.block)) for length in (raster.height, raster.width)]
        rows, columns = (
            np.linspace(0, length, count + 1).round().astype(int).tolist()
            for length, count in zip((raster.height, raster.width), counts, strict=True)
        )
        return [
            (row, column, (rows[row], rows[row + 1], columns[column], columns[column + 1]))
            for row in range(counts[0])
            for column in range(counts[1])
        ]

    def _group(self, reference: Georeference | None, row: float, column: float) -> str:
        """Returns the cell of the grid of blocks that a point of an image lies in."""
        if reference is None or self.block is None:
            return ""
        self._origin = self._origin or reference.ground
        point = transformed(reference.projected(np.array([[column, row]])), reference.crs, self._origin.plane)[0]
        return ",".join(str(int(each // self.block)) for each in point)


def no_data(path: Path) -> str:
    """Returns the message about a raster without data."""
    return (
        f"{path} has no data: all of its pixels have its nodata value, or are transparent. Remove it, or correct its "
        "nodata value (gdal_edit -unsetnodata, or rio edit-info)."
    )


def _read(path: Path) -> NDArray[np.uint8]:
    with opened_raster(path) as raster:
        return np.asarray(raster.read(1))


def _on_pixels(
    masks: FolderMasks, path: Path | None, name: str, reference: Georeference | None, size: Size
) -> NDArray[np.uint8]:
    """Returns the labels (H, W) of a mask file on the pixels of its image: moved there if both have a place.

    Raises:
        DataError: The mask cannot be read, lies elsewhere, or has no place and another size.
    """
    from rasterio import Affine
    from rasterio.warp import Resampling, reproject

    if path is None:
        return np.zeros(size, np.uint8)
    labels = masks.read(path, name).labels
    own = None
    if masks.channels.reads(path):
        with opened_raster(path) as raster:
            own = georeference_of(raster, path)
    if own is None or reference is None:
        if labels.shape != size:
            raise DataError(
                f"{path} is {labels.shape[0]} x {labels.shape[1]} pixels (height x width), but its image {name} is "
                f"{size[0]} x {size[1]}, and one of them has no position. A mask must be as large as its image."
            )
        return labels
    corners = np.array([[0.0, 0.0], [size[1], size[0]], [size[1], 0.0]])
    same = own.crs == reference.crs and labels.shape == size
    if same and np.allclose(own.pixels(reference.projected(corners)), corners, atol=0.01):
        return labels
    moved = np.full(size, np.uint8(IGNORED + 1))
    transforms = {"src_transform": Affine(*own.transform), "dst_transform": Affine(*reference.transform)}
    systems = {"src_crs": own.crs, "dst_crs": reference.crs}
    outside = {"src_nodata": IGNORED + 1, "dst_nodata": IGNORED + 1, "resampling": Resampling.nearest}
    reproject(labels, moved, **transforms, **systems, **outside)
    if (moved > IGNORED).all():
        raise DataError(f"{path} does not overlap its image {name}. Remove them, or correct their positions.")
    rank_zero_info(f"{path} lies on other pixels than its image {name}, and was moved to them (nearest pixel).")
    return np.where(moved > IGNORED, np.uint8(IGNORED), moved)


@contextmanager
def _written(path: Path, size: Size, count: int, **options: Any) -> Iterator[Any]:
    """Creates a raster in the cache, and its folder; see `created_raster`.

    Raises:
        DataError: It cannot be written.
    """
    from rasterio.errors import RasterioError

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with created_raster(path, size, count, **options) as file:
            yield file
    except (RasterioError, OSError) as error:
        cause = in_words(error) if isinstance(error, OSError) else str(error)
        raise DataError(
            f"The cache cannot be written: {path}: {cause}. Free some space, or set BELVEDERE_CACHE."
        ) from error


def _cut(raster: Any, window: Any, path: Path) -> None:
    """Writes a window of an open raster, all bands, as a GeoTIFF of its own."""
    kind = np.result_type(*raster.dtypes).name  # of a VRT, bands may differ
    options = {"dtype": kind, "crs": raster.crs, "transform": raster.window_transform(window)}
    options |= {"nodata": raster.nodata, "tiled": True}
    levels, empty = raster.read(window=window).astype(kind, copy=False), ~valid_pixels(raster, window)
    with _written(path, (window.height, window.width), raster.count, **options) as file:
        file.write(levels)
        if raster.nodata is None and "alpha" not in {each.name for each in raster.colorinterp} and empty.any():
            file.write_mask(~empty)
        file.colorinterp = raster.colorinterp
        file.descriptions = raster.descriptions
        if raster.colorinterp[0].name == "palette":
            file.write_colormap(1, raster.colormap(1))
