import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from drawing import pictures as drawing

GREY = np.full((40, 60, 3), 100, np.uint8)
CLASSES = ["Fish", "Flower", "Gravel", "Sugar"]


def masks_of(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    masks = np.zeros((len(boxes), *GREY.shape[:2]), bool)
    for mask, (top, bottom, left, right) in zip(masks, boxes, strict=True):
        mask[top:bottom, left:right] = True
    return masks


def holds(image: np.ndarray, color: tuple[int, int, int]) -> bool:
    return bool((image == color).all(axis=-1).any())


def test_overlay_tints_by_hand_computed_values() -> None:
    orange, blue = np.array(drawing.PALETTE[:2], dtype=float)
    drawn = drawing.overlay(GREY, masks_of((5, 20, 10, 30), (10, 35, 20, 50)), opacity=0.25)
    assert drawn[7, 15].tolist() == np.rint(75 + 0.25 * orange).tolist()
    assert drawn[30, 40].tolist() == np.rint(75 + 0.25 * blue).tolist()
    assert drawn[15, 25].tolist() == np.rint(75 + 0.25 * (orange + blue) / 2).tolist()


def test_overlay_outlines_a_box_on_its_inner_border() -> None:
    drawn = drawing.overlay(GREY, masks_of((5, 20, 10, 30)))
    line = (drawn == drawing.PALETTE[0]).all(axis=-1)
    expected = np.zeros_like(line)
    expected[5:20, 10:30] = True
    expected[6:19, 11:29] = False
    assert (line == expected).all()


def test_outlines_that_coincide_show_both_classes_even_along_the_edge_of_the_image() -> None:
    drawn = drawing.overlay(GREY, np.ones((2, 40, 60), bool))
    for edge in (drawn[0], drawn[-1], drawn[:, 0], drawn[:, -1]):
        assert holds(edge, drawing.PALETTE[0])
        assert holds(edge, drawing.PALETTE[1])


def test_overlay_changes_nothing_outside_the_masks() -> None:
    image = np.random.default_rng(0).integers(0, 256, GREY.shape, dtype=np.uint8)
    before, masks = image.copy(), masks_of((5, 20, 10, 30), (10, 35, 20, 50))
    drawn = drawing.overlay(image, masks)
    outside = ~masks.any(axis=0)
    assert (drawn[outside] == image[outside]).all()
    assert (drawn[~outside] != image[~outside]).any(axis=-1).all()
    assert (image == before).all()
    for count in (0, 1, 9):
        assert (drawing.overlay(GREY, np.zeros((count, 40, 60), bool)) == GREY).all()


def test_scaled_keeps_the_aspect_and_masks_stay_where_they_were() -> None:
    assert drawing.scaled(GREY, 120, 120).shape == (80, 120, 3)
    assert drawing.scaled(GREY, 30, 10).shape == (10, 15, 3)
    large = drawing.scaled_masks(masks_of((5, 20, 10, 30)), 120, 80)
    assert (large[0] == np.kron(masks_of((5, 20, 10, 30))[0], np.ones((2, 2), bool))).all()
    assert drawing.scaled_masks(np.zeros((0, 40, 60), bool), 30, 20).shape == (0, 20, 30)


def test_legend_grays_absent_classes_and_has_the_given_width() -> None:
    strip = drawing.legend(CLASSES, 500, [True, False, True, True])
    assert strip.shape[1] == 500
    assert [holds(strip, drawing.color_of(k)) for k in range(4)] == [True, False, True, True]
    assert len({drawing.color_of(k) for k in range(7)}) == 7
    assert drawing.color_of(8) == drawing.color_of(1)
    assert not np.array_equal(drawing.legend(["é"], 100), drawing.legend(["ü"], 100))


def test_wrong_shapes_and_formats_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\(K, 40, 60\), got \(1, 60, 40\)"):
        drawing.overlay(GREY, np.zeros((1, 60, 40), bool))
    with pytest.raises(ValueError, match="2 images in row 1"):
        drawing.panel([[GREY, GREY], [GREY]], ["truth", "prediction"])
    with pytest.raises(ValueError, match=r"\.png, \.jpg or \.jpeg, got .*a\.tif"):
        drawing.save_picture(GREY, tmp_path / "a.tif")


@pytest.mark.parametrize("width", [40, 100, 224, 525, 2100])
def test_legend_wraps_and_never_runs_over_its_borders(width: int) -> None:
    strip = drawing.legend(["a rather long class name"] * 7, width)
    assert (strip[:, -1] == 255).all()
    assert (strip[-1] == 255).all()
    assert all(holds(strip, drawing.color_of(k)) for k in range(7))
    assert strip.shape[0] < drawing.legend(["a rather long class name"] * 14, width).shape[0]


def test_labelled_puts_the_legend_below() -> None:
    wide = np.full((40, 300, 3), 100, np.uint8)
    drawn = drawing.labelled(wide, CLASSES)
    assert (drawn[:40] == wide).all()
    assert (drawn[40:] == drawing.legend(CLASSES, 300)).all()


def test_names_fit_below_a_narrow_image() -> None:
    drawn = drawing.labelled(GREY, ["avalanche"])
    assert (drawn[:40, :60] == GREY).all()
    assert (drawn[:40, 60:] == 255).all()
    ink = np.nonzero((drawn[40:] < 200).all(axis=2).any(axis=0))[0]
    whole = np.nonzero((drawing.legend(["avalanche"], 240) < 200).all(axis=2).any(axis=0))[0]
    np.testing.assert_array_equal(ink, whole)
    assert drawing.labelled(GREY, ["a" * 100]).shape[1] == 240


def test_panel_cells_are_equal_and_hold_the_images_in_order() -> None:
    colors = np.array([[[200, 0, 0], [0, 200, 0]], [[0, 0, 200], [200, 200, 0]]], np.uint8)
    rows = [[np.tile(color, (60, 90, 1)) for color in line] for line in colors]
    rows[1][0] = rows[1][0][:30, :45]
    grid = drawing.panel(rows, ["truth", "prediction"], ["first", "second"])
    found = [[np.argwhere((grid == color).all(axis=-1)) for color in line] for line in colors]
    assert all(len(places) == 60 * 90 for line in found for places in line)
    tops = [[places.min(axis=0).tolist() for places in line] for line in found]
    assert tops[0][0][0] == tops[0][1][0] < tops[1][0][0] == tops[1][1][0]
    assert tops[0][0][1] == tops[1][0][1] < tops[0][1][1] == tops[1][1][1]


@pytest.mark.parametrize("width", [40, 224, 640])
def test_panel_text_stays_inside_the_grid(width: int) -> None:
    name = "Aqua_CorrectedReflectance20071227_-61--40_10-24.jpeg" * 3
    grid = drawing.panel([[np.zeros((30, width, 3), np.uint8)]], ["prediction of the network"], [name])
    assert (grid[:, :2] == 255).all()
    assert (grid[:, -2:] == 255).all()


def test_png_comes_back_the_same_and_nothing_else_is_left(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    drawing.save_picture(image, tmp_path / "new" / "a.png")
    drawing.save_picture(GREY, tmp_path / "new" / "a.JPG")
    assert (np.asarray(Image.open(tmp_path / "new" / "a.png")) == image).all()
    assert Image.open(tmp_path / "new" / "a.JPG").format == "JPEG"
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["a.JPG", "a.png"]


def test_a_failed_write_leaves_the_old_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawing.save_picture(GREY, tmp_path / "a.png")

    def half_written(image: Image.Image, path: Path, **options: object) -> None:
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", half_written)
    with pytest.raises(OSError, match="disk full"):
        drawing.save_picture(GREY + 1, tmp_path / "a.png")
    assert (np.asarray(Image.open(io.BytesIO((tmp_path / "a.png").read_bytes()))) == GREY).all()
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
