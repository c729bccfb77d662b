"""The help of a command: the options of its task and data first, a line each, with the values that they would have."""

import re
import shutil
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any, Literal, get_args, get_origin

from jsonargparse import ArgumentParser, Namespace

from belvedere.commandline.arguments import FROM_CHECKPOINT, FROM_SEVERAL, HELPS, INSTEAD, SHORT

UNTYPED = ("help", "print_config", "config", "trainer", "model", "data", "weights_only", "model.classes",
           "model.window", "best_checkpoint.monitor", "best_checkpoint.mode", "early_stopping.monitor",
           "early_stopping.mode")  # fmt: skip
"""Options without a line: those that lead here, and those that follow others."""
LEFT = 40  # letters of an option and its value


def without_help(arguments: Sequence[str]) -> list[str]:
    """Returns the arguments without those of `HELPS`."""
    return [argument for argument in arguments if argument not in (*HELPS, "-h")]


def page(
    command: str,
    parser: ArgumentParser,
    settings: Namespace | None,
    topic: str = "--help",
    elsewhere: tuple[str, ...] = (),
) -> str:
    """Returns the help of a command.

    Args:
        command: The command.
        parser: Its parser.
        settings: What its config and options say; None if none were typed.
        topic: `--help`, or `--help.trainer` for the options of Lightning's trainer.
        elsewhere: Options that begin so act in other commands and are left out.
    """
    width = max(80, shutil.get_terminal_size((120, 24)).columns)
    values = flat(parser.get_defaults() if settings is None else settings)
    if topic == "--help.trainer":
        trainer = [action for action in listed(parser) if action.dest.startswith("trainer.")]
        return "\n".join(["Options of Lightning's trainer:", *_lines(trainer, values, width)])
    parts: list[str] = []
    chosen_options: list[Any] = []
    for key, title in (("data", "Data"), ("model", "Task")):
        chosen = None if settings is None else settings.get(key)
        if chosen is not None:
            kind = _class(chosen.class_path)
            given = {f"{key}.{name}": value for name, value in flat(chosen.get("init_args", {})).items()}
            about, options = sentence(kind.__doc__ or ""), options_of(kind, key)
            heading = textwrap.shorten(f"{title}: {kind.__name__}, {about}", width, placeholder=" …")
            parts += [heading, *_lines(options, given, width), ""]
            chosen_options += options
    if not parts:
        example = "--ckpt_path FILE" if command in FROM_CHECKPOINT else "--config clouds/best"
        parts += [f"belvedere {command} {example} --help lists the options of its task and data as well.", ""]
    own = [action for action in listed(parser) if not action.dest.startswith(("trainer.", *elsewhere))]
    known = {action.dest for action in (*listed(parser), *chosen_options)}
    short = [
        f"  {name:{LEFT}}  {full}"
        for name, full in SHORT.items()
        if not chosen_options or any(f"{full}.".startswith(f"--{each}.") for each in known)
    ]
    instead = [f"  {name:{LEFT}}  {about}" for name, about in INSTEAD.items() if command in FROM_SEVERAL]
    return "\n".join([*parts, f"Options of {command}:", *_lines(own, values, width), *instead, "",
                      "Short names:", *short, "",
                      "--config NAME may be repeated; later ones win. --print_config prints all settings.",
                      "--help.trainer lists the options of Lightning's trainer, --help.all all with their types.",
                      "--data.help CLASS and --model.help CLASS list those of another class."])  # fmt: skip


def options_of(kind: type, key: str) -> list[Any]:
    """Returns the options of a class below a key, as actions of argparse."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind, key, fail_untyped=False)
    return list(listed(parser))


def choices_of(hint: Any) -> list[str]:
    """Returns the values of an option that a type hint lists; none if it is open."""
    if get_origin(hint) is Literal:
        return [str(each) for each in get_args(hint)]
    if hint is bool:
        return ["true", "false"]
    return [choice for each in get_args(hint) for choice in choices_of(each)] if get_origin(hint) is not list else []


def flat(settings: Any) -> dict[str, Any]:
    """Returns settings by their dotted names, such as `trainer.max_epochs`."""
    found: dict[str, Any] = {}
    for name, value in (vars(settings) if isinstance(settings, Namespace) else dict(settings)).items():
        found[name] = value
        if isinstance(value, Namespace) and "class_path" not in value:
            found |= {f"{name}.{inner}": each for inner, each in flat(value).items()}
    return found


def listed(parser: ArgumentParser) -> Iterator[Any]:
    """Yields the options of a parser that take a plain value; argparse lists options nowhere else."""
    for action in parser._actions:
        about = action.option_strings and action.dest not in UNTYPED and not action.dest.endswith(".help")
        if about and action.help not in ("==SUPPRESS==", "Path to a configuration file."):
            yield action


def _lines(actions: Iterable[Any], values: Mapping[str, Any], width: int) -> Iterator[str]:
    for action in actions:
        value = _shown(values.get(action.dest, action.default))
        left = f"--{action.dest}" + ("" if action.nargs == 0 else f" {value}")
        choices = choices_of(vars(action).get("_typehint"))
        listed = f" ({', '.join(choices)})" if choices and choices != ["true", "false"] else ""
        text = sentence(action.help or "")
        room = max(20, width - LEFT - 4)
        if len(listed) < room / 2 and listed.strip(" ()") not in text:
            text = textwrap.shorten(text, room - len(listed), placeholder=" …") + listed
        left = left if len(left) <= LEFT else left[: LEFT - 1] + "…"
        yield f"  {left:{LEFT}}  {textwrap.shorten(text, room, placeholder=' …')}"


def _shown(value: Any) -> str:
    """Returns a value as one would type it, classes by their names."""
    if isinstance(value, Namespace | Mapping) and "class_path" in value:
        arguments = value.get("init_args") or {}
        first = [f"{name}={_shown(each)}" for name, each in dict(arguments).items()][:1]
        return " ".join([value["class_path"].rpartition(".")[2], *first])
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{name}: {_shown(each)}" for name, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_shown, value))}]"
    if isinstance(value, bool) or value is None:
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def sentence(text: str) -> str:
    """Returns the first sentence of a text, without its full stop."""
    plain = re.sub(r"\bNone\b", "null", " ".join(text.split()).replace("`", ""))
    return re.split(r"\.(?:\s|$)", plain, maxsplit=1)[0]


def _class(path: str) -> type:
    module, _, name = path.rpartition(".")
    found: type = getattr(import_module(module), name)
    return found
