import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ops.color import rgb_to_lab

Command = Callable[..., Any]

TINY = ["--config", "colorization/pooled", "--config", "debug", "--model.extractor", "null", "--data.size", "32",
        "--data.batch_size", "4"]  # fmt: skip


def lightness(path: Path) -> torch.Tensor:
    with Image.open(path) as picture:
        levels = np.asarray(picture.convert("RGB")).astype(np.float32)
    return rgb_to_lab(torch.from_numpy(levels.transpose(2, 0, 1))[None] / 255)[0, 0]


def test_grey_pictures_come_back_coloured_at_their_own_size(
    belvedere: Command, colorization_root: Path, tmp_path: Path
) -> None:
    assert belvedere("fit", *TINY, "--data.root", str(colorization_root), "--output", "run").code == 0
    assert belvedere("test", "--ckpt_path", "run/checkpoints/best.ckpt", "--config", "debug").code == 0
    with Path("run/test/metrics.csv").open(newline="") as file:
        [figures] = csv.DictReader(file)
    assert {"test/delta_e2000", "test/mean_by_luminance_delta_e2000", "test/colorfulness_true"} <= figures.keys()
    album = tmp_path / "album"
    (album / "old").mkdir(parents=True)
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (50, 90), np.uint8)).save(album / "grey.png")
    Image.fromarray(rng.integers(0, 256, (70, 40, 3), np.uint8)).save(album / "old" / "colored.png")
    (album / "broken.jpg").write_bytes(b"no picture")
    options = ["--ckpt_path", "run/checkpoints/best.ckpt", "--data.pictures", str(album)]
    assert belvedere("predict", *options).code == 0
    folder = Path("run/predict-album")
    for name in ("grey.png", "old/colored.png"):
        found, given = lightness(folder / "colored" / name), lightness(album / name)
        assert found.shape == given.shape
        assert (found - given).abs().max() <= 0.5
    with (folder / "figures.csv").open(newline="") as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    assert rows["old/colored.png"]["delta_e76"]
    assert not rows["grey.png"]["delta_e76"]
    assert "broken.jpg" in rows["broken.jpg"]["problem"]
    result = belvedere("predict", *options, "--data.unreadable", "refuse", "--output", "again")
    assert result.code == 2
    assert "broken.jpg is truncated" in result.err
    assert not Path("again").exists()


def test_describe_writes_colours(belvedere: Command, colorization_root: Path) -> None:
    assert belvedere("describe", *TINY, "--data.root", str(colorization_root), "--output", "study").code == 0
    assert {"summary.csv", "study.png", "colors.png"} <= {path.name for path in Path("study").iterdir()}


@pytest.mark.parametrize("value", ["up", "-1"])
def test_wrong_values_are_told(value: str, belvedere: Command, colorization_root: Path) -> None:
    result = belvedere("fit", *TINY, "--data.root", str(colorization_root), "--model.temperature", value)
    assert result.code == 2
    assert "temperature" in result.err
