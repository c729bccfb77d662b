import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Optional, Union

import pytest
from lightning.pytorch import Callback

from belvedere.arguments import Parser, readable
from ops.errors import ParserError

Command = Callable[..., Any]


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


def test_misspelt_settings_of_a_config_are_named_with_the_nearest(belvedere: Command, tiny: list[str]) -> None:
    Path("mine.yaml").write_text("trainer: {max_epoch: 3}")
    result = belvedere("fit", *tiny, "--config", "mine.yaml")
    assert result.code == 2
    assert "there is no option --trainer.max_epoch. Did you mean --trainer.max_epochs?" in result.err
    Path("mine.yaml").write_text("trainer: [")
    assert "The config mine.yaml is not YAML" in belvedere("fit", *tiny, "--config", "mine.yaml").err
