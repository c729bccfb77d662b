"""Writes the files of samples, once."""

import csv
import json
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

MARKER = "sample.json"
Arguments = dict[str, str | int | list[int]]


def draw_once(root: Path, arguments: Arguments, draw: Callable[[Path], None]) -> Path:
    """Have `draw` fill a folder beside `root` and rename it to `root`, unless `root` holds this very sample.

    Args:
        root: The sample's folder: absent, empty, or drawn before from the same `arguments`.
        arguments: Whatever decides the sample's content; kept in its `sample.json`.
        draw: Writes the sample into the folder that it is given.

    Returns:
        `root`.

    Raises:
        ValueError: `root` has other content, which is left as it is.
    """
    home = root.resolve()
    if _holds(home, arguments):
        return root
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home.parent, prefix=f".{home.name}-") as folder:
        draft = Path(folder, home.name)
        draft.mkdir()
        draw(draft)
        Path(draft, MARKER).write_text(json.dumps(arguments) + "\n")
        try:
            draft.replace(home)
        except OSError:
            if not _holds(home, arguments):  # else another process has just drawn the same
                raise
    return root


def _holds(root: Path, arguments: Arguments) -> bool:
    """Whether `root` is this sample (True) or nothing (False); anything else is a ValueError."""
    marker = root / MARKER
    if marker.is_file() and marker.read_text() == json.dumps(arguments) + "\n":
        return True
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    found = f"another sample, {marker.read_text().strip()}" if marker.is_file() else "what is no sample"
    raise ValueError(
        f"{root} holds {found}; an absent or empty folder was wanted, or the sample {json.dumps(arguments)}. "
        "Name another folder, or delete this one yourself: drawing never overwrites."
    )


def write_picture(path: Path, picture: npt.NDArray[np.uint8]) -> None:
    """Write an sRGB picture (H, W, 3) or a grey one (H, W) in the format that the suffix names."""
    options = [cv2.IMWRITE_JPEG_QUALITY, 90] if path.suffix == ".jpg" else []
    _, encoded = cv2.imencode(path.suffix, picture[..., ::-1] if picture.ndim == 3 else picture, options)
    path.write_bytes(encoded.tobytes())


def write_table(path: Path, header: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    """Write a CSV file, its lines ended as on Linux wherever it is drawn."""
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])
