import json
import math
import re
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest

from datamodules.clouds import CloudsDataModule
from datamodules.roads import RoadsDataModule
from studies.results import incomparable, machines, read_results, write_results

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
            "samples": 64,
        "device": "NVIDIA H100",
        "data.size": "output_size [350, 525]", "data.truth": None,
        "data.split": "split_seed 0, val_fraction 0.2, test_fraction 0.1", "data.test_pictures": 5,
        "data_fingerprint": "c0ffee", "belvedere": "0.1.0", "state": "finished",
        "arguments": "--config clouds/unet --model.encoder mobilenet_v2", "folder": "cells/u-net--wide-odd/seed-1",
    }  # fmt: skip


def test_untested_runs_have_no_rows(make: Make) -> None:
    made = make()
    made.write("u-net--wide-odd", 0)
    rows = read_results(made.study, made.folder)
    assert len(rows) == 0
    assert {"cell", "network", "definition", "test/dice", "test/dice_low", "folder"} <= set(rows.columns)
    assert incomparable(rows) == []


def test_missing_values_are_empty_and_lines_are_joined(make: Make) -> None:
    made = make()
    folder = made.write("fpn--resnet-34", 0, {"test/dice": 0.5})
    (folder / "record.json").unlink()
    (folder / "config.yaml").unlink()
    (row,) = read_results(made.study, made.folder).to_dict("records")
    assert row["test/dice"] == 0.5
    for name in ("test/loss", "seconds", "data.size", "data.test_pictures", "data_fingerprint", "versions"):
        assert pd.isna(row[name]), name
    (folder / "test" / "metrics.csv").write_text("epoch,test/dice,test/loss\n1,0.5,\n1,,0.25\n")
    (row,) = read_results(made.study, made.folder).to_dict("records")
    assert (row["test/dice"], row["test/loss"]) == (0.5, 0.25)


def test_comparable_rows_share_a_letter(make: Make) -> None:
    made = make()
    for run in reversed(made.study.runs):
        made.write(run.cell, run.seed, {"test/dice": 0.5}, seconds=run.seed, best_epoch=run.seed)
    rows = read_results(made.study, made.folder)
    assert list(rows["folder"]) == [str(run.folder) for run in made.study.runs]
    assert list(rows["definition"]) == ["A"] * 6
    assert incomparable(rows) == []


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"data": {"output_size": [8, 8]}}, r"size .*output_size \[350, 525\] in A; output_size \[8, 8\] in B"),
        ({"data": {"output_size": None}}, r"size .*output_size \[350, 525\] in A; size \[224, 224\] in B"),
        ({"data": {"split_seed": 1}}, "split .*split_seed 0, .* in A; split_seed 1, .* in B"),
        ({"data": {"threshold": 5.0}}, "ground truth .*unknown in A; threshold 5.0 in B"),
        ({"data_fingerprint": "decaf"}, "fingerprint .*c0ffee in A; decaf in B"),
        ({"data_fingerprint": None}, "fingerprint .*c0ffee in A; unknown in B"),
        ({"pictures": {"test": 4}}, "test images .*5 in A; 4 in B"),
        ({"versions": {"belvedere": "0.2.0"}}, "belvedere .*0.1.0 in A; 0.2.0 in B"),
    ],
)
def test_conditions_that_differ_are_reported(make: Make, changes: dict[str, Any], sentence: str) -> None:
    made = make()
    for cell in ("u-net--resnet-34", "u-net--wide-odd"):
        made.write(cell, 0, {"test/dice": 0.5})
    made.write("fpn--resnet-34", 0, {"test/dice": 0.6}, **changes)
    rows = read_results(made.study, made.folder)
    assert list(rows["definition"]) == ["A", "A", "B"]
    first, second = incomparable(rows)
    assert first.endswith("A: network U-Net; B: network FPN.")
    assert re.search(sentence, second)


def test_all_differences_are_reported(make: Make) -> None:
    made = make()
    made.write("u-net--resnet-34", 0, {"test/dice": 0.5})
    made.write("u-net--resnet-34", 1, {"test/dice": 0.5}, data={"output_size": [8, 8]}, data_fingerprint="decaf")
    first, *others = incomparable(read_results(made.study, made.folder))
    assert first.endswith("A: u-net--resnet-34/seed-0; B: u-net--resnet-34/seed-1.")
    assert [sentence.split(" differs")[0] for sentence in others] == ["The image size", "The data fingerprint"]


def test_the_size_of_the_input_does_not_count_where_masks_are_scored_at_another(make: Make) -> None:
    made = make()
    for seed, size in enumerate(([224, 224], [240, 336])):  # as U-Net and PSPNet in the study of clouds
        made.write("fpn--resnet-34", seed, {"test/dice": 0.5}, data={"size": size})
    assert list(read_results(made.study, made.folder)["definition"]) == ["A", "A"]


def test_a_window_does_not_count(make: Make) -> None:
    made = make()
    for seed in (0, 1):
        made.write("fpn--resnet-34", seed, {"test/dice": 0.5}, data={"window": 17 + seed})
    assert list(read_results(made.study, made.folder)["definition"]) == ["A", "A"]
    # whole images are measured, so it is no part of the data fingerprint either
    small, large = ([kind("x", window=(side, side)).truth() for kind in (RoadsDataModule, CloudsDataModule)]
                    for side in (17, 18))  # fmt: skip
    assert small == large


def test_times_of_different_machines_are_marked(make: Make) -> None:
    made = make()
    made.write("u-net--resnet-34", 0, {"test/dice": 0.5})
    assert machines(read_results(made.study, made.folder)) == []
    made.write("fpn--resnet-34", 0, {"test/dice": 0.5}, processes=4)
    rows = read_results(made.study, made.folder)
    [sentence] = machines(rows)
    assert sentence.endswith("NVIDIA H100: network U-Net; 4 x NVIDIA H100: network FPN.")
    assert incomparable(rows) == []  # metrics do not depend on the machine


def test_results_are_written_as_csv(make: Make) -> None:
    made = make()
    made.write("u-net--wide-odd", 0, {"test/dice": 1 / 3})
    rows = read_results(made.study, made.folder)
    write_results(rows, made.folder / "results.csv")
    again = pd.read_csv(made.folder / "results.csv")
    assert list(again.columns) == list(rows.columns)
    assert again["test/dice"][0] == 1 / 3
    assert again["encoder"][0] == "Wide | odd"
    assert [path.name for path in made.folder.iterdir() if path.is_file()] == ["results.csv"]
