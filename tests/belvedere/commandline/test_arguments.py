import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Optional, Union

import pytest
from lightning.pytorch import Callback

from belvedere.commandline.arguments import expanded, option
from belvedere.commandline.parser import Parser, parameters, shortened
from belvedere.files import find_config
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
def test_unknown_configs_are_rejected_with_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(ArgumentError, match=rf"no config '{name}' .*{hint}"):
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


def test_only_configs_become_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shipped = str(SHIPPED / "debug.yaml")
    given = ["fit", "--config", "debug", "--config=debug", "-c", "debug", "--data.root", "debug"]
    wanted = ["fit", "--config", shipped, f"--config={shipped}", "-c", shipped, "--data.root", "debug"]
    assert expanded(given) == wanted


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (["--epochs", "3", "--lr=0.1", "--batch_size", "2"],
         ["--trainer.max_epochs", "3", "--model.optimizer.lr=0.1", "--data.batch_size", "2"]),
        (["--data", "photos/new"], ["--data.root", "photos/new"]),
        (["--data=Clouds"], ["--data.root=Clouds"]),
        (["--data", "CloudsDataModule"], ["--data", "CloudsDataModule"]),
        (["--data=mine.glaciers.Glaciers"], ["--data=mine.glaciers.Glaciers"]),
        (["--data", "data.yaml"], ["--data", "data.yaml"]),
        (["--data", "folder.Data"], ["--data.root", "folder.Data"]),  # an existing folder
    ],
)  # fmt: skip
def test_short_names_stand_for_options(
    typed: list[str], meant: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.Data").mkdir()
    assert expanded(["fit", "--model=CloudsTask", *typed]) == ["fit", "--model=CloudsTask", *meant]


class Counting(Callback):
    def __init__(self, batches: Optional[Union[float, int]] = None, name: float | str | int = 0.5) -> None:  # noqa: UP007, UP045
        self.batches, self.name = batches, name


@pytest.mark.parametrize(("typed", "value"), [("1", 1), ("1.0", 1.0), ("0.25", 0.25), ("null", None)])
def test_integers_are_tried_before_floats(typed: str, value: float | None) -> None:
    parser = Parser()
    parser.add_lightning_class_args(Counting, "counting")
    read = parser.parse_args([f"--counting.batches={typed}"]).counting.batches
    assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fitt"], r"'fitt'.* Did you mean fit\?"),
        (["train", "--config", "clouds/fpn"], r"'train'.* Did you mean fit\?"),
        (["--config", "clouds/fpn"], "no command '--config'.* fit, validate"),
        (["fit"], "fit needs --config"),
        (["describe", "--data.root", "x"], "describe needs --config"),
        (["fit", "roads/best"], r"'roads/best'.* Did you mean --config roads/best\?"),
        (["fit", "-config", "roads/best"], r"no option -config.* Did you mean --config\?"),
        *(
            ([name, "--config", "clouds/demo"], f"{name} needs .*--ckpt_path")
            for name in ("validate", "test", "predict")
        ),
    ],
)
def test_wrong_commands_are_rejected(belvedere: Command, arguments: list[str], message: str) -> None:
    assert re.search(message, belvedere(*arguments).refusal)


def test_other_messages_of_the_parser_are_kept() -> None:
    assert shortened(ParserError("something else went wrong")) == "something else went wrong."
    assert shortened(ParserError("one thing\nor another?")) == "or another?"


def test_arguments_that_are_passed_on_belong_to_a_class() -> None:
    class Parent:
        def __init__(self, root: str, *rest: int, size: int = 1) -> None: ...

    class Passing(Parent):
        def __init__(self, name: str, **options: Any) -> None: ...

    class Own(Parent):
        def __init__(self, name: str) -> None: ...

    class Inheriting(Passing):
        pass

    assert list(parameters(Passing)) == list(parameters(Inheriting)) == ["name", "root", "size"]
    assert list(parameters(Own)) == ["name"]
