"""Writes each sample's folder once, whole or not at all, and the images in it."""

import json
from collections.abc import Callable, Iterable
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import Concatenate, ParamSpec

import cv2
import numpy as np

from datamodules.samples.draw import Image
from ops.atomic import replacing_folder
from ops.errors import ArgumentError, DataError

MARKER = "sample.json"
P = ParamSpec("P")


def dealt(rng: np.random.Generator, values: Iterable[int | str], count: int) -> list[int | str]:
    """Returns `count` of the values, repeated in turn and shuffled, so that small samples keep the shares too."""
    shuffled: list[int | str] = rng.permutation(np.resize(list(values), count)).tolist()
    return shuffled


def sample(**least: int) -> Callable[[Callable[Concatenate[Path, P], None]], Callable[Concatenate[Path, P], Path]]:
    """Decorates a `draw_<task>` that fills a folder: it fills it once, whole or not at all, and returns it.

    The folder must be missing, empty, or filled before with the same arguments, which its `sample.json` lists: the same
    arguments, the seed among them, give the same bytes. Other content stays as it is, and raises a DataError.

    Args:
        least: Minimums of arguments, below which they raise an ArgumentError; of a size, for its shorter side.
    """

    def decorated(fill: Callable[Concatenate[Path, P], None]) -> Callable[Concatenate[Path, P], Path]:
        @wraps(fill)
        def draw(root: Path, /, *args: P.args, **kwargs: P.kwargs) -> Path:
            bound = signature(fill).bind(root, *args, **kwargs)
            bound.apply_defaults()
            _, *arguments = bound.arguments.items()
            for name, value in arguments:
                shorter = min(value) if isinstance(value, tuple) else value
                if shorter < least.get(name, shorter):
                    raise ArgumentError(f"{name}={shorter}: expected {least[name]} or more")
            marker = json.dumps({"sample": fill.__name__.removeprefix("draw_"), **dict(arguments)}) + "\n"
            home = root.resolve()
            if not _holds(home, marker):
                with replacing_folder(home, keep=True) as draft:
                    fill(draft, *args, **kwargs)
                    (draft / MARKER).write_text(marker)
                _holds(home, marker)  # another process may have been faster
            return root

        vars(draw)["__signature__"] = signature(fill).replace(return_annotation=Path)
        return draw

    return decorated


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
