"""What is typed on the command line, made ready for the parser: configs found, a checkpoint's run remembered."""

import difflib
import inspect
import operator
import re
from argparse import Action
from collections.abc import Sequence
from functools import reduce
from pathlib import Path
from typing import Any, NoReturn, get_args

import yaml
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.cli import LightningArgumentParser

from belvedere.checkpoints import run_config
from ops.errors import ArgumentError, ParserError

SHIPPED = Path(__file__).parents[1] / "configs"
FROM_CHECKPOINT = ("validate", "test", "predict")


def find_config(name: str) -> Path:
    """The config file of this name: a path, or a name in `configs` of the working folder or among the shipped ones.

    Raises:
        ArgumentError: There is none (the message names the nearest), or it is not YAML.
    """
    for folder in (Path(), Path("configs"), SHIPPED):
        for file in (folder / name, folder / f"{name}.yaml"):
            if file.is_file():
                try:
                    yaml.safe_load(file.read_text())
                except (yaml.YAMLError, UnicodeDecodeError) as error:
                    raise ArgumentError(f"The config {file} is not YAML: {' '.join(str(error).split())}.") from error
                return file
    names = (path.relative_to(SHIPPED).with_suffix("") for path in SHIPPED.rglob("*.yaml"))
    shipped = sorted(str(path) for path in names if path.parts[0] != "studies")  # those are for another command
    near = difflib.get_close_matches(name.removesuffix(".yaml"), shipped, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(near)}?" if near else f"Shipped: {', '.join(shipped)}."
    raise ArgumentError(f"There is no config {name!r} in {Path.cwd()} or among the shipped ones. {hint}")


def option(arguments: list[str], name: str) -> str | None:
    """The last value typed for an option, as `--name value` or `--name=value`; None where it was not typed."""
    value = None
    for index, argument in enumerate(arguments):
        if argument == name and index + 1 < len(arguments):
            value = arguments[index + 1]
        elif argument.startswith(f"{name}="):
            value = argument.split("=", 1)[1]
    return value


def expanded(arguments: list[str]) -> list[str]:
    """Arguments with each `--config` as a file's path, and with the run's own config first for a checkpoint.

    Args:
        arguments: The subcommand and what follows it.

    Raises:
        ArgumentError: A config or checkpoint is not there, or an option is given to the task that the data have.
    """
    command, *rest = arguments
    for name in ("classes", "window"):
        if option(rest, f"--model.{name}") is not None:
            raise ArgumentError(f"--model.{name} follows the data: give --data.{name}.")
    result: list[str] = []
    for index, argument in enumerate(rest):
        if index and rest[index - 1] in ("--config", "-c"):
            result.append(str(find_config(argument)))
        elif argument.startswith("--config="):
            result.append(f"--config={find_config(argument.split('=', 1)[1])}")
        else:
            result.append(argument)
    checkpoint = option(rest, "--ckpt_path")
    known = command in FROM_CHECKPOINT or (command == "features" and checkpoint is not None)
    if known and not {"--help", "-h"} & set(rest):
        if checkpoint is None:
            raise ArgumentError(f"{command} wants a trained network: --ckpt_path runs/…/checkpoints/best.ckpt.")
        result = ["--config", yaml.safe_dump(run_config(Path(checkpoint))), *result]
    return [command, *result]


PARSER_TALK = (
    *("Parser key", "Does not validate", "Subtypes", "Errors", "Expected a <class 'NoneType'>", "Given value"),
    *("Not a valid subclass", "Subclass types expect", "a class path (str)", "a dict with"),
    *("Problem with given class_path", "Type "),
)
PARSER_WORDS = {
    "Expected a <class 'int'>": "a whole number was wanted",
    "Expected a <class 'float'>": "a number was wanted",
    "Expected a typing.Literal": "one of these was wanted: ",
    "unrecognized arguments: ": "unknown option ",
    "Expected an instantiatable class, but": "--config is missing (such as --config clouds/fpn);",
    "the following arguments are required": "--config is missing (such as --config clouds/fpn), or else",
}


class Parser(LightningArgumentParser):
    """A parser whose errors are one sentence and name the nearest option."""

    def add_lightning_class_args(self, *args: Any, **kwargs: Any) -> list[str]:
        """Adds a class's arguments; those that may be whole numbers or shares are read as whole numbers first.

        Python remembers `Union[float, int]` and `Union[int, float]` as one, in the order that any library happened to
        ask for first; `--trainer.limit_train_batches 1` would mean one batch or all of them.
        """
        added = super().add_lightning_class_args(*args, **kwargs)
        for action in self._actions:
            types = list(get_args(getattr(action, "_typehint", None)))
            if int in types and float in types[: types.index(int)]:
                types.remove(int)
                types.insert(types.index(float), int)
                vars(action)["_typehint"] = reduce(operator.or_, types)
        return added

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Refuses what was typed.

        Raises:
            ParserError: Always.
        """
        parsers = [self, *(each for action in self._actions for each in _commands(action))]
        known = [name for parser in parsers for action in parser._actions for name in action.option_strings]
        for key, parent in (("model", LightningModule), ("data", LightningDataModule)):
            for child in _descendants(parent):
                known += [f"--{key}.{name}" for name in inspect.signature(child).parameters]
        raise ParserError(str(message), known)


def _commands(action: Action) -> list[LightningArgumentParser]:
    return list(action.choices.values()) if isinstance(action.choices, dict) else []


def _descendants(parent: type) -> list[type]:
    children: list[type] = parent.__subclasses__()
    return [each for child in children for each in (child, *_descendants(child))]


def nearest(name: str, known: Sequence[str]) -> str:
    """A hint at the nearest known option, or nothing."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f" Did you mean {near[0]}?" if near else ""


def readable(error: ParserError) -> str:
    """A parser's message in a few words.

    The parser tells of every type that it tried, one inside the other; what the user typed wrong is the first
    that says more than that None was possible too.
    """
    message = str(error)
    keys = list(dict.fromkeys(re.findall(r'Parser key "([\w.]+)":', message)))
    lines = [line.strip().removeprefix("- ") for line in message.splitlines()]
    reason = next((line for line in lines if line and not line.startswith(PARSER_TALK)), message.strip())
    reason = re.sub(r"\.? Did you mean --.*", "", reason)
    for theirs, ours in PARSER_WORDS.items():
        reason = reason.replace(theirs, ours)
    unknown = re.search(r"[Oo]ption '([\w.]+)'|unknown option --([\w.]+)", reason)
    typed = ".".join([*keys, unknown[1] or unknown[2]] if unknown else keys)
    hint = nearest(f"--{typed}", error.known) if unknown else ""
    if unknown or not typed:
        return reason if not unknown else f"there is no option --{typed}.{hint}"
    return f"--{typed}: {reason}"
