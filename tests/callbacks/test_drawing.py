import io
import itertools
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from callbacks import drawing

GREY = np.full((40, 60, 3), 100, np.uint8)
CLASSES = ["Fish", "Flower", "Gravel", "Sugar"]
NAMES = ["balanced_accuracy", "zeal", "loss", "dice", "auprc", "recall", *(f"iou_{k}" for k in range(6))]


def masks_of(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    masks = np.zeros((len(boxes), *GREY.shape[:2]), bool)
    for mask, (top, bottom, left, right) in zip(masks, boxes, strict=True):
        mask[top:bottom, left:right] = True
    return masks


def holds(picture: np.ndarray, color: tuple[int, int, int]) -> bool:
    return bool((picture == color).all(axis=-1).any())


def test_overlay_changes_nothing_outside_the_masks() -> None:
    image = np.random.default_rng(0).integers(0, 256, GREY.shape, dtype=np.uint8)
    before, masks = image.copy(), masks_of((5, 20, 10, 30), (10, 35, 20, 50))
    drawn = drawing.overlay(image, masks)
    outside = ~masks.any(axis=0)
    assert (drawn[outside] == image[outside]).all()
    assert (drawn[~outside] != image[~outside]).any(axis=-1).all()
    assert (image == before).all()


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


def test_outlines_that_coincide_show_both_classes_even_along_the_edge_of_the_picture() -> None:
    drawn = drawing.overlay(GREY, np.ones((2, 40, 60), bool))
    for edge in (drawn[0], drawn[-1], drawn[:, 0], drawn[:, -1]):
        assert holds(edge, drawing.PALETTE[0])
        assert holds(edge, drawing.PALETTE[1])


@pytest.mark.parametrize("count", [0, 1, 9])
def test_empty_masks_leave_the_picture_as_it_is(count: int) -> None:
    assert (drawing.overlay(GREY, np.zeros((count, 40, 60), bool)) == GREY).all()


def test_overlay_refuses_masks_of_another_size() -> None:
    with pytest.raises(ValueError, match=r"\(1, 60, 40\).*\(K, 40, 60\) was wanted; resize"):
        drawing.overlay(GREY, np.zeros((1, 60, 40), bool))


def test_colors_differ_for_seven_classes_and_then_repeat() -> None:
    assert len({drawing.color_of(k) for k in range(7)}) == 7
    assert drawing.color_of(8) == drawing.color_of(1)


def test_scaled_keeps_the_aspect_and_masks_stay_where_they_were() -> None:
    assert drawing.scaled(GREY, 120, 120).shape == (80, 120, 3)
    assert drawing.scaled(GREY, 30, 10).shape == (10, 15, 3)
    large = drawing.scaled_masks(masks_of((5, 20, 10, 30)), 120, 80)
    assert (large[0] == np.kron(masks_of((5, 20, 10, 30))[0], np.ones((2, 2), bool))).all()
    assert drawing.scaled_masks(np.zeros((0, 40, 60), bool), 30, 20).shape == (0, 20, 30)


def test_legend_greys_what_is_absent_and_is_as_wide_as_asked() -> None:
    strip = drawing.legend(CLASSES, 500, [True, False, True, True])
    assert strip.shape[1] == 500
    assert [holds(strip, drawing.color_of(k)) for k in range(4)] == [True, False, True, True]


@pytest.mark.parametrize("width", [40, 100, 224, 525, 2100])
def test_legend_wraps_and_never_runs_over_its_borders(width: int) -> None:
    strip = drawing.legend(["a rather long class name"] * 7, width)
    assert (strip[:, -1] == 255).all()
    assert (strip[-1] == 255).all()
    assert all(holds(strip, drawing.color_of(k)) for k in range(7))
    assert strip.shape[0] < drawing.legend(["a rather long class name"] * 14, width).shape[0]


def test_legend_has_accented_letters() -> None:
    assert not np.array_equal(drawing.legend(["é"], 100), drawing.legend(["ü"], 100))


def test_labelled_puts_the_legend_below() -> None:
    drawn = drawing.labelled(GREY, CLASSES)
    assert (drawn[:40] == GREY).all()
    assert (drawn[40:] == drawing.legend(CLASSES, 60)).all()


def test_panel_cells_are_equal_and_hold_the_pictures_in_order() -> None:
    colors = np.array([[[200, 0, 0], [0, 200, 0]], [[0, 0, 200], [200, 200, 0]]], np.uint8)
    rows = [[np.tile(color, (60, 90, 1)) for color in line] for line in colors]
    rows[1][0] = rows[1][0][:30, :45]
    grid = drawing.panel(rows, ["truth", "prediction"], ["first", "second"])
    found = [[np.argwhere((grid == color).all(axis=-1)) for color in line] for line in colors]
    assert all(len(places) == 60 * 90 for line in found for places in line)
    tops = [[places.min(axis=0).tolist() for places in line] for line in found]
    assert tops[0][0][0] == tops[0][1][0] < tops[1][0][0] == tops[1][1][0]
    assert tops[0][0][1] == tops[1][0][1] < tops[0][1][1] == tops[1][1][1]


def test_panel_refuses_a_row_of_another_length() -> None:
    with pytest.raises(ValueError, match="row 1 has 1 pictures, 2 were wanted"):
        drawing.panel([[GREY, GREY], [GREY]], ["truth", "prediction"])


@pytest.mark.parametrize("width", [40, 224, 640])
def test_panel_text_stays_inside_the_grid(width: int) -> None:
    name = "Aqua_CorrectedReflectance20071227_-61--40_10-24.jpeg" * 3
    grid = drawing.panel([[np.zeros((30, width, 3), np.uint8)]], ["prediction of the network"], [name])
    assert (grid[:, :2] == 255).all()
    assert (grid[:, -2:] == 255).all()


def test_png_comes_back_the_same_and_nothing_else_is_left(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    drawing.save_picture(picture, tmp_path / "new" / "a.png")
    drawing.save_picture(GREY, tmp_path / "new" / "a.JPG")
    assert (np.asarray(Image.open(tmp_path / "new" / "a.png")) == picture).all()
    assert Image.open(tmp_path / "new" / "a.JPG").format == "JPEG"
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["a.JPG", "a.png"]


def test_a_failed_write_leaves_the_old_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawing.save_picture(GREY, tmp_path / "a.png")

    def half_written(image: Image.Image, path: Path, **options: object) -> None:
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", half_written)
    with pytest.raises(OSError, match="disk full"):
        drawing.save_picture(GREY + 1, tmp_path / "a.png")
    assert (np.asarray(Image.open(io.BytesIO((tmp_path / "a.png").read_bytes()))) == GREY).all()
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_save_picture_refuses_other_formats(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'\.tif', \.png, \.jpg or \.jpeg was wanted"):
        drawing.save_picture(GREY, tmp_path / "a.tif")


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved, for a look inside."""
    saved: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (saved.append(self), save(self, *a, **k))[1])
    return saved


def assert_readable(figure: Figure) -> None:
    """No level text is cut by the border, none lies over another."""
    hidden = {id(text) for axes in figure.axes if not axes.axison for text in axes.findobj(Text)}
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = axis.get_view_interval()
            hidden |= {id(tick.label1) for tick in axis.majorTicks if not low <= tick.get_loc() <= high}
    texts = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
    level = [text for text in texts if text.get_rotation() in (0, 90) and id(text) not in hidden]
    boxes = {text: text.get_window_extent() for text in level}
    for text, box in boxes.items():
        assert min(box.x0, box.y0) >= 0, text
        assert box.x1 <= figure.bbox.x1, text
        assert box.y1 <= figure.bbox.y1, text
    for one, other in itertools.combinations(boxes, 2):
        assert not boxes[one].overlaps(boxes[other]), (one, other)


def history_of(epochs: int, metrics: int) -> list[dict[str, float]]:
    keys = [f"{stage}/{name}" for name in NAMES[:metrics] for stage in ("train", "val")]
    return [{"epoch": epoch} | {key: math.sin(epoch + k) for k, key in enumerate(keys)} for epoch in range(epochs)]


def points(axes: Axes, label: str) -> list[list[float]]:
    (line,) = [line for line in axes.lines if line.get_label() == label]
    return np.asarray(line.get_xydata()).tolist()


@pytest.mark.parametrize(("epochs", "metrics"), [(1, 1), (1, 2), (8, 5), (60, 11), (300, 4)])
def test_curves_are_readable(epochs: int, metrics: int, tmp_path: Path, figures: list[Figure]) -> None:
    drawing.draw_curves(history_of(epochs, metrics), "val/balanced_accuracy", tmp_path / "curves.png", "max")
    assert_readable(figures[0])
    assert len(figures[0].axes) == metrics
    size = np.rint(figures[0].get_size_inches() * 150)
    assert Image.open(tmp_path / "curves.png").size == tuple(size.astype(int))
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]


def test_curves_show_loss_first_then_the_monitored_then_the_alphabet(tmp_path: Path, figures: list[Figure]) -> None:
    drawing.draw_curves(history_of(3, 5), "val/dice", tmp_path / "curves.png", "max")
    assert [axes.get_title("left") for axes in figures[0].axes] == [
        "loss",
        "dice",
        "auprc",
        "balanced accuracy",
        "zeal",
    ]


@pytest.mark.parametrize(("mode", "best", "value"), [("max", 2, "0.600"), ("min", 0, "0.200")])
def test_curves_mark_the_best_epoch_in_every_plot(
    mode: str, best: int, value: str, tmp_path: Path, figures: list[Figure]
) -> None:
    dice = [0.2, math.nan, 0.6, 0.5]
    history = [{"epoch": e, "val/dice": d, "val/loss": 1.5 - e / 8, "train/lr": 1e-5} for e, d in enumerate(dice)]
    drawing.draw_curves(history, "val/dice", tmp_path / "curves.png", mode)
    label = f"best: epoch {best}, val/dice {value}"
    assert [points(axes, label)[0][0] for axes in figures[0].axes] == [best] * 3
    notes = [axes.get_title("right") for axes in figures[0].axes]
    assert notes == [
        f"epoch {best}: {1.5 - best / 8:.2f}",
        f"epoch {best}: {value}",
        f"epoch {best}: 1.00e-05",
    ]
    assert label in [text.get_text() for text in figures[0].legends[0].get_texts()]


def test_curves_span_what_was_not_measured(tmp_path: Path, figures: list[Figure]) -> None:
    history = [{"epoch": e, "train/loss": e + 1.0} | ({"val/loss": 2.0 * e} if e % 2 else {}) for e in range(4)]
    drawing.draw_curves(history, "val/dice", tmp_path / "curves.png")
    assert points(figures[0].axes[0], "training") == [[0, 1], [1, 2], [2, 3], [3, 4]]
    assert points(figures[0].axes[0], "validation") == [[1, 2], [3, 6]]
    assert len(figures[0].axes[0].lines) == 2, "a best epoch of a figure that was never measured"


def test_curves_refuse_a_history_without_values(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no values, some like `val/loss` were wanted"):
        drawing.draw_curves([{"epoch": 0}], "val/loss", tmp_path / "curves.png")


@pytest.mark.parametrize("count", [0, 1, 5])
def test_study_draws_the_heights_and_is_readable(count: int, tmp_path: Path, figures: list[Figure]) -> None:
    bins = pd.IntervalIndex.from_breaks(np.linspace(0, 1, 21), name="share of the picture")
    charts = {
        "Pictures of a class": pd.Series([4, 1, 3, 2], pd.Index(CLASSES, name="class"), name="pictures"),
        "Mask size": pd.Series(range(20), bins, name="masks"),
        "Black": pd.Series([0.5, 0.25], pd.Index(["a rather long label"] * 2, name="share"), name="pictures"),
        "Many": pd.Series(range(40), pd.Index(np.linspace(0, 3, 40), name="ratio"), name="masks"),
    }
    example = ("a_very_long_file_name_" * 9 + ".jpeg", GREY, masks_of(*[(5, 20, 10, 30)] * 4))
    drawing.draw_study(charts, [example] * count, CLASSES, tmp_path / "study.png")
    assert_readable(figures[0])
    bars, examples = figures[0].axes[:4], figures[0].axes[4:]
    heights = [[patch.get_height() for patch in axes.patches] for axes in bars]
    assert heights == [series.tolist() for series in charts.values()]
    colors = [to_hex(patch.get_facecolor()) for patch in bars[0].patches]
    assert colors == ["#{:02x}{:02x}{:02x}".format(*drawing.PALETTE[k]) for k in range(4)]
    assert [label.get_text() for label in bars[1].get_xticklabels()] == [f"{k / 10:.3g}" for k in range(11)]
    assert bars[1].get_xticks().tolist() == [2 * k - 0.5 for k in range(11)]
    assert [(axes.get_xlabel(), axes.get_ylabel()) for axes in bars[:2]] == [
        ("class", "pictures"),
        ("share of the picture", "masks"),
    ]
    assert len(examples) == count
    assert all(axes.get_title().startswith("a_very_long") for axes in examples)
