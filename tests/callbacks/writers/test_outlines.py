import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import cv2
import numpy as np
import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader
from torchmetrics import Metric

from callbacks.writers.outlines import OutlineWriter, drawn_polygon, enlarged, fitted_polygon
from ops.polygons import intersection_over_union, polygon_mask
from ops.pyramids import pyramid
from tasks.base import Batch, ImageTask
from tasks.decision import Decision
from tasks.metrics.meter import Step

NAMES = ["z.jpg", "a.b.png", "ä.jpg", "empty.tif", "c.jpg"]  # in an order of their own
SIZES = [(140, 231), (97, 61), (64, 128), (40, 60), (201, 77)]
LEVELS = [2, 1, 0, 1, 2]
FILES = [f"{Path(name).stem}.png" for name in NAMES]


class Bright(ImageTask):
    """Says of a picture that it is as probable as it is bright, and marks what is likely."""

    classes = ("avalanche",)
    decision = Decision(1, threshold=0.6)

    def build_metrics(self) -> dict[str, Metric]:
        return {}

    def step(self, batch: Batch) -> Step:
        raise AssertionError("to predict takes no step")

    def predict(self, batch: Batch) -> dict[str, Any]:
        grey = batch["image"][:, :1]
        stages = {"probability": grey, "mask": self.decision.marked(grey), "second_input": batch["image"]}
        return {"stages": stages, "probability": grey}


class Pictures(LightningDataModule):
    """Pictures of smooth regions, each halved as often as its level says; the fourth is black."""

    def __init__(self, broken: bool = False) -> None:
        super().__init__()
        rng = np.random.default_rng(0)
        noise = [cv2.GaussianBlur(rng.random(size), (0, 0), 9) for size in SIZES]
        greys = [cv2.normalize(each, None, 0, 255, cv2.NORM_MINMAX) for each in noise]
        greys[3][:] = 0
        self.sources = [np.dstack([grey] * 3).astype(np.uint8) for grey in greys]
        self.batches = [self.batch(index) for index in (2, 0, 1, 3, 4)]
        self.batches[2]["source"] *= not broken

    def batch(self, index: int) -> Batch:
        image = torch.from_numpy(self.sources[index]).permute(2, 0, 1)[None] / 255
        numbers = {"index": index, "size": SIZES[index], "level": LEVELS[index]}
        return {"image": pyramid(image, LEVELS[index])[-1], "name": [NAMES[index]], "source": [self.sources[index]],
                **{key: torch.tensor([number]) for key, number in numbers.items()}}  # fmt: skip

    def predict_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.batches, batch_size=None, collate_fn=lambda batch: batch)  # type: ignore[arg-type]  # a list is a data set


def predict(folder: Path, data: Pictures, **options: Any) -> None:
    trainer = Trainer(default_root_dir=folder, accelerator="cpu", logger=False, enable_progress_bar=False,
                      callbacks=[OutlineWriter(**options)])  # fmt: skip
    trainer.predict(Bright(lambda p: torch.optim.SGD(p, 1.0)), data, return_predictions=False)


def read_mask(path: Path) -> NDArray[np.bool_]:
    values = np.asarray(Image.open(path))
    assert (values.dtype, set(np.unique(values)) - {0, 255}) == (np.uint8, set())
    return values > 0


def polygons(folder: Path) -> dict[str, Any]:
    return cast(dict[str, Any], json.loads((folder / "polygons.json").read_text())["pictures"])


def contents(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def by_interpolation(level: NDArray[np.float32], step: int, size: tuple[int, int]) -> NDArray[np.float64]:
    """One axis after the other, by numpy, with samples at whole multiples of the step."""
    rows = [np.interp(np.arange(size[1]), np.arange(len(row)) * step, row) for row in level]
    columns = [np.interp(np.arange(size[0]), np.arange(len(level)) * step, column) for column in np.transpose(rows)]
    return np.transpose(columns)


@pytest.mark.parametrize(("levels", "size"), [(0, (5, 7)), (1, (9, 12)), (2, (13, 16)), (2, (14, 3)), (3, (1, 40))])
def test_sample_k_comes_to_pixel_k_times_the_step(levels: int, size: tuple[int, int]) -> None:
    step = 2**levels
    shape = -(-size[0] // step), -(-size[1] // step)
    maps = torch.rand(1, 1, *shape, generator=torch.Generator().manual_seed(0))
    found = enlarged(maps, levels, size)
    torch.testing.assert_close(found[..., ::step, ::step], maps, rtol=0, atol=0)
    np.testing.assert_allclose(found[0, 0], by_interpolation(maps[0, 0].numpy(), step, size), atol=1e-6)


def test_masks_are_as_large_as_the_pictures_and_marked_after_enlarging(tmp_path: Path) -> None:
    data = Pictures()
    predict(tmp_path, data)
    assert sorted(path.name for path in (tmp_path / "masks").iterdir()) == sorted(FILES)
    for batch in data.batches:
        index = int(batch["index"])
        drawn = np.asarray(Image.open(tmp_path / "overlays" / FILES[index].replace(".png", ".jpg")))
        assert drawn.shape[1] == SIZES[index][1], "small pictures are not enlarged"
        mask = read_mask(tmp_path / "masks" / FILES[index])
        likely = by_interpolation(batch["image"][0, 0].numpy(), 2 ** LEVELS[index], SIZES[index])
        assert mask.shape == SIZES[index]
        assert (mask != (likely >= 0.6)).sum() <= 1  # one value is 0.6 but for its last bits
        assert mask.any() == (NAMES[index] != "empty.tif")


@pytest.mark.parametrize("options", [{}, {"smooth": True}, {"tolerance": 0}, {"smooth": True, "tolerance": 0}])
def test_polygons_painted_again_are_the_masks_as_nearly_as_is_said(tmp_path: Path, options: dict[str, Any]) -> None:
    predict(tmp_path, Pictures(), **options)
    records = polygons(tmp_path)
    assert list(records) == NAMES
    for name, size, file in zip(NAMES, SIZES, FILES, strict=True):
        record, mask = records[name], read_mask(tmp_path / "masks" / file)
        painted = polygon_mask([np.array(ring) for ring in record["rings"]], size)
        assert record["size"] == list(size)
        assert record["vertices"] == sum(map(len, record["rings"]))
        assert record["iou"] == pytest.approx(intersection_over_union(mask, painted), abs=1e-6)
        assert record["iou"] == 1 if options == {"tolerance": 0} else record["iou"] >= 0.98
    assert records["empty.tif"] == {"size": [40, 60], "rings": [], "vertices": 0, "iou": 1.0}


def test_options_trade_vertices_for_nearness(tmp_path: Path) -> None:
    counts = []
    for tolerance in (0, 1, 4):
        predict(tmp_path, Pictures(), tolerance=tolerance, least_iou=0)
        counts.append(polygons(tmp_path)["z.jpg"]["vertices"])
    assert counts[0] > 2 * counts[1] > 4 * counts[2]
    assert polygons(tmp_path)["z.jpg"]["iou"] < 0.95
    predict(tmp_path, Pictures(), tolerance=4)
    assert polygons(tmp_path)["z.jpg"]["iou"] >= 0.98


@pytest.mark.parametrize("boxed", [False, True])
@pytest.mark.parametrize("level", [0, 1, 2])
def test_a_known_rectangle_comes_back_within_a_pixel(tmp_path: Path, level: int, boxed: bool) -> None:
    mask, data = torch.nn.functional.pad(torch.ones(1, 1, 71, 123), (57, 50, 31, 39)) > 0, Pictures()
    full = 1.2 * (mask | boxed).float().expand(1, 3, -1, -1)  # of which one half is what is marked
    given = {"image": pyramid(full, level)[-1], "level": [level], "size": torch.tensor([[141, 230]])}
    data.batches = [data.batch(0) | given | ({"inside": mask} if boxed else {})]
    predict(tmp_path, data)
    [ring] = map(np.array, polygons(tmp_path)["z.jpg"]["rings"])
    np.testing.assert_allclose([ring.min(axis=0), ring.max(axis=0)], [[56.5, 30.5], [179.5, 101.5]], atol=1)
    assert intersection_over_union(polygon_mask([ring], (141, 230)), mask[0, 0].numpy()) > 0.97


def test_stages_are_kept_where_wanted(tmp_path: Path) -> None:
    data = Pictures()
    predict(tmp_path, data, keep_stages=True)
    for batch in data.batches:
        folder = tmp_path / "stages" / Path(batch["name"][0]).stem
        names = sorted(path.name for path in folder.iterdir())
        assert names == ["1_probability.png", "2_mask.png", "3_second_input.png"]
        grey = np.asarray(Image.open(folder / "1_probability.png"))
        np.testing.assert_array_equal(grey, np.rint(batch["image"][0, 0].numpy() * np.float32(255)))
        np.testing.assert_array_equal(read_mask(folder / "2_mask.png"), batch["image"][0, 0] >= 0.6)
        assert np.asarray(Image.open(folder / "3_second_input.png")).shape == (*grey.shape, 3)
    predict(tmp_path, data)
    assert not (tmp_path / "stages").exists(), "those of an earlier prediction do not belong to this one"


def test_overlays_are_views_with_the_region_tinted_and_outlined() -> None:
    source = np.full((600, 2400, 3), 100, np.uint8)
    mask = np.zeros((1200, 4800), bool)  # the source may be reduced already
    mask[400:800, 1000:3000] = True
    ring = np.array([[999.5, 399.5], [2999.5, 399.5], [2999.5, 799.5], [999.5, 799.5]])
    drawn = drawn_polygon(source, mask, [ring])
    assert drawn.shape == (300, 1200, 3)
    rows, columns = np.nonzero(drawn[..., 0] > 150)  # the line, of which half may be tint or picture
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == pytest.approx((100, 200, 250, 750), abs=1.5)
    assert (drawn[:95] == 100).all()
    np.testing.assert_array_equal(drawn[150, 500], np.rint(0.7 * 100 + 0.3 * np.array([230, 159, 0])))
    assert len(rows) < 3 * 2 * (100 + 500)
    assert (source == 100).all()


def test_nothing_but_whole_files_is_left(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    run, data = tmp_path / "run", Pictures()
    with pytest.raises(IndexError):
        predict(run, Pictures(broken=True))
    assert not run.exists()
    predict(run, data)
    text, whole = caplog.messages[-1], contents(run)
    with pytest.raises(IndexError):
        predict(run, Pictures(broken=True))
    assert contents(run) == whole, "the earlier one stays"
    assert sorted(path.name for path in run.iterdir()) == ["masks", "overlays", "polygons.json"]
    found = [record for name, record in polygons(run).items() if name != "empty.tif"]
    vertices, iou = (np.mean([record[key] for record in found]) for key in ("vertices", "iou"))
    assert text.startswith(f"Pictures predicted: 5.\n  {run / 'polygons.json'}\n")
    assert f"4 pictures with something marked: {vertices:.1f} vertices on average; IoU with the mask {iou:.4f}" in text
    data.batches = [data.batch(3)]
    predict(run, data)
    assert caplog.messages[-1].endswith("\nNo picture has anything marked in it, so that there are no polygons.")
    assert [path.name for path in (run / "masks").iterdir()] == ["empty.png"]


def test_two_processes_write_what_one_does(tmp_path: Path) -> None:
    data = Pictures()
    predict(tmp_path / "one", data, keep_stages=True)
    task = Bright(lambda p: torch.optim.SGD(p, 1.0))
    both = {"default_root_dir": tmp_path / "two", "world_size": 2,
            "strategy": SimpleNamespace(broadcast=lambda value: value, barrier=lambda: None)}  # fmt: skip
    trainers: list[Any] = [SimpleNamespace(**both, is_global_zero=rank == 0, global_rank=rank) for rank in (0, 1)]
    writers = [OutlineWriter(keep_stages=True) for _ in trainers]
    for rank in (0, 1):
        writers[rank].on_predict_start(trainers[rank], task)
    for number, batch in enumerate(data.batches):
        writers[number % 2].on_predict_batch_end(trainers[number % 2], task, task.predict(batch), batch, number)
    for rank in (1, 0):
        writers[rank].on_predict_end(trainers[rank], task)
    assert len(contents(tmp_path / "one")) == 1 + 5 * (1 + 1 + 3)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


@pytest.mark.real
@pytest.mark.parametrize("smooth", [False, True])
def test_polygons_of_real_avalanches_are_near_with_few_vertices(real_data: Path, smooth: bool) -> None:
    paths = sorted((real_data / "avalanches" / "masks").glob("*.png"))[::3]
    fitted = [fitted_polygon(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) >= 127, smooth=smooth) for path in paths]
    assert min(iou for _, iou in fitted) >= 0.98
    assert np.mean([sum(map(len, polygon)) for polygon, _ in fitted]) < 200


def test_wrong_arguments_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for options in ({"tolerance": -1}, {"tolerance": float("inf")}, {"least_iou": 98}):
        with pytest.raises(ValueError, match=r"tolerance is .* and least_iou .*; wanted are a distance of 0 pixels"):
            OutlineWriter(**options)  # type: ignore[arg-type]  # numbers all
    with pytest.raises(ValueError, match=r"maps of 4 x 5 at level 1 of a picture of 9 x 10; wanted are 5 x 5"):
        enlarged(torch.zeros(1, 1, 4, 5), 1, (9, 10))
    monkeypatch.setattr(Bright, "predict", lambda self, batch: {"probability": batch["image"][:, :1]})
    with pytest.raises(ValueError, match=r"keep_stages is true and the task predicts no stages; set"):
        predict(tmp_path, Pictures(), keep_stages=True)
