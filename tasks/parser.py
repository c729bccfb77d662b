"""The parser of the command line: what it refuses is said in a few words, with the nearest option."""

import difflib
import inspect
import operator
import re
from argparse import Action
from collections.abc import Sequence
from functools import reduce
from typing import Any, NoReturn, get_args

from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.cli import LightningArgumentParser

from tasks.checkpoints import ArgumentError

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


class ParserError(ArgumentError):
    """The parser refused something; its own words, which `readable` shortens.

    Args:
        message: The parser's.
        known: Options that could have been meant.
    """

    def __init__(self, message: str, known: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.known = known


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
