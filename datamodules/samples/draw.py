"""Draws textures and shapes for the synthetic samples, and writes each sample's folder once."""

import json
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ops.errors import ArgumentError, DataError

MARKER = "sample.json"
Image = NDArray[np.uint8]
Field = NDArray[np.float32]
Share = NDArray[np.floating] | NDArray[np.integer] | NDArray[np.bool_]  # in [0, 1]
Size = tuple[int, int]


def rgb(code: str) -> Field:
    """Returns the color of a code like `#4c8a3f` as sRGB (3,) in [0, 1]."""
    return np.array(list(bytes.fromhex(code[1:])), np.float32) / np.float32(255)


def grid(size: Size) -> tuple[Field, Field]:
    """Returns y and x of each pixel (H, W), both as shares of the height."""
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float32) / np.float32(size[0])
    return y, x


def noise(rng: np.random.Generator, size: Size, grain: float | tuple[float, float], octaves: int = 1) -> Field:
    """Returns smooth noise (H, W) with mean 0 and standard deviation 1.

    Args:
        rng: The source of randomness.
        size: Height and width in pixels.
        grain: Size of the lumps in pixels, or their height and width.
        octaves: Number of layers; each is twice as fine and half as strong as the one before.
    """
    lump = np.broadcast_to(grain, 2)
    field = np.zeros(size, np.float32)
    for octave in range(octaves):
        shape = np.maximum(2, np.round(2**octave * np.array(size) / lump)).astype(int)
        coarse = rng.standard_normal(shape, dtype=np.float32)
        field += cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC) / 2**octave
    field -= field.mean()
    field /= field.std()
    return field


def step(field: NDArray[np.floating], low: float, high: float) -> Field:
    """Returns 0 up to `low`, 1 from `high` on, and a linear ramp in between."""
    return ((field - low) / (high - low)).clip(0, 1).astype(np.float32)


def shade(dark: str, light: str, share: NDArray[np.floating]) -> Field:
    """Returns colors (H, W, 3) from `dark` where `share` (H, W) is 0 to `light` where it is 1."""
    return np.asarray(rgb(dark) + share.clip(0, 1)[..., None] * (rgb(light) - rgb(dark)), np.float32)


def lay(canvas: Field, cover: Share, color: Field) -> None:
    """Blends a color (3,) or an image (H, W, 3) into the canvas (H, W, 3) in place, with opacity `cover` (H, W)."""
    canvas += cover.clip(0, 1).astype(np.float32)[..., None] * (color - canvas)


def finished(canvas: NDArray[np.floating]) -> Image:
    """Returns the canvas, in [0, 1], as uint8."""
    return (255 * canvas).clip(0, 255).round().astype(np.uint8)


def dealt(rng: np.random.Generator, values: Iterable[int | str], count: int) -> list[int | str]:
    """Returns `count` of the values, repeated in turn and shuffled, so that small samples keep the shares too."""
    shuffled: list[int | str] = rng.permutation(np.resize(list(values), count)).tolist()
    return shuffled


def check_at_least(**arguments: tuple[int, int]) -> None:
    """Raises an ArgumentError if an argument, given as name=(value, minimum), is below its minimum."""
    for name, (value, least) in arguments.items():
        if value < least:
            raise ArgumentError(f"{name}={value}: expected {least} or more")


def draw_once(root: Path, fill: Callable[[Path], None], **arguments: str | int | Size) -> Path:
    """Fills a folder with a sample, unless it already holds the same one.

    Every `draw_<task>` ends here. The same arguments, the seed among them, give the same bytes; counts and sizes below
    their minimums raise an ArgumentError, see `check_at_least`.

    Args:
        root: Folder of the sample: missing, empty, or written before with the same arguments.
        fill: Writes the sample into the folder it gets, which is renamed to `root` at the end.
        arguments: Everything that determines the sample; stored in its `sample.json`.

    Returns:
        `root`.

    Raises:
        DataError: `root` has other content, which stays as it is.
    """
    home, marker = root.resolve(), json.dumps(arguments) + "\n"
    if _holds(home, marker):
        return root
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home.parent, prefix=f".{home.name}-") as folder:
        draft = Path(folder, home.name)
        draft.mkdir()
        fill(draft)
        Path(draft, MARKER).write_text(marker)
        try:
            draft.replace(home)
        except OSError:
            if not _holds(home, marker):  # otherwise another process has just drawn the same sample
                raise
    return root


def _holds(root: Path, marker: str) -> bool:
    """Returns whether `root` holds this sample (True) or nothing (False); raises a DataError for anything else."""
    path = root / MARKER
    if path.is_file() and path.read_text() == marker:
        return True
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    found = f"another sample, {path.read_text().strip()}" if path.is_file() else "other files"
    raise DataError(
        f"{root} holds {found}; expected an absent or empty folder, or the sample {marker.strip()}. Choose another "
        "folder or delete this one: existing files are never overwritten."
    )


def write_picture(path: Path, image: Image) -> None:
    """Writes an sRGB image (H, W, 3) or a gray one (H, W) in the format of the suffix, in new folders if needed."""
    options = [cv2.IMWRITE_JPEG_QUALITY, 90] if path.suffix == ".jpg" else []
    _, encoded = cv2.imencode(path.suffix, image[..., ::-1] if image.ndim == 3 else image, options)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded.tobytes())
