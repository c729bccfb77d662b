from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule
from numpy.typing import NDArray
from PIL import Image

from callbacks.writers.coloring.writer import ColoringWriter
from callbacks.writers.memory import Collector
from ops.color.coloring import grey
from ops.color.lab import luminance_and_chroma
from ops.pictures import box, letterboxed
from tasks.base import Batch
from tests.callbacks.writers.shared import Batches, predict, predict_in_processes, read
from tests.datamodules.helpers import contents, csv_rows

SIDE = 48
NAMES = ["z.jpg", "one/same.png", "two/same.JPG", "grey.tif", "broken.jpg", "a.b.png"]  # in an order of their own
SIZES = [(90, 64), (50, 70), (33, 150), (64, 64), (0, 0), (40, 40)]


def make_image(number: int) -> NDArray[np.uint8]:
    height, width = SIZES[number]
    y, x = np.mgrid[:height, :width] / max(height, width, 1)
    waves = [np.sin(4 * x + number), np.cos(5 * y - number), np.sin(3 * (x + y))]
    image = (128 + 100 * np.stack(waves, axis=2)).astype(np.uint8)
    return np.repeat(image[..., :1], 3, axis=2) if NAMES[number] == "grey.tif" else image


class OwnColors(LightningModule):
    """Returns the colors that an image had, with more chroma than sRGB has.

    Args:
        more: What chroma is multiplied by.
    """

    def __init__(self, more: float = 1.0) -> None:
        super().__init__()
        self.more = more

    def predict_step(self, batch: Batch, index: int) -> dict[str, Any]:
        return {"chroma": self.more * luminance_and_chroma(batch["image"])[1]}


class Data(Batches):
    """Six images in three batches; the fifth cannot be read."""

    def __init__(self) -> None:
        self.sources = [make_image(number) for number in range(len(NAMES))]
        super().__init__([self.batch(rows) for rows in ([2, 0], [1, 4, 3], [5])])

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


def run(folder: Path, data: Data, more: float = 1.0, **options: Any) -> None:
    predict(folder, OwnColors(more), data, ColoringWriter(**options))


def table(folder: Path) -> dict[str, dict[str, str]]:
    return {row["name"]: row for row in csv_rows(folder / "figures.csv")}


def lightness(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """CIE L by hand, in double precision."""
    linear = np.where(image > 10, ((image / 255 + 0.055) / 1.055) ** 2.4, image / 255 / 12.92)
    y = linear @ [0.212671, 0.715160, 0.072169]
    return np.asarray(116 * np.where(y > 0.008856, np.cbrt(y), 7.787 * y + 16 / 116) - 16)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written") / "run"
    run(folder, Data())
    return folder


@pytest.mark.parametrize("guided", [True, False])
def test_images_have_their_own_size_and_luminance(guided: bool, tmp_path: Path) -> None:
    data = Data()
    run(tmp_path, data, more=4, guided=guided)
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


def test_figures_are_those_of_the_images_that_were_written(written: Path) -> None:
    found = table(written)
    assert list(found) == NAMES
    for name, source in zip(NAMES, Data().sources, strict=True):
        if name in ("grey.tif", "broken.jpg"):
            continue
        colored = read(written / "colored" / Path(name).with_suffix(".png"))
        error = np.mean((colored.astype(float) - source) ** 2)
        assert float(found[name]["psnr"]) == pytest.approx(10 * np.log10(255**2 / error), abs=1e-3)
        for column, image in (("colorfulness", colored), ("colorfulness_true", source)):
            red, green, blue = np.moveaxis(image.astype(float), 2, 0)
            pairs = red - green, (red + green) / 2 - blue
            wanted = np.hypot(*(each.std() for each in pairs)) + 0.3 * np.hypot(*(each.mean() for each in pairs))
            assert float(found[name][column]) == pytest.approx(wanted, abs=1e-2)
        assert 0 < float(found[name]["delta_e2000"]) <= float(found[name]["delta_e76"]) < 5
        assert 0.9 < float(found[name]["ssim"]) < 1
        assert found[name]["problem"] == ""


def test_gray_and_unusable_images_are_not_compared(written: Path) -> None:
    row = table(written)["grey.tif"]
    assert float(row["colorfulness"]) == pytest.approx(0, abs=0.05)
    assert [row[column] for column in ("psnr", "ssim", "delta_e76", "delta_e2000", "colorfulness_true")] == [""] * 5
    filled = {key: value for key, value in table(written)["broken.jpg"].items() if value}
    assert filled == {"name": "broken.jpg", "problem": "broken.jpg is truncated."}


def test_panels_show_gray_predicted_and_true_colors(written: Path) -> None:
    data = Data()
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


def test_large_images_are_reduced_in_the_panel_only(tmp_path: Path) -> None:
    data = Data()
    data.sources[5] = np.tile(data.sources[5], (1, 41, 1))
    data.loaders = [[data.batch([5])]]
    run(tmp_path, data)
    assert read(tmp_path / "colored" / "a.b.png").shape == (40, 1640, 3)
    assert read(tmp_path / "panels" / "a.b.jpg").shape[1] < 3 * 800 + 100


def test_two_processes_write_the_same_files(written: Path, tmp_path: Path) -> None:
    predict_in_processes(tmp_path, OwnColors(), Data(), ColoringWriter)
    assert contents(tmp_path) == contents(written)
    assert len(contents(tmp_path)) == 13


def test_in_memory_are_the_written_images(written: Path, tmp_path: Path) -> None:
    collector = Collector(ColoringWriter())
    predict(tmp_path, OwnColors(), Data(), collector)
    assert not list(tmp_path.iterdir())
    assert [image.name for image in collector.images] == NAMES
    for image in collector.images:
        assert image.problem == table(written)[image.name]["problem"]
        if not image.problem:
            path = written / "colored" / Path(image.name).with_suffix(".png")
            np.testing.assert_array_equal(image.image, read(path))
        for key, value in image.scores.items():
            assert str(value) == table(written)[image.name][key]


def test_jpeg_is_an_option(tmp_path: Path) -> None:
    run(tmp_path, Data(), suffix="jpg")
    assert Image.open(tmp_path / "colored" / "two" / "same.jpg").format == "JPEG"
    with pytest.raises(ValueError, match="png or jpg, got 'tif'"):
        ColoringWriter(suffix="tif")  # type: ignore[arg-type]


class Several(OwnColors):
    """Also returns two samples, without and with more colors, and a spread."""

    def predict_step(self, batch: Batch, index: int) -> dict[str, Any]:
        chroma = super().predict_step(batch, index)["chroma"]
        spread = torch.full_like(chroma[:, :1], 30.0)
        spread[..., SIDE // 2 :] = 10.0
        return {"chroma": chroma, "samples": torch.stack([0 * chroma, 2 * chroma], dim=1), "spread": spread}


def test_samples_and_their_spread_are_written_and_shown(tmp_path: Path) -> None:
    data = Data()
    predict(tmp_path, Several(), data, ColoringWriter())
    stems = ["a.b", "grey", "one/same", "two/same", "z"]
    wanted = {f"samples/{stem}/{number}.png" for stem in stems for number in (1, 2)}
    assert {name for name in contents(tmp_path) if name.startswith("samples")} == wanted
    source = data.sources[0]
    gray = read(tmp_path / "samples" / "z" / "1.png")
    assert np.abs(gray.astype(int) - grey(source)).max() <= 1
    assert np.abs(lightness(read(tmp_path / "samples" / "z" / "2.png")) - lightness(source)).max() <= 0.5
    spread = read(tmp_path / "spread" / "z.png")
    assert spread.shape == source.shape[:2]
    assert (spread[:, :28] == 30).all()
    assert (spread[:, -28:] == 10).all()
    panel = read(tmp_path / "panels" / "z.jpg").astype(int)
    assert panel.shape[1] == 6 * (64 + 4) + 4
    cells = [panel[-94:-4, 4 + 68 * cell : 68 + 68 * cell] for cell in range(6)]
    assert np.abs(cells[2] - gray).mean() < 6
    assert np.abs(cells[5] - source).mean() < 6
    assert cells[4][45, 10, 1] > cells[4][45, 54, 1] + 50, "from violet to yellow"
