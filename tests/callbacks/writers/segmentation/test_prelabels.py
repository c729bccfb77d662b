import json
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from scipy.ndimage import distance_transform_edt, gaussian_filter

from belvedere.__main__ import main
from callbacks.writers.segmentation.polygons import Outlines
from callbacks.writers.segmentation.prelabels import PreLabels, Tool, outlines, without_holes
from callbacks.writers.segmentation.stitched import Stitched, Whole
from ops.masks.polygons import polygon_mask, rings

SIZE = (90, 120)


def blobs(seed: int) -> np.ndarray:
    """A mask with several smooth regions, some with holes."""
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=SIZE), 5)
    return np.asarray(noise > 0.01)


def image(name: str, masks: np.ndarray) -> Stitched:
    source = np.zeros((*masks.shape[1:], 3), np.uint8)
    return Stitched(name=name, index=0, classes=["ice", "rock"], source=source, content=Whole(masks))


def write(tool: Tool, folder: Path, masks: dict[str, np.ndarray], scale: int = 1) -> None:
    """Writes pre-labels of images of a folder, as `predict` does."""
    part = folder / "run" / "part"
    part.mkdir(parents=True)
    writer = PreLabels(tool, lambda name: folder / "images" / name, lambda path: (SIZE[0] * scale, SIZE[1] * scale))
    rows = []
    for name, each in masks.items():
        (folder / "images").mkdir(exist_ok=True)
        Image.new("RGB", (SIZE[1] * scale, SIZE[0] * scale)).save(folder / "images" / name)
        rows += list(writer.write(image(name, each), part))
    writer.finish(rows, part)
    for path in part.iterdir():
        path.rename(part.parent / path.name)


def off(mask: np.ndarray, other: np.ndarray) -> float:
    """How far the pixels that differ lie from the outline of a mask, in pixels."""
    inside = distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    depth = np.maximum(inside, distance_transform_edt(~mask)) - 0.5
    return float(depth[mask != other].max(initial=0))


@pytest.mark.parametrize("tool", get_args(Tool))
def test_a_round_trip_moves_outlines_by_half_a_pixel_at_most(tool: Tool, tmp_path: Path) -> None:
    masks = {"a.png": np.stack([blobs(0), blobs(1)]), "b.jpg": np.zeros((2, *SIZE), np.bool_)}
    write(tool, tmp_path, masks)
    source = tmp_path / "run" / {"labelme": "labelme", "coco": "coco.json", "cvat": "cvat.xml"}[tool]
    command = ["import", "--from", tool, str(source), "--images", str(tmp_path / "images")]
    assert main([*command, "--output", str(tmp_path / "out")]) == 0
    for k, label in enumerate(["ice", "rock"]):
        found = np.asarray(Image.open(tmp_path / f"out/masks/{label}/a.png")) > 0
        assert off(masks["a.png"][k], found) <= 0.5
        assert (found != masks["a.png"][k]).mean() < 0.01
        assert not np.asarray(Image.open(tmp_path / f"out/masks/{label}/b.png")).any()


def test_labels_have_the_size_of_the_image_not_of_the_mask(tmp_path: Path) -> None:
    mask = np.zeros((2, *SIZE), np.bool_)
    mask[0, 10:20, 30:50] = True
    write("labelme", tmp_path, {"a.png": mask}, scale=2)
    document = json.loads((tmp_path / "run/labelme/a.json").read_text())
    assert (document["imageHeight"], document["imageWidth"], document["imageData"]) == (180, 240, None)
    assert (tmp_path / "run/labelme" / document["imagePath"]).samefile(tmp_path / "images/a.png")
    [shape] = document["shapes"]
    assert np.array(shape["points"]).min(axis=0) == pytest.approx([60, 20], abs=1)
    assert np.array(shape["points"]).max(axis=0) == pytest.approx([100, 40], abs=1)


def test_pycocotools_reads_the_same_regions(tmp_path: Path) -> None:
    masks = np.stack([blobs(0), blobs(1)])
    write("coco", tmp_path, {"a.png": masks})
    read = COCO(str(tmp_path / "run/coco.json"))
    for k, label in enumerate(["ice", "rock"]):
        found = read.loadAnns(read.getAnnIds(catIds=read.getCatIds([label])))
        assert len(found) > 2
        union = np.any([read.annToMask(each) for each in found], axis=0)
        assert off(masks[k], union) <= 1  # it rounds corners to a fifth of a pixel, and draws the rims of holes
        for each in found:
            assert each["area"] == pytest.approx(read.annToMask(each).sum(), rel=0.1, abs=5)


def test_a_ring_with_cuts_fills_like_a_region_with_holes() -> None:
    mask = np.zeros((20, 20), np.bool_)
    mask[1:19, 2:18] = True
    mask[4:8, 5:9] = mask[12:16, 9:15] = False
    outer, *holes = sorted(rings(mask), key=lambda ring: -np.ptp(ring, axis=0).sum())
    assert (polygon_mask([without_holes([outer, *holes])], mask.shape) == mask).all()


def test_labels_follow_the_clean_outline_of_the_writer(tmp_path: Path) -> None:
    mask = np.zeros((2, *SIZE), np.bool_)
    mask[0, 10:70, 20:90] = True
    mask[0, 30:40, 40:50] = False  # a hole
    mask[0, 80:84, 5:9] = True  # a speck
    raw, clean = (outlines(image("a.png", mask), SIZE, Outlines(outline=kind)) for kind in ("raw", "clean"))
    assert [len(found) for found in (raw, clean)] == [2, 1]
    assert PreLabels("coco", Path, lambda path: SIZE, Outlines(outline="clean")).like.outline == "clean"
    assert PreLabels("coco", Path, lambda path: SIZE, Outlines(tolerance=3.0)).like.tolerance == 0.5
    filled = polygon_mask([np.array(clean[0].points) - 0.5], SIZE)
    assert filled[30:40, 40:50].all()
    assert not filled[80:84].any()
