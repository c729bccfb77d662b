from collections.abc import Callable
from typing import Any

import pytest

from studies.classifiers import drawn_groups, drawn_lines
from studies.results import read_results
from tests.studies.conftest import write_rows

Make = Callable[..., Any]
TABLE = "features/classifiers.csv"


@pytest.fixture
def measured(make: Make) -> Any:
    """A study over an axis of numbers whose runs have classifiers of two vectors, one the same in all cells."""
    axes = {"network": {"A": {}, "B": {}}, "delta": {"0.0": {}, "0.5": {}}}
    table = {"metrics": ["accuracy", "auc"], "table": TABLE}
    column = {"figure": "test/accuracy", "title": "accuracy", "better": "max", "definition": "Share."}
    made = make(axes=axes, impossible=None, columns=[column], lines=table | {"axis": "delta"}, groups=table)
    for run in made.study.runs:
        network, delta = run.labels["network"], float(run.labels["delta"])
        folder = made.write(run.cell, run.seed, {"test/accuracy": 0.5 + 0.1 * run.seed + delta / 10})
        rows = [("-", "majority", 0.6, ""), ("hog", "svm", 0.7, 0.8 - delta / 10), ("hog", "forest", 0.65, 0.7),
                ("fc6", "svm", 0.9 if network == "A" else 0.8, 0.9)]  # fmt: skip
        names = ("vector", "classifier", "accuracy", "auc")
        write_rows(folder / TABLE, [dict(zip(names, row, strict=True)) for row in rows])
    return made


def lines_of(axes: Any) -> dict[str, tuple[list[float], list[float]]]:
    return {line.get_label(): (list(line.get_xdata()), pytest.approx(list(line.get_ydata()))) for line in axes.lines}


def test_lines_of_classifiers_and_networks_over_an_axis(measured: Any) -> None:
    rows = read_results(measured.study, measured.folder)
    figure = drawn_lines(measured.study, measured.study.lines, rows, measured.folder)
    assert figure is not None
    accuracy, accuracy_fc6, auc, _ = figure.axes
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "accuracy, hog", "accuracy, fc6", "auc, hog", "auc, fc6"
    ]  # fmt: skip
    assert lines_of(accuracy) == {"svm": ([0.0, 0.5], [0.7, 0.7]), "forest": ([0.0, 0.5], [0.65, 0.65]),
                                  "A": ([0.0, 0.5], [0.55, 0.6]), "B": ([0.0, 0.5], [0.55, 0.6])}  # fmt: skip
    assert lines_of(auc)["svm"] == ([0.0, 0.5], [0.8, 0.75])  # the networks have no AUC in this study
    assert lines_of(accuracy_fc6)["svm"] == ([0.0, 0.5], [0.85, 0.85])
    assert [axes.get_xlabel() for axes in figure.axes[2:]] == ["δ", "δ"]


def test_bars_of_classifiers_on_each_kind_of_vector(measured: Any) -> None:
    figure = drawn_groups(measured.study, measured.study.groups, measured.folder)
    assert figure is not None
    # AUC of the first vector depends on delta, accuracy of the second on the network
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["0.0 · hog", "0.5 · hog", "A · fc6", "B · fc6"]
    first, _, third, fourth = figure.axes
    assert [bar.get_height() for bar in first.patches] == pytest.approx([0.7, 0.65, 0.8, 0.7])
    assert [bar.get_height() for bar in third.patches] == pytest.approx([0.9, 0.9])
    assert [bar.get_height() for bar in fourth.patches] == pytest.approx([0.8, 0.9])
    assert [label.get_text() for label in first.get_xticklabels()] == ["svm", "forest"]
    assert [list(line.get_ydata()) for line in third.lines if line.get_linestyle() == "--"] == [[0.6, 0.6]]


def test_nothing_is_drawn_without_tables(make: Make) -> None:
    table = {"metrics": ["accuracy"], "table": TABLE}
    made = make(axes={"delta": {"0": {}}}, impossible=None, lines=table | {"axis": "delta"}, groups=table)
    rows = read_results(made.study, made.folder)
    assert drawn_lines(made.study, made.study.lines, rows, made.folder) is None
    assert drawn_groups(made.study, made.study.groups, made.folder) is None
