"""Checks the options of many trainings in one process, before any of them starts.

`python -m belvedere.commandline.checking` reads a JSON list of the arguments of `belvedere fit`, one list per training.
It writes the number of the first training whose arguments are invalid, and why, as a JSON list, or null. A process per
training would import the libraries each time.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer

from belvedere.commandline.arguments import expanded
from belvedere.commandline.cli import BelvedereCLI
from belvedere.commandline.parser import shortened
from belvedere.commandline.settings import follow_data
from belvedere.quiet import quiet, silent
from ops.errors import ArgumentError, ParserError, UserError


class Checked(Exception):
    """Ends a command whose options are valid."""


class CheckingCLI(BelvedereCLI):
    """Parses the options of `fit`, makes task, data module and callbacks of them, and stops.

    Networks are made without memory for their weights, and nothing is written.
    """

    def before_instantiate_classes(self) -> None:
        """Completes the config as far as task and data need it."""
        follow_data(self.settings, self.command)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Checks the made objects.

        Raises:
            Checked: They are valid.
        """
        self.check_options()
        check_files(self.settings.model.init_args)
        raise Checked


def check_files(options: Any) -> None:
    """Checks that files of weights exist.

    Raises:
        ArgumentError: One does not.
    """
    given = {f"model.{name}": options.get(name) for name in ("pretrained", "extractor_weights")}
    given |= {f"model.backbones, {name}": path for name, path in (options.get("backbones") or {}).items()}
    for name, path in given.items():
        if isinstance(path, str) and not Path(path).expanduser().is_file():
            raise ArgumentError(f"--{name}: there is no file {path}.")


def problem(arguments: list[str], device: str) -> str:
    """Returns what is wrong with the arguments of `fit`; "" if nothing is.

    Args:
        arguments: The arguments.
        device: Where networks are made: on `meta`, they take no time, but not all can be made there.
    """
    try:
        with torch.device(device):
            CheckingCLI("fit", expanded(["fit", *arguments])[1:])
    except Checked:
        return ""
    except ParserError as error:
        return shortened(error)
    except (UserError, MisconfigurationException) as error:
        return str(error)
    except (NotImplementedError, RuntimeError) as error:  # no values on meta: `first_problem` asks the CPU then
        if device != "meta":
            raise
        return str(error)
    raise AssertionError("the command went on")


def first_problem(trainings: list[list[str]]) -> tuple[int, str] | None:
    """Returns the number of the first training whose arguments are invalid, and why; None if all are valid."""
    device = "meta"
    for number, arguments in enumerate(trainings):
        found = problem(arguments, device)
        if found and device == "meta":
            found = problem(arguments, "cpu")
            device = "meta" if found else "cpu"
        if found:
            return number, found
    return None


def main() -> None:
    """Checks what is on the standard input."""
    quiet()
    silent()
    answer, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no answer
    json.dump(first_problem(json.load(sys.stdin)), answer)


if __name__ == "__main__":
    main()
