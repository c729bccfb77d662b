from collections.abc import Callable
from pathlib import Path

import pytest

from belvedere.__main__ import main
from studies.plan import SHIPPED, Run, StudyError, cells_of, find_study, read_study

Write = Callable[..., Path]


def test_runs_are_those_of_the_grid_seed_by_seed(study_file: Write) -> None:
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
    )
    assert study.runs[3].folder == Path("cells/u-net--wide-odd/seed-1")
    assert study.impossible == (({"network": "FPN", "encoder": "Wide | odd"}, "it <does> not fit."),)


def test_cells_are_in_the_order_of_the_grid_with_those_that_are_impossible(study_file: Write) -> None:
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
    one, two = read_study(path, ["--data.root", "my pictures", "--trainer.max_epochs=3"]).runs[::2]
    typed = ("--data.root", "my pictures", "--trainer.max_epochs", "3")
    assert one.arguments == ("--config", "debug", "--config", "clouds/unet", "--data.size", "[8, 8]",
                             "--model.lr", "0.1", *typed)  # fmt: skip
    assert two.arguments == ("--config", "debug", "--config", "roads/a", "--config", "roads/b", "--model.lr", "1",
                             "--data.size", "[8, 8]", *typed)  # fmt: skip


def test_seeds_and_labels_can_be_typed(study_file: Write) -> None:
    study = read_study(study_file(), ["--seeds", "[7, 3]", "--axes.network=FPN", "--axes.encoder", "[ResNet-34]"])
    assert study.seeds == (7, 3)
    assert [(run.cell, run.seed) for run in study.runs] == [("fpn--resnet-34", 7), ("fpn--resnet-34", 3)]
    assert study.axes == {"network": ("FPN",), "encoder": ("ResNet-34",)}
    assert read_study(study_file(), ["--seeds", "4"]).seeds == (4,)


def test_labels_keep_the_order_of_the_file(study_file: Write) -> None:
    study = read_study(study_file(), ["--axes.network", "[FPN, U-Net]"])
    assert study.axes["network"] == ("U-Net", "FPN")


def test_pictures_are_predicted_after_the_commands_of_the_file(study_file: Write) -> None:
    study = read_study(study_file(after=["features --classifiers false"]), ["--data.pictures", "my photos"])
    assert study.after == (("features", "--classifiers", "false"), ("predict", "--data.pictures", "my photos"))
    assert all("--data.pictures" not in run.arguments for run in study.runs)


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["data.root", "x"], "'data.root' was typed where an option was wanted"),
        (["--data.root"], "--data.root has no value; wanted is --data.root VALUE."),
        (["--data.root", "--seeds", "1"], "--data.root has no value"),
        (["--output", "x"], "--output is not for a study"),
        (["--seed_everything", "3"], "--seed_everything is not for a study: give --seeds."),
        (["--axes.encoder", "[]"], "--axes.encoder is []; one label or more was wanted, of "),
        (["--model.encoder", "x"], "--model.encoder is what the axis encoder chooses"),
        (["--model", "x"], "--model is what the axis encoder chooses"),
        (["--seeds", "[0, 0]"], "seeds are [0, 0]; different whole numbers"),
        (["--seeds", "[true]"], "seeds are [true]; different whole numbers"),
        (["--axes.netwerk", "FPN"], "there is no axis 'netwerk'; the axes are network, encoder. Did you mean network?"),
        (["--axes.network", "U-NET"], "axis network has no label 'U-NET'; it has U-Net, FPN."),
        (["--axes.network", "FPN", "--axes.encoder", "Wide | odd"], "every cell is impossible"),
    ],
)
def test_what_cannot_be_typed_is_refused(study_file: Write, typed: list[str], message: str) -> None:
    with pytest.raises(StudyError) as error:
        read_study(study_file(), typed)
    assert message in str(error.value)


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
    with pytest.raises(StudyError, match=r"Shipped: aesthetics, aesthetics_delta, .*, roads"):
        find_study("xyz")


def test_fit_parses_the_arguments_of_a_run(
    study_file: Write, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = read_study(study_file(), ["--data.size", "[32, 48]"]).runs[2]
    with pytest.raises(SystemExit):
        main(["fit", *run.arguments, "--print_config"])
    printed = capsys.readouterr().out
    assert "encoder: mobilenet_v2" in printed
    assert "- 32\n" in printed
