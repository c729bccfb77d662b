"""What tests of maps share: rasters with a place on the ground."""

from pathlib import Path
from typing import Any

import rasterio
from numpy.typing import NDArray

UTM = rasterio.Affine(0.5, 0, 400_000, 0, -0.5, 5_200_000)
DEGREES = rasterio.Affine(2e-5, 0, 11.3, 0, -2e-5, 47.2)
ROTATED = UTM @ rasterio.Affine.rotation(30) @ rasterio.Affine.scale(1, 2)


def write(path: Path, values: NDArray[Any], **options: Any) -> Path:
    """Writes bands (K, H, W)."""
    count, height, width = values.shape
    shape = {"count": count, "height": height, "width": width, "dtype": values.dtype}
    with rasterio.open(path, "w", driver="GTiff", **shape, **options) as raster:
        raster.write(values)
    return path
