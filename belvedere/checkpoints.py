"""Reads checkpoints and their run's settings, checks that they fit a network, and chooses where a command writes."""

import hashlib
import os
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from belvedere.files import SOURCE, check_found, images_of, is_package, run_folder
from belvedere.names import renamed
from belvedere.trust import check_trusted
from callbacks.loggers import BOARD
from callbacks.record import FINGERPRINT
from callbacks.resuming import OPTIMIZER
from datamodules.base import ImageDataModule
from datamodules.read.cache import cache_folder
from ops.atomic import replacing
from ops.errors import ArgumentError
from ops.files import locks
from ops.files.names import safe_name
from ops.files.yamls import read_yaml

# Keys of a run's config that its checkpoint passes on; the others concern that run alone.
REMEMBERED = ("seed_everything", "monitor", "model", "data")
STATES = ("preempted.ckpt", "last.ckpt")  # checkpoints that resume a run


def output_folder(command: str, task: str, config: Any) -> Path:
    """Returns the folder that a command writes to; processes that this one starts later get the same.

    Predictions and vectors of other images are replaced with `--overwrite` only.

    Raises:
        ArgumentError: The folder of `--output` holds those of other images.
    """
    source = source_of(command, config)
    if config.output is not None:
        folder = Path(config.output).absolute()
        other = _other_source(folder, source)
        if other and not config.overwrite:
            raise ArgumentError(
                f"{folder} holds results of {other}, not of {source}. Choose another --output, or add --overwrite to "
                "replace them."
            )
        return folder
    checkpoint = config.get("ckpt_path")
    if checkpoint is not None:
        package = opened_name(Path(checkpoint))  # the results of a package do not go into the cache
        run = Path("runs", task, package).absolute() if package else run_folder(Path(checkpoint))
        if source is None:
            return run if command == "fit" else run / command
        # the user's own images get a folder beside that of the dataset's
        own = config.data.init_args.get("pictures") is not None
        name = source.name if source.is_dir() else source.stem
        # colors that hints or a reference change stand beside the automatic ones
        helped = "".join(f"-{each}" for each in ("hints", "reference") if config.data.init_args.get(each) is not None)
        folder = run / ((safe_name(f"{command}-{name}") if own else command) + helped)
        unknown = own and not (folder / SOURCE).is_file() and bool(_contents(folder))
        if (unknown or _other_source(folder, source)) and not config.overwrite:
            folder = run / safe_name(f"{folder.name}-{hashlib.sha256(os.fsencode(source)).hexdigest()[:8]}")
        return folder
    job = os.environ.get("SLURM_JOB_ID")
    name = f"job-{job}" if job else time.strftime("%Y-%m-%d_%H-%M-%S")
    name = os.environ.setdefault("BELVEDERE_RUN", name if command == "fit" else f"{command}-{name}")
    return (Path("runs") / task / name).absolute()


def source_of(command: str, config: Any) -> Path | None:
    """Returns the folder or file whose images a command looks at; None for other commands."""
    if command not in ("predict", "features", "suggest"):
        return None
    arguments = config.data.init_args
    given = arguments.get("pictures") or arguments.get("root")
    return None if given is None else Path(os.path.abspath(Path(given).expanduser()))


def packages_folder() -> Path:
    """Returns the folder of the checkpoints of opened packages, see `belvedere.sharing.packed`, in the cache."""
    return cache_folder().absolute() / "packages"


def opened_name(checkpoint: Path) -> str:
    """Returns the name of the opened package whose checkpoint this is; "" for a checkpoint of a run."""
    run = run_folder(checkpoint)
    return run.name if run.parent == packages_folder() else ""


def write_source(folder: Path, source: Path | None) -> None:
    """Writes down of which images the results in a folder are."""
    if source is not None and folder.is_dir():
        with replacing(folder / SOURCE) as temporary:
            temporary.write_bytes(os.fsencode(source) + b"\n")


def check_replaceable(folder: Path, names: Iterable[str]) -> None:
    """Checks that results would not replace folders of the user.

    Args:
        folder: Where results go.
        names: The folders that they replace.

    Raises:
        ArgumentError: One is there, and no results of belvedere are in `folder`.
    """
    if (folder / SOURCE).is_file():
        return
    for path in (folder / name for name in names):
        if path.is_dir() and any(path.iterdir()):
            raise ArgumentError(
                f"{path} is not a result of belvedere, as far as is known, and would be replaced. Choose another "
                "--output, or add --overwrite."
            )


def _other_source(folder: Path, source: Path | None) -> str:
    """Returns the source of the results in a folder if it is another one, otherwise an empty text."""
    found = images_of(folder)
    return "" if source is None or found in (None, source) else str(found)


def _contents(folder: Path) -> set[str]:
    """Returns the names in a folder, without the leftovers of a prediction that was killed."""
    return set(os.listdir(folder)) - {"part", locks.NAME} if folder.is_dir() else set()


def resumed_from(folder: Path, config: Any) -> str | None:
    """Returns the checkpoint with the most steps in a run's folder, for `--resume auto`; None if there is none.

    Broken checkpoints are reported and skipped.

    Raises:
        ArgumentError: A checkpoint was also given, or no folder.
    """
    if config.ckpt_path is not None:
        raise ArgumentError("--resume auto finds the checkpoint itself: remove --ckpt_path.")
    if config.output is None and "SLURM_JOB_ID" not in os.environ:
        raise ArgumentError("--resume auto needs the run's folder: add --output FOLDER.")
    found: dict[str, int] = {}
    for path in states(folder):
        try:
            found[str(path)] = int(read_checkpoint(path)["global_step"])  # copying a folder changes file times
        except ArgumentError as error:
            print(f"belvedere: {error} Skipped.", file=sys.stderr)
    return max(found, key=lambda path: found[path], default=None)


def states(folder: Path) -> list[Path]:
    """Returns the checkpoints in a run's folder that can resume it; if two have as many steps, the first counts."""
    return [path for path in (folder / "checkpoints" / name for name in STATES) if path.is_file()]


def remove_records(folder: Path) -> None:
    """Removes what an earlier run in a folder has logged and drawn, and a new one would add to."""
    for inner, pattern in ((BOARD, "events.out.tfevents.*"), (BOARD, "hparams.yaml"), ("panels", "epoch_*.png")):
        for path in (folder / inner).glob(pattern):
            path.unlink()


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint; its tensors are mapped from the file.

    Raises:
        ArgumentError: The file is missing (the message lists those found nearby) or is not a checkpoint.
    """
    import torch

    check_found(path)
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except PermissionError as error:
        raise ArgumentError(f"{path} cannot be read: {error.strerror}.") from error
    except Exception as error:  # a broken file can make the unpickler raise anything
        hint = f" It is a package: try `predict` or `test` with --model {path}." if is_package(path) else ""
        raise ArgumentError(f"{path} is not a checkpoint of belvedere, or is truncated.{hint}") from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise ArgumentError(f"{path} is not a checkpoint of belvedere: it has no state_dict.")
    return checkpoint


def run_config(path: Path, trust: bool = False) -> dict[str, Any]:
    """Returns the model and data settings of a checkpoint's run, from `config.yaml` beside it or the copy inside.

    Augmentations are left out: they act in training only. A fitted scale of rasters replaces `percentiles`.

    Args:
        path: The checkpoint.
        trust: Whether the config may name any class; see `belvedere.trust`.

    Raises:
        ArgumentError: The file is missing, is not a checkpoint, has no config, or one that is not trusted.
    """
    checkpoint = read_checkpoint(path)
    beside = run_folder(path) / "config.yaml"
    source = beside if beside.is_file() else path
    advice = f"Remove {beside} to use the copy in {path.name}" if beside.is_file() else "Use another checkpoint"
    try:
        text = beside.read_text(encoding="utf-8") if beside.is_file() else str(checkpoint.get("config", ""))
    except (OSError, UnicodeDecodeError) as error:
        raise ArgumentError(f"The config in {source} cannot be read: {error}. {advice}.") from error
    if not text and not beside.is_file():
        raise ArgumentError(
            f"Found no config of the run beside {path} or inside it. Give the run's config: --config FILE."
        )
    config = checked_config(text, source, advice, trust)
    data = config["data"] if isinstance(config["data"], dict) else {}
    fitted = checkpoint.get(str(data.get("class_path")).rpartition(".")[2])  # what the data module has stored
    if isinstance(fitted, dict) and "scale" in fitted:
        data["init_args"]["scale"] = [list(pair) for pair in fitted["scale"]]
    return config


def trained_precision(path: Path) -> str | None:
    """Returns `trainer.precision` of a checkpoint's run; None if its config does not say.

    Raises:
        ArgumentError: The file is missing, is not a checkpoint, or its config is damaged.
    """
    beside = run_folder(path) / "config.yaml"
    text = beside.read_text(encoding="utf-8") if beside.is_file() else str(read_checkpoint(path).get("config", ""))
    config = read_yaml(text, f"The config in {beside if beside.is_file() else path}")
    trainer = config.get("trainer") if isinstance(config, dict) else None
    found = trainer.get("precision") if isinstance(trainer, dict) else None
    return None if found is None else str(found)


def checked_config(text: str, source: Path, advice: str, trust: bool = False) -> dict[str, Any]:
    """Returns the settings in a run's config that its checkpoint passes on.

    Args:
        text: The config, in YAML.
        source: The file that it is from, for messages.
        advice: What to do if it cannot be used, for messages.
        trust: Whether it may name any class; see `belvedere.trust`.

    Raises:
        ArgumentError: It is no config of a run, or names classes that are not trusted.
    """
    try:
        config = read_yaml(text, f"The config in {source}") or {}
    except ArgumentError as error:
        raise ArgumentError(f"{error} {advice}.") from error
    if not isinstance(config, dict) or not {"model", "data"} <= config.keys():
        raise ArgumentError(f"The config in {source} has no model and no data, so it is of no run. {advice}.")
    trainer = config.get("trainer")
    callbacks = trainer.get("callbacks") if isinstance(trainer, dict) else None
    if not (all(_names_class(config[key]) for key in ("model", "data")) and isinstance(callbacks, list | None)):
        raise ArgumentError(
            f"The config in {source} is damaged: expected model and data with a class_path each, and a list of "
            f"callbacks. {advice}."
        )
    remembered = {key: config[key] for key in REMEMBERED if key in config}
    arguments = config["data"].get("init_args") if isinstance(config["data"], dict) else None
    if isinstance(arguments, dict):
        arguments.pop("augmentations", None)
    if not trust:
        check_trusted(remembered | {"callbacks": callbacks}, source)
    found: dict[str, Any] = renamed(remembered | {"trainer": {"callbacks": callbacks}})
    return found


def _names_class(value: Any) -> bool:
    """Returns whether a part of a config is a class, with arguments or without."""
    if isinstance(value, dict):
        arguments = value.get("init_args", {})
        return isinstance(value.get("class_path"), str) and isinstance(arguments, dict | None)
    return isinstance(value, str)


def check_same_data(path: Path, data: ImageDataModule) -> None:
    """Checks that a run is resumed with the data that its checkpoint was trained on, as far as that recorded it.

    Earlier versions did so in `record.json` only, and computed other fingerprints.

    Raises:
        ArgumentError: The data are others; the message names both folders.
    """
    known = read_checkpoint(path).get("callbacks", {}).get("Record", {}).get(FINGERPRINT)
    if known is None:
        return
    data.prepare_data()
    data.setup("fit")
    if data.fingerprint() == known:
        return
    config = run_config(path, trust=True)
    arguments = config["data"].get("init_args") or {} if isinstance(config["data"], dict) else {}
    root = arguments.get("root", "another folder")
    raise ArgumentError(
        f"The run in {run_folder(path)} was trained on the data in {root}, whose fingerprint was {known}; that of "
        f"{data.root} is {data.fingerprint()}. Resume with the data as they were, or train anew with another --output."
    )


def check_resumable(path: Path) -> None:
    """Checks that training can resume from a checkpoint.

    Raises:
        ArgumentError: It holds no state of the optimizer.
    """
    if OPTIMIZER not in read_checkpoint(path):
        raise ArgumentError(
            f"{path} is for use and holds no state of the optimizer, so training cannot resume from it. Resume from "
            "last.ckpt beside it, or start a new run from its encoder: --model.pretrained and this path."
        )


def check_task(path: Path, model: str, data: str) -> None:
    """Checks that a command's config is of the same task as its checkpoint.

    Args:
        path: The checkpoint.
        model: The class path of the task in the config.
        data: The class path of the data module in the config.

    Raises:
        ArgumentError: Both are others than those of the run.
    """
    config = run_config(path, trust=True)  # its classes are compared, not imported
    known = [str(part["class_path"] if isinstance(part, dict) else part).rpartition(".")[2]
             for part in (config["model"], config["data"])]  # fmt: skip
    given = [each.rpartition(".")[2] for each in (model, data)]
    if known[0] != given[0] and known[1] != given[1]:
        raise ArgumentError(
            f"{path} is a checkpoint of {known[0]}, but the config is one of {given[0]}. Leave out --config, or give "
            f"a checkpoint of {given[0]}."
        )


def check_fit(path: Path, expected: dict[str, Any], optional: Sequence[str] = ()) -> None:
    """Checks that a checkpoint's weights are numbers and fit a network.

    Args:
        path: The checkpoint.
        expected: The network's state dict.
        optional: Keys that checkpoints of earlier versions lack.

    Raises:
        ArgumentError: They do not: the command line or the config changed the network, or its training diverged.
    """
    weights = finite_weights(path)
    odd = [key for key in weights.keys() | (expected.keys() - {*optional})
           if key not in weights or key not in expected or weights[key].shape != expected[key].shape]  # fmt: skip
    if odd:
        raise ArgumentError(
            f"{path} holds the weights of another network: {len(odd)} of its tensors do not fit, the first is "
            f"{min(odd)!r}. Leave architecture, encoder and classes as they were in training."
        )


def finite_weights(path: Path) -> dict[str, Any]:
    """Returns the weights of a checkpoint.

    Raises:
        ArgumentError: It cannot be read, or some weights are nan or infinite.
    """
    import torch

    weights: dict[str, Any] = read_checkpoint(path)["state_dict"]
    numbers = {key: value for key, value in weights.items() if isinstance(value, torch.Tensor)}
    broken = [key for key, value in numbers.items() if value.is_floating_point() and not value.isfinite().all()]
    if broken:
        raise ArgumentError(
            f"{path} holds weights that are nan or infinite, the first in {broken[0]!r}: its training diverged. Use "
            "another checkpoint, or train with a lower learning rate."
        )
    return weights
