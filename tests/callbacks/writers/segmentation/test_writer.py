import csv
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch import Callback
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import entropy
from torch import Tensor, nn

from callbacks.writers.memory import Collector
from callbacks.writers.segmentation.masks import MaskOverview, overlaid, runs
from callbacks.writers.segmentation.writer import SegmentationWriter
from drawing.pictures import labelled, overlay
from ops.files.names import safe_name
from ops.masks.rle import decode
from tasks.base import Batch
from tasks.clouds import CloudsTask
from tests.callbacks.writers.shared import Batches, predict, predict_in_processes, read_mask
from tests.datamodules.helpers import contents

CLASSES = ["Red", "Green", "Blue"]
NAMES = ["z.jpg", "a.b.png", "m.jpg", "empty.tif", "c.jpg"]  # not sorted
SIZES = [(40, 60), (33, 21), (10, 70), (40, 60), (24, 24)]
STEMS = [Path(name).stem for name in NAMES]


class Colors(nn.Module):
    """Finds each class where its color is bright, and none in a black image."""

    def forward(self, image: Tensor) -> Tensor:
        return 20 * (image - 0.5)


class Red(Colors):
    """Finds the first class alone."""

    def forward(self, image: Tensor) -> Tensor:
        return super().forward(image)[:, :1]


class Data(Batches):
    """Images predicted at 16 x 24 and written at their own size; the fourth is black."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.sources = [rng.integers(0, 255, (*size, 3), np.uint8) for size in SIZES]
        images = nn.functional.interpolate(torch.rand(5, 3, 4, 6), (16, 24), mode="bilinear")
        images[3] = 0
        super().__init__([self.batch(images, rows) for rows in ([2, 0], [1, 3], [4])])

    def batch(self, images: Tensor, rows: list[int]) -> Batch:
        return {
            "image": images[rows],
            "index": torch.tensor(rows),
            "name": [NAMES[row] for row in rows],
            "size": torch.tensor([SIZES[row] for row in rows]),
            "window": torch.tensor([SIZES[row] for row in rows]),
            "origin": torch.zeros(len(rows), 2, dtype=torch.int64),
            "overlap": [0.0] * len(rows),
            "source": [self.sources[row] for row in rows],
        }


def make_task() -> CloudsTask:
    task = CloudsTask(architecture="pspnet", pretrained=False, classes=CLASSES)
    task.network = Colors()
    task.decision.thresholds.copy_(torch.tensor([0.5, 0.3, 0.7]))
    task.decision.minimum_areas.copy_(torch.tensor([0.0, 0.0, 0.05]))
    return task.eval()


@pytest.fixture(scope="module")
def data() -> Data:
    torch.manual_seed(0)
    return Data()


@pytest.fixture(scope="module")
def written(data: Data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written") / "run"
    predict(folder, make_task(), data, SegmentationWriter())
    return folder


@pytest.fixture(scope="module")
def masks(data: Data) -> dict[str, NDArray[np.bool_]]:
    found, decision = {}, make_task().decision
    for batch in data.loaders[0]:
        for k, name in enumerate(batch["name"]):
            probability = (20 * (batch["image"][k : k + 1] - 0.5)).sigmoid()
            full = nn.functional.interpolate(probability, batch["size"][k].tolist(), mode="bilinear")
            found[name] = decision.masks(full)[0].numpy()
    assert sum(mask.any() for mask in found["z.jpg"]) >= 2
    assert not found["empty.tif"].any()
    return found


def test_files_table_and_memory_hold_the_same_masks(
    data: Data, written: Path, masks: dict[str, NDArray[np.bool_]]
) -> None:
    text = (written / "submission.csv").read_bytes().decode()
    assert text.startswith("Image_Label,EncodedPixels\nz.jpg_Red,")
    assert "\r" not in text
    table = list(csv.reader(text.splitlines()))[1:]
    assert [row[0] for row in table] == [f"{name}_{label}" for name in NAMES for label in CLASSES]
    collector: Collector[Any] = Collector(SegmentationWriter())
    predict(written, make_task(), data, collector)
    assert [image.name for image in collector.images] == NAMES
    assert [row for image in collector.images for row in runs(image)] == table
    for number, (name, image) in enumerate(zip(NAMES, collector.images, strict=True)):
        np.testing.assert_array_equal(image.masks, masks[name])
        for k, label in enumerate(CLASSES):
            drawn = read_mask(written / "masks" / label / f"{STEMS[number]}.png")
            np.testing.assert_array_equal(drawn, masks[name][k])
            np.testing.assert_array_equal(decode(table[3 * number + k][1], SIZES[number]), masks[name][k])
        assert image.probability.shape == masks[name].shape
        np.testing.assert_array_equal(image.probability[0] >= 0.5, masks[name][0])


def test_overlays_show_the_masks(data: Data, written: Path, masks: dict[str, NDArray[np.bool_]]) -> None:
    assert sorted(path.stem for path in (written / "overlays").iterdir()) == sorted(STEMS)
    collector: Collector[Any] = Collector(SegmentationWriter())
    predict(written, make_task(), data, collector)
    for name, source, image in zip(NAMES, data.sources, collector.images, strict=True):
        drawn = Image.open(written / "overlays" / f"{Path(name).stem}.jpg")
        wanted = labelled(overlay(source, masks[name]), CLASSES, masks[name].any(axis=(1, 2)).tolist())
        np.testing.assert_array_equal(overlaid(image), wanted)
        assert drawn.size == wanted.shape[1::-1]
        assert np.abs(np.asarray(drawn).astype(int) - wanted).mean() < 20  # a JPEG of noise


def test_the_page_sorts_by_uncertainty_and_names_what_is_marked(
    data: Data, written: Path, masks: dict[str, NDArray[np.bool_]]
) -> None:
    text = (written / "overview.html").read_text()
    collector: Collector[Any] = Collector(SegmentationWriter())
    predict(written, make_task(), data, collector)
    wanted = {}
    for image in collector.images:
        probability = image.probability.astype(np.float64)
        values = entropy([probability, 1 - probability], base=2).mean(), 100 * masks[image.name].any(axis=0).mean()
        wanted[image.name] = values
        start = text.index(f'alt="{image.name}"')
        found = re.findall(r'data-values="(\S+) (\S+) "', text[:start])[-1]
        assert [float(each) for each in found] == pytest.approx(values, rel=1e-4)
        labels = [label for label, mask in zip(CLASSES, masks[image.name], strict=True) if mask.any()]
        assert (", ".join(labels) or "nothing marked") in text[start:].split("</figure>")[0]
    order = re.findall(r'alt="([^"]+)"', text)
    assert order == sorted(NAMES, key=lambda name: -wanted[name][0])
    links = re.findall(r'href="([^"]+)"', text)
    assert all((written / link).is_file() for link in links)
    assert len(links) == len(NAMES)


def test_cards_of_one_class_repeat_neither_its_name_nor_its_legend(data: Data, tmp_path: Path) -> None:
    task = CloudsTask(architecture="pspnet", pretrained=False, classes=["Red"])
    task.network = Red()
    collector: Collector[Any] = Collector(SegmentationWriter())
    predict(tmp_path, task.eval(), data, collector)
    page, found = MaskOverview(), []
    for source, image in zip(data.sources, collector.images, strict=True):
        assert page.view(image).shape == source.shape
        marked = bool(image.masks.any())
        assert page.note(image) == ("" if marked else "nothing marked")
        found.append(marked)
    assert {*found} == {True, False}


def test_names_of_a_checkpoint_and_of_images_stay_within_the_folder(data: Data, tmp_path: Path) -> None:
    classes = ["../../evil", "..", "x" * 300]
    task = CloudsTask(architecture="pspnet", pretrained=False, classes=classes)
    task.network = Colors()
    batch = {**data.loaders[0][1], "name": ["../../a\nb.png", "c" * 250 + ".jpg"]}
    predict(tmp_path / "run", task.eval(), Batches([batch]), SegmentationWriter())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]
    folder = tmp_path / "run"
    assert sorted(path.name for path in folder.iterdir()) == ["masks", "overlays", "overview.html", "submission.csv"]
    assert {path.name for path in (folder / "masks").iterdir()} == set(map(safe_name, classes))
    for inner in (*(folder / "masks").iterdir(), folder / "overlays"):
        assert len(list(inner.iterdir())) == 2
    assert len(list(folder.rglob("*.png"))) == 6


def test_two_processes_write_the_same_files(data: Data, written: Path, tmp_path: Path) -> None:
    task = make_task()
    predict_in_processes(tmp_path, task, data, SegmentationWriter)
    assert contents(tmp_path) == contents(written)


def test_a_config_combines_formats(written: Path, data: Data, tmp_path: Path) -> None:
    parser = ArgumentParser()
    parser.add_argument("--writer", type=Callback)
    formats = [{"class_path": f"callbacks.writers.segmentation.writer.{name}"} for name in ("Submission", "MaskFiles")]
    writer = {"class_path": "callbacks.writers.segmentation.stitch.StitchingWriter", "init_args": {"formats": formats}}
    predict(tmp_path, make_task(), data, parser.instantiate_classes(parser.parse_object({"writer": writer})).writer)
    expected = {path: value for path, value in contents(written).items() if not path.startswith("over")}
    assert contents(tmp_path) == expected


def test_masks_of_several_classes_need_folders(data: Data, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected one class, got .*Set folders to true"):
        predict(tmp_path / "run", make_task(), data, SegmentationWriter(folders=False))
    assert not (tmp_path / "run").exists()
