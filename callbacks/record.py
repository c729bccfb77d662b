"""What a training took and what it was made of, for whoever compares runs: `record.json`."""

import json
import os
import subprocess
import time
from importlib import metadata
from pathlib import Path
from platform import machine, python_version
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer

from callbacks.best import Summary
from callbacks.handover import UsesData

LIBRARIES = ("torch", "torchvision", "lightning", "torchmetrics", "timm", "segmentation-models-pytorch")
SOURCE = Path(__file__).parents[1]


class Record(UsesData):
    """Writes `record.json` into the run's folder when all of `fit` is over, what is fitted after training too.

    - `best_epoch`: that of `callbacks.best.Summary`; null where there is none
    - `epochs`: how many were trained, in all parts of a run that was resumed
    - `seconds`: wall clock of training with its validation, without what comes before and after. A part that was killed
      counts up to the checkpoint that the run went on from.
    - `peak_bytes`: on CUDA the most memory that tensors took, of the process that took most; on a CPU the most memory
      that the training process had, without loader processes; null where the system does not say
    - `device`: its name; `processes`: how many took part
    - `parameters`: numbers in all parameters of the task's networks, frozen ones too. The extractor of colorization is
      none of them: it is not part of the task.
    - `versions`: of belvedere, with the commit where its source is a git checkout, and `.changed` if it was; of Python
      and of libraries
    - `data_fingerprint`: `datamodules.read.fingerprint`; `pictures`: how many each split has

    The file is there whole or not at all. An earlier one of the same folder goes when training begins.
    """

    def __init__(self) -> None:
        self._seconds, self._peak = 0.0, 0  # of earlier parts
        self._began: float | None = None
        self._device = torch.device("cpu")

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Notes the device; after training the network is on it no longer."""
        self._device = trainer.strategy.root_device

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        if trainer.is_global_zero:
            _path(trainer).unlink(missing_ok=True)
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        self._began = time.monotonic()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops the clock, and asks all processes for their memory."""
        self._seconds, self._began = self._time(), None
        peak = trainer.strategy.reduce(torch.tensor(_peak(self._device), device=self._device), reduce_op="max")
        self._peak = max(self._peak, int(peak))

    def state_dict(self) -> dict[str, Any]:
        """Time and memory so far, for a resumed run."""
        return {"seconds": self._time(), "peak": max(self._peak, _peak(self._device))}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on counting."""
        self._seconds, self._peak = state_dict["seconds"], state_dict["peak"]

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Writes, after the last of `on_fit_end`."""
        if stage != "fit" or not trainer.is_global_zero:
            return
        callbacks: Any = trainer.callbacks  # type: ignore[attr-defined]  # untyped there
        best = (each.best_epoch for each in callbacks if isinstance(each, Summary))
        data = self.data
        record = {
            "best_epoch": next(best, None),
            "epochs": trainer.current_epoch,
            "seconds": round(self._seconds, 3),
            "peak_bytes": self._peak or None,
            "device": _device_name(self._device),
            "processes": trainer.world_size,
            "parameters": sum(each.numel() for each in pl_module.parameters()),
            "versions": versions(),
            "data_fingerprint": None if data is None else data.fingerprint(),
            "pictures": {} if data is None else {split: len(names) for split, names in data.picture_names().items()},
        }
        path = _path(trainer)
        temporary = path.with_name(f".{os.getpid()}-{path.name}")
        temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        temporary.replace(path)

    def _time(self) -> float:
        return self._seconds + (0.0 if self._began is None else time.monotonic() - self._began)


def versions() -> dict[str, str]:
    """Versions of belvedere, Python, and the libraries that are installed, without importing them."""
    found = {"belvedere": _belvedere(), "python": python_version()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _belvedere() -> str:
    try:
        version = metadata.version("belvedere")
    except metadata.PackageNotFoundError:  # run from its source
        version = "unknown"
    commit = git_commit(SOURCE)
    return f"{version}+{commit}" if commit else version


def git_commit(folder: Path) -> str:
    """The commit that is checked out in a folder, with `.changed` if files of it were; "" if it is no checkout's top.

    A checkout above it is another project's: that of a user who has an environment inside of it.
    """
    said = _git(folder, "rev-parse", "--show-toplevel", "HEAD").splitlines()
    if len(said) != 2 or Path(said[0]).resolve() != folder.resolve():
        return ""
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return said[1][:12] + (".changed" if changed else "")


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _peak(device: torch.device) -> int:
    """The most memory that was in use, in bytes; 0 where the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return 1024 * int(_said_by_system("/proc/self/status", "VmHWM").split(" ")[0] or 0)


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return _said_by_system("/proc/cpuinfo", "model name") or machine() if device.type == "cpu" else device.type


def _said_by_system(path: str, key: str) -> str:
    """The first value of this key in a file of Linux; "" elsewhere."""
    file = Path(path)
    lines = file.read_text().splitlines() if file.is_file() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.split(":")[0].strip() == key), "")


def _path(trainer: Trainer) -> Path:
    return Path(trainer.default_root_dir) / "record.json"
