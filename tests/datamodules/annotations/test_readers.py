import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from scipy.ndimage import binary_dilation, binary_erosion

from datamodules.annotations.coco import decoded_runs, read_coco
from datamodules.annotations.cvat import read_cvat
from datamodules.annotations.geojson import read_geojson
from datamodules.annotations.labelme import read_labelme
from datamodules.annotations.labels import Shape, ring, split_of
from datamodules.annotations.mask_images import read_masks
from datamodules.annotations.yolo import read_yolo
from ops.errors import DataError

SQUARE = [[2, 1], [6, 1], [6, 5], [2, 5]]  # columns 2 to 5, rows 1 to 4


def square() -> np.ndarray:
    mask = np.zeros((8, 10), np.bool_)
    mask[1:5, 2:6] = True
    return mask


def picture(path: Path, size: tuple[int, int] = (8, 10)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), 99, np.uint8)).save(path)
    return path


def labelme(path: Path, shapes: list[Any], image: str = "a.png", **others: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": image, "imageData": None,
                "imageHeight": 8, "imageWidth": 10, **others}  # fmt: skip
    path.write_text(json.dumps(document))
    return path


def shape(label: str = "ice", points: Any = SQUARE, kind: str = "polygon", **others: Any) -> dict[str, Any]:
    return {"label": label, "points": points, "shape_type": kind, "group_id": None, "flags": {}, **others}


def near(mask: np.ndarray, other: np.ndarray) -> bool:
    """Whether two masks differ in pixels at the rim of the first only, three to each side."""
    square = np.ones((7, 7), np.bool_)
    return not ((mask != other) & ~(binary_dilation(mask, square) & ~binary_erosion(mask, square))).any()


def test_a_polygon_fills_the_pixels_whose_centers_it_contains() -> None:
    assert (Shape("ice", [[ring(SQUARE)]]).mask((8, 10)) == square()).all()
    hole = ring([[3, 2], [4, 2], [4, 3], [3, 3]])
    cut = Shape("ice", [[ring(SQUARE), hole]]).mask((8, 10))
    assert (np.argwhere(cut != square()) == [[2, 3]]).all()
    pixels = Shape("ice", pixels=np.ones((3, 3), np.bool_), corner=(-1, 8)).mask((8, 10))
    assert np.argwhere(pixels).tolist() == [[0, 8], [0, 9], [1, 8], [1, 9]]


@pytest.mark.parametrize("seed", range(3))
def test_run_lengths_are_those_of_pycocotools(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random((37, 53)) < (0.02, 0.5, 0.98)[seed]
    encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert (decoded_runs(encoded["counts"].decode(), (37, 53)) == mask).all()
    flat = mask.ravel(order="F").astype(np.int8)
    borders = np.flatnonzero(np.diff(np.concatenate([[0], flat]))).tolist()
    lengths = np.diff([0, *borders, flat.size]).tolist()
    assert (decoded_runs(lengths, (37, 53)) == mask).all()
    with pytest.raises(ValueError, match="add up to 1960"):
        decoded_runs([*lengths[:-1], lengths[-1] - 1], (37, 53))


def coco(path: Path, annotations: list[Any], **others: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {"images": [{"id": 7, "file_name": "a.png", "height": 8, "width": 10}],
                "categories": [{"id": 90, "name": "ice"}, {"id": 3, "name": "rock"}],
                "annotations": annotations, **others}  # fmt: skip
    path.write_text(json.dumps(document))
    return path


def test_polygons_and_run_lengths_are_mixed_in_coco(tmp_path: Path) -> None:
    polygons = [[1, 1, 4, 1, 4, 4, 1, 4], [6, 5, 9, 5, 9, 7, 6, 7]]
    filled = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, 8, 10))).astype(np.bool_)
    counts = coco_mask.encode(np.asfortranarray(square().astype(np.uint8)))["counts"].decode()
    path = coco(tmp_path / "train2017" / "x.json", [
        {"id": 1, "image_id": 7, "category_id": 90, "segmentation": polygons},
        {"id": 2, "image_id": 7, "category_id": 3, "segmentation": {"size": [8, 10], "counts": counts}, "iscrowd": 1},
        {"id": 3, "image_id": 7, "category_id": 3, "segmentation": [], "bbox": [2, 1, 4, 4]},
        {"id": 4, "image_id": 8, "category_id": 3, "segmentation": polygons},
        {"id": 5, "image_id": 7, "category_id": 4, "segmentation": polygons},
        {"id": 6, "image_id": 7, "category_id": 3, "segmentation": [[1, 1, 2, 2]]},
    ])  # fmt: skip
    labels = read_coco(path.parents[1])
    [image] = labels.images
    assert (image.split, image.size, [each.label for each in image.shapes]) == (
        "train",
        (8, 10),
        ["ice", "rock", "rock"],
    )
    assert (image.shapes[0].mask((8, 10)) == filled).all()
    assert (image.shapes[1].mask((8, 10)) == square()).all()
    assert (image.shapes[2].kind, image.shapes[0].kind) == ("box", "outline")
    assert (image.shapes[2].mask((8, 10)) == square()).all()
    assert [(each.place, each.reason.split(";")[0]) for each in labels.rejected] == [
        ("annotation 4", "there is no image with the id 8."),
        ("annotation 5", "there is no category with the id 4."),
        ("annotation 6", "it has 2 points"),
    ]


def test_images_of_one_id_or_name_count_once_in_coco(tmp_path: Path) -> None:
    size = {"height": 8, "width": 10}
    images = [{"id": 1, "file_name": "a.png", **size}, {"id": 1, "file_name": "b.png", **size},
              {"id": 2, "file_name": "a.png", **size}]  # fmt: skip
    outline = {"id": 1, "image_id": 1, "category_id": 90, "segmentation": [np.ravel(SQUARE).tolist()]}
    labels = read_coco(coco(tmp_path / "a.json", [outline], images=images))
    assert [(image.image, len(image.shapes)) for image in labels.images] == [("a.png", 1)]
    assert [(each.place, "id" in each.reason) for each in labels.rejected] == [
        ("image b.png", True),
        ("image a.png", False),
    ]


@pytest.mark.parametrize(
    ("reader", "name"), [(read_coco, "a.json"), (read_geojson, "a.geojson"), (read_labelme, "a.json")]
)
def test_a_broken_file_is_rejected_and_others_are_read(reader: Any, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("{")
    if reader is read_coco:
        coco(tmp_path / "b.json", [])
    elif reader is read_labelme:
        labelme(tmp_path / "b.json", [shape()])
    else:
        (tmp_path / "b.geojson").write_text('{"type": "FeatureCollection", "features": []}')
    labels = reader(tmp_path)
    assert labels.images
    assert [each.file.name for each in labels.rejected] == [name]


def test_other_json_is_not_coco(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(DataError, match="no COCO file"):
        read_coco(tmp_path)
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(DataError, match="is not JSON"):
        read_coco(tmp_path)


def test_every_shape_of_labelme_is_read_or_rejected(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(square()[1:5, 2:6].astype(np.uint8) * 255).save(buffer, "PNG")
    encoded = base64.b64encode(buffer.getvalue()).decode()
    labelme(tmp_path / "a.json", [
        shape(), shape(points=[[6, 5], [2, 1]], kind="rectangle"),
        shape(points=[[2, 1], [5, 4]], kind="mask", mask=encoded), shape(points=[[4, 4], [4, 6]], kind="circle"),
        shape(kind="linestrip"), shape(points=[[0, 0], [1, 1]]), shape(label=" "), shape(kind="mask"), 5,
        shape(kind="circle", points=None), shape(kind="rectangle", points={"x": 1}),
    ], image="C:\\photos\\a.png")  # fmt: skip
    (tmp_path / "other.json").write_text("{}")
    labels = read_labelme(tmp_path)
    [image] = labels.images
    assert image.image == "C:\\photos\\a.png"
    assert all((each.mask((8, 10)) == square()).all() for each in image.shapes[:3])
    assert image.shapes[1].kind == "box"
    assert image.shapes[3].mask((8, 10)).sum() == 12  # a circle of radius 2, pi * 4
    found = [(each.place, each.reason) for each in labels.rejected]
    assert [place for place, _ in found] == ["shape 5 (ice)", "shape 6 (ice)", "shape 7 ( )", "shape 8 (ice)",
                                             "shape 9 (None)", "shape 10 (ice)", "shape 11 (ice)", "file"]  # fmt: skip
    for (_, reason), word in zip(
        found,
        ["linestrip", "2 points", "no label", "4 points|mask", "label", "no points", "float|points", "shapes"],
        strict=True,
    ):
        assert any(each in reason for each in word.split("|")), reason


CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version><meta><task><size>2</size></task></meta>
<image id="0" name="sub/a.png" width="10" height="8" subset="Validation">
  <polygon label="rock" points="2.00,1.00;6.00,1.00;6.00,5.00;2.00,5.00" z_order="1"/>
  <mask label="ice" rle="5, 2, 2, 2, 5" left="2" top="1" width="4" height="4" z_order="0"/>
  <box label="ice" xtl="2" ytl="2" xbr="6" ybr="4" rotation="90" z_order="2"/>
  <ellipse label="ice" cx="5" cy="4" rx="3" ry="2" rotation="90" z_order="3"/>
  <polyline label="ice" points="0,0;1,1"/>
  <mask label="ice" rle="3" left="0" top="0" width="4" height="4"/>
  <polygon label="ice" points="0,0;1,x;2,2"/>
  <tag label="sunny"/>
</image>
<image id="1" name="b.png" width="10" height="8"/>
</annotations>"""


def test_cvat_is_read_in_its_drawing_order(tmp_path: Path) -> None:
    (tmp_path / "annotations.xml").write_text(CVAT)
    labels = read_cvat(tmp_path)
    first, second = labels.images
    assert (first.image, first.size, first.split, second.shapes, second.split) == (
        "sub/a.png",
        (8, 10),
        "val",
        [],
        None,
    )
    mask, polygon, box, ellipse = first.shapes
    assert np.argwhere(mask.mask((8, 10))).tolist() == [[2, 3], [2, 4], [3, 3], [3, 4]]
    assert (polygon.mask((8, 10)) == square()).all()
    assert np.argwhere(box.mask((8, 10))).tolist() == [[y, x] for y in range(1, 5) for x in (3, 4)]  # turned
    rows, columns = np.nonzero(ellipse.mask((8, 10)))
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (6, 4)
    assert [each.place.split(", ")[1] for each in labels.rejected] == [
        "shape 5 (ice)",
        "shape 6 (ice)",
        "shape 7 (ice)",
    ]


def test_other_xml_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text("<annotation/>")  # of VOC
    (tmp_path / "b.xml").write_text('<!DOCTYPE a [<!ENTITY b "c">]><annotations/>')
    (tmp_path / "c.xml").write_text("<annotations><track/></annotations>")
    reasons = [each.reason for each in read_cvat(tmp_path).rejected]
    assert ["annotations" in reasons[0], "document type" in reasons[1], "tracks" in reasons[2]] == [True] * 3


def test_yolo_has_boxes_polygons_and_negatives(tmp_path: Path) -> None:
    for name in ("images/train/a.png", "images/val/b.png", "images/val/none.png"):
        picture(tmp_path / name)
    for name in ("train/a", "val/b"):
        (tmp_path / "labels" / name).parent.mkdir(parents=True)
    (tmp_path / "data.yaml").write_text("names: {0: ice, 2: rock}\nnc: 2\n")
    (tmp_path / "labels/train/a.txt").write_text(
        "2 0.4 0.375 0.4 0.5\n0 0.2 0.125 0.6 0.125 0.6 0.625 0.2 0.625\n1 .1 .1 .1 .1\n0 2 2 2 2\n0 .1 .1 .2\n"
    )
    (tmp_path / "labels/val/b.txt").write_text("")
    labels = read_yolo(tmp_path)
    found = {each.image: each for each in labels.images}
    first = found["images/train/a.png"]
    assert [(each.label, each.kind) for each in first.shapes] == [("rock", "box"), ("ice", "outline")]
    assert all((each.mask((8, 10)) == square()).all() for each in first.shapes)
    assert {name: (each.split, len(each.shapes)) for name, each in found.items()} == {
        "images/train/a.png": ("train", 2), "images/val/b.png": ("val", 0), "images/val/none.png": ("val", 0)
    }  # fmt: skip
    assert [each.place for each in labels.rejected] == ["line 3", "line 4", "line 5"]


@pytest.mark.parametrize(
    ("reader", "name", "text"),
    [(read_masks, "labelmap.txt", "ice:1,2:part:"), (read_yolo, "data.yaml", "names: {ice: rock}\n")],
)
def test_damaged_lists_of_classes_are_named(reader: Any, name: str, text: str, tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=name):
        reader(tmp_path)


def test_geojson_has_holes_and_belvederes_own_centers(tmp_path: Path) -> None:
    outer, hole = [*SQUARE, SQUARE[0]], [[3, 2], [4, 2], [4, 3], [3, 3], [3, 2]]
    centers = [[x - 0.5, y - 0.5] for x, y in SQUARE]
    features = [
        {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [outer, hole]},
         "properties": {"classification": {"name": "ice"}}},
        {"type": "Feature", "geometry": {"type": "MultiPolygon", "coordinates": [[centers]]},
         "properties": {"class": "rock", "image": "b.png", "iou": 1.0}},
        {"type": "Feature", "geometry": {"type": "Point", "coordinates": [1, 1]}, "properties": {}},
        {"type": "Feature", "geometry": {"type": "Polygon"}, "properties": {}},
    ]  # fmt: skip
    (tmp_path / "a.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    (tmp_path / "c.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [], "crs": {}}))
    labels = read_geojson(tmp_path)
    assert [(each.image, [shape.label for shape in each.shapes]) for each in labels.images] == [
        ("a", ["ice"]), ("b.png", ["rock"])
    ]  # fmt: skip
    assert (np.argwhere(labels.images[0].shapes[0].mask((8, 10)) != square()) == [[2, 3]]).all()
    assert (labels.images[1].shapes[0].mask((8, 10)) == square()).all()
    assert [each.place for each in labels.rejected] == ["feature 3", "feature 4", "file"]


def test_masks_have_numbers_or_colors(tmp_path: Path) -> None:
    numbers = np.zeros((8, 10), np.uint8)
    numbers[1:5, 2:6], numbers[7], numbers[0] = 2, 255, 9
    for folder, text in (("plain", ""), ("listed", "_background_\nrock\nice\n")):
        (tmp_path / folder).mkdir()
        Image.fromarray(numbers).save(tmp_path / folder / "a.png")
        if text:
            (tmp_path / folder / "class_names.txt").write_text(text)
    plain = read_masks(tmp_path / "plain")
    assert [each.label for each in plain.images[0].shapes] == ["_background_", "2", "9", "255"]
    listed = read_masks(tmp_path / "listed")
    assert [each.label for each in listed.images[0].shapes] == ["_background_", "ice", "__ignore__"]
    assert (listed.images[0].shapes[1].mask((8, 10)) == square()).all()
    assert [each.place for each in listed.rejected] == ["value 9"]
    (tmp_path / "colors").mkdir()
    Image.fromarray(square()[..., None] * np.array([10, 20, 30], np.uint8)).save(tmp_path / "colors" / "a.png")
    (tmp_path / "labelmap.txt").write_text("# label:color_rgb:parts:actions\nbackground:0,0,0::\nice:10,20,30::\n")
    colors = read_masks(tmp_path / "colors")
    assert [each.label for each in colors.images[0].shapes] == ["_background_", "ice"]
    assert (colors.images[0].shapes[1].mask((8, 10)) == square()).all()


def test_splits_are_words_of_paths() -> None:
    assert [split_of(text) for text in ("images/train2017/a.jpg", "valid/x", "instances_test.json", "straining/a")] == [
        "train", "val", "test", None
    ]  # fmt: skip


@pytest.mark.real
def test_three_formats_of_the_same_labels_agree(real_data: Path) -> None:
    source = real_data / "annotations"
    masks = {each.image: each for each in read_masks(source / "voc").images}
    drawn = {Path(each.image).name: each for each in read_coco(source / "coco").images}
    for path in sorted((source / "labelme").glob("*.json")):
        [image] = read_labelme(path).images
        assert image.size is not None
        instances = path.stem.endswith("_instances")  # the COCO file is made of these, the masks of the others
        other = (drawn if instances else masks)[image.image if instances else f"{path.stem}.png"]
        for label in {each.label for each in image.shapes} - {"__ignore__"}:
            found, made = (
                np.any([each.mask(image.size) for each in shapes if each.label == label], axis=0)
                for shapes in (image.shapes, other.shapes)
            )
            if instances:
                assert (found == made).all()
            else:  # these also have the pixels on the outline, and later shapes hide earlier ones
                later = np.any([each.mask(image.size) for each in image.shapes if each.label != label], axis=0)
                assert near(found, made | (found & later))
                assert (found & made).sum() > 0.9 * (found | made).sum()
