from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from PIL import Image

from drawing.charts import hex_color
from drawing.pictures import font_of
from studies.figures import (
    drawn_bars,
    drawn_curves,
    drawn_panel,
    drawn_predictions,
    drawn_steps,
    named,
    read_curves,
    write_figures,
)
from studies.results import read_results

Make = Callable[..., Any]
TITLES = ["U-Net · ResNet-34", "U-Net · Wide | odd", "FPN · ResNet-34", "FPN · Wide | odd"]
CURVE = {"train": [0.3, 0.5, 0.7], "val": [0.2, 0.6, 0.4]}


def rows_of(made: Any) -> Any:
    return read_results(made.study, made.folder)


def curves_of(made: Any) -> Any:
    figure = drawn_curves(made.study, made.folder, made.study.curves[0])
    assert figure is not None
    return figure


def bars_of(made: Any) -> Any:
    figure = drawn_bars(made.study, rows_of(made), made.folder)
    assert figure is not None
    return figure


def panel_of(made: Any) -> Any:
    figure = drawn_predictions(made.study, rows_of(made), made.folder)
    assert figure is not None
    return figure


def labels_of(axes: Any) -> list[str]:
    return [text.get_text() for text in axes.get_yticklabels()]


def lines_of(axes: Any) -> list[tuple[list[float], list[float]]]:
    return [(list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines]


def texts_of(axes: Any) -> list[str]:
    return [text.get_text().strip() for text in axes.texts]


def add_image(folder: Path, name: str, color: tuple[int, int, int]) -> None:
    path = folder / "predict-photos" / "overlays" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (60, 40), color).save(path, quality=100)


def test_curves_are_read_by_epoch(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text(
        "epoch,step,train/dice,val/dice,val/loss\n0,5,,0.25,1\n0,5,0.5,,\n1,10,,0.5,1\n1,11,,0.75,\n2,15,,nan,1\n"
    )
    assert read_curves(path, "val/dice") == {"train": {0: 0.5}, "val": {0: 0.25, 1: 0.75}}
    assert read_curves(tmp_path / "missing.csv", "val/dice") == {"train": {}, "val": {}}


def test_curves_are_means_with_bands_and_dots(make: Make) -> None:
    made = make()
    made.write("u-net--resnet-34", 0, curve=CURVE, best_epoch=1)
    made.write("u-net--resnet-34", 1, curve={"train": [0.5, 0.7], "val": [0.4, 0.8]}, best_epoch=1)
    figure = curves_of(made)
    first, second, third, fourth = figure.axes
    assert [axes.get_title(loc="left") for axes in figure.axes] == TITLES
    (train, train_rest, short, val, val_rest, short_val, *dots) = lines_of(first)
    assert train == ([0, 1], pytest.approx([0.4, 0.6]))
    assert train_rest == ([1, 2], [0.5, 0.7])  # the longer seed continues
    assert val == ([0, 1], pytest.approx([0.3, 0.7]))
    assert val_rest == ([1, 2], [0.6, 0.4])
    assert (len(short[0]), len(short_val[0])) == (1, 1)
    assert dots == [([1], [0.6]), ([1], [0.8])]
    band = first.collections[1].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 1].max()) == (0.2, 0.8)
    assert texts_of(second) == texts_of(third) == ["no epoch yet"]
    assert texts_of(fourth) == ["impossible"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "training", "validation", "best epoch of a seed", "range of the seeds"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("axes", "rows", "columns"),
    [
        ({"a": {"x": {}, "y": {}}, "b": {"1": {}, "2": {}, "3": {}}}, 2, 3),  # a column per label of the last axis
        ({"a": {str(k): {} for k in range(6)}}, 2, 4),
        ({"a": {"x": {}, "y": {}, "z": {}}, "b": {"1": {}}}, 1, 3),
        ({"a": {"x": {}}, "b": {str(k): {} for k in range(7)}}, 2, 4),
    ],
)
def test_plots_follow_the_grid(make: Make, axes: Any, rows: int, columns: int) -> None:
    made = make(axes=axes, impossible=None, seeds=[0])
    for run in made.study.runs:
        made.write(run.cell, 0, curve=CURVE)
    figure = curves_of(made)
    grid = figure.axes[0].get_gridspec()
    assert grid.get_geometry() == (rows, columns)
    # the lowest plot of each column has an axis label
    labelled = [axes for axes in figure.axes if axes.get_xlabel() == "epoch"]
    assert sorted(axes.get_subplotspec().colspan.start for axes in labelled) == list(range(columns))
    assert all(label.get_visible() for axes in labelled for label in axes.get_xticklabels())


def test_shortened_labels_stay_distinct() -> None:
    long = "a network whose name says everything about it"
    names = [named((long, f"{k} pixels"), 19, 320) for k in (17, 33)]
    assert [name.endswith(f"… · {k} pixels") for name, k in zip(names, (17, 33), strict=True)] == [True, True]
    assert max(font_of(19).getlength(name) for name in names) <= 320
    assert named(("U-Net", "ResNet-34"), 19, 320) == "U-Net · ResNet-34"


def test_outliers_do_not_flatten_the_curves(make: Make) -> None:
    made = make(axes={"network": {"A": {}}}, impossible=None)
    losses = [1e6, *np.linspace(1, 2, 99)]
    made.write("a", 0, curve={"train": [], "val": losses})
    low, high = curves_of(made).axes[0].get_ylim()
    assert low < 1
    assert 2 < high < 5


@pytest.mark.parametrize(("other", "shared"), [(3.0, False), (0.9, True), (0.05, True)])
def test_losses_of_different_kinds_have_axes_of_their_own(make: Make, other: float, shared: bool) -> None:
    made = make(axes={"network": {"A": {}, "B": {}}}, impossible=None, seeds=[0])
    made.write("a", 0, curve={"train": [0.02, 0.01], "val": [0.03, 0.02]})
    made.write("b", 0, curve={"train": [other, other], "val": [other, other]})
    first, second = curves_of(made).axes
    assert (first.get_ylim() == second.get_ylim()) is shared


def test_bars_are_the_means_of_the_table(make: Make) -> None:
    made = make()
    made.write("u-net--resnet-34", 0, {"test/dice": 0.4}, best_epoch=2)
    made.write("u-net--resnet-34", 1, {"test/dice": 0.5}, best_epoch=5)
    made.write("fpn--resnet-34", 0, {"test/dice": 0.3}, {"test/dice": (0.2, 0.45)}, best_epoch=7)
    left, right = bars_of(made).axes
    assert [bar.get_width() for bar in left.patches] == pytest.approx([0.45, 0.3])
    assert [bar.get_width() for bar in right.patches] == [3.5, 7]
    assert lines_of(left)[1:] == [([0.4, 0.5], [0, 0]), ([0.2, 0.45], [2, 2])]  # the first line marks 0
    assert labels_of(left) == TITLES
    assert texts_of(left) == ["0.450", "not tested yet", "0.300", "impossible"]
    assert texts_of(right) == ["3.5", "not tested yet", "7", "impossible"]
    colors = {tuple(bar.get_facecolor()) for bar in left.patches}
    assert len(colors) == 2  # one per network


def test_cells_that_share_a_training_and_its_metric_share_a_bar(make: Make) -> None:
    made = make(after_training=["encoder"], impossible=None)
    for cell, seed, dice in (("u-net--resnet-34", 0, 0.4), ("u-net--wide-odd", 0, 0.4), ("u-net--resnet-34", 1, 0.5)):
        made.write(cell, seed, {"test/dice": dice})
    axes = bars_of(made).axes[0]
    assert labels_of(axes) == ["U-Net", "FPN"]
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([0.45])
    assert lines_of(axes)[1:] == [([0.4, 0.5], [0, 0])]
    made.write("u-net--wide-odd", 1, {"test/dice": 0.6})
    assert labels_of(bars_of(made).axes[0]) == TITLES


def test_a_cell_whose_runs_all_failed_is_drawn_as_failed(make: Make) -> None:
    made = make()
    made.write("u-net--resnet-34", 0, {"test/dice": 0.4}, curve=CURVE)
    for cell, seed in (("u-net--wide-odd", 0), ("u-net--wide-odd", 1), ("fpn--resnet-34", 1)):
        made.fail(cell, seed)
    assert texts_of(bars_of(made).axes[0]) == ["0.400", "failed", "not tested yet", "impossible"]
    assert [text for axes in curves_of(made).axes for text in texts_of(axes)] == [
        "failed",
        "no epoch yet",
        "impossible",
    ]


def test_incomparable_bars_are_marked(make: Make) -> None:
    made = make()
    made.write("u-net--resnet-34", 0, {"test/dice": 0.4})
    made.write("u-net--resnet-34", 1, {"test/dice": 0.5}, data_fingerprint="decaf")
    assert labels_of(bars_of(made).axes[0])[:2] == ["U-Net · ResNet-34 (A)", "U-Net · ResNet-34 (B)"]
    (drawn,) = write_figures(made.study, rows_of(made), made.folder)
    assert "not comparable" in drawn.caption


def test_letters_follow_names_of_any_length(make: Make) -> None:
    long = "a network whose name says everything about it and then goes on for a while "
    made = make(axes={"network": {long + "1": {}, long + "2": {}}}, impossible=None, seeds=[0])
    made.write(made.study.runs[0].cell, 0, {"test/dice": 0.4})
    made.write(made.study.runs[1].cell, 0, {"test/dice": 0.4}, data_fingerprint="decaf")
    figure = bars_of(made)
    assert [name[-5:] for name in labels_of(figure.axes[0])] == ["… (A)", "… (B)"]
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    assert min(text.get_window_extent(renderer).x0 for text in figure.axes[0].get_yticklabels()) >= 0
    assert figure.axes[0].get_window_extent(renderer).width > figure.bbox.width / 4


def test_the_panel_shows_common_images(make: Make) -> None:
    made = make()
    red, green = made.write("u-net--resnet-34", 0), made.write("fpn--resnet-34", 1)
    for name in ("a.jpg", "b.jpg", "c.jpg", "d.jpg", "only.jpg"):
        add_image(red, name, (255, 0, 0))
    for name in ("a.jpg", "b.jpg", "c.jpg", "d.jpg"):
        add_image(green, name, (0, 255, 0))
    figure = panel_of(made)
    assert [axes.get_title() for axes in figure.axes] == ["a", "c", "d", "", "", ""]
    assert [axes.get_ylabel() for axes in figure.axes] == ["U-Net\nResNet-34", "", "", "FPN\nResNet-34", "", ""]
    shown = [np.asarray(axes.images[0].get_array()).mean(axis=(0, 1)) for axes in figure.axes]
    assert np.allclose(shown, [[255, 0, 0]] * 3 + [[0, 255, 0]] * 3, atol=3)


def add_test_image(folder: Path, name: str, color: tuple[int, int, int], steps: int = 0) -> None:
    """Writes what a test draws of an image: blue input, white truth, prediction in a color, and steps to it."""
    titles = ["input", "truth", "prediction", *(f"step_{k}" for k in range(steps))]
    for number, (title, shade) in enumerate(
        zip(titles, [(0, 0, 255), (255,) * 3, color, *[color] * steps], strict=True)
    ):
        path = folder / "test" / "panels" / name / f"{number}_{title}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (60, 40), shade).save(path, quality=100)


def shown_in(figure: Any) -> list[list[float]]:
    return [np.asarray(axes.images[0].get_array()).mean(axis=(0, 1)).round(-1).tolist() for axes in figure.axes
            if axes.images]  # fmt: skip


def test_the_panel_has_a_row_of_inputs_of_truths_and_of_each_network(make: Make) -> None:
    made = make()
    for cell, seed, color in (("u-net--resnet-34", 0, (250, 0, 0)), ("fpn--resnet-34", 1, (0, 250, 0))):
        for name in ("a", "sub/b", "c", "d"):
            add_test_image(made.write(cell, seed), name, color)
    figure = drawn_panel(made.study, rows_of(made), made.folder)
    assert figure is not None
    assert [axes.get_title() for axes in figure.axes[:3]] == ["a", "d", "b"]
    assert [axes.get_ylabel() for axes in figure.axes[::3]] == ["input", "truth", "U-Net\nResNet-34", "FPN\nResNet-34"]
    blue, white, red, green = [0, 0, 250], [260] * 3, [250, 0, 0], [0, 250, 0]
    assert shown_in(figure) == [color for color in (blue, white, red, green) for _ in range(3)]
    assert not figure.legends
    assert drawn_steps(made.study, rows_of(made), made.folder) is None


def test_the_panel_names_the_colors_of_several_classes(make: Make) -> None:
    made = make()
    add_test_image(made.write("u-net--resnet-34", 0, classes=["Fish", "Sugar"]), "a", (250, 0, 0))
    figure = drawn_panel(made.study, rows_of(made), made.folder)
    assert figure is not None
    [legend] = figure.legends
    shown = [(text.get_text(), to_hex(patch.get_facecolor()))
             for text, patch in zip(legend.get_texts(), legend.get_patches(), strict=True)]  # fmt: skip
    assert shown == [("Fish", hex_color(0).lower()), ("Sugar", hex_color(1).lower())]


def test_steps_to_a_prediction_are_shown_side_by_side(make: Make) -> None:
    made = make()
    add_test_image(made.write("u-net--resnet-34", 0), "a", (250, 0, 0), steps=3)
    add_test_image(made.write("fpn--resnet-34", 1), "a", (0, 250, 0), steps=1)
    figure = drawn_steps(made.study, rows_of(made), made.folder)
    assert figure is not None
    assert [axes.get_title() for axes in figure.axes[:3]] == ["step 0", "step 1", "step 2"]
    assert shown_in(figure) == [[250, 0, 0]] * 3 + [[0, 250, 0]]


def test_of_many_cells_the_panel_shows_the_best_of_each_network(make: Make) -> None:
    encoders = {f"E{k}": {} for k in range(10)}
    made = make(axes={"network": {"U-Net": {}, "FPN": {}}, "encoder": encoders}, impossible=None, seeds=[0])
    for k in range(10):
        for network, best in (("u-net", 3), ("fpn", 7)):
            folder = made.write(f"{network}--e{k}", 0, {"test/dice": 0.9 if k == best else 0.1 * (k % 5)})
            add_test_image(folder, "a", (k, 0, 0))
    figure = drawn_panel(made.study, rows_of(made), made.folder)
    assert figure is not None
    assert [axes.get_ylabel() for axes in figure.axes] == ["input", "truth", "U-Net\nE3", "FPN\nE7"]


def test_cells_that_share_a_training_share_a_plot(make: Make) -> None:
    made = make(after_training=["encoder"], impossible=None)
    made.write("u-net--resnet-34", 0, curve=CURVE)
    first, second = curves_of(made).axes
    assert [axes.get_title(loc="left") for axes in (first, second)] == ["U-Net", "FPN"]
    assert lines_of(first)[0] == ([0, 1, 2], CURVE["train"])


def test_a_panel_of_one_image_is_large(make: Make) -> None:
    made = make()
    add_image(made.write("u-net--resnet-34", 0), "sheet.jpg", (9, 9, 9))
    assert np.asarray(panel_of(made).axes[0].images[0].get_array()).shape == (417, 625, 3)  # 5 inches at 125 pixels


def test_nothing_is_drawn_without_epochs_or_common_images(make: Make) -> None:
    made = make()
    made.write("u-net--resnet-34", 0)
    assert drawn_curves(made.study, made.folder, made.study.curves[0]) is None
    add_image(made.write("u-net--resnet-34", 0), "a.jpg", (1, 1, 1))
    add_image(made.write("fpn--resnet-34", 1), "b.jpg", (1, 1, 1))
    assert drawn_predictions(made.study, rows_of(made), made.folder) is None
    assert drawn_predictions(make(panel=None).study, rows_of(made), made.folder) is None


def test_figures_are_reproducible_and_outdated_ones_removed(make: Make) -> None:
    made = make()
    folder = made.write("u-net--resnet-34", 0, {"test/dice": 0.4}, curve=CURVE)
    add_image(folder, "a.jpg", (200, 100, 0))
    drawn = write_figures(made.study, rows_of(made), made.folder)
    assert [each.path.name for each in drawn] == ["curves_dice.png", "bars.png", "predictions.png"]
    files = sorted(path.name for path in (made.folder / "figures").iterdir())
    assert files == ["bars.png", "bars.svg", "curves_dice.png", "curves_dice.svg", "predictions.png", "predictions.svg"]
    before = {name: (made.folder / "figures" / name).read_bytes() for name in files}
    write_figures(made.study, rows_of(made), made.folder)
    assert {name: (made.folder / "figures" / name).read_bytes() for name in files} == before

    (folder / "metrics.csv").unlink()
    (folder / "predict-photos" / "overlays" / "a.jpg").unlink()
    assert [each.path.name for each in write_figures(made.study, rows_of(made), made.folder)] == ["bars.png"]
    assert sorted(path.name for path in (made.folder / "figures").iterdir()) == ["bars.png", "bars.svg"]
