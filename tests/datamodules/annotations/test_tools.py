"""Compares with the annotation tools' own libraries, where they are installed."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.annotations.coco import read_coco
from datamodules.annotations.cvat import read_cvat
from datamodules.annotations.labelme import read_labelme
from datamodules.annotations.labels import Labels
from datamodules.annotations.yolo import read_yolo
from tests.callbacks.writers.segmentation.test_prelabels import SIZE, blobs, off, write

NEAR = 2.0  # pixels: Pillow and OpenCV also fill what the outline crosses; supervision rounds corners to whole pixels
MASKS = {"a.png": np.stack([blobs(0), blobs(1)])}


def union(labels: Labels, label: str) -> np.ndarray:
    """All shapes of a class in the only image, as our reader fills them."""
    [image] = labels.images
    return np.any([shape.mask(SIZE) for shape in image.shapes if shape.label == label], axis=0)


def test_labelme_opens_the_labels_and_fills_the_same_pixels(tmp_path: Path) -> None:
    labelme = pytest.importorskip("labelme")
    utils = pytest.importorskip("labelme.utils")
    write("labelme", tmp_path, MASKS)
    file = tmp_path / "run/labelme/a.json"
    opened = labelme.LabelFile(str(file))
    assert opened.imageData == (tmp_path / "images/a.png").read_bytes()
    assert {shape["label"] for shape in opened.shapes} == {"ice", "rock"}
    ours = read_labelme(file.parent)
    for label in ("ice", "rock"):
        filled = [utils.shape_to_mask(SIZE, shape["points"], shape["shape_type"])
                  for shape in opened.shapes if shape["label"] == label]  # fmt: skip
        assert off(union(ours, label), np.any(filled, axis=0)) <= NEAR


@pytest.mark.real
def test_labelme_fills_its_own_files_as_we_do(real_data: Path) -> None:
    utils, labelme = pytest.importorskip("labelme.utils"), pytest.importorskip("labelme")
    home = real_data / "annotations/labelme"
    read = {Path(each.image).name: each for each in read_labelme(home).images}
    for name, image in read.items():
        opened = labelme.LabelFile(str(home / f"{Path(name).stem}.json"))
        with Image.open(home / name) as picture:
            size = (picture.height, picture.width)
        assert len(opened.shapes) == len(image.shapes)
        for theirs, ours in zip(opened.shapes, image.shapes, strict=True):
            filled = utils.shape_to_mask(size, theirs["points"], theirs["shape_type"])
            assert theirs["label"] == ours.label
            assert off(ours.mask(size), filled) <= NEAR


def test_supervision_reads_the_same_regions_of_coco(tmp_path: Path) -> None:
    supervision = pytest.importorskip("supervision")
    write("coco", tmp_path, MASKS)
    file = tmp_path / "run/coco.json"
    found = supervision.DetectionDataset.from_coco(str(tmp_path / "images"), str(file), force_masks=True)
    [(_, _, detections)] = list(found)
    ours = read_coco(file)
    assert sorted(found.classes) == ["ice", "rock"]
    for number, label in enumerate(found.classes):
        filled = detections.mask[detections.class_id == number].any(axis=0)
        assert off(union(ours, label), filled) <= NEAR


def test_supervision_reads_the_same_polygons_of_yolo(tmp_path: Path) -> None:
    supervision = pytest.importorskip("supervision")
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    Image.new("RGB", (SIZE[1], SIZE[0])).save(tmp_path / "images/a.png")
    (tmp_path / "labels/a.txt").write_text("0 .1 .1 .6 .2 .5 .7 .2 .6\n1 .7 .5 .9 .5 .8 .9\n")
    (tmp_path / "classes.txt").write_text("ice\nrock\n")
    (tmp_path / "data.yaml").write_text("names: [ice, rock]\nnc: 2\n")
    found = supervision.DetectionDataset.from_yolo(
        str(tmp_path / "images"), str(tmp_path / "labels"), str(tmp_path / "data.yaml"), force_masks=True
    )
    [(_, _, detections)] = list(found)
    ours = read_yolo(tmp_path)
    for number, label in enumerate(["ice", "rock"]):
        filled = detections.mask[detections.class_id == number].any(axis=0)
        assert union(ours, label).any()
        assert off(union(ours, label), filled) <= NEAR


def test_run_lengths_of_cvat_are_those_of_its_sdk(tmp_path: Path) -> None:
    masks = pytest.importorskip("cvat_sdk.masks")
    mask = blobs(2)
    rows, columns = np.nonzero(mask)
    left, top, right, bottom = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    *lengths, x0, y0, x1, y1 = masks.encode_mask(mask, [left, top, right, bottom])
    text = ", ".join(f"{length:.0f}" for length in lengths)
    place = f'left="{x0:.0f}" top="{y0:.0f}" width="{x1 - x0 + 1:.0f}" height="{y1 - y0 + 1:.0f}"'
    image = f'<image id="0" name="a.png" width="{SIZE[1]}" height="{SIZE[0]}"><mask label="ice" rle="{text}" {place}/>'
    (tmp_path / "annotations.xml").write_text(f"<annotations>{image}</image></annotations>")
    assert (union(read_cvat(tmp_path / "annotations.xml"), "ice") == mask).all()
