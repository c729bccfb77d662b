from collections.abc import Callable
from pathlib import Path
from typing import Any

from studies.report import EACH, MEANS, joined_table
from studies.results import read_results

Make = Callable[..., Any]
NAME = "features/vectors/classifiers.csv"
CELL = "u-net--resnet-34"


def add(folder: Path, *lines: str) -> None:
    path = folder / NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines))


def joined(made: Any) -> tuple[list[list[str]], str]:
    return joined_table(made.study, read_results(made.study, made.folder), made.folder, NAME)


def test_lines_of_several_seeds_are_averaged(make: Make) -> None:
    made = make()
    heads = "vector,length,classifier,accuracy,auc"
    add(made.write(CELL, 0, {"test/dice": 0.4}), heads, "fc6,500,svm,0.5,nan", "fc6,500,forest,0.625,0.75")
    add(made.write(CELL, 1, {"test/dice": 0.4}), heads, "fc6,500,svm,0.75,0.5", "fc6,500,forest,0.625,0.25")
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


def test_lines_that_cannot_be_told_apart_are_shown_one_by_one(make: Make) -> None:
    made = make()
    add(made.write(CELL, 0, {"test/dice": 0.4}), "k,accuracy", "1,0.5", "2,0.6")
    add(made.write(CELL, 1, {"test/dice": 0.4}), "k,accuracy", "1,0.7", "2,0.8")
    lines, sentence = joined(made)
    assert sentence == EACH
    assert lines == [
        ["network", "encoder", "seed", "k", "accuracy"],
        ["U-Net", "ResNet-34", "0", "1", "0.500"], ["U-Net", "ResNet-34", "0", "2", "0.600"],
        ["U-Net", "ResNet-34", "1", "1", "0.700"], ["U-Net", "ResNet-34", "1", "2", "0.800"],
    ]  # fmt: skip


def test_what_is_measured_otherwise_is_not_averaged(make: Make) -> None:
    made = make()
    add(made.write(CELL, 0, {"test/dice": 0.4}), "vector,accuracy", "fc6,0.5")
    add(made.write(CELL, 1, {"test/dice": 0.4}, data_fingerprint="decaf"), "vector,accuracy", "fc6,0.75")
    assert joined(made)[0] == [
        ["network", "encoder", "measured as", "vector", "seeds", "accuracy"],
        ["U-Net", "ResNet-34", "A", "fc6", "1", "0.500"],
        ["U-Net", "ResNet-34", "B", "fc6", "1", "0.750"],
    ]


def test_whole_numbers_have_decimals_only_as_means(make: Make) -> None:
    made = make()
    for seed, lines in enumerate((["a,3,7", "b,4,7"], ["a,4,7", "b,4,7"])):
        add(made.write(CELL, seed, {"test/dice": 0.4}), "vector,found,of", *lines)
    lines, _ = joined(made)
    assert [line[3:] for line in lines[1:]] == [["2", "3.5 ± 0.7", "7"], ["2", "4", "7"]]


def test_without_a_table_there_are_no_lines(make: Make) -> None:
    made = make()
    assert joined(made) == ([], "")
    add(made.write(CELL, 0, {"test/dice": 0.4}), "vector,accuracy")
    assert joined(made) == ([], "")
