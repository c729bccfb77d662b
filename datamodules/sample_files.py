"""Writes the files of samples."""

import csv
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt


def write_picture(path: Path, picture: npt.NDArray[np.uint8]) -> None:
    """Write an sRGB picture (H, W, 3) or a grey one (H, W) in the format that the suffix names."""
    options = [cv2.IMWRITE_JPEG_QUALITY, 90] if path.suffix == ".jpg" else []
    _, encoded = cv2.imencode(path.suffix, picture[..., ::-1] if picture.ndim == 3 else picture, options)
    path.write_bytes(encoded.tobytes())


def write_table(path: Path, header: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    """Write a CSV file, its lines ended as on Linux wherever it is drawn."""
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])
