"""Files and a small task that the tests of datasets share."""

import csv
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from PIL import Image

from ops.errors import DataError


def write(path: Path, values: np.ndarray | Image.Image, **options: Any) -> Path:
    """Saves an image, and its folder where there is none; counts and shares become bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(values, np.ndarray):
        values = Image.fromarray(values.astype(np.uint8) if values.dtype in (np.int64, np.float64) else values)
    values.save(path, **options)
    return path


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    """Random bytes, by default those of an image (height, width, 3)."""
    return np.random.default_rng(seed).integers(0, 256, shape if len(shape) > 2 else (*shape, 3), np.uint8)


def film(
    path: Path, frames: Sequence[np.ndarray], sound: str | None = None, times: Sequence[int] | None = None
) -> Path:
    """Writes a film at 25 frames per second, of which a clock tick is a frame, with a tone in this codec."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(path, "w") as container:
        video = container.add_stream("libx264", rate=25)
        video.height, video.width = frames[0].shape[:2]
        video.pix_fmt, video.codec_context.options = "yuv444p", {"crf": "10"}
        video.codec_context.color_range = video.codec_context.colorspace = 1
        audio = None if sound is None else container.add_stream(sound, rate=44100)
        for place, pixels in enumerate(frames):
            made = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), "rgb24")
            made = made.reformat(format="yuv444p", dst_colorspace=1, dst_color_range=1)
            made.pts = place if times is None else times[place]
            container.mux(video.encode(made))
        container.mux(video.encode())
        if audio is not None:
            tone = (8000 * np.sin(np.arange(44100 * len(frames) // 25) / 16)).astype(np.int16)
            for start in range(0, len(tone), 1024):
                heard = av.AudioFrame.from_ndarray(tone[None, start : start + 1024], "s16", "mono")
                heard.sample_rate, heard.pts = 44100, start
                container.mux(audio.encode(heard))
            container.mux(audio.encode())
    return path


def truncate(path: Path, kept: float = 0.5) -> Path:
    """Keeps the first part of a file."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    return path


def exif(orientation: int) -> Image.Exif:
    """EXIF data with this orientation."""
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def table(path: Path, *rows: str) -> Path:
    """Writes the lines of a table, and its folder where there is none; the first row of a CSV table is its header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(rows))
    return path


def split_names(data: LightningDataModule) -> dict[str, list[str]]:
    """Names of the images of each split, after setting up `fit`."""
    data.setup("fit")
    return {split: list(data.datasets[split].names) for split in ("train", "val", "test")}


def sizes(parts: Mapping[str, Collection[Any]]) -> dict[str, int]:
    """How many each split has."""
    return {split: len(part) for split, part in parts.items()}


def problems_of(call: Callable[[], object]) -> list[str]:
    """The problems of the DataError that a call raises."""
    with pytest.raises(DataError) as caught:
        call()
    return caught.value.problems


def assert_problems(found: Iterable[str], *expected: Sequence[object]) -> None:
    """Asserts that there is a problem for each sequence of key words, in that order, and no other."""
    found = list(found)
    assert len(found) == len(expected), found
    for problem, parts in zip(found, expected, strict=True):
        for part in parts:
            assert str(part) in problem


def assert_problems_in_any_order(found: Collection[str], *expected: Sequence[object]) -> None:
    """Asserts that there are as many problems as sequences of key words, and one for each of these."""
    assert len(found) == len(expected), found
    for parts in expected:
        assert any(all(str(part) in problem for part in parts) for problem in found), parts


def csv_rows(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV table by the names of their columns."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a folder by their path from it."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Keeping(LightningModule):
    """Keeps the batches that reach a task, by stage."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: dict[str, list[dict[str, Any]]] = {split: [] for split in ("train", "val", "test", "predict")}

    def names(self, split: str) -> list[str]:
        return [name for batch in self.seen[split] for name in batch["name"]]

    def training_step(self, batch: dict[str, Any]) -> torch.Tensor:
        self.seen["train"].append(batch)
        return self.weight.sum()

    def validation_step(self, batch: dict[str, Any]) -> None:
        self.seen["val"].append(batch)

    def test_step(self, batch: dict[str, Any]) -> None:
        self.seen["test"].append(batch)

    def predict_step(self, batch: dict[str, Any]) -> None:
        self.seen["predict"].append(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)
