"""Lightning's parser, with one-line errors that name the nearest option."""

import inspect
import operator
import re
from collections.abc import Iterable, Mapping
from functools import reduce
from types import NoneType, UnionType
from typing import Any, Literal, NoReturn, Union, get_args, get_origin

from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.cli import LightningArgumentParser
from torch import Tensor

from belvedere.commandline.arguments import HELPS, SHORT
from belvedere.trust import known_classes, wants_class
from ops.errors import ParserError, nearest


class Parser(LightningArgumentParser):
    """Lightning's parser, with one-line errors that name the nearest option."""

    def __init__(self, *args: Any, prog: str = "belvedere", **kwargs: Any) -> None:
        super().__init__(*args, prog=prog, **kwargs)  # the parser behind `--data.help` gets no name

    def add_lightning_class_args(self, *args: Any, **kwargs: Any) -> list[str]:
        """Adds a class's arguments, and reads "1" as an integer wherever an int and a float are both possible.

        Python caches `Union[float, int]` and `Union[int, float]` as one, in the order in which any library first used
        it; `--trainer.limit_train_batches 1` would mean one batch or all of them. jsonargparse has no public way to
        set the order, so this changes its private `_typehint`.
        """
        added = super().add_lightning_class_args(*args, **kwargs)
        for action in self._actions:  # argparse lists options nowhere else
            types = list(get_args(getattr(action, "_typehint", None)))
            if int in types and float in types[: types.index(int)]:
                types.remove(int)
                types.insert(types.index(float), int)
                vars(action)["_typehint"] = reduce(operator.or_, types)
        return added

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Rejects what was typed.

        Raises:
            ParserError: Always. Its message is the parser's own, because a parser of a class's arguments raises it
                inside another parser, which looks into it; `shortened` is for the outermost.
        """
        key = re.match(r'Parser key "([\w.]+)":', message)
        hint = next((vars(each).get("_typehint") for each in self._actions if key and each.dest == key[1]), None)
        if get_origin(hint) in (Union, UnionType):
            hint = reduce(operator.or_, [each for each in get_args(hint) if each is not Tensor])  # nobody types one
        if key and hint is not None and not wants_class(hint):
            *_, got = re.split(r"(?:Got|Given) value: ", message)
            message = f"{key[0]}\n  expected {in_words(hint)}, got {got}"
            if got.strip(" .") in ("True", "False", "None") and "a text" in in_words(hint):
                message += (
                    "; YAML reads words like yes, no, on, off and null as such values, so quote them: '[\"yes\"]'"
                )
        raise ParserError(message, list(self._options()))

    def _options(self) -> Iterable[str]:
        """Yields every option of this parser and its commands, and of every imported task and data module."""
        yield from HELPS
        commands = [each for action in self._actions if isinstance(action.choices, dict)
                    for each in action.choices.values()]  # fmt: skip
        for parser in (self, *commands):
            yield from (name for action in parser._actions for name in action.option_strings)
        for key, parent in (("model", LightningModule), ("data", LightningDataModule)):
            for child in _descendants(parent):
                yield from (f"--{key}.{name}" for name in parameters(child))


def parameters(kind: type) -> dict[str, Any]:
    """Returns a class's arguments and their defaults, with those of its parents where it passes on `**options`.

    One without a default has `inspect.Parameter.empty`.
    """
    found: dict[str, Any] = {}
    for parent in kind.__mro__:
        if "__init__" in vars(parent):
            _, *own = inspect.signature(vars(parent)["__init__"]).parameters.values()
            named = [each for each in own if each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)]
            found |= {each.name: each.default for each in named if each.name not in found}
            if len(named) == len(own):
                break
    return found


def in_words(hint: Any) -> str:
    """Returns what values of a type look like on the command line."""
    known = {int: "an integer", float: "a number", str: "a text", bool: "true or false", NoneType: "null"}
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType, Literal):
        parts = [hint] if origin is Literal else inner
        values = (get_args(each) if get_origin(each) is Literal else [in_words(each)] for each in parts)
        *others, last = dict.fromkeys(str(each) for several in values for each in several)
        return f"{', '.join(others)} or {last}" if others else last
    if origin in (dict, Mapping):
        return "a mapping"
    if origin is not None:
        more = ["…"] if origin is not tuple else []
        return f"[{', '.join([*('…' if each is ... else in_words(each) for each in inner), *more])}]"
    return known.get(hint) or f"a {hint.__name__.lower()}"


def _descendants(parent: type) -> list[type]:
    children: list[type] = parent.__subclasses__()
    return [each for child in children for each in (child, *_descendants(child))]


def shortened(error: ParserError) -> str:
    """Returns the last informative line of a parser's message with the option it is about, and the nearest option.

    The parser lists why each possible type was rejected, one inside the other, and then the value in full. Every option
    may also be null, which it lists last.
    """
    text = str(error)
    keys = list(dict.fromkeys(re.findall(r'Parser key "([\w.]+)":', text)))
    wrong = re.search(r"class_path '([\w.]+)':\s+((?!Parser key).*)|import path string: ([A-Z]\w*)", text)
    if wrong:
        name = wrong[1] or wrong[3]
        reason = f": {wrong[2].removesuffix('.')}" if wrong[2] else ""
        return f"--{'.'.join(keys)}: there is no class {name}{reason}.{nearest(name, known_classes(), cutoff=0.8)}"
    reasons, *_ = text.partition("Given value type")
    lines = [line.strip().removeprefix("- ") for line in reasons.splitlines() if "<class 'NoneType'>" not in line]
    last = next((line for line in reversed(lines) if line), str(error))
    config = re.search(r'Unable to load config "(.*)"', last)
    if config and keys:
        option = "--" + ".".join(keys)
        return f"{option} {config[1]}: there is no such config file. Its options are {option}.NAME, see --help."
    unknown = re.search(r"ption '([\w.]+)'|unrecognized arguments: --([\w.]+)", last)
    full = "--" + ".".join([*keys, unknown[1] or unknown[2]]) if unknown else ""
    short = next((name for name, meant in SHORT.items() if meant == full), None)
    if short is not None:
        return f"{short}, short for {full}, is no option of this task. --help with the same --config lists its options."
    hint = ""
    if full in error.known:
        hint = " Other tasks have this option; --help with the same --config lists those of this one."
    elif unknown:
        hint = nearest(full, error.known)
    return (f"--{'.'.join(keys)}: " if keys else "") + last + ("" if last.endswith((".", "?")) else ".") + hint
