"""The parser of commands that take no config and import no library to parse."""

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from typing import NoReturn

from ops.errors import ArgumentError


class PlainParser(ArgumentParser):
    """Reports errors as the other commands do.

    Args:
        command: The command.
        description: What its help begins with.
    """

    def __init__(self, command: str, description: str) -> None:
        super().__init__(f"belvedere {command}", description=description, allow_abbrev=False,
                         formatter_class=RawDescriptionHelpFormatter)  # fmt: skip
        self.command = command

    def error(self, message: str) -> NoReturn:
        """Raises an ArgumentError."""
        raise ArgumentError(f"{self.command}: {message}. See belvedere {self.command} --help.")
