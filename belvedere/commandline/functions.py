"""Runs the commands that are plain functions: their arguments are the options, their docstrings the help."""

import inspect
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Any

from jsonargparse import ArgumentParser

from belvedere.commandline.arguments import reported
from belvedere.commandline.parser import Parser, shortened
from belvedere.quiet import quiet
from ops.errors import ArgumentError, ParserError, UserError

FUNCTIONS = {"pack": "belvedere.sharing.pack", "app": "belvedere.app", "pool": "belvedere.folds.pool"}
"""Modules with a function of the command's name that returns the exit code."""


def parser_of(command: str) -> ArgumentParser:
    """Returns the parser of such a command."""
    function = _function(command)
    parser = Parser(prog=f"belvedere {command}", description=str(function.__doc__).split("\n")[0], allow_abbrev=False)
    parser.add_function_arguments(function)
    return parser


def run_function(command: str, arguments: list[str]) -> int:
    """Runs such a command and returns its exit code. Errors that the user can fix are printed as one message.

    Args:
        command: One of `FUNCTIONS`.
        arguments: What follows it; a first one that is no option, and `--model`, mean `--ckpt_path`.
    """
    quiet()
    if arguments and not arguments[0].startswith("-"):
        arguments = ["--ckpt_path", *arguments]
    try:
        given = parser_of(command).parse_args(list(_in_full(command, arguments)))
        return int(_function(command)(**given.as_dict()))
    except ParserError as error:
        return reported(ArgumentError(shortened(error)))
    except (UserError, OSError) as error:
        return reported(error)


def _function(command: str) -> Any:
    return getattr(import_module(FUNCTIONS[command]), command)


def _in_full(command: str, arguments: Sequence[str]) -> Iterator[str]:
    """Yields arguments with the full names of options, and with true for a switch that has no value."""
    parameters = inspect.signature(_function(command)).parameters
    for index, argument in enumerate(arguments):
        known = parameters.get(argument.removeprefix("--")) if argument.startswith("--") else None
        following = "".join(arguments[index + 1 : index + 2])
        switch = known is not None and isinstance(known.default, bool) and following not in ("true", "false")
        yield "--ckpt_path" if argument == "--model" else f"{argument}=true" if switch else argument
