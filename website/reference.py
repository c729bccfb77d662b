"""The command line reference, made from the parser and the constructors of tasks and data modules."""

import contextlib
import io
from collections.abc import Iterable
from importlib import import_module
from typing import Any

from belvedere.__main__ import HELP
from belvedere.commandline.cli import BelvedereCLI
from belvedere.commandline.functions import FUNCTIONS
from belvedere.commandline.functions import parser_of as parser_of_function
from belvedere.commandline.help import options_of
from belvedere.commandline.options import OWN_CALLBACKS
from belvedere.names import COMMANDS, class_modules, configs, import_classes

OWN = ("output", "monitor", "precision", "members", "overwrite", "trust", "resume", "ckpt_path", "seed_everything")


class _ParserFoundError(Exception):
    """Ends a command before it parses anything."""


class _Documented(BelvedereCLI):
    def parse_arguments(self, parser: Any, args: Any) -> None:
        """Hands over the parser of the command instead of parsing.

        Raises:
            _ParserFoundError: Always.
        """
        raise _ParserFoundError(vars(self).get("_subcommand_parsers", {}).get(self.command, parser))


def parser_of(command: str) -> Any:
    """Returns the parser of a command."""
    try:
        _Documented(command, [])
    except _ParserFoundError as found:
        return found.args[0]
    raise AssertionError("the parser was not asked to parse")


def rows(actions: Iterable[Any]) -> list[str]:
    """Returns a row of a Markdown table per option: name, default, meaning."""
    found = []
    for action in actions:
        names = [name for name in action.option_strings if name.startswith("--") and not name.endswith("+")]
        if not names or any(word in names[0] for word in ("help", "print_config", "config")):
            continue
        default = action.default
        shown = "" if default is None or str(default) == "==SUPPRESS==" else f"`{_plain(default)}`"
        text = " ".join((action.help or "").split()).replace("|", "\\|").replace("<", "&lt;")
        text = text.replace("%%", "%")
        found.append(f"| `{names[0]}` | {shown} | {text} |")
    return found


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{','.join(map(str, value))}]"
    return str(value)


def table(lines: Iterable[str]) -> str:
    """Returns rows below a head."""
    return "\n".join(["| option | default | |", "|---|---|---|", *lines])


def class_options(name: str, module: str, key: str) -> str:
    """Returns the options of a task or data module, as a table."""
    return table(rows(options_of(getattr(import_module(module), name), key)))


def _configs() -> list[str]:
    """Returns the shipped configs, a table for each kind."""
    parts = []
    for block in configs().split("\n\n"):
        kind, *lines = block.splitlines()
        cells = (line.strip().split(maxsplit=1) for line in lines)
        rows_of_kind = [f"| `{name}` | {text} |" for name, text in cells]
        parts += [f"### {kind.rstrip(':').capitalize()}", "\n".join(["| name | |", "|---|---|", *rows_of_kind])]
    return parts


def cli_page() -> str:
    """Returns the page in Markdown."""
    import_classes()
    with contextlib.redirect_stdout(io.StringIO()):
        actions = parser_of("fit")._actions
    own = [each for each in actions if each.dest in OWN]
    around = [each for each in actions if each.dest.split(".")[0] in OWN_CALLBACKS and "." in each.dest]
    trainer = [each for each in actions if each.dest.startswith("trainer.") and each.dest != "trainer.callbacks"]
    parts = [
        "# Command line",
        "This page is made from the parser when the site is built. Options of the model are written `--model.NAME`, "
        "those of the data `--data.NAME`; a config sets them as `model.init_args.NAME` and `data.init_args.NAME`.",
        "## Commands",
        f"```text\n{HELP.rstrip()}\n```",
        f"The commands are {', '.join(f'`{each}`' for each in COMMANDS)}. "
        "[Exit codes](files.md#exit-codes-and-interruptions).",
        "## Shipped configs",
        *_configs(),
        "## Options of every task",
        table(rows(own)),
        "### Around training",
        table(rows(around)),
    ]
    classes = class_modules()
    for name, module in classes.items():
        key = "data" if name.endswith("DataModule") else "model"
        parts += [f"## {name}", class_options(name, module, key)]
    for command in FUNCTIONS:
        parts += [f"## Options of {command}", table(rows(parser_of_function(command)._actions))]
    parts += ["## Options of Lightning's Trainer", table(rows(trainer))]
    return "\n\n".join(parts) + "\n"
