"""Prepares what is typed for the parser, before any library is imported: finds files, replaces short names."""

import json
import os
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import yaml

from belvedere.files import DESCRIPTION, at_home, check_found, is_package, parsed_as
from belvedere.names import COMMANDS
from ops.atomic import in_words
from ops.errors import ArgumentError, nearest

FROM_CHECKPOINT = ("validate", "test", "predict", "export", "suggest")
FROM_SEVERAL = (*FROM_CHECKPOINT, "describe")  # take --run
INSTEAD = {
    "--model PACKAGE": "A package of belvedere pack, in place of --ckpt_path",
    "--run FOLDER": "A folds study after belvedere pool: all its checkpoints",
}
"""Options of `FROM_SEVERAL` that become others before the parser sees them."""
SHORT = {
    "--epochs": "--trainer.max_epochs",
    "--lr": "--model.optimizer.lr",
    "--batch_size": "--data.batch_size",
    "--data": "--data.root",
    "-n": "--count",
}
"""Short names of options. `--data` may also name a class or a file with the arguments of one."""
MEANT = {"train": "fit", "eval": "test", "evaluate": "test", "infer": "predict", "inference": "predict",
         "version": "--version"}  # fmt: skip
"""What other programs call our commands."""
HELPS = ("--help", "--help.trainer", "--help.all")


def check_command(name: str) -> None:
    """Checks the name of a command.

    Raises:
        ArgumentError: There is no such command; the message names the nearest.
    """
    if name not in COMMANDS:
        hint = f" Did you mean {MEANT[name]}?" if name in MEANT else nearest(name, COMMANDS)
        raise ArgumentError(f"belvedere has no command {name!r}; its commands are {', '.join(COMMANDS)}.{hint}")


def reported(error: Exception) -> int:
    """Prints an error that the user can fix, and returns the exit code."""
    if isinstance(error, OSError):
        text = f"{error.filename}: {in_words(error)}." if error.filename else f"{in_words(error)}."
    else:
        text = str(error).split("DataError: ")[-1]  # a loader's worker wraps its traceback around the message
    print(f"\nbelvedere: {text}", file=sys.stderr)
    return 2


def option(arguments: list[str], name: str) -> str | None:
    """Returns the last value typed for an option, as `--name value` or `--name=value`; None if it was not typed."""
    value = None
    for index, argument in enumerate(arguments):
        if argument == name and index + 1 < len(arguments):
            value = arguments[index + 1]
        elif argument.startswith(f"{name}="):
            value = argument.split("=", 1)[1]
    return value


def help_wanted(arguments: list[str]) -> str:
    """Returns which of `HELPS` was typed; "" for none, or for the help of one class, which the parser gives."""
    found = ["--help" if argument == "-h" else argument for argument in arguments]
    return next((argument for argument in found if argument in HELPS), "")


def expanded(arguments: list[str]) -> list[str]:
    """Returns the arguments with each `--config` as a file's path and, for a checkpoint, its run's config first.

    Paths that begin with `~/` are expanded, and short names replaced. Later values win, so everything typed overrides
    the checkpoint's settings.

    Args:
        arguments: The command and what follows it.

    Raises:
        ArgumentError: A config or checkpoint is missing, or an option of the data is given to the model.
    """
    command, *rest = (at_home(argument) for argument in arguments)
    rest = _opened(list(_in_full(rest)))
    for index, argument in reversed(list(enumerate(rest))):
        if argument == "--resume" and (index + 1 == len(rest) or rest[index + 1].startswith("-")):
            rest[index] = "--resume=auto"
    if rest and not rest[0].startswith("-"):
        raise ArgumentError(f"{command} takes options only, got {rest[0]!r}. Did you mean --config {rest[0]}?")
    for name in (argument.split("=")[0] for argument in rest):
        if re.fullmatch(r"-[A-Za-z]\w[\w.]*", name):
            raise ArgumentError(f"There is no option {name}. Did you mean -{name}?")
        if re.fullmatch(r"--\w[\w.]*-[\w.-]*", name):
            raise ArgumentError(f"There is no option {name}. Did you mean {'--' + name[2:].replace('-', '_')}?")
    rest = list(_with_ensemble(command, rest))
    if command in FROM_CHECKPOINT:
        rest = list(_with_members(rest))
    for name in ("classes", "window"):
        if option(rest, f"--model.{name}") is not None:
            raise ArgumentError(f"--model.{name} follows the data: give --data.{name}.")
    result: list[str] = []
    for index, argument in enumerate(rest):
        if index and rest[index - 1] in ("--config", "-c"):
            result.append(parsed_as(argument))
        elif argument.startswith("--config="):
            result.append(f"--config={parsed_as(argument.split('=', 1)[1])}")
        else:
            result.append(argument)
    checkpoint = option(rest, "--ckpt_path")
    names = [argument.split("=")[0] for argument in rest]
    helping = help_wanted(rest) or any(name.endswith(".help") for name in names)
    if command in FROM_CHECKPOINT or (command in ("features", "describe") and checkpoint is not None):
        if checkpoint is not None:
            check_found(Path(checkpoint))
            from belvedere.checkpoints import run_config

            result = ["--config", yaml.safe_dump(run_config(Path(checkpoint), "--trust" in rest)), *result]
        elif not helping:
            raise ArgumentError(f"{command} needs a checkpoint: --ckpt_path runs/…/checkpoints/best.ckpt.")
    elif not helping and not any(argument.startswith(("--config", "-c", "--model")) for argument in rest):
        raise ArgumentError(f"{command} needs --config, such as --config roads/best; `belvedere configs` lists them.")
    return [command, *result]


def _opened(arguments: list[str]) -> list[str]:
    """Returns the arguments with the checkpoint of a package where `--model` or `--ckpt_path` names the package.

    Raises:
        PackageError: The package cannot be opened.
        ArgumentError: Its config names classes that are not trusted.
    """
    for index, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        given = value if equals else "".join(arguments[index + 1 : index + 2])
        if name == "--model" and given and Path(given).is_dir() and not is_package(given):
            raise ArgumentError(f"{given} is no package: it has no {DESCRIPTION}. `belvedere pack` makes packages.")
        if name in ("--model", "--ckpt_path") and is_package(given):
            from belvedere.sharing.packed import opened

            found = ["--ckpt_path", str(opened(given, "--trust" in arguments))]
            return [*arguments[:index], *found, *arguments[index + (1 if equals else 2) :]]
    return arguments


def _with_ensemble(command: str, arguments: list[str]) -> Iterator[str]:
    """Yields arguments with the checkpoints of an ensemble in place of `--run FOLDER`.

    Raises:
        ArgumentError: The folder has none, or the command takes none.
    """
    folder = option(arguments, "--run")
    if folder is None:
        yield from arguments
        return
    if command not in FROM_SEVERAL:
        raise ArgumentError(f"--run is for {', '.join(FROM_SEVERAL)}, not for {command}. Leave it out.")
    places = [Path(folder), Path(folder, "pooled")]
    file = next((place / "ensemble.json" for place in places if (place / "ensemble.json").is_file()), None)
    if file is None:
        raise ArgumentError(f"There is no ensemble.json in {folder}. Make it with: belvedere pool {folder}")
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        checkpoint, *members = [str(file.parent / name) for name in (found["checkpoint"], *found["members"])]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ArgumentError(f"{file} is damaged. Make it again with: belvedere pool {folder}") from error
    for path in members:
        check_found(Path(path))
    yield from ("--ckpt_path", checkpoint, "--members", json.dumps([os.path.normpath(path) for path in members]))
    skipped = False
    for argument in arguments:
        if not skipped and not argument.startswith("--run=") and argument != "--run":
            yield argument
        skipped = argument == "--run"


def _with_members(arguments: Iterable[str]) -> Iterator[str]:
    """Yields arguments with `--ckpt_path A --members [B, C]` in place of `--ckpt_path A B C`."""
    given = list(arguments)
    while given:
        argument = given.pop(0)
        yield argument
        if argument != "--ckpt_path" or not given:
            continue
        yield given.pop(0)
        further: list[str] = []
        while given and not given[0].startswith("-"):
            further.append(given.pop(0))
        if further:
            yield from ("--members", json.dumps(further))


def _in_full(arguments: list[str]) -> Iterator[str]:
    """Yields arguments with the full names of options."""
    for index, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name == "--data":
            typed = value if equals else "".join(arguments[index + 1 : index + 2])
            yield argument if _is_class(typed) else f"--data.root{equals}{value}"
        else:
            yield SHORT.get(name, name) + equals + value


def _is_class(value: str) -> bool:
    """Returns whether the value of `--data` is a class or its arguments; otherwise it is the dataset's folder."""
    if Path(value).is_dir():
        return False
    named = re.fullmatch(r"\w*DataModule|\w+(\.\w+)*\.[A-Z]\w*", value)
    return bool(named) or value.startswith("{") or Path(value).suffix in (".yaml", ".yml", ".json")
