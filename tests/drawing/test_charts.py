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

from drawing import charts
from drawing.pictures import PALETTE

GREY = np.full((40, 60, 3), 100, np.uint8)
CLASSES = ["Fish", "Flower", "Gravel", "Sugar"]
NAMES = ["balanced_accuracy", "zeal", "loss", "dice", "auprc", "recall", *(f"iou_{k}" for k in range(6))]


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
    charts.draw_curves(history_of(epochs, metrics), "val/balanced_accuracy", tmp_path / "curves.png", epochs // 2)
    assert_readable(figures[0])
    assert len(figures[0].axes) == metrics
    size = np.rint(figures[0].get_size_inches() * 150)
    assert Image.open(tmp_path / "curves.png").size == tuple(size.astype(int))
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]


def test_curves_show_loss_first_then_the_monitored_then_the_alphabet(tmp_path: Path, figures: list[Figure]) -> None:
    charts.draw_curves(history_of(3, 5), "val/dice", tmp_path / "curves.png")
    titles = [axes.get_title("left") for axes in figures[0].axes]
    assert titles == ["loss", "dice", "auprc", "balanced accuracy", "zeal"]
    history = [{"epoch": epoch, "val/accuracy": 0.5 + epoch / 10, "val/majority": 0.6} for epoch in range(3)]
    charts.draw_curves(history, "val/accuracy", tmp_path / "curves.png", baselines=["majority"])
    assert [axes.get_title("left") for axes in figures[1].axes] == ["accuracy"], "majority is constant"
    with pytest.raises(ValueError, match="expected values like `val/loss`"):
        charts.draw_curves([{"epoch": 0}], "val/loss", tmp_path / "curves.png")


@pytest.mark.parametrize(("best", "value"), [(2, "0.600"), (0, "0.200")])
def test_curves_mark_the_best_epoch_in_every_plot(best: int, value: str, tmp_path: Path, figures: list[Figure]) -> None:
    dice = [0.2, math.nan, 0.6, 0.5]
    history = [{"epoch": e, "val/dice": d, "val/loss": 1.5 - e / 8, "train/lr": 1e-5} for e, d in enumerate(dice)]
    charts.draw_curves(history, "val/dice", tmp_path / "curves.png", best)
    label = f"kept: epoch {best}, val/dice {value}"
    assert [points(axes, label)[0][0] for axes in figures[0].axes] == [best] * 3
    notes = [axes.get_title("right") for axes in figures[0].axes]
    assert notes == [f"epoch {best}: {1.5 - best / 8:.2f}", f"epoch {best}: {value}", f"epoch {best}: 1.00e-05"]
    assert label in [text.get_text() for text in figures[0].legends[0].get_texts()]


def test_curves_span_missing_epochs(tmp_path: Path, figures: list[Figure]) -> None:
    history = [{"epoch": e, "train/loss": e + 1.0} | ({"val/loss": 2.0 * e} if e % 2 else {}) for e in range(4)]
    charts.draw_curves(history, "val/dice", tmp_path / "curves.png", 3)
    assert points(figures[0].axes[0], "training") == [[0, 1], [1, 2], [2, 3], [3, 4]]
    assert points(figures[0].axes[0], "validation") == [[1, 2], [3, 6]]
    assert len(figures[0].axes[0].lines) == 2, "a best epoch of a figure that was never measured"


@pytest.mark.parametrize("count", [0, 1, 5])
def test_study_draws_the_heights_and_is_readable(count: int, tmp_path: Path, figures: list[Figure]) -> None:
    bins = pd.IntervalIndex.from_breaks(np.linspace(0, 1, 21), name="share of the image")
    bars_of = {
        "Images of a class": pd.Series([4, 1, 3, 2], pd.Index(CLASSES, name="class"), name="images"),
        "Mask size": pd.Series(range(20), bins, name="masks"),
        "Black": pd.Series([0.5, 0.25], pd.Index(["a rather long label"] * 2, name="share"), name="images"),
        "Many": pd.Series(range(40), pd.Index(np.linspace(0, 3, 40), name="ratio"), name="masks"),
    }
    example = ("a_very_long_file_name_" * 9 + ".jpeg", GREY, np.ones((4, 40, 60), bool))
    charts.draw_study(bars_of, [example] * count, CLASSES, tmp_path / "study.png")
    assert_readable(figures[0])
    bars, examples = figures[0].axes[:4], figures[0].axes[4:]
    heights = [[patch.get_height() for patch in axes.patches] for axes in bars]
    assert heights == [series.tolist() for series in bars_of.values()]
    colors = [to_hex(patch.get_facecolor()) for patch in bars[0].patches]
    assert colors == ["#{:02x}{:02x}{:02x}".format(*PALETTE[k]) for k in range(4)]
    assert bars[1].get_xticks() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert [bars[1].patches[k].get_x() for k in (0, 10)] == pytest.approx([0, 0.5])
    assert [(axes.get_xlabel(), axes.get_ylabel()) for axes in bars[:2]] == [
        ("class", "images"),
        ("share of the image", "masks"),
    ]
    assert len(examples) == count
    assert all(axes.get_title().startswith("a_very_long") for axes in examples)


def test_ticks_of_counts_are_round(tmp_path: Path, figures: list[Figure]) -> None:
    bars_of = {str(most): pd.Series([0, most, 1], pd.Index(list("abc"), name="class")) for most in (12, 32, 34)}
    charts.draw_study(bars_of, [], [], tmp_path / "study.png")
    steps = [np.diff(axes.get_yticks())[0] for axes in figures[0].axes]
    assert steps == [5, 10, 10]


@pytest.mark.parametrize("count", [2, 4, 5, 7])
def test_no_row_of_charts_has_an_empty_place(count: int, tmp_path: Path, figures: list[Figure]) -> None:
    chart = pd.Series([1, 2], pd.Index(["a", "b"], name="class"))
    charts.draw_study({str(k): chart for k in range(count)}, [], [], tmp_path / "study.png")
    spans = [axes.get_subplotspec() for axes in figures[0].axes]
    rows = {span.rowspan.start: 0 for span in spans}
    for span in spans:
        rows[span.rowspan.start] += len(span.colspan)
    assert set(rows.values()) == {6}


def test_examples_of_a_row_are_equally_high(tmp_path: Path, figures: list[Figure]) -> None:
    shapes = [(40, 60), (60, 40), (40, 40), (30, 80)]
    examples = [("a.jpg", np.zeros((*shape, 3), np.uint8), np.zeros((0, *shape), bool)) for shape in shapes]
    charts.draw_study({}, examples, [], tmp_path / "study.png")
    boxes = [axes.get_window_extent() for axes in figures[0].axes]
    assert [box.width / box.height for box in boxes] == pytest.approx([w / h for h, w in shapes], rel=0.02)
    assert max(box.height for box in boxes) < 1.05 * min(box.height for box in boxes)
    assert figures[0].bbox.height < 1.4 * boxes[0].height


def test_levels_of_a_channel_have_its_color_and_round_ticks(tmp_path: Path, figures: list[Figure]) -> None:
    levels = pd.Series(range(32), pd.IntervalIndex.from_breaks(range(0, 257, 8), name="red level"), name="share")
    levels.attrs["color"] = "#d62728"
    counted = pd.Series(range(40), pd.Index(range(1, 41), name="components"), name="share")
    single = pd.Series([3], pd.Index(["road"], name="category"), name="images")
    bars_of = {"Red": levels, "Components": counted, "One": single}
    charts.draw_study(bars_of, [], [], tmp_path / "study.png", "Dataset Alps")
    red, components = figures[0].axes  # a single bar says nothing
    assert to_hex(red.patches[0].get_facecolor()) == "#d62728"
    assert red.get_xticks()[:4].tolist() == [0, 50, 100, 150]
    assert [label.get_text() for label in components.get_xticklabels()] == [str(k) for k in range(5, 41, 5)]
    assert figures[0].get_suptitle() == "Dataset Alps"


def test_ignored_pixels_are_hatched_and_explained(tmp_path: Path, figures: list[Figure]) -> None:
    bars_of = {"Images": pd.Series([1, 2], pd.Index(["a", "b"], name="class"), name="images")}
    planes = np.zeros((2, 40, 60), bool)
    planes[1, :20] = True  # the last plane is not that of a class
    charts.draw_study(bars_of, [("a.jpg", GREY, planes)], ["road"], tmp_path / "study.png")
    shown = figures[0].axes[1].images[0].get_array()
    half = len(shown) // 2
    assert len(np.unique(shown[: half - 2])) > 1
    assert len(np.unique(shown[half + 2 :])) == 1
    assert "not counted" in [text.get_text() for text in figures[0].subfigs[-1].legends[0].get_texts()]


def test_true_images_are_a_line_in_the_plot_of_their_metric(tmp_path: Path, figures: list[Figure]) -> None:
    history = [{"epoch": e, "val/colorfulness": e, "val/colorfulness_true": 9.0} for e in range(3)]
    charts.draw_curves(history, "val/colorfulness", tmp_path / "curves.png")
    [axes] = figures[0].axes
    assert {each[1] for each in points(axes, "true images")} == {9.0}


def test_names_with_dollars_newlines_and_other_bytes_are_drawn_as_they_are(
    tmp_path: Path, figures: list[Figure]
) -> None:
    names = ["$x^2$", "two\nlines", "caf\udce9", "-dash", r"$\frac{$"]
    counts = pd.Series(range(5), pd.Index(names, name="class"), name="images")
    examples = [(name, GREY, np.ones((5, 40, 60), np.bool_)) for name in names]
    charts.draw_study({"$a$ and $b$": counts}, examples, names, tmp_path / "study.png")
    drawn = {text.get_text() for text in figures[0].findobj(Text)}
    assert {"$x^2$", "two lines", "caf\ufffd", "-dash", r"$\frac{$", "$a$ and $b$"} <= drawn
    assert not any(text.get_parse_math() for text in figures[0].findobj(Text))
