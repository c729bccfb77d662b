from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ops.errors import StudyError
from studies.plan import (
    SHIPPED,
    Run,
    as_text,
    cells_of,
    find_study,
    folder_name,
    option_arguments,
    read_file,
    read_study,
)

Write = Callable[..., Path]
COLUMN = {"figure": "test/dice", "title": "dice", "better": "max", "definition": "Of images."}


def axis(labels: Any, name: str = "network") -> dict[str, Any]:
    return {"axes": {name: labels}, "impossible": None}


def message_of(path: Path, overrides: list[str] | None = None) -> str:
    with pytest.raises(StudyError) as error:
        read_study(path, overrides or [])
    return str(error.value)


def test_runs_are_ordered_by_cell_and_seed(study_file: Write) -> None:
    study = read_study(study_file())
    assert study.name == "tiny"
    assert study.axes == {"network": ("U-Net", "FPN"), "encoder": ("ResNet-34", "Wide | odd")}
    assert [(run.cell, run.seed) for run in study.runs] == [
        ("u-net--resnet-34", 0), ("u-net--resnet-34", 1), ("u-net--wide-odd", 0), ("u-net--wide-odd", 1),
        ("fpn--resnet-34", 0), ("fpn--resnet-34", 1),
    ]  # fmt: skip
    assert study.runs[3] == Run(
        "u-net--wide-odd",
        {"network": "U-Net", "encoder": "Wide | odd"},
        1,
        ("--config", "clouds/unet", "--model.encoder", "mobilenet_v2"),
        "u-net--wide-odd",
    )
    assert study.runs[3].folder == Path("cells/u-net--wide-odd/seed-1")
    assert study.runs[3].name == "U-Net · Wide | odd, seed 1"
    assert study.impossible == (({"network": "FPN", "encoder": "Wide | odd"}, "it <does> not fit."),)


def test_cells_are_in_grid_order_with_impossible_ones(study_file: Write) -> None:
    rule = [{"when": {"network": "U-Net", "encoder": "ResNet-34"}, "because": "so it is."}]
    cells = cells_of(read_study(study_file(impossible=rule)))
    assert {labels: [run.seed for run in runs] for labels, runs in cells.items()} == {
        ("U-Net", "ResNet-34"): [], ("U-Net", "Wide | odd"): [0, 1],
        ("FPN", "ResNet-34"): [0, 1], ("FPN", "Wide | odd"): [0, 1],
    }  # fmt: skip
    assert next(iter(cells)) == ("U-Net", "ResNet-34")


def test_later_options_win_and_configs_come_first(study_file: Write) -> None:
    axes = {"network": {"A": {"model.lr": 0.1, "config": "clouds/unet"}, "B": {"config": ["roads/a", "roads/b"]}}}
    path = study_file(axes=axes, impossible=None, options={"model.lr": 1, "data.size": [8, 8], "config": "debug"})
    one, two = read_study(path, ["--data.root", "my images", "--trainer.max_epochs=3"]).runs[::2]
    overrides = ("--data.root", "my images", "--trainer.max_epochs", "3")
    assert one.arguments == ("--config", "debug", "--config", "clouds/unet", "--data.size", "[8, 8]",
                             "--model.lr", "0.1", *overrides)  # fmt: skip
    assert two.arguments == ("--config", "debug", "--config", "roads/a", "--config", "roads/b", "--model.lr", "1",
                             "--data.size", "[8, 8]", *overrides)  # fmt: skip


def test_seeds_and_labels_are_selected(study_file: Write) -> None:
    study = read_study(study_file(), ["--seeds", "[7, 3]", "--axes.network=FPN", "--axes.encoder", "[ResNet-34]"])
    assert study.seeds == (7, 3)
    assert [(run.cell, run.seed) for run in study.runs] == [("fpn--resnet-34", 7), ("fpn--resnet-34", 3)]
    assert study.axes == {"network": ("FPN",), "encoder": ("ResNet-34",)}
    assert read_study(study_file(), ["--seeds", "4"]).seeds == (4,)
    assert read_study(study_file(), ["--axes.network", "[FPN, U-Net]"]).axes["network"] == ("U-Net", "FPN")


def test_images_are_predicted_after_the_commands_of_the_file(study_file: Write) -> None:
    study = read_study(study_file(after=["features --classifiers false"]), ["--data.pictures", "my photos"])
    assert study.after == (("features", "--classifiers", "false"), ("predict", "--data.pictures", "my photos"))
    assert all("--data.pictures" not in run.arguments for run in study.runs)


@pytest.mark.parametrize(
    ("changes", "overrides", "words"),
    [
        ({"question": None}, [], "question missing"),
        ({"question": None, "curves": None}, [], "question and curves missing"),
        ({"question": 3}, [], "question is 3; expected text"),
        ({"colums": []}, [], "'colums' in the file. Did you mean columns?"),
        ({"curves": ["test/dice"]}, [], "curves has test/dice"),
        ({"after_training": ["netwrk"]}, [], "unknown axis 'netwrk'"),
        ({"matrices": ["test/iou"]}, [], "matrices has test/iou; expected columns: test/dice"),
        ({"groups": {"table": "a.csv"}}, [], "expected metrics: [accuracy] and table: FILE"),
        ({"lines": {"axis": "network", "metrics": ["auc"], "table": "a"}}, [], "are no numbers: U-Net, FPN"),
        ({"lines": {"axis": "delta", "metrics": ["auc"], "table": "a"}}, [], "unknown axis 'delta'"),
        ({}, ["--also", "[clouds]"], "--also is [clouds]; expected some of []"),
        ({"seeds": [1, 1]}, [], "seeds is [1, 1]"),
        ({"seeds": 3}, [], "seeds is 3"),
        ({"seeds": [-1]}, [], "seeds is [-1]"),
        ({"seeds": [2**32]}, [], "seeds is [4294967296]"),
        ({"after": ["fit"]}, [], "after has fit; expected one of validate, predict, features"),
        ({"after": "predict"}, [], "after is predict; expected a list"),
        ({"after": ["test", "predict 'x"]}, [], "after has "),
        ({"after": ["predict 'x"]}, [], '"predict \'x", which is not a command line: no closing quotation'),
        ({"after": ["predict x\\"]}, [], "not a command line: no escaped character"),
        (axis({}), [], "axis network has no labels"),
        (axis(["A"]), [], 'axis network is ["A"]'),
        (axis({True: {}}), [], "YAML reads a label as True"),
        (axis({"U-Net": {}, "u net": {}}), [], "'u net' would be 'u-net', as for 'U-Net'"),
        (axis({"?": {}}), [], "'?' would be '', which is empty"),
        (axis({"A": {"output": "x"}}), [], "axis network, A cannot set output"),
        (axis({"A": {"ckpt_path": "x"}}), [], "cannot set ckpt_path: the study resumes"),
        (axis({"A": {"model": {"encoder": "x"}}}), [], "model.encoder: …"),
        (axis({"A": {"--model.encoder": "x"}}), [], "such as model.encoder"),
        (axis({"A": {"config": 3}}), [], "config in axis network, A is 3"),
        (axis({"A": {}}, "seed"), [], "axis name 'seed'"),
        (axis({"A": {}}, "Network"), [], "axis name 'Network'"),
        ({"impossible": [{"when": {"network": "FPN"}}]}, [], "expected when: {axis: label} and because"),
        ({"impossible": [{"when": {"network": "VGG"}, "because": "x"}]}, [], "no label 'VGG'"),
        ({"impossible": [{"when": {"net": "FPN"}, "because": "x"}]}, [], "unknown key 'net' in impossible, when"),
        ({"columns": [COLUMN | {"better": "high"}]}, [], "better: high"),
        ({"columns": [COLUMN | {"better": None}]}, [], "the first column, test/dice, needs better"),
        ({"columns": [COLUMN | {"figure": "val/dice"}]}, [], "figure is 'val/dice'"),
        ({"columns": [COLUMN | {"title": None, "definition": 3}]}, [], "text for title and definition"),
        ({"columns": [{"figure": "test/dice"}]}, [], "lacks title and better and definition"),
        ({}, ["data.root", "x"], "got 'data.root'"),
        ({}, ["--data.root"], "expected --data.root VALUE"),
        ({}, ["--data.root", "--seeds", "1"], "--data.root has no value"),
        ({}, ["--output", "x"], "does not accept --output"),
        ({}, ["--seed_everything", "3"], "--seed_everything: set --seeds"),
        ({}, ["--axes.encoder", "[]"], "expected one or more of ResNet-34"),
        ({}, ["--model.encoder", "x"], "--model.encoder is set by the axis encoder"),
        ({}, ["--model", "x"], "--model is set by the axis encoder"),
        ({}, ["--seeds", "[0, 0]"], "seeds is [0, 0]"),
        ({}, ["--seeds", "[true]"], "seeds is [true]"),
        ({}, ["--axes.netwerk", "FPN"], "Did you mean network?"),
        ({}, ["--axes.network", "U-NET"], "no label 'U-NET'; its labels are U-Net, FPN"),
        ({}, ["--axes.network", "FPN", "--axes.encoder", "Wide | odd"], "every cell is impossible"),
    ],
)
def test_invalid_studies_are_rejected(
    study_file: Write, changes: dict[str, Any], overrides: list[str], words: str
) -> None:
    path = study_file(**changes)
    message = message_of(path, overrides)
    assert words in message
    assert overrides or message.startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "Cannot read"),
        (b"a: [1", "not valid YAML"),
        (b"- a", 'the file is ["a"]'),
        (b"caf\xe9: 1", "Cannot read"),
        (b"axes: {network: {A: {}, A: {}}}", "duplicate key 'A'"),
    ],
)
def test_unreadable_files_are_rejected(tmp_path: Path, content: bytes | None, words: str) -> None:
    if content is not None:
        (tmp_path / "odd.yaml").write_bytes(content)
    assert words in message_of(tmp_path / "odd.yaml")
    assert "odd.yaml" in message_of(tmp_path / "odd.yaml")


def test_missing_keys_have_defaults(study_file: Write) -> None:
    values = read_file(study_file(seeds=None, impossible=None, panel=None, after=None, tables=None))
    assert values["seeds"] == [0]
    assert values["impossible"] == values["after"] == values["tables"] == []
    assert values["panel"] is None
    assert values["axes"]["encoder"] == {
        "ResNet-34": {"model.encoder": "resnet34"}, "Wide | odd": {"model.encoder": "mobilenet_v2"},
    }  # fmt: skip
    assert [column["figure"] for column in values["columns"]] == ["test/dice", "test/loss", "best_epoch", "parameters"]


def test_rules_commands_and_labels_are_normalized(study_file: Write) -> None:
    rule = {"when": {"network": "FPN", "encoder": ["ResNet-34", "Wide | odd"]}, "because": "of both."}
    values = read_file(study_file(impossible=[rule], after=["predict --data.pictures 'my photos'", ["features", 3]]))
    assert values["impossible"] == [({"network": ["FPN"], "encoder": ["ResNet-34", "Wide | odd"]}, "of both.")]
    assert values["after"] == [["predict", "--data.pictures", "my photos"], ["features", "3"]]
    values = read_file(study_file(**axis({17: {"data.window": 17}, 0.5: None})))
    assert values["axes"] == {"network": {"17": {"data.window": 17}, "0.5": {}}}


def test_values_are_written_as_on_the_command_line() -> None:
    assert [as_text(value) for value in (True, None, 0.001, [224, 224], "a b", "é", ["ü"])] == [
        "true", "null", "0.001", "[224, 224]", "a b", "é", '["ü"]',
    ]  # fmt: skip
    assert option_arguments([{"a": 1, "b": 2}, {"a": 3}]) == ("--b", "2", "--a", "3")


def test_folders_have_plain_names() -> None:
    assert [folder_name(label) for label in ("Inception-ResNet-v2", "17 grey", "0.25", "--é--", "A/B\\C", "..")] == [
        "inception-resnet-v2", "17-grey", "0.25", "", "a-b-c", "",
    ]  # fmt: skip


def test_a_study_is_found_by_path_and_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_study("clouds") == SHIPPED / "clouds.yaml"
    own = Path("configs/studies/clouds.yaml")
    own.parent.mkdir(parents=True)
    own.touch()
    assert find_study("clouds") == own
    assert find_study(str(own)) == own
    with pytest.raises(StudyError, match=r"Did you mean roads\?"):
        find_study("raods")
    with pytest.raises(StudyError, match=r"aesthetics, aesthetics_delta, .*, roads"):
        find_study("xyz")


def test_folders_of_long_labels_can_be_made(study_file: Write) -> None:
    study = read_study(study_file(**axis({"x" * 300: {}, "x" * 301: {}, "con": {}})))
    first, second, third = (run.cell for run in study.runs if run.seed == 0)
    assert first != second
    assert len(first) == len(second) == 240
    assert third.startswith("_con-")
