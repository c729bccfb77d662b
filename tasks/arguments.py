"""What is typed on the command line, made ready for the parser: configs found, a checkpoint's run remembered."""

import difflib
from pathlib import Path

import yaml

from tasks.checkpoints import ArgumentError, run_config

SHIPPED = Path(__file__).parents[1] / "configs"
FROM_CHECKPOINT = ("validate", "test", "predict")


def find_config(name: str) -> Path:
    """The config file of this name: a path, or a name in `configs` of the working folder or among the shipped ones.

    Raises:
        ArgumentError: There is none (the message names the nearest), or it is not YAML.
    """
    for folder in (Path(), Path("configs"), SHIPPED):
        for file in (folder / name, folder / f"{name}.yaml"):
            if file.is_file():
                try:
                    yaml.safe_load(file.read_text())
                except (yaml.YAMLError, UnicodeDecodeError) as error:
                    raise ArgumentError(f"The config {file} is not YAML: {' '.join(str(error).split())}.") from error
                return file
    names = (path.relative_to(SHIPPED).with_suffix("") for path in SHIPPED.rglob("*.yaml"))
    shipped = sorted(str(path) for path in names if path.parts[0] != "studies")  # those are for another command
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
        ArgumentError: A config or checkpoint is not there, or an option is given to the task that the data have.
    """
    command, *rest = arguments
    for name in ("classes", "window"):
        if option(rest, f"--model.{name}") is not None:
            raise ArgumentError(f"--model.{name} follows the data: give --data.{name}.")
    result: list[str] = []
    for index, argument in enumerate(rest):
        if index and rest[index - 1] in ("--config", "-c"):
            result.append(str(find_config(argument)))
        elif argument.startswith("--config="):
            result.append(f"--config={find_config(argument.split('=', 1)[1])}")
        else:
            result.append(argument)
    checkpoint = option(rest, "--ckpt_path")
    known = command in FROM_CHECKPOINT or (command == "features" and checkpoint is not None)
    if known and not {"--help", "-h"} & set(rest):
        if checkpoint is None:
            raise ArgumentError(f"{command} wants a trained network: --ckpt_path runs/…/checkpoints/best.ckpt.")
        result = ["--config", yaml.safe_dump(run_config(Path(checkpoint))), *result]
    return [command, *result]
