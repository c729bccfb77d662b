"""Checks the options of commands that a study runs after each test, before any training starts.

`python -m belvedere.commandline.checking_steps` reads a JSON list: the arguments of a `belvedere fit`, then the words
of each command. It writes the number of the first command whose options are invalid, and why, as a JSON list, or null.
"""

import json
import sys
from collections.abc import Sequence

from belvedere.commandline.arguments import expanded
from belvedere.commandline.cli import BelvedereCLI
from belvedere.commandline.parser import shortened
from belvedere.quiet import quiet, silent
from ops.errors import ParserError, UserError


def problem(arguments: Sequence[str], words: Sequence[str]) -> str:
    """Returns what is wrong with the options of a command; "" if nothing is.

    A command reads its config from a checkpoint, which does not exist yet: the arguments of the training replace it.

    Args:
        arguments: Arguments of `belvedere fit`.
        words: The command and its options.
    """
    command, *options = words
    try:
        BelvedereCLI(command, [*expanded(["fit", *arguments, *options])[1:], "--print_config"])
    except SystemExit:  # the config is printed
        return ""
    except ParserError as error:
        return shortened(error)
    except UserError as error:
        return str(error)
    raise AssertionError("the command went on")


def main() -> None:
    """Checks what is on the standard input."""
    quiet()
    silent()
    answer, sys.stdout = sys.stdout, sys.stderr  # the configs are no answer
    arguments, *commands = json.load(sys.stdin)
    found = ([number, text] for number, words in enumerate(commands) if (text := problem(arguments, words)))
    json.dump(next(found, None), answer)


if __name__ == "__main__":
    main()
