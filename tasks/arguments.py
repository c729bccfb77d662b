"""What is typed on the command line, made ready for the parser: configs found, a checkpoint's run remembered."""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

SHIPPED = Path(__file__).parents[1] / "configs"
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
    "the following arguments are required": "--config is missing (such as --config clouds/fpn), or else",
}
FROM_CHECKPOINT = ("validate", "test", "predict")
REMEMBERED = ("monitor", "model", "data")  # what a run's config says about more than the run itself


class ArgumentError(ValueError):
    """Something typed cannot be used; the message says what was wanted."""


class ParserError(ArgumentError):
    """The parser refused something; its own words, which `readable` shortens.

    Args:
        message: The parser's.
        known: Options that could have been meant.
    """

    def __init__(self, message: str, known: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.known = known


def find_config(name: str) -> Path:
    """The config file of this name: a path, or a name in `configs` of the working folder or among the shipped ones.

    Raises:
        ArgumentError: There is none; the message names the nearest.
    """
    for folder in (Path(), Path("configs"), SHIPPED):
        for file in (folder / name, folder / f"{name}.yaml"):
            if file.is_file():
                return file
    shipped = sorted(str(path.relative_to(SHIPPED).with_suffix("")) for path in SHIPPED.rglob("*.yaml"))
    near = difflib.get_close_matches(name.removesuffix(".yaml"), shipped, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(near)}?" if near else f"Shipped: {', '.join(shipped)}."
    raise ArgumentError(f"There is no config {name!r} in {Path.cwd()} or among the shipped ones. {hint}")


def option(arguments: list[str], name: str) -> str | None:
    """The last value typed for an option, as `--name value` or `--name=value`; None where it was not typed."""
    value = None
    for index, argument in enumerate(arguments):
        if argument == name and index + 1 < len(arguments):
            value = arguments[index + 1]
        elif argument.startswith(f"{name}="):
            value = argument.split("=", 1)[1]
    return value


def expanded(arguments: list[str]) -> list[str]:
    """Arguments with each `--config` as a file's path, and with the run's own config first for a checkpoint.

    Args:
        arguments: The subcommand and what follows it.

    Raises:
        ArgumentError: A config or checkpoint is not there.
    """
    command, *rest = arguments
    result: list[str] = []
    for index, argument in enumerate(rest):
        if index and rest[index - 1] in ("--config", "-c"):
            result.append(str(find_config(argument)))
        elif argument.startswith("--config="):
            result.append(f"--config={find_config(argument.split('=', 1)[1])}")
        else:
            result.append(argument)
    if command in FROM_CHECKPOINT and not {"--help", "-h"} & set(rest):
        checkpoint = option(rest, "--ckpt_path")
        if checkpoint is None:
            raise ArgumentError(f"{command} wants a trained network: --ckpt_path runs/…/checkpoints/best.ckpt.")
        result = ["--config", yaml.safe_dump(run_config(Path(checkpoint))), *result]
    return [command, *result]


def run_folder(checkpoint: Path) -> Path:
    """The folder of the run that wrote a checkpoint."""
    folder = checkpoint.absolute().parent
    return folder.parent if folder.name == "checkpoints" else folder


def run_config(checkpoint: Path) -> dict[str, Any]:
    """What a run's config says of model and data: the `config.yaml` beside its checkpoint, or the copy inside.

    Raises:
        ArgumentError: There is no such file, it is no checkpoint, or its config cannot be found.
    """
    import torch

    if not checkpoint.is_file():
        folders = (run_folder(checkpoint), checkpoint.parent, checkpoint)
        found = sorted({str(path) for folder in folders for name in (".", "checkpoints")
                        for path in (folder / name).glob("*.ckpt")})  # fmt: skip
        hint = f" Found: {', '.join(found)}." if found else ""
        raise ArgumentError(f"There is no checkpoint file {checkpoint}.{hint}")
    beside = run_folder(checkpoint) / "config.yaml"
    if beside.is_file():
        text = beside.read_text()
    else:
        try:
            text = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True).get("config", "")
        except Exception as error:
            raise ArgumentError(f"{checkpoint} is not a checkpoint of belvedere: {error}") from error
    config = yaml.safe_load(text) or {}
    if not {"model", "data"} <= config.keys():
        raise ArgumentError(
            f"No config of the run lies beside {checkpoint} or in it. Give the run's own: --config FILE."
        )
    remembered = {key: config[key] for key in REMEMBERED if key in config}
    remembered["trainer"] = {"callbacks": config.get("trainer", {}).get("callbacks")}
    return remembered


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
    unknown = re.search(r"Option '([\w.]+)'|unknown option --([\w.]+)", reason)
    typed = ".".join([*keys, unknown[1] or unknown[2]] if unknown else keys)
    hint = nearest(f"--{typed}", error.known) if unknown else ""
    if unknown or not typed:
        return reason if not unknown else f"there is no option --{typed}.{hint}"
    return f"--{typed}: {reason}"
