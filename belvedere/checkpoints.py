"""What a checkpoint remembers of its run, whether it can be used, and where a command writes."""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from ops.errors import ArgumentError

REMEMBERED = ("seed_everything", "monitor", "model", "data")  # what a run's config says about more than the run itself
STATES = ("preempted.ckpt", "last.ckpt")  # what a run goes on from


def run_folder(checkpoint: Path) -> Path:
    """The folder of the run that wrote a checkpoint."""
    folder = checkpoint.absolute().parent
    return folder.parent if folder.name == "checkpoints" else folder


def output_folder(command: str, word: str, config: Any) -> Path:
    """Where a command writes; processes that are started later by this one find the same."""
    if config.output is not None:
        return Path(config.output).absolute()
    checkpoint = config.get("ckpt_path")
    if checkpoint is not None:
        run = run_folder(Path(checkpoint))
        pictures = config.data.init_args.get("pictures") if command in ("predict", "features") else None
        part = (
            f"{command}-{Path(pictures).stem}" if pictures else command
        )  # beside the prediction of the data set's own
        return run if command == "fit" else run / part
    job = os.environ.get("SLURM_JOB_ID")
    name = f"job-{job}" if job else time.strftime("%Y-%m-%d_%H-%M-%S")
    name = os.environ.setdefault("BELVEDERE_RUN", name if command == "fit" else f"{command}-{name}")
    return (Path("runs") / word / name).absolute()


def resumed_from(folder: Path, config: Any) -> str | None:
    """The whole state of most steps in a run's own folder, for `--resume auto`; None where there is none.

    Broken ones are named.

    Raises:
        ArgumentError: A checkpoint was named too, or no folder.
    """
    if config.ckpt_path is not None:
        raise ArgumentError("--resume auto chooses the checkpoint by itself: leave --ckpt_path out.")
    if config.output is None and "SLURM_JOB_ID" not in os.environ:
        raise ArgumentError("--resume auto looks into the run's own folder: give it with --output.")
    found: dict[str, int] = {}
    for path in states(folder):
        try:
            found[str(path)] = int(read_checkpoint(path)["global_step"])  # copies of folders have other times
        except ArgumentError as error:
            print(f"belvedere: {error} It is passed over.", file=sys.stderr)
    return max(found, key=lambda path: found[path], default=None)


def states(folder: Path) -> list[Path]:
    """What lies in a run's folder to go on from; of equally many steps the first is meant."""
    return [path for path in (folder / "checkpoints" / name for name in STATES) if path.is_file()]


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint, its tensors mapped from the file.

    Raises:
        ArgumentError: There is no such file (the message names those that are near), or it is no checkpoint.
    """
    import torch

    if not path.is_file():
        folders = (run_folder(path), path.parent, path)
        found = sorted({str(file.resolve()) for folder in folders for name in (".", "checkpoints")
                        for file in (folder / name).glob("[!.]*.ckpt")})  # fmt: skip
        hint = f" Found: {', '.join(found)}." if found else ""
        raise ArgumentError(f"There is no checkpoint file {path}.{hint}")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # whatever a broken file makes the unpickler raise
        raise ArgumentError(f"{path} is not a checkpoint of belvedere, or is truncated.") from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise ArgumentError(f"{path} is not a checkpoint of belvedere: it holds no state_dict.")
    return checkpoint


def run_config(path: Path) -> dict[str, Any]:
    """What a run's config says of model and data: the `config.yaml` beside its checkpoint, or the copy inside.

    Raises:
        ArgumentError: There is no such file, it is no checkpoint, or its config cannot be found.
    """
    checkpoint = read_checkpoint(path)
    beside = run_folder(path) / "config.yaml"
    config = yaml.safe_load(beside.read_text() if beside.is_file() else checkpoint.get("config", "")) or {}
    if not {"model", "data"} <= config.keys():
        raise ArgumentError(f"No config of the run lies beside {path} or in it. Give the run's own: --config FILE.")
    remembered = {key: config[key] for key in REMEMBERED if key in config}
    remembered["trainer"] = {"callbacks": config.get("trainer", {}).get("callbacks")}
    return remembered


def check_fit(path: Path, wanted: dict[str, Any], optional: Sequence[str] = ()) -> None:
    """Checks that a checkpoint's weights are those of a network.

    Args:
        path: The checkpoint.
        wanted: The network's own state dict.
        optional: Keys that checkpoints of earlier versions lack.

    Raises:
        ArgumentError: They are not: the network was changed on the command line or in the config.
    """
    weights = read_checkpoint(path)["state_dict"]
    odd = [key for key in weights.keys() | (wanted.keys() - {*optional})
           if key not in weights or key not in wanted or weights[key].shape != wanted[key].shape]  # fmt: skip
    if odd:
        raise ArgumentError(
            f"{path} holds the weights of another network: {len(odd)} of its tensors do not fit, the first is "
            f"{min(odd)!r}. Leave architecture, encoder and classes as the checkpoint remembers them."
        )
