import csv
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader

from callbacks.writers.base import skipped
from callbacks.writers.colorings import ColoringWriter
from ops.color import luminance_and_chroma
from ops.coloring import grey
from ops.pictures import box, letterboxed
from tasks.base import Batch

SIDE = 48
NAMES = ["z.jpg", "one/same.png", "two/same.JPG", "grey.tif", "broken.jpg", "a.b.png"]  # in an order of their own
SIZES = [(90, 64), (50, 70), (33, 150), (64, 64), (0, 0), (40, 40)]


def make_picture(number: int) -> NDArray[np.uint8]:
    height, width = SIZES[number]
    y, x = np.mgrid[:height, :width] / max(height, width, 1)
    waves = [np.sin(4 * x + number), np.cos(5 * y - number), np.sin(3 * (x + y))]
    picture = (128 + 100 * np.stack(waves, axis=2)).astype(np.uint8)
    return np.repeat(picture[..., :1], 3, axis=2) if NAMES[number] == "grey.tif" else picture


class OwnColours(LightningModule):
    """Gives the colours back that a picture had, with more chroma than sRGB has.

    Args:
        more: What chroma is multiplied by.
    """

    def __init__(self, more: float = 1.0) -> None:
        super().__init__()
        self.more = more

    def predict_step(self, batch: Batch, index: int) -> dict[str, Any]:
        return {"chroma": self.more * luminance_and_chroma(batch["image"])[1]}


class Pictures(LightningDataModule):
    """Six pictures in three batches; the fifth cannot be read."""

    def __init__(self, broken: bool = False) -> None:
        super().__init__()
        self.sources = [make_picture(number) for number in range(len(NAMES))]
        self.batches = [self.batch(rows) for rows in ([2, 0], [1, 4, 3], [5])]
        if broken:
            self.batches[1]["source"] = []

    def batch(self, rows: list[int]) -> Batch:
        read = [self.sources[row].size > 0 for row in rows]
        squares = [
            letterboxed(self.sources[row], SIDE) if good else np.full((SIDE, SIDE, 3), 255, np.uint8)
            for row, good in zip(rows, read, strict=True)
        ]
        boxes = [box(SIZES[row], SIDE) if good else (0, 0, 0, 0) for row, good in zip(rows, read, strict=True)]
        return {
            "image": torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2) / 255,
            "index": torch.tensor(rows),
            "name": [NAMES[row] for row in rows],
            "box": torch.tensor(boxes),
            "source": [self.sources[row] for row in rows],
            "problem": ["" if good else "broken.jpg is truncated." for good in read],
        }

    def predict_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.batches, batch_size=None, collate_fn=lambda batch: batch)  # type: ignore[arg-type]  # a list is a data set


def predict(folder: Path, data: Pictures, more: float = 1.0, **options: Any) -> None:
    trainer = Trainer(default_root_dir=folder, accelerator="cpu", logger=False, enable_progress_bar=False,
                      callbacks=[ColoringWriter(**options)])  # fmt: skip
    trainer.predict(OwnColours(more), data, return_predictions=False)


def read(path: Path) -> NDArray[np.uint8]:
    return np.asarray(Image.open(path))


def table(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "figures.csv").open(newline="") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def lightness(picture: NDArray[np.uint8]) -> NDArray[np.float64]:
    """CIE L by hand, in double precision."""
    linear = np.where(picture > 10, ((picture / 255 + 0.055) / 1.055) ** 2.4, picture / 255 / 12.92)
    y = linear @ [0.212671, 0.715160, 0.072169]
    return np.asarray(116 * np.where(y > 0.008856, np.cbrt(y), 7.787 * y + 16 / 116) - 16)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written") / "run"
    predict(folder, Pictures())
    return folder


@pytest.mark.parametrize("guided", [True, False])
def test_pictures_have_their_own_size_and_luminance(guided: bool, tmp_path: Path) -> None:
    data = Pictures()
    predict(tmp_path, data, more=4, guided=guided)
    for name, source in zip(NAMES, data.sources, strict=True):
        if name != "broken.jpg":
            found = read(tmp_path / "colored" / Path(name).with_suffix(".png"))
            assert found.shape == source.shape
            assert np.abs(lightness(found) - lightness(source)).max() <= 0.5
            assert name == "grey.tif" or np.abs(found.astype(int) - source).max() > 20


def test_paths_are_kept_so_that_equal_stems_do_not_meet(written: Path) -> None:
    stems = ["a.b", "grey", "one/same", "two/same", "z"]
    for folder, suffix in (("colored", "png"), ("panels", "jpg")):
        files = [path for path in (written / folder).rglob("*") if path.is_file()]
        assert sorted(path.relative_to(written / folder).as_posix() for path in files) == [
            f"{stem}.{suffix}" for stem in stems
        ]


def test_figures_are_those_of_the_pictures_that_were_written(written: Path) -> None:
    found = table(written)
    assert list(found) == NAMES
    for name, source in zip(NAMES, Pictures().sources, strict=True):
        if name in ("grey.tif", "broken.jpg"):
            continue
        colored = read(written / "colored" / Path(name).with_suffix(".png"))
        error = np.mean((colored.astype(float) - source) ** 2)
        assert float(found[name]["psnr"]) == pytest.approx(10 * np.log10(255**2 / error), abs=1e-3)
        for column, picture in (("colorfulness", colored), ("colorfulness_true", source)):
            red, green, blue = np.moveaxis(picture.astype(float), 2, 0)
            pairs = red - green, (red + green) / 2 - blue
            wanted = np.hypot(*(each.std() for each in pairs)) + 0.3 * np.hypot(*(each.mean() for each in pairs))
            assert float(found[name][column]) == pytest.approx(wanted, abs=1e-2)
        assert 0 < float(found[name]["delta_e2000"]) <= float(found[name]["delta_e76"]) < 5
        assert 0.9 < float(found[name]["ssim"]) < 1
        assert found[name]["problem"] == ""


def test_a_grey_picture_has_no_truth_to_be_compared_with(written: Path) -> None:
    row = table(written)["grey.tif"]
    assert float(row["colorfulness"]) == pytest.approx(0, abs=0.05)
    assert [row[column] for column in ("psnr", "ssim", "delta_e76", "delta_e2000", "colorfulness_true")] == [""] * 5


def test_panels_show_grey_colours_and_the_original_where_it_has_colours(written: Path) -> None:
    data = Pictures()
    for name, cells in (("z.jpg", 3), ("grey.tif", 2)):
        source = data.sources[NAMES.index(name)]
        panel = read(written / "panels" / Path(name).with_suffix(".jpg")).astype(int)
        height, width = source.shape[:2]
        gap = 4
        assert panel.shape[1] == cells * (width + gap) + gap
        bottom = panel.shape[0] - gap
        wanted = [grey(source), source, source]
        for cell in range(cells):
            left = gap + cell * (width + gap)
            found = panel[bottom - height : bottom, left : left + width]
            assert np.abs(found - wanted[cell]).mean() < 6


def test_large_pictures_are_reduced_in_the_panel_only(tmp_path: Path) -> None:
    data = Pictures()
    data.sources[5] = np.tile(data.sources[5], (1, 41, 1))
    data.batches = [data.batch([5])]
    predict(tmp_path, data)
    assert read(tmp_path / "colored" / "a.b.png").shape == (40, 1640, 3)
    assert read(tmp_path / "panels" / "a.b.jpg").shape[1] < 3 * 800 + 100


def test_pictures_that_cannot_be_used_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    predict(tmp_path, Pictures())
    assert caplog.messages[-1].startswith("Images predicted: 5.\n")
    assert caplog.messages[-1].endswith("\nSkipped: 1.\n  - broken.jpg is truncated.")
    assert table(tmp_path)["broken.jpg"] == dict.fromkeys(table(tmp_path)["z.jpg"], "") | {
        "name": "broken.jpg",
        "problem": "broken.jpg is truncated.",
    }


def test_of_many_the_first_ten_are_named() -> None:
    assert skipped([]) == ""
    lines = skipped([f"{number} is broken." for number in range(13)]).splitlines()
    assert lines[1] == "Skipped: 13."
    assert lines[2:] == [*(f"  - {number} is broken." for number in range(10)), "  … and 3 more"]


def test_nothing_but_whole_files_is_left(tmp_path: Path) -> None:
    with pytest.raises(IndexError):
        predict(tmp_path / "run", Pictures(broken=True))
    assert not (tmp_path / "run").exists()
    predict(tmp_path / "run", Pictures())
    predict(tmp_path / "run", Pictures())
    whole = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert len(whole) == 11
    with pytest.raises(IndexError):
        predict(tmp_path / "run", Pictures(broken=True))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == whole, "the earlier one stays"


def test_two_processes_write_one_table(tmp_path: Path) -> None:
    data, task = Pictures(), OwnColours()
    trainer = create_autospec(Trainer, instance=True, default_root_dir=str(tmp_path), world_size=2)
    trainer.strategy.broadcast.side_effect = lambda value: value
    writers = [ColoringWriter(), ColoringWriter()]
    for rank, writer in enumerate(writers):
        trainer.global_rank, trainer.is_global_zero = rank, rank == 0
        writer.on_predict_start(trainer, task)
    for number, batch in enumerate(data.batches):
        trainer.global_rank = number % 2
        writers[number % 2].on_predict_batch_end(trainer, task, task.predict_step(batch, number), batch, number)
    trainer.is_global_zero = False
    writers[1].on_predict_end(trainer, task)
    assert not (tmp_path / "figures.csv").exists()
    trainer.is_global_zero = True
    writers[0].on_predict_end(trainer, task)
    assert list(table(tmp_path)) == NAMES
    assert sorted(path.name for path in tmp_path.iterdir()) == ["colored", "figures.csv", "panels"]


def test_jpeg_is_an_option(tmp_path: Path) -> None:
    predict(tmp_path, Pictures(), suffix="jpg")
    assert Image.open(tmp_path / "colored" / "two" / "same.jpg").format == "JPEG"
    with pytest.raises(ValueError, match="suffix is 'tif'; png or jpg was wanted"):
        ColoringWriter(suffix="tif")  # type: ignore[arg-type]
