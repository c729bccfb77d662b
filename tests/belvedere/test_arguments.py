import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Optional, Union

import pytest
from lightning.pytorch import Callback

from belvedere.arguments import Parser, expanded, find_config, option, parameters, shortened
from belvedere.names import SHIPPED
from ops.errors import ArgumentError, ParserError

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
        ("qqqqqq", "Shipped: aesthetics/alexnet, .*debug"),
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
    with pytest.raises(ArgumentError, match=f"{command} needs a checkpoint: --ckpt_path runs/"):
        expanded([command, "--data.root", "x"])
    assert expanded([command, "--help"]) == [command, "--help"]


class Counting(Callback):
    def __init__(self, batches: Optional[Union[float, int]] = None, name: float | str | int = 0.5) -> None:  # noqa: UP007, UP045
        self.batches, self.name = batches, name


@pytest.mark.parametrize(("typed", "value"), [("1", 1), ("1.0", 1.0), ("0.25", 0.25), ("null", None)])
def test_whole_numbers_are_read_before_shares(typed: str, value: float | None) -> None:
    parser = Parser()
    parser.add_lightning_class_args(Counting, "counting")
    read = parser.parse_args([f"--counting.batches={typed}"]).counting.batches
    assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model.encodr", "resnet34"], ["encodr", "Did you mean --model.encoder?"]),
        (["--data.batchsize", "4"], ["batchsize", "Did you mean --data.batch_size?"]),
        (["--trainer.max_epoch", "4"], ["--trainer.max_epoch", "Did you mean --trainer.max_epochs?"]),
        (["--moniter", "val/auprc"], ["--moniter", "Did you mean --monitor?"]),
        (["--outpt=x"], ["--outpt", "Did you mean --output?"]),
        (["--early_stopping.patence", "3"], ["Did you mean --early_stopping.patience?"]),
        (["--model.enc", "resnet34"], ["'enc'"]),  # abbreviations
        (["--trainer.max_e", "4"], ["--trainer.max_e"]),
        (["--mon", "val/auprc"], ["--mon"]),
        (["--config", "clouds/dmo"], ["Did you mean clouds/demo"]),
        (["--data.batch_size", "four"], ["--data.batch_size", "int", "four"]),
        (["--data.size", "[1,b]"], ["--data.size", "int", "b"]),
        (["--model.architecture", "fnp"], ["--model.architecture", "'unet', 'pspnet', 'fpn'", "fnp"]),
        (["--trainer.max_epochs", "many"], ["--trainer.max_epochs", "int"]),
        (["--model.encoder", "resnet35"], ["'resnet35' is unknown; did you mean"]),
        (["--model", "FooTask"], ["--model", "FooTask"]),
        (["--trainer.callbacks+", "FooWriter"], ["--trainer.callbacks", "FooWriter"]),
    ],
)
def test_a_wrong_argument_is_named_in_one_line(belvedere: Command, arguments: list[str], words: list[str]) -> None:
    message = belvedere("fit", "--config", "clouds/demo", *arguments).refusal
    assert [word for word in words if word not in message] == []
    assert len(message.splitlines()) == 1
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fitt"], r"no command 'fitt'; .* Did you mean fit\?"),
        (["--config", "clouds/fpn"], "no command '--config'; its commands are fit, validate"),
        (["fit"], r"fit needs --config, such as --config clouds/fpn"),
        (["describe", "--data.root", "x"], r"describe needs --config"),
        (["test", "--config", "clouds/demo"], "test needs a checkpoint: --ckpt_path"),
    ],
)
def test_a_wrong_command_is_named(belvedere: Command, arguments: list[str], message: str) -> None:
    assert re.search(message, belvedere(*arguments).refusal)


def test_other_messages_of_the_parser_stay() -> None:
    assert shortened(ParserError("something else went wrong")) == "something else went wrong."
    assert shortened(ParserError("one thing\nor another?")) == "or another?"


@pytest.mark.parametrize("command", ["fit", "describe"])
def test_misspelt_settings_of_a_config_are_named_with_the_nearest(
    belvedere: Command, tiny: list[str], command: str
) -> None:
    Path("mine.yaml").write_text("trainer: {max_epoch: 3}")
    assert "Did you mean --trainer.max_epochs?" in belvedere(command, *tiny, "--config", "mine.yaml").refusal
    Path("mine.yaml").write_text("trainer: [")
    assert "mine.yaml is not valid YAML" in belvedere(command, *tiny, "--config", "mine.yaml").refusal


def test_arguments_that_are_passed_on_belong_to_a_class() -> None:
    class Parent:
        def __init__(self, root: str, *rest: int, size: int = 1) -> None: ...

    class Passing(Parent):
        def __init__(self, name: str, **options: Any) -> None: ...

    class Own(Parent):
        def __init__(self, name: str) -> None: ...

    class Inheriting(Passing):
        pass

    assert parameters(Passing) == parameters(Inheriting) == ["name", "root", "size"]
    assert parameters(Own) == ["name"]
