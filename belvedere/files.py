"""Finds the files that a command line names: configs, checkpoints and packages. Imports no library but PyYAML."""

import difflib
import os
import re
from pathlib import Path
from typing import Any

import yaml

from belvedere.names import SHIPPED, renamed
from ops.errors import ArgumentError
from ops.files.yamls import read_yaml

HUB = "hf://"  # with which the address of a package on the Hugging Face Hub begins
DESCRIPTION = "belvedere.json"  # a file of every package
SOURCE = "source.txt"  # in a folder of results: the path of the images that they are of


def is_package(value: str | Path) -> bool:
    """Returns whether this names a package of `belvedere pack`: `hf://user/name`, a zip file, or its folder."""
    path = Path(value).expanduser()
    return str(value).startswith(HUB) or path.suffix.lower() == ".zip" or (path / DESCRIPTION).is_file()


def at_home(argument: str) -> str:
    """Returns an argument with a path that begins with `~/` in full; shells leave `--option=~/path` as it is."""
    prefix = re.match(r"--?[\w.+-]+=", argument)
    name = prefix[0] if prefix else ""
    value = argument.removeprefix(name)
    return name + (os.path.expanduser(value) if re.match(r"~[\w.-]*/", value) else value)


def find_config(name: str) -> Path:
    """Returns the file of a config: a path, or a name in `configs` of the working folder or among the shipped ones.

    Raises:
        ArgumentError: There is none (the message names the nearest), or it is not YAML.
    """
    for folder in (Path(), Path("configs"), SHIPPED):
        for file in (folder / name, folder / f"{name}.yaml"):
            if file.is_file():
                read_config(file)
                return file
    names = (path.relative_to(SHIPPED).with_suffix("") for path in SHIPPED.rglob("*.yaml"))
    shipped = sorted(str(path) for path in names if path.parts[0] != "studies")  # those are for another command
    near = difflib.get_close_matches(name.removesuffix(".yaml"), shipped, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(near)}?" if near else f"Shipped: {', '.join(shipped)}."
    raise ArgumentError(f"There is no config {name!r} in {Path.cwd()} or among the shipped ones. {hint}")


def read_config(path: Path) -> Any:
    """Returns what is in a config.

    Raises:
        ArgumentError: It is not YAML.
    """
    try:
        return read_yaml(path.read_text(encoding="utf-8"), f"The config {path}")
    except UnicodeDecodeError as error:
        raise ArgumentError(f"The config {path} is not UTF-8 text: {error}.") from error


def parsed_as(name: str) -> str:
    """Returns what the parser reads for `--config NAME`: the file's path, or its text if it names moved classes."""
    path = find_config(name)
    config = read_config(path)
    today = renamed(config)
    return str(path) if today == config else str(yaml.safe_dump(today))


def run_folder(checkpoint: Path) -> Path:
    """Returns the folder of the run that wrote a checkpoint."""
    folder = checkpoint.absolute().parent
    return folder.parent if folder.name == "checkpoints" else folder


def check_found(checkpoint: Path) -> None:
    """Checks that a checkpoint is a file.

    Raises:
        ArgumentError: It is not; the message lists the checkpoints found nearby.
    """
    if not checkpoint.is_file():
        folders = (run_folder(checkpoint), checkpoint.parent, checkpoint)
        found = sorted({str(file.resolve()) for folder in folders for name in (".", "checkpoints")
                        for file in (folder / name).glob("[!.]*.ckpt")})  # fmt: skip
        hint = f" Found: {', '.join(found)}." if found else ""
        raise ArgumentError(f"There is no checkpoint file {checkpoint}.{hint}")


def images_of(folder: Path) -> Path | None:
    """Returns the file or folder of the images that results in a folder are of; None if it has no results."""
    if not (folder / SOURCE).is_file():
        return None
    return Path(os.fsdecode((folder / SOURCE).read_bytes().removesuffix(b"\n")))
