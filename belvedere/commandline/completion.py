"""The command `completion`: prints a script with which a shell completes commands, options and configs."""

import argparse
import sys
from importlib import import_module
from typing import Any

from lightning.pytorch.cli import ArgsType, LightningArgumentParser

from belvedere.commandline.arguments import FROM_SEVERAL, INSTEAD, SHORT
from belvedere.commandline.cli import BelvedereCLI
from belvedere.commandline.functions import FUNCTIONS, parser_of
from belvedere.commandline.help import choices_of, listed, options_of, sentence
from belvedere.commandline.options import COMMANDS
from belvedere.names import SHIPPED, TASKS, class_modules

SHELLS = ("bash", "zsh")
FILES = ("root", "pictures", "output", "ckpt_path", "pretrained", "members", "labels")
"""Options that take a file or a folder."""


class Completion(BelvedereCLI):
    """A command line that prints its completion script and exits, before it parses anything."""

    def __init__(self, shell: str) -> None:
        self.shell = shell
        super().__init__("fit", [])

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        actions = list(listed(self._subcommand_parsers["fit"]))
        for name, module in class_modules().items():
            key = "data" if name.endswith("DataModule") else "model"
            actions += options_of(getattr(import_module(module), name), key)
        print(script(self.shell, {action.dest: action for action in actions}))
        sys.exit(0)


def script(shell: str, options: dict[str, Any]) -> str:
    """Returns the completion script of a shell.

    The parser's own completion, which jsonargparse offers through shtab, repeats every class for every option: 80 MB.

    Args:
        shell: One of `SHELLS`.
        options: Actions of argparse by the names of the options.
    """
    import shtab

    names = sorted(path.relative_to(SHIPPED).with_suffix("").as_posix() for path in SHIPPED.rglob("*.yaml"))
    experiments = [name for name in names if not name.startswith("studies/")]
    parser = argparse.ArgumentParser("belvedere")
    commands = parser.add_subparsers()
    for command in COMMANDS:
        one = commands.add_parser(command, help=command)  # shtab hides what has no help
        config: Any = one.add_argument("--config")
        config.complete = {"bash": "_belvedere_configs", "zsh": f"({' '.join(experiments)})"}
        for name, action in options.items():
            choices = choices_of(vars(action).get("_typehint"))
            flag: dict[str, Any] = {"action": "store_true"} if action.nargs == 0 else {"choices": choices or None}
            added: Any = one.add_argument(f"--{name}", help=sentence(action.help or ""), **flag)
            if name.rpartition(".")[2] in FILES and not choices:
                added.complete = shtab.FILE
        for name, full in SHORT.items():
            one.add_argument(name, help=full)
        for name, about in INSTEAD.items() if command in FROM_SEVERAL else ():
            taken: Any = one.add_argument(name.split()[0], help=about)
            taken.complete = shtab.FILE
    for command in FUNCTIONS:
        one = commands.add_parser(command, help=command)
        for action in listed(parser_of(command)):
            one.add_argument(f"--{action.dest}", help=sentence(action.help or ""))
    commands.add_parser("configs", help="configs").add_argument("task", nargs="?", choices=list(TASKS))
    commands.add_parser("study", help="study").add_argument("study", nargs="?")
    commands.add_parser("learning-curve", help="learning-curve").add_argument("folder", nargs="?")
    compared: Any = commands.add_parser("compare", help="compare").add_argument("paths", nargs="*")
    compared.complete = shtab.FILE
    commands.add_parser("completion", help="completion").add_argument("shell", choices=list(SHELLS))
    listing = f'_belvedere_configs() {{ compgen -W "{" ".join(experiments)}" -- "$1"; compgen -f -- "$1"; }}'
    return str(shtab.complete(parser, shell, preamble={"bash": listing}))  # type: ignore[arg-type]  # by shell, as shtab's manual has it
