import json
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from torchmetrics import Metric

from callbacks.writers.memory import Collector
from callbacks.writers.segmentation.outlines import OutlineWriter
from callbacks.writers.segmentation.polygons import drawn_polygon, fitted_polygon, geojson, outlined
from callbacks.writers.segmentation.stitched import Stitched, Whole
from ops.exact.pyramids import pyramid
from ops.masks.polygons import intersection_over_union, polygon_mask
from tasks.base import Batch, ImageTask
from tasks.decision import Decision
from tasks.metrics.meter import Step
from tests.callbacks.writers.segmentation.test_stitch import by_interpolation
from tests.callbacks.writers.shared import Batches, predict, predict_in_processes, read_mask
from tests.datamodules.helpers import contents

NAMES = ["z.jpg", "a.b.png", "ä.jpg", "empty.tif", "c.jpg"]  # in an order of their own
SIZES = [(140, 231), (97, 61), (64, 128), (40, 60), (201, 77)]
LEVELS = [2, 1, 0, 1, 2]
FILES = [f"{Path(name).stem}.png" for name in NAMES]


class Bright(ImageTask):
    """Finds an image as probable as it is bright, and marks what is likely."""

    classes = ("avalanche",)

    def __init__(self) -> None:
        super().__init__(lambda p: torch.optim.SGD(p, 1.0))
        self.active_decision = Decision(1, threshold=0.6)

    def build_metrics(self) -> dict[str, Metric]:
        return {}

    def step(self, batch: Batch) -> Step:
        raise AssertionError("to predict takes no step")

    def predict(self, batch: Batch) -> dict[str, Any]:
        grey = batch["image"][:, :1]
        stages = {"probability": grey, "mask": self.active_decision.marked(grey), "second_input": batch["image"]}
        return {"stages": stages, "probability": grey}


class Data(Batches):
    """Images of smooth regions, each halved as often as its level says; the fourth is black."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        noise = [cv2.GaussianBlur(rng.random(size), (0, 0), 9) for size in SIZES]
        grays = [cv2.normalize(each, None, 0, 255, cv2.NORM_MINMAX) for each in noise]
        grays[3][:] = 0
        self.sources = [np.dstack([gray] * 3).astype(np.uint8) for gray in grays]
        super().__init__([self.batch(index) for index in (2, 0, 1, 3, 4)])

    def batch(self, index: int) -> Batch:
        image = torch.from_numpy(self.sources[index]).permute(2, 0, 1)[None] / 255
        numbers = {"index": index, "size": SIZES[index], "level": LEVELS[index]}
        return {"image": pyramid(image, LEVELS[index])[-1], "name": [NAMES[index]], "source": [self.sources[index]],
                **{key: torch.tensor([number]) for key, number in numbers.items()}}  # fmt: skip


def run(folder: Path, data: Data, **options: Any) -> None:
    predict(folder, Bright(), data, OutlineWriter(**options))


def polygons(folder: Path) -> dict[str, Any]:
    return cast(dict[str, Any], json.loads((folder / "polygons.json").read_text())["pictures"])


def test_masks_are_as_large_as_the_images_and_marked_after_enlarging(tmp_path: Path) -> None:
    data = Data()
    run(tmp_path, data)
    assert sorted(path.name for path in (tmp_path / "masks").iterdir()) == sorted(FILES)
    for batch in data.loaders[0]:
        index = int(batch["index"])
        drawn = np.asarray(Image.open(tmp_path / "overlays" / FILES[index].replace(".png", ".jpg")))
        height, width = SIZES[index]
        assert drawn.shape[1] == max(width, 98), "small images are not enlarged, but the legend has its room"
        assert (drawn[:height, width + 16 :] > 240).all()  # a JPEG blurs the edge
        mask = read_mask(tmp_path / "masks" / FILES[index])
        likely = by_interpolation(batch["image"][0, 0].numpy(), 2 ** LEVELS[index], SIZES[index])
        assert mask.shape == SIZES[index]
        assert (mask != (likely >= 0.6)).sum() <= 1  # one value is 0.6 but for its last bits
        assert mask.any() == (NAMES[index] != "empty.tif")


@pytest.mark.parametrize("options", [{}, {"smooth": True}, {"tolerance": 0}, {"smooth": True, "tolerance": 0}])
def test_polygons_reproduce_the_masks_with_the_reported_iou(tmp_path: Path, options: dict[str, Any]) -> None:
    run(tmp_path, Data(), **options)
    records = polygons(tmp_path)
    assert list(records) == NAMES
    for name, size, file in zip(NAMES, SIZES, FILES, strict=True):
        record, mask = records[name], read_mask(tmp_path / "masks" / file)
        painted = polygon_mask([np.array(ring) for ring in record["rings"]], size)
        assert record["size"] == list(size)
        assert record["vertices"] == sum(map(len, record["rings"]))
        assert record["iou"] == pytest.approx(intersection_over_union(mask, painted), abs=1e-6)
        assert record["tolerance"] <= options.get("tolerance", 1)
        assert record["iou"] == 1 if options == {"tolerance": 0} else record["iou"] >= 0.98
    assert records["empty.tif"] | {"tolerance": 0} == {
        "size": [40, 60], "rings": [], "vertices": 0, "iou": 1.0, "tolerance": 0,
        "smoothing": int(options.get("smooth", False)), "condition": "shady",
    }  # fmt: skip


def test_options_trade_vertices_for_nearness(tmp_path: Path) -> None:
    counts = []
    for tolerance in (0, 1, 4):
        run(tmp_path, Data(), tolerance=tolerance, least_iou=0)
        counts.append(polygons(tmp_path)["z.jpg"]["vertices"])
    assert counts[0] > 2 * counts[1] > 4 * counts[2]
    assert polygons(tmp_path)["z.jpg"]["iou"] < 0.95
    run(tmp_path, Data(), tolerance=4)
    assert polygons(tmp_path)["z.jpg"]["iou"] >= 0.98


def noisy(size: tuple[int, int] = (120, 160)) -> NDArray[np.bool_]:
    """Two disks with holes, one a third as large as the other, and specks."""
    y, x = np.mgrid[: size[0], : size[1]]
    mask = (np.hypot(y - 60, x - 50) < 40) | (np.hypot(y - 60, x - 120) < 22)
    mask[50:56, 40:60] = mask[60:63, 118:124] = False
    mask[5:7, ::8] = True
    return mask


@pytest.mark.parametrize("smooth", [False, True])
def test_clean_and_single_outlines_have_no_holes_and_specks(smooth: bool) -> None:
    mask = noisy()
    whole = ndimage.binary_fill_holes(mask)
    labels, _ = ndimage.label(whole, np.ones((3, 3)))
    [large, small] = [whole & (labels == labels[60, x]) for x in (50, 120)]
    for outline, expected in (("clean", large | small), ("single", large)):
        found = outlined(mask, smooth=smooth, outline=outline)
        assert len(found.rings) == (2 if outline == "clean" else 1)
        assert 0.95 <= intersection_over_union(polygon_mask(found.rings, mask.shape), expected) < 1
        assert found.iou == pytest.approx(
            intersection_over_union(polygon_mask(found.rings, mask.shape), mask), abs=1e-6
        )
        exact = outlined(mask, smooth=smooth, outline=outline, least_iou=1)
        np.testing.assert_array_equal(polygon_mask(exact.rings, mask.shape), expected)
        assert sum(map(len, found.rings)) < sum(map(len, exact.rings)) / 2
        assert exact.tolerance < found.tolerance <= 4, "1/40 of 160 pixels"
    boxes = [(0.0, 0.0, 60.0, 120.0), (95.0, 30.0, 160.0, 120.0)]
    found = outlined(mask, tolerance=0, outline="single", boxes=boxes)
    large[:, 60:] = False
    np.testing.assert_array_equal(polygon_mask(found.rings, mask.shape), large | small)
    assert not outlined(np.zeros_like(mask), outline="single").rings


def test_the_message_says_where_the_tolerance_was_reduced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    run(tmp_path, Data(), tolerance=4)
    reduced = [record for record in polygons(tmp_path).values() if record["vertices"] and record["tolerance"] < 4]
    assert f"In {len(reduced)} of them the tolerance of 4 pixels was reduced to keep an IoU of 0.98" in caplog.text
    caplog.clear()
    for options in ({"tolerance": 4, "least_iou": 0}, {"outline": "single"}):
        run(tmp_path, Data(), **options)
        assert "reduced" not in caplog.text
    records = polygons(tmp_path)
    assert [len(record["rings"]) for record in records.values()] == [1, 1, 1, 0, 1]
    assert max(record["vertices"] for record in records.values()) < 60


@pytest.mark.parametrize("options", [{}, {"tolerance": 2}, {"outline": "clean", "least_iou": 0.999}])
def test_the_message_says_where_smoothing_was_changed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, options: dict[str, Any]
) -> None:
    caplog.set_level("INFO")
    run(tmp_path, Data(), smooth=True, **options)
    records = [record for record in polygons(tmp_path).values() if record["vertices"]]
    dropped = [record for record in records if record["smoothing"] == 0]
    weaker = [record for record in records if 0 < record["smoothing"] < 1]
    assert dropped or weaker
    assert all(record["tolerance"] == 0 for record in dropped), "then the polygon is the mask's own outline"
    assert (f"In {len(dropped)} of them smoothing was left out" in caplog.text) == bool(dropped)
    asked = "least_iou" not in options  # a tolerance that is searched promises nothing
    assert (f"In {len(weaker)} of them smoothing was reduced" in caplog.text) == (bool(weaker) and asked)


@pytest.mark.parametrize("boxed", [False, True])
@pytest.mark.parametrize("level", [0, 1, 2])
def test_a_known_rectangle_comes_back_within_a_pixel(tmp_path: Path, level: int, boxed: bool) -> None:
    mask, data = torch.nn.functional.pad(torch.ones(1, 1, 71, 123), (57, 50, 31, 39)) > 0, Data()
    full = 1.2 * (mask | boxed).float().expand(1, 3, -1, -1)  # of which one half is what is marked
    given = {"image": pyramid(full, level)[-1], "level": [level], "size": torch.tensor([[141, 230]])}
    data.loaders = [[data.batch(0) | given | ({"inside": mask} if boxed else {})]]
    run(tmp_path, data)
    [ring] = map(np.array, polygons(tmp_path)["z.jpg"]["rings"])
    np.testing.assert_allclose([ring.min(axis=0), ring.max(axis=0)], [[56.5, 30.5], [179.5, 101.5]], atol=1)
    assert intersection_over_union(polygon_mask([ring], (141, 230)), mask[0, 0].numpy()) > 0.97


def test_stages_are_kept_on_request(tmp_path: Path) -> None:
    data, writer = Data(), OutlineWriter(keep_stages=True)
    writer.checkpoints = ["best.ckpt"]  # what is written is listed beside them
    predict(tmp_path, Bright(), data, writer)
    for batch in data.loaders[0]:
        folder = tmp_path / "stages" / Path(batch["name"][0]).stem
        names = sorted(path.name for path in folder.iterdir())
        assert names == ["1_probability.png", "2_mask.png", "3_second_input.png"]
        grey = np.asarray(Image.open(folder / "1_probability.png"))
        np.testing.assert_array_equal(grey, np.rint(batch["image"][0, 0].numpy() * np.float32(255)))
        np.testing.assert_array_equal(read_mask(folder / "2_mask.png"), batch["image"][0, 0] >= 0.6)
        assert np.asarray(Image.open(folder / "3_second_input.png")).shape == (*grey.shape, 3)
    run(tmp_path, data)
    assert not (tmp_path / "stages").exists(), "those of an earlier prediction do not belong to this one"


def test_overlays_are_views_with_the_region_tinted_and_outlined() -> None:
    source = np.full((600, 2400, 3), 100, np.uint8)
    mask = np.zeros((1200, 4800), bool)  # the source may be reduced already
    mask[400:800, 1000:3000] = True
    ring = np.array([[999.5, 399.5], [2999.5, 399.5], [2999.5, 799.5], [999.5, 799.5]])
    drawn = drawn_polygon(source, mask, [ring])
    assert drawn.shape == (300, 1200, 3)
    rows, columns = np.nonzero(drawn[..., 0] > 150)  # the line, of which half may be tint or image
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == pytest.approx((100, 200, 250, 750), abs=1.5)
    assert (drawn[:95] == 100).all()
    np.testing.assert_array_equal(drawn[150, 500], np.rint(0.7 * 100 + 0.3 * np.array([230, 159, 0])))
    assert len(rows) < 3 * 2 * (100 + 500)
    assert (source == 100).all()


def test_the_message_sums_up_the_polygons(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    data = Data()
    run(tmp_path, data)
    found = [record for name, record in polygons(tmp_path).items() if name != "empty.tif"]
    vertices, iou = (np.mean([record[key] for record in found]) for key in ("vertices", "iou"))
    assert f"Images with polygons: 4; {vertices:.1f} vertices on average; IoU with the mask {iou:.4f}" in caplog.text
    data.loaders = [[data.batch(3)]]
    run(tmp_path, data)
    assert caplog.messages[-1].endswith("\nNo polygons: nothing is marked in any image.")
    assert [path.name for path in (tmp_path / "masks").iterdir()] == ["empty.png"]


def test_two_processes_write_the_same_files(tmp_path: Path) -> None:
    run(tmp_path / "one", Data(), keep_stages=True)
    predict_in_processes(tmp_path / "two", Bright(), Data(), lambda: OutlineWriter(keep_stages=True))
    assert len(contents(tmp_path / "one")) == 2 + 5 * (1 + 1 + 3)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_geojson_painted_again_is_the_mask() -> None:
    masks = np.zeros((2, 60, 80), bool)
    masks[0, 5:55, 5:55] = True
    masks[0, 10:50, 10:50] = False  # a hole, with a region that has a hole in it
    masks[0, 20:40, 20:40] = True
    masks[0, 25:30, 25:30] = masks[0, 32:36, 32:36] = False
    masks[0, 10:20, 60:75] = True
    image = Stitched(name="a.png", index=0, classes=["x", "y"], source=np.zeros((60, 80, 3), np.uint8),
                     content=Whole(masks))  # fmt: skip
    found = geojson(image)
    assert json.loads(json.dumps(found)) == found
    nested, empty = found["features"]
    assert [len(shape) for shape in nested["geometry"]["coordinates"]] == [2, 1, 3]
    assert all(ring[0] == ring[-1] for shape in nested["geometry"]["coordinates"] for ring in shape)
    painted = np.zeros((60, 80), bool)
    for outside, *holes in nested["geometry"]["coordinates"]:
        painted |= polygon_mask([np.array(outside[:-1])], (60, 80))
        painted &= ~polygon_mask([np.array(hole[:-1]) for hole in holes], (60, 80))
    np.testing.assert_array_equal(painted, masks[0])
    assert nested["properties"] == {"image": "a.png", "class": "x", "vertices": 24, "iou": 1.0}
    assert empty["geometry"] == {"type": "MultiPolygon", "coordinates": []}


def test_in_memory_are_the_masks_that_are_written(tmp_path: Path) -> None:
    data, collector = Data(), Collector(OutlineWriter())
    run(tmp_path, data)
    predict(tmp_path, Bright(), data, collector)
    for name, file, image in zip(NAMES, FILES, collector.images, strict=True):
        assert image.name == name
        np.testing.assert_array_equal(image.masks[0], read_mask(tmp_path / "masks" / file))
        np.testing.assert_array_equal(image.probability >= 0.6, image.masks)
        assert list(image.stages) == ["probability", "mask", "second_input"]


@pytest.mark.real
@pytest.mark.parametrize("smooth", [False, True])
def test_polygons_of_real_avalanches_are_near_with_few_vertices(real_data: Path, smooth: bool) -> None:
    paths = sorted((real_data / "avalanches" / "masks").glob("*.png"))[::3]
    fitted = [fitted_polygon(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) >= 127, smooth=smooth) for path in paths]
    assert min(iou for _, iou in fitted) >= 0.98
    assert np.mean([sum(map(len, polygon)) for polygon, _ in fitted]) < 200


def test_wrong_arguments_are_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="outline is 'neat'; expected one of raw, clean, single"):
        OutlineWriter(outline="neat")  # type: ignore[arg-type]  # not one of them
    for options in ({"tolerance": -1}, {"tolerance": float("inf")}, {"least_iou": 98}):
        with pytest.raises(ValueError, match=r"expected a tolerance .* and a least_iou"):
            OutlineWriter(**options)  # type: ignore[arg-type]  # all of them numbers
    monkeypatch.setattr(Bright, "predict", lambda self, batch: {"probability": batch["image"][:, :1]})
    with pytest.raises(ValueError, match=r"predicts no stages; set keep_stages to false"):
        run(tmp_path, Data(), keep_stages=True)
    monkeypatch.setattr(Bright, "classes", ("a", "b"))
    with pytest.raises(ValueError, match=r"expected one, got .*'a', 'b'"):
        run(tmp_path, Data())
