import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from studies.results import machines, mixed, read_results, read_states, write_results

Make = Callable[..., Any]


def test_a_row_holds_what_a_run_wrote(make: Make) -> None:
    made = make()
    made.write("u-net--wide-odd", 1, {"test/dice": 0.625, "test/loss": 0.5, "test/iou": 0.4},
               {"test/dice": (0.6, 0.7), "test/iou": (0.3, 0.5)})  # fmt: skip
    (row,) = read_results(made.study, made.folder).to_dict("records")
    assert json.loads(row.pop("versions")) == {"belvedere": "0.1.0", "torch": "2.14.1"}
    assert math.isnan(row.pop("test/loss_low"))
    assert math.isnan(row.pop("test/loss_high"))
    assert row == {
        "cell": "u-net--wide-odd", "network": "U-Net", "encoder": "Wide | odd", "seed": 1, "definition": "A",
        "test/dice": 0.625, "test/dice_low": 0.6, "test/dice_high": 0.7, "test/loss": 0.5,
        "best_epoch": 1, "epochs": 3, "seconds": 75.4, "peak_bytes": 1610612736, "parameters": 24436369,
        "device": "NVIDIA H100",
        "data.size": "size [224, 224], output_size [350, 525]", "data.truth": None,
        "data.split": "split_seed 0, val_fraction 0.2, test_fraction 0.1", "data.test_pictures": 5,
        "data_fingerprint": "c0ffee", "belvedere": "0.1.0", "state": "finished",
        "arguments": "--config clouds/unet --model.encoder mobilenet_v2", "folder": "cells/u-net--wide-odd/seed-1",
    }  # fmt: skip


def test_rows_are_in_the_order_of_the_study_and_only_of_tested_runs(make: Make) -> None:
    made = make()
    for cell, seed in (("fpn--resnet-34", 0), ("u-net--resnet-34", 1), ("u-net--resnet-34", 0)):
        made.write(cell, seed, {"test/dice": 0.5})
    made.write("u-net--wide-odd", 0)
    rows = read_results(made.study, made.folder)
    assert list(zip(rows["cell"], rows["seed"], strict=True)) == [
        ("u-net--resnet-34", 0), ("u-net--resnet-34", 1), ("fpn--resnet-34", 0),
    ]  # fmt: skip


def test_a_study_without_any_run_has_no_rows_but_columns(make: Make) -> None:
    made = make()
    rows = read_results(made.study, made.folder)
    assert len(rows) == 0
    assert {"cell", "network", "definition", "test/dice", "test/dice_low", "folder"} <= set(rows.columns)
    assert mixed(rows) == []


def test_what_a_run_does_not_say_is_empty(make: Make) -> None:
    made = make()
    folder = made.write("fpn--resnet-34", 0, {"test/dice": 0.5})
    (folder / "record.json").unlink()
    (folder / "config.yaml").unlink()
    (row,) = read_results(made.study, made.folder).to_dict("records")
    assert row["test/dice"] == 0.5
    for name in ("test/loss", "seconds", "data.size", "data.test_pictures", "data_fingerprint", "versions"):
        assert pd.isna(row[name]), name


def test_figures_may_stand_in_several_lines(make: Make) -> None:
    made = make()
    folder = made.write("fpn--resnet-34", 0, {"test/dice": 0.5})
    (folder / "test" / "metrics.csv").write_text("epoch,test/dice,test/loss\n1,0.5,\n1,,0.25\n")
    (row,) = read_results(made.study, made.folder).to_dict("records")
    assert (row["test/dice"], row["test/loss"]) == (0.5, 0.25)


def test_rows_measured_alike_have_one_letter_and_no_warning(make: Make) -> None:
    made = make()
    for run in made.study.runs:
        made.write(run.cell, run.seed, {"test/dice": 0.5}, seconds=run.seed, best_epoch=run.seed)
    rows = read_results(made.study, made.folder)
    assert list(rows["definition"]) == ["A"] * 6
    assert mixed(rows) == []


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"data": {"size": [320, 480]}},
         "The size of the pictures differs: size [224, 224], output_size [350, 525] in A; size [320, 480], output_size "
         "[350, 525] in B."),
        ({"data": {"split_seed": 1}},
         "The split differs: split_seed 0, val_fraction 0.2, test_fraction 0.1 in A; split_seed 1, val_fraction 0.2, "
         "test_fraction 0.1 in B."),
        ({"data": {"threshold": 5.0}}, "The truth differs: unknown in A; threshold 5.0 in B."),
        ({"data_fingerprint": "decaf"}, "The fingerprint of the data differs: c0ffee in A; decaf in B."),
        ({"data_fingerprint": None}, "The fingerprint of the data differs: c0ffee in A; unknown in B."),
        ({"pictures": {"test": 4}}, "The number of test pictures differs: 5 in A; 4 in B."),
        ({"versions": {"belvedere": "0.2.0"}},
         "The version of belvedere, and with it of its metrics differs: 0.1.0 in A; 0.2.0 in B."),
    ],
)  # fmt: skip
def test_what_rows_do_not_have_in_common_is_said(make: Make, changes: dict[str, Any], sentence: str) -> None:
    made = make()
    for cell in ("u-net--resnet-34", "u-net--wide-odd"):
        made.write(cell, 0, {"test/dice": 0.5})
    made.write("fpn--resnet-34", 0, {"test/dice": 0.6}, **changes)
    rows = read_results(made.study, made.folder)
    assert list(rows["definition"]) == ["A", "A", "B"]
    assert mixed(rows) == [
        "These figures were not all measured alike; compare only rows of one letter with each other. "
        "A: network U-Net; B: network FPN.",
        sentence,
    ]


def test_differences_are_all_said(make: Make) -> None:
    made = make()
    made.write("u-net--resnet-34", 0, {"test/dice": 0.5})
    made.write("u-net--resnet-34", 1, {"test/dice": 0.5}, data={"size": [8, 8]}, data_fingerprint="decaf")
    first, *others = mixed(read_results(made.study, made.folder))
    assert first.endswith("A: u-net--resnet-34/seed-0; B: u-net--resnet-34/seed-1.")
    assert [sentence.split(" differs")[0] for sentence in others] == [
        "The size of the pictures", "The fingerprint of the data",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("word", "letters"), [("avalanches", ["A", "A"]), ("clouds", ["A", "A"]), ("roads", ["A", "B"])]
)
def test_a_window_counts_where_it_is_what_is_scored(make: Make, word: str, letters: list[str]) -> None:
    made = make()
    for seed in (0, 1):
        folder = made.write("fpn--resnet-34", seed, {"test/dice": 0.5})
        data = {"class_path": f"datamodules.{word}.{word.title()}DataModule", "init_args": {"window": 17 + seed}}
        (folder / "config.yaml").write_text(yaml.safe_dump({"data": data}))
    assert list(read_results(made.study, made.folder)["definition"]) == letters


def test_times_of_different_machines_are_told_from_each_other(make: Make) -> None:
    made = make()
    made.write("u-net--resnet-34", 0, {"test/dice": 0.5})
    assert machines(read_results(made.study, made.folder)) == []
    made.write("fpn--resnet-34", 0, {"test/dice": 0.5}, processes=4)
    rows = read_results(made.study, made.folder)
    assert machines(rows) == [
        "Times and memory are of different machines; compare only those of one. "
        "NVIDIA H100: network U-Net; 4 x NVIDIA H100: network FPN."
    ]
    assert mixed(rows) == []  # figures of the test are what they are on any machine


def test_results_are_written_as_they_are_read(make: Make) -> None:
    made = make()
    made.write("u-net--wide-odd", 0, {"test/dice": 1 / 3})
    rows = read_results(made.study, made.folder)
    write_results(rows, made.folder / "results.csv")
    again = pd.read_csv(made.folder / "results.csv")
    assert list(again.columns) == list(rows.columns)
    assert again["test/dice"][0] == 1 / 3
    assert again["encoder"][0] == "Wide | odd"
    assert [path.name for path in made.folder.iterdir() if path.is_file()] == ["results.csv"]


def test_states_are_those_of_the_runs(make: Make) -> None:
    made = make()
    made.write("u-net--wide-odd", 0, {"test/dice": 0.5})
    made.states[Path("cells/fpn--resnet-34/seed-1")] = "failed"
    states = read_states(made.study, made.folder)
    assert len(states) == 6
    assert {str(folder): state for folder, state in states.items() if state != "waiting"} == {
        "cells/u-net--wide-odd/seed-0": "finished", "cells/fpn--resnet-34/seed-1": "failed",
    }  # fmt: skip
