from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ops.errors import StudyError
from studies.plan import as_text, folder_name, option_arguments, read_file

Write = Callable[..., Path]
COLUMN = {"figure": "test/dice", "title": "dice", "better": "max", "definition": "Of pictures."}


def axis(labels: Any) -> dict[str, Any]:
    """A study of one axis."""
    return {"axes": {"network": labels}, "impossible": None}


def refusal(path: Path) -> str:
    with pytest.raises(StudyError) as error:
        read_file(path)
    return str(error.value)


def test_a_file_is_read_with_defaults(study_file: Write) -> None:
    path = study_file(seeds=None, impossible=None, panel=None, after=None, tables=None)
    said = read_file(path)
    assert said["seeds"] == [0]
    assert said["impossible"] == said["after"] == said["tables"] == []
    assert said["panel"] is None
    assert said["axes"]["encoder"] == {
        "ResNet-34": {"model.encoder": "resnet34"}, "Wide | odd": {"model.encoder": "mobilenet_v2"},
    }  # fmt: skip
    assert [column["figure"] for column in said["columns"]] == ["test/dice", "test/loss", "best_epoch", "parameters"]


def test_rules_and_commands_are_put_into_one_form(study_file: Write) -> None:
    rule = {"when": {"network": "FPN", "encoder": ["ResNet-34", "Wide | odd"]}, "because": "of both."}
    said = read_file(study_file(impossible=[rule], after=["predict --data.pictures 'my photos'", ["features", 3]]))
    assert said["impossible"] == [({"network": ["FPN"], "encoder": ["ResNet-34", "Wide | odd"]}, "of both.")]
    assert said["after"] == [["predict", "--data.pictures", "my photos"], ["features", "3"]]


def test_labels_may_be_numbers(study_file: Write) -> None:
    said = read_file(study_file(**axis({17: {"data.window": 17}, 0.5: None})))
    assert said["axes"] == {"network": {"17": {"data.window": 17}, "0.5": {}}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"question": None}, "there is no question; a study has question, axes, columns, curve."),
        ({"question": None, "curve": None}, "there is no question and no curve"),
        ({"question": 3}, "question is 3; text was wanted."),
        ({"colums": []}, "there is no key 'colums' in the file. Did you mean columns?"),
        ({"curve": "test/dice"}, "curve is 'test/dice'; a figure of validation was wanted, such as val/dice."),
        ({"seeds": [1, 1]}, "seeds are [1, 1]; different whole numbers from 0 on were wanted"),
        ({"seeds": 3}, "seeds are 3;"),
        ({"seeds": [-1]}, "seeds are [-1];"),
        ({"seeds": [2**32]}, "seeds are [4294967296];"),
        ({"after": ["fit"]}, "after has fit; wanted is validate, predict, features"),
        ({"after": "predict"}, "after is predict; a list was wanted."),
        (axis({}), "axis network has no labels"),
        (axis(["A"]), 'axis network is ["A"]; keys with values were wanted.'),
        (axis({True: {}}), "axis network has the label True, as YAML reads it; put it in quotes."),
        (axis({"U-Net": {}, "u net": {}}), "the folder of 'u net' would be 'u-net', that of 'U-Net' too"),
        (axis({"?": {}}), "the folder of '?' would be '', empty"),
        (axis({"A": {"output": "x"}}), "axis network, A has output, which is not for the file"),
        (axis({"A": {"ckpt_path": "x"}}), "ckpt_path, which is not for the file: the study goes on"),
        (axis({"A": {"model": {"encoder": "x"}}}), "A has model with keys below it; write model.encoder: …"),
        (axis({"A": {"--model.encoder": "x"}}), "an option was wanted, as model.encoder is."),
        (axis({"A": {"config": 3}}), "config in axis network, A is 3; a config's name or a list"),
        ({"axes": {"seed": {"A": {}}}, "impossible": None}, "an axis is called 'seed'"),
        ({"axes": {"Network": {"A": {}}}, "impossible": None}, "an axis is called 'Network'; letters and _"),
        ({"impossible": [{"when": {"network": "FPN"}}]}, "wanted is when: {axis: label}, and because: in words."),
        ({"impossible": [{"when": {"network": "VGG"}, "because": "x"}]}, "axis network has no label 'VGG'"),
        ({"impossible": [{"when": {"net": "FPN"}, "because": "x"}]}, "there is no key 'net' in impossible, when."),
        ({"columns": [COLUMN | {"better": "high"}]}, "test/dice is better at 'high'; min, max or null was wanted."),
        ({"columns": [COLUMN | {"better": None}]}, "the first column, test/dice, is the headline"),
        ({"columns": [COLUMN | {"figure": "val/dice"}]}, "columns has the figure 'val/dice'; one of the test"),
        ({"columns": [COLUMN | {"title": None, "definition": 3}]}, "title and definition in words was wanted."),
        ({"columns": [{"figure": "test/dice"}]}, "without title and better and definition."),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_with_the_file(study_file: Write, changes: dict[str, Any], message: str) -> None:
    path = study_file(**changes)
    said = refusal(path)
    assert said.startswith(f"{path}: ")
    assert message in said


def test_a_key_that_comes_twice_is_refused(study_file: Write) -> None:
    path = study_file()
    path.write_text(path.read_text().replace("    FPN:", "    U-Net:"))
    assert "'U-Net' stands there twice" in refusal(path)


def test_what_is_no_file_and_no_yaml_is_refused(tmp_path: Path) -> None:
    assert "missing.yaml cannot be read" in refusal(tmp_path / "missing.yaml")
    (tmp_path / "odd.yaml").write_text("a: [1")
    assert "odd.yaml is not YAML" in refusal(tmp_path / "odd.yaml")
    (tmp_path / "list.yaml").write_text("- a")
    assert 'the file is ["a"]; keys with values were wanted.' in refusal(tmp_path / "list.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"question: caf\xe9")
    assert "latin.yaml cannot be read" in refusal(tmp_path / "latin.yaml")


def test_values_are_typed_as_the_command_line_reads_them() -> None:
    assert [as_text(value) for value in (True, None, 0.001, [224, 224], "a b", "é", ["ü"])] == [
        "true", "null", "0.001", "[224, 224]", "a b", "é", '["ü"]',
    ]  # fmt: skip


def test_an_option_that_wins_also_comes_last() -> None:
    assert option_arguments([{"a": 1, "b": 2}, {"a": 3}]) == ("--b", "2", "--a", "3")


def test_folders_have_plain_names() -> None:
    assert [folder_name(label) for label in ("Inception-ResNet-v2", "17 grey", "0.25", "--é--", "A/B\\C", "..")] == [
        "inception-resnet-v2", "17-grey", "0.25", "", "a-b-c", "",
    ]  # fmt: skip
