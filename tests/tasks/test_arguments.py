import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tasks.arguments import (
    SHIPPED,
    ArgumentError,
    ParserError,
    expanded,
    find_config,
    option,
    readable,
    run_config,
    run_folder,
)

Command = Callable[..., Any]


def test_configs_are_found_in_the_working_folder_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_config("clouds/fpn") == find_config("clouds/fpn.yaml") == SHIPPED / "clouds" / "fpn.yaml"
    mine = tmp_path / "configs" / "clouds" / "fpn.yaml"
    mine.parent.mkdir(parents=True)
    mine.write_text("monitor: val/auprc")
    assert find_config("clouds/fpn").resolve() == mine
    (tmp_path / "clouds").mkdir()
    (tmp_path / "clouds" / "fpn.yaml").write_text("")
    assert find_config("clouds/fpn").resolve() == tmp_path / "clouds" / "fpn.yaml"
    assert find_config(str(mine)) == mine


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("clouds/fnp", "Did you mean .*clouds/fpn"),
        ("claouds/unet.yaml", "Did you mean .*clouds/unet"),
        ("qqqqqq", "Shipped: clouds/demo, .*debug"),
    ],
)
def test_unknown_configs_are_refused_with_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(ArgumentError, match=rf"no config '{name}' in .* or among the shipped ones\. {hint}"):
        find_config(name)


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        (["--a", "1"], "1"),
        (["--a=1", "--b", "--a", "2"], "2"),
        (["--a", "2", "--a=b=c"], "b=c"),
        (["--ab", "1"], None),
        (["--a"], None),
    ],
)
def test_the_last_value_of_an_option_counts(arguments: list[str], value: str | None) -> None:
    assert option(arguments, "--a") == value


def test_configs_become_paths_and_everything_else_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shipped = str(SHIPPED / "debug.yaml")
    given = ["fit", "--config", "debug", "--config=debug", "-c", "debug", "--data.root", "debug"]
    wanted = ["fit", "--config", shipped, f"--config={shipped}", "-c", shipped, "--data.root", "debug"]
    assert expanded(given) == wanted


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_commands_that_want_a_checkpoint_say_so(command: str) -> None:
    with pytest.raises(ArgumentError, match=f"{command} wants a trained network: --ckpt_path runs/"):
        expanded([command, "--data.root", "x"])
    assert expanded([command, "--help"]) == [command, "--help"]


def write_run(folder: Path, config: dict[str, Any] | None) -> Path:
    checkpoint = folder / "checkpoints" / "best.ckpt"
    checkpoint.parent.mkdir(parents=True)
    torch.save({"config": yaml.safe_dump({"model": "inside", "data": {}})}, checkpoint)
    if config is not None:
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return checkpoint


def test_a_run_is_remembered_by_model_data_monitor_and_callbacks(tmp_path: Path) -> None:
    config = {
        "model": {"class_path": "M"},
        "data": {"class_path": "D"},
        "monitor": "val/dice",
        "output": "elsewhere",
        "seed_everything": 3,
        "ckpt_path": None,
        "trainer": {"devices": 8, "callbacks": [{"class_path": "W"}]},
    }
    checkpoint = write_run(tmp_path / "run", config)
    wanted = {key: config[key] for key in ("model", "data", "monitor")} | {
        "trainer": {"callbacks": [{"class_path": "W"}]}
    }
    assert run_config(checkpoint) == wanted
    command, flag, text, *rest = expanded(["test", "--ckpt_path", str(checkpoint), "--data.batch_size", "2"])
    assert (command, flag) == ("test", "--config")
    assert yaml.safe_load(text) == wanted
    assert rest == ["--ckpt_path", str(checkpoint), "--data.batch_size", "2"]  # after it, so that it wins


def test_a_lonely_checkpoint_remembers_by_itself(tmp_path: Path) -> None:
    checkpoint = write_run(tmp_path / "run", None)
    assert run_folder(checkpoint) == tmp_path / "run"
    assert run_config(checkpoint)["model"] == "inside"
    moved = checkpoint.rename(tmp_path / "moved.ckpt")
    assert run_folder(moved) == tmp_path
    assert run_config(moved)["model"] == "inside"


def test_missing_checkpoints_are_refused_with_those_found(tmp_path: Path) -> None:
    checkpoint = write_run(tmp_path / "run", None)
    for wrong in (tmp_path / "run", checkpoint.with_name("bets.ckpt"), tmp_path / "run" / "best.ckpt"):
        with pytest.raises(ArgumentError, match=rf"There is no checkpoint file {wrong}\. Found: {checkpoint}\."):
            run_config(wrong)
    with pytest.raises(ArgumentError, match=r"no checkpoint file nowhere/best\.ckpt\.$"):
        run_config(Path("nowhere/best.ckpt"))


def test_files_that_are_no_checkpoint_of_ours_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    with pytest.raises(ArgumentError, match=r"text\.ckpt is not a checkpoint of belvedere"):
        run_config(tmp_path / "text.ckpt")
    torch.save({"state_dict": {}}, tmp_path / "foreign.ckpt")
    with pytest.raises(
        ArgumentError, match=r"No config of the run lies beside .*foreign\.ckpt or in it.*--config FILE"
    ):
        run_config(tmp_path / "foreign.ckpt")
    torch.save([1, 2], tmp_path / "list.ckpt")
    with pytest.raises(ArgumentError, match=r"list\.ckpt is not a checkpoint of belvedere"):
        run_config(tmp_path / "list.ckpt")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model.encodr", "resnet34"], "there is no option --model.encodr. Did you mean --model.encoder?"),
        (["--data.batchsize", "4"], "there is no option --data.batchsize. Did you mean --data.batch_size?"),
        (["--trainer.max_epoch", "4"], "there is no option --trainer.max_epoch. Did you mean --trainer.max_epochs?"),
        (["--moniter", "val/auprc"], "there is no option --moniter. Did you mean --monitor?"),
        (["--outpt=x"], "there is no option --outpt. Did you mean --output?"),
        (["--early_stopping.patence", "3"], "Did you mean --early_stopping.patience?"),
        (["--model.enc", "resnet34"], "there is no option --model.enc."),  # abbreviated
        (["--trainer.max_e", "4"], "there is no option --trainer.max_e."),
        (["--mon", "val/auprc"], "there is no option --mon."),
        (["--config", "clouds/dmo"], "Did you mean clouds/demo"),
        (["--data.batch_size", "four"], "--data.batch_size: a whole number was wanted"),
        (["--model.architecture", "fnp"], "--model.architecture: one of these was wanted"),
        (["--trainer.max_epochs", "many"], "--trainer.max_epochs: a whole number was wanted"),
        (["--model.encoder", "resnet35"], "encoder 'resnet35' is unknown; did you mean"),
    ],
)
def test_what_is_typed_wrong_is_named_in_a_few_words(belvedere: Command, arguments: list[str], message: str) -> None:
    result = belvedere("fit", "--config", "clouds/demo", *arguments)
    assert result.code == 2
    assert message in result.err
    assert "Traceback" not in result.err
    assert len(result.err.split("belvedere: ")[1].splitlines()) <= 2
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fitt"], "'fitt' is no command of belvedere; .* Did you mean fit"),
        (["--config", "clouds/fpn"], "'--config' is no command of belvedere; the commands are fit, validate"),
        (["fit"], "--config is missing \\(such as --config clouds/fpn\\)"),
        (["test", "--config", "clouds/demo"], "test wants a trained network: --ckpt_path"),
    ],
)
def test_commands_typed_wrong_are_named(belvedere: Command, arguments: list[str], message: str) -> None:
    result = belvedere(*arguments)
    assert result.code == 2
    assert re.search(message, result.err)
    assert "Traceback" not in result.err


def test_readable_leaves_what_it_does_not_know() -> None:
    assert readable(ParserError("something else went wrong")) == "something else went wrong"
