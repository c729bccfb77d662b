import math
import re
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from scipy import stats

from studies.notes import read_states
from studies.results import read_results
from studies.tables import (
    MEANS,
    SINGLE,
    Estimate,
    best_of,
    decimals_of,
    estimate,
    joined_table,
    markdown,
    matrices,
    number_text,
    table,
    table_text,
)

Make = Callable[..., Any]
CELLS = ("u-net--resnet-34", "u-net--wide-odd", "fpn--resnet-34")
NAME = "features/vectors/classifiers.csv"


def lines_of(made: Any) -> list[list[str]]:
    return table(made.study, read_results(made.study, made.folder), read_states(made.study, made.folder))


def text_of(made: Any) -> str:
    return table_text(made.study, read_results(made.study, made.folder), read_states(made.study, made.folder))


def between(low: float, high: float, seeds: int = 1) -> Estimate:
    return Estimate((low + high) / 2, math.nan, low, high, seeds)


def estimated(**columns: list[float]) -> Estimate | None:
    """The estimate of dice from its values, and from the lower and upper ends of its intervals."""
    return estimate(pd.DataFrame({f"test/{name}": values for name, values in columns.items()}), "test/dice")


def student(*values: float) -> tuple[float, float]:
    low, high = stats.t.interval(0.95, len(values) - 1, loc=statistics.mean(values), scale=stats.sem(values))
    return float(low), float(high)


@pytest.mark.parametrize(
    ("columns", "low", "high", "seeds"),
    [
        ({"dice": [0.41, 0.47, 0.44, 0.52, math.nan]}, *student(0.41, 0.47, 0.44, 0.52), 4),
        ({"dice": [0.59, 0.59]}, 0.59, 0.59, 2),
        # no narrower than the mean interval over test images
        ({"dice": [0.60, 0.60], "dice_low": [0.40, 0.44], "dice_high": [0.70, 0.76]}, 0.42, 0.73, 2),
        ({"dice": [0.30, 0.90], "dice_low": [0.40, 0.44], "dice_high": [0.70, 0.76]}, *student(0.3, 0.9), 2),
        ({"dice": [0.4], "dice_low": [0.3], "dice_high": [0.45]}, 0.3, 0.45, 1),
        ({"dice": [0.4]}, math.nan, math.nan, 1),
    ],
)
def test_the_interval_covers_seeds_and_test_images(
    columns: dict[str, list[float]], low: float, high: float, seeds: int
) -> None:
    found = estimated(**columns)
    assert found is not None
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-12, nan_ok=True)
    values = [value for value in columns["dice"] if not math.isnan(value)]
    deviation = statistics.stdev(values) if seeds > 1 else math.nan
    assert (found.mean, found.deviation) == pytest.approx((statistics.mean(values), deviation), nan_ok=True)
    assert found.seeds == seeds


def test_without_values_there_is_no_estimate() -> None:
    assert estimated(dice=[math.nan]) is None


@pytest.mark.parametrize(
    ("estimates", "better", "best"),
    [
        ([between(1, 2), between(3, 4)], "max", 1),
        ([between(1, 2), between(3, 4)], "min", 0),
        ([between(1, 2), between(3, 4)], None, None),
        ([between(1, 3), between(2.9, 4)], "max", None),
        ([between(1, 3), between(3, 4)], "max", None),  # touching intervals overlap
        ([between(1, 2), None, between(3, 4), between(0, 9)], "max", None),
        ([between(1, 2), None, between(3, 4)], "max", 2),
        ([between(1, 2), Estimate(9, math.nan, math.nan, math.nan, 1)], "max", None),
        ([between(5, 6), Estimate(1, math.nan, math.nan, math.nan, 1)], "max", None),
        ([between(1, 2)], "max", None),
        ([between(1, 2, seeds=2), between(3, 4, seeds=2)], "max", 1),
        ([between(1, 2, seeds=2), between(3, 4, seeds=1)], "max", None),
    ],
)
def test_the_best_stands_apart(estimates: list[Estimate | None], better: str | None, best: int | None) -> None:
    assert best_of(estimates, better) == best


def test_the_table_has_a_row_per_cell(make: Make) -> None:
    made = make()
    made.write("u-net--resnet-34", 0, {"test/dice": 0.4, "test/loss": 0.5}, best_epoch=2)
    made.write("u-net--resnet-34", 1, {"test/dice": 0.5, "test/loss": 0.7}, best_epoch=5)
    made.write("u-net--wide-odd", 0, {"test/dice": 0.45}, {"test/dice": (0.4, 0.5)}, best_epoch=0)
    made.fail("u-net--wide-odd", 1)
    assert lines_of(made) == [
        ["network", "encoder", "seeds", "dice", "loss", "best epoch", "parameters", "remark"],
        ["U-Net", "ResNet-34", "2", "0.450 ± 0.071", "0.600 ± 0.141", "3.5 ± 2.1", "24,436,369", ""],
        ["U-Net", "Wide | odd", "1", "0.450 [0.400, 0.500]", "-", "0.0", "24,436,369", "1 of 2 failed"],
        ["FPN", "ResNet-34", "0", "-", "-", "-", "-", "waiting"],
        ["FPN", "Wide | odd", "-", "-", "-", "-", "-", "impossible: it <does> not fit."],
    ]


def test_only_comparable_rows_are_compared(make: Make) -> None:
    made = make(seeds=[0])
    for cell, dice in zip(CELLS, (0.2, 0.4, 0.9), strict=True):
        made.write(cell, 0, {"test/dice": dice}, {"test/dice": (dice - 0.05, dice + 0.05)})
    assert [line[3] for line in lines_of(made)[1:4]] == [
        "0.200 [0.150, 0.250]", "0.400 [0.350, 0.450]", "**0.900** [0.850, 0.950]",
    ]  # fmt: skip
    made.write("fpn--resnet-34", 0, data={"output_size": [8, 8]})
    heads, *lines = lines_of(made)
    assert heads[2] == "group"
    assert [(line[2], line[4]) for line in lines] == [
        ("A", "0.200 [0.150, 0.250]"), ("A", "**0.400** [0.350, 0.450]"), ("B", "0.900 [0.850, 0.950]"), ("-", "-"),
    ]  # fmt: skip


def test_only_unfinished_studies_have_remarks(make: Make) -> None:
    made = make(impossible=None)
    assert [line[-1] for line in lines_of(made)[1:]] == ["waiting"] * 4
    for run in made.study.runs:
        made.write(run.cell, run.seed, {"test/dice": 0.5})
    assert lines_of(made)[0][-1] == "parameters"


def test_the_text_has_warnings_above_and_an_explanation_below(make: Make) -> None:
    made = make()
    made.write("u-net--wide-odd", 0, {"test/dice": 0.5})
    made.write("fpn--resnet-34", 0, {"test/dice": 0.6}, data_fingerprint="decaf")
    lines = text_of(made).splitlines()
    assert "comparable" in lines[0]
    assert re.match("> .*fingerprint.* c0ffee in A; decaf in B", lines[1])
    assert lines[2] == ""
    assert any("| Wide \\| odd | A " in line for line in lines)
    assert "mean ± standard deviation" in lines[-1]


def test_times_of_different_machines_are_marked(make: Make) -> None:
    columns = [{"figure": "test/dice", "title": "dice", "better": "max", "definition": "Of images."},
               {"figure": "seconds", "title": "seconds", "better": None, "definition": "By the clock."}]  # fmt: skip
    made = make(columns=columns)
    made.write("u-net--wide-odd", 0, {"test/dice": 0.5})
    made.write("fpn--resnet-34", 0, {"test/dice": 0.6}, device="a laptop")
    assert "different machines" in text_of(made).splitlines()[0]


def test_markdown_columns_are_aligned() -> None:
    lines = [["network", "dice", "remark"], ["A|B", "0.5\n1", "so"]]
    assert markdown(lines, 1).splitlines() == [
        "| network | dice  | remark |",
        "| ------- | ----: | ------ |",
        "| A\\|B    | 0.5 1 | so     |",
    ]


@pytest.mark.parametrize(
    ("size", "decimals"), [(0.0, 3), (-1.99, 3), (2.0, 2), (-19.0, 2), (20, 1), (999, 1), (1e3, 0)]
)
def test_decimals_follow_the_size(size: float, decimals: int) -> None:
    assert decimals_of(size) == decimals


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((3 * 2**29, 0, "peak_bytes"), "1.50 GiB"),
        ((12345.67, 1), "12,345.7"),
        ((0.12345,), "0.123"),
        ((None,), "-"),
        ((math.nan, 3), "-"),
    ],
)
def test_numbers_are_formatted(arguments: tuple[Any, ...], text: str) -> None:
    assert number_text(*arguments) == text


def add(folder: Path, *lines: str) -> None:
    path = folder / NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines))


def joined(made: Any) -> tuple[list[list[str]], str]:
    return joined_table(made.study, read_results(made.study, made.folder), made.folder, NAME)


def test_rows_of_several_seeds_are_averaged(make: Make) -> None:
    made = make()
    heads = "vector,length,classifier,accuracy,auc"
    add(made.write(CELLS[0], 0, {"test/dice": 0.4}), heads, "fc6,500,svm,0.5,nan", "fc6,500,forest,0.625,0.75")
    add(made.write(CELLS[0], 1, {"test/dice": 0.4}), heads, "fc6,500,svm,0.75,0.5", "fc6,500,forest,0.625,0.25")
    add(made.write("fpn--resnet-34", 1, {"test/dice": 0.4}), heads, "fc6,500,svm,1,0.125")
    lines, sentence = joined(made)
    assert sentence == MEANS
    # deviations by hand: |.75 - .5| / √2 = .177, and .5 / √2 = .354
    assert lines == [
        ["network", "encoder", "vector", "classifier", "seeds", "length", "accuracy", "auc"],
        ["U-Net", "ResNet-34", "fc6", "svm", "2", "500", "0.625 ± 0.177", "0.500"],
        ["U-Net", "ResNet-34", "fc6", "forest", "2", "500", "0.625 ± 0.000", "0.500 ± 0.354"],
        ["FPN", "ResNet-34", "fc6", "svm", "1", "500", "1.000", "0.125"],
    ]


def test_rows_that_cannot_be_matched_are_listed_by_seed(make: Make) -> None:
    made = make()
    add(made.write(CELLS[0], 0, {"test/dice": 0.4}), "k,accuracy", "1,0.5", "2,0.6")
    add(made.write(CELLS[0], 1, {"test/dice": 0.4}), "k,accuracy", "1,0.7", "2,0.8")
    lines, sentence = joined(made)
    assert sentence == SINGLE
    assert lines == [
        ["network", "encoder", "seed", "k", "accuracy"],
        ["U-Net", "ResNet-34", "0", "1", "0.500"], ["U-Net", "ResNet-34", "0", "2", "0.600"],
        ["U-Net", "ResNet-34", "1", "1", "0.700"], ["U-Net", "ResNet-34", "1", "2", "0.800"],
    ]  # fmt: skip


def test_incomparable_seeds_are_not_averaged(make: Make) -> None:
    made = make()
    add(made.write(CELLS[0], 0, {"test/dice": 0.25}), "vector,accuracy", "fc6,0.5")
    add(made.write(CELLS[0], 1, {"test/dice": 0.75}, data_fingerprint="decaf"), "vector,accuracy", "fc6,0.75")
    assert [line[2:5] for line in lines_of(made)[1:3]] == [["A", "1", "0.250"], ["B", "1", "0.750"]]
    assert joined(made)[0] == [
        ["network", "encoder", "group", "vector", "seeds", "accuracy"],
        ["U-Net", "ResNet-34", "A", "fc6", "1", "0.500"],
        ["U-Net", "ResNet-34", "B", "fc6", "1", "0.750"],
    ]


def test_integers_have_decimals_only_as_means(make: Make) -> None:
    made = make()
    for seed, lines in enumerate((["a,3,7", "b,4,7"], ["a,4,7", "b,4,7"])):
        add(made.write(CELLS[0], seed, {"test/dice": 0.4}), "vector,found,of", *lines)
    lines, _ = joined(made)
    assert [line[3:] for line in lines[1:]] == [["2", "3.5 ± 0.7", "7"], ["2", "4", "7"]]


def test_without_a_table_there_are_no_rows(make: Make) -> None:
    made = make()
    assert joined(made) == ([], "")
    add(made.write(CELLS[0], 0, {"test/dice": 0.4}), "vector,accuracy")
    assert joined(made) == ([], "")


def test_a_matrix_has_the_labels_of_the_last_axis_side_by_side(make: Make) -> None:
    made = make(matrices=["test/dice", "parameters"], after_training=["encoder"], impossible=None)
    for cell, seed, dice in (("u-net--resnet-34", 0, 0.4), ("u-net--resnet-34", 1, 0.5), ("fpn--wide-odd", 0, 0.3)):
        made.write(cell, seed, {"test/dice": dice})
    rows = read_results(made.study, made.folder)
    (dice, dice_lines, keys), (title, lines, none) = matrices(made.study, rows)
    assert (keys, none) == (1, 0)
    assert (dice, title) == ("Dice", "Parameters")
    assert dice_lines == [
        ["network", "ResNet-34", "Wide | odd"],
        ["U-Net", "0.450 ± 0.071", "-"],
        ["FPN", "-", "0.300"],
    ]
    # the cost of a training does not depend on what follows it, and counts once
    assert lines == [["U-Net", "FPN"], ["24,436,369", "24,436,369"]]


AFTER = {"network": {"U-Net": {}, "FPN": {}}, "trees": {"predictions": {}, "features": {}}}


def test_trainings_count_once_in_a_matrix(make: Make) -> None:
    made = make(axes=AFTER, after_training=["trees"], impossible=None, matrices=["best_epoch", "test/loss"])
    for cell in ("u-net--predictions", "u-net--features"):
        made.write(cell, 0, {"test/dice": 0.4, "test/loss": 0.2}, best_epoch=7)
    (_, epochs, _), (_, losses, _) = matrices(made.study, read_results(made.study, made.folder))
    assert epochs == [["U-Net", "FPN"], ["7", "-"]]  # one seed, so without a deviation
    assert losses == [["U-Net", "FPN"], ["0.200", "-"]]
    made.write("u-net--predictions", 1, {"test/dice": 0.4, "test/loss": 0.4}, best_epoch=8)
    (_, epochs, _), (_, losses, _) = matrices(made.study, read_results(made.study, made.folder))
    assert epochs[1] == ["7.5 ± 0.7", "-"]
    assert losses[1] == ["0.300 ± 0.141", "-"]


def test_a_matrix_keeps_an_axis_on_which_its_metric_depends(make: Make) -> None:
    made = make(axes=AFTER, after_training=["trees"], impossible=None, matrices=["test/loss"])
    for cell, loss in (("u-net--predictions", 0.2), ("u-net--features", 0.3), ("fpn--features", 0.3)):
        made.write(cell, 0, {"test/dice": 0.4, "test/loss": loss})
    [(_, lines, _)] = matrices(made.study, read_results(made.study, made.folder))
    assert lines == [["network", "predictions", "features"], ["U-Net", "0.200", "0.300"], ["FPN", "-", "0.300"]]
