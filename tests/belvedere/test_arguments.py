from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from belvedere.arguments import SHIPPED, expanded, find_config, option
from ops.errors import ArgumentError

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
    with pytest.raises(ArgumentError, match=f"{command} wants a trained network: --ckpt_path runs/"):
        expanded([command, "--data.root", "x"])
    assert expanded([command, "--help"]) == [command, "--help"]
